"""Records on their way: how many, how large, how fast, and those that did not pass."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Mapping
from typing import NamedTuple

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.observe.metrics.families import Counter, Families, Handler, Histogram

__all__ = ["RecordMetrics"]

_BATCH_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# The default interval of commits is 0.1 s, the default timeout of transactions 10 s.
_COMMIT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class _Series(NamedTuple):
    """The series of one pipeline and topic, looked up once: an event for a batch then costs additions alone."""

    read: Counter
    passed: Counter
    tombstones: Counter
    bytes_in: Counter
    bytes_out: Counter
    batches: Counter
    plaintext: Counter
    dead_letters: Counter
    seconds: Histogram
    transform: Histogram
    opens: bool


class RecordMetrics:
    """Counts what becomes of records.

    Args:
        families: Makes the families.
    """

    def __init__(self, families: Families) -> None:
        self._define_passed(families)
        self._define_failed(families)
        self._define_committed(families)
        self._series: dict[tuple[str, str], _Series] = {}
        self._failures: dict[tuple[str, str, str, str], Counter] = {}
        self._modes: dict[str, str] = {}
        self._misses: Tally[str] = Tally()
        # Data keys are opened on other threads than records.
        self._misses_lock = threading.Lock()
        self.handlers: Mapping[type[Event], Handler] = {
            events.PipelineStarting: self._starting,
            events.BatchDone: self._batch,
            events.DataKeyOpened: self._missed,
            events.RecordFailed: self._failed,
            events.PlaintextPassed: lambda e: self._plaintext.labels(e.pipeline, e.topic).inc(e.records),
            events.SequenceFound: lambda e: self._sequence.labels(e.pipeline, e.topic, e.kind).inc(e.records),
            events.OffsetsCommitted: self._committed,
            events.CommitFailed: lambda e: self._commit_failures.labels(e.pipeline, e.code).inc(),
            events.UnitGivenUp: lambda e: self._units_given_up.labels(e.pipeline, e.code).inc(),
            events.ReencryptionPlanned: lambda e: self._to_reencrypt.labels(e.pipeline).set(e.offsets),
            events.ReencryptionProgress: lambda e: self._reencrypted.labels(e.pipeline, e.phase).set(e.done),
            events.ReencryptionVerified: lambda e: self._verified.labels(e.pipeline).set(e.compared),
            events.RecordDiffers: lambda e: self._differ.labels(e.pipeline).inc(),
        }

    def _define_passed(self, make: Families) -> None:
        where = ("pipeline", "topic")
        self._read = make.counter(
            "records_read", "Records taken up: handed to the producer, set aside, or left behind.", *where
        )
        self._records = make.counter(
            "records", "Records sealed, opened or re-encrypted and handed to the producer, tombstones included.", *where
        )
        self._tombstones = make.counter("tombstones", "Records with a null value.", *where)
        self._bytes = make.counter(
            "value_bytes", "Bytes of values read (in) and written (out).", *where, "direction", unit="bytes"
        )
        self._batches = make.counter(
            "batches",
            "Runs of records of one partition that were fetched together and handed to the producer.",
            *where,
        )
        self._batch_seconds = make.histogram(
            "batch_seconds", "Time to seal or open a batch and hand it to the producer.", _BATCH_BUCKETS, "pipeline"
        )
        self._transform_seconds = make.histogram(
            "transform_seconds",
            "Time to seal or open those records of a batch that can be done as blocks.",
            _BATCH_BUCKETS,
            "pipeline",
            "mode",
        )
        self._hits = make.counter("decrypt_cache_hits", "Records opened with a data key that was at hand.")

    def _define_failed(self, make: Families) -> None:
        where = ("pipeline", "topic")
        self._record_failed = make.counter(
            "record_failures", "Records that could not be passed on, by class of error.", *where, "error", "action"
        )
        self._dead_letters = make.counter("dead_letters", "Records handed to the dead-letter topic.", *where)
        self._sequence = make.counter(
            "sequence_findings", "Records missing before, repeated, out of order or moved, as found.", *where, "kind"
        )
        self._plaintext = make.counter(
            "plaintext_passed", "Records without an envelope let through before the cut-over.", *where
        )
        self._to_reencrypt = make.gauge(
            "reencryption_offsets", "Offsets that a job has to cover.", "pipeline", merge="livemax"
        )
        self._reencrypted = make.gauge(
            "reencryption_done", "Offsets that a job has covered.", "pipeline", "phase", merge="livemax"
        )
        self._verified = make.gauge(
            "reencryption_compared", "Records found the same on both sides.", "pipeline", merge="livemax"
        )
        self._differ = make.counter("reencryption_differences", "Records that differ, or stand alone.", "pipeline")

    def _define_committed(self, make: Families) -> None:
        self._commits = make.counter("commits", "Commits of offsets.", "pipeline")
        self._committed_records = make.counter("committed_records", "Records whose offsets are committed.", "pipeline")
        self._commit_seconds = make.histogram(
            "commit_seconds", "Time of a commit; of a transaction, with its last records.", _COMMIT_BUCKETS, "pipeline"
        )
        self._transaction_seconds = make.histogram(
            "transaction_seconds",
            "Time from the first record of a transaction until it was committed.",
            _COMMIT_BUCKETS,
            "pipeline",
        )
        self._commit_failures = make.counter("commit_failures", "Commits that failed.", "pipeline", "code")
        self._units_given_up = make.counter(
            "units_given_up", "Units of work dropped and read again; transactions aborted.", "pipeline", "code"
        )

    def _starting(self, event: events.PipelineStarting) -> None:
        self._modes[event.pipeline] = str(event.mode)
        for where in [where for where in self._series if where[0] == event.pipeline]:
            del self._series[where]

    def _series_of(self, pipeline: str, topic: str) -> _Series:
        series = self._series.get((pipeline, topic))
        if series is None:
            where, mode = (pipeline, topic), self._modes.get(pipeline, "")
            series = self._series[where] = _Series(
                self._read.labels(*where),
                self._records.labels(*where),
                self._tombstones.labels(*where),
                self._bytes.labels(*where, "in"),
                self._bytes.labels(*where, "out"),
                self._batches.labels(*where),
                # Here from the first batch on: the increase of a series that begins at 1 is not seen.
                self._plaintext.labels(*where),
                self._dead_letters.labels(*where),
                self._batch_seconds.labels(pipeline),
                self._transform_seconds.labels(pipeline, mode),
                mode == "decrypt",
            )
        return series

    def _batch(self, event: events.BatchDone) -> None:
        series = self._series_of(event.pipeline, event.topic)
        series.read.inc(event.records)
        series.passed.inc(event.records)
        series.bytes_in.inc(event.bytes_in)
        series.bytes_out.inc(event.bytes_out)
        series.batches.inc()
        series.seconds.observe(event.seconds)
        if event.tombstones:
            series.tombstones.inc(event.tombstones)
        if event.transform_seconds:
            series.transform.observe(event.transform_seconds)
        if series.opens:
            self._hits.inc(max(0, event.records - event.tombstones - event.as_it_is - self._take_misses(event.topic)))

    def _missed(self, event: events.DataKeyOpened) -> None:
        with self._misses_lock:
            self._misses[event.topic] += 1

    def _take_misses(self, topic: str) -> int:
        if topic not in self._misses:
            return 0
        with self._misses_lock:
            return self._misses.pop(topic, 0)

    def _failed(self, event: events.RecordFailed) -> None:
        series = self._series_of(event.pipeline, event.topic)
        series.read.inc()
        if event.action == "dead_letter":
            series.dead_letters.inc()
        labels = (event.pipeline, event.topic, event.error, event.action)
        failures = self._failures.get(labels)
        if failures is None:
            failures = self._failures[labels] = self._record_failed.labels(*labels)
        failures.inc()

    def _committed(self, event: events.OffsetsCommitted) -> None:
        self._commits.labels(event.pipeline).inc()
        self._committed_records.labels(event.pipeline).inc(event.records)
        self._commit_seconds.labels(event.pipeline).observe(event.seconds)
        if event.transaction_seconds:
            self._transaction_seconds.labels(event.pipeline).observe(event.transaction_seconds)
