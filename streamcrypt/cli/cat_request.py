"""What ``streamcrypt cat`` is asked: formats, and places to begin and to end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from streamcrypt.errors import ConfigError

__all__ = ["CatRequest", "Format", "SchemaFile", "Spot", "SpotKind", "read_spot"]

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SCHEMA = re.compile(r"(?:([0-9]{1,9})=)?(.+)", re.ASCII | re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[ntr0\\])")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"\\": b"\\"}
_PLACES = "Write earliest, latest, an offset, -N for the last N records, or an instant such as 2030-01-31T22:00:00Z."


class Format(StrEnum):
    """How records are written."""

    TEXT = "text"
    """For people: a line of coordinates, then the value. The default on a terminal."""
    RAW = "raw"
    """The bytes of the values, each with a delimiter behind it. The default elsewhere."""
    JSON = "json"
    """An object a line."""
    AVRO = "avro"
    """As JSON, the value decoded with a schema."""


class SpotKind(StrEnum):
    """What a place in a partition is named by."""

    EARLIEST = "earliest"
    LATEST = "latest"
    LAST = "last"
    OFFSET = "offset"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in each partition.

    Attributes:
        kind: What it is named by.
        number: The offset; or how many records before the end; or milliseconds since 1970.
    """

    kind: SpotKind
    number: int = 0


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """An Avro schema to read values with.

    Attributes:
        path: A file with the schema as JSON.
        number: Its id in the prefix of Confluent's serializers; None: whatever the prefix says, or none.
    """

    path: Path
    number: int | None = None


@dataclass(frozen=True, slots=True)
class CatRequest:
    """What is asked.

    Attributes:
        topic: The topic.
        start: Where each partition begins.
        end: Where each partition ends, before that place; None: at the end that it has now.
        follow: Go on behind the end, until told to stop.
        count: The most records in all; None: as many as there are.
        partitions: These alone; none means all.
        form: How records are written.
        envelope: Show what the envelopes say.
        opens: Open records; False: no key is asked for, and no value is shown that was sealed.
        delimiter: Stands behind each value in the raw format.
        schemas: For the Avro format.
        fail_fast: End at the first record that cannot be opened.
        allow_plaintext: Take a record without an envelope where there should be one, too.
    """

    topic: str
    start: Spot = Spot(SpotKind.EARLIEST)
    end: Spot | None = None
    follow: bool = False
    count: int | None = None
    partitions: tuple[int, ...] = ()
    form: Format = Format.RAW
    envelope: bool = False
    opens: bool = True
    delimiter: bytes = b"\n"
    schemas: tuple[SchemaFile, ...] = ()
    fail_fast: bool = False
    allow_plaintext: bool = False

    @classmethod
    def read(
        cls,
        topic: str,
        *,
        terminal: bool,
        follow: bool = False,
        start: str | None = None,
        end: str | None = None,
        count: int | None = None,
        partitions: Sequence[int] = (),
        form: str | None = None,
        envelope: bool = False,
        no_open: bool = False,
        delimiter: str = r"\n",
        schemas: Sequence[str] = (),
        fail_fast: bool = False,
        allow_plaintext: bool = False,
    ) -> CatRequest:
        r"""Take the options of the command line.

        Args:
            topic: The topic.
            terminal: Whether standard output is a terminal.
            follow: ``--follow``; begins at the end unless ``start`` says otherwise.
            start: ``--from``.
            end: ``--to``.
            count: ``--count``.
            partitions: ``--partition``.
            form: ``--format``; by default text on a terminal, else raw, or JSON where raw has no room.
            envelope: ``--envelope``.
            no_open: ``--no-open``, which shows what the envelopes say.
            delimiter: ``--delimiter``, with escapes such as ``\n``, ``\0`` and ``\x1e``.
            schemas: ``--schema``.
            fail_fast: ``--fail-fast``.
            allow_plaintext: ``--allow-plaintext``.

        Raises:
            ConfigError: One of them cannot be, or two do not go together.
        """
        if follow and end is not None:
            raise ConfigError("--follow goes on behind the end, and --to ends before: pass one of them")
        if count is not None and count < 1:
            raise ConfigError("--count is not above zero")
        if any(number < 0 for number in partitions):
            raise ConfigError("--partition is the number of a partition, from 0")
        ends = None if end is None else read_spot(end, "--to")
        if ends is not None and ends.kind is SpotKind.LAST:
            raise ConfigError("--to takes no number of records from the end", remedy=_PLACES)
        facts = envelope or no_open
        chosen = _format(form, terminal=terminal, facts=facts)
        if chosen is Format.RAW and facts:
            raise ConfigError(
                "--format raw has no room for what the envelopes say", remedy="Pass --format json, or text."
            )
        if (chosen is Format.AVRO) != bool(schemas):
            raise ConfigError("--format avro and --schema FILE go together", remedy="Pass both, or neither.")
        if chosen is Format.AVRO and no_open:
            raise ConfigError("--no-open opens no value that a schema could read", remedy="Pass --format json.")
        begins = start or ("latest" if follow else "earliest")
        return cls(
            topic,
            read_spot(begins, "--from"),
            ends,
            follow,
            count,
            tuple(sorted(set(partitions))),
            chosen,
            facts,
            not no_open,
            _delimiter(delimiter),
            tuple(map(_schema, schemas)),
            fail_fast,
            allow_plaintext,
        )


def _format(form: str | None, *, terminal: bool, facts: bool) -> Format:
    if form is None:
        if terminal:
            return Format.TEXT
        return Format.JSON if facts else Format.RAW
    if form not in set(Format):
        raise ConfigError(f"--format is one of {', '.join(Format)}, not {form!r}")
    return Format(form)


def read_spot(text: str, option: str) -> Spot:
    """Read a place: ``earliest``, ``latest``, an offset, ``-N``, or an instant of RFC 3339 with its offset from UTC.

    Args:
        text: As given.
        option: The option, for messages.

    Raises:
        ConfigError: It is none of them.
    """
    if text in {SpotKind.EARLIEST, SpotKind.LATEST}:
        return Spot(SpotKind(text))
    if _NUMBER.fullmatch(text):
        return Spot(SpotKind.OFFSET, int(text))
    if text.startswith("-") and _NUMBER.fullmatch(text[1:]) and int(text[1:]):
        return Spot(SpotKind.LAST, int(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r} is no place in a topic", remedy=_PLACES) from None
    if moment.tzinfo is None:
        raise ConfigError(f"{option} {text!r} does not say how far from UTC it is", remedy=_PLACES)
    return Spot(SpotKind.TIME, max(0, int(moment.timestamp() * 1000)))


def _delimiter(text: str) -> bytes:
    def escaped(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes.fromhex(code[1:].decode()) if code.startswith(b"x") else _ESCAPES[code]

    return _ESCAPE.sub(escaped, text.encode())


def _schema(text: str) -> SchemaFile:
    found = _SCHEMA.fullmatch(text)
    if found is None:
        raise ConfigError("--schema names no file", remedy="Write --schema FILE, or ID=FILE.")
    return SchemaFile(Path(found[2]), None if found[1] is None else int(found[1]))
