"""Pipelines and their process: readiness, turns of the loop, assignment, lag, pauses, trouble with the brokers."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.observe.health import brokers_are_away
from streamcrypt.observe.metrics.families import Families, Gauge, Handler

__all__ = ["PipelineMetrics"]


class PipelineMetrics:
    """Counts what pipelines go through.

    Args:
        families: Makes the families.
        wall_clock: Seconds since 1970.
    """

    def __init__(self, families: Families, wall_clock: Callable[[], float] = time.time) -> None:
        self._families = families
        self._wall_clock = wall_clock
        self._lags: dict[str, dict[tuple[str, int], Gauge]] = {}
        self._define_pipelines(families)
        self._define_partitions(families)
        self._define_process(families)
        self.handlers: Mapping[type[Event], Handler] = {
            events.PipelineStarting: lambda e: self._ready.labels(e.pipeline).set(0),
            events.PipelineReady: lambda e: self._ready.labels(e.pipeline).set(1),
            events.PipelineStopped: self._stopped,
            events.PipelineFailed: lambda e: self._failed.labels(e.pipeline, e.error).inc(),
            events.PipelineRestarting: self._restarting,
            events.LoopTurned: self._turned,
            events.SourcesChanged: lambda e: self._sources.labels(e.pipeline).set(len(e.topics)),
            events.PartitionsAssigned: self._partitions_assigned,
            events.PartitionsRevoked: lambda e: self._partitions_gone(e, "revoked"),
            events.PartitionsLost: lambda e: self._partitions_gone(e, "lost"),
            events.PartitionPaused: lambda e: self._pauses.labels(e.pipeline, e.error).inc(),
            events.PartitionResumed: lambda e: self._pause_seconds.labels(e.pipeline).inc(e.seconds),
            events.LagMeasured: self._measured,
            events.KafkaClientError: self._client_error,
            events.BrokerRefused: lambda e: self._refusals.labels(e.pipeline, e.operation, e.resource).inc(),
            events.BrokerTokenFailed: lambda e: self._token_failures.labels(e.client, e.error).inc(),
            events.BrokersAnswered: lambda e: self._reachable.labels(e.pipeline).set(1),
            events.HTTPUnprotected: lambda _: self._unprotected.set(1),
            events.WorkerStarted: self._worker_started,
            events.WorkerRestarting: self._worker_restarting,
            events.PipelinePaused: lambda e: self._halted.labels(e.pipeline).set(1),
            events.PipelineResumed: lambda e: self._halted.labels(e.pipeline).set(0),
            events.PipelineReloaded: self._reloaded,
            events.ConfigReloaded: lambda _: self._reloads.labels("applied").inc(),
            events.ConfigRefused: lambda _: self._reloads.labels("refused").inc(),
            events.ControlAsked: lambda e: self._commands.labels(e.command, e.outcome).inc(),
            events.ControlUnavailable: lambda _: self._uncontrolled.set(1),
        }

    def _define_pipelines(self, make: Families) -> None:
        self._ready = make.gauge("pipeline_ready", "1 once assigned with a key at hand.", "pipeline", merge="livemin")
        self._halted = make.gauge("pipeline_paused", "1 while an operator has it paused.", "pipeline", merge="livemax")
        self._failed = make.counter("pipeline_failures", "Pipelines halted.", "pipeline", "error")
        self._restarts = make.counter("pipeline_restarts", "Pipelines started again.", "pipeline", "error")
        self._turns = make.counter("loop_turns", "Turns of the loop, counted at most once a second.", "pipeline")
        self._turned_at = make.gauge(
            "loop_turned_timestamp_seconds",
            "When the loop turned last, in seconds since 1970.",
            "pipeline",
            unit="seconds",
            merge="livemin",
        )
        self._sources = make.gauge("source_topics", "Topics that are read.", "pipeline", merge="livemax")

    def _define_partitions(self, make: Families) -> None:
        self._assigned = make.gauge("partitions_assigned", "Partitions of this member.", "pipeline")
        self._rebalances = make.counter("rebalances", "Changes of the assignment.", "pipeline", "change")
        self._paused = make.gauge("partitions_paused", "Partitions that wait for a key or a target.", "pipeline")
        self._pauses = make.counter("partition_pauses", "Pauses of partitions.", "pipeline", "error")
        self._pause_seconds = make.counter(
            "partition_pause_seconds", "Time that partitions waited.", "pipeline", unit="seconds"
        )
        self._lag = make.gauge(
            "consumer_lag_records",
            "Offsets from the next record to pass on to the end of the partition.",
            "pipeline",
            "topic",
            "partition",
            unit="records",
        )

    def _define_process(self, make: Families) -> None:
        self._reachable = make.gauge("brokers_reachable", "1 while a broker answers.", "pipeline", merge="livemin")
        self._client_errors = make.counter("kafka_client_errors", "Troubles with Kafka.", "pipeline", "client", "code")
        self._token_failures = make.counter(
            "broker_token_failures", "Login tokens for the brokers that could not be made.", "client", "error"
        )
        self._refusals = make.counter(
            "broker_refusals", "Rights that the brokers' authorizer refused.", "pipeline", "operation", "resource"
        )
        self._workers = make.gauge("workers", "Worker processes that run; 0 where the one process has none.")
        self._worker_restarts = make.counter("worker_restarts", "Worker processes started again.", "worker")
        self._unprotected = make.gauge(
            "http_unprotected", "1 where others than this host may read this page without a token.", merge="livemax"
        )
        self._reloads = make.counter("config_reloads", "Configurations read again.", "outcome")
        self._reloaded_pipelines = make.counter(
            "pipeline_reloads", "What reading the configuration again meant for a pipeline.", "pipeline", "change"
        )
        self._uncontrolled = make.gauge(
            "control_unavailable", "1 where the control socket could not be made.", merge="livemax"
        )
        self._commands = make.counter("control_commands", "Commands over the control socket.", "command", "outcome")
        build = make.gauge(
            "build_info",
            "Versions of this process; the value is 1.",
            "version",
            "python",
            "confluent_kafka",
            "cryptography",
            merge="livemax",
        )
        installed = map(_version, ("confluent-kafka", "cryptography"))
        build.labels(_version("streamcrypt"), platform.python_version(), *installed).set(1)

    def _stopped(self, event: events.PipelineStopped) -> None:
        self._idle(event.pipeline)
        # Nobody waits for it to turn again.
        self._families.drop(self._turned_at, event.pipeline, instead=math.inf)

    def _reloaded(self, event: events.PipelineReloaded) -> None:
        self._reloaded_pipelines.labels(event.pipeline, event.change).inc()
        if event.change != "removed":
            return
        # As if all were well: where values are merged a series cannot go.
        for gauge, instead in ((self._ready, 1.0), (self._reachable, 1.0), (self._halted, 0.0), (self._sources, 0.0)):
            gauge.labels(event.pipeline)
            self._families.drop(gauge, event.pipeline, instead=instead)

    def _restarting(self, event: events.PipelineRestarting) -> None:
        self._restarts.labels(event.pipeline, event.error).inc()
        self._idle(event.pipeline)

    def _idle(self, pipeline: str) -> None:
        for gauge in (self._ready, self._assigned, self._paused):
            gauge.labels(pipeline).set(0)
        for topic, partition in self._lags.pop(pipeline, ()):
            self._families.drop(self._lag, pipeline, topic, str(partition))

    def _turned(self, event: events.LoopTurned) -> None:
        self._turns.labels(event.pipeline).inc()
        self._turned_at.labels(event.pipeline).set(self._wall_clock())
        self._assigned.labels(event.pipeline).set(event.assigned)
        self._paused.labels(event.pipeline).set(event.held)

    def _partitions_assigned(self, event: events.PartitionsAssigned) -> None:
        self._rebalances.labels(event.pipeline, "assigned").inc()
        self._reachable.labels(event.pipeline).set(1)

    def _partitions_gone(self, event: events.PartitionsRevoked | events.PartitionsLost, change: str) -> None:
        self._rebalances.labels(event.pipeline, change).inc()
        measured = self._lags.get(event.pipeline, {})
        for topic, partition in event.partitions:
            if measured.pop((topic, partition), None) is not None:
                # Another member counts it now.
                self._families.drop(self._lag, event.pipeline, topic, str(partition))

    def _measured(self, event: events.LagMeasured) -> None:
        series = self._lags.setdefault(event.pipeline, {})
        for topic, partition, lag in event.lags:
            one = series.get((topic, partition))
            if one is None:
                one = series[topic, partition] = self._lag.labels(event.pipeline, topic, str(partition))
            one.set(lag)

    def _client_error(self, event: events.KafkaClientError) -> None:
        self._client_errors.labels(event.pipeline, event.client, event.code).inc()
        if brokers_are_away(event):
            self._reachable.labels(event.pipeline).set(0)

    def _worker_started(self, event: events.WorkerStarted) -> None:
        self._workers.inc()
        # Here from the start on: the increase of a series that begins at 1 is not seen.
        self._worker_restarts.labels(str(event.worker))

    def _worker_restarting(self, event: events.WorkerRestarting) -> None:
        self._workers.dec()
        self._worker_restarts.labels(str(event.worker)).inc()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path, without its metadata
        return "unknown"
