"""Reads a part of one partition once, from an offset to another, without joining a group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from streamcrypt.clients.lone import without_membership
from streamcrypt.sidecar.failures import ConnectionLost, from_kafka, operator_must_act
from streamcrypt.sidecar.pacing import Pace

__all__ = ["SpanReader"]

_BATCH = 2_000
_FETCH = 0.2
_TIMEOUT = 10.0
_PATIENCE = 60.0


class SpanReader:
    """A consumer of committed records for one partition at a time. Close it when done.

    Args:
        consumer_config: librdkafka properties of a reader; nothing is stored or committed unless asked for.
        stop: Set it to end after the batch under way.
        pace: Bounds how fast records are read.
    """

    def __init__(self, consumer_config: Mapping[str, Any], stop: threading.Event, pace: Pace | None = None) -> None:
        self._pace = pace
        config = without_membership(consumer_config)
        self._stop = stop
        self.consumer = Consumer(
            {
                **config,
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "isolation.level": "read_committed",
                # The next partition is asked for only once the answer for the last one is in.
                "fetch.wait.max.ms": "20",
                # What retention took is gone for every reader; a span begins where the partition does, then.
                "auto.offset.reset": "earliest",
            }
        )

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[Sequence[Message]]:
        """Give the records of a span, batch by batch. It ends early where ``stop`` was set.

        Args:
            topic: The topic.
            partition: The partition.
            start: The first offset.
            end: The offset behind the last, at most the partition's last stable offset.

        Raises:
            ConnectionLost: Nothing arrives any more.
            PipelineHalted: An operator must act.
        """
        if start >= end or self.low(topic, partition) >= end:
            return
        place = TopicPartition(topic, partition, start)
        self.consumer.assign([place])
        waiting = time.monotonic() + _PATIENCE
        while not self._stop.is_set():
            messages = self._records(self._fetch(), topic, partition)
            within = [message for message in messages if (message.offset() or 0) < end]
            if within:
                yield within
            # The position passes control records and aborted ones at the end, which no message shows.
            if len(within) < len(messages) or self.consumer.position([place])[0].offset >= end:
                return
            if messages:
                waiting = time.monotonic() + _PATIENCE
            elif time.monotonic() > waiting:
                raise ConnectionLost(f"{topic}[{partition}]: nothing arrives any more")

    def _fetch(self) -> Sequence[Message]:
        room = _BATCH if self._pace is None else self._pace.room(_BATCH, 1.0)
        # One that waits for a whole batch would wait at the end of every partition.
        first = self.consumer.poll(_FETCH) if room else None
        if first is None:
            return ()
        messages = [first, *(self.consumer.consume(room - 1, 0) if room > 1 else ())]
        if self._pace is not None:
            self._pace.spend(len(messages))
        return messages

    def _records(self, messages: Sequence[Message], topic: str, partition: int) -> Sequence[Message]:
        if not any(map(Message.error, messages)):
            # Those of an earlier span may still have been under way.
            return [m for m in messages if m.partition() == partition and m.topic() == topic]
        for message in messages:
            error = message.error()
            if error is not None and (error.fatal() or operator_must_act(error)):
                raise from_kafka(error, f"read {topic}[{partition}]")
        return [m for m in messages if m.error() is None and m.partition() == partition and m.topic() == topic]

    def low(self, topic: str, partition: int) -> int:
        """Give the first offset that retention has left.

        Raises:
            ConnectionLost, PipelineHalted: The broker did not answer, or refuses.
        """
        return self.bounds(topic, partition)[0]

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Give the first offset that retention has left, and the one behind the last committed record.

        Raises:
            ConnectionLost, PipelineHalted: The broker did not answer, or refuses.
        """
        try:
            found = self.consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT)
        except KafkaException as error:
            raise from_kafka(error, f"ask where {topic}[{partition}] begins and ends") from None
        if found is None:
            raise ConnectionLost(f"{topic}[{partition}]: no answer where it begins and ends")
        return int(found[0]), int(found[1])

    def close(self) -> None:
        """Close the consumer."""
        self.consumer.close()
