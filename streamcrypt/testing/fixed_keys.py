"""A key service that gives one known data key: for test vectors and for tests that need the same bytes every run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import KeyRefused
from streamcrypt.keys.provider import GeneratedDataKey

__all__ = ["FixedKeyProvider"]


class FixedKeyProvider:
    """Unwraps every trusted encrypted data key to the same DEK, whatever its ciphertext and context.

    So nothing but the envelope itself refuses a record: a wrong context or an altered ciphertext does not stop here.

    Args:
        dek: What unwrapping gives; of any length, so that a DEK of 31 bytes can be played.
        trusts: The trusted KEKs as (provider, key id).
        encrypted: The encrypted data keys that minting returns; empty (the default): minting is refused.

    Attributes:
        trusts: The trusted KEKs; assign a new collection, and raise :attr:`trust_generation`, to change them.
        trust_generation: See :class:`streamcrypt.keys.provider.KeyProvider`.
        sealing_generation: The same; raise it to have data keys for writing replaced.
        contexts: The encryption context of every call, oldest first.
        unwrapped: The key id of every unwrapping, oldest first.
    """

    provider = "fixed"

    def __init__(
        self, dek: bytes, trusts: Collection[tuple[str, str]], encrypted: tuple[EncryptedDataKey, ...] = ()
    ) -> None:
        self._dek = dek
        self._encrypted = encrypted
        self.trusts = trusts
        self.trust_generation = 0
        self.sealing_generation = 0
        self.contexts: list[dict[str, str]] = []
        self.unwrapped: list[str] = []

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        """Mint the one DEK.

        Raises:
            KeyRefused: No encrypted data keys were given.
        """
        if not self._encrypted:
            raise KeyRefused("this double only unwraps", operation="GenerateDataKey")
        self.contexts.append(dict(context))
        return GeneratedDataKey(bytearray(self._dek), self._encrypted)

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Pick the encrypted data keys whose (provider, key id) is trusted, in the header's order."""
        return [(key, key.key_id) for key in keys if (key.provider, key.key_id) in self.trusts]

    def decrypt_data_key(
        self,
        encrypted: EncryptedDataKey,  # noqa: ARG002  the protocol's
        key_id: str,
        context: Mapping[str, str],
    ) -> bytearray:
        """Give the one DEK; the ciphertext of ``encrypted`` is not looked at."""
        self.contexts.append(dict(context))
        self.unwrapped.append(key_id)
        return bytearray(self._dek)

    def under(self, key_id: str | Sequence[str], trusted_keys: Sequence[str] = ()) -> FixedKeyProvider:
        """Give a double with the same DEK that trusts these of its KEKs alone: for :class:`streamcrypt.TenantKeys`.

        Its calls are noted here.
        """
        names = {*([key_id] if isinstance(key_id, str) else key_id), *trusted_keys}
        other = FixedKeyProvider(self._dek, [pair for pair in self.trusts if pair[1] in names], self._encrypted)
        other.contexts, other.unwrapped = self.contexts, self.unwrapped
        return other

    def check(self) -> str:
        """Say that all is well."""
        return "fixed"

    def close(self) -> None:
        """Do nothing: the DEK is no secret."""
