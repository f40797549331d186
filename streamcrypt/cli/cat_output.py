"""Records as bytes for standard output. Whatever a record holds, a terminal is not commanded by it.

Rule 1: on a terminal no control character of a record's content arrives, and none that turns text around or hides it.
Rule 2: elsewhere the raw format is the values' own bytes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from streamcrypt.audit.report import rfc3339
from streamcrypt.cli.cat_avro import AvroReader, NotAvro
from streamcrypt.cli.cat_records import Kind, ShownRecord
from streamcrypt.cli.cat_request import CatRequest, Format
from streamcrypt.errors import StreamcryptError

__all__ = ["Printer", "harmless"]

_INDENT = "    "


class Printer:
    """Writes records the way that was asked for.

    Args:
        request: What is asked.
        terminal: Whether it goes to a terminal.

    Raises:
        ConfigError: A schema cannot be read.
    """

    def __init__(self, request: CatRequest, *, terminal: bool) -> None:
        self._form = request.form
        self._envelope = request.envelope
        self._delimiter = request.delimiter
        self._terminal = terminal
        self._avro = AvroReader(request.schemas) if request.form is Format.AVRO else None

    def render(self, record: ShownRecord) -> tuple[bytes, StreamcryptError | None]:
        """Give what is written for a record, and why it is not shown as asked; None where it is."""
        if self._form is Format.RAW:
            return (b"" if record.failure else self._raw(record)), record.failure
        if self._form is Format.TEXT:
            return self._text(record).encode(), record.failure
        tree, failure = self._tree(record), record.failure
        if self._avro is not None and record.value is not None and failure is None:
            try:
                tree["value"] = self._avro.read(record.value)
            except NotAvro as error:
                failure = error
        if failure is not None:
            tree["failure"] = {"error": type(failure).__name__, "reason": str(failure), "remedy": failure.remedy}
        # ASCII alone, so that the same line is safe on a terminal.
        return json.dumps(tree, allow_nan=False).encode() + b"\n", failure

    @property
    def is_silent_on_failure(self) -> bool:
        """Whether a failure has no place in what is written."""
        return self._form is Format.RAW

    def _raw(self, record: ShownRecord) -> bytes:
        value = record.value or b""
        if self._terminal:
            value = harmless(value, keep="\n\t").encode()
        return value + self._delimiter

    def _tree(self, record: ShownRecord) -> dict[str, Any]:
        tree: dict[str, Any] = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": rfc3339(record.timestamp),
            "kind": str(record.kind),
            "opened": record.opened,
            "key": _as_json(record.key),
            "headers": [[name, _as_json(value)] for name, value in record.headers],
            "value": _as_json(record.value),
        }
        if self._envelope:
            tree["envelope"] = None if record.envelope is None else record.envelope.as_tree()
        return tree

    def _text(self, record: ShownRecord) -> str:
        parts = [record.place, rfc3339(record.timestamp) or "no time", _state(record)]
        if record.key is not None:
            parts.append(f"key={harmless(record.key)}")
        lines = ["  ".join(parts)]
        if record.headers:
            shown = [f"{harmless(name)}={'null' if v is None else harmless(v)}" for name, v in record.headers]
            lines.append(f"{_INDENT}headers: {', '.join(shown)}")
        if self._envelope and record.envelope is not None:
            lines += [f"{_INDENT}{name}: {harmless(text)}" for name, text in _facts(record)]
        if record.failure is not None:
            failure = record.failure
            lines.append(f"{_INDENT}FAILED: {type(failure).__name__}: {harmless(str(failure))}")
            lines += [f"{_INDENT}{harmless(failure.remedy)}"] if failure.remedy else []
        if record.value is not None:
            lines.append(f"{_INDENT}{harmless(record.value)}")
        return "\n".join(lines) + "\n"


def _state(record: ShownRecord) -> str:
    if record.kind in {Kind.SEALED, Kind.TOMBSTONE}:
        proof = {Kind.SEALED: ("sealed", "sealed, opened"), Kind.TOMBSTONE: ("tombstone", "tombstone, authenticated")}
        return proof[record.kind][record.opened]
    return "plaintext, never sealed" if record.kind is Kind.PLAINTEXT else str(record.kind)


def _facts(record: ShownRecord) -> list[tuple[str, str]]:
    facts = record.envelope
    assert facts is not None
    header = facts.header
    lane = "unknown" if facts.lane is None else str(facts.lane)
    return [
        ("data key", facts.data_key),
        *(("KEK", f"{key.provider} {key.key_id}") for key in header.keys),
        ("context", ", ".join(f"{name}={value}" for name, value in header.context)),
        ("bound", ", ".join(header.bound) or "nothing"),
        ("suite", f"{header.suite}, lane {lane}, sequence {facts.sequence}"),
        ("framing", f"{facts.framing}, {len(facts.header_bytes)} bytes"),
    ]


def _as_json(data: bytes | None) -> str | dict[str, str] | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def harmless(content: bytes | str, keep: str = "") -> str:
    r"""Write content so that it cannot command a terminal, nor look like more than one line.

    What is not printable (control characters, marks of direction, zero-width ones, bytes that are no UTF-8) is written
    as an escape such as ``\x1b``.

    Args:
        content: A value, key, header or text made of them.
        keep: Characters that are kept.
    """
    text = content.decode("utf-8", "backslashreplace") if isinstance(content, bytes) else content
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if code <= 0xFF:  # noqa: PLR2004  two digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  four digits


_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
