"""The contract with a key service: mint a data key under a KEK, unwrap one, and say which KEKs are trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamcrypt.envelope.header import EncryptedDataKey

__all__ = ["GeneratedDataKey", "KeyProvider"]


@dataclass(frozen=True, slots=True, repr=False)
class GeneratedDataKey:
    """A fresh data key, in clear and wrapped.

    Attributes:
        plaintext: The 32 bytes of the DEK. The receiver derives from it and overwrites it.
        encrypted: The DEK wrapped under every configured KEK, ascending by (provider, key_id).
    """

    plaintext: bytearray
    encrypted: tuple[EncryptedDataKey, ...]

    def __repr__(self) -> str:
        return f"GeneratedDataKey(key_ids={[k.key_id for k in self.encrypted]})"


@runtime_checkable
class KeyProvider(Protocol):
    """A key service as streamcrypt sees it. Implementations are safe to call from several threads.

    Every method raises only errors of :mod:`streamcrypt.errors`.
    """

    @property
    def provider(self) -> str:
        """The name under which wrapped keys carry this provider in the envelope: ``aws-kms`` or ``local``."""
        ...

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint a DEK of 32 bytes, wrapped under the configured KEK with exactly this encryption context. spec: 9.1

        Raises:
            KeyUnavailable: A retry helps.
            KeyRefused: An operator must act.
            ConfigError: The configured KEK can never serve (wrong usage, AWS-managed, malformed).
        """
        ...

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Pick the wrapped keys that may be tried, most preferred first, each with the *trusted* KEK id to call.

        The id returned is this provider's own string, never the record's. Empty where nothing is trusted. spec: 9.2

        Raises:
            KeyServiceError: An alias could not be resolved, so that trust is not known.
        """
        ...

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        """Unwrap a DEK under the trusted KEK ``key_id`` with exactly this encryption context.

        Raises:
            AuthenticationFailed: The wrapped key or the context was altered.
            UntrustedKey: The wrapped key is not of that KEK.
            KeyUnavailable: A retry helps.
            KeyRefused: An operator must act.
        """
        ...

    @property
    def trust_generation(self) -> int:
        """Grows whenever the set of trusted KEKs changes, so that caches check their entries again."""
        ...

    def check(self) -> str:
        """Prove that the configured KEK exists and may be used; return its ARN or id.

        Raises:
            ConfigError, KeyUnavailable, KeyRefused: As :meth:`generate_data_key`.
        """
        ...

    def close(self) -> None:
        """Free connections and overwrite key material held in memory."""
        ...
