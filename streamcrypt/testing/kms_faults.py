"""Internal: which requests to the test KMS go wrong, and how. Seeded, so that a run repeats."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Literal

__all__ = ["Fault", "FaultPlan", "Trouble", "status_of"]

Trouble = Literal["error", "delay", "hang", "drop", "garbage"]

_STATUS = {
    "KMSInternalException": 500,
    "KeyUnavailableException": 500,
    "InternalFailure": 500,
    "DependencyTimeoutException": 503,
    "ServiceUnavailable": 503,
}


def status_of(code: str) -> int:
    """The HTTP status with which KMS sends an error code: 5xx for its own faults, else 400."""
    return _STATUS.get(code, 400)


@dataclass(slots=True)
class Fault:
    """One injected fault: what happens, to which requests, and how often.

    Attributes:
        trouble: error, delay, hang, drop or garbage.
        operation: An operation name, or ``*`` for all.
        region: A region name, or ``*`` for all.
        code: The error code to answer, for ``error``.
        seconds: How long to wait, for ``delay``.
        body: What to answer with status 200, for ``garbage``.
        count: How many requests are hit; None for no end.
        fraction: The share of requests hit, 0 to 1.
    """

    trouble: Trouble
    operation: str = "*"
    region: str = "*"
    code: str = ""
    seconds: float = 0.0
    body: bytes = b""
    count: int | None = None
    fraction: float = 1.0

    def matches(self, operation: str, region: str) -> bool:
        """Whether the fault is for such a request and not used up."""
        return self.operation in {"*", operation} and self.region in {"*", region} and self.count != 0


class FaultPlan:
    """The faults in force. Safe to change while requests are under way.

    Args:
        seed: Of the generator that decides where ``fraction`` is below 1.
    """

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - chance, not secrecy
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a fault in force, after those already there."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """End every fault."""
        with self._lock:
            self._faults.clear()

    def draw(self, operation: str, region: str) -> tuple[float, Fault | None]:
        """Decide about one request: how many seconds it is delayed, and what goes wrong then."""
        delay, chosen = 0.0, None
        with self._lock:
            for fault in self._faults:
                wanted = fault.trouble == "delay" or chosen is None
                if not wanted or not fault.matches(operation, region) or not self._hits(fault):
                    continue
                if fault.trouble == "delay":
                    delay += fault.seconds
                else:
                    chosen = fault
        return delay, chosen

    def _hits(self, fault: Fault) -> bool:
        if fault.fraction < 1.0 and self._random.random() >= fault.fraction:
            return False
        if fault.count is not None:
            fault.count -= 1
        return True
