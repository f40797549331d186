"""How an AWS KMS key is named, and where its endpoint is: syntax only, no call.

Source: AWS KMS API reference, "KeyId" of DescribeKey; AWS General Reference, "Amazon Resource Names".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from streamcrypt.errors import ConfigError

__all__ = [
    "AWS_MANAGED_REMEDY",
    "KEY_NAME_FORMS",
    "MAX_KEKS",
    "KeyName",
    "check_endpoint",
    "check_region",
    "identity_of",
    "in_region",
    "is_multi_region",
    "parse_key_arn",
    "parse_key_name",
    "pick_endpoint",
]

_ALIAS_PATH = r"alias/[a-zA-Z0-9/_-]{1,250}"
# Emulators write multi-region ids with the dashes of a UUID; KMS writes mrk- and 32 digits.
_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|mrk-[0-9a-f-]{32,36}"
_ARN = re.compile(
    rf"arn:(aws[a-z-]*):kms:(?P<region>[a-z0-9-]{{1,40}}):\d{{12}}:(?:key/(?:{_ID})|(?P<alias>{_ALIAS_PATH}))", re.ASCII
)
_ALIAS = re.compile(_ALIAS_PATH, re.ASCII)
_BARE_ID = re.compile(_ID, re.ASCII)
_REGION = re.compile(r"[a-z0-9-]{1,40}", re.ASCII)
_AWS_ALIAS = "alias/aws/"
_MULTI_REGION = "mrk-"
MAX_KEKS = 8
"""An envelope holds no more encrypted data keys. spec: 3.4.1"""

KEY_NAME_FORMS = "Give a key ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), an alias (alias/NAME), an alias ARN or a key id."
AWS_MANAGED_REMEDY = "Create a customer managed key and put its ARN or alias into key_id."


@dataclass(frozen=True, slots=True)
class KeyName:
    """A KEK as the user names it.

    Attributes:
        text: The name itself.
        region: From the ARN; empty where the name is no ARN.
        is_key_arn: Whether it is a full key ARN, which needs no resolving.
        may_move: Whether it is an alias, which may point elsewhere later.
        may_be_multi_region: Whether it is the name of a multi-region key, or an alias, which may point to one.
    """

    text: str
    region: str
    is_key_arn: bool
    may_move: bool

    @property
    def may_be_multi_region(self) -> bool:
        """Whether replicas in other regions may stand for the key."""
        return self.may_move or is_multi_region(self.text)

    def may_be_in(self, region: str) -> bool:
        """Whether the name may mean a key in ``region``: it names that region or none, or is a multi-region key's."""
        return not self.region or self.region == region or (self.is_key_arn and self.may_be_multi_region)


def parse_key_name(text: object) -> KeyName:
    """Parse a key ARN, alias ARN, alias or key id.

    Raises:
        ConfigError: It is none of these, or an alias of an AWS managed key.
    """
    if not isinstance(text, str) or not text:
        raise ConfigError("key_id is not a KMS key name", remedy=KEY_NAME_FORMS)
    arn = _ARN.fullmatch(text)
    alias = arn["alias"] if arn else text if _ALIAS.fullmatch(text) else None
    if alias and alias.startswith(_AWS_ALIAS):
        raise ConfigError(
            f"key_id: {text} is an AWS managed key, which serves only its own AWS service", remedy=AWS_MANAGED_REMEDY
        )
    if arn:
        return KeyName(text, arn["region"], is_key_arn=not alias, may_move=bool(alias))
    if alias or _BARE_ID.fullmatch(text):
        return KeyName(text, "", is_key_arn=False, may_move=bool(alias))
    raise ConfigError(f"key_id: {text!r} is not a KMS key name", remedy=KEY_NAME_FORMS)


def parse_key_arn(text: object, setting: str) -> KeyName:
    """Parse a full key ARN.

    Raises:
        ConfigError: It is not one. The text names ``setting``.
    """
    arn = _ARN.fullmatch(text) if isinstance(text, str) else None
    if arn is None or arn["alias"]:
        raise ConfigError(
            f"{setting}: {text!r} is not a key ARN",
            remedy="Trust is a set of key ARNs (arn:aws:kms:REGION:ACCOUNT:key/ID): an alias can be pointed elsewhere.",
        )
    return KeyName(arn[0], arn["region"], is_key_arn=True, may_move=False)


def identity_of(arn: str) -> tuple[str, ...]:
    """Say which key a key ARN means: the same for all replicas of a multi-region key.

    Source: AWS KMS Developer Guide, "Multi-Region keys": related keys share partition, account and key id.
    """
    _, partition, _, region, account, resource = arn.split(":", 5)
    key_id = resource.removeprefix("key/")
    return (partition, account, key_id) if is_multi_region(key_id) else (partition, account, key_id, region)


def is_multi_region(key: str) -> bool:
    """Whether a key ARN or key id is that of a multi-region key."""
    return key.rpartition("/")[2].startswith(_MULTI_REGION)


def in_region(arn: str, region: str) -> str:
    """Give the ARN of a multi-region key's replica in ``region``; that of any other key is left as it is."""
    if not is_multi_region(arn):
        return arn
    parts = arn.split(":", 5)
    parts[3] = region
    return ":".join(parts)


def check_endpoint(url: object, *, insecure: bool) -> str:
    """Accept the URL of a KMS endpoint: https, or http on loopback.

    Args:
        url: The URL.
        insecure: Accept http elsewhere too; data keys then cross the network in clear.

    Raises:
        ConfigError: It is not such a URL.
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port_is_valid = parts.hostname, parts.port != 0
    except ValueError:
        host, port_is_valid = None, False
    if not host or not port_is_valid or parts.scheme not in {"http", "https"}:
        raise ConfigError("endpoint_url: not an http:// or https:// URL")
    if parts.username or parts.query or parts.fragment:
        raise ConfigError("endpoint_url: a URL without user, query and fragment is needed")
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise ConfigError(
            f"endpoint_url: http://{host} would carry data keys over the network in clear",
            remedy="Use https://, or set insecure_endpoint where the network is private to the containers.",
        )
    return str(url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def pick_endpoint(endpoints: str | Mapping[str, str] | None, region: str) -> str | None:
    """Return the endpoint URL for a region; None for AWS's own.

    Raises:
        ConfigError: Endpoints are given by region, and this region has none: AWS itself is not silently taken.
    """
    if endpoints is None or isinstance(endpoints, str):
        return endpoints
    if region not in endpoints:
        raise ConfigError(f"endpoint_url: no endpoint for region {region}", remedy=f"Add {region}: URL to it.")
    return endpoints[region]


def check_region(region: object, setting: str = "region") -> str:
    """Accept a region name by its syntax.

    Raises:
        ConfigError: It is not one.
    """
    if not isinstance(region, str) or not _REGION.fullmatch(region):
        raise ConfigError(f"{setting}: {region!r} is not a region name such as eu-west-1")
    return region
