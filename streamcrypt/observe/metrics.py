"""Events as Prometheus metrics. The only importer of prometheus_client beside the HTTP server.

Labels are names from the configuration, Kafka topics, regions, and outcomes out of closed sets; none comes from a
record's content or from its envelope, so that nobody who can write a record can multiply time series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streamcrypt import events
from streamcrypt.events import Event

__all__ = ["Metrics"]

# From a call inside one rack to the read timeout of 1.5 s; each attempt is a call of its own.
_KEY_SERVICE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BATCH_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """An observer that counts. Safe to call from several threads.

    Attributes:
        registry: Its own registry, never the global one, so that two can live in one process.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._define_records()
        self._define_keys()
        self._define_pipelines()
        # Keyed by type: one lookup for an event, and a test proves that none is missing.
        self.handlers: Mapping[type[Event], Callable[[Any], None]] = {
            events.DataKeyMinted: self._minted,
            events.DataKeyWrappedForFewer: lambda e: self._fewer.labels(e.topic).inc(),
            events.DataKeyRetired: lambda e: self._retired.labels(e.topic, e.reason).inc(),
            events.DataKeyMintFailed: lambda e: self._mint_failed.labels(e.topic, e.error).inc(),
            events.DataKeyOpened: lambda e: self._opened.labels("shared" if e.shared else "unwrapped").inc(),
            events.DataKeyRefused: self._refused,
            events.DataKeyDropped: lambda e: self._dropped.labels(e.reason).inc(),
            events.DataKeyRewrapped: lambda e: self._rewrapped_keys.labels(e.topic).inc(),
            events.DataKeyGraceBegan: self._grace_began,
            events.DataKeyGraceEnded: self._grace_ended,
            events.DataKeyBudgetSpent: lambda e: self._over_budget.labels(e.topic).inc(e.records),
            events.BreakerOpened: self._breaker_opened,
            events.BreakerClosed: lambda e: self._breaker_open.labels(e.region).set(0),
            events.KeyServiceCalled: self._called,
            events.KeyAliasMoved: lambda _: self._alias_moved.inc(),
            events.DevelopmentKeyInUse: lambda _: self._development_key.set(1),
            events.PipelineStarting: lambda e: self._ready.labels(e.pipeline).set(0),
            events.PipelineReady: lambda e: self._ready.labels(e.pipeline).set(1),
            events.PipelineStopped: self._stopped,
            events.PipelineFailed: lambda e: self._pipeline_failed.labels(e.pipeline, e.error).inc(),
            events.PartitionsAssigned: lambda e: self._rebalances.labels(e.pipeline, "assigned").inc(),
            events.PartitionsRevoked: lambda e: self._rebalances.labels(e.pipeline, "revoked").inc(),
            events.PartitionsLost: lambda e: self._rebalances.labels(e.pipeline, "lost").inc(),
            events.PartitionPaused: lambda e: self._pauses.labels(e.pipeline, e.error).inc(),
            events.PartitionResumed: lambda e: self._pause_seconds.labels(e.pipeline).inc(e.seconds),
            events.RecordFailed: lambda e: self._record_failed.labels(e.pipeline, e.topic, e.error, e.action).inc(),
            events.BatchDone: self._batch,
            events.OffsetsCommitted: self._committed,
            events.PipelineRestarting: self._restarting,
            events.LoopTurned: self._turned,
            events.SourcesChanged: lambda e: self._sources.labels(e.pipeline).set(len(e.topics)),
            events.KafkaClientError: lambda e: self._client_errors.labels(e.pipeline, e.client, e.code).inc(),
            events.CommitFailed: lambda e: self._commit_failures.labels(e.pipeline, e.code).inc(),
            events.UnitGivenUp: lambda e: self._units_given_up.labels(e.pipeline, e.code).inc(),
            events.SequenceFound: lambda e: self._sequence.labels(e.pipeline, e.topic, e.kind).inc(e.records),
            events.ReencryptionPlanned: lambda e: self._to_reencrypt.labels(e.pipeline).set(e.offsets),
            events.ReencryptionProgress: lambda e: self._reencrypted.labels(e.pipeline, e.phase).set(e.done),
            events.ReencryptionVerified: lambda e: self._verified.labels(e.pipeline).set(e.compared),
            events.RecordDiffers: lambda e: self._differ.labels(e.pipeline).inc(),
            events.PlaintextPassed: lambda e: self._plaintext.labels(e.pipeline, e.topic).inc(e.records),
        }

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self.handlers[type(event)](event)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamcrypt_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"streamcrypt_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"streamcrypt_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _define_records(self) -> None:
        where = ("pipeline", "topic")
        self._records = self._counter("records", "Records sealed, opened or re-encrypted, tombstones included.", *where)
        self._tombstones = self._counter("tombstones", "Records with a null value.", *where)
        self._bytes = self._counter("value_bytes", "Bytes of values read (in) and written (out).", *where, "direction")
        self._batches = self._counter("batches", "Fetched batches handed to the producer.", *where)
        self._batch_seconds = self._histogram(
            "batch_seconds", "Time to seal or open a batch.", _BATCH_BUCKETS, "pipeline"
        )
        self._record_failed = self._counter(
            "record_failures", "Records that could not be passed on, by class of error.", *where, "error", "action"
        )

        self._sequence = self._counter(
            "sequence_findings", "Records missing before, repeated, out of order or moved, as found.", *where, "kind"
        )
        self._plaintext = self._counter(
            "plaintext_passed", "Records without an envelope let through before the cut-over.", *where
        )

        self._to_reencrypt = self._gauge("reencryption_offsets", "Offsets that a job has to cover.", "pipeline")
        self._reencrypted = self._gauge("reencryption_done", "Offsets that a job has covered.", "pipeline", "phase")
        self._verified = self._gauge("reencryption_compared", "Records found the same on both sides.", "pipeline")
        self._differ = self._counter("reencryption_differences", "Records that differ, or stand alone.", "pipeline")

    def _define_keys(self) -> None:
        self._minted_keys = self._counter("data_keys_minted", "Data keys minted.", "topic", "ahead")
        self._fewer = self._counter(
            "data_keys_wrapped_for_fewer", "Data keys wrapped for some of the configured KEKs only.", "topic"
        )
        self._retired = self._counter("data_keys_retired", "Data keys that seal nothing more.", "topic", "reason")
        self._mint_failed = self._counter("data_key_mint_failures", "Data keys not minted.", "topic", "error")
        self._opened = self._counter("decrypt_cache_misses", "Data keys that were not in the cache.", "how")
        self._refused_keys = self._counter("data_keys_refused", "Data keys that could not be had.", "error", "fault")
        self._dropped = self._counter("data_keys_dropped", "Data keys dropped from the cache.", "reason")
        self._rewrapped_keys = self._counter("data_keys_rewrapped", "Data keys wrapped under another KEK.", "topic")
        self._calls = self._counter("key_service_calls", "Calls to KMS.", "operation", "region", "outcome")
        self._call_seconds = self._histogram(
            "key_service_seconds", "Time of a call to KMS.", _KEY_SERVICE_BUCKETS, "operation", "region"
        )
        self._breaker_open = self._gauge("key_service_breaker_open", "1 while KMS is away and not called.", "region")
        self._breaker_openings = self._counter("key_service_breaker_openings", "Breakers opened.", "region")
        self._in_grace = self._gauge("data_keys_in_grace", "Data keys that are due and seal on: KMS is away.", "topic")
        self._graces = self._counter("data_key_graces", "Graces of data keys that ended.", "topic", "outcome")
        self._grace_records = self._counter("data_key_grace_records", "Records sealed in grace.", "topic")
        self._over_budget = self._counter(
            "data_key_budget_refusals", "Records that waited for keys.new_keys_per_minute.", "topic"
        )
        self._alias_moved = self._counter("key_alias_moves", "Aliases found to point to another KEK.")
        self._development_key = self._gauge("development_key_in_use", "1 where the local provider is in use.")

    def _define_pipelines(self) -> None:
        self._ready = self._gauge("pipeline_ready", "1 once assigned with a key at hand.", "pipeline")
        self._pipeline_failed = self._counter("pipeline_failures", "Pipelines halted.", "pipeline", "error")
        self._restarts = self._counter("pipeline_restarts", "Pipelines started again.", "pipeline", "error")
        self._sources = self._gauge("source_topics", "Topics that are read.", "pipeline")
        self._assigned = self._gauge("partitions_assigned", "Partitions of this member.", "pipeline")
        self._rebalances = self._counter("rebalances", "Changes of the assignment.", "pipeline", "change")
        self._paused = self._gauge("partitions_paused", "Partitions that wait for a key or a target.", "pipeline")
        self._pause_seconds = self._counter("partition_pause_seconds", "Time that partitions waited.", "pipeline")
        self._client_errors = self._counter("kafka_client_errors", "Troubles with Kafka.", "pipeline", "client", "code")
        self._units_given_up = self._counter(
            "units_given_up", "Units of work dropped and read again; transactions aborted.", "pipeline", "code"
        )
        self._commit_failures = self._counter("commit_failures", "Commits that failed.", "pipeline", "code")
        self._pauses = self._counter("partition_pauses", "Pauses of partitions.", "pipeline", "error")
        self._commits = self._counter("commits", "Commits of offsets.", "pipeline")
        self._committed_records = self._counter("committed_records", "Records whose offsets are committed.", "pipeline")

    def _minted(self, event: events.DataKeyMinted) -> None:
        self._minted_keys.labels(event.topic, str(event.ahead).lower()).inc()

    def _refused(self, event: events.DataKeyRefused) -> None:
        self._refused_keys.labels(event.error, "record" if event.record_fault else "key_service").inc()

    def _grace_began(self, event: events.DataKeyGraceBegan) -> None:
        self._in_grace.labels(event.topic).inc()

    def _grace_ended(self, event: events.DataKeyGraceEnded) -> None:
        self._in_grace.labels(event.topic).dec()
        self._graces.labels(event.topic, event.outcome).inc()
        self._grace_records.labels(event.topic).inc(event.messages)

    def _breaker_opened(self, event: events.BreakerOpened) -> None:
        self._breaker_open.labels(event.region).set(1)
        self._breaker_openings.labels(event.region).inc()

    def _called(self, event: events.KeyServiceCalled) -> None:
        self._calls.labels(event.operation, event.region, event.outcome).inc()
        self._call_seconds.labels(event.operation, event.region).observe(event.seconds)

    def _batch(self, event: events.BatchDone) -> None:
        where = (event.pipeline, event.topic)
        self._records.labels(*where).inc(event.records)
        self._tombstones.labels(*where).inc(event.tombstones)
        self._bytes.labels(*where, "in").inc(event.bytes_in)
        self._bytes.labels(*where, "out").inc(event.bytes_out)
        self._batches.labels(*where).inc()
        self._batch_seconds.labels(event.pipeline).observe(event.seconds)

    def _committed(self, event: events.OffsetsCommitted) -> None:
        self._commits.labels(event.pipeline).inc()
        self._committed_records.labels(event.pipeline).inc(event.records)

    def _restarting(self, event: events.PipelineRestarting) -> None:
        self._restarts.labels(event.pipeline, event.error).inc()
        self._idle(event.pipeline)

    def _turned(self, event: events.LoopTurned) -> None:
        self._assigned.labels(event.pipeline).set(event.assigned)
        self._paused.labels(event.pipeline).set(event.held)

    def _stopped(self, event: events.PipelineStopped) -> None:
        self._idle(event.pipeline)

    def _idle(self, pipeline: str) -> None:
        for gauge in (self._ready, self._assigned, self._paused):
            gauge.labels(pipeline).set(0)
