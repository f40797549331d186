"""Internal: the ciphertext blobs of the test KMS: AES-256-GCM under the key material, as long as those of AWS."""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from streamcrypt.testing.kms_model import KeyMaterial, KMSKey

__all__ = ["MAX_BLOB_BYTES", "material_of", "seal_blob", "unseal_blob"]

MAX_BLOB_BYTES = 6144

# A blob of AES_256 is 184 bytes at AWS: 5 + 32 + 1 + 16 + 4 + 126.
_PREFIX = b"\x01\x02\x02\x00\x78"
_HEAD = struct.Struct(">5s32sB16sI")
_FORMAT = 1
_NONCE_BYTES = 12
_FILL = bytes(66)


def seal_blob(key: KMSKey, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    """Encrypt under the current material, with the encryption context as AAD. 152 bytes longer, as at AWS."""
    material = key.material
    filled = _FILL + plaintext
    head = _HEAD.pack(_PREFIX, bytes.fromhex(material.id), _FORMAT, _id_bytes(key.id), len(filled))
    nonce = os.urandom(_NONCE_BYTES)
    return head + nonce + AESGCM(material.secret).encrypt(nonce, filled, head + _aad(context))


def material_of(blob: bytes) -> str:
    """Return the id of the material that a blob names; empty for what is no blob of ours."""
    return blob[5:37].hex() if blob.startswith(_PREFIX) else ""


def unseal_blob(key: KMSKey, blob: bytes, context: Mapping[str, str]) -> tuple[bytes, KeyMaterial]:
    """Decrypt a blob under the material of ``key`` that it names.

    Raises:
        ServiceError: InvalidCiphertextException: no such material, or the blob or the context was altered.
    """
    material = key.shared.find_material(material_of(blob))
    if material is None:
        raise key.error("InvalidCiphertextException", "")
    head, body = blob[: _HEAD.size], blob[_HEAD.size :]
    try:
        plain = AESGCM(material.secret).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], head + _aad(context))
    except (InvalidTag, ValueError):
        raise key.error("InvalidCiphertextException", "") from None
    return plain[len(_FILL) :], material


def _id_bytes(key_id: str) -> bytes:
    return uuid.UUID(key_id.removeprefix("mrk-")).bytes


def _aad(context: Mapping[str, str]) -> bytes:
    return json.dumps(sorted(context.items()), ensure_ascii=False).encode("utf-8", "surrogatepass")
