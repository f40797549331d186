"""The contract with a key service: mint a data key under a KEK, unwrap one, and say which KEKs are trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamcrypt.envelope.header import EncryptedDataKey

__all__ = ["GeneratedDataKey", "KeyProvider", "RewrappingKeyProvider"]


@dataclass(frozen=True, slots=True, repr=False)
class GeneratedDataKey:
    """A fresh data key, in clear and wrapped.

    Attributes:
        plaintext: The 32 bytes of the DEK. The receiver derives from it and overwrites it.
        encrypted: The DEK wrapped under every configured KEK that answered, ascending by (provider, key_id).
        missing: The configured KEKs that did not wrap it, each with the class name of the error. Empty but where a
            provider may go on with fewer (``require: any``).
        sealing_generation: The provider's :attr:`KeyProvider.sealing_generation` that it was minted in (of
            ``TenantKeys``: ``sealing_generation_for`` its context); None where the provider does not say.
    """

    plaintext: bytearray
    encrypted: tuple[EncryptedDataKey, ...]
    missing: tuple[tuple[str, str], ...] = ()
    sealing_generation: int | None = None

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

    @property
    def sealing_generation(self) -> int:
        """Grows when a data key minted from now on would be wrapped otherwise than the ones before.

        An alias moved, the current key material of a KEK changed, or a KEK that was away is back. Encryptors replace
        their data keys then. Reading it never blocks: a provider looks again on a thread of its own, when due.
        """
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


@runtime_checkable
class RewrappingKeyProvider(KeyProvider, Protocol):
    """A key service that can wrap an existing DEK anew, so that the values sealed under it need not be touched."""

    def rewrap_data_key(
        self, keys: Sequence[EncryptedDataKey], context: Mapping[str, str]
    ) -> tuple[EncryptedDataKey, ...]:
        """Wrap the DEK of a header under every configured KEK, whatever ``require`` says.

        All of the result comes from one entry of ``keys``: the most preferred trusted one that the key service opens.
        Whether that entry holds the DEK of the header's commitment is not known here; opening a record shows it.

        Args:
            keys: The encrypted data keys of one header.
            context: The header's encryption context; it stays as it is.

        Returns:
            One entry for each configured KEK, ascending by (provider, key_id).

        Raises:
            UntrustedKey: No entry is of a trusted KEK, or the key service says that it is of another one.
            AuthenticationFailed: The entry or the context was altered.
            KeyUnavailable: A retry helps.
            KeyRefused: An operator must act.
        """
        ...
