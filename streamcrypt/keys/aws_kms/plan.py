"""What the settings of a provider mean: which KEKs there are, and in which regions each is called. No call is made."""

from __future__ import annotations

from collections.abc import Sequence

from streamcrypt.errors import ConfigError
from streamcrypt.keys.aws_kms.names import (
    KEY_NAME_FORMS,
    MAX_KEKS,
    KeyName,
    check_region,
    identity_of,
    is_multi_region,
    parse_key_arn,
    parse_key_name,
)

__all__ = ["Plan"]


class Plan:
    """The settings of :class:`streamcrypt.AWSKMSKeyProvider` that say which keys are meant, checked.

    Attributes:
        region: Of names that say none; empty: that of the AWS environment.
        named: Each KEK's name and the regions where it is called if it is a multi-region key, most preferred first:
            first those that wrap data keys, then those that only open.
        configured: How many of them wrap.
        require_all: Whether each of those must.
        listed_regions: By which regions a record may name a multi-region key.

    Raises:
        ConfigError: A name or region is malformed, or they contradict each other.
    """

    def __init__(
        self,
        key_id: str | Sequence[str],
        *,
        region: str | None,
        regions: Sequence[str],
        trusted_keys: Sequence[str],
        require: str,
    ) -> None:
        if require not in ("all", "any"):
            raise ConfigError(f"require: {require!r} is neither 'all' nor 'any'")
        self.require_all = require == "all"
        names = _configured(key_id)
        if isinstance(trusted_keys, str):
            raise ConfigError("trusted_keys is a list of key ARNs, not a string")
        if isinstance(regions, str):
            raise ConfigError("regions is a list of regions, not a string")
        further = [check_region(item, f"regions[{place}]") for place, item in enumerate(regions)]
        trusted = [parse_key_arn(arn, f"trusted_keys[{place}]") for place, arn in enumerate(trusted_keys)]
        given = check_region(region) if region is not None else ""
        _check_use(names, trusted, given, further)
        self.region = given or next((name.region for name in names if name.region), "")
        arns = [name.region for name in [*names, *trusted] if name.region]
        self.listed_regions = frozenset([*further, *arns, *([given] if given else [])])
        wrapping = _one_each(names, [given] if given else [], further)
        opening = _one_each(trusted, [given] if given and further else [], further)
        self.named = [*wrapping, *opening]
        self.configured = len(wrapping)

    @classmethod
    def lenient(
        cls,
        key_id: str | Sequence[str],
        *,
        region: str | None,
        regions: Sequence[str],
        trusted_keys: Sequence[str],
        require: str,
    ) -> Plan:
        """Make one of settings that were meant for other keys: leave out a region that these cannot be in.

        Raises:
            ConfigError: A name is malformed.
        """
        names = _configured(key_id)
        could = [*names, *(parse_key_arn(arn, f"trusted_keys[{place}]") for place, arn in enumerate(trusted_keys))]
        return cls(
            key_id,
            region=region if region is not None and any(name.may_be_in(region) for name in names) else None,
            regions=regions if any(name.may_be_multi_region for name in could) else (),
            trusted_keys=trusted_keys,
            require=require,
        )


def _configured(key_id: str | Sequence[str]) -> list[KeyName]:
    keys = list(key_id) if isinstance(key_id, Sequence) and not isinstance(key_id, str) else [key_id]
    if not keys:
        raise ConfigError("key_id: the list is empty", remedy=KEY_NAME_FORMS)
    if len(keys) > MAX_KEKS:
        raise ConfigError(
            f"key_id: {len(keys)} keys, and an envelope holds {MAX_KEKS}", remedy=f"Name at most {MAX_KEKS}."
        )
    return [parse_key_name(key) for key in keys]


def _check_use(names: Sequence[KeyName], trusted: Sequence[KeyName], region: str, regions: Sequence[str]) -> None:
    """Refuse a setting that nothing would use: it would promise what nobody keeps."""
    if region and not any(name.may_be_in(region) for name in names):
        raise ConfigError(
            f"region: {region} contradicts key_id, which is in {names[0].region}",
            remedy="Leave region out, or name the key of that region.",
        )
    if regions and not any(name.may_be_multi_region for name in [*names, *trusted]):
        raise ConfigError(
            "regions goes with multi-region keys, and the keys named are none",
            remedy="Leave regions out, or name multi-region keys: their ids begin with mrk-.",
        )


def _one_each(
    names: Sequence[KeyName], nearest: Sequence[str], further: Sequence[str]
) -> list[tuple[KeyName, tuple[str, ...]]]:
    """Take ARNs of one multi-region key for one KEK, in the regions where it is called."""
    own: dict[tuple[str, ...], list[KeyName]] = {}
    for name in names:
        same = name.is_key_arn and is_multi_region(name.text)
        own.setdefault(identity_of(name.text) if same else (name.text,), []).append(name)
    return [(several[0], _places(several, nearest, further)) for several in own.values()]


def _places(several: Sequence[KeyName], nearest: Sequence[str], further: Sequence[str]) -> tuple[str, ...]:
    named = [name.region for name in several if name.region]
    first = list(nearest) or named[:1]
    if not first and further:
        return ("", *further)  # the home region comes first, and is not known yet
    return tuple(dict.fromkeys([*first, *further, *named]))
