"""Whether this process lives and is ready, as the probes of an orchestrator ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamcrypt.events import (
    Event,
    LoopTurned,
    PartitionPaused,
    PartitionResumed,
    PartitionsLost,
    PartitionsRevoked,
    PipelineFailed,
    PipelineReady,
    PipelineRestarting,
    PipelineStarting,
    PipelineStopped,
)

__all__ = ["Health", "Report"]

STALLED_AFTER = 30.0  # no call of a pipeline's loop blocks longer than 1 s; a key service may hold a batch up for some


@dataclass(frozen=True, slots=True)
class Report:
    """An answer to a probe.

    Attributes:
        ok: Whether the probe passes.
        pipelines: Pipeline to what is wrong with it; an empty list is well.
        reasons: What is wrong with the process as a whole.
    """

    ok: bool
    pipelines: dict[str, list[str]]
    reasons: list[str]

    def as_json(self) -> dict[str, Any]:
        """Give the body of the answer."""
        return {"status": "ok" if self.ok else "failing", "reasons": self.reasons, "pipelines": self.pipelines}


@dataclass(slots=True)
class _State:
    tick: float
    failed: str = ""
    waiting: str = "joining its consumer group"
    stopped: bool = False
    paused: dict[tuple[str, int], str] = field(default_factory=dict)


class Health:
    """Keeps what pipelines say of themselves: an observer, and :meth:`tick` for a loop to show that it turns.

    Safe to call from several threads.

    Args:
        pipelines: The pipelines that will run; each counts as not ready until it says otherwise.
        stalled_after: Seconds without a tick after which a pipeline counts as dead. Default 30.
        clock: Seconds on a monotonic clock.

    A pipeline that waits for the key service or its brokers is alive and not ready: a restart would not help. One
    that halted, whose loop stands still, or whose Kafka clients are beyond repair and not made anew yet, is not alive.
    """

    def __init__(
        self,
        pipelines: tuple[str, ...] = (),
        *,
        stalled_after: float = STALLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._stalled_after = stalled_after
        self._states = {name: _State(clock(), waiting="not started yet") for name in pipelines}

    def tick(self, pipeline: str) -> None:
        """Note that a pipeline's loop turns; call it once a turn, at least once a second."""
        now = self._clock()
        with self._lock:
            self._state(pipeline).tick = now

    def __call__(self, event: Event) -> None:
        """Take what an event says of a pipeline; other events are nothing to it."""
        with self._lock:
            match event:
                case PipelineStarting(pipeline=name):
                    self._states[name] = _State(self._clock())
                case PipelineReady(pipeline=name):
                    self._state(name).waiting = ""
                case LoopTurned(pipeline=name):
                    self._state(name).tick = self._clock()
                case PipelineRestarting(pipeline=name):
                    # It says nothing while it waits, and is not dead for that.
                    silent_until = self._clock() + event.seconds
                    waiting = f"starts again: {event.error}: {event.detail}"
                    self._states[name] = _State(silent_until, waiting if event.fatal else "", waiting)
                case PipelineFailed(pipeline=name):
                    self._state(name).failed = f"halted: {event.error}: {event.detail}"
                case PipelineStopped(pipeline=name):
                    self._state(name).stopped = True
                    self._state(name).paused.clear()
                case PartitionPaused(pipeline=name):
                    reason = f"{event.topic}[{event.partition}] waits: {event.error}: {event.detail}"
                    self._state(name).paused[event.topic, event.partition] = reason
                case PartitionResumed(pipeline=name):
                    self._state(name).paused.pop((event.topic, event.partition), None)
                case PartitionsRevoked(pipeline=name) | PartitionsLost(pipeline=name):
                    for partition in event.partitions:
                        self._state(name).paused.pop(partition, None)
                case _:
                    pass

    def _state(self, pipeline: str) -> _State:
        return self._states.setdefault(pipeline, _State(self._clock()))

    def liveness(self) -> Report:
        """Say whether a restart would help: a pipeline halted, or its loop stands still."""
        now = self._clock()
        with self._lock:
            pipelines = {name: self._death(state, now) for name, state in self._states.items()}
        return Report(not any(pipelines.values()), pipelines, [])

    def readiness(self) -> Report:
        """Say whether every pipeline has its assignment and a key at hand, and no partition waits."""
        now = self._clock()
        with self._lock:
            pipelines = {name: self._death(state, now) + _hindrances(state) for name, state in self._states.items()}
        reasons = [] if pipelines else ["no pipeline has started"]
        return Report(not reasons and not any(pipelines.values()), pipelines, reasons)

    def _death(self, state: _State, now: float) -> list[str]:
        if state.failed:
            return [state.failed]
        silent = now - state.tick
        if silent > self._stalled_after and not state.stopped:
            return [f"its loop has stood still for {silent:.0f} s"]
        return []


def _hindrances(state: _State) -> list[str]:
    if state.stopped:
        return ["stopped"]
    return [*([state.waiting] if state.waiting else []), *state.paused.values()]
