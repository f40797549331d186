"""One pipeline as a worker runs it, at default settings, timed from its first batch to its last commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Producer

from streamcrypt.cli.compose import consumer_config, producer_config
from streamcrypt.config import Settings
from streamcrypt.encryptor import Encryptor
from streamcrypt.events import BatchDone, Event, Observer, OffsetsCommitted
from streamcrypt.observe import fan_out
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.passing import Take
from streamcrypt.sidecar.transform import Transform

__all__ = ["fill", "run_worker"]


class _Watch:
    def __init__(self, records: int, stop: threading.Event, on_batch: Callable[[BatchDone], None]) -> None:
        self._wanted = records
        self._stop = stop
        self._on_batch = on_batch
        self.passed = 0
        self.began = self.ended = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, OffsetsCommitted):
            self.ended = time.perf_counter()
        elif isinstance(event, BatchDone):
            self.began = self.began or time.perf_counter() - event.seconds
            self.passed += event.records
            self._on_batch(event)
            if self.passed >= self._wanted:
                self._stop.set()


def run_worker(
    bootstrap: str,
    transform: Transform,
    pipeline: dict[str, Any],
    records: int,
    on_batch: Callable[[BatchDone], None] = lambda _event: None,
    kafka: dict[str, Any] | None = None,
    observer: Observer | None = None,
    trace: Callable[[Take], Take] | None = None,
) -> float:
    """Run a pipeline until so many records have passed; give records/s. The transform is closed.

    Args:
        bootstrap: The broker.
        transform: Seals or opens.
        pipeline: Its settings, as in the file.
        records: How many there are.
        on_batch: Told of every batch.
        kafka: Properties besides the defaults.
        observer: Told of every event.
        trace: What stands around each batch.
    """
    settings = Settings.model_validate(
        {
            "kafka": {"bootstrap.servers": bootstrap, **(kafka or {})},
            "keys": {"provider": "local", "keyring": "unused"},
            "pipelines": [{"name": "bench", "delivery": "at_least_once", **pipeline}],
        }
    )
    stop = threading.Event()
    watch = _Watch(records, stop, on_batch)
    chosen = settings.pipelines[0]
    consumer, producer = consumer_config(settings, chosen), producer_config(settings, chosen)
    try:
        told = watch if observer is None else fan_out((observer, watch))
        Pipeline(settings.spec(chosen), consumer, producer, transform, told, trace=trace).run(stop)
    finally:
        transform.close()
    return records / (watch.ended - watch.began)


def fill(
    bootstrap: str, topic: str, values: list[bytes], records: int, partitions: int, sealer: Encryptor | None = None
) -> None:
    """Write records to all partitions in turn, by runs of a hundred; sealed where there is a sealer."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4", "message.max.bytes": 20_000_000}
    )
    for number in range(records):
        partition, value = number // 100 % partitions, values[number % len(values)]
        key, headers = b"key-%d" % (number % 1000), None
        sent: Any = value
        if sealer is not None:
            sent, headers = sealer.encrypt(topic, value, key, partition=partition)
        while True:
            try:
                producer.produce(topic, sent, key, partition, headers=headers)  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError("the broker did not take all records")
