"""Internal: one request to the test KMS: its members checked, its key found, its caller judged."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from streamcrypt.testing.kms_access import Question
from streamcrypt.testing.kms_blob import MAX_BLOB_BYTES, material_of, unseal_blob
from streamcrypt.testing.kms_conditions import Facts
from streamcrypt.testing.kms_facts import caller_facts, key_facts, request_facts
from streamcrypt.testing.kms_model import KeyMaterial, KMSKey, ServiceError
from streamcrypt.testing.kms_region import KMSRegion, World

__all__ = ["NO_FACTS", "Call", "Members", "invalid", "page", "read_context"]

Members = dict[str, Any]
NO_FACTS: Facts = {}

_INCORRECT = "The key ID in the request does not identify a CMK that can perform this operation."
_NOT_YOURS = (
    "The ciphertext refers to a customer master key that does not exist, does not exist in this region, "
    "or you are not allowed to access."
)


class Call:
    """One request: the region it reached, its members, and the key it turned out to be about.

    Args:
        world: The account.
        region: The region that the request was signed for.
        members: The request's members.
        operation: Such as ``Decrypt``.
        access_key_id: Of the caller; empty (the default) for calls in process, which nobody judges.

    Attributes:
        key_arn: For the call log, as the next four; empty until a key was found.
        material_id: The key material that was used.
        target_arn: The destination of a ReEncrypt.
        target_material_id: Of that key.
        grants: Ids of the grants that allowed it.
    """

    def __init__(
        self, world: World, region: KMSRegion, members: Members, operation: str = "", access_key_id: str = ""
    ) -> None:
        self.world = world
        self.region = region
        self.members = members
        self.operation = operation
        self.access_key_id = access_key_id
        self.key_arn = ""
        self.material_id = ""
        self.target_arn = ""
        self.target_material_id = ""
        self.grants: tuple[str, ...] = ()

    # ---- members ----

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

    # ---- keys ----

    def find(self, name: str = "KeyId") -> KMSKey:
        """Find the key that a member names, whatever its state and whoever asks, and note it for the log."""
        key = self.region.resolve(self.text(name))
        self.key_arn = key.arn
        return key

    def key(self, name: str = "KeyId", facts: Facts = NO_FACTS) -> KMSKey:
        """Find the key that a member names, for a caller who may do the operation on it. ``facts``: see authorize."""
        key = self.find(name)
        self.authorize(self.operation, key, named=self.text(name), facts=facts)
        return key

    def usable_key(
        self, name: str = "KeyId", action: str = "", context_member: str = "EncryptionContext", facts: Facts = NO_FACTS
    ) -> KMSKey:
        """Find a key that can encrypt data keys now, for a caller who may. ``facts``: see authorize."""
        key = self.find(name)
        if "Recipient" in self.members:
            raise key.error("UnsupportedOperationException", "The test KMS attests no enclaves.")
        named, context = self.text(name), self.context(context_member)
        self.authorize(action or self.operation, key, named=named, context=context, facts=facts)
        key.require_usable()
        return key

    def opened(
        self, key_member: str, context_member: str, action: str, target: KMSKey | None = None
    ) -> tuple[bytes, KMSKey, KeyMaterial]:
        """Decrypt the CiphertextBlob member under the key it is of, which must be the one named, if one is named.

        Args:
            key_member: Where the request names the key.
            context_member: Where the request has the encryption context.
            action: What the caller must be allowed.
            target: The key to encrypt under next, for ``kms:ReEncryptOnSameKey``.
        """
        context = self.context(context_member)
        if self.members.get("DryRun") and "IGNORE_CIPHERTEXT" in (self.members.get("DryRunModifiers") or []):
            key = self.usable_key(key_member, action, context_member, _same(self.find(key_member), target))
            return b"", key, key.material
        blob = self.blob("CiphertextBlob", MAX_BLOB_BYTES)
        named = self.find(key_member) if self.members.get(key_member) else None
        key = named or self._owner(blob)
        self.key_arn = key.arn
        try:
            name = self.members.get(key_member) or ""
            self.authorize(action, key, named=name, context=context, facts=_same(key, target))
        except ServiceError as error:
            if named or error.code != "AccessDeniedException":
                raise
            raise key.error("AccessDeniedException", _NOT_YOURS) from None
        key.require_usable()
        owner = self.world.owner(blob)
        if owner is not None and owner is not key.shared:
            raise key.error("IncorrectKeyException", _INCORRECT)
        plaintext, material = unseal_blob(key, blob, context)
        self.material_id = material.id if key.rotates else ""
        return plaintext, key, material

    def _owner(self, blob: bytes) -> KMSKey:
        owner = self.world.owner(blob)
        if owner is None or not material_of(blob):
            raise ServiceError("InvalidCiphertextException", "")
        key = owner.members.get(self.region.name)
        if key is None:
            raise ServiceError("AccessDeniedException", _NOT_YOURS)
        return key

    def stop_if_dry_run(self, key: KMSKey) -> None:
        """End a dry run, which is an error that says all is well."""
        if self.members.get("DryRun"):
            raise key.error(
                "DryRunOperationException", "The request would have succeeded, but the DryRun option is set.", 412
            )

    # ---- the caller ----

    @property
    def judged(self) -> bool:
        """Whether somebody has to allow this call."""
        return bool(self.access_key_id) and self.world.access.enforced

    def authorize(
        self,
        action: str,
        key: KMSKey | None = None,
        *,
        named: str = "",
        resource: str = "",
        context: Mapping[str, str] | None = None,
        facts: Facts = NO_FACTS,
    ) -> None:
        """Refuse a caller who may not do the action.

        Args:
            action: Such as ``ReEncryptFrom``.
            key: The key; None for an action on an alias or on the account.
            named: How the request names the key, for ``kms:RequestAlias``.
            resource: The ARN of an alias; the key's, or ``*``, where empty.
            context: The encryption context; None where the operation has none.
            facts: Further condition keys of the request, such as ``kms:ReplicaRegion``.

        Raises:
            ServiceError: AccessDeniedException; InvalidGrantTokenException.
        """
        for token in self.members.get("GrantTokens") or []:
            if token not in self.world.tokens:
                raise ServiceError("InvalidGrantTokenException", "The grant token is not valid.")
        if self.judged:
            self.grants += self.world.access.judge(
                self.question(action, key, named=named, resource=resource, context=context, facts=facts)
            )

    def question(
        self,
        action: str,
        key: KMSKey | None,
        *,
        named: str = "",
        resource: str = "",
        context: Mapping[str, str] | None = None,
        facts: Facts = NO_FACTS,
    ) -> Question:
        """Put what :meth:`authorize` asks into words. Takes its arguments."""
        known = caller_facts(self.world, self.region.name, self.access_key_id) | request_facts(
            self.members, named, context
        )
        if key is not None:
            known |= key_facts(key, self.region.aliases_of(key) if key.region == self.region.name else ())
        known |= facts
        return Question(
            self.access_key_id,
            action,
            resource or (key.arn if key else "*"),
            key,
            {name.lower(): values for name, values in known.items()},
            context,
        )


def _same(source: KMSKey, target: KMSKey | None) -> Facts:
    return {"kms:ReEncryptOnSameKey": (str(source is target).lower(),)} if target else {}


def page(call: Call, items: list[Any], name: str, default: int, high: int) -> Members:
    """Cut the page that Limit and Marker ask for."""
    limit = call.number("Limit", default, 1, high)
    marker = call.members.get("Marker", "0")
    if not isinstance(marker, str) or not marker.isdecimal():
        raise ServiceError("InvalidMarkerException", "Could not deserialize marker.")
    start = int(marker)
    cut: Members = {name: items[start : start + limit], "Truncated": len(items) > start + limit}
    if cut["Truncated"]:
        cut["NextMarker"] = str(start + limit)
    return cut


def read_context(members: Mapping[str, Any], *names: str) -> tuple[tuple[str, str], ...]:
    """Return the encryption context under the first of ``names``, for the call log; empty where it is malformed."""
    context = next((members[name] for name in names if name in members), None)
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
