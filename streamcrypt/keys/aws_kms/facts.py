"""What AWS says of a KEK and of the log of its calls, as plain values. None means: not known, or there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["MAX_ON_DEMAND_ROTATIONS", "Allowed", "CredentialFacts", "KeyFacts", "RotationFacts", "TrailFacts"]

MAX_ON_DEMAND_ROTATIONS = 25
"""In a key's life; no quota increase. Source: AWS KMS API reference, RotateKeyOnDemand."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """A KEK as DescribeKey gives it.

    Attributes:
        name: As the configuration names it.
        arn: What that means now.
        state: KMS's word: ``Enabled``, ``Disabled``, ``PendingDeletion``…
        spec, usage, manager, origin: As KMS says.
        valid_to: When imported material expires; None where it does not.
        deletion: When it is deleted; None where it is not.
        primary: The primary's ARN, for a multi-region key; else empty.
        replicas: ARNs of its replicas.
    """

    name: str
    arn: str
    state: str
    spec: str = "SYMMETRIC_DEFAULT"
    usage: str = "ENCRYPT_DECRYPT"
    manager: str = "CUSTOMER"
    origin: str = "AWS_KMS"
    valid_to: datetime | None = None
    deletion: datetime | None = None
    primary: str = ""
    replicas: tuple[str, ...] = ()

    @property
    def region(self) -> str:
        """The region of its ARN."""
        return self.arn.split(":")[3]

    @classmethod
    def read(cls, name: str, metadata: Mapping[str, Any]) -> KeyFacts:
        """Take them from the KeyMetadata of an answer."""
        regions = metadata.get("MultiRegionConfiguration") or {}
        return cls(
            name,
            str(metadata["Arn"]),
            str(metadata.get("KeyState", "")),
            str(metadata.get("KeySpec", "SYMMETRIC_DEFAULT")),
            str(metadata.get("KeyUsage", "ENCRYPT_DECRYPT")),
            str(metadata.get("KeyManager", "CUSTOMER")),
            str(metadata.get("Origin", "AWS_KMS")),
            metadata.get("ValidTo"),
            metadata.get("DeletionDate"),
            str((regions.get("PrimaryKey") or {}).get("Arn", "")),
            tuple(str(replica["Arn"]) for replica in regions.get("ReplicaKeys") or ()),
        )

    def why_not_rotatable(self) -> str:
        """Say why KMS cannot rotate this KEK's material by itself; empty where it can.

        Source: AWS KMS API reference, EnableKeyRotation and RotateKeyOnDemand.
        """
        if self.manager != "CUSTOMER":
            return "it is AWS managed, and AWS rotates it every year"
        if self.spec != "SYMMETRIC_DEFAULT":
            return f"keys of spec {self.spec} do not rotate"
        if self.origin == "EXTERNAL":
            return "its material was imported"
        if self.origin != "AWS_KMS":
            return "it lives in a custom key store"
        return ""


@dataclass(frozen=True, slots=True)
class RotationFacts:
    """How a KEK's material rotates.

    Attributes:
        automatic: Whether KMS rotates by itself.
        period_days: How often then.
        next_time: When it will; None where it will not.
        last_time: The last rotation of any kind that was completed; None where there was none.
        on_demand: Completed rotations on demand; None where they may not be listed.
        under_way: Whether a rotation on demand has begun and not ended.
    """

    automatic: bool
    period_days: int | None = None
    next_time: datetime | None = None
    last_time: datetime | None = None
    on_demand: int | None = None
    under_way: bool = False


class Allowed(StrEnum):
    """What a dry run said."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    """Where credentials came from.

    Attributes:
        source: botocore's word: ``env``, ``iam-role``, ``assume-role-with-web-identity``…; empty where there are none.
        prefix: The first four characters of the access key id: AKIA is for ever, ASIA for a while.
        expires: When they end; None where they do not say.
        renews: Whether botocore fetches new ones by itself.
    """

    source: str
    prefix: str = ""
    expires: datetime | None = None
    renews: bool = False


@dataclass(frozen=True, slots=True)
class TrailFacts:
    """A CloudTrail trail that covers a region.

    Attributes:
        name: Its name.
        logging: Whether it is switched on.
        takes_kms: Whether calls to KMS are among its events.
        takes_reads: Whether read events are; Decrypt and GenerateDataKey count as such.
        trouble: What its last delivery failed with; empty where it did not.
    """

    name: str
    logging: bool
    takes_kms: bool
    takes_reads: bool
    trouble: str = ""
