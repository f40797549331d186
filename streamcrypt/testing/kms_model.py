"""Internal: the keys of the test KMS. States, ARNs, aliases and the ciphertext format, without HTTP.

Source: the AWS KMS API reference (version 2014-11-01) and the service model that botocore ships.
"""

from __future__ import annotations

import json
import os
import re
import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "BLOB_PREFIX",
    "DAY",
    "KEY_ID",
    "MAX_BLOB_BYTES",
    "SYMMETRIC",
    "KMSKey",
    "KMSRegion",
    "KeyMaterial",
    "ServiceError",
    "find_material",
    "unseal_blob",
]

SYMMETRIC = "SYMMETRIC_DEFAULT"
DAY = 86_400.0
MAX_BLOB_BYTES = 6144

# A blob of AES_256 is 184 bytes at AWS: 5 + 32 + 1 + 16 + 4 + 126.
BLOB_PREFIX = b"\x01\x02\x02\x00\x78"
_HEAD = struct.Struct(">5s32sB16sI")
_FORMAT = 1
_NONCE_BYTES = 12
_FILL = bytes(66)

_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):kms:([a-z0-9-]+):(\d{12}):(key|alias)/([a-zA-Z0-9:/_-]+)", re.ASCII)
KEY_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32}")


class ServiceError(Exception):
    """An answer of the service that is an error.

    Attributes:
        code: The error code, such as ``DisabledException``.
        status: The HTTP status.
        key_arn: The key that the request named, for the call log; empty where none was found.
    """

    def __init__(self, code: str, message: str = "", status: int = 400, key_arn: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.key_arn = key_arn


@dataclass(frozen=True, slots=True, repr=False)
class KeyMaterial:
    """One 256-bit key material. ``id``: 64 hexadecimal digits, as KMS shows it."""

    id: str
    secret: bytes

    @classmethod
    def generate(cls) -> KeyMaterial:
        """Make a random material."""
        return cls(os.urandom(32).hex(), os.urandom(32))


@dataclass(slots=True)
class KMSKey:
    """A KMS key in one region. The last of ``materials`` is the current one; the others only decrypt."""

    id: str
    region: str
    account: str
    created: float
    materials: list[KeyMaterial] = field(default_factory=list, repr=False)
    spec: str = SYMMETRIC
    usage: str = "ENCRYPT_DECRYPT"
    manager: str = "CUSTOMER"
    origin: str = "AWS_KMS"
    custom_key_store_id: str = ""
    description: str = ""
    state: str = "Enabled"
    deletion_date: float = 0.0
    on_demand_rotations: int = 0

    @property
    def arn(self) -> str:
        """The key ARN."""
        return f"arn:aws:kms:{self.region}:{self.account}:key/{self.id}"

    @property
    def multi_region(self) -> bool:
        """Whether this is a multi-region key, which its id tells."""
        return self.id.startswith("mrk-")

    def error(self, code: str, message: str, status: int = 400) -> ServiceError:
        """Build an error that names this key in the call log."""
        return ServiceError(code, message, status, self.arn)

    def require_not_pending(self) -> None:
        """Refuse a key that is pending deletion."""
        if self.state == "PendingDeletion":
            raise self.error("KMSInvalidStateException", f"{self.arn} is pending deletion.")

    def require_usable(self) -> None:
        """Refuse a key that cannot encrypt and decrypt data keys now."""
        if self.manager == "AWS":
            raise self.error(
                "AccessDeniedException",
                f"The caller is not authorized to use {self.arn}: an AWS managed key serves only its own service",
            )
        if self.usage != "ENCRYPT_DECRYPT" or self.spec != SYMMETRIC:
            raise self.error(
                "InvalidKeyUsageException",
                f"{self.arn} key usage is {self.usage} and key spec {self.spec}, not valid here.",
            )
        if self.state == "Disabled":
            raise self.error("DisabledException", f"{self.arn} is disabled.")
        self.require_not_pending()

    def seal_blob(self, plaintext: bytes, context: Mapping[str, str]) -> bytes:
        """Encrypt under the current material, with the encryption context as AAD. 152 bytes longer, as at AWS."""
        material = self.materials[-1]
        head = _HEAD.pack(BLOB_PREFIX, bytes.fromhex(material.id), _FORMAT, _id_bytes(self.id), len(_FILL + plaintext))
        nonce = os.urandom(_NONCE_BYTES)
        return head + nonce + AESGCM(material.secret).encrypt(nonce, _FILL + plaintext, head + _aad(context))


def unseal_blob(key: KMSKey, blob: bytes, context: Mapping[str, str]) -> tuple[bytes, KeyMaterial]:
    """Decrypt a blob that :func:`find_material` found to be of ``key``.

    Raises:
        ServiceError: InvalidCiphertextException: the blob or the context was altered.
    """
    head, body = blob[: _HEAD.size], blob[_HEAD.size :]
    material = find_material(key, blob)
    if material is None:
        raise key.error("InvalidCiphertextException", "")
    try:
        plain = AESGCM(material.secret).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], head + _aad(context))
    except (InvalidTag, ValueError):
        raise key.error("InvalidCiphertextException", "") from None
    return plain[len(_FILL) :], material


def find_material(key: KMSKey, blob: bytes) -> KeyMaterial | None:
    """Return the material of ``key`` that the blob names, or None."""
    named = blob[5:37].hex()
    return next((material for material in key.materials if material.id == named), None)


def _id_bytes(key_id: str) -> bytes:
    return uuid.UUID(key_id.removeprefix("mrk-")).bytes


def _aad(context: Mapping[str, str]) -> bytes:
    return json.dumps(sorted(context.items()), ensure_ascii=False).encode("utf-8", "surrogatepass")


class KMSRegion:
    """The keys and aliases of one region. The caller holds the server's lock.

    Args:
        name: Such as ``eu-west-1``.
        account: Twelve digits.
        clock: Returns seconds since 1970, for creation and deletion dates.
    """

    def __init__(self, name: str, account: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.account = account
        self.clock = clock
        self.aliases: dict[str, str] = {}
        self._keys: dict[str, KMSKey] = {}

    def add(self, key: KMSKey) -> KMSKey:
        """Take a key into the region."""
        self._keys[key.id] = key
        return key

    def __iter__(self) -> Iterator[KMSKey]:
        """Walk over the keys, in order of creation, without those whose deletion date has passed."""
        now = self.clock()
        for key in list(self._keys.values()):
            if key.state == "PendingDeletion" and key.deletion_date <= now:
                del self._keys[key.id]
                self.aliases = {name: target for name, target in self.aliases.items() if target != key.id}
            else:
                yield key

    def resolve(self, key_id: str) -> KMSKey:
        """Find the key that a KeyId, key ARN, alias name or alias ARN means.

        Raises:
            ServiceError: NotFoundException or InvalidArnException.
        """
        if not key_id.startswith("arn:"):
            return self._resolve_name(key_id)
        match = _ARN.fullmatch(key_id)
        if match is None or match[1] != "aws":
            raise ServiceError("InvalidArnException", f"Invalid arn {key_id}")
        _, region, account, kind, name = match.groups()
        if region != self.name:
            raise ServiceError("NotFoundException", f"Invalid arn {region}", key_arn=key_id)
        if account != self.account:
            # KMS answers this way for a key of another account that has not let the caller in.
            raise ServiceError("AccessDeniedException", f"no resource-based policy allows {key_id}", key_arn=key_id)
        return self._resolve_name(f"alias/{name}" if kind == "alias" else name, shown=key_id)

    def _resolve_name(self, name: str, shown: str = "") -> KMSKey:
        if name.startswith("alias/"):
            target = self.aliases.get(name) or self._create_aws_managed(name)
            if not target:
                raise ServiceError("NotFoundException", f"Alias {shown or self.alias_arn(name)} is not found.")
            return self._resolve_name(target)
        if not KEY_ID.fullmatch(name):
            raise ServiceError("NotFoundException", f"Invalid keyId '{name}'", key_arn=shown)
        found = next((key for key in self if key.id == name), None)
        if found is None:
            arn = shown or f"arn:aws:kms:{self.name}:{self.account}:key/{name}"
            raise ServiceError("NotFoundException", f"Key '{arn}' does not exist", key_arn=arn)
        return found

    def _create_aws_managed(self, alias: str) -> str:
        # DescribeKey of an AWS alias creates its key, says the API reference.
        if not alias.startswith("alias/aws/"):
            return ""
        key = KMSKey(str(uuid.uuid4()), self.name, self.account, self.clock(), [KeyMaterial.generate()], manager="AWS")
        self.aliases[alias] = self.add(key).id
        return key.id

    def alias_arn(self, alias: str) -> str:
        """The ARN of an alias name."""
        return f"arn:aws:kms:{self.name}:{self.account}:{alias}"
