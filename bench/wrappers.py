"""What the wrappers add to the application's thread: CPU time per record, plain client against wrapper."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer

import streamcrypt as sc

__all__ = ["consume_cost", "produce_cost"]

_POLL_EVERY = 1000


def produce_cost(make: Callable[[dict[str, Any]], Producer], bootstrap: str, topic: str, value: bytes, n: int) -> float:
    """Produce ``n`` records; give the thread's CPU seconds per record, without flushing."""
    producer = make(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "queue.buffering.max.messages": 2 * n,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )
    producer.produce(topic, value, b"warm-up")
    producer.flush(30)
    produce, poll = producer.produce, producer.poll
    keys = [b"key-%d" % (i % 1000) for i in range(n)]
    gc.collect()
    began = time.thread_time()
    for number, key in enumerate(keys):
        produce(topic, value, key)
        if number % _POLL_EVERY == 0:
            poll(0)
    cost = (time.thread_time() - began) / n
    producer.flush(60)
    return cost


def consume_cost(make: Callable[[dict[str, Any]], Consumer], bootstrap: str, topic: str, group: str, n: int) -> float:
    """Consume ``n`` records and look at key and value; give the thread's CPU seconds per record."""
    consumer = make(
        {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,
        }
    )
    consumer.subscribe([topic])
    consumed, cost = 0, 0.0
    gc.collect()
    while consumed < n:
        began = time.thread_time()
        messages = consumer.consume(1000, 0.2)
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(str(sc.failure_of(message) or message.error()))
            message.key()
            message.value()
        if messages:
            cost += time.thread_time() - began
        consumed += len(messages)
    consumer.close()
    return cost / consumed
