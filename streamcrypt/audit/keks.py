"""Which names mean one KEK: replicas of a multi-region key, aliases, bare ids.

Source: AWS KMS Developer Guide, "Multi-Region keys": related keys share partition, account and an id with mrk-.
"""

from __future__ import annotations

from collections.abc import Callable

from streamcrypt.errors import ConfigError, KeyRefused
from streamcrypt.keys.aws_kms.names import parse_key_arn, parse_key_name
from streamcrypt.keys.provider import KeyProvider

__all__ = ["KEKIdentity", "arn_of", "configured_keks", "kek_identity"]

MAX_LOOKUPS = 100
_MULTI_REGION = "mrk-"


def kek_identity(key_id: str) -> tuple[str, ...]:
    """Give what replicas of one multi-region key have in common; a name that is no key ARN stands for itself."""
    try:
        name = parse_key_arn(key_id, "key_id").text
    except ConfigError:
        return (key_id,)
    _, partition, _, region, account, resource = name.split(":", 5)
    bare = resource.removeprefix("key/")
    return (partition, account, bare) if bare.startswith(_MULTI_REGION) else (partition, account, bare, region)


def configured_keks(provider: KeyProvider) -> tuple[str, ...]:
    """Give the KEKs that a provider wraps data keys under, as ARNs (or ids of a keyring), most preferred first.

    Raises:
        ConfigError, KeyServiceError: A name cannot be resolved.
    """
    arns: Callable[[], tuple[str, ...]] | None = getattr(provider, "key_arns", None)
    return arns() if arns is not None else (provider.check(),)


def arn_of(provider: KeyProvider) -> str:
    """Give the key ARN that a provider's configured name means, whatever the key's state.

    Raises:
        KeyUnavailable, KeyRefused, ConfigError: DescribeKey gave none.
    """
    try:
        return provider.check()
    except KeyRefused as error:
        # A key that is disabled was found all the same.
        try:
            return parse_key_arn(error.key_id, "key_id").text
        except ConfigError:
            raise error from None


class KEKIdentity:
    """Tells whether a key id means the KEK that is asked about.

    Args:
        target: A key ARN, alias ARN, alias or key id; for the local provider an id of the keyring.
        resolve: Gives the key ARN of a name that is none, by DescribeKey. None: names are compared as they stand, as
            those of a keyring are.

    Raises:
        ConfigError: The target is no name of a KMS key.
        KeyServiceError: It could not be resolved.
    """

    def __init__(self, target: str, resolve: Callable[[str], str] | None) -> None:
        self._resolve = resolve
        self._known: dict[str, bool] = {target: True}
        self._lookups = 0
        self.arn = target
        """The key ARN, or the id of a keyring."""
        if resolve is not None:
            if not parse_key_name(target).is_key_arn:
                self.arn = resolve(target)
            self._identity = kek_identity(self.arn)

    def means(self, key_id: str) -> bool:
        """Say whether a record's key id means the KEK.

        Raises:
            KeyServiceError: It is an alias or a bare id and could not be resolved.
        """
        known = self._known.get(key_id)
        if known is None:
            known = self._known[key_id] = self._compare(key_id)
        return known

    def _compare(self, key_id: str) -> bool:
        if self._resolve is None:
            return key_id == self.arn
        try:
            name = parse_key_name(key_id)
        except ConfigError:
            return False  # nothing that KMS knows
        if name.is_key_arn:
            return kek_identity(key_id) == self._identity
        if key_id == self.arn.rpartition("/")[2]:
            return True
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise KeyRefused(f"more than {MAX_LOOKUPS} key ids of records are no ARNs", operation="DescribeKey")
        return kek_identity(self._resolve(key_id)) == self._identity
