"""A second implementation of the format, small and slow, that shares no line with the package.

Its own Avro writer, its own CRC-64-AVRO, HKDF from the standard library's hmac. Where the two disagree, a vector
fails. Deterministic: every key is the hash of a label, so that a second run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

SCHEMA = (
    '{"name":"streamcrypt.v1.Header","type":"record","fields":['
    '{"name":"suite","type":{"name":"streamcrypt.v1.Suite","type":"enum",'
    '"symbols":["AES_256_GCM","AES_256_GCM_SIV"]}},'
    '{"name":"commitment","type":{"name":"streamcrypt.v1.Commitment","type":"fixed","size":32}},'
    '{"name":"context","type":{"type":"array","items":{"name":"streamcrypt.v1.ContextPair","type":"record","fields":['
    '{"name":"name","type":"string"},{"name":"value","type":"string"}]}}},'
    '{"name":"bound","type":{"type":"array","items":"string"}},'
    '{"name":"content","type":{"name":"streamcrypt.v1.Content","type":"enum",'
    '"symbols":["PAYLOAD","AVRO_FIELDS","JSON_FIELDS"]}},'
    '{"name":"keys","type":{"type":"array","items":{"name":"streamcrypt.v1.EncryptedDataKey","type":"record","fields":['
    '{"name":"provider","type":"string"},{"name":"key_id","type":"string"},{"name":"ciphertext","type":"bytes"}]}}}]}'
)
"""The schema in Avro's Parsing Canonical Form: the text that the fingerprint is taken of. spec: 3.1.1"""

SUITES = ["AES_256_GCM", "AES_256_GCM_SIV"]
CONTENTS = ["PAYLOAD", "AVRO_FIELDS", "JSON_FIELDS"]
TOPIC = "payments"
KEK = "vector-kek"
NO_LANE = 0xFFFFFFFF
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

Pair = tuple[str, str]
Key = tuple[str, str, bytes]
Headers = list[tuple[str, bytes | None]]


def some_bytes(label: str, length: int) -> bytes:
    """Derive bytes that look random and are the same on every run."""
    return b"".join(hashlib.sha256(f"{label} {n}".encode()).digest() for n in range(length // 32 + 1))[:length]


# --- Avro, from its specification ------------------------------------------------------------------------------


def avro_fingerprint(text: str) -> bytes:
    """CRC-64-AVRO of a canonical schema, little-endian as single-object encoding wants it."""
    empty = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (empty if value & 1 else 0)
        table.append(value)
    crc = empty
    for byte in text.encode():
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(8, "little")


def avro_long(number: int) -> bytes:
    """Zigzag, then 7 bits a byte, least significant first."""
    rest = (number << 1) if number >= 0 else (-number << 1) - 1
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def avro_bytes(data: bytes) -> bytes:
    """Length, then the bytes."""
    return avro_long(len(data)) + data


def avro_string(text: str) -> bytes:
    """Length, then UTF-8."""
    return avro_bytes(text.encode())


def avro_array(items: list[bytes]) -> bytes:
    """One block of all items, then the empty block; the empty block alone for no items."""
    return (avro_long(len(items)) + b"".join(items) if items else b"") + b"\x00"


# --- the format ------------------------------------------------------------------------------------------------


def hkdf_sha256(ikm: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with an empty salt."""
    prk = hmac.digest(bytes(32), ikm, "sha256")
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(prk, block + info + bytes([counter]), "sha256")
        out += block
    return out[:length]


@dataclass(frozen=True)
class Envelope:
    """What a header says, with no rule kept: an invalid vector breaks one on purpose."""

    suite: str = "AES_256_GCM"
    context: tuple[Pair, ...] = (("streamcrypt:topic", TOPIC),)
    bound: tuple[str, ...] = ("key",)
    content: str = "PAYLOAD"
    keys: tuple[Key, ...] = (("local", KEK, some_bytes("wrapped", 60)),)
    dek: bytes = some_bytes("dek", 32)
    claimed: bytes | None = None  # a commitment other than the derived one

    def parts(self) -> dict[str, bytes]:
        """The Avro bytes of each field, in the order of the schema."""
        return {
            "suite": avro_long(SUITES.index(self.suite)),
            "commitment": self.claimed or self.derived()[32:],
            "context": avro_array([avro_string(n) + avro_string(v) for n, v in self.context]),
            "bound": avro_array([avro_string(item) for item in self.bound]),
            "content": avro_long(CONTENTS.index(self.content)),
            "keys": avro_array([avro_string(p) + avro_string(i) + avro_bytes(c) for p, i, c in self.keys]),
        }

    def info(self) -> bytes:
        """Everything that a data key is bound to, the commitment and the wrapped keys left out."""
        suite = avro_long(SUITES.index(self.suite))
        context = avro_array([avro_string(n) + avro_string(v) for n, v in self.context])
        bound = avro_array([avro_string(item) for item in self.bound])
        return b"streamcrypt/1\x00" + suite + context + bound + avro_long(CONTENTS.index(self.content))

    def derived(self) -> bytes:
        """Encryption key and commitment, 32 bytes each."""
        return hkdf_sha256(self.dek, self.info(), 64)

    def header(self, **raw: bytes) -> bytes:
        """The header's bytes; ``raw`` puts other bytes in the place of a field's."""
        return b"\xc3\x01" + avro_fingerprint(SCHEMA) + b"".join({**self.parts(), **raw}.values())


def build_aad(bound: tuple[str, ...], key: bytes | None, headers: Headers, kind: int = 1) -> bytes:
    """The kind, then each bound field with its length."""

    def item(data: bytes | None) -> bytes:
        return b"\x00" if data is None else b"\x01" + len(data).to_bytes(4, "big") + data

    out = bytes([kind])
    for name in bound:
        if name == "key":
            out += item(key)
        else:
            values = [v for n, v in headers if n == name[len("header:") :]]
            out += len(values).to_bytes(4, "big") + b"".join(item(v) for v in values)
    return out


@dataclass
class Vector:
    """One scenario, before it is text. ``None`` for key and value is Kafka's null."""

    name: str
    comment: str
    spec: str
    expect: str = "opens"
    stage: str = "none"
    envelope: Envelope = field(default_factory=Envelope)
    # the record
    topic: str = TOPIC
    key: bytes | None = b"customer-17"
    headers: Headers = field(default_factory=list)
    plaintext: bytes | None = b'{"amount": 1250, "currency": "EUR"}'
    lane: int = 0
    sequence: int = 1
    framing: str = "header"
    proven: bool = False  # an authenticated tombstone: the plaintext is null and two headers prove it
    # the reader
    reader_framing: str = ""
    reader_tombstones: str = ""
    topic_names: tuple[Pair, ...] = ()
    require_context: tuple[Pair, ...] = ()
    require_bound: tuple[str, ...] = ()
    trusted: tuple[Pair, ...] = (("local", KEK),)
    inputs: tuple[str, ...] = ()  # the fields that choose the KEK
    maps: tuple[tuple[str, str, str], ...] = ()  # their values, joined by a slash, to provider and key id
    unwrapped: bytes | None = None  # what the key service returns, where it is not the DEK

    def nonce(self) -> bytes:
        """Lane, then sequence."""
        return self.lane.to_bytes(4, "big") + self.sequence.to_bytes(8, "big")

    def aad(self, kind: int = 1) -> bytes:
        """Of the record as it was sealed."""
        return build_aad(self.envelope.bound, self.key, self.headers, kind)

    def sealed(self, kind: int = 1) -> bytes:
        """Nonce, ciphertext, tag."""
        cipher = (AESGCM if self.envelope.suite == "AES_256_GCM" else AESGCMSIV)(self.envelope.derived()[:32])
        return self.nonce() + cipher.encrypt(self.nonce(), self.plaintext or b"", self.aad(kind))

    def framed(self, header: bytes | None = None, sealed: bytes | None = None) -> tuple[Headers, bytes | None]:
        """The record's headers and value as they stand on the topic."""
        header = self.envelope.header() if header is None else header
        if self.proven:
            proof = self.sealed(kind=2) if sealed is None else sealed
            return [*self.headers, ("streamcrypt", header), ("streamcrypt-tombstone", proof)], None
        sealed = self.sealed() if sealed is None else sealed
        if self.framing == "header":
            return [*self.headers, ("streamcrypt", header)], sealed
        return list(self.headers), b"\xc5\x53\x43\x01" + len(header).to_bytes(4, "big") + header + sealed


def as_hex(data: bytes | None) -> str:
    """Hex, with words for the two that hex cannot show."""
    return "null" if data is None else data.hex() or "empty"


def text_of(vector: Vector, headers: Headers, value: bytes | None, *, key: bytes | None, topic: str) -> str:
    """The file's text: what to expect, the reader, the record, and the steps between for one that opens."""
    quote = json.dumps
    lines = [
        f"expect: {vector.expect}",
        f"stage: {vector.stage}",
        f"comment: {vector.comment}",
        f"spec: {vector.spec}",
        "",
        f"reader-framing: {vector.reader_framing or vector.framing}",
        *([f"reader-tombstones: {vector.reader_tombstones}"] if vector.reader_tombstones else []),
        *(f"reader-topic-name: {quote(a)} {quote(b)}" for a, b in vector.topic_names),
        *(f"reader-context: {quote(a)} {quote(b)}" for a, b in vector.require_context),
        *(f"reader-bound: {quote(item)}" for item in vector.require_bound),
        *(f"reader-trusts: {quote(a)} {quote(b)}" for a, b in vector.trusted if not vector.inputs),
        *(f"reader-input: {quote(item)}" for item in vector.inputs),
        *(f"reader-maps: {quote(a)} {quote(b)} {quote(c)}" for a, b, c in vector.maps),
        f"dek: {as_hex(vector.envelope.dek if vector.unwrapped is None else vector.unwrapped)}",
        "",
        f"topic: {quote(topic)}",
        f"key: {as_hex(key)}",
        *(f"header: {quote(name)} {as_hex(data)}" for name, data in headers),
        f"value: {as_hex(value)}",
    ]
    if vector.expect == "opens":
        lines += ["", f"plaintext: {as_hex(vector.plaintext)}"]
    if vector.expect == "opens" and (value is not None or vector.proven):
        envelope = vector.envelope
        derived = envelope.derived()
        lines += [
            f"suite: {envelope.suite}",
            *(f"context: {quote(a)} {quote(b)}" for a, b in envelope.context),
            *(f"bound: {quote(item)}" for item in envelope.bound),
            *(f"encrypted-data-key: {quote(p)} {quote(i)} {as_hex(c)}" for p, i, c in envelope.keys),
            f"info: {as_hex(envelope.info())}",
            f"encryption-key: {as_hex(derived[:32])}",
            f"commitment: {as_hex(derived[32:])}",
            f"aad: {as_hex(vector.aad(2 if vector.proven else 1))}",
            f"nonce: {as_hex(vector.nonce())}",
        ]
    return "\n".join(lines) + "\n"


_AS_SEALED: Any = object()


def written(
    vector: Vector,
    headers: Headers = _AS_SEALED,
    value: bytes | None = _AS_SEALED,
    key: bytes | None = _AS_SEALED,
    topic: str = _AS_SEALED,
) -> tuple[str, str]:
    """A vector's name and text, the record as it was sealed or with a part of it replaced."""
    is_sealed = vector.plaintext is not None or vector.proven
    sealed_headers, sealed_value = vector.framed() if is_sealed else (vector.headers, None)
    text = text_of(
        vector,
        sealed_headers if headers is _AS_SEALED else headers,
        sealed_value if value is _AS_SEALED else value,
        key=vector.key if key is _AS_SEALED else key,
        topic=vector.topic if topic is _AS_SEALED else topic,
    )
    return vector.name, text
