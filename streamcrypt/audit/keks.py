"""Which names mean one KEK: replicas of a multi-region key, aliases, bare ids.

Source: AWS KMS Developer Guide, "Multi-Region keys": related keys share partition, account and an id with mrk-.
"""

from __future__ import annotations

from collections.abc import Callable

from streamcrypt.errors import ConfigError, KeyRefused
from streamcrypt.keys.aws_names import parse_key_arn, parse_key_name
from streamcrypt.keys.provider import KeyProvider

__all__ = ["KEKIdentity", "arn_of"]

MAX_LOOKUPS = 100
_MULTI_REGION = "mrk-"


def _identity(arn: str) -> tuple[str, ...]:
    _, partition, _, region, account, resource = arn.split(":", 5)
    key_id = resource.removeprefix("key/")
    return (partition, account, key_id) if key_id.startswith(_MULTI_REGION) else (partition, account, key_id, region)


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
            self._identity = _identity(self.arn)

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
            return _identity(key_id) == self._identity
        if key_id == self.arn.rpartition("/")[2]:
            return True
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise KeyRefused(f"more than {MAX_LOOKUPS} key ids of records are no ARNs", operation="DescribeKey")
        return _identity(self._resolve(key_id)) == self._identity
