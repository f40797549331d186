"""Internal: one request to the test KMS, its members checked, and the world of regions that it reaches."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

from streamcrypt.testing.kms_model import (
    BLOB_PREFIX,
    MAX_BLOB_BYTES,
    KeyMaterial,
    KMSKey,
    KMSRegion,
    ServiceError,
    find_material,
    unseal_blob,
)

__all__ = ["Call", "Members", "World", "invalid", "read_context"]

Members = dict[str, Any]


class World:
    """Every region of the account.

    Args:
        account: Twelve digits.
        clock: Returns seconds since 1970.
    """

    def __init__(self, account: str, clock: Callable[[], float]) -> None:
        self.account = account
        self.clock = clock
        self._regions: dict[str, KMSRegion] = {}

    def region(self, name: str) -> KMSRegion:
        """Return a region; its first use makes it."""
        return self._regions.setdefault(name, KMSRegion(name, self.account, self.clock))

    def owner(self, blob: bytes, region: KMSRegion) -> KMSKey | None:
        """Find the key that made ``blob``: in the caller's region first, then anywhere."""
        rest = [other for other in self._regions.values() if other is not region]
        return next((key for place in [region, *rest] for key in place if find_material(key, blob)), None)


class Call:
    """One request: the region it reached, its members, and the key it turned out to be about.

    Attributes:
        key_arn: For the call log; empty until a key was found.
    """

    def __init__(self, world: World, region: KMSRegion, members: Members) -> None:
        self.world = world
        self.region = region
        self.members = members
        self.key_arn = ""

    def text(self, name: str) -> str:
        """Return a required string member."""
        value = self.members.get(name)
        if value is None:
            raise invalid(name, "Member must not be null")
        if not isinstance(value, str):
            raise _wrong_type(name)
        if not value:
            raise invalid(name, "Member must have length greater than or equal to 1")
        return value

    def blob(self, name: str, limit: int) -> bytes:
        """Return a required blob member."""
        try:
            value = base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise _wrong_type(name) from None
        if not 1 <= len(value) <= limit:
            raise invalid(name, f"Member must have length between 1 and {limit}")
        return value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """Return an integer member within its bounds."""
        value = self.members.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(name)
        if not low <= value <= high:
            raise invalid(name, f"Member must have value between {low} and {high}")
        return value

    def context(self, name: str = "EncryptionContext") -> dict[str, str]:
        """Return an encryption context member; empty where there is none."""
        value = self.members.get(name) or {}
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise _wrong_type(name)
        return value

    def key(self, name: str = "KeyId") -> KMSKey:
        """Find the key that a member names, whatever its state, and note it for the log."""
        key = self.region.resolve(self.text(name))
        self.key_arn = key.arn
        return key

    def usable_key(self, name: str = "KeyId") -> KMSKey:
        """Find a key that can encrypt and decrypt data keys now."""
        key = self.key(name)
        if "Recipient" in self.members:
            raise key.error("UnsupportedOperationException", "The test KMS attests no enclaves.")
        key.require_usable()
        return key

    def opened(self, key_member: str, context_member: str) -> tuple[bytes, KMSKey, KeyMaterial]:
        """Decrypt the CiphertextBlob member under the key it is of, which must be the one named, if one is named."""
        blob = self.blob("CiphertextBlob", MAX_BLOB_BYTES)
        named = self.key(key_member) if key_member in self.members else None
        owner = self.world.owner(blob, self.region) if blob.startswith(BLOB_PREFIX) else None
        if owner is None:
            raise ServiceError("InvalidCiphertextException", "", key_arn=self.key_arn)
        if named is None and owner.region != self.region.name:
            raise ServiceError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
                "or you are not allowed to access.",
            )
        if named is not None and find_material(named, blob) is None:
            named.require_usable()
            raise named.error(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        key = named or owner
        self.key_arn = key.arn
        key.require_usable()
        plaintext, material = unseal_blob(key, blob, self.context(context_member))
        return plaintext, key, material

    def stop_if_dry_run(self, key: KMSKey) -> None:
        """End a dry run, which is an error that says all is well."""
        if self.members.get("DryRun"):
            raise key.error(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.", 412
            )


def read_context(members: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the encryption context that a request carries, for the call log; empty where it is malformed."""
    context = members.get("EncryptionContext", members.get("SourceEncryptionContext"))
    if not isinstance(context, dict):
        return ()
    return tuple(sorted((str(name), str(value)) for name, value in context.items()))


def invalid(name: str, rule: str) -> ServiceError:
    """Build the ValidationException for a member."""
    member = name[0].lower() + name[1:]
    return ServiceError(
        "ValidationException", f"1 validation error detected: Value at '{member}' failed to satisfy constraint: {rule}"
    )


def _wrong_type(name: str) -> ServiceError:
    return ServiceError("SerializationException", f"{name} has the wrong type")
