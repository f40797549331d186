"""Tink's envelope AEAD: a fresh data key for every call. Its remote AEAD is a key in this process here.

So no call to a KMS is counted, of which it makes one a record, on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tink
from tink import aead

from bench.peers.way import Way

__all__ = ["ways"]

_AAD = b"key-1"


def ways(keys: Mapping[str, Any]) -> list[Way]:
    """Give Tink's envelope AEAD."""
    aead.register()
    template = aead.aead_key_templates.AES256_GCM
    remote = tink.new_keyset_handle(template).primitive(aead.Aead)
    envelope = aead.KmsEnvelopeAead(template, remote)
    return [
        Way(
            "Tink envelope AEAD, its KMS calls left out",
            lambda value: envelope.encrypt(value, _AAD),
            lambda sealed: envelope.decrypt(sealed, _AAD),
        )
    ]
