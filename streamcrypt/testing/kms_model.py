"""Internal: the keys of the test KMS. Identity, states and what the replicas of a multi-region key share; no HTTP.

Source: the AWS KMS API reference (version 2014-11-01), the developer guide's "Key states", botocore's service model.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = [
    "DAY",
    "DEFAULT_WINDOW_DAYS",
    "SYMMETRIC",
    "Grant",
    "KMSKey",
    "KeyMaterial",
    "ServiceError",
    "SharedKey",
]

SYMMETRIC = "SYMMETRIC_DEFAULT"
DAY = 86_400.0
DEFAULT_WINDOW_DAYS = 30

_STATE_TEXTS = {
    "PendingDeletion": "is pending deletion.",
    "PendingReplicaDeletion": "is pending replica deletion.",
    "PendingImport": "is pending import.",
    "Unavailable": "is unavailable.",
    "Creating": "is creating.",
    "Updating": "is updating.",
}
# "Updating" keys stay usable, says the developer guide.
_UNUSABLE = set(_STATE_TEXTS) - {"Updating"}


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
    """One 256-bit key material.

    Attributes:
        id: 64 hexadecimal digits, as KMS shows it.
        secret: The 32 bytes.
        rotated: When it became current, in seconds since 1970; 0 for a key's first material.
        rotation: ``AUTOMATIC`` or ``ON_DEMAND``; empty for a key's first material.
    """

    id: str
    secret: bytes
    rotated: float = 0.0
    rotation: str = ""

    @classmethod
    def generate(cls) -> KeyMaterial:
        """Make a random material."""
        return cls(secrets.token_hex(32), os.urandom(32))


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant on one key of one region. ``constraints``: as the API has them; ``tokens`` name it too."""

    id: str
    name: str
    created: float
    grantee: str
    retiring: str
    operations: tuple[str, ...]
    constraints: Mapping[str, Mapping[str, str]]
    token: str


@dataclass(slots=True, eq=False)
class SharedKey:
    """What the primary and the replicas of a multi-region key have in common; a single-region key has one of its own.

    The last of ``materials`` is the current one; the others only decrypt. ``period_days`` 0: no automatic rotation.
    """

    id: str
    account: str
    primary_region: str
    materials: list[KeyMaterial] = field(default_factory=list, repr=False)
    spec: str = SYMMETRIC
    usage: str = "ENCRYPT_DECRYPT"
    manager: str = "CUSTOMER"
    origin: str = "AWS_KMS"
    custom_key_store_id: str = ""
    period_days: int = 0
    next_rotation: float = 0.0
    members: dict[str, KMSKey] = field(default_factory=dict)

    @property
    def multi_region(self) -> bool:
        """Whether this is a multi-region key, which its id tells."""
        return self.id.startswith("mrk-")

    @property
    def primary(self) -> KMSKey | None:
        """The primary key; None once it is deleted."""
        return self.members.get(self.primary_region)

    @property
    def on_demand_rotations(self) -> int:
        """How often the key was rotated by hand, in its whole life."""
        return sum(material.rotation == "ON_DEMAND" for material in self.materials)

    def find_material(self, material_id: str) -> KeyMaterial | None:
        """Return the material of that id, or None."""
        return next((material for material in self.materials if material.id == material_id), None)

    def rotate(self, rotation: str, now: float) -> KeyMaterial:
        """Make a new material the current one, in every region at once."""
        material = replace(KeyMaterial.generate(), rotated=now, rotation=rotation)
        self.materials.append(material)
        return material

    def due(self, now: float) -> int:
        """Do what the clock says is due: automatic rotations and deletions. Return how many rotations."""
        rotations = 0
        primary = self.primary
        while self.period_days and primary and primary.state == "Enabled" and self.next_rotation <= now:
            self.rotate("AUTOMATIC", self.next_rotation)
            self.next_rotation += self.period_days * DAY
            rotations += 1
        for region, key in list(self.members.items()):
            if key.own_state == "PendingDeletion" and key.deletion_date <= now:
                del self.members[region]
                self._start_window(key.deletion_date, now)
        return rotations

    def _start_window(self, since: float, now: float) -> None:
        # The primary's waiting period begins when its last replica is gone.
        primary = self.primary
        if primary is None or len(self.members) > 1 or primary.own_state != "PendingReplicaDeletion":
            return
        primary.own_state, primary.deletion_date = "PendingDeletion", since + primary.window_days * DAY
        if primary.deletion_date <= now:
            del self.members[self.primary_region]


@dataclass(slots=True, eq=False)
class KMSKey:
    """A key in one region: single-region, primary or replica. State, policy, tags and grants are its own."""

    shared: SharedKey
    region: str
    created: float
    policy: str
    description: str = ""
    own_state: str = "Enabled"
    store_is_away: bool = False
    deletion_date: float = 0.0
    window_days: int = DEFAULT_WINDOW_DAYS
    tags: dict[str, str] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The key id, the same in every region."""
        return self.shared.id

    @property
    def arn(self) -> str:
        """The key ARN."""
        return f"arn:aws:kms:{self.region}:{self.shared.account}:key/{self.shared.id}"

    @property
    def state(self) -> str:
        """The key state: its own, or ``Unavailable`` while its custom key store is away."""
        pending = self.own_state.startswith("Pending")
        return "Unavailable" if self.store_is_away and not pending else self.own_state

    @property
    def is_replica(self) -> bool:
        """Whether this is a replica of a multi-region key."""
        return self.region != self.shared.primary_region

    @property
    def material(self) -> KeyMaterial:
        """The current material."""
        return self.shared.materials[-1]

    @property
    def rotates(self) -> bool:
        """Whether this is of the kind whose material KMS can rotate."""
        return self.shared.spec == SYMMETRIC and self.shared.origin == "AWS_KMS"

    def shows(self, material: KeyMaterial, name: str = "KeyMaterialId") -> dict[str, Any]:
        """The response member that names a material; none for a custom key store, which has no material ids."""
        return {name: material.id} if self.rotates else {}

    def error(self, code: str, message: str, status: int = 400) -> ServiceError:
        """Build an error that names this key in the call log."""
        return ServiceError(code, message, status, self.arn)

    def require_state(self, *, enabled: bool = False, usable: bool = False) -> None:
        """Refuse a key that is going to be deleted, and on demand one that is disabled or cannot be used now."""
        if enabled and self.state == "Disabled":
            raise self.error("DisabledException", f"{self.arn} is disabled.")
        refused = _UNUSABLE if usable else {"PendingDeletion", "PendingReplicaDeletion"}
        if self.state in refused:
            raise self.error("KMSInvalidStateException", f"{self.arn} {_STATE_TEXTS[self.state]}")

    def require_customer_managed(self) -> None:
        """Refuse a key that an AWS service manages."""
        if self.shared.manager == "AWS":
            raise self.error(
                "AccessDeniedException",
                f"The caller is not authorized to use {self.arn}: an AWS managed key serves only its own service",
            )

    def require_usable(self) -> None:
        """Refuse a key that cannot encrypt and decrypt data keys now."""
        self.require_customer_managed()
        shared = self.shared
        if shared.usage != "ENCRYPT_DECRYPT" or shared.spec != SYMMETRIC:
            raise self.error(
                "InvalidKeyUsageException",
                f"{self.arn} key usage is {shared.usage} and key spec {shared.spec}, not valid here.",
            )
        self.require_state(enabled=True, usable=True)
