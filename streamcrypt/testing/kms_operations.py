"""Internal: the operations of the test KMS, from request members to response members, without HTTP.

Source: the AWS KMS API reference (version 2014-11-01). One function per operation, listed in ``OPERATIONS``.
"""

from __future__ import annotations

import base64
import os
import re
import uuid
from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_call import Call, Members, invalid
from streamcrypt.testing.kms_model import DAY, SYMMETRIC, KeyMaterial, KMSKey, ServiceError

__all__ = ["ALIAS_NAME", "OPERATIONS"]

MAX_ON_DEMAND_ROTATIONS = 25
ALIAS_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")
_STORE_ID = re.compile(r"cks-[0-9a-f]{17}")
_CLUSTER_ID = "cluster-1a23b4cdefg"
_USAGES = {"RSA": {"ENCRYPT_DECRYPT", "SIGN_VERIFY"}, "HMAC": {"GENERATE_VERIFY_MAC"}, "ECC": {"SIGN_VERIFY"}}


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _material_id(key: KMSKey, material: KeyMaterial, name: str = "KeyMaterialId") -> Members:
    # A custom key store has no rotation, and no material ids are shown for it.
    return {name: material.id} if key.origin == "AWS_KMS" else {}


def _metadata(key: KMSKey) -> Members:
    metadata: Members = {
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created,
        "Enabled": key.state == "Enabled",
        "Description": key.description,
        "KeyUsage": key.usage,
        "KeyState": key.state,
        "Origin": key.origin,
        "KeyManager": key.manager,
        "CustomerMasterKeySpec": key.spec,
        "KeySpec": key.spec,
        "MultiRegion": key.multi_region,
    }
    if key.spec == SYMMETRIC:
        metadata["EncryptionAlgorithms"] = [SYMMETRIC]
        metadata |= _material_id(key, key.materials[-1], "CurrentKeyMaterialId")
    if key.deletion_date:
        metadata["DeletionDate"] = key.deletion_date
    if key.custom_key_store_id:
        metadata |= {"CustomKeyStoreId": key.custom_key_store_id, "CloudHsmClusterId": _CLUSTER_ID}
    if key.multi_region:
        metadata["MultiRegionConfiguration"] = {
            "MultiRegionKeyType": "PRIMARY",
            "PrimaryKey": {"Arn": key.arn, "Region": key.region},
            "ReplicaKeys": [],
        }
    return metadata


def _create_key(call: Call) -> Members:
    members = call.members
    spec = str(members.get("KeySpec") or members.get("CustomerMasterKeySpec") or SYMMETRIC)
    usage = members.get("KeyUsage", "ENCRYPT_DECRYPT")
    origin = members.get("Origin", "AWS_KMS")
    store = members.get("CustomKeyStoreId", "")
    if origin not in {"AWS_KMS", "AWS_CLOUDHSM"}:
        raise ServiceError("UnsupportedOperationException", f"The test KMS has no keys of origin {origin}.")
    if bool(store) != (origin == "AWS_CLOUDHSM"):
        raise ServiceError("ValidationException", "CustomKeyStoreId goes together with Origin AWS_CLOUDHSM.")
    if store and not _STORE_ID.fullmatch(store):
        raise ServiceError("CustomKeyStoreNotFoundException", f"{store} does not exist.")
    if usage not in _USAGES.get(spec.split("_", maxsplit=1)[0], {"ENCRYPT_DECRYPT"}):
        raise ServiceError("ValidationException", f"KeyUsage {usage} is not valid for KeySpec {spec}.")
    key = KMSKey(
        id=f"mrk-{uuid.uuid4().hex}" if members.get("MultiRegion") else str(uuid.uuid4()),
        region=call.region.name,
        account=call.region.account,
        created=call.region.clock(),
        materials=[KeyMaterial.generate()],
        spec=spec,
        usage=usage,
        origin=origin,
        custom_key_store_id=store,
        description=members.get("Description", ""),
    )
    call.key_arn = call.region.add(key).arn
    return {"KeyMetadata": _metadata(key)}


def _describe_key(call: Call) -> Members:
    return {"KeyMetadata": _metadata(call.key())}


def _page(call: Call, items: list[Members], name: str, default: int, high: int) -> Members:
    limit = call.number("Limit", default, 1, high)
    marker = call.members.get("Marker", "0")
    if not isinstance(marker, str) or not marker.isdecimal():
        raise ServiceError("InvalidMarkerException", "Could not deserialize marker.")
    start = int(marker)
    page: Members = {name: items[start : start + limit], "Truncated": len(items) > start + limit}
    if page["Truncated"]:
        page["NextMarker"] = str(start + limit)
    return page


def _list_keys(call: Call) -> Members:
    return _page(call, [{"KeyId": key.id, "KeyArn": key.arn} for key in call.region], "Keys", 100, 1000)


def _list_aliases(call: Call) -> Members:
    wanted = call.key().id if call.members.get("KeyId") else None
    listed = [
        {"AliasName": name, "AliasArn": call.region.alias_arn(name), "TargetKeyId": target}
        for name, target in sorted(call.region.aliases.items())
        if wanted in {None, target}
    ]
    return _page(call, listed, "Aliases", 50, 100)


def _alias_name(call: Call) -> str:
    name = call.text("AliasName")
    if not ALIAS_NAME.fullmatch(name):
        raise ServiceError("ValidationException", f"Alias must start with the prefix \"alias/\": '{name}'")
    if name.startswith("alias/aws/"):
        raise ServiceError("NotAuthorizedException", f"{name} is reserved for AWS managed keys.")
    return name


def _known_alias(call: Call) -> str:
    name = _alias_name(call)
    if name not in call.region.aliases:
        raise ServiceError("NotFoundException", f"Alias {call.region.alias_arn(name)} is not found.")
    return name


def _create_alias(call: Call) -> None:
    name = _alias_name(call)
    target = call.key("TargetKeyId")
    if name in call.region.aliases:
        raise target.error("AlreadyExistsException", f"An alias with the name {name} already exists")
    target.require_not_pending()
    call.region.aliases[name] = target.id


def _update_alias(call: Call) -> None:
    name = _known_alias(call)
    target = call.key("TargetKeyId")
    target.require_not_pending()
    call.region.aliases[name] = target.id


def _delete_alias(call: Call) -> None:
    del call.region.aliases[_known_alias(call)]


def _data_key(call: Call) -> tuple[bytes, Members]:
    key = call.usable_key()
    spec, count = call.members.get("KeySpec"), call.members.get("NumberOfBytes")
    if (spec is None) == (count is None):
        raise key.error("ValidationException", "Please specify either number of bytes or key spec.")
    sizes = {"AES_256": 32, "AES_128": 16}
    if spec is not None and spec not in sizes:
        raise invalid("KeySpec", "Member must satisfy enum value set: [AES_256, AES_128]")
    size = sizes[spec] if spec is not None else call.number("NumberOfBytes", 32, 1, 1024)
    call.stop_if_dry_run(key)
    plaintext = os.urandom(size)
    sealed = _encode(key.seal_blob(plaintext, call.context()))
    return plaintext, {"CiphertextBlob": sealed, "KeyId": key.arn} | _material_id(key, key.materials[-1])


def _generate_data_key(call: Call) -> Members:
    plaintext, members = _data_key(call)
    return members | {"Plaintext": _encode(plaintext)}


def _generate_data_key_without_plaintext(call: Call) -> Members:
    return _data_key(call)[1]


def _encrypt(call: Call) -> Members:
    key = call.usable_key()
    plaintext = call.blob("Plaintext", 4096)
    call.stop_if_dry_run(key)
    sealed = key.seal_blob(plaintext, call.context())
    return {"CiphertextBlob": _encode(sealed), "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}


def _decrypt(call: Call) -> Members:
    if "Recipient" in call.members:
        raise ServiceError("UnsupportedOperationException", "The test KMS attests no enclaves.")
    plaintext, key, material = call.opened("KeyId", "EncryptionContext")
    call.stop_if_dry_run(key)
    answer = {"KeyId": key.arn, "Plaintext": _encode(plaintext), "EncryptionAlgorithm": SYMMETRIC}
    return answer | _material_id(key, material)


def _re_encrypt(call: Call) -> Members:
    plaintext, source, material = call.opened("SourceKeyId", "SourceEncryptionContext")
    target = call.usable_key("DestinationKeyId")
    call.stop_if_dry_run(target)
    call.key_arn = source.arn
    return {
        "CiphertextBlob": _encode(target.seal_blob(plaintext, call.context("DestinationEncryptionContext"))),
        "SourceKeyId": source.arn,
        "KeyId": target.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
        **_material_id(source, material, "SourceKeyMaterialId"),
        **_material_id(target, target.materials[-1], "DestinationKeyMaterialId"),
    }


def _set_state(state: str) -> Callable[[Call], None]:
    def change(call: Call) -> None:
        key = call.key()
        key.require_not_pending()
        key.state = state

    return change


def _schedule_key_deletion(call: Call) -> Members:
    key = call.key()
    key.require_not_pending()
    days = call.number("PendingWindowInDays", 30, 7, 30)
    key.state, key.deletion_date = "PendingDeletion", call.region.clock() + days * DAY
    return {
        "KeyId": key.arn,
        "DeletionDate": key.deletion_date,
        "KeyState": key.state,
        "PendingWindowInDays": days,
    }


def _cancel_key_deletion(call: Call) -> Members:
    key = call.key()
    if key.state != "PendingDeletion":
        raise key.error("KMSInvalidStateException", f"{key.arn} is not pending deletion.")
    key.state, key.deletion_date = "Disabled", 0.0
    return {"KeyId": key.arn}


def _rotate_key_on_demand(call: Call) -> Members:
    key = call.key()
    if key.spec != SYMMETRIC or key.origin != "AWS_KMS" or key.manager == "AWS":
        raise key.error("UnsupportedOperationException", f"{key.arn} does not support rotation.")
    key.require_usable()
    if key.on_demand_rotations >= MAX_ON_DEMAND_ROTATIONS:
        raise key.error("LimitExceededException", f"{key.arn} has used up its on-demand rotations.")
    key.on_demand_rotations += 1
    key.materials.append(KeyMaterial.generate())
    return {"KeyId": key.arn}


OPERATIONS: Mapping[str, Callable[[Call], Members | None]] = {
    "CancelKeyDeletion": _cancel_key_deletion,
    "CreateAlias": _create_alias,
    "CreateKey": _create_key,
    "Decrypt": _decrypt,
    "DeleteAlias": _delete_alias,
    "DescribeKey": _describe_key,
    "DisableKey": _set_state("Disabled"),
    "EnableKey": _set_state("Enabled"),
    "Encrypt": _encrypt,
    "GenerateDataKey": _generate_data_key,
    "GenerateDataKeyWithoutPlaintext": _generate_data_key_without_plaintext,
    "ListAliases": _list_aliases,
    "ListKeys": _list_keys,
    "ReEncrypt": _re_encrypt,
    "RotateKeyOnDemand": _rotate_key_on_demand,
    "ScheduleKeyDeletion": _schedule_key_deletion,
    "UpdateAlias": _update_alias,
}
