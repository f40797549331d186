"""Every error of streamcrypt, and for each whose fault it is and whether a retry helps.

::

    StreamcryptError
    ├── ConfigError             yours: a setting or an argument; no retry helps
    ├── EnvelopeError           the sender's: the record carries no usable envelope
    │   ├── PlaintextRejected       no envelope at all
    │   ├── MalformedEnvelope       two headers, not canonical, over a limit
    │   │   └── MangledEnvelope         a mirror re-encoded the header (KAFKA-10428)
    │   └── UnsupportedVersion      written by a later version of the format
    ├── UntrustedKey            the sender's: none of the record's KEKs is trusted here
    ├── ContextMismatch         the sender's: another topic, context or bound list than required
    ├── AuthenticationFailed    someone's tampering, or a wrong key; it never says which
    ├── KeyNotMapped            the sender's: its topic, header or key leads to no KEK that is mapped
    ├── KeyDisabled             nobody's: the KEK that the record itself leads to is disabled or gone, others are not
    ├── KeyServiceError         the key service's
    │   ├── KeyUnavailable          timeout, throttling, 5xx: a retry helps
    │   └── KeyRefused              denied, disabled, not found: an operator must act
    ├── SequenceViolated        someone's: a record is missing, repeated, out of order or moved before this one
    ├── RecordTooLarge          the record's: sealed, it would pass the limit
    └── AlreadySealed           the sender's: it carries an envelope where plaintext belongs

Errors are classified by their type, never by their text. No text holds a key or a record's content.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadySealed",
    "AuthenticationFailed",
    "ConfigError",
    "ContextMismatch",
    "EnvelopeError",
    "KeyDisabled",
    "KeyNotMapped",
    "KeyRefused",
    "KeyServiceError",
    "KeyUnavailable",
    "MalformedEnvelope",
    "MangledEnvelope",
    "PlaintextRejected",
    "RecordTooLarge",
    "SequenceViolated",
    "StreamcryptError",
    "UnsupportedVersion",
    "UntrustedKey",
    "again",
]


class StreamcryptError(Exception):
    """Base of every error here; never raised itself.

    Attributes:
        retriable: Whether the same call may succeed later with nothing changed by anyone.
        remedy: What an operator can do, one sentence; empty where nothing general can be said.
        request_id: Of the call to the key service that failed, to be found in CloudTrail; empty where there was none.
        sealed_value: The record's value as it stood on the topic, where a consumer could not open it.
    """

    retriable: ClassVar[bool] = False
    remedy: str = ""
    request_id: str = ""
    sealed_value: bytes | None = None

    def __init__(self, message: str = "", *, remedy: str = "") -> None:
        super().__init__(message)
        if remedy:
            self.remedy = remedy


class ConfigError(StreamcryptError, ValueError):
    """A setting or an argument is wrong. Raised before any record is touched."""


class EnvelopeError(StreamcryptError):
    """The record carries no envelope that this version can use."""


class PlaintextRejected(EnvelopeError):
    """The record carries no envelope at all: its header was stripped, or it was never sealed."""

    remedy = "Find who writes plaintext to this topic, or who strips the 'streamcrypt' header on the way."


class MalformedEnvelope(EnvelopeError):
    """The envelope breaks the format: two headers, not canonical, truncated, or over a limit."""


class MangledEnvelope(MalformedEnvelope):
    """The envelope was re-encoded on the way, as MirrorMaker 2 does with its default header converter."""

    remedy = "Set header.converter=org.apache.kafka.connect.converters.ByteArrayConverter on the mirror (KAFKA-10428)."


class UnsupportedVersion(EnvelopeError):
    """The envelope was written by a later version of the format."""

    remedy = "Upgrade streamcrypt on the reading side."


class UntrustedKey(StreamcryptError):
    """None of the record's KEKs is trusted by this reader, or KMS says the data key is not of that KEK."""

    remedy = "If the KEK is legitimate, list its ARN in trusted_keys."


class ContextMismatch(StreamcryptError):
    """The envelope is bound to another topic, context or list of fields than this reader requires."""

    remedy = "If the topic was mirrored or renamed, map it to its logical name in topic_names."


class AuthenticationFailed(StreamcryptError):
    """The record, its header or its data key was altered, or belongs elsewhere. It never says which."""


class KeyNotMapped(StreamcryptError):
    """The record's topic, header or key leads to no KEK that the mapping allows, or is missing, double or malformed."""

    remedy = "If the sender may use a KEK, add its value to keys.mapping; no other KEK is ever taken instead."


class KeyDisabled(StreamcryptError):
    """The KEK that the record itself leads to is disabled, pending deletion or gone; other records are unharmed.

    Raised only where each record has a KEK of its own (:class:`streamcrypt.TenantKeys`) and a disabled one is to fail
    its records; elsewhere the same answer of the key service is a :class:`KeyRefused`, and records wait.
    """

    remedy = "If this was not meant, enable the KEK again; its records can then be opened or replayed."


class SequenceViolated(StreamcryptError):
    """The record opens, but its number shows that others are missing, or that it was repeated, displaced or moved."""

    remedy = "Compare with the source: what writes to this topic, or deletes from it, besides the encrypting pipeline?"


class KeyServiceError(StreamcryptError):
    """The key service did not do what was asked. The record is not at fault.

    Attributes:
        operation: The KMS operation, such as ``GenerateDataKey``; empty where none was reached.
        key_id: The KEK's ARN or id; empty where none is known.
        request_id: The KMS request id, to be found in CloudTrail; empty where there was no answer.
        kek_is_disabled: Whether the KEK itself is disabled, pending deletion or gone, whoever asks.
    """

    kek_is_disabled: bool = False

    def __init__(
        self, message: str = "", *, operation: str = "", key_id: str = "", request_id: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.operation = operation
        self.key_id = key_id
        self.request_id = request_id


class KeyUnavailable(KeyServiceError):
    """The key service timed out, throttled or failed by itself. A retry helps."""

    retriable: ClassVar[bool] = True
    remedy = "The key service is away or throttling; a running pipeline tries again by itself."


class KeyRefused(KeyServiceError):
    """The key service said no: access denied, key disabled, pending deletion, not found. An operator must act."""


class RecordTooLarge(StreamcryptError):
    """The sealed record would pass the size limit. Raised before anything is sent."""

    remedy = "Raise message.max.bytes on producer and topic, or send smaller records."


class AlreadySealed(StreamcryptError):
    """The record to be sealed carries an envelope already."""

    remedy = "Remove the second encrypting step, or read this topic with a decrypting one."


def again(error: StreamcryptError) -> StreamcryptError:
    """Make a fresh error of the same kind, text and facts: one instance must not be raised by two threads."""
    copy = type(error).__new__(type(error))
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy
