"""Internal: which requests to the test KMS go wrong, and how. Seeded, so that a run repeats."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DARK", "Darkness", "Fault", "FaultPlan", "Faults", "Trouble", "status_of"]

Trouble = Literal["error", "delay", "hang", "drop", "garbage"]
Darkness = Literal["drop", "hang", "error"]

DARK = "dark"
"""The outcome in the call log of a request that a dark region swallowed."""

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
        outcome: What the call log says.
        over: Set once the fault has ended, which releases what hangs.
    """

    trouble: Trouble
    operation: str = "*"
    region: str = "*"
    code: str = ""
    seconds: float = 0.0
    body: bytes = b""
    count: int | None = None
    fraction: float = 1.0
    outcome: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.outcome = self.outcome or self.code or self.trouble

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
        self._dark: dict[str, Fault] = {}

    def add(self, fault: Fault) -> None:
        """Put a fault in force, after those already there."""
        with self._lock:
            self._faults.append(fault)

    def darken(self, region: str, how: Darkness) -> None:
        """Let no request reach a region."""
        fault = Fault(how, region=region, outcome=DARK, code="ServiceUnavailable" if how == "error" else "")
        with self._lock:
            before = self._dark.pop(region, None)
            self._dark[region] = fault
        if before:
            before.over.set()

    def lighten(self, region: str) -> None:
        """Let requests reach a region again; what hangs goes on."""
        with self._lock:
            fault = self._dark.pop(region, None)
        if fault:
            fault.over.set()

    def clear(self) -> None:
        """End every fault, darkness too."""
        with self._lock:
            ended = [*self._faults, *self._dark.values()]
            self._faults.clear()
            self._dark.clear()
        for fault in ended:
            fault.over.set()

    def draw(self, operation: str, region: str) -> tuple[list[Fault], Fault | None]:
        """Decide about one request: which delays it waits for, and what goes wrong then."""
        delays: list[Fault] = []
        with self._lock:
            chosen = self._dark.get(region)
            if chosen:
                return [], chosen
            for fault in self._faults:
                wanted = fault.trouble == "delay" or chosen is None
                if not wanted or not fault.matches(operation, region) or not self._hits(fault):
                    continue
                if fault.trouble == "delay":
                    delays.append(fault)
                else:
                    chosen = fault
        return delays, chosen

    def _hits(self, fault: Fault) -> bool:
        if fault.fraction < 1.0 and self._random.random() >= fault.fraction:
            return False
        if fault.count is not None:
            fault.count -= 1
        return True


class Faults:
    """The fault controls of the test KMS. Each fault hits ``count`` requests (None: no end), or a ``fraction`` of them.

    Args:
        seed: Of the chance behind ``fraction``.
    """

    def __init__(self, seed: int) -> None:
        self._faults = FaultPlan(seed)

    def fail(
        self, code: str, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*"
    ) -> None:
        """Answer with an error: ThrottlingException, AccessDeniedException, KMSInternalException, or any code."""
        self._faults.add(Fault("error", operation, region, code=code, count=count, fraction=fraction))

    def delay(
        self,
        seconds: float,
        operation: str = "*",
        *,
        count: int | None = None,
        fraction: float = 1.0,
        region: str = "*",
    ) -> None:
        """Answer late by ``seconds``. Delays add up."""
        self._faults.add(Fault("delay", operation, region, seconds=seconds, count=count, fraction=fraction))

    def hang(self, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*") -> None:
        """Take requests and answer nothing until :meth:`heal`, which lets them go on as if nothing had been."""
        self._faults.add(Fault("hang", operation, region, count=count, fraction=fraction))

    def drop(self, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*") -> None:
        """Take requests and close the connection."""
        self._faults.add(Fault("drop", operation, region, count=count, fraction=fraction))

    def garble(
        self,
        operation: str = "*",
        *,
        body: bytes = b"\x00<html>not JSON",
        count: int | None = None,
        fraction: float = 1.0,
        region: str = "*",
    ) -> None:
        """Answer status 200 with ``body``, as a broken proxy would."""
        self._faults.add(Fault("garbage", operation, region, body=body, count=count, fraction=fraction))

    def darken(self, region: str, how: Darkness = "drop") -> None:
        """Take a whole region away until :meth:`lighten`, before any other fault.

        Args:
            region: Such as ``eu-west-1``.
            how: ``drop`` closes each connection (the default: clients notice at once), ``hang`` answers nothing,
                ``error`` answers 503 ServiceUnavailable.
        """
        self._faults.darken(region, how)

    def lighten(self, region: str) -> None:
        """Bring a region back; requests that hang go on. Does nothing to a region that is not dark."""
        self._faults.lighten(region)

    def heal(self) -> None:
        """End every fault, bring every region back and let hanging requests go on."""
        self._faults.clear()
