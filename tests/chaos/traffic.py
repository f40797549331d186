"""A loader that sends the records of a book, and a follower that takes down what arrives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.broker import unique_name
from tests.chaos.records import Arrived, Book, Record, arrived

__all__ = ["Follower", "Loader"]

_PATIENCE = 180.0


class Loader:
    """Sends a book's records in order, each once, whatever the broker goes through meanwhile.

    Args:
        bootstrap: The broker.
        topic: Where to.
        book: What.
    """

    def __init__(self, bootstrap: str, topic: str, book: Book) -> None:
        self.book = book
        self.topic = topic
        self.sent = 0
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.max.bytes": 4_000_000,
                "message.timeout.ms": int(_PATIENCE * 1000),
                "log_level": 0,
            }
        )

    def send(self, count: int) -> range:
        """Hand over the next ``count`` records; give their numbers."""
        numbers = range(self.sent, self.sent + count)
        for number in numbers:
            self.put(self.book.record(number))
        self.sent += count
        return numbers

    def put(self, record: Record) -> None:
        """Hand over one record as it is."""
        while True:
            try:
                self._producer.produce(
                    self.topic,
                    record.value,
                    record.key,
                    record.partition,
                    self._noted,
                    timestamp=record.timestamp,
                    headers=list(record.headers) or None,
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return

    def settle(self) -> None:
        """Return once the broker has everything."""
        left = self._producer.flush(_PATIENCE)
        assert not left, f"the loader has {left} records left"
        assert not self._failed, self._failed[0]

    def close(self) -> None:
        """Drop what is left."""
        self._producer.purge()
        self._producer.flush(1)

    def _noted(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error.str())


class Follower:
    """Reads topics read-committed from their start on, as a thread; reads on after the broker came back.

    Args:
        bootstrap: The broker.
        topics: Topics and their numbers of partitions.
    """

    def __init__(self, bootstrap: str, topics: dict[str, int]) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": unique_name("follower"),
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "fetch.queue.backoff.ms": 20,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(t, p, 0) for t, count in topics.items() for p in range(count)])
        self._found: dict[str, dict[tuple[int, int], Arrived]] = {topic: {} for topic in topics}
        self._times: dict[str, set[int]] = {topic: set() for topic in topics}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(KafkaException):
                for message in self._consumer.consume(1000, 0.1):
                    if message.error() is None:
                        found = arrived(message)
                        self._found[found.topic][found.partition, found.offset] = found
                        self._times[found.topic].add(found.timestamp)

    def distinct(self, topic: str) -> int:
        """How many different records stand on the topic, by their timestamps."""
        return len(self._times[topic])

    def arrivals(self, topic: str) -> list[Arrived]:
        """What stands on the topic, partition by partition."""
        found = dict(self._found[topic])
        return [found[place] for place in sorted(found)]

    def has(self, topic: str, expected: Iterable[int], seconds: float, meanwhile: Callable[[], None]) -> bool:
        """Wait until a record with each of these timestamps stands there; say whether it came to that."""
        wanted, deadline = set(expected), time.monotonic() + seconds
        while not wanted <= self._times[topic]:
            if time.monotonic() > deadline:
                return False
            meanwhile()
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def rate_of(moments: Sequence[tuple[float, int]]) -> float:
    """Give records a second between the first and the last of (seconds, records so far)."""
    (began, first), (ended, last) = moments[0], moments[-1]
    return (last - first) / max(ended - began, 1e-9)
