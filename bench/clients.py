"""What the wrappers add to the application's thread, and single calls: all in one process, one after the other.

Everything is CPU time of that thread per record, in microseconds.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, Producer
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import streamcrypt as sc

__all__ = ["measure", "per_call"]

_POLL_EVERY = 1000
_CALLS = 5_000
_REPEATS = 7
_VALUES = 100
_MICRO = 1e6


def measure(
    bootstrap: str, keys: Mapping[str, Any], source: str, target: str, size: int, records: int, group: str
) -> dict[str, float]:
    """Measure one round.

    Args:
        bootstrap: The broker.
        keys: The section ``keys`` of a configuration; its KEK is used.
        source: A sealed topic.
        target: Where to produce.
        size: Bytes of a value.
        records: How many the source holds, and how many are produced.
        group: Prefix of consumer groups of its own.
    """
    provider = sc.AWSKMSKeyProvider(keys["key_id"], region=keys["region"], endpoint_url=keys["endpoint_url"])
    values = [os.urandom(size) for _ in range(_VALUES)]
    with closing(provider), sc.Encryptor(provider) as encryptor, sc.Decryptor(provider) as decryptor:
        found = _calls(encryptor, decryptor, target, values)
        producers: dict[str, Callable[[dict[str, Any]], Producer]] = {
            "plain": Producer,
            "wrapper": lambda config: sc.EncryptingProducer(config, encryptor=encryptor),
        }
        consumers: dict[str, Callable[[dict[str, Any]], Consumer]] = {
            "plain": Consumer,
            "wrapper": lambda config: sc.DecryptingConsumer(config, decryptor=decryptor),
        }
        for name, make in producers.items():
            found[f"produce {name}/us"] = _produce(make, bootstrap, target, values, records)
        for name, make_consumer in consumers.items():
            found[f"consume {name}/us"] = _consume(make_consumer, bootstrap, source, f"{group}-{name}", records)
    return found


def _calls(encryptor: sc.Encryptor, decryptor: sc.Decryptor, topic: str, values: Sequence[bytes]) -> dict[str, float]:
    seal, nonce, aad, key = AESGCM(os.urandom(32)).encrypt, bytes(12), b"\x01\x01\x00\x00\x00\x05key-1", b"key-1"
    sealed = [encryptor.encrypt(topic, value, key) for value in values]
    return per_call(
        {
            "AESGCM/us": lambda i: seal(nonce, values[i], aad),
            "Encryptor.encrypt/us": lambda i: encryptor.encrypt(topic, values[i], key),
            "Decryptor.decrypt/us": lambda i: decryptor.decrypt(topic, sealed[i][0], key, sealed[i][1]),
        },
        len(values),
        lambda i: values[i],
    )


def per_call(
    calls: Mapping[str, Callable[[int], object]],
    values: int,
    nothing: Callable[[int], object],
    *,
    count: int = _CALLS,
    repeats: int = _REPEATS,
) -> dict[str, float]:
    """Time calls in turn, block by block, so that a slow moment meets all of them; give the median of the blocks.

    What the loop and the call of a call cost is taken away: it is timed with ``nothing``, in turn with the others.

    Args:
        calls: Name to what is called with the number of a value.
        values: How many values there are.
        nothing: A call like the others that does nothing.
        count: Calls in a block.
        repeats: Blocks of each.
    """
    everything = {"": nothing, **calls}
    took: dict[str, list[float]] = {name: [] for name in everything}
    numbers = [number % values for number in range(count)]
    for call in everything.values():
        for number in numbers[:values]:
            call(number)
    for _ in range(repeats):
        for name, call in everything.items():
            gc.collect()
            began = time.thread_time()
            for number in numbers:
                call(number)
            took[name].append((time.thread_time() - began) / count * _MICRO)
    empty = statistics.median(took.pop(""))
    return {name: statistics.median(blocks) - empty for name, blocks in took.items()}


def _produce(
    make: Callable[[dict[str, Any]], Producer], bootstrap: str, topic: str, values: Sequence[bytes], records: int
) -> float:
    """Produce without waiting for room; what a thread pays for handing records over, sealing included."""
    producer = make(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "compression.type": "lz4",
            "enable.idempotence": True,
            "queue.buffering.max.messages": 2 * records,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )
    producer.produce(topic, values[0], b"warm-up")
    producer.flush(30)
    produce, poll = producer.produce, producer.poll
    pairs = [(values[i % len(values)], b"key-%d" % (i % 1000)) for i in range(records)]
    gc.collect()
    began = time.thread_time()
    for number, (value, key) in enumerate(pairs):
        produce(topic, value, key)
        if number % _POLL_EVERY == 0:
            poll(0)
    cost = (time.thread_time() - began) / records
    producer.flush(60)
    return cost * _MICRO


def _consume(make: Callable[[dict[str, Any]], Consumer], bootstrap: str, topic: str, group: str, records: int) -> float:
    """Consume in batches and look at key and value."""
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
    while consumed < records:
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
    return cost / consumed * _MICRO
