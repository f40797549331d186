"""Judgement of KEKs: what they are, how they rotate, where they have replicas, and who may use them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.keys.aws_kms.facts import MAX_ON_DEMAND_ROTATIONS, Allowed, KeyFacts, RotationFacts

__all__ = ["Permission", "judge_key", "judge_permissions", "judge_replicas", "judge_rotation", "missing_statement"]

_FEW_LEFT = 5


def judge_key(key: KeyFacts) -> Iterator[Finding]:
    """Say whether a KEK can be used, and what it is."""
    if key.state == "PendingDeletion":
        seen = f"is deleted on {_date(key.deletion)}; every record sealed under it is lost with it"
        remedy = f"aws kms cancel-key-deletion --key-id {key.arn}, then enable-key."
        yield fail(Check.KEY, key.arn, seen, remedy)
    elif key.state != "Enabled":
        seen = f"its state is {key.state}: nothing is sealed or opened under it"
        yield fail(Check.KEY, key.arn, seen, f"aws kms enable-key --key-id {key.arn}")
    else:
        yield ok(Check.KEY, key.arn, "is enabled")
    yield _kind(key)
    if ":alias/" in key.name or key.name.startswith("alias/"):
        yield ok(Check.ALIAS, key.name, f"is {key.arn}; whoever may update the alias chooses the KEK of new records")


def _kind(key: KeyFacts) -> Finding:
    check, subject = Check.KEY_KIND, key.arn
    if key.manager != "CUSTOMER":
        seen = "is an AWS managed key, which serves only its own AWS service"
        return fail(check, subject, seen, "Create a customer managed key and put its ARN or alias into key_id.")
    if key.spec != "SYMMETRIC_DEFAULT" or key.usage != "ENCRYPT_DECRYPT":
        seen = f"is a key of spec {key.spec} for {key.usage}"
        return fail(check, subject, seen, "Use a symmetric encryption key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT).")
    if key.valid_to is not None:
        seen = f"its imported material expires on {_date(key.valid_to)}; then nothing opens"
        return warn(check, subject, seen, "Import the same material again before, or without expiry.")
    if key.origin == "EXTERNAL":
        seen = "its material was imported: KMS cannot rotate it by itself, nor bring it back once deleted"
        return warn(check, subject, seen, "Keep the material safe, or use a KEK whose material KMS makes.")
    if key.origin != "AWS_KMS":
        seen = f"lives in a custom key store ({key.origin}): no rotation, and a shared quota of 1,800 calls a second"
        return warn(check, subject, seen, "Watch the store; see docs/operations.md for what happens when it is away.")
    return ok(check, subject, "symmetric, customer managed, material of KMS")


def judge_rotation(key: KeyFacts, rotation: RotationFacts | None, now: datetime) -> Iterator[Finding]:
    """Say how a KEK's material rotates, and how many rotations on demand are left.

    Args:
        key: The KEK.
        rotation: None where this login may not know.
        now: For how long ago that was.
    """
    why_not = key.why_not_rotatable()
    if why_not:
        remedy = "Rotate by a new KEK: point the alias to it, then streamcrypt reencrypt --rewrap."
        yield warn(Check.ROTATION, key.arn, f"KMS does not rotate it: {why_not}", remedy)
        return
    if rotation is None:
        remedy = f"Allow kms:GetKeyRotationStatus and kms:ListKeyRotations on {key.arn} to this login."
        yield warn(Check.ROTATION, key.arn, "not known: this login may not ask", remedy)
        return
    last = "never" if rotation.last_time is None else _date(rotation.last_time)
    if not rotation.automatic:
        seen = f"does not rotate by itself; last rotation: {last}"
        yield warn(Check.ROTATION, key.arn, seen, "streamcrypt keys rotate CONFIG --automatic")
    elif rotation.next_time is not None and rotation.next_time < now and key.state == "Enabled":
        seen = f"rotates every {rotation.period_days} days, and was due on {_date(rotation.next_time)}"
        yield warn(Check.ROTATION, key.arn, seen, f"aws kms get-key-rotation-status --key-id {key.arn}")
    else:
        then = "" if rotation.next_time is None else f", next on {_date(rotation.next_time)}"
        yield ok(Check.ROTATION, key.arn, f"rotates every {rotation.period_days or 365} days{then}; last: {last}")
    yield _on_demand(key, rotation)


def _on_demand(key: KeyFacts, rotation: RotationFacts) -> Finding:
    used = rotation.on_demand
    if used is None:
        remedy = f"Allow kms:ListKeyRotations on {key.arn} to this login; it is not possible from another account."
        return warn(Check.ON_DEMAND, key.arn, "not known: this login may not list rotations", remedy)
    seen = f"{used} of {MAX_ON_DEMAND_ROTATIONS} rotations on demand are used"
    if rotation.under_way:
        seen += ", one is under way"
    if used > MAX_ON_DEMAND_ROTATIONS - _FEW_LEFT:
        remedy = "Let KMS rotate by itself, which does not count; plan a new KEK (streamcrypt reencrypt --rewrap)."
        return warn(Check.ON_DEMAND, key.arn, seen, remedy)
    return ok(Check.ON_DEMAND, key.arn, seen)


def judge_replicas(key: KeyFacts, regions: Sequence[str], states: Mapping[str, str | None]) -> Iterator[Finding]:
    """Hold a multi-region key's replicas to the regions that the configuration counts on.

    Args:
        key: The KEK.
        regions: Every region of the configuration, in order of preference.
        states: Region to the replica's state there; None where it could not be asked.
    """
    if not key.primary:
        others = [region for region in regions if region != key.region]
        if others:
            seen = f"is no multi-region key: {', '.join(others)} cannot stand in for {key.region}"
            yield warn(Check.REPLICAS_OF_KEY, key.arn, seen, "Name a KEK of each region, or use an mrk- key.")
        return
    there = {arn.split(":")[3] for arn in (key.primary, key.arn, *key.replicas)}
    for region in regions:
        subject = f"{key.arn} in {region}"
        state = states.get(region)
        if region not in there:
            remedy = f"aws kms replicate-key --key-id {key.primary} --replica-region {region}"
            yield fail(Check.REPLICAS_OF_KEY, subject, "there is no replica", remedy)
        elif state is None:
            remedy = f"Allow kms:DescribeKey on the replica, and check that KMS in {region} answers."
            yield warn(Check.REPLICAS_OF_KEY, subject, "not known: the replica could not be asked", remedy)
        elif state != "Enabled":
            remedy = f"aws kms enable-key --region {region} --key-id …; states are not copied between regions."
            yield fail(Check.REPLICAS_OF_KEY, subject, f"the replica's state is {state}", remedy)
        else:
            role = "primary" if key.primary.split(":")[3] == region else "replica"
            yield ok(Check.REPLICAS_OF_KEY, subject, f"the {role} is enabled")


@dataclass(frozen=True, slots=True)
class Permission:
    """One operation that was tried without being done.

    Attributes:
        pipeline: Whose.
        operation: Such as ``GenerateDataKey``.
        arn: The KEK.
        context: The encryption context it was tried in.
        needed: Whether the pipeline needs it; else it should not be allowed.
        allowed: What KMS said.
        detail: KMS's words, or why it is not known.
    """

    pipeline: str
    operation: str
    arn: str
    context: Mapping[str, str]
    needed: bool
    allowed: Allowed
    detail: str = ""


def judge_permissions(tried: Sequence[Permission]) -> Iterator[Finding]:
    """Say which operations are missing, and which are allowed though nothing in the file needs them."""
    needs = {(p.operation, p.arn) for p in tried if p.needed}
    for pipeline, operation, arn in dict.fromkeys((p.pipeline, p.operation, p.arn) for p in tried if p.needed):
        group = [p for p in tried if p.needed and (p.pipeline, p.operation, p.arn) == (pipeline, operation, arn)]
        yield _needed(group)
    excess: set[tuple[str, str]] = set()
    for permission in tried:
        what = (permission.operation, permission.arn)
        if permission.needed or permission.allowed is not Allowed.YES or what in needs or what in excess:
            continue
        excess.add(what)
        seen = f"kms:{permission.operation} is allowed, and nothing in this file needs it"
        remedy = "Take it away, or give each direction a role of its own: streamcrypt policy CONFIG."
        yield warn(Check.EXCESS, permission.arn, seen, remedy)


def _needed(group: Sequence[Permission]) -> Finding:
    first = group[0]
    subject = f"{first.pipeline}, kms:{first.operation} on {first.arn}"
    denied = [p for p in group if p.allowed is Allowed.NO]
    unknown = [p for p in group if p.allowed is Allowed.UNKNOWN]
    tried = _contexts(group)
    contexts = f"{tried} encryption context{'' if tried == 1 else 's'}"
    if denied:
        seen = f"denied in {_contexts(denied)} of {contexts}: {denied[0].detail}".rstrip(": ")
        return fail(Check.PERMISSION, subject, seen, f"Allow: {missing_statement(denied)}")
    if unknown:
        return warn(Check.PERMISSION, subject, f"not known: {unknown[0].detail}", "Mend that, and run doctor again.")
    return ok(Check.PERMISSION, subject, f"allowed in {contexts}")


def _contexts(group: Sequence[Permission]) -> int:
    return len({tuple(sorted(p.context.items())) for p in group})


def missing_statement(denied: Sequence[Permission]) -> str:
    """Write the policy statement that would allow these, narrowed to their encryption contexts.

    Source: AWS KMS Developer Guide, "Condition keys for AWS KMS": kms:EncryptionContext:NAME.
    """
    names = sorted({name for p in denied for name in p.context})
    values = {name: sorted({p.context[name] for p in denied if name in p.context}) for name in names}
    statement = {
        "Effect": "Allow",
        "Action": sorted({f"kms:{p.operation}" for p in denied}),
        "Resource": sorted({p.arn for p in denied}),
        **(
            {"Condition": {"StringEquals": {f"kms:EncryptionContext:{name}": values[name] for name in names}}}
            if names
            else {}
        ),
    }
    return json.dumps(statement)


def _date(moment: datetime | None) -> str:
    return "an unknown day" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d")
