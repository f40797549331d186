"""Reads every partition once, from where counting stands to its end, without a consumer group's commits."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from streamcrypt.audit.tally import Counter, Place
from streamcrypt.clients.lone import PASSING, without_membership

__all__ = ["Reader"]

# So few that what they are made of stays in the processor's cache.
_BATCH = 1000
_FETCH = 0.2
_TIMEOUT = 10.0
_PATIENCE = 30.0
# Each partition prefetches for itself.
_PARTITIONS_AT_ONCE = 64
# Retention went past the place that was asked for.
_GONE = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET})  # noqa: SLF001  public codes
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001
SILENCE = f"nothing arrived for {_PATIENCE:.0f} s"


class Reader:
    """Reads partitions to their ends and counts.

    Args:
        consumer_config: librdkafka properties of a reader of committed records.
        places: What to read; where counting went to is kept there.
        counter: Counts.
        patience: Seconds without a record after which what is left counts as unread. Default 30.
        also: Called with each batch, counted.

    Raises:
        KafkaException: librdkafka refuses a property.
    """

    def __init__(
        self,
        consumer_config: Mapping[str, Any],
        places: Mapping[tuple[str, int], Place],
        counter: Counter,
        *,
        patience: float = _PATIENCE,
        also: Callable[[Sequence[Any]], None] | None = None,
    ) -> None:
        config = without_membership(consumer_config)
        config = {
            **config,
            "enable.partition.eof": "true",
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "error",
            # An aborted record needs no key: no reader ever sees it.
            "isolation.level": "read_committed",
        }
        self._places = places
        self._counter = counter
        self._patience = patience
        self._also = also
        self._open: dict[tuple[str, int], Place] = {}
        self._consumer = Consumer(config)

    def read(self, stop: threading.Event, each: Callable[[], None]) -> None:
        """Read until every partition has ended or is given up, or until ``stop`` is set.

        Args:
            stop: Set it to end after the batch under way.
            each: Called after every batch.

        Raises:
            KafkaException: The consumer failed for good.
            StreamcryptError: There are too many distinct envelopes.
        """
        left = [place for place in self._places.values() if not place.is_read and not place.unread]
        with _without_cycle_collection():
            while left and not stop.is_set():
                wave, left = left[:_PARTITIONS_AT_ONCE], left[_PARTITIONS_AT_ONCE:]
                if not self._read_wave(wave, stop, each):
                    for place in left:
                        place.unread = SILENCE
                    return

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _read_wave(self, wave: Sequence[Place], stop: threading.Event, each: Callable[[], None]) -> bool:
        """Read some partitions; False where the cluster fell silent."""
        consumer = self._consumer
        self._open = {(place.topic, place.partition): place for place in wave}
        consumer.assign([TopicPartition(place.topic, place.partition, place.position) for place in wave])
        waiting = time.monotonic() + self._patience
        while self._open and not stop.is_set():
            messages: list[Any] = consumer.consume(_BATCH, _FETCH)
            for message in self._counter.take(messages):
                self._event(message)
            if self._also is not None:
                self._also(messages)
            self._finish_reached()
            each()
            if messages:
                waiting = time.monotonic() + self._patience
            elif time.monotonic() > waiting:
                for place in self._open.values():
                    place.unread = SILENCE
                return False
        return True

    def _finish_reached(self) -> None:
        if not self._open:
            return
        # The position passes control records and aborted ones at the end, which no message shows.
        for found in self._consumer.position([TopicPartition(*key) for key in self._open]):
            place = self._open[found.topic, found.partition]
            if found.offset >= place.end or place.is_read:
                self._finish(place)

    def _finish(self, place: Place) -> None:
        place.position = max(place.position, place.end)
        self._leave(place)

    def _leave(self, place: Place) -> None:
        del self._open[place.topic, place.partition]
        self._consumer.pause([TopicPartition(place.topic, place.partition)])

    def _event(self, message: Any) -> None:
        error = message.error()
        if error.fatal():
            raise KafkaException(error)
        place = self._open.get((message.topic(), message.partition()))
        if place is None or error.code() in PASSING:
            return
        if error.code() == _EOF:
            self._finish(place)
        elif error.code() in _GONE:
            self._go_on_behind(place)
        else:
            place.unread = str(error.str())
            self._leave(place)

    def _go_on_behind(self, place: Place) -> None:
        """Go on where retention left off: the records before are gone for every reader."""
        where = TopicPartition(place.topic, place.partition)
        low, _ = self._consumer.get_watermark_offsets(where, timeout=_TIMEOUT)
        if low <= place.position:
            place.unread = f"offset {place.position} could not be fetched"
            self._leave(place)
            return
        place.overtaken, place.position = place.position, low
        if place.is_read:
            self._finish(place)
            return
        where.offset = low
        self._consumer.incremental_unassign([where])
        self._consumer.incremental_assign([where])


@contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Keep Python from looking for cycles among millions of headers, which have none: 40 % of the time went there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
