"""Internal: the operations of the test KMS on keys as a whole. Source: the AWS KMS API reference (2014-11-01)."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_attributes import bypass_facts, read_policy, read_tags, require_no_lockout
from streamcrypt.testing.kms_call import Call, Members, page
from streamcrypt.testing.kms_model import (
    DAY,
    DEFAULT_WINDOW_DAYS,
    SYMMETRIC,
    KeyMaterial,
    KMSKey,
    ServiceError,
    SharedKey,
)

__all__ = ["KEYS", "metadata"]

_STORE_ID = re.compile(r"cks-[0-9a-f]{17}")
_CLUSTER_ID = "cluster-1a23b4cdefg"
_USAGES = {"RSA": {"ENCRYPT_DECRYPT", "SIGN_VERIFY"}, "HMAC": {"GENERATE_VERIFY_MAC"}, "ECC": {"SIGN_VERIFY"}}


def metadata(key: KMSKey) -> Members:
    """Return the KeyMetadata of a key."""
    shared = key.shared
    shown: Members = {
        "AWSAccountId": shared.account,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created,
        "Enabled": key.state == "Enabled",
        "Description": key.description,
        "KeyUsage": shared.usage,
        "KeyState": key.state,
        "Origin": shared.origin,
        "KeyManager": shared.manager,
        "CustomerMasterKeySpec": shared.spec,
        "KeySpec": shared.spec,
        "MultiRegion": shared.multi_region,
    }
    if shared.spec == SYMMETRIC:
        shown["EncryptionAlgorithms"] = [SYMMETRIC]
        shown |= key.shows(key.material, "CurrentKeyMaterialId")
    if key.state == "PendingDeletion":
        shown["DeletionDate"] = key.deletion_date
    if key.state == "PendingReplicaDeletion":
        shown["PendingDeletionWindowInDays"] = key.window_days
    if shared.custom_key_store_id:
        shown |= {"CustomKeyStoreId": shared.custom_key_store_id, "CloudHsmClusterId": _CLUSTER_ID}
    if shared.multi_region:
        named = {region: {"Arn": member.arn, "Region": region} for region, member in shared.members.items()}
        primary = named.pop(shared.primary_region, {})
        shown["MultiRegionConfiguration"] = {
            "MultiRegionKeyType": "REPLICA" if key.is_replica else "PRIMARY",
            "PrimaryKey": primary,
            "ReplicaKeys": list(named.values()),
        }
    return shown


def _create_key(call: Call) -> Members:
    call.authorize("CreateKey", facts=bypass_facts(call))
    members = call.members
    spec = str(members.get("KeySpec") or members.get("CustomerMasterKeySpec") or SYMMETRIC)
    usage = members.get("KeyUsage", "ENCRYPT_DECRYPT")
    if usage not in _USAGES.get(spec.split("_", maxsplit=1)[0], {"ENCRYPT_DECRYPT"}):
        raise ServiceError("ValidationException", f"KeyUsage {usage} is not valid for KeySpec {spec}.")
    origin, store = _origin(call)
    shared = SharedKey(
        id=f"mrk-{uuid.uuid4().hex}" if members.get("MultiRegion") else str(uuid.uuid4()),
        account=call.world.account,
        primary_region=call.region.name,
        materials=[KeyMaterial.generate()],
        spec=spec,
        usage=usage,
        origin=origin,
        custom_key_store_id=store,
    )
    key = KMSKey(
        shared,
        call.region.name,
        call.world.clock(),
        read_policy(call),
        description=members.get("Description", ""),
        tags=read_tags(call),
    )
    require_no_lockout(call, key, key.policy)
    call.key_arn = call.region.add(key).arn
    return {"KeyMetadata": metadata(key)}


def _origin(call: Call) -> tuple[str, str]:
    origin, store = call.members.get("Origin", "AWS_KMS"), call.members.get("CustomKeyStoreId", "")
    if origin not in {"AWS_KMS", "AWS_CLOUDHSM"}:
        raise ServiceError("UnsupportedOperationException", f"The test KMS has no keys of origin {origin}.")
    if bool(store) != (origin == "AWS_CLOUDHSM"):
        raise ServiceError("ValidationException", "CustomKeyStoreId goes together with Origin AWS_CLOUDHSM.")
    if store and call.members.get("MultiRegion"):
        raise ServiceError("UnsupportedOperationException", "A custom key store has no multi-Region keys.")
    if store and not _STORE_ID.fullmatch(store):
        raise ServiceError("CustomKeyStoreNotFoundException", f"{store} does not exist.")
    if store in call.world.stores_away:
        raise ServiceError("CustomKeyStoreInvalidStateException", f"{store} is not connected.")
    return origin, store


def _describe_key(call: Call) -> Members:
    return {"KeyMetadata": metadata(call.key())}


def _list_keys(call: Call) -> Members:
    call.authorize("ListKeys")
    return page(call, [{"KeyId": key.id, "KeyArn": key.arn} for key in call.region], "Keys", 100, 1000)


def _enable_key(call: Call) -> None:
    key = call.key()
    key.require_customer_managed()
    key.require_state()
    key.own_state = "Enabled"
    if key.shared.period_days and not key.is_replica:
        # A rotation that fell due while the key was disabled happens now.
        key.shared.next_rotation = max(key.shared.next_rotation, call.world.clock())


def _disable_key(call: Call) -> None:
    key = call.key()
    key.require_customer_managed()
    key.require_state()
    key.own_state = "Disabled"


def _schedule_key_deletion(call: Call) -> Members:
    days = call.number("PendingWindowInDays", DEFAULT_WINDOW_DAYS, 7, 30)
    key = call.key(facts={"kms:ScheduleKeyDeletionPendingWindowInDays": (str(days),)})
    key.require_customer_managed()
    key.require_state()
    key.window_days = days
    answer: Members = {"KeyId": key.arn, "PendingWindowInDays": days}
    if not key.is_replica and len(key.shared.members) > 1:
        key.own_state = "PendingReplicaDeletion"
    else:
        key.own_state, key.deletion_date = "PendingDeletion", call.world.clock() + days * DAY
        answer["DeletionDate"] = key.deletion_date
    return answer | {"KeyState": key.own_state}


def _cancel_key_deletion(call: Call) -> Members:
    key = call.key()
    if key.own_state not in {"PendingDeletion", "PendingReplicaDeletion"}:
        raise key.error("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    key.own_state, key.deletion_date = "Disabled", 0.0
    return {"KeyId": key.arn}


def _update_key_description(call: Call) -> None:
    key = call.key()
    key.require_state()
    key.description = call.members.get("Description", "")


KEYS: Mapping[str, Callable[[Call], Members | None]] = {
    "CancelKeyDeletion": _cancel_key_deletion,
    "CreateKey": _create_key,
    "DescribeKey": _describe_key,
    "DisableKey": _disable_key,
    "EnableKey": _enable_key,
    "ListKeys": _list_keys,
    "ScheduleKeyDeletion": _schedule_key_deletion,
    "UpdateKeyDescription": _update_key_description,
}
