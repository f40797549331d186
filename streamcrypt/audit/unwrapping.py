"""Encrypted data keys unwrapped to see whether they hold what an envelope is committed to. No key is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.envelope.codec import derivation_info
from streamcrypt.envelope.header import EncryptedDataKey, EnvelopeHeader
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    KeyServiceError,
    KeyUnavailable,
    UntrustedKey,
)
from streamcrypt.events import Event, KeyServiceCalled
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.tenants import TenantKeys

__all__ = ["Attempt", "Opening", "Unwrapping", "trusted_entries"]

MAX_UNWRAPS = 10_000


def trusted_entries(
    keys: KeyProvider, header: EnvelopeHeader, entries: Sequence[EncryptedDataKey]
) -> Sequence[tuple[EncryptedDataKey, str]]:
    """Pick the entries of a header that its readers trust; with a KEK for each tenant that depends on the context.

    Raises:
        KeyServiceError: An alias could not be resolved.
    """
    if not isinstance(keys, TenantKeys):
        return keys.trusted(entries)
    try:
        return keys.trusted_for(dict(header.context), entries)
    except (ContextMismatch, UntrustedKey):
        return ()  # no KEK is mapped to what the context says


class Opening(StrEnum):
    """What came of unwrapping one encrypted data key."""

    OPENS = "opens"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One encrypted data key, unwrapped under one KEK.

    Attributes:
        opening: ``fails`` where it holds no data key or another one; ``unknown`` where the key service did not say.
        why: Why it is not known.
        material: Id of the key material that unwrapped it; empty where the key service does not tell.
    """

    opening: Opening
    why: str = ""
    material: str = ""


class Unwrapping:
    """Unwraps each encrypted data key once, whoever asks. For one thread.

    Args:
        limit: The most calls to the key service. Default 10,000, at about 10 ms each: strange envelopes must not use
            up the quota of KMS.
    """

    def __init__(self, limit: int = MAX_UNWRAPS) -> None:
        self._limit = limit
        self._known: dict[tuple[bytes, bytes, EncryptedDataKey, str], Attempt] = {}
        self._away: dict[str, str] = {}
        self._materials: set[str] = set()

    def observe(self, event: Event) -> None:
        """Learn the key material from the call: pass this as observer to the key services that are asked."""
        if isinstance(event, KeyServiceCalled) and event.operation == "Decrypt" and event.key_material_id:
            self._materials.add(event.key_material_id)

    def attempt(self, keys: KeyProvider, header: EnvelopeHeader, encrypted: EncryptedDataKey, arn: str) -> Attempt:
        """Unwrap an entry of a header under the trusted KEK ``arn``, and compare the commitment."""
        # With all that the commitment is derived from: a forged header may differ in its context alone.
        info = derivation_info(header.suite, header.context, header.bound, header.content)
        key = (header.commitment, info, encrypted, arn)
        known = self._known.get(key)
        if known is not None:
            return known
        if arn in self._away:
            return Attempt(Opening.UNKNOWN, self._away[arn])
        if len(self._known) >= self._limit:
            return Attempt(Opening.UNKNOWN, f"more than {self._limit} encrypted data keys would have to be unwrapped")
        attempt = self._known[key] = self._try(keys, header, info, encrypted, arn)
        return attempt

    def _try(
        self, keys: KeyProvider, header: EnvelopeHeader, info: bytes, encrypted: EncryptedDataKey, arn: str
    ) -> Attempt:
        self._materials.clear()
        try:
            dek = keys.decrypt_data_key(encrypted, arn, dict(header.context))
            DataKey(dek, header.suite, info, header.commitment).wipe()
        except (AuthenticationFailed, UntrustedKey):
            return Attempt(Opening.FAILS)
        except (KeyServiceError, ConfigError) as error:
            if isinstance(error, KeyUnavailable):
                self._away[arn] = str(error)  # once is enough: thousands of envelopes would each wait for it
            return Attempt(Opening.UNKNOWN, str(error))
        # A region that was asked before may answer late, on a thread of its own: of two materials neither is known.
        materials = list(self._materials)
        return Attempt(Opening.OPENS, material=materials[0] if len(materials) == 1 else "")
