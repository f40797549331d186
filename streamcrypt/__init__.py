"""Envelope encryption for Kafka record values, with data keys from AWS KMS.

Importing this package loads the core alone. boto3 and confluent-kafka are loaded when the names that need them are
first used, so that a program which only seals or opens pays for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.keys.tenants_mapping import MappedKEK

if TYPE_CHECKING:
    from streamcrypt.clients.consumer import DecryptingConsumer
    from streamcrypt.clients.messages import failure_of
    from streamcrypt.clients.producer import EncryptingProducer
    from streamcrypt.keys.aws_kms import AWSKMSKeyProvider

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

_LATE = {
    "AWSKMSKeyProvider": ("streamcrypt.keys.aws_kms", "aws"),
    "DecryptingConsumer": ("streamcrypt.clients.consumer", "kafka"),
    "EncryptingProducer": ("streamcrypt.clients.producer", "kafka"),
    "failure_of": ("streamcrypt.clients.messages", "kafka"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'streamcrypt' has no attribute {name!r}")
    from importlib import import_module

    module, extra = _LATE[name]
    try:
        value = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("streamcrypt"):
            raise
        raise ImportError(f"{name} needs {error.name}: pip install 'streamcrypt[{extra}]'") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
