"""Records out, and offsets committed only once everything before them is delivered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from streamcrypt.events import CommitFailed, KafkaClientError, Observer, OffsetsCommitted
from streamcrypt.sidecar.failures import ConnectionLost, from_kafka

__all__ = ["Delivery", "Progress"]

Progress = dict[tuple[str, int], int]
"""(topic, partition) to the offset up to which, exclusive, everything was handed to the producer or left behind."""

_FULL_QUEUE_POLL = 0.1
# Past this the broker has taken nothing for a minute: begin again rather than fall out of the consumer group.
_FULL_QUEUE_PATIENCE = 60.0


class Delivery:
    """A producer whose every failure is noticed, and the commits that follow its deliveries.

    ``flush() == 0`` alone proves nothing: a record that the broker refused is gone from the queue as well. So the
    producer reports failures only, through one callback for the whole client, and any failure forbids every later
    commit of this client.

    Args:
        pipeline: Its name, for events.
        config: librdkafka properties with ``delivery.report.only.error=true``.
        observer: Told of commits and of trouble with the broker.
    """

    def __init__(self, pipeline: str, config: Mapping[str, Any], observer: Observer) -> None:
        self._pipeline = pipeline
        self._observer = observer
        self._failure: KafkaError | None = None
        self.producer = Producer({**config, "on_delivery": self._on_delivery, "error_cb": self._on_error})
        self._committed: Progress = {}

    def offer_again(self, topic: str, *record: Any) -> None:
        """Offer the very same record again, after the producer's queue was full, until there is room.

        Args:
            topic: Where to.
            record: The other positional arguments of ``Producer.produce``.

        Raises:
            ConnectionLost: The queue stayed full for a minute, or a delivery failed meanwhile.
            PipelineHalted: As :meth:`raise_failure`.
        """
        deadline = time.monotonic() + _FULL_QUEUE_PATIENCE
        while True:
            self.producer.poll(_FULL_QUEUE_POLL)
            self.raise_failure()
            try:
                self.producer.produce(topic, *record)
            except BufferError:
                if time.monotonic() > deadline:
                    raise ConnectionLost(
                        "the brokers took nothing for a minute; the producer's queue is full"
                    ) from None
            else:
                return

    def raise_failure(self) -> None:
        """Raise what the brokers said of a record that they did not take.

        Raises:
            ConnectionLost: A restart from the committed offsets helps.
            PipelineHalted: An operator must act.
        """
        if self._failure is not None:
            raise from_kafka(self._failure, "delivery")

    def settle(self, seconds: float) -> bool:
        """Wait until everything handed over is delivered; say whether it was, in the time given.

        Raises:
            ConnectionLost, PipelineHalted: As :meth:`raise_failure`.
        """
        left = self.producer.flush(seconds)
        self.raise_failure()
        return left == 0

    def has_news(self, progress: Progress) -> bool:
        """Say whether there is anything to commit."""
        return any(self._committed.get(place) != offset for place, offset in progress.items())

    def discard(self) -> None:
        """Drop what was not delivered, so that closing the client does not wait for it."""
        self.producer.purge()
        self.producer.flush(0.1)

    def commit(self, consumer: Consumer, progress: Progress, records: int, *, wait: bool) -> None:
        """Commit ``progress``; everything in it must be settled.

        Args:
            consumer: The consumer whose group it is.
            progress: What to commit; parts that are committed already are left out.
            records: How many records this covers, for the event.
            wait: Whether to wait for the broker's answer.
        """
        news = {place: offset for place, offset in progress.items() if self._committed.get(place) != offset}
        if not news:
            return
        started = time.perf_counter()
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in news.items()]
        try:
            if wait:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit_error(error.args[0])
            return
        self._committed.update(news)
        self._observer(OffsetsCommitted(self._pipeline, len(news), records, time.perf_counter() - started))

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take the broker's answer to a commit that was not waited for; the consumer's ``on_commit`` callback."""
        failed = error or next((p.error for p in partitions if p.error is not None), None)
        if failed is not None and failed.code() != KafkaError._NO_OFFSET:  # noqa: SLF001
            for place in partitions:
                self._committed.pop((place.topic, place.partition), None)
            self._on_commit_error(failed)

    def forget(self, partitions: list[TopicPartition]) -> None:
        """Forget what was committed for partitions that went elsewhere."""
        for place in partitions:
            self._committed.pop((place.topic, place.partition), None)

    def _on_commit_error(self, error: KafkaError) -> None:
        self._observer(CommitFailed(self._pipeline, error.name(), error.str()))

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _on_error(self, error: KafkaError) -> None:
        self._observer(KafkaClientError(self._pipeline, "producer", error.name(), error.str()))
