"""A producer and a consumer through any Kafka proxy, against the same two without it.

``python -m bench --proxy HOST:PORT``.
The proxy has to stand in front of the broker that ``STREAMCRYPT_TEST_BOOTSTRAP`` names, or both lead elsewhere.
"""

from __future__ import annotations

import os
import time
from typing import Any

from confluent_kafka import Consumer, Producer

from bench import job
from bench.figures import Samples, collect
from bench.stage import Stage

__all__ = ["measure", "through"]

_MICRO = 1e6
_RATE = 5_000


def measure(stage: Stage, proxy: str, size: int, records: int, partitions: int, rounds: int) -> Samples:
    """Measure both ways in turn.

    Args:
        stage: The broker.
        proxy: Address of the proxy.
        size: Bytes of a value.
        records: For each run.
        partitions: Of the topics.
        rounds: How often.
    """
    samples: Samples = {}
    for _ in range(rounds):
        for name, address in (("direct", stage.broker.bootstrap), ("through the proxy", proxy)):
            topic = stage.topic(partitions)
            collect(
                samples, f"proxy/{name}", job.run("through", bootstrap=address, topic=topic, size=size, records=records)
            )
            reader = job.spawn("read", bootstrap=address, topic=topic, partitions=partitions, seconds=3.0)
            paced = {"size": size, "partitions": partitions, "seconds": 3.0, "rate": _RATE}
            job.run("pace", bootstrap=address, topic=topic, **paced)
            found = reader.result()
            collect(samples, f"proxy/{name}", {f"{part}_ms": found[f"{part}_ms"] for part in ("p50", "p99", "p999")})
            stage.broker.delete_topic(topic)
    return samples


def through(bootstrap: str, topic: str, size: int, records: int) -> dict[str, float]:
    """Produce records and read them back, through whatever answers at ``bootstrap``."""
    return {**_produce(bootstrap, topic, size, records), **_consume(bootstrap, topic, records)}


def _produce(bootstrap: str, topic: str, size: int, records: int) -> dict[str, float]:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": "lz4"})
    producer.list_topics(topic, timeout=10)
    values = [os.urandom(size) for _ in range(200)]
    began, process = time.perf_counter(), time.process_time()
    for number in range(records):
        while True:
            try:
                producer.produce(topic, values[number % 200], b"key-%d" % (number % 1000))
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError("not all records were delivered")
    return _rate("produce", records, began, process)


def _consume(bootstrap: str, topic: str, records: int) -> dict[str, float]:
    config: dict[str, Any] = {"bootstrap.servers": bootstrap, "group.id": f"through-{topic}-{bootstrap}"}
    consumer = Consumer({**config, "auto.offset.reset": "earliest", "fetch.queue.backoff.ms": 5})
    consumer.subscribe([topic])
    seen = 0
    while not (first := consumer.consume(1, 0.2)):
        pass
    began, process = time.perf_counter(), time.process_time()
    seen += len(first)
    while seen < records:
        seen += sum(message.error() is None for message in consumer.consume(1000, 0.2))
    consumer.close()
    return _rate("consume", records, began, process)


def _rate(act: str, records: int, began: float, process: float) -> dict[str, float]:
    seconds, cpu = time.perf_counter() - began, time.process_time() - process
    return {f"{act}_records_per_s": records / seconds, f"{act}_cpu_us": cpu / records * _MICRO}
