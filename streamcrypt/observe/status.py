"""What a process does, as one bounded picture: folded from events, given as plain JSON for the status page."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.observe.status_keys import KeyStates
from streamcrypt.observe.status_merge import merge
from streamcrypt.observe.status_pipelines import PipelineState, Trouble, short
from streamcrypt.sidecar.spec import PipelineSpec

__all__ = ["MOST_FAILURES", "Status", "merge"]

MOST_FAILURES = 30
"""The last failures that are kept, with their coordinates; the log has all."""

_MOST_HISTORY = 60
_MOST_PROBLEMS = 5
_ALIKE_WITHIN = 30.0  # seconds in which the same of a hundred partitions or topics is told once
_NO_BROKERS = "_ALL_BROKERS_DOWN"  # librdkafka's name of it


class Status:
    """An observer that keeps what the status page shows. Safe to call from several threads.

    It holds no key, no content of a record and nothing that grows with records, keys, failures or time.

    Args:
        pipelines: What the pipelines are to do; one that only its events tell of is shown with what they say.
        rotation: The limits of a data key, for what is left of it; None: not known.
        worker: Number of this process among several; None: it is the only one.
        clock: Seconds of the Unix clock.
    """

    def __init__(
        self,
        pipelines: Sequence[PipelineSpec] = (),
        rotation: RotationPolicy | None = None,
        *,
        worker: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._worker = worker
        self._started = clock()
        self._pipelines = {spec.name: PipelineState(spec.name, spec, self._started) for spec in pipelines}
        self._keys = KeyStates(rotation)
        self._workers: dict[int, dict[str, Any]] = {}
        self._reload: dict[str, Any] | None = None
        self._failures: deque[dict[str, Any]] = deque(maxlen=MOST_FAILURES)
        self._history: deque[dict[str, Any]] = deque(maxlen=_MOST_HISTORY)
        # Keyed by type, as in Metrics: one lookup for an event. What is not here says nothing to the page.
        self._handlers: Mapping[type[Event], Callable[[Any, float], None]] = {
            events.PipelineStarting: self._starting,
            events.PipelineReady: self._ready,
            events.PipelineRestarting: self._restarting,
            events.PipelineFailed: self._halted,
            events.PipelineStopped: self._stopped,
            events.PipelinePaused: self._operator_paused,
            events.PipelineResumed: self._operator_resumed,
            events.PipelineReloaded: self._pipeline_reloaded,
            events.ConfigReloaded: self._reloaded,
            events.ConfigRefused: self._config_refused,
            events.LoopTurned: self._turned,
            events.PartitionsAssigned: self._assigned,
            events.PartitionsRevoked: lambda e, _: self._pipeline(e.pipeline).let_go(e.partitions),
            events.PartitionsLost: self._lost,
            events.PartitionPaused: self._paused,
            events.PartitionResumed: self._resumed,
            events.LagMeasured: lambda e, t: self._pipeline(e.pipeline).measured(e.lags, t),
            events.BatchDone: lambda e, t: self._pipeline(e.pipeline).passed(e.topic, e.records, e.bytes_in, t),
            events.OffsetsCommitted: self._committed,
            events.BrokersAnswered: lambda e, _: self._brokers(e.pipeline, None),
            events.KafkaClientError: self._client_error,
            events.BrokerRefused: self._refused,
            events.BrokerTokenFailed: lambda e, t: self._note(t, "no_token", f"{e.client}: {e.error}: {e.detail}"),
            events.WorkerStarted: self._worker_started,
            events.WorkerRestarting: self._worker_restarting,
            events.RecordFailed: self._record_failed,
            events.PlaintextPassed: self._plaintext,
            events.SequenceFound: self._sequence,
            events.DataKeyMinted: self._keys.minted_key,
            events.DataKeyWrappedForFewer: self._fewer,
            events.DataKeyRetired: self._keys.retired_key,
            events.DataKeyMintFailed: self._mint_failed,
            events.DataKeyGraceBegan: self._grace_began,
            events.DataKeyGraceEnded: self._grace_ended,
            events.DataKeysInUse: lambda e, _: self._keys.used(e.data_key, e.messages, e.bytes),
            events.DataKeysHeld: self._held,
            events.DataKeyOpened: self._keys.opened_key,
            events.KeyServiceCalled: self._keys.called,
            events.BreakerOpened: self._breaker_opened,
            events.BreakerClosed: self._breaker_closed,
            events.KeyAliasMoved: lambda e, t: self._note(t, "alias_moved", f"{e.alias}: {e.before} to {e.after}"),
            events.DevelopmentKeyInUse: self._development,
        }

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            now = self._clock()
            with self._lock:
                handler(event, now)

    def follow(self, pipelines: Sequence[PipelineSpec], rotation: RotationPolicy | None) -> None:
        """Show these pipelines by what they are to do now; the others stay until their events say that they go."""
        now = self._clock()
        with self._lock:
            self._keys.rotate_by(rotation)
            for spec in pipelines:
                self._pipelines.setdefault(spec.name, PipelineState(spec.name, spec, now)).spec = spec

    def snapshot(self) -> dict[str, Any]:
        """Give everything as plain values that JSON can hold, for :func:`merge` and the page."""
        now = self._clock()
        with self._lock:
            return {
                "now": now,
                "processes": [
                    {
                        "host": socket.gethostname(),
                        "pid": os.getpid(),
                        "worker": self._worker,
                        "started": self._started,
                    }
                ],
                "pipelines": [pipeline.as_json(now) for pipeline in self._pipelines.values()],
                "workers": [{"worker": worker, **state} for worker, state in sorted(self._workers.items())],
                "failures": list(self._failures),
                "history": [dict(entry) for entry in self._history],
                "reload": self._reload,
                **self._keys.as_json(now),
            }

    def _pipeline(self, name: str) -> PipelineState:
        return self._pipelines.setdefault(name, PipelineState(name, None, self._clock()))

    def _note(self, now: float, what: str, text: str, pipeline: str = "") -> None:
        for entry in reversed(self._history):
            if now - entry["at"] > _ALIKE_WITHIN:
                break
            if (entry["what"], entry["pipeline"]) == (what, pipeline):
                entry["times"] += 1
                return
        self._history.append({"at": now, "what": what, "pipeline": pipeline, "text": short(text), "times": 1})

    # -- pipelines -----------------------------------------------------------------------------------------------------

    def _starting(self, event: events.PipelineStarting, now: float) -> None:
        pipeline = self._pipeline(event.pipeline)
        pipeline.mode = event.mode
        pipeline.enter("starting", now)

    def _ready(self, event: events.PipelineReady, now: float) -> None:
        pipeline = self._pipeline(event.pipeline)
        pipeline.enter("running", now)
        pipeline.assigned = event.partitions
        self._note(now, "ready", f"{event.partitions} partitions", event.pipeline)

    def _restarting(self, event: events.PipelineRestarting, now: float) -> None:
        pipeline = self._pipeline(event.pipeline)
        pipeline.restarts += 1
        pipeline.enter("restarting", now, Trouble(event.error, event.detail, "", now))
        pipeline.restart_at = now + event.seconds
        self._note(now, "restarting", f"{event.error}: {event.detail}", event.pipeline)

    def _halted(self, event: events.PipelineFailed, now: float) -> None:
        trouble = Trouble(event.error, event.detail, event.remedy, now)
        self._pipeline(event.pipeline).enter("halted", now, trouble)
        self._note(now, "halted", f"{event.error}: {event.detail}", event.pipeline)

    def _stopped(self, event: events.PipelineStopped, now: float) -> None:
        pipeline = self._pipeline(event.pipeline)
        if pipeline.phase != "halted":
            pipeline.enter("stopped", now)
        self._note(now, "stopped", "clean" if event.clean else "not everything was committed", event.pipeline)

    def _operator_paused(self, event: events.PipelinePaused, now: float) -> None:
        self._pipeline(event.pipeline).paused_since = now
        self._note(now, "paused", "by an operator", event.pipeline)

    def _operator_resumed(self, event: events.PipelineResumed, now: float) -> None:
        self._pipeline(event.pipeline).paused_since = None
        self._note(now, "resumed", f"by an operator after {event.seconds:.0f} s", event.pipeline)

    def _pipeline_reloaded(self, event: events.PipelineReloaded, now: float) -> None:
        if event.change == "removed":
            self._pipelines.pop(event.pipeline, None)
        if event.change != "unchanged":
            self._note(now, "reloaded", f"{event.change} {', '.join(event.settings)}".strip(), event.pipeline)

    def _reloaded(self, event: events.ConfigReloaded, now: float) -> None:
        changes = {
            "added": event.added,
            "removed": event.removed,
            "restarted": event.restarted,
            "changed in place": event.changed,
            "unchanged": event.unchanged,
        }
        pipelines = {name: change for change, names in changes.items() for name in names}
        self._reload = {"at": now, "outcome": "applied", "pipelines": pipelines, "settings": list(event.settings)}

    def _config_refused(self, event: events.ConfigRefused, now: float) -> None:
        problems = [short(problem) for problem in event.problems[:_MOST_PROBLEMS]]
        self._reload = {"at": now, "outcome": "refused", "problems": problems}
        self._note(now, "refused", f"the configuration: {next(iter(problems), '')}")

    def _turned(self, event: events.LoopTurned, now: float) -> None:
        pipeline = self._pipeline(event.pipeline)
        pipeline.tick, pipeline.assigned, pipeline.held = now, event.assigned, event.held

    def _assigned(self, event: events.PartitionsAssigned, now: float) -> None:
        if event.partitions:
            self._note(now, "assigned", f"{len(event.partitions)} partitions", event.pipeline)

    def _lost(self, event: events.PartitionsLost, now: float) -> None:
        self._pipeline(event.pipeline).let_go(event.partitions)
        self._note(now, "lost", f"{len(event.partitions)} partitions went to another member", event.pipeline)

    def _paused(self, event: events.PartitionPaused, now: float) -> None:
        waiting, place = self._pipeline(event.pipeline).waiting, (event.topic, event.partition)
        # Told again, it waits for something else: since when it waits at all stays.
        since = waiting[place].since if place in waiting else now
        waiting[place] = Trouble(event.error, event.detail, event.remedy, since, event.offset)
        self._note(now, "waits", f"{event.topic}[{event.partition}]: {event.error}: {event.detail}", event.pipeline)

    def _resumed(self, event: events.PartitionResumed, now: float) -> None:
        self._pipeline(event.pipeline).waiting.pop((event.topic, event.partition), None)
        text = f"{event.topic}[{event.partition}] after {event.seconds:.0f} s"
        self._note(now, "resumed", text, event.pipeline)

    def _committed(self, event: events.OffsetsCommitted, now: float) -> None:
        self._pipeline(event.pipeline).committed_at = now
        self._brokers(event.pipeline, None)

    def _brokers(self, pipeline: str, away_since: float | None) -> None:
        self._pipeline(pipeline).brokers_away_since = away_since

    def _client_error(self, event: events.KafkaClientError, now: float) -> None:
        if event.code == _NO_BROKERS and self._pipeline(event.pipeline).brokers_away_since is None:
            self._brokers(event.pipeline, now)
            self._note(now, "brokers_away", event.detail, event.pipeline)

    def _refused(self, event: events.BrokerRefused, now: float) -> None:
        self._note(now, "broker_refuses", f"{event.operation} on {event.resource} {event.name}", event.pipeline)

    # -- workers -------------------------------------------------------------------------------------------------------

    def _worker_started(self, event: events.WorkerStarted, now: float) -> None:
        self._workers[event.worker] = {"pid": event.pid, "since": now, "reason": "", "restart_at": None}

    def _worker_restarting(self, event: events.WorkerRestarting, now: float) -> None:
        state = {"pid": event.pid, "since": now, "reason": short(event.reason), "restart_at": now + event.seconds}
        self._workers[event.worker] = state
        self._note(now, "worker_ended", f"worker {event.worker}: {event.reason}")

    # -- records -------------------------------------------------------------------------------------------------------

    def _record_failed(self, event: events.RecordFailed, now: float) -> None:
        self._pipeline(event.pipeline).failed[event.action] += 1
        self._failures.append(
            {
                "at": now,
                "pipeline": event.pipeline,
                "topic": event.topic,
                "partition": event.partition,
                "offset": event.offset,
                "error": event.error,
                "detail": short(event.detail),
                "action": event.action,
            }
        )

    def _plaintext(self, event: events.PlaintextPassed, _now: float) -> None:
        self._pipeline(event.pipeline).plaintext += event.records

    def _sequence(self, event: events.SequenceFound, now: float) -> None:
        self._pipeline(event.pipeline).sequence[event.kind] += event.records
        where = f"{event.topic}[{event.partition}]@{event.offset}"
        self._note(now, "sequence", f"{event.kind} of {event.records} at {where}", event.pipeline)

    # -- keys ----------------------------------------------------------------------------------------------------------

    def _fewer(self, event: events.DataKeyWrappedForFewer, now: float) -> None:
        self._keys.wrapped_for_fewer(event)
        self._note(now, "fewer_keks", f"{event.topic}: not wrapped for {', '.join(event.missing)}")

    def _mint_failed(self, event: events.DataKeyMintFailed, now: float) -> None:
        self._note(now, "mint_failed", f"{event.topic}: {event.error}: {event.detail}")

    def _grace_began(self, event: events.DataKeyGraceBegan, now: float) -> None:
        self._keys.grace_began(event, now)
        self._note(now, "grace_began", f"{event.topic}: {event.reason}, for {event.seconds:.0f} s at most")

    def _grace_ended(self, event: events.DataKeyGraceEnded, now: float) -> None:
        self._keys.grace_ended(event)
        self._note(now, "grace_ended", f"{event.topic}: {event.outcome}, {event.messages} records sealed in it")

    def _breaker_opened(self, event: events.BreakerOpened, now: float) -> None:
        self._keys.breaker(event.region, now, now)
        self._note(now, "breaker_opened", f"{event.region}: {event.failures} calls without an answer")

    def _breaker_closed(self, event: events.BreakerClosed, now: float) -> None:
        self._keys.breaker(event.region, None, now)
        self._note(now, "breaker_closed", f"{event.region}: away for {event.seconds:.0f} s")

    def _held(self, event: events.DataKeysHeld, _now: float) -> None:
        self._pipeline(event.pipeline).opened_held = event.entries

    def _development(self, _event: events.DevelopmentKeyInUse, _now: float) -> None:
        self._keys.development = True
