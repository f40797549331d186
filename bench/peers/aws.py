"""The AWS Encryption SDK with its caching materials manager, over the same KMS and KEK as ours.

Twice: with the committing suite that does not sign, which comes closest to what we do, and with the SDK's default,
which signs every message. Cache limits are as generous as our defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import aws_encryption_sdk
from aws_encryption_sdk.caches.local import LocalCryptoMaterialsCache
from aws_encryption_sdk.identifiers import AlgorithmSuite
from aws_encryption_sdk.key_providers.kms import StrictAwsKmsMasterKeyProvider
from aws_encryption_sdk.materials_managers.caching import CachingCryptoMaterialsManager

from bench.peers.way import Way

__all__ = ["ways"]

_CONTEXT = {"topic": "bench"}
_MAX_AGE = 300.0
_MAX_MESSAGES = 1_000_000


def ways(keys: Mapping[str, Any]) -> list[Way]:
    """Give the SDK with both suites."""
    os.environ["AWS_ENDPOINT_URL_KMS"] = str(keys["endpoint_url"])
    plain = AlgorithmSuite.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
    return [
        _way("AWS Encryption SDK with cache", keys, {"algorithm": plain}),
        _way("AWS Encryption SDK with cache, signing (its default)", keys, {}),
    ]


def _way(name: str, keys: Mapping[str, Any], suite: dict[str, Any]) -> Way:
    client = aws_encryption_sdk.EncryptionSDKClient()
    manager = CachingCryptoMaterialsManager(
        master_key_provider=StrictAwsKmsMasterKeyProvider(key_ids=[keys["key_id"]]),
        cache=LocalCryptoMaterialsCache(capacity=1000),
        max_age=_MAX_AGE,
        max_messages_encrypted=_MAX_MESSAGES,
    )

    def encrypt(value: bytes) -> bytes:
        sealed, _ = client.encrypt(source=value, materials_manager=manager, encryption_context=_CONTEXT, **suite)
        return bytes(sealed)

    def decrypt(sealed: bytes) -> bytes:
        value, _ = client.decrypt(source=sealed, materials_manager=manager)
        return bytes(value)

    return Way(name, encrypt, decrypt)
