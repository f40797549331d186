"""The cipher alone, with one key and a counted nonce: what nobody can be faster than with this library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.peers.way import Way

__all__ = ["ways"]

_AAD = b"key-1"


def ways(keys: Mapping[str, Any]) -> list[Way]:
    """Give the cipher."""
    cipher, numbers = AESGCM(os.urandom(32)), count(1)

    def encrypt(value: bytes) -> bytes:
        nonce = next(numbers).to_bytes(12)
        return nonce + cipher.encrypt(nonce, value, _AAD)

    return [Way("bare AESGCM", encrypt, lambda sealed: cipher.decrypt(sealed[:12], sealed[12:], _AAD))]
