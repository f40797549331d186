"""Envelope encryption for Kafka record values, with data keys from AWS KMS.

Importing this package loads nothing yet: each name is loaded when it is first used. So a program which only seals or
opens pays for neither boto3 nor confluent-kafka, and ``streamcrypt run`` can take signals from its first moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamcrypt.clients.consumer import DecryptingConsumer
    from streamcrypt.clients.messages import failure_of
    from streamcrypt.clients.producer import EncryptingProducer
    from streamcrypt.crypto.suites import Suite
    from streamcrypt.decryptor import Decryptor
    from streamcrypt.encryptor import Encryptor
    from streamcrypt.envelope.framing import Framing, Tombstones
    from streamcrypt.errors import (
        AlreadySealed,
        AuthenticationFailed,
        ConfigError,
        ContextMismatch,
        EnvelopeError,
        KeyDisabled,
        KeyNotMapped,
        KeyRefused,
        KeyServiceError,
        KeyUnavailable,
        MalformedEnvelope,
        MangledEnvelope,
        PlaintextRejected,
        RecordTooLarge,
        SequenceViolated,
        StreamcryptError,
        UnsupportedVersion,
        UntrustedKey,
    )
    from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
    from streamcrypt.keys.local import LocalKeyProvider
    from streamcrypt.keys.provider import KeyProvider
    from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
    from streamcrypt.keys.tenants import TenantKeys
    from streamcrypt.keys.tenants_mapping import MappedKEK

__all__ = [
    "AWSKMSKeyProvider",
    "AlreadySealed",
    "AuthenticationFailed",
    "CachePolicy",
    "ConfigError",
    "ContextMismatch",
    "DecryptingConsumer",
    "Decryptor",
    "EncryptingProducer",
    "Encryptor",
    "EnvelopeError",
    "Framing",
    "KeyDisabled",
    "KeyNotMapped",
    "KeyProvider",
    "KeyRefused",
    "KeyServiceError",
    "KeyUnavailable",
    "LocalKeyProvider",
    "MalformedEnvelope",
    "MangledEnvelope",
    "MappedKEK",
    "PlaintextRejected",
    "RecordTooLarge",
    "RotationPolicy",
    "SequenceViolated",
    "StreamcryptError",
    "Suite",
    "TenantKeys",
    "Tombstones",
    "UnsupportedVersion",
    "UntrustedKey",
    "failure_of",
]

_MODULES = {
    "AWSKMSKeyProvider": "streamcrypt.keys.aws_kms",
    "AlreadySealed": "streamcrypt.errors",
    "AuthenticationFailed": "streamcrypt.errors",
    "CachePolicy": "streamcrypt.keys.rotation",
    "ConfigError": "streamcrypt.errors",
    "ContextMismatch": "streamcrypt.errors",
    "DecryptingConsumer": "streamcrypt.clients.consumer",
    "Decryptor": "streamcrypt.decryptor",
    "EncryptingProducer": "streamcrypt.clients.producer",
    "Encryptor": "streamcrypt.encryptor",
    "EnvelopeError": "streamcrypt.errors",
    "Framing": "streamcrypt.envelope.framing",
    "KeyDisabled": "streamcrypt.errors",
    "KeyNotMapped": "streamcrypt.errors",
    "KeyProvider": "streamcrypt.keys.provider",
    "KeyRefused": "streamcrypt.errors",
    "KeyServiceError": "streamcrypt.errors",
    "KeyUnavailable": "streamcrypt.errors",
    "LocalKeyProvider": "streamcrypt.keys.local",
    "MalformedEnvelope": "streamcrypt.errors",
    "MangledEnvelope": "streamcrypt.errors",
    "MappedKEK": "streamcrypt.keys.tenants_mapping",
    "PlaintextRejected": "streamcrypt.errors",
    "RecordTooLarge": "streamcrypt.errors",
    "RotationPolicy": "streamcrypt.keys.rotation",
    "SequenceViolated": "streamcrypt.errors",
    "StreamcryptError": "streamcrypt.errors",
    "Suite": "streamcrypt.crypto.suites",
    "TenantKeys": "streamcrypt.keys.tenants",
    "Tombstones": "streamcrypt.envelope.framing",
    "UnsupportedVersion": "streamcrypt.errors",
    "UntrustedKey": "streamcrypt.errors",
    "failure_of": "streamcrypt.clients.messages",
}
_EXTRAS = {
    "AWSKMSKeyProvider": "aws",
    "DecryptingConsumer": "kafka",
    "EncryptingProducer": "kafka",
    "failure_of": "kafka",
}


# ``streamcrypt.errors.KeyRefused`` after a bare ``import streamcrypt``, as one would expect.
_SUBMODULES = frozenset({"errors", "events"})


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f"streamcrypt.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'streamcrypt' has no attribute {name!r}")
    try:
        value = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("streamcrypt") or name not in _EXTRAS:
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'streamcrypt[{_EXTRAS[name]}]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
