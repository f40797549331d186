"""Internal: rotation and replication at the test KMS: what concerns the material that replicas share.

Source: the AWS KMS API reference (2014-11-01); KMS developer guide, "Rotate AWS KMS keys" and "Multi-Region keys".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_attributes import bypass_facts, read_policy, read_tags, require_no_lockout
from streamcrypt.testing.kms_call import NO_FACTS, Call, Members, invalid, page
from streamcrypt.testing.kms_conditions import Facts
from streamcrypt.testing.kms_keys import metadata
from streamcrypt.testing.kms_model import DAY, KeyMaterial, KMSKey
from streamcrypt.testing.kms_region import REGION_NAME

__all__ = ["MAX_ON_DEMAND_ROTATIONS", "ROTATION"]

MAX_ON_DEMAND_ROTATIONS = 25
_DEFAULT_PERIOD_DAYS = 365
_CONFLICT_SECONDS = 20 * 60.0


def _rotating(call: Call, facts: Facts = NO_FACTS) -> KMSKey:
    key = call.key(facts=facts)
    key.require_customer_managed()
    if not key.rotates:
        raise key.error("UnsupportedOperationException", f"{key.arn} does not support rotation.")
    return key


def _primary(call: Call, facts: Facts = NO_FACTS) -> KMSKey:
    key = _rotating(call, facts)
    if key.is_replica:
        primary = key.shared.primary_region
        raise key.error("UnsupportedOperationException", f"{key.arn} is a replica: ask its primary key in {primary}.")
    key.require_state(enabled=True, usable=True)
    return key


def _enable_key_rotation(call: Call) -> None:
    days = call.number("RotationPeriodInDays", _DEFAULT_PERIOD_DAYS, 90, 2560)
    shared = _primary(call, {"kms:RotationPeriodInDays": (str(days),)}).shared
    shared.period_days, shared.next_rotation = days, call.world.clock() + days * DAY


def _disable_key_rotation(call: Call) -> None:
    _primary(call).shared.period_days = 0


def _get_key_rotation_status(call: Call) -> Members:
    key = call.key()
    if not key.rotates:
        raise key.error("UnsupportedOperationException", f"{key.arn} does not support rotation.")
    shared = key.shared
    pending = key.own_state.startswith("Pending")
    if shared.manager == "AWS":
        return {"KeyId": key.arn, "KeyRotationEnabled": True, "RotationPeriodInDays": _DEFAULT_PERIOD_DAYS}
    if not shared.period_days or pending:
        return {"KeyId": key.arn, "KeyRotationEnabled": False}
    return {
        "KeyId": key.arn,
        "KeyRotationEnabled": True,
        "RotationPeriodInDays": shared.period_days,
        "NextRotationDate": shared.next_rotation,
    }


def _rotate_key_on_demand(call: Call) -> Members:
    key = _primary(call)
    shared, now = key.shared, call.world.clock()
    if shared.on_demand_rotations >= MAX_ON_DEMAND_ROTATIONS:
        raise key.error(
            "LimitExceededException",
            f"{key.arn} was rotated on demand {MAX_ON_DEMAND_ROTATIONS} times, the most allowed.",
        )
    if shared.period_days and shared.next_rotation - now <= _CONFLICT_SECONDS:
        raise key.error("ConflictException", f"An automatic rotation of {key.arn} begins within 20 minutes.")
    call.material_id = shared.rotate("ON_DEMAND", now).id
    call.world.remember(shared)
    return {"KeyId": key.arn}


def _list_key_rotations(call: Call) -> Members:
    key = _rotating(call)
    included = call.members.get("IncludeKeyMaterial", "ROTATIONS_ONLY")
    if included not in {"ROTATIONS_ONLY", "ALL_KEY_MATERIAL"}:
        raise invalid("IncludeKeyMaterial", "Member must satisfy enum value set: [ALL_KEY_MATERIAL, ROTATIONS_ONLY]")
    listed = [
        _rotation(key, material)
        for material in key.shared.materials
        if material.rotation or included == "ALL_KEY_MATERIAL"
    ]
    return page(call, listed, "Rotations", 100, 1000)


def _rotation(key: KMSKey, material: KeyMaterial) -> Members:
    current = material is key.material
    shown: Members = {
        "KeyId": key.arn,
        "KeyMaterialId": material.id,
        "KeyMaterialState": "CURRENT" if current else "NON_CURRENT",
    }
    if material.rotation:
        shown |= {"RotationDate": material.rotated, "RotationType": material.rotation}
    return shown


# ---- replicas ----


def _region_member(call: Call, name: str) -> str:
    region = call.text(name)
    if not REGION_NAME.fullmatch(region):
        raise invalid(name, "Member must satisfy regular expression pattern: ^([a-z]+-){2,3}\\d+$")
    return region


def _require_multi_region(key: KMSKey) -> None:
    if not key.shared.multi_region or key.is_replica:
        raise key.error("UnsupportedOperationException", f"{key.arn} is not a multi-Region primary key.")


def _replicate_key(call: Call) -> Members:
    place = _region_member(call, "ReplicaRegion")
    key = call.key(facts={"kms:ReplicaRegion": (place,)})
    region = call.world.region(place)
    call.authorize("CreateKey", facts={"aws:RequestedRegion": (place,), **bypass_facts(call)})
    _require_multi_region(key)
    key.require_state(enabled=True, usable=True)
    # Due deletions there come first, or a replica that is gone would be in the way.
    region.get(key.id)
    if place in key.shared.members:
        raise key.error("AlreadyExistsException", f"{key.arn} already has a related key in {place}.")
    replica = KMSKey(
        key.shared,
        place,
        call.world.clock(),
        read_policy(call),
        description=call.members.get("Description", ""),
        tags=read_tags(call),
    )
    require_no_lockout(call, replica, replica.policy)
    region.add(replica)
    tags = [{"TagKey": name, "TagValue": value} for name, value in replica.tags.items()]
    return {"ReplicaKeyMetadata": metadata(replica), "ReplicaPolicy": replica.policy, "ReplicaTags": tags}


def _update_primary_region(call: Call) -> None:
    place = _region_member(call, "PrimaryRegion")
    key = call.key(facts={"kms:PrimaryRegion": (place,)})
    _require_multi_region(key)
    key.require_state(enabled=True, usable=True)
    replica = call.world.region(place).get(key.id)
    if replica is None or replica is key:
        raise key.error("NotFoundException", f"{key.arn} has no replica in {place}.")
    call.authorize("UpdatePrimaryRegion", replica, facts={"kms:PrimaryRegion": (place,)})
    replica.require_state(enabled=True, usable=True)
    key.shared.primary_region = place


ROTATION: Mapping[str, Callable[[Call], Members | None]] = {
    "DisableKeyRotation": _disable_key_rotation,
    "EnableKeyRotation": _enable_key_rotation,
    "GetKeyRotationStatus": _get_key_rotation_status,
    "ListKeyRotations": _list_key_rotations,
    "ReplicateKey": _replicate_key,
    "RotateKeyOnDemand": _rotate_key_on_demand,
    "UpdatePrimaryRegion": _update_primary_region,
}
