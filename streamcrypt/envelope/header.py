"""The envelope header as a model, with every limit and rule that can be told without the bytes. spec: 3.2, 3.3, 3.4"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.crypto.data_key import COMMITMENT_BYTES
from streamcrypt.crypto.suites import Suite
from streamcrypt.errors import ConfigError, MalformedEnvelope, UnsupportedVersion

__all__ = [
    "BOUND_HEADER_PREFIX",
    "BOUND_KEY",
    "HEADER_NAME",
    "MAX_BOUND",
    "MAX_CIPHERTEXT_BYTES",
    "MAX_CONTEXT_PAIRS",
    "MAX_HEADER_BYTES",
    "MAX_KEYS",
    "OUR_HEADERS",
    "OUR_PREFIX",
    "TOMBSTONE_HEADER_NAME",
    "TOPIC_CONTEXT",
    "Content",
    "EncryptedDataKey",
    "EnvelopeHeader",
    "build_bound",
    "build_context",
]

HEADER_NAME = "streamcrypt"
TOMBSTONE_HEADER_NAME = "streamcrypt-tombstone"
OUR_HEADERS = frozenset({HEADER_NAME, TOMBSTONE_HEADER_NAME})
OUR_PREFIX = "streamcrypt:"
TOPIC_CONTEXT = "streamcrypt:topic"

MAX_HEADER_BYTES = 8 * 1024
MAX_CIPHERTEXT_BYTES = 6144  # the largest CiphertextBlob of the KMS API
MAX_CONTEXT_PAIRS = 16
MAX_BOUND = 16
MAX_KEYS = 8

BOUND_KEY = "key"
BOUND_HEADER_PREFIX = "header:"

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_KEY_ID = re.compile(r"[\x21-\x7e]{1,2048}")


class Content(StrEnum):
    """What the value holds. Version 1 seals whole payloads; the others are reserved for field-level sealing."""

    PAYLOAD = "PAYLOAD"
    AVRO_FIELDS = "AVRO_FIELDS"
    JSON_FIELDS = "JSON_FIELDS"


@dataclass(frozen=True, slots=True)
class EncryptedDataKey:
    """The DEK wrapped under one KEK.

    Attributes:
        provider: ``aws-kms`` or ``local``.
        key_id: The KEK: a key ARN for AWS KMS, an id of the keyring for the local provider.
        ciphertext: What the key service returned, at most 6,144 bytes.
    """

    provider: str
    key_id: str
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class EnvelopeHeader:
    """The content of the ``streamcrypt`` header.

    Attributes:
        suite: The algorithm suite.
        commitment: 32 bytes that only the right DEK derives. spec: 4.3
        context: The KMS encryption context, ascending by name.
        bound: The record fields bound to the value, ascending: ``key``, ``header:<name>``.
        content: What the value holds.
        keys: The DEK wrapped under 1 to 8 KEKs, ascending by (provider, key_id).
    """

    suite: Suite
    commitment: bytes
    context: tuple[tuple[str, str], ...]
    bound: tuple[str, ...]
    content: Content
    keys: tuple[EncryptedDataKey, ...]

    @property
    def topic(self) -> str:
        """The logical topic that the envelope is bound to."""
        return dict(self.context)[TOPIC_CONTEXT]

    def check(self) -> None:
        """Hold the header to every rule of content, context, bound fields and keys. spec: 3.1.6, 3.2, 3.3, 3.4

        Raises:
            MalformedEnvelope: A rule is broken.
            UnsupportedVersion: ``content`` is a reserved one.
        """
        if self.content is not Content.PAYLOAD:
            raise UnsupportedVersion(f"content {self.content} is reserved for a later version")
        if len(self.commitment) != COMMITMENT_BYTES:
            raise MalformedEnvelope("the commitment is not 32 bytes")
        _check_context(self.context)
        _check_bound(self.bound)
        _check_keys(self.keys)


def _check_context(context: tuple[tuple[str, str], ...]) -> None:
    if len(context) > MAX_CONTEXT_PAIRS:
        raise MalformedEnvelope(f"more than {MAX_CONTEXT_PAIRS} context pairs")
    names = [name for name, _ in context]
    _check_ascending([(_utf8(name, "a context name"),) for name in names], "context names")
    for _, value in context:
        _utf8(value, "a context value")
    if len({name.casefold() for name in names}) != len(names):
        raise MalformedEnvelope("context names differ in case only")
    if not all(names):
        raise MalformedEnvelope("a context name is empty")
    if not dict(context).get(TOPIC_CONTEXT):
        raise MalformedEnvelope(f"the context holds no {TOPIC_CONTEXT}")


def _check_bound(bound: tuple[str, ...]) -> None:
    if len(bound) > MAX_BOUND:
        raise MalformedEnvelope(f"more than {MAX_BOUND} bound fields")
    _check_ascending([(_utf8(item, "a bound field"),) for item in bound], "bound fields")
    for item in bound:
        if not _is_bound_item(item):
            raise MalformedEnvelope("a bound field is neither 'key' nor 'header:<name>'")


def _check_keys(keys: tuple[EncryptedDataKey, ...]) -> None:
    if not 1 <= len(keys) <= MAX_KEYS:
        raise MalformedEnvelope(f"not 1 to {MAX_KEYS} encrypted data keys")
    for key in keys:
        if not _PROVIDER.fullmatch(key.provider):
            raise MalformedEnvelope("a provider name is not 1 to 32 of a-z, 0-9 and '-'")
        if not _KEY_ID.fullmatch(key.key_id):
            raise MalformedEnvelope("a key id is not 1 to 2,048 printable ASCII characters")
        if not 1 <= len(key.ciphertext) <= MAX_CIPHERTEXT_BYTES:
            raise MalformedEnvelope(f"an encrypted data key is not 1 to {MAX_CIPHERTEXT_BYTES} bytes")
    _check_ascending([(key.provider.encode(), key.key_id.encode()) for key in keys], "encrypted data keys")


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise MalformedEnvelope(f"{what} holds a lone surrogate, which UTF-8 cannot carry") from None


def _check_ascending(items: list[tuple[bytes, ...]], what: str) -> None:
    if items != sorted(set(items)):
        raise MalformedEnvelope(f"{what} are not strictly ascending")


def _is_bound_item(item: str) -> bool:
    if item == BOUND_KEY:
        return True
    name = item.removeprefix(BOUND_HEADER_PREFIX)
    return name != item and bool(name) and name not in OUR_HEADERS


def build_context(
    user: Mapping[str, str], logical_topic: str, inputs: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """Build the encryption context of a topic: the user's pairs and ours, in canonical order. spec: 3.2.5, 9.1, 9.3

    Args:
        user: The user's pairs.
        logical_topic: The logical topic.
        inputs: Bound field to its value, where that value chose the KEK.

    Raises:
        ConfigError: A name is ours, empty, not a string, or differs from another in case only; too many pairs.
    """
    for name, value in user.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError("the encryption context maps strings to strings")
        if name.casefold().startswith(OUR_PREFIX):
            raise ConfigError(f"the context name {name!r} begins with {OUR_PREFIX!r}, which is ours")
    ours = {OUR_PREFIX + field: value for field, value in (inputs or {}).items()}
    pairs = tuple(sorted({**user, **ours, TOPIC_CONTEXT: logical_topic}.items(), key=lambda pair: _order(pair[0])))
    try:
        _check_context(pairs)
    except MalformedEnvelope as error:
        raise ConfigError(f"encryption context: {error}") from None
    return pairs


def _order(text: str) -> bytes:
    # A lone surrogate must reach the check that refuses it.
    return text.encode(errors="surrogatepass")


def build_bound(items: Iterable[str]) -> tuple[str, ...]:
    """Put a list of bound fields into canonical order.

    Raises:
        ConfigError: An item is neither ``key`` nor ``header:<name>``, is one of ours, or there are too many.
    """
    if isinstance(items, str):
        raise ConfigError("bound is a list such as ['key', 'header:type'], not a string")
    given = set(items)
    if not all(isinstance(item, str) for item in given):
        raise ConfigError("bound is a list of strings such as ['key', 'header:type']")
    bound = tuple(sorted(given, key=_order))
    try:
        _check_bound(bound)
    except MalformedEnvelope as error:
        raise ConfigError(f"bound: {error}") from None
    return bound
