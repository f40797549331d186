"""Records that can never pass, of every kind, each with the dead letter that it must become."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import streamcrypt as sc
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.framing import Framing
from streamcrypt.keys.provider import KeyProvider
from tests.chaos.checker import Letter
from tests.chaos.records import Headers, Record

__all__ = ["CONTEXT", "ELSEWHERE", "KINDS", "Bottle", "Poisoned"]

OURS = "streamcrypt"
CONTEXT = {"app": "chaos"}
ELSEWHERE = "another-topic"


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A record as it is put on a sealed topic.

    Attributes:
        record: Value and headers as they stand there.
        letter: What it must become; None for a sound one.
    """

    record: Record
    letter: Letter | None


class Bottle:
    """Seals records, and spoils some of them.

    Args:
        topic: The sealed topic.
        keys: Of the pipeline.
        foreign: Of somebody else.
    """

    def __init__(self, topic: str, keys: KeyProvider, foreign: KeyProvider) -> None:
        self.topic = topic
        self._sealer = sc.Encryptor(keys, context=CONTEXT)
        self._foreign = sc.Encryptor(foreign, context=CONTEXT)
        self._careless = sc.Encryptor(keys)
        self._unbound = sc.Encryptor(keys, context=CONTEXT, bound=())
        self._framed = sc.Encryptor(keys, context=CONTEXT, framing=Framing.SELF_CONTAINED)

    def sound(self, record: Record) -> Poisoned:
        """Seal a record as it should be."""
        return Poisoned(self._seal(self._sealer, record), None)

    def spoiled(self, record: Record, kind: str) -> Poisoned:
        """Seal a record and spoil it; its value must not be null."""
        make, error, words = KINDS[kind]
        made = make(self, record)
        withheld = error == "PlaintextRejected"
        value = None if withheld else made.value
        return Poisoned(made, Letter(error, words, value, made.key, made.headers, made.timestamp))

    def close(self) -> None:
        """Drop all keys."""
        for sealer in (self._sealer, self._foreign, self._careless, self._unbound, self._framed):
            sealer.close()

    def _seal(self, sealer: sc.Encryptor, record: Record, topic: str = "") -> Record:
        value, headers = sealer.encrypt(topic or self.topic, record.value, record.key, list(record.headers))
        return replace(record, value=value, headers=tuple(headers))

    def header_changed(self, record: Record, change: Callable[[bytes], bytes | None]) -> Record:
        """Seal, and change the envelope header."""
        made = self._seal(self._sealer, record)
        return replace(made, headers=_swapped(made.headers, change))

    def value_changed(self, record: Record, change: Callable[[bytes], bytes]) -> Record:
        """Seal, and change the value."""
        made = self._seal(self._sealer, record)
        assert made.value is not None
        return replace(made, value=change(made.value))

    def moved_key(self, record: Record) -> Record:
        """Seal, and put the value under another key."""
        return replace(self._seal(self._sealer, record), key=b"another " + (record.key or b""))

    def doubled_header(self, record: Record) -> Record:
        """Seal, and give the header twice."""
        made = self._seal(self._sealer, record)
        ours = [pair for pair in made.headers if pair[0] == OURS]
        return replace(made, headers=(*made.headers, *ours))

    def half_tombstone(self, record: Record) -> Record:
        """A null value beside an envelope header, without the proof."""
        return replace(self._seal(self._sealer, record), value=None)

    def by(self, sealer: str, record: Record, topic: str = "") -> Record:
        """Seal with another of the sealers."""
        return self._seal(getattr(self, f"_{sealer}"), record, topic)


def _swapped(headers: Headers, change: Callable[[bytes], bytes | None]) -> Headers:
    return tuple((name, change(value or b"") if name == OURS else value) for name, value in headers)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _other_wrapping(header: bytes) -> bytes:
    parsed = decode_header(header)
    keys = tuple(replace(key, ciphertext=_flip(key.ciphertext, len(key.ciphertext) // 2)) for key in parsed.keys)
    # A data key that is known by its commitment would open the record all the same, and rightly so.
    commitment = os.urandom(len(parsed.commitment))
    return encode_header(replace(parsed, keys=keys, commitment=commitment))


def _other_commitment(header: bytes) -> bytes:
    parsed = decode_header(header)
    return encode_header(replace(parsed, commitment=os.urandom(len(parsed.commitment))))


def _stripped(bottle: Bottle, record: Record) -> Record:
    return replace(bottle.by("sealer", record), headers=record.headers)


Make = Callable[[Bottle, Record], Record]

KINDS: dict[str, tuple[Make, str, str]] = {
    "tampered value": (lambda b, r: b.value_changed(r, lambda v: _flip(v, 20)), "AuthenticationFailed", ""),
    "tampered nonce": (lambda b, r: b.value_changed(r, lambda v: _flip(v, 3)), "AuthenticationFailed", ""),
    "tampered tag": (lambda b, r: b.value_changed(r, lambda v: _flip(v, len(v) - 1)), "AuthenticationFailed", ""),
    "truncated value": (lambda b, r: b.value_changed(r, lambda v: v[:7]), "AuthenticationFailed", ""),
    "empty value": (lambda b, r: b.value_changed(r, lambda _: b""), "AuthenticationFailed", ""),
    "tampered data key": (lambda b, r: b.header_changed(r, _other_wrapping), "AuthenticationFailed", ""),
    "tampered commitment": (lambda b, r: b.header_changed(r, _other_commitment), "AuthenticationFailed", ""),
    "moved key": (lambda b, r: b.moved_key(r), "AuthenticationFailed", ""),
    "foreign KEK": (lambda b, r: b.by("foreign", r), "UntrustedKey", "no trusted KEK"),
    "stripped header": (_stripped, "PlaintextRejected", "no envelope"),
    "plaintext": (lambda _, r: r, "PlaintextRejected", "no envelope"),
    "self-contained": (lambda b, r: b.by("framed", r), "PlaintextRejected", "self-contained"),
    "two headers": (lambda b, r: b.doubled_header(r), "MalformedEnvelope", ""),
    "null header": (lambda b, r: b.header_changed(r, lambda _: None), "MalformedEnvelope", "null"),
    "header too large": (lambda b, r: b.header_changed(r, lambda h: h + bytes(9_000)), "MalformedEnvelope", "over"),
    "header with a tail": (lambda b, r: b.header_changed(r, lambda h: h + b"\0"), "MalformedEnvelope", ""),
    "junk header": (lambda b, r: b.header_changed(r, lambda _: b"junk"), "MalformedEnvelope", ""),
    "half a tombstone": (lambda b, r: b.half_tombstone(r), "MalformedEnvelope", "tombstone"),
    "base64 header": (lambda b, r: b.header_changed(r, base64.b64encode), "MangledEnvelope", "base64"),
    "base64 header in quotes": (
        lambda b, r: b.header_changed(r, lambda h: b'"' + base64.b64encode(h) + b'"'),
        "MangledEnvelope",
        "base64",
    ),
    "unknown version": (lambda b, r: b.header_changed(r, lambda h: _flip(h, 4)), "UnsupportedVersion", "fingerprint"),
    "wrong topic": (lambda b, r: b.by("sealer", r, ELSEWHERE), "ContextMismatch", ELSEWHERE),
    "wrong context": (lambda b, r: b.by("careless", r), "ContextMismatch", "app"),
    "unbound key": (lambda b, r: b.by("unbound", r), "ContextMismatch", "bind"),
}
"""Every kind of poison: how it is made, the class of its error, and what the reason must say."""
