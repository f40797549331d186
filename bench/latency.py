"""From a producer's call to a consumer's hand, at a fixed rate: through the sidecar, and without it.

Producer and reader are processes of their own. A record's key is the time at which its turn came, not the time at
which it was sent: a producer that falls behind counts as latency, as it would for whoever waits for the record.
"""

from __future__ import annotations

import os
import time
from array import array
from struct import Struct

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.figures import percentile
from bench.sidecar import Sidecar
from bench.stage import Stage

__all__ = ["SHARES", "measure", "pace", "read"]

SHARES = (10, 50, 80)
"""Percent of the ceiling."""
_STAMP = Struct(">Q")
_LEAD = 1.0
_WARM_UP = 1.0
_DRAIN = 40.0
_QUIET = 0.8
_FLAT_OUT_SECONDS = 4.0
_TICK = 0.0005
_MS = 1e6
_PRODUCER = {
    # What somebody sets who cares about latency, on both ways alike.
    "linger.ms": 1,
    "compression.type": "lz4",
    "acks": "all",
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1_000_000,
}


def measure(
    stage: Stage, size: int, partitions: int, seconds: float, delivery: str | None, ceiling: float | None = None
) -> dict[str, float]:
    """Measure one way at 10, 50 and 80 % of a ceiling.

    Args:
        stage: Broker and KMS.
        size: Bytes of a value.
        partitions: Of each topic.
        seconds: How long each rate is held.
        delivery: Of the sidecar; None: the reader reads what the producer wrote, nothing between them.
        ceiling: Records/s that are 100 %; None: what this way carries when the producer does not wait.
    """
    found: dict[str, float] = {}
    source = stage.topic(partitions)
    target = stage.topic(partitions) if delivery else source
    try:
        if delivery is None:
            _rates(stage, source, target, size, partitions, seconds, ceiling, found)
        else:
            with Sidecar(stage, source, target, f"bench-{target}", {"delivery": delivery}) as sidecar:
                _rates(stage, source, target, size, partitions, seconds, ceiling, found)
                sidecar.check()
    finally:
        for topic in {source, target}:
            stage.broker.delete_topic(topic)
    return found


def _rates(
    stage: Stage,
    source: str,
    target: str,
    size: int,
    partitions: int,
    seconds: float,
    ceiling: float | None,
    found: dict[str, float],
) -> None:
    if ceiling is None:
        ceiling = _pass(stage, source, target, size, partitions, _FLAT_OUT_SECONDS, 0.0)["records_per_s"]
    found["ceiling_records_per_s"] = ceiling
    for share in SHARES:
        one = _pass(stage, source, target, size, partitions, seconds, ceiling * share / 100)
        found |= {f"{share}/{name}": value for name, value in one.items()}


def _pass(
    stage: Stage, source: str, target: str, size: int, partitions: int, seconds: float, rate: float
) -> dict[str, float]:
    reader = stage.spawn("read", topic=target, partitions=partitions, seconds=seconds)
    writer = stage.spawn("pace", topic=source, size=size, partitions=partitions, seconds=seconds, rate=rate)
    sent = writer.result()["sent"]
    figures: dict[str, float] = reader.result()
    return {**figures, "sent": sent}


def pace(bootstrap: str, topic: str, size: int, partitions: int, seconds: float, rate: float) -> dict[str, float]:
    """Produce at a rate for some seconds; at rate 0 as fast as librdkafka's queue takes records.

    Args:
        bootstrap: The broker, or a proxy before it.
        topic: Where to.
        size: Bytes of a value.
        partitions: Of the topic; records take turns.
        seconds: How long, after a second in which nothing is sent and the reader starts.
        rate: Records/s.
    """
    producer = Producer({"bootstrap.servers": bootstrap, **_PRODUCER})
    values = [os.urandom(size) for _ in range(200)]
    producer.list_topics(topic, timeout=10)
    time.sleep(_LEAD)
    began, sent = time.time_ns(), 0
    end = began + int(seconds * 1e9)
    while (now := time.time_ns()) < end:
        due = int((now - began) * rate / 1e9) if rate else sent + 500
        while sent < due:
            turn = began + int(sent * 1e9 / rate) if rate else time.time_ns()
            try:
                producer.produce(topic, values[sent % 200], _STAMP.pack(turn), sent % partitions)
            except BufferError:
                producer.poll(0.01)
                break
            sent += 1
        producer.poll(0)
        if rate:
            time.sleep(_TICK)
    producer.flush(30)
    return {"sent": sent}


def read(bootstrap: str, topic: str, partitions: int, seconds: float) -> dict[str, float]:
    """Read from the end of a topic until nothing has come for some time; give latencies in ms of what came.

    The first second is left out: connections are made and caches filled then.

    Args:
        bootstrap: The broker, or a proxy before it.
        topic: What to read.
        partitions: Of the topic.
        seconds: For how long it is written.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"latency-{topic}",
            "fetch.queue.backoff.ms": 5,
            "fetch.wait.max.ms": 10,
        }
    )
    places = [TopicPartition(topic, number) for number in range(partitions)]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, timeout=10)[1]
    consumer.assign(places)
    arrivals = array("q")
    stamps = array("Q")
    unpack = _STAMP.unpack
    last = time.monotonic() + _LEAD + seconds
    quiet = time.monotonic()
    # To the last record: what is still on its way would meet the next measurement.
    while (at := time.monotonic()) < last + _DRAIN and (at < last or at - quiet < _QUIET):
        first = consumer.poll(0.2)
        if first is None:
            continue
        messages = [first, *consumer.consume(999, 0)]
        now, quiet = time.time_ns(), time.monotonic()
        stamps.extend([unpack(message.key())[0] for message in messages if message.error() is None])
        arrivals.extend([now] * (len(stamps) - len(arrivals)))
    consumer.close()
    return _latencies(stamps, arrivals, seconds)


def _latencies(stamps: array[int], arrivals: array[int], seconds: float) -> dict[str, float]:
    if not stamps:
        raise RuntimeError("nothing arrived")
    began = stamps[0] + int(_WARM_UP * 1e9)
    pairs = [(stamp, at) for stamp, at in zip(stamps, arrivals, strict=True) if stamp >= began]
    waited = sorted((at - stamp) / _MS for stamp, at in pairs)
    # What came out a second while the producer was at work, the first second left out here too.
    first, end = arrivals[0] + int(_WARM_UP * 1e9), stamps[0] + int(seconds * 1e9)
    inside = sum(first <= at <= end for at in arrivals)
    return {
        "p50_ms": percentile(waited, 0.50),
        "p99_ms": percentile(waited, 0.99),
        "p999_ms": percentile(waited, 0.999),
        "records": len(waited),
        "records_per_s": inside / max(end - first, 1) * 1e9,
    }
