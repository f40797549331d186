"""Ours: one call a record, the record's key bound, the envelope in a header."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import streamcrypt as sc
from bench.peers.way import Way

__all__ = ["ways"]

_TOPIC, _KEY = "bench", b"key-1"


def ways(keys: Mapping[str, Any]) -> list[Way]:
    """Give our way over the KMS."""
    provider = sc.AWSKMSKeyProvider(keys["key_id"], region=keys["region"], endpoint_url=keys["endpoint_url"])
    encryptor, decryptor = sc.Encryptor(provider), sc.Decryptor(provider)
    closing = ExitStack()
    for one in (provider, decryptor, encryptor):
        closing.callback(one.close)
    return [
        Way(
            "streamcrypt",
            lambda value: encryptor.encrypt(_TOPIC, value, _KEY),
            lambda sealed: decryptor.decrypt(_TOPIC, sealed[0], _KEY, sealed[1])[0],
            lambda sealed: len(sealed[0]) + sum(len(name) + len(data or b"") for name, data in sealed[1]),
            closing.close,
        )
    ]
