"""Records that can never pass, set aside with their reason and coordinates: never in plaintext.

A decrypting pipeline's letter carries the record as it stood on the topic, sealed; one that was refused as plaintext
leaves its coordinates only. An encrypting pipeline's letter is sealed first, under the dead-letter topic's own context.

A letter is as old as its writing: with its record's timestamp, retention would delete the letter of an old record at
once. The record's own stands in a header, and a replay gives it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from streamcrypt.encryptor import LANE_UNKNOWN, HeaderList, TopicSealer
from streamcrypt.envelope.header import OUR_HEADERS
from streamcrypt.errors import EnvelopeError, PlaintextRejected, StreamcryptError

__all__ = ["LETTER_BOUND", "DeadLetters", "Letter", "MalformedLetter", "Origin", "without_our_headers"]

_PREFIX = "streamcrypt-dlq-"
# Our own headers of the record itself, put by under another name: the letter needs the real ones for its own envelope.
_ORIGINAL = _PREFIX + "original-"
_REASON_CHARACTERS = 500
_NO_SUCH_TIMESTAMP = 2**63

LETTER_BOUND = (
    "key",
    *(f"header:{_PREFIX}{name}" for name in ("offset", "partition", "pipeline", "timestamp", "topic")),
)
"""What a sealed letter binds: nobody can have it replayed to where it does not belong."""

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a letter says that it comes from. Anyone who may write to the dead-letter topic can forge it.

    Attributes:
        pipeline: The pipeline that set the record aside.
        topic: The source topic.
        partition: The source partition.
        offset: The record's offset there.
        kind: The error's class, such as ``AuthenticationFailed``.
        reason: Its text.
        timestamp: The record's own, in milliseconds since 1970; 0 where it had none.
    """

    pipeline: str
    topic: str
    partition: int
    offset: int
    kind: str
    reason: str
    timestamp: int = 0

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes | None]]) -> Origin:
        """Read the origin from a letter's headers.

        Raises:
            MalformedLetter: A header is missing, twice there, or not what it should be.
        """
        found: dict[str, str] = {}
        try:
            for name, value in headers:
                if name.startswith(_PREFIX) and not name.startswith(_ORIGINAL):
                    short = name.removeprefix(_PREFIX)
                    if short in found or value is None:
                        raise MalformedLetter(f"the letter has no single {name}")
                    found[short] = value.decode()
            return cls(
                found["pipeline"],
                found["topic"],
                int(found["partition"]),
                int(found["offset"]),
                found["class"],
                found["reason"],
                _milliseconds(found.get("timestamp", "0")),
            )
        except (KeyError, ValueError):
            raise MalformedLetter("the letter's headers do not tell where it comes from") from None


def _milliseconds(text: str) -> int:
    if not text.isdecimal() or int(text) >= _NO_SUCH_TIMESTAMP:
        raise ValueError
    return int(text)


class MalformedLetter(EnvelopeError):
    """A record on a dead-letter topic is no letter of ours."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it is written.

    Attributes:
        value: Sealed bytes, or None where nothing but coordinates may be left.
        headers: The record's own, then the reason and coordinates.
    """

    value: bytes | None
    headers: HeaderList


class DeadLetters:
    """Writes the letters of one pipeline.

    Args:
        pipeline: Its name.
        topic: The dead-letter topic.
        sealer: Seals letters, for a pipeline whose input is plaintext; None where the input is sealed already.
    """

    def __init__(self, pipeline: str, topic: str, sealer: TopicSealer | None) -> None:
        self._pipeline = pipeline
        self.topic = topic
        self._sealer = sealer

    def letter(
        self,
        place: Place,
        offset: int,
        record: tuple[bytes | None, bytes | None, HeaderList | None],
        timestamp: int,
        error: StreamcryptError,
    ) -> Letter:
        """Make the letter for one record.

        Args:
            place: Topic and partition that it was read from.
            offset: Its offset there.
            record: Its value, key and headers.
            timestamp: Its own, in milliseconds since 1970; 0 where it has none.
            error: Why it cannot pass.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: The letter has to be sealed and no data key is at hand.
        """
        value, key, headers = record
        about = self._about(place, offset, timestamp, error)
        own = [pair for pair in headers or () if not pair[0].startswith(_PREFIX)]
        if self._sealer is None:
            # What was refused for want of an envelope may be anybody's plaintext.
            return Letter(None if isinstance(error, PlaintextRejected) else value, [*own, *about])
        put_by = [(_ORIGINAL + name if name in OUR_HEADERS else name, content) for name, content in own]
        if value is None:
            # With proof: a replay would pass on anybody's deletion otherwise.
            return Letter(None, self._sealer.seal_tombstone(key, [*put_by, *about], LANE_UNKNOWN) or [])
        sealed, sent = self._sealer.seal_anything(value, key, [*put_by, *about], LANE_UNKNOWN)
        return Letter(sealed, sent)

    def _about(self, place: Place, offset: int, timestamp: int, error: StreamcryptError) -> HeaderList:
        # ISO 8601 of the form that readers of JavaScript and Java know best.
        now = f"{datetime.now(UTC).isoformat(timespec='milliseconds')[:-6]}Z"
        about: HeaderList = [
            (f"{_PREFIX}reason", str(error)[:_REASON_CHARACTERS].encode()),
            (f"{_PREFIX}class", type(error).__name__.encode()),
            (f"{_PREFIX}topic", place[0].encode()),
            (f"{_PREFIX}partition", b"%d" % place[1]),
            (f"{_PREFIX}offset", b"%d" % offset),
            (f"{_PREFIX}time", now.encode()),
            (f"{_PREFIX}pipeline", self._pipeline.encode()),
        ]
        if timestamp:
            about.append((f"{_PREFIX}timestamp", b"%d" % timestamp))
        return about


def without_our_headers(headers: Sequence[tuple[str, bytes | None]]) -> HeaderList:
    """Give a letter's headers as the record had them."""
    return [
        (name.removeprefix(_ORIGINAL), value)
        for name, value in headers
        if name.startswith(_ORIGINAL) or not name.startswith(_PREFIX)
    ]
