"""What the status page knows of one pipeline, folded from its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from streamcrypt.observe.health import STALLED_AFTER
from streamcrypt.observe.status_series import Counts, Levels
from streamcrypt.sidecar.spec import PipelineSpec

__all__ = ["LONGEST_TEXT", "PipelineState", "Trouble", "short"]

LONGEST_TEXT = 400
"""Characters of an error's text that are kept: several sentences, and bounded whoever wrote it."""

_MOST_TOPICS = 50
_MOST_WAITING = 50
_RATE_SECONDS = 10


def short(text: str) -> str:
    """Cut a text that came from outside to what the page has room for."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


@dataclass(slots=True)
class Trouble:
    """Why a pipeline or a partition does not go on, and since when (seconds of the Unix clock)."""

    error: str
    detail: str
    remedy: str
    since: float
    offset: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Give it as an object."""
        fields = {"error": self.error, "detail": short(self.detail), "remedy": short(self.remedy), "since": self.since}
        return fields if self.offset is None else {**fields, "offset": self.offset}


@dataclass(slots=True)
class PipelineState:
    """One pipeline. ``phase`` is what it said last of itself; what follows from that and the rest is its state.

    Attributes:
        name: Its name.
        spec: What it is to do; None where only its events are known.
        phase: not_started, starting, running, restarting, halted or stopped.
        since: When the phase began.
        tick: When its loop last showed that it turns.
        waiting: Partitions that wait, and why.
    """

    name: str
    spec: PipelineSpec | None
    since: float
    phase: str = "not_started"
    mode: str = ""
    tick: float = 0.0
    trouble: Trouble | None = None
    restart_at: float | None = None
    assigned: int = 0
    held: int = 0
    records: int = 0
    bytes_in: int = 0
    plaintext: int = 0
    restarts: int = 0
    committed_at: float | None = None
    opened_held: int | None = None
    brokers_away_since: float | None = None
    paused_since: float | None = None
    waiting: dict[tuple[str, int], Trouble] = field(default_factory=dict)
    lag: dict[tuple[str, int], int] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    sequence: Counter[str] = field(default_factory=Counter)
    topics: dict[str, int] = field(default_factory=dict)
    per_second: Counts = field(default_factory=Counts)
    lag_levels: Levels = field(default_factory=Levels)

    def enter(self, phase: str, now: float, trouble: Trouble | None = None) -> None:
        """Begin a phase. A pipeline that starts again and again has been in trouble since the first time."""
        if phase != self.phase:
            self.since = now
        if phase == "starting":
            trouble = self.trouble
        elif phase == "restarting" and trouble and self.trouble:
            trouble.since = self.trouble.since
        self.phase, self.trouble, self.tick, self.restart_at = phase, trouble, now, None
        if phase != "running":
            # It is told again by one that begins anew, maybe before it is ready.
            self.paused_since = None
            self.assigned = self.held = 0
            self.waiting.clear()
            self.lag.clear()

    def passed(self, topic: str, records: int, size: int, now: float) -> None:
        """Count records of a batch."""
        self.records += records
        self.bytes_in += size
        if topic in self.topics or len(self.topics) < _MOST_TOPICS:
            self.topics[topic] = self.topics.get(topic, 0) + records
        self.per_second.add(int(now), records)

    def measured(self, lags: Iterable[tuple[str, int, int]], now: float) -> None:
        """Note how many records each assigned partition is behind."""
        self.lag = {(topic, partition): behind for topic, partition, behind in lags}
        self.lag_levels.set(int(now), sum(self.lag.values()))

    def let_go(self, places: tuple[tuple[str, int], ...]) -> None:
        """Forget partitions that are another member's now."""
        for place in places:
            self.waiting.pop(place, None)
            self.lag.pop(place, None)

    def state(self, now: float) -> tuple[str, float, Trouble | None]:
        """Say in one word how it is, since when, and why."""
        if self.phase == "running" and now - self.tick > STALLED_AFTER:
            return "stalled", self.tick, None
        if self.phase == "running" and self.paused_since is not None:
            return "paused", self.paused_since, None
        if self.phase == "running" and self.waiting:
            first = min(self.waiting.values(), key=lambda trouble: trouble.since)
            return "waiting", first.since, first
        return self.phase, self.trouble.since if self.trouble else self.since, self.trouble

    def as_json(self, now: float) -> dict[str, Any]:
        """Give everything as an object."""
        state, since, trouble = self.state(now)
        records = self.per_second.until(int(now))
        waiting = sorted(self.waiting.items(), key=lambda item: (item[1].since, item[0]))
        return {
            "name": self.name,
            "mode": self.mode or (str(self.spec.mode) if self.spec else ""),
            "from": list(self.spec.sources) if self.spec else [],
            "to": self.spec.target if self.spec else "",
            "dead_letter": self.spec.dead_letter if self.spec else "",
            "state": state,
            "since": since,
            "why": trouble.as_json() if trouble else None,
            "restart_at": self.restart_at,
            "assigned": self.assigned,
            "held": len(self.waiting) or self.held,
            "waiting": [
                {"topic": topic, "partition": partition, **trouble.as_json()}
                for (topic, partition), trouble in waiting[:_MOST_WAITING]
            ],
            "records": self.records,
            "bytes_in": self.bytes_in,
            # Of whole seconds: the one that runs is not over.
            "rate": sum(records[-_RATE_SECONDS - 1 : -1]) / _RATE_SECONDS,
            "topics": dict(self.topics),
            "lag": sum(self.lag.values()) if self.lag else None,
            "committed_at": self.committed_at,
            "opened_held": self.opened_held,
            "brokers_away_since": self.brokers_away_since,
            "dead_letters": self.failed["dead_letter"],
            "skipped": self.failed["skip"],
            "plaintext": self.plaintext,
            "sequence": dict(self.sequence),
            "restarts": self.restarts,
            "series": {
                "until": int(now),
                "records": records,
                "lag": self.lag_levels.until(int(now)),
            },
        }
