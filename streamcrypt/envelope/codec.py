"""Header model to canonical bytes and back: Avro single-object encoding. spec: 3.1, 3.5, 11.1

The only importer of ``fastavro``. fastavro by itself accepts overlong varints, negative block counts, trailing
bytes and duplicate entries; re-encoding what was parsed and comparing the bytes closes all of them at once. It also
makes an object of every item that 8 KiB can claim, so lists are counted before it sees them.
"""

from __future__ import annotations

import base64
import binascii
import json
from io import BytesIO
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer

from streamcrypt.crypto.data_key import COMMITMENT_BYTES
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.header import (
    MAX_BOUND,
    MAX_CONTEXT_PAIRS,
    MAX_HEADER_BYTES,
    MAX_KEYS,
    Content,
    EncryptedDataKey,
    EnvelopeHeader,
)
from streamcrypt.errors import EnvelopeError, MalformedEnvelope, MangledEnvelope, UnsupportedVersion

__all__ = ["SCHEMA", "SINGLE_OBJECT_PREFIX", "decode_header", "derivation_info", "encode_header"]

_SUITE = {"type": "enum", "name": "Suite", "symbols": [s.value for s in Suite]}
_CONTENT = {"type": "enum", "name": "Content", "symbols": [c.value for c in Content]}
_PAIR = {
    "type": "record",
    "name": "ContextPair",
    "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": "string"}],
}
_ENCRYPTED_DATA_KEY = {
    "type": "record",
    "name": "EncryptedDataKey",
    "fields": [
        {"name": "provider", "type": "string"},
        {"name": "key_id", "type": "string"},
        {"name": "ciphertext", "type": "bytes"},
    ],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Header",
    "namespace": "streamcrypt.v1",
    "fields": [
        {"name": "suite", "type": _SUITE},
        {"name": "commitment", "type": {"type": "fixed", "name": "Commitment", "size": 32}},
        {"name": "context", "type": {"type": "array", "items": _PAIR}},
        {"name": "bound", "type": {"type": "array", "items": "string"}},
        {"name": "content", "type": _CONTENT},
        {"name": "keys", "type": {"type": "array", "items": _ENCRYPTED_DATA_KEY}},
    ],
}
"""The writer's schema of the header: what the fingerprint stands for. spec: 3.1.1"""

_DERIVATION_SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "Derivation",
    "namespace": "streamcrypt.v1",
    "fields": [field for field in SCHEMA["fields"] if field["name"] in {"suite", "context", "bound", "content"}],
}

SINGLE_OBJECT_PREFIX = bytes.fromhex("c301f62fd3384a9334e5")
"""C3 01 and the CRC-64-AVRO fingerprint of the schema, little-endian; a test computes it from SCHEMA."""

_PARSED: Any = parse_schema(json.loads(json.dumps(SCHEMA)))
_PARSED_DERIVATION: Any = parse_schema(json.loads(json.dumps(_DERIVATION_SCHEMA)))
_AVRO_MARKER = SINGLE_OBJECT_PREFIX[:2]
_MAX_SHIFT = 63
# Each mirror on the way may encode once more; 8 KiB leave room for few of them.
_MOST_MIRRORS = 4


def encode_header(header: EnvelopeHeader) -> bytes:
    """Encode a header that keeps the rules.

    Raises:
        MalformedEnvelope: The header breaks a rule or passes 8 KiB.
    """
    header.check()
    data = _encode(header)
    if len(data) > MAX_HEADER_BYTES:
        raise MalformedEnvelope(f"the header is {len(data)} bytes, over {MAX_HEADER_BYTES}")
    return data


def _encode(header: EnvelopeHeader) -> bytes:
    out = BytesIO()
    out.write(SINGLE_OBJECT_PREFIX)
    schemaless_writer(
        out,
        _PARSED,
        {
            **_derivation_fields(header.suite, header.context, header.bound, header.content),
            "commitment": header.commitment,
            "keys": [{"provider": k.provider, "key_id": k.key_id, "ciphertext": k.ciphertext} for k in header.keys],
        },
    )
    return out.getvalue()


def derivation_info(
    suite: Suite, context: tuple[tuple[str, str], ...], bound: tuple[str, ...], content: Content = Content.PAYLOAD
) -> bytes:
    """Encode what a data key is bound to, for :class:`streamcrypt.crypto.data_key.DataKey`. spec: 4.1"""
    out = BytesIO()
    schemaless_writer(out, _PARSED_DERIVATION, _derivation_fields(suite, context, bound, content))
    return out.getvalue()


def _derivation_fields(
    suite: Suite, context: tuple[tuple[str, str], ...], bound: tuple[str, ...], content: Content
) -> dict[str, Any]:
    return {
        "suite": suite.value,
        "context": [{"name": name, "value": value} for name, value in context],
        "bound": list(bound),
        "content": content.value,
    }


def decode_header(data: bytes) -> EnvelopeHeader:
    """Decode header bytes that are canonical, within every limit and of this version.

    Raises:
        MalformedEnvelope: Anything else; MangledEnvelope where the bytes are base64 of a header.
        UnsupportedVersion: A fingerprint or a content kind that this version does not know.
    """
    if len(data) > MAX_HEADER_BYTES:
        raise MalformedEnvelope(f"the header is {len(data)} bytes, over {MAX_HEADER_BYTES}")
    if not data.startswith(SINGLE_OBJECT_PREFIX):
        raise _not_ours(data)
    body = BytesIO(data)
    body.seek(len(SINGLE_OBJECT_PREFIX))
    try:
        _count_lists(data)
        raw: Any = schemaless_reader(body, _PARSED, None)
        header = EnvelopeHeader(
            suite=Suite(raw["suite"]),
            commitment=raw["commitment"],
            context=tuple((pair["name"], pair["value"]) for pair in raw["context"]),
            bound=tuple(raw["bound"]),
            content=Content(raw["content"]),
            keys=tuple(EncryptedDataKey(**key) for key in raw["keys"]),
        )
        canonical = _encode(header) == data
    except EnvelopeError:
        raise
    except Exception as error:  # noqa: BLE001  a parser of attacker's bytes may fail in any way
        raise MalformedEnvelope(f"the header does not parse ({type(error).__name__})") from None
    if not canonical:
        raise MalformedEnvelope("the header is not in canonical form")
    header.check()
    return header


def _count_lists(data: bytes) -> None:
    """Walk over the body and refuse a list of more items than its limit, or of more blocks than one. spec: 3.5.3

    Raises:
        MalformedEnvelope: Too many items, or a length that is negative or too long.
        IndexError: The body ends early.
    """
    _, at = _read_long(data, len(SINGLE_OBJECT_PREFIX))
    at = _skip_list(data, at + COMMITMENT_BYTES, "context pairs", MAX_CONTEXT_PAIRS, 2)
    at = _skip_list(data, at, "bound fields", MAX_BOUND, 1)
    _, at = _read_long(data, at)
    _skip_list(data, at, "encrypted data keys", MAX_KEYS, 3)


def _skip_list(data: bytes, at: int, what: str, limit: int, strings: int) -> int:
    count, at = _read_long(data, at)
    if not 0 <= count <= limit:
        raise MalformedEnvelope(f"more than {limit} {what}, or an array block of another form")
    for _ in range(count * strings):
        size, at = _read_long(data, at)
        if size < 0:
            raise MalformedEnvelope("a length is negative")
        at += size
    if count:
        if data[at]:
            raise MalformedEnvelope(f"the {what} stand in more than one block")
        at += 1
    return at


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the last byte of a varint
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > _MAX_SHIFT:
            raise MalformedEnvelope("a number has more than 64 bits")


def _not_ours(data: bytes) -> MalformedEnvelope | UnsupportedVersion:
    if data.startswith(_AVRO_MARKER) and len(data) >= len(SINGLE_OBJECT_PREFIX):
        return UnsupportedVersion(f"unknown header fingerprint {data[2:10].hex()}")
    for times in range(1, _MOST_MIRRORS + 1):
        try:
            data = base64.b64decode(data.strip(b'"'), validate=True)
        except (binascii.Error, ValueError):
            break
        if data.startswith(_AVRO_MARKER):
            often = "" if times == 1 else f", {times} times over"
            return MangledEnvelope(f"the header is base64 of an envelope{often}: a mirror re-encoded it")
    return MalformedEnvelope("the header is not an envelope")
