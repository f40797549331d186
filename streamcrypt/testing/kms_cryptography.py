"""Internal: the operations of the test KMS on data keys. Source: the AWS KMS API reference (version 2014-11-01)."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_blob import seal_blob
from streamcrypt.testing.kms_call import Call, Members, invalid
from streamcrypt.testing.kms_model import SYMMETRIC

__all__ = ["CRYPTOGRAPHY"]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


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
    shown = key.shows(key.material)
    call.material_id = shown.get("KeyMaterialId", "")
    sealed = _encode(seal_blob(key, plaintext, call.context()))
    return plaintext, {"CiphertextBlob": sealed, "KeyId": key.arn} | shown


def _generate_data_key(call: Call) -> Members:
    plaintext, members = _data_key(call)
    return members | {"Plaintext": _encode(plaintext)}


def _generate_data_key_without_plaintext(call: Call) -> Members:
    return _data_key(call)[1]


def _encrypt(call: Call) -> Members:
    key = call.usable_key()
    plaintext = call.blob("Plaintext", 4096)
    call.stop_if_dry_run(key)
    call.material_id = key.shows(key.material).get("KeyMaterialId", "")
    sealed = seal_blob(key, plaintext, call.context())
    return {"CiphertextBlob": _encode(sealed), "KeyId": key.arn, "EncryptionAlgorithm": SYMMETRIC}


def _decrypt(call: Call) -> Members:
    plaintext, key, material = call.opened("KeyId", "EncryptionContext", "Decrypt")
    if "Recipient" in call.members:
        raise key.error("UnsupportedOperationException", "The test KMS attests no enclaves.")
    call.stop_if_dry_run(key)
    answer = {"KeyId": key.arn, "Plaintext": _encode(plaintext), "EncryptionAlgorithm": SYMMETRIC}
    return answer | key.shows(material)


def _re_encrypt(call: Call) -> Members:
    target = call.find("DestinationKeyId")
    plaintext, source, material = call.opened("SourceKeyId", "SourceEncryptionContext", "ReEncryptFrom", target)
    same = {"kms:ReEncryptOnSameKey": (str(source is target).lower(),)}
    call.usable_key("DestinationKeyId", "ReEncryptTo", "DestinationEncryptionContext", same)
    call.key_arn, call.target_arn = source.arn, target.arn
    call.stop_if_dry_run(target)
    shown = target.shows(target.material, "DestinationKeyMaterialId")
    call.target_material_id = shown.get("DestinationKeyMaterialId", "")
    return {
        "CiphertextBlob": _encode(seal_blob(target, plaintext, call.context("DestinationEncryptionContext"))),
        "SourceKeyId": source.arn,
        "KeyId": target.arn,
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
        **source.shows(material, "SourceKeyMaterialId"),
        **shown,
    }


CRYPTOGRAPHY: Mapping[str, Callable[[Call], Members | None]] = {
    "Decrypt": _decrypt,
    "Encrypt": _encrypt,
    "GenerateDataKey": _generate_data_key,
    "GenerateDataKeyWithoutPlaintext": _generate_data_key_without_plaintext,
    "ReEncrypt": _re_encrypt,
}
