"""Whether this process lives and is ready, as the probes of an orchestrator ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from streamcrypt.events import (
    BatchDone,
    BrokersAnswered,
    Event,
    KafkaClientError,
    LoopTurned,
    OffsetsCommitted,
    PartitionPaused,
    PartitionResumed,
    PartitionsAssigned,
    PartitionsLost,
    PartitionsRevoked,
    PipelineFailed,
    PipelinePaused,
    PipelineReady,
    PipelineReloaded,
    PipelineRestarting,
    PipelineResumed,
    PipelineStarting,
    PipelineStopped,
)
from streamcrypt.observe.report import Reason, Report

__all__ = ["STALLED_AFTER", "Health", "Probes", "Reason", "Report", "brokers_are_away"]

STALLED_AFTER = 30.0  # no call of a pipeline's loop blocks longer than 1 s; a key service may hold a batch up for some

_BROKERS = "Look at the brokers, the network, and bootstrap.servers; it goes on by itself."
_JOINING = "If it lasts: look at the other members of the group, and at the log."
_PAUSED = "Have it go on: streamcrypt ctl CONFIG resume."
_STALLED = "A restart helps; the log says what it did last."
# Of a pipeline whose records have KEKs of their own: others go on.
_ONE_KEK = frozenset({"KeyRefused", "KeyUnavailable"})


class Probes(Protocol):
    """What an HTTP server asks: :class:`Health`, or that of several workers together."""

    def liveness(self) -> Report:
        """Say whether a restart would help."""

    def readiness(self) -> Report:
        """Say whether work can be done."""


def brokers_are_away(event: KafkaClientError) -> bool:
    """Say whether an error of the client means that no broker answers, and not merely that one does not."""
    return event.code == "_ALL_BROKERS_DOWN" or event.client == "metadata"


@dataclass(frozen=True, slots=True)
class _Pause:
    error: str
    detail: str
    remedy: str
    since: float


@dataclass(slots=True)
class _State:
    """What is known of one pipeline; ``dead`` and ``hindrance`` are told until it starts, or is ready."""

    tick: float
    dead: Reason | None = None
    hindrance: Reason | None = None
    unreachable: Reason | None = None
    asked: Reason | None = None
    stopped: bool = False
    kek_per_record: bool = False
    assigned: set[tuple[str, int]] = field(default_factory=set)
    paused: dict[tuple[str, int], _Pause] = field(default_factory=dict)


class Health:
    """Keeps what pipelines say of themselves: an observer, and :meth:`tick` for a loop to show that it turns.

    Safe to call from several threads.

    Args:
        pipelines: The pipelines that will run; each counts as not ready until it says otherwise.
        stalled_after: Seconds without a tick after which a pipeline counts as dead. Default 30.
        clock: Seconds on a monotonic clock.
        wall_clock: Seconds since 1970, for people.

    A pipeline that waits for the key service or its brokers is alive and not ready: a restart would not help. One
    that halted, whose loop stands still, or whose Kafka clients are beyond repair and not made anew yet, is not alive.
    One whose records have KEKs of their own is ready while any of its partitions goes on: what waits for a KEK is
    named nevertheless.
    """

    def __init__(
        self,
        pipelines: tuple[str, ...] = (),
        *,
        stalled_after: float = STALLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._wall_clock = wall_clock
        self._stalled_after = stalled_after
        now = wall_clock()
        self._states = {
            name: _State(clock(), hindrance=Reason("not started yet", name, now, _JOINING)) for name in pipelines
        }

    def tick(self, pipeline: str) -> None:
        """Note that a pipeline's loop turns; call it once a turn, at least once a second."""
        now = self._clock()
        with self._lock:
            self._state(pipeline).tick = now

    def __call__(self, event: Event) -> None:
        """Take what an event says of a pipeline; other events are nothing to it."""
        if isinstance(event, BatchDone):
            # Nothing to it, and most of what there is.
            return
        with self._lock:
            match event:
                case PipelineStarting():
                    self._starting(event)
                case PipelineReady(pipeline=name):
                    self._state(name).hindrance = None
                case LoopTurned(pipeline=name):
                    self._state(name).tick = self._clock()
                case PipelineRestarting():
                    self._restarting(event)
                case PipelineFailed(pipeline=name):
                    text = f"halted: {event.error}: {event.detail}"
                    self._state(name).dead = Reason(text, name, self._wall_clock(), event.remedy)
                case PipelineStopped(pipeline=name):
                    state = self._state(name)
                    state.stopped, state.hindrance = True, Reason("stopped", name, self._wall_clock())
                    state.paused.clear()
                case PipelinePaused(pipeline=name):
                    self._state(name).asked = Reason("paused by an operator", name, self._wall_clock(), _PAUSED)
                case PipelineResumed(pipeline=name):
                    self._state(name).asked = None
                case PipelineReloaded():
                    self._reloaded(event)
                case PartitionPaused(pipeline=name):
                    # Told again, it waits for something else: since when it waits at all stays.
                    paused, place = self._state(name).paused, (event.topic, event.partition)
                    since = paused[place].since if place in paused else self._wall_clock()
                    paused[place] = _Pause(event.error, event.detail, event.remedy, since)
                case PartitionResumed(pipeline=name):
                    self._state(name).paused.pop((event.topic, event.partition), None)
                case PartitionsAssigned(pipeline=name):
                    self._state(name).assigned.update(event.partitions)
                    self._state(name).unreachable = None
                case PartitionsRevoked(pipeline=name) | PartitionsLost(pipeline=name):
                    self._state(name).assigned.difference_update(event.partitions)
                    for partition in event.partitions:
                        self._state(name).paused.pop(partition, None)
                case KafkaClientError(pipeline=name) if brokers_are_away(event):
                    self._unreachable(self._state(name), event)
                case BrokersAnswered(pipeline=name) | OffsetsCommitted(pipeline=name):
                    self._state(name).unreachable = None
                case _:
                    pass

    def _state(self, pipeline: str) -> _State:
        return self._states.setdefault(pipeline, _State(self._clock()))

    def _starting(self, event: PipelineStarting) -> None:
        name, before = event.pipeline, self._states.get(event.pipeline)
        joining = Reason("joining its consumer group", name, self._wall_clock(), _JOINING)
        unreachable = before.unreachable if before is not None else None
        self._states[name] = _State(
            self._clock(), hindrance=joining, unreachable=unreachable, kek_per_record=event.kek_per_record
        )

    def _restarting(self, event: PipelineRestarting) -> None:
        name, before = event.pipeline, self._states.get(event.pipeline)
        again = Reason(f"starts again: {event.error}: {event.detail}", name, self._wall_clock())
        # It says nothing while it waits, and is not dead for that.
        silent_until = self._clock() + event.seconds
        self._states[name] = _State(
            silent_until,
            dead=again if event.fatal else None,
            hindrance=again,
            unreachable=before.unreachable if before is not None else None,
        )

    def _reloaded(self, event: PipelineReloaded) -> None:
        name = event.pipeline
        if event.change == "removed":
            self._states.pop(name, None)
        elif event.change == "added":
            waiting = Reason("not started yet", name, self._wall_clock(), _JOINING)
            self._states[name] = _State(self._clock(), hindrance=waiting)

    def _unreachable(self, state: _State, event: KafkaClientError) -> None:
        if state.unreachable is None:
            text = f"no broker answers: {event.code}: {event.detail}"
            state.unreachable = Reason(text, event.pipeline, self._wall_clock(), _BROKERS)

    def liveness(self) -> Report:
        """Say whether a restart would help: a pipeline halted, or its loop stands still."""
        now = self._clock()
        with self._lock:
            deaths = [self._death(name, state, now) for name, state in self._states.items()]
            return Report.of((death for death in deaths if death), names=self._states)

    def readiness(self) -> Report:
        """Say whether every pipeline has its assignment, a key at hand and a broker that answers, and nothing waits."""
        now = self._clock()
        reasons: list[Reason] = []
        waiting: list[Reason] = []
        with self._lock:
            for name, state in self._states.items():
                death = self._death(name, state, now)
                # A fatal restart is both. Of one that has stopped the brokers are asked no more.
                hindrance = state.hindrance if state.hindrance != death else None
                unreachable = None if state.stopped else state.unreachable
                asked = None if state.stopped else state.asked
                reasons += [reason for reason in (death, hindrance, unreachable, asked) if reason is not None]
                for pause, reason in _pauses(name, state):
                    goes_on = state.kek_per_record and pause.error in _ONE_KEK and state.assigned - state.paused.keys()
                    (waiting if goes_on else reasons).append(reason)
            names = tuple(self._states)
        if not names:
            reasons.append(Reason("no pipeline has started"))
        return Report.of(reasons, waiting, names)

    def _death(self, name: str, state: _State, now: float) -> Reason | None:
        silent = now - state.tick
        if state.dead is None and silent > self._stalled_after and not state.stopped:
            text = f"its loop has stood still for {silent:.0f} s"
            return Reason(text, name, self._wall_clock() - silent, _STALLED)
        return state.dead


def _pauses(pipeline: str, state: _State) -> Iterator[tuple[_Pause, Reason]]:
    """Give the pauses of partitions, those for one cause together: of a hundred of them a person reads one line."""
    causes: dict[tuple[str, str], dict[tuple[str, int], _Pause]] = {}
    for place, pause in state.paused.items():
        causes.setdefault((pause.error, pause.remedy), {})[place] = pause
    for pauses in causes.values():
        first = min(pauses.values(), key=lambda pause: pause.since)
        partitions: dict[str, list[int]] = {}
        for topic, partition in sorted(pauses):
            partitions.setdefault(topic, []).append(partition)
        (topic, partition), *more = pauses
        who = f"{len(pauses)} partitions wait" if more else f"{topic}[{partition}] waits"
        text = f"{who}: {first.error}: {first.detail}"
        yield first, Reason(text, pipeline, first.since, first.remedy, partitions)
