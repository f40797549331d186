"""Judgement of this process's surroundings: credentials, clock, memory, and who keeps the log of KMS calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.keys.aws_kms.facts import CredentialFacts, TrailFacts

__all__ = [
    "MemoryFacts",
    "judge_clock",
    "judge_credentials",
    "judge_memory",
    "judge_trails",
]

_SKEW_REFUSED = 300.0
"""Seconds: AWS refuses a signature that is further off. Source: AWS Signature Version 4, "RequestExpired"."""
_SKEW_NOTED = 30.0
_SOON = timedelta(minutes=15)
_LONG_LIVED = ("AKIA",)
_STATIC = frozenset({"env", "shared-credentials-file", "config-file", "explicit", "boto-config"})


def judge_credentials(facts: CredentialFacts, now: datetime) -> Finding:
    """Say where the AWS credentials come from and how long they last."""
    check = Check.CREDENTIALS
    if not facts.source:
        return fail(check, "", "there are none", "Give this process a role; see boto3, Credentials.")
    until = "" if facts.expires is None else f", until {facts.expires.strftime('%Y-%m-%dT%H:%M:%SZ')}"
    if facts.renews:
        if facts.expires is not None and facts.expires < now:
            return fail(check, "", f"from {facts.source}, expired{until}", "Check who renews them, and the clock.")
        return ok(check, "", f"from {facts.source}, renewed by themselves{until}")
    if facts.prefix in _LONG_LIVED:
        seen = f"a long-lived access key from {facts.source}: nobody renews it, and a leaked one opens for ever"
        return warn(check, "", seen, "Give the process a role (instance, task, IRSA or pod identity) instead.")
    if facts.source in _STATIC:
        level = "expired" if facts.expires is not None and facts.expires < now + _SOON else "not renewed"
        seen = f"temporary ones from {facts.source}, {level}{until}: the pipelines wait once they end"
        return warn(check, "", seen, "Give the process a role, whose credentials renew themselves.")
    return ok(check, "", f"from {facts.source}{until}")


def judge_clock(skew: float | None, reference: str) -> Finding:
    """Hold the local clock to another.

    Args:
        skew: Seconds that this clock is ahead; None where it is not known.
        reference: Whose clock it was held to.
    """
    check = Check.CLOCK
    if skew is None:
        return warn(check, "", f"not known: {reference} gave no time", "Check that this host runs NTP or chrony.")
    way = "ahead of" if skew > 0 else "behind"
    seen = f"{abs(skew):.0f} s {way} {reference}"
    if abs(skew) > _SKEW_REFUSED:
        return fail(check, "", f"{seen}; AWS refuses signatures over 5 min off", "Set the clock: run NTP or chrony.")
    if abs(skew) > _SKEW_NOTED:
        return warn(check, "", f"{seen}; AWS refuses signatures over 5 min off", "Set the clock: run NTP or chrony.")
    return ok(check, "", f"within {_SKEW_NOTED:.0f} s of {reference}")


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """Where this host may leave copies of a process's memory.

    Attributes:
        core_pattern: The kernel's, ``|program`` where a program takes core dumps; None where there is none.
        swaps: Devices and files that memory is swapped to.
    """

    core_pattern: str | None = None
    swaps: tuple[str, ...] = ()


def judge_memory(facts: MemoryFacts) -> Iterator[Finding]:
    """Say where data keys in memory may end up. Source: core(5), "Piping core dumps to a program"; proc_swaps(5)."""
    check = Check.MEMORY
    pattern = facts.core_pattern or ""
    if pattern.startswith("|"):
        program = pattern[1:].split(" ")[0]
        seen = f"core dumps go to {program}, which the kernel calls whatever the process's own limit of 0 says"
        remedy = "Have it honour the limit (%c), or set kernel.core_pattern to a file on hosts that run sidecars."
        yield warn(check, "core dumps", seen, remedy)
    else:
        yield ok(check, "core dumps", "streamcrypt run sets its own limit to 0, so that none is written")
    if facts.swaps:
        seen = f"memory, data keys too, may be written to {', '.join(facts.swaps)}"
        yield warn(check, "swap", seen, "Encrypt the swap, or switch it off (swapoff; memory.swap.max=0).")
    else:
        yield ok(check, "swap", "there is none")


def judge_trails(region: str, trails: Sequence[TrailFacts] | None, why_not: str = "") -> Finding:
    """Say whether calls to KMS in a region are recorded.

    Args:
        region: The region.
        trails: Those that cover it; None where it is not known.
        why_not: Why it is not known.
    """
    check = Check.TRAIL
    if trails is None:
        remedy = "Allow cloudtrail:DescribeTrails, GetTrailStatus and GetEventSelectors to whoever runs doctor."
        return warn(check, region, f"not known: {why_not}", remedy)
    whole = [trail for trail in trails if trail.logging and trail.takes_kms and trail.takes_reads]
    for trail in whole:
        if not trail.trouble:
            return ok(check, region, f"the trail {trail.name} records every call to KMS")
    if whole:
        seen = f"the trail {whole[0].name} could not deliver: {whole[0].trouble}"
        return warn(check, region, seen, "Mend its bucket or its key policy; see aws cloudtrail get-trail-status.")
    if not trails:
        seen = "no trail covers it: after 90 days of event history nobody can say who opened what"
        return warn(check, region, seen, "Create a trail with management events, read and write.")
    return warn(check, region, _why_partial(trails), "Record all management events, those of KMS included.")


def _why_partial(trails: Sequence[TrailFacts]) -> str:
    on = [trail for trail in trails if trail.logging]
    if not on:
        return f"the trail {trails[0].name} is switched off"
    with_kms = [trail for trail in on if trail.takes_kms]
    if not with_kms:
        return f"the trail {on[0].name} leaves out the events of KMS"
    return f"the trail {with_kms[0].name} records write events only; Decrypt and GenerateDataKey are read events"
