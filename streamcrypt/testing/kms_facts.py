"""Internal: the condition keys of a request to the test KMS, for policies.

Source: KMS developer guide, "AWS KMS condition keys"; IAM user guide, "AWS global condition context keys".
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from streamcrypt.testing.kms_model import SYMMETRIC, KMSKey
from streamcrypt.testing.kms_region import World

__all__ = ["caller_facts", "key_facts", "request_facts"]

_Known = dict[str, tuple[str, ...]]


def caller_facts(world: World, region: str, access_key_id: str) -> _Known:
    """What is known whatever the request is about: who calls, when, and which region."""
    now = world.clock()
    return {
        "aws:PrincipalArn": (world.access.principal(access_key_id),),
        "aws:PrincipalAccount": (world.account,),
        "aws:PrincipalType": ("AssumedRole",),
        "aws:RequestedRegion": (region,),
        "aws:SecureTransport": ("true",),  # plays a service that is reached over TLS
        "aws:SourceIp": ("127.0.0.1",),
        "aws:EpochTime": (str(int(now)),),
        "aws:CurrentTime": (dt.datetime.fromtimestamp(now, dt.UTC).isoformat(),),
        "kms:CallerAccount": (world.account,),
    }


def request_facts(members: Mapping[str, Any], named: str, context: Mapping[str, str] | None) -> _Known:
    """What the request says: the alias it names, its encryption context and its tags."""
    known = _tag_facts(members)
    alias = named.rpartition(":")[2] if ":alias/" in named else named
    if alias.startswith("alias/"):
        known["kms:RequestAlias"] = (alias,)
    if context:
        known["kms:EncryptionContextKeys"] = tuple(context)
        for name, value in context.items():
            # Condition keys ignore case, the names in a context do not: "app" and "APP" are two values of one key.
            shown = f"kms:EncryptionContext:{name.lower()}"
            known[shown] = (*known.get(shown, ()), value)
    if context is not None:
        known["kms:EncryptionAlgorithm"] = (SYMMETRIC,)
    return known


def key_facts(key: KMSKey, aliases: tuple[str, ...]) -> _Known:
    """What the key says: its kind, its tags and the aliases that point to it."""
    shared = key.shared
    known: _Known = {
        "kms:KeySpec": (shared.spec,),
        "kms:CustomerMasterKeySpec": (shared.spec,),
        "kms:KeyUsage": (shared.usage,),
        "kms:CustomerMasterKeyUsage": (shared.usage,),
        "kms:KeyOrigin": (shared.origin,),
        "kms:MultiRegion": (str(shared.multi_region).lower(),),
        **{f"aws:ResourceTag/{name}": (value,) for name, value in key.tags.items()},
    }
    if shared.multi_region:
        known["kms:MultiRegionKeyType"] = ("REPLICA" if key.is_replica else "PRIMARY",)
    if aliases:
        known["kms:ResourceAliases"] = aliases
    return known


def _tag_facts(members: Mapping[str, Any]) -> _Known:
    tags = members.get("Tags")
    if not isinstance(tags, list):
        return {}
    pairs = [
        (str(tag["TagKey"]), str(tag.get("TagValue", ""))) for tag in tags if isinstance(tag, dict) and "TagKey" in tag
    ]
    named: _Known = {"aws:TagKeys": tuple(name for name, _ in pairs)} if pairs else {}
    return named | {f"aws:RequestTag/{name}": (value,) for name, value in pairs}
