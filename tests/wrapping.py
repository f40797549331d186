"""What the tests of the client wrappers share: plain clients beside ours, and polling to a deadline."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, Producer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import Message

SECONDS = 60.0


def unique(prefix: str = "t") -> str:
    """Gives a name that nobody else uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def eventually(condition: Callable[[], Any], what: str, seconds: float = SECONDS) -> Any:
    """Gives the first true value of ``condition``, which is asked until a deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {seconds} s")


def raw(bootstrap: str, topic: str, count: int, partitions: int = 4) -> list[Message]:
    """Reads ``count`` records as they stand on the topic, with the base class, sorted by partition and offset."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": unique("raw"), "enable.auto.commit": False, "log_level": 0}
    )
    found: list[Message] = []
    try:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        eventually(lambda: len(found.extend(consumer.consume(count, 0.1)) or found) >= count, f"{count} records")
    finally:
        consumer.close()
    assert all(message.error() is None for message in found)
    return sorted(found, key=lambda m: (m.partition(), m.offset()))


def send(bootstrap: str, *records: dict[str, Any]) -> None:
    """Produces records with the base class and waits until they are there."""
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for record in records:
        producer.produce(**record)
    assert producer.flush(SECONDS) == 0


def take(consumer: Consumer, count: int, seconds: float = SECONDS) -> list[Message]:
    """Polls until ``count`` messages came."""
    found: list[Message] = []

    def more() -> bool:
        message = consumer.poll(0.05)
        if message is not None:
            found.append(message)
        return len(found) >= count

    eventually(more, f"{count} messages", seconds)
    return found


def ours(message: Message) -> list[bytes | None]:
    """Gives the values of the ``streamcrypt`` headers of a message."""
    return [value for name, value in message.headers() or [] if name == "streamcrypt"]
