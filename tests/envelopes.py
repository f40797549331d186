"""What the tests of the audit share: envelopes written by hand, and records as a consumer gives them."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.crypto.suites import Suite
from streamcrypt.crypto.wrapping import wrap_dek
from streamcrypt.envelope.codec import derivation_info, encode_header
from streamcrypt.envelope.header import Content, EncryptedDataKey, EnvelopeHeader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TAG = b"\xaa" * 16


def envelope(*keys: str | EncryptedDataKey, topic: str = "orders", dek: bytes | None = None) -> bytes:
    """Header bytes of a fresh data key; a key given by id carries a ciphertext that opens nothing."""
    context, bound = (("streamcrypt:topic", topic),), ("key",)
    info = derivation_info(Suite.AES_256_GCM, context, bound)
    commitment = DataKey(bytearray(dek or os.urandom(32)), Suite.AES_256_GCM, info).commitment
    wrapped = [
        EncryptedDataKey("aws-kms" if key.startswith(("arn:", "alias/")) else "local", key, os.urandom(60))
        if isinstance(key, str)
        else key
        for key in keys
    ]
    wrapped.sort(key=lambda key: (key.provider, key.key_id))
    return encode_header(EnvelopeHeader(Suite.AES_256_GCM, commitment, context, bound, Content.PAYLOAD, tuple(wrapped)))


def wrap(keyring: Mapping[str, bytes], key_id: str, dek: bytes, topic: str = "orders") -> EncryptedDataKey:
    """A data key wrapped as the local provider does."""
    aad = json.dumps([["streamcrypt:topic", topic]], separators=(",", ":")).encode()
    return EncryptedDataKey("local", key_id, wrap_dek(keyring[key_id], dek, aad))


def sealed(number: int = 1, lane: int = 0) -> bytes:
    """A value as long as a sealed one, with a nonce that counts."""
    return struct.pack(">IQ", lane, number) + b"sealed" + TAG


@dataclass
class Record:
    """A record as confluent-kafka's Message shows it."""

    number: int
    content: bytes | None = field(default_factory=sealed)
    pairs: Sequence[tuple[str, bytes | None]] | None = None
    place: int = 0
    name: str = "orders"
    time: tuple[int, int] = (1, 1_900_000_000_000)

    def topic(self) -> str:
        """See Message."""
        return self.name

    def partition(self) -> int:
        """See Message."""
        return self.place

    def offset(self) -> int:
        """See Message."""
        return self.number

    def value(self) -> bytes | None:
        """See Message."""
        return self.content

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        """See Message: a new list each time."""
        return None if self.pairs is None else list(self.pairs)

    def timestamp(self) -> tuple[int, int]:
        """See Message."""
        return self.time

    def error(self) -> None:
        """See Message."""


def under(header: bytes | None, *more: tuple[str, bytes | None]) -> list[tuple[str, bytes | None]]:
    """Headers with an envelope between others."""
    return [*more, ("streamcrypt", header)]
