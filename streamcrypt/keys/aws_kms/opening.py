"""Unwrapping a DEK by Decrypt under a trusted ARN."""

from __future__ import annotations

from collections.abc import Mapping

from streamcrypt.crypto.data_key import wipe
from streamcrypt.crypto.suites import DEK_BYTES
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, KeyUnavailable, UntrustedKey
from streamcrypt.keys.aws_kms.keks import region_of
from streamcrypt.keys.aws_kms.sealing import take_plaintext
from streamcrypt.keys.aws_kms.service import KMSService
from streamcrypt.keys.aws_kms.target import unusable_answer

__all__ = ["decrypt"]


def decrypt(service: KMSService, encrypted: EncryptedDataKey, arn: str, context: Mapping[str, str]) -> bytearray:
    """Unwrap a DEK under the trusted KEK ``arn``.

    Raises:
        AuthenticationFailed: The wrapped key or the context was altered, or it wraps no DEK.
        UntrustedKey: The wrapped key is not of that KEK.
        KeyUnavailable, KeyRefused: See :class:`streamcrypt.KeyProvider`.
    """
    answer = service.call(
        "Decrypt",
        region_of(arn),
        arn,
        context,
        CiphertextBlob=encrypted.ciphertext,
        EncryptionContext=dict(context),
    )
    plaintext = take_plaintext(answer)
    if "KeyId" not in answer or not plaintext:
        wipe(plaintext)
        raise unusable_answer("Decrypt", arn, answer, KeyUnavailable, "the answer holds no key")
    if answer["KeyId"] != arn:
        wipe(plaintext)
        raise UntrustedKey(f"KMS Decrypt for {arn}: another key answered")
    if len(plaintext) != DEK_BYTES:
        wipe(plaintext)
        # Really wrapped under the trusted KEK, yet no DEK: the record's fault, so that others go on.
        raise AuthenticationFailed("the data key cannot be opened")
    return plaintext
