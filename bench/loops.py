"""The loops that are compared: a raw copy, our encrypting and our decrypting pipeline, all with the same settings."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from streamcrypt.cli.compose import consumer_config, producer_config
from streamcrypt.config import Settings
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.events import BatchDone, Event, OffsetsCommitted
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.transform import Open, Seal, Transform

__all__ = ["Bench", "copy_loop", "decrypt_loop", "encrypt_loop", "exactly_once_loop"]

HEADER = ("streamcrypt", b"h" * 374)
"""The raw loop sends a header as large as ours."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all loops of one record size share.

    Attributes:
        bootstrap: The broker.
        keys: The key service.
        plain: A topic with ``records`` records in plaintext.
        sealed: The same records, sealed.
        target: A topic to write to, as many partitions.
        records: How many records there are.
    """

    bootstrap: str
    keys: LocalKeyProvider
    plain: str
    sealed: str
    target: str
    records: int

    def settings(self, mode: str, source: str, group: str, target: str, delivery: str = "at_least_once") -> Settings:
        """Give settings as a file would: defaults everywhere else, so that nothing is tuned for the benchmark alone."""
        pipeline = {"name": "bench", "mode": mode, "from": source, "to": target, "group": group, "delivery": delivery}
        return Settings.model_validate(
            {
                "kafka": {"bootstrap.servers": self.bootstrap},
                "keys": {"provider": "local", "keyring": "unused"},
                "topic_names": {self.target: self.sealed} if mode == "encrypt" else {},
                "pipelines": [pipeline],
            }
        )


class _Watch:
    """Measures from the first batch to the commit after the last delivery."""

    def __init__(self, records: int, stop: threading.Event) -> None:
        self._wanted = records
        self._stop = stop
        self._passed = 0
        self.began = 0.0
        self.ended = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, OffsetsCommitted):
            self.ended = time.perf_counter()
        if isinstance(event, BatchDone):
            self.began = self.began or time.perf_counter() - event.seconds
            self._passed += event.records
            if self._passed >= self._wanted:
                self._stop.set()


def encrypt_loop(
    bench: Bench, group: str, target: str | None = None, delivery: str = "at_least_once"
) -> tuple[float, float]:
    """Run the encrypting pipeline over the plaintext topic; give records/s and CPU seconds of its thread."""
    settings = bench.settings("encrypt", bench.plain, group, target or bench.target, delivery)
    encryptor = Encryptor(bench.keys, topic_names=settings.topic_names, max_wait=0.5)
    return _pipeline(bench, settings, Seal(encryptor))


def exactly_once_loop(bench: Bench, group: str) -> tuple[float, float]:
    """Run the encrypting pipeline in transactions."""
    return encrypt_loop(bench, group, delivery="exactly_once")


def decrypt_loop(bench: Bench, group: str) -> tuple[float, float]:
    """Run the decrypting pipeline over the sealed topic; give records/s and CPU seconds of its thread."""
    settings = bench.settings("decrypt", bench.sealed, group, bench.target)
    return _pipeline(bench, settings, Open(Decryptor(bench.keys, max_wait=0.5)))


def _pipeline(bench: Bench, settings: Settings, transform: Transform) -> tuple[float, float]:
    stop = threading.Event()
    watch = _Watch(bench.records, stop)
    spec = settings.pipelines[0]
    consumer, producer = consumer_config(settings, spec), producer_config(settings, spec)
    pipeline = Pipeline(settings.spec(spec), consumer, producer, transform, watch)
    return _timed(bench, lambda: pipeline.run(stop), lambda: watch.ended - watch.began)


def copy_loop(bench: Bench, group: str) -> tuple[float, float]:
    """Copy the plaintext topic with one header added, committing as we do; give records/s and CPU seconds."""
    settings = bench.settings("encrypt", bench.plain, group, bench.target)
    spec = settings.pipelines[0]
    seconds = [0.0]
    return _timed(
        bench,
        lambda: seconds.append(_copy(bench, consumer_config(settings, spec), producer_config(settings, spec))),
        lambda: seconds[-1],
    )


def _copy(bench: Bench, consumer_props: Mapping[str, Any], producer_props: Mapping[str, Any]) -> float:
    consumer = Consumer({**consumer_props, "auto.offset.reset": "earliest"})
    producer = Producer({**producer_props, "on_delivery": lambda _error, _message: None})
    consumer.subscribe([bench.plain])
    produce, target, copied = producer.produce, bench.target, 0
    ends: dict[int, int] = {}
    next_commit = time.monotonic() + 0.1
    began = 0.0
    while copied < bench.records:
        first = consumer.poll(0.2)
        if first is None:
            continue
        messages = [first, *consumer.consume(999, 0)]
        began = began or time.perf_counter()
        for message in messages:
            headers = message.headers()
            partition = message.partition()
            record = (message.value(), message.key(), partition, None, None, message.timestamp()[1])
            sent = [*headers, HEADER] if headers else [HEADER]
            try:
                produce(target, *record, sent)
            except BufferError:
                producer.poll(0.1)
                produce(target, *record, sent)
            ends[partition] = message.offset() + 1
        copied += len(messages)
        producer.poll(0)
        if time.monotonic() >= next_commit and producer.flush(0.5) == 0:
            offsets = [TopicPartition(bench.plain, partition, end) for partition, end in ends.items()]
            consumer.commit(offsets=offsets, asynchronous=True)
            next_commit = time.monotonic() + 0.1
    producer.flush(30)
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def _timed(bench: Bench, work: Callable[[], None], seconds: Callable[[], float]) -> tuple[float, float]:
    gc.collect()
    cpu = time.thread_time()
    work()
    return bench.records / seconds(), time.thread_time() - cpu
