"""How often KMS may be called: what docs/operations.md promises, worked out from the product's own constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamcrypt.keys.aws_kms.breaker import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, OPENS_AFTER
from streamcrypt.keys.aws_kms.calls import RETRY_BURST, RETRY_SHARE
from streamcrypt.testing import KMSCall
from tests.chaos.faults import Fault

__all__ = ["Budget", "kms_budget", "most_while_away", "probes_within"]

_PARTIAL = frozenset({"kms throttles half", "kms drops connections", "kms is slow"})
_REFUSED = frozenset({"kms denies", "key disabled"})
# Calls under way when a breaker opens: at most 16 from an encryptor and 8 from a decryptor.
_UNDER_WAY = 24
_LATE = 5.0


@dataclass(frozen=True)
class Budget:
    """What was allowed, and what was called."""

    figures: dict[str, Any]
    exceeded: list[str]


def probes_within(seconds: float) -> int:
    """Give the most probes that a breaker lets through in an outage: each pause is at least half of its length."""
    probes, at, pause = 0, 0.0, FIRST_PAUSE_SECONDS
    while (at := at + pause / 2) <= seconds:
        probes += 1
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return probes


def most_while_away(seconds: float) -> int:
    """Give the most calls of one process to a region that is away for so long, without those under way at first."""
    return OPENS_AFTER + probes_within(seconds)


def kms_budget(
    faults: Sequence[Fault], began: float, calls: Sequence[KMSCall], *, members: int, processes: int
) -> Budget:
    """Hold the calls that failed against what docs/operations.md allows.

    Args:
        faults: What went wrong, in seconds from ``began``.
        began: Seconds since 1970.
        calls: The call log.
        members: Processes at a time, each with one encrypting and one decrypting pipeline.
        processes: Processes started; each begins with a closed breaker and a full allowance.
    """
    failed = [call for call in calls if call.outcome != "ok"]
    allowed = float(RETRY_BURST * members + (processes - members) * (RETRY_BURST + OPENS_AFTER))
    by_kind: Counter[str] = Counter()
    for fault in faults:
        begin = began + fault.at
        # What was on its way when it ended fails a little later.
        within = [call for call in calls if begin <= call.time <= begin + fault.seconds + _LATE]
        by_kind[fault.kind] += sum(call.outcome != "ok" for call in within)
        allowed += members * _allowed(fault, sum(call.outcome == "ok" for call in within) / members)
    rates = _most_in(10.0, [call.time for call in failed])
    figures = {
        "calls": len(calls),
        "answered": len(calls) - len(failed),
        "failed": len(failed),
        "failed allowed": round(allowed),
        "most failed in 10 s": rates,
        "operations": dict(Counter(call.operation for call in calls)),
        "outcomes": dict(Counter(call.outcome for call in calls)),
        "failed by fault": dict(by_kind),
    }
    over = [f"{len(failed)} calls failed where {allowed:.0f} may"] if len(failed) > allowed else []
    return Budget(figures, over)


def _allowed(fault: Fault, answered: float) -> float:
    if not fault.kind.startswith("k"):
        return 0.0
    if fault.kind in _REFUSED:
        # Two operations, each asked again after 1, 2 and 4 s, then once in 10 s.
        return 2 * (4 + fault.seconds / 10)
    away = most_while_away(fault.seconds) + _UNDER_WAY
    if fault.kind in _PARTIAL:
        # Each answer lets work go on, which needs the next call: n operations make at most 1.2 n + 10 calls.
        return away + RETRY_BURST + (1 + RETRY_SHARE) * answered
    return away


def _most_in(seconds: float, times: Sequence[float]) -> int:
    most = start = 0
    for index, moment in enumerate(times):
        while times[start] < moment - seconds:
            start += 1
        most = max(most, index - start + 1)
    return most
