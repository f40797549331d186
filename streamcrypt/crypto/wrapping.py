"""Wrap a DEK under a KEK held in memory: AES-256-GCM, random nonce, for the local provider only."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from streamcrypt.crypto.suites import NONCE_BYTES
from streamcrypt.errors import AuthenticationFailed

__all__ = ["unwrap_dek", "wrap_dek"]


def wrap_dek(kek: bytes | bytearray, dek: bytes | bytearray, aad: bytes) -> bytes:
    """Wrap ``dek``: nonce ‖ ciphertext ‖ tag. Random nonces allow 2^32 wraps under one KEK (NIST SP 800-38D)."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(kek).encrypt(nonce, dek, aad)


def unwrap_dek(kek: bytes | bytearray, wrapped: bytes, aad: bytes) -> bytearray:
    """Unwrap what :func:`wrap_dek` made.

    Raises:
        AuthenticationFailed: The wrapped key, the KEK or the AAD differ.
    """
    if len(wrapped) < NONCE_BYTES:
        raise AuthenticationFailed("the data key cannot be opened")
    try:
        return bytearray(AESGCM(kek).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad))
    except InvalidTag:
        raise AuthenticationFailed("the data key cannot be opened") from None
