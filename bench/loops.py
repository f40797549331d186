"""The loops that are compared, each with the librdkafka settings that streamcrypt ships: nothing is tuned in here.

Garbage is collected as ``streamcrypt run`` has it, in the raw copy as well, so that no ratio is owed to that.

The functions named in :mod:`bench.job` run in a process of their own and give figures for one run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.meter import Meter
from streamcrypt.cli.compose import build_provider, consumer_config, producer_config
from streamcrypt.cli.run import factory
from streamcrypt.config import Settings
from streamcrypt.events import BatchDone, Event, KeyServiceCalled, Observer, OffsetsCommitted
from streamcrypt.observe import fan_out
from streamcrypt.sidecar.garbage import collecting_seldom

__all__ = ["copy", "fill", "pipeline", "settings"]

_HEADER = ("streamcrypt", b"h" * 292)
"""The raw loop adds a header as large as ours with one KMS key."""
# Of each partition: more than a batch, so that no value comes twice within sight of a compression.
_POOL = 2 * 2**20
_KEYS = 1000


def settings(
    bootstrap: str,
    keys: Mapping[str, Any],
    mode: str,
    source: str,
    target: str,
    *,
    group: str = "bench",
    delivery: str = "at_least_once",
    compression: str | None = None,
) -> Settings:
    """Give settings as a file would: defaults everywhere else."""
    kafka: dict[str, Any] = {"bootstrap.servers": bootstrap}
    if compression is not None:
        kafka["producer"] = {"compression.type": compression}
    one = {"name": "bench", "mode": mode, "from": source, "to": target, "group": group, "delivery": delivery}
    return Settings.model_validate({"kafka": kafka, "keys": dict(keys), "pipelines": [{**one, "instance": group}]})


def fill(
    bootstrap: str,
    keys: Mapping[str, Any],
    topic: str,
    size: int,
    records: int,
    partitions: int,
    compression: str | None = None,
) -> dict[str, float]:
    """Write random values, which no compression makes smaller, under a thousand keys, evenly over the partitions."""
    chosen = settings(bootstrap, keys, "encrypt", "none", topic, compression=compression)
    producer = Producer(producer_config(chosen, chosen.pipelines[0]))
    length = _POOL * max(4, partitions)
    pool = os.urandom(length + size)
    for number in range(records):
        start = number * size % length
        record = (topic, pool[start : start + size], b"key-%d" % (number % _KEYS), number % partitions)
        while True:
            try:
                producer.produce(*record)
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(120)
    if left:
        raise RuntimeError(f"{left} records were not delivered")
    return {}


class _Watch:
    """An observer that feeds the meter, counts calls to KMS, and stops the loop after the last record."""

    def __init__(self, records: int, meter: Meter, stop: threading.Event) -> None:
        self._wanted = records
        self._meter = meter
        self._stop = stop
        self._passed = 0
        self.calls = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchDone):
            self._meter.batch(event.records)
            self._passed += event.records
            if self._passed >= self._wanted:
                self._stop.set()
        elif isinstance(event, OffsetsCommitted):
            self._meter.commit()
        elif isinstance(event, KeyServiceCalled):
            self.calls += 1


def pipeline(
    bootstrap: str,
    keys: Mapping[str, Any],
    mode: str,
    source: str,
    target: str,
    records: int,
    group: str,
    delivery: str = "at_least_once",
    compression: str | None = None,
    *,
    observed: bool = False,
) -> dict[str, float]:
    """Run a pipeline as ``streamcrypt run`` composes it over all records of a topic.

    Args:
        bootstrap: The broker.
        keys: The section ``keys`` of a configuration.
        mode: ``encrypt`` or ``decrypt``.
        source: The topic to read.
        target: The topic to write.
        records: How many records the source has.
        group: A consumer group of its own.
        delivery: ``at_least_once`` or ``exactly_once``.
        compression: Instead of the default; every loop it is compared with gets the same.
        observed: Whether metrics, health, status and logs listen, as they do in ``streamcrypt run``; ``observers_us``
            is then what they take of the main thread for a record.
    """
    chosen = settings(bootstrap, keys, mode, source, target, group=group, delivery=delivery, compression=compression)
    meter, stop = Meter(), threading.Event()
    watch = _Watch(records, meter, stop)
    if observed:
        return _observed(chosen, watch, meter, stop, records)
    return _passed(chosen, watch, watch, meter, stop, records)


def _observed(chosen: Settings, watch: _Watch, meter: Meter, stop: threading.Event, records: int) -> dict[str, float]:
    from streamcrypt.observe.health import Health
    from streamcrypt.observe.logs import Logs
    from streamcrypt.observe.metrics import Metrics
    from streamcrypt.observe.status import Status

    with Logs(chosen.log.level, chosen.log.format) as logs:
        shipped = _Timed(fan_out((Health(("bench",)), Metrics(), Status(), logs.observer())))
        figures = _passed(chosen, fan_out((shipped, watch)), watch, meter, stop, records)
        return {**figures, "observers_us": shipped.seconds / records * 1e6}


class _Timed:
    """An observer whose time on the loop's own thread is taken; what other threads tell it of is not."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._thread = threading.get_ident()
        self.seconds = 0.0

    def __call__(self, event: Event) -> None:
        if threading.get_ident() != self._thread:
            self._observer(event)
            return
        began = time.thread_time()
        self._observer(event)
        self.seconds += time.thread_time() - began


def _passed(
    chosen: Settings, observer: Observer, watch: _Watch, meter: Meter, stop: threading.Event, records: int
) -> dict[str, float]:
    spec = chosen.pipelines[0]
    provider = build_provider(chosen.keys, observer)
    made = factory(chosen, spec, provider, observer)
    running = made.build()
    with collecting_seldom():
        running.run(stop)
        figures = meter.read(records)
    made.transform.close()
    provider.close()
    return {**figures, "kms_calls": float(watch.calls)}


def copy(
    bootstrap: str,
    keys: Mapping[str, Any],
    source: str,
    target: str,
    records: int,
    group: str,
    compression: str | None = None,
    mode: str = "encrypt",
) -> dict[str, float]:
    """Copy a topic with the client settings of a pipeline of ``mode``, at least once, committing as often.

    As ``encrypt`` it adds a header to each record, as ``decrypt`` it takes all headers away.
    """
    chosen = settings(bootstrap, keys, mode, source, target, group=group, compression=compression)
    spec = chosen.pipelines[0]
    consumer = Consumer({**consumer_config(chosen, spec), "auto.offset.reset": "earliest"})
    producer = Producer({**producer_config(chosen, spec), "on_delivery": lambda _error, _message: None})
    consumer.subscribe([source])
    meter = Meter()
    with collecting_seldom():
        _copy(consumer, producer, source, target, records, [_HEADER] if mode == "encrypt" else None, meter)
        figures = meter.read(records)
    consumer.close()
    return figures


def _copy(
    consumer: Consumer, producer: Producer, source: str, target: str, records: int, header: Any, meter: Meter
) -> None:
    produce, copied = producer.produce, 0
    ends: dict[int, int] = {}
    next_commit = time.monotonic() + 0.1

    def commit(*, asynchronous: bool) -> None:
        offsets = [TopicPartition(source, partition, end) for partition, end in ends.items()]
        consumer.commit(offsets=offsets, asynchronous=asynchronous)
        meter.commit()

    while copied < records:
        first = consumer.poll(0.2)
        if first is None:
            continue
        messages = [first, *consumer.consume(999, 0)]
        for message in messages:
            headers = message.headers()
            partition = message.partition()
            record = (message.value(), message.key(), partition, None, None, message.timestamp()[1])
            sent = [*headers, *header] if headers and header else header
            try:
                produce(target, *record, sent)
            except BufferError:
                producer.poll(0.1)
                produce(target, *record, sent)
            ends[partition] = message.offset() + 1
        copied += len(messages)
        meter.batch(len(messages))
        producer.poll(0)
        if time.monotonic() >= next_commit and producer.flush(0.5) == 0:
            commit(asynchronous=True)
            next_commit = time.monotonic() + 0.1
    producer.flush(30)
    commit(asynchronous=False)
