"""What each role does with which KEK under which encryption context: the least that its work takes.

Source: AWS KMS Developer Guide, "Permissions reference" and "Condition keys for AWS KMS".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import product

from streamcrypt.envelope.header import TOPIC_CONTEXT
from streamcrypt.keys.aws_kms.names import identity_of
from streamcrypt.policies.topics import Topics

__all__ = [
    "KEK",
    "Context",
    "Need",
    "Role",
    "Way",
    "inspecting",
    "merged",
    "opening",
    "region_of",
    "rewrapping",
    "rotating",
    "sealing",
]


class Role(StrEnum):
    """One kind of work, and so one identity. A process that does two kinds of work takes the policies of both."""

    ENCRYPTOR = "encryptor"
    """Seals: pipelines of mode encrypt, ``EncryptingProducer``."""
    DECRYPTOR = "decryptor"
    """Opens: pipelines of mode decrypt, ``DecryptingConsumer``."""
    RE_ENCRYPTOR = "re-encryptor"
    """Pipelines of mode reencrypt, ``streamcrypt reencrypt``."""
    VERIFIER = "verifier"
    """The verify pass of ``streamcrypt reencrypt``, which opens source and target."""
    REPLAYER = "replayer"
    """``streamcrypt replay`` of letters that an encrypting pipeline sealed."""
    AUDITOR = "auditor"
    """``streamcrypt audit --safe-to-disable``."""
    DOCTOR = "doctor"
    """What ``streamcrypt doctor`` reads besides what the pipelines may."""
    KEY_ROTATOR = "key-rotator"
    """``streamcrypt keys rotate``."""


@dataclass(frozen=True, slots=True)
class KEK:
    """One configured KEK.

    Attributes:
        arns: Its key ARN, or those of its replicas, most preferred first; placeholders where it is not known.
        aliases: The aliases by which it is configured, which kms:DescribeKey resolves.
        by_id: Whether it is configured by a key id, which kms:DescribeKey resolves, too.
        by_arn: Whether it is configured by a key ARN, which needs no look.
    """

    arns: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    by_id: bool = False
    by_arn: bool = True


@dataclass(frozen=True, slots=True)
class Context:
    """The encryption contexts that a statement lets through: exactly these names, with these values.

    Attributes:
        topics: Values of ``streamcrypt:topic``.
        pairs: The other pairs, ascending by name; none of them may be missing.
        further: Names that may be there besides, with any value; no other may.
    """

    topics: Topics
    pairs: tuple[tuple[str, str], ...] = ()
    further: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that the context may have, ascending."""
        return tuple(sorted({TOPIC_CONTEXT, *(name for name, _ in self.pairs), *self.further}))


@dataclass(frozen=True, slots=True)
class Need:
    """One permission.

    Attributes:
        role: Who needs it.
        action: Such as ``kms:Decrypt``.
        keys: Key ARNs.
        context: The encryption context of the call; None for calls that carry none.
        alias: The name under which the key is asked for; empty where that is its ARN.
    """

    role: Role
    action: str
    keys: tuple[str, ...]
    context: Context | None = None
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """How data keys of some records are wrapped.

    Attributes:
        keks: Each data key is wrapped under all of them; the first mints it.
        trusted: ARNs of further KEKs that opening may use, with their replicas.
        any_mints: Whether another mints it where the first is away: ``require: any``.
        pairs: Pairs of the encryption context besides the topic.
        further: Names that the context of records by other writers may have besides; they count when opening.
        topic: The only logical topic that is wrapped this way; empty: all.
    """

    keks: tuple[KEK, ...]
    trusted: tuple[str, ...] = ()
    any_mints: bool = False
    pairs: Mapping[str, str] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    topic: str = ""

    @property
    def configured(self) -> tuple[str, ...]:
        """ARNs of the KEKs that wrap."""
        return _arns(self.keks)

    @property
    def sources(self) -> tuple[str, ...]:
        """ARNs of the KEKs that may unwrap."""
        return tuple(dict.fromkeys([*self.configured, *self.trusted]))

    def context(self, topics: Topics, *, reading: bool) -> Context | None:
        """Give the contexts of these topics; None where none of them is wrapped this way."""
        if self.topic:
            topics = Topics((self.topic,)) if topics.holds(self.topic) else Topics()
        pairs = tuple(sorted(self.pairs.items()))
        return Context(topics, pairs, tuple(sorted(self.further)) if reading else ()) if topics else None


def sealing(role: Role, way: Way, topics: Topics) -> Iterator[Need]:
    """Mint data keys: GenerateDataKey on the first KEK, Encrypt on the others. DescribeKey shows new key material.

    Of a multi-region key every listed replica may mint, since the nearest that answers does.
    """
    context = way.context(topics, reading=False)
    if context is None:
        return
    first, others = way.keks[0], way.keks[1:]
    minting = way.configured if way.any_mints else first.arns
    wrapping = way.configured if way.any_mints and others else _arns(others)
    yield from _used(role, context, {"kms:GenerateDataKey": minting, "kms:Encrypt": wrapping})
    yield from _looking_up(role, way.keks, always=True)


def opening(role: Role, way: Way, topics: Topics, *, always: bool = False) -> Iterator[Need]:
    """Open data keys: Decrypt on the configured KEKs and on the trusted ones.

    Args:
        role: Who opens.
        way: How their data keys are wrapped.
        topics: Logical topics.
        always: Look KEKs up that are named by ARN as well.
    """
    context = way.context(topics, reading=True)
    if context is not None:
        yield from _used(role, context, {"kms:Decrypt": way.sources})
        yield from _looking_up(role, way.keks, always=always)


def rewrapping(role: Role, way: Way, topics: Topics) -> Iterator[Need]:
    """Wrap data keys anew: ReEncrypt inside KMS; Decrypt and Encrypt only where two KEKs share no region."""
    context = way.context(topics, reading=True)
    if context is None:
        return
    keys: dict[str, list[str]] = {"kms:ReEncryptFrom": [], "kms:ReEncryptTo": [], "kms:Decrypt": [], "kms:Encrypt": []}
    for source, kek in product(_by_key(way.sources), way.keks):
        here, there = {region_of(arn) for arn in source}, {region_of(arn) for arn in kek.arns}
        # A key that is not known yet is taken to be where the others are.
        shared = here | there if "" in here | there else here & there
        if shared:
            keys["kms:ReEncryptFrom"] += [arn for arn in source if region_of(arn) in shared]
            keys["kms:ReEncryptTo"] += [arn for arn in kek.arns if region_of(arn) in shared]
        else:
            keys["kms:Decrypt"] += source
            keys["kms:Encrypt"] += kek.arns
    yield from _used(role, context, keys)
    yield from _looking_up(role, way.keks, always=True)


def inspecting(way: Way) -> Iterator[Need]:
    """Look at keys: state and rotation. Nothing here uses a key."""
    for action in ("kms:DescribeKey", "kms:GetKeyRotationStatus", "kms:ListKeyRotations"):
        yield Need(Role.DOCTOR, action, way.sources)


def rotating(way: Way) -> Iterator[Need]:
    """Rotate the configured KEKs: turn automatic rotation on, rotate on demand, and see how often that was done."""
    for action in (
        "kms:DescribeKey",
        "kms:EnableKeyRotation",
        "kms:GetKeyRotationStatus",
        "kms:ListKeyRotations",
        "kms:RotateKeyOnDemand",
    ):
        yield Need(Role.KEY_ROTATOR, action, way.configured)


def merged(needs: Iterable[Need]) -> tuple[Need, ...]:
    """Join needs that differ in topics only, and drop repetitions; ascending by role, action and keys."""
    found: dict[tuple[object, ...], Need] = {}
    for need in needs:
        context = need.context
        key = (need.role, need.action, need.keys, need.alias, context and (context.pairs, context.further))
        before = found.get(key)
        if before is not None and before.context and context:
            context = replace(context, topics=before.context.topics | context.topics)
        found[key] = replace(need, context=context)
    return tuple(sorted(found.values(), key=lambda n: (list(Role).index(n.role), n.action, n.keys, n.alias)))


def region_of(arn: str) -> str:
    """Give the region of a key ARN; empty for a placeholder."""
    parts = arn.split(":")
    return parts[3] if len(parts) > 3 and parts[0] == "arn" else ""  # noqa: PLR2004 - arn:partition:kms:region


def _by_key(arns: Iterable[str]) -> list[list[str]]:
    """Put the replicas of one multi-region key together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for arn in arns:
        found.setdefault(identity_of(arn) if region_of(arn) else (arn,), []).append(arn)
    return list(found.values())


def _used(role: Role, context: Context, keys: Mapping[str, Sequence[str]]) -> Iterator[Need]:
    for action, arns in keys.items():
        if arns:
            yield Need(role, action, tuple(dict.fromkeys(arns)), context)


def _arns(keks: Iterable[KEK]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(arn for kek in keks for arn in kek.arns))


def _looking_up(role: Role, keks: Iterable[KEK], *, always: bool) -> Iterator[Need]:
    for kek in keks:
        for alias in kek.aliases:
            yield Need(role, "kms:DescribeKey", kek.arns, alias=alias)
        if kek.by_id or (kek.by_arn and always):
            yield Need(role, "kms:DescribeKey", kek.arns)
