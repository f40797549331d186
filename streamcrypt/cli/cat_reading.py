"""Reads parts of partitions: from a place to another, or on and on. It joins no group and commits nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streamcrypt.audit.tally import Place
from streamcrypt.cli.cat_request import Spot, SpotKind
from streamcrypt.cli.cutover import offsets_at
from streamcrypt.clients.lone import PASSING, without_membership
from streamcrypt.errors import StreamcryptError

__all__ = ["Stretch", "StretchReader", "lone_reader"]

_BATCH = 500
_FIRST_IN_RANGE = 0.05
_FIRST_WHEN_FOLLOWING = 0.2
_PATIENCE = 30.0
_WIDER = 4


@dataclass(slots=True)
class Stretch:
    """What is read of one partition.

    Attributes:
        topic: Its topic.
        partition: Its number.
        start: The first offset.
        end: The offset behind the last; None: it has no end.
    """

    topic: str
    partition: int
    start: int
    end: int | None = None

    @property
    def place(self) -> tuple[str, int]:
        """Topic and number of the partition."""
        return self.topic, self.partition

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return self.end is not None and self.start >= self.end


def lone_reader(consumer_config: Mapping[str, Any], *, follows: bool = False) -> Consumer:
    """Make a consumer that takes partitions by name: no member of a group, and nothing is ever committed.

    Args:
        consumer_config: librdkafka properties of a pipeline's consumer.
        follows: Whether it waits at the ends for what comes.

    Raises:
        KafkaException: librdkafka refuses a property.
    """
    config = without_membership(consumer_config)
    return Consumer(
        {
            **config,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "allow.auto.create.topics": "false",
            "auto.offset.reset": "error",
            # A fetch that waits at one end keeps the next assignment waiting.
            **({} if follows else {"fetch.wait.max.ms": "20"}),
        }
    )


class StretchReader:
    """Reads stretches.

    Args:
        consumer: From :func:`lone_reader`; its owner closes it.
        stop: Set it to end after the batch under way.
        patience: Seconds without an answer after which a stretch with an end is given up. Default 30.
    """

    def __init__(self, consumer: Consumer, stop: threading.Event, *, patience: float = _PATIENCE) -> None:
        self._consumer = consumer
        self._stop = stop
        self._patience = patience

    def stretches(
        self, places: Sequence[Place], start: Spot, end: Spot | None = None, *, follow: bool = False
    ) -> list[Stretch]:
        """Find out where to begin and to end.

        Args:
            places: Partitions of one topic, and where each begins and ends now.
            start: Where to begin; an offset that retention took means the first that is left.
            end: Where to end; None for the end that the partition has.
            follow: Whether there is no end.

        Raises:
            KafkaException: The cluster does not answer.
            StreamcryptError: Nothing arrives.
        """
        if not places:
            return []
        last = self._offsets(end or Spot(SpotKind.LATEST), places)
        found = [Stretch(p.topic, p.partition, p.start, max(p.start, min(last[p.partition], p.end))) for p in places]
        if start.kind is SpotKind.LAST:
            self._begin_at_last(found, start.number)
        else:
            first = self._offsets(start, places)
            for stretch, place in zip(found, places, strict=True):
                stretch.start = max(place.start, min(first[place.partition], place.end))
        if follow:
            for stretch in found:
                stretch.end = None
        return found

    def _offsets(self, spot: Spot, places: Sequence[Place]) -> Mapping[int, int]:
        if spot.kind is SpotKind.TIME:
            partitions = 1 + max(place.partition for place in places)
            return offsets_at(self._consumer, places[0].topic, partitions, spot.number)
        of_kind: dict[SpotKind, Callable[[Place], int]] = {
            SpotKind.EARLIEST: lambda place: place.start,
            SpotKind.LATEST: lambda place: place.end,
            SpotKind.OFFSET: lambda _: spot.number,
            SpotKind.LAST: lambda place: place.end - spot.number,
        }
        return {place.partition: of_kind[spot.kind](place) for place in places}

    def _begin_at_last(self, stretches: Sequence[Stretch], count: int) -> None:
        """Begin each stretch so that so many records are left: offsets do not tell, with transactions and compaction.

        A transaction's end takes an offset and is no record.
        """
        width = 2 * count + 2
        looking = [(stretch, stretch.start) for stretch in stretches if not stretch.is_empty]
        while looking:
            windows = [Stretch(s.topic, s.partition, max(low, (s.end or 0) - width), s.end) for s, low in looking]
            last: dict[int, deque[int]] = {w.partition: deque(maxlen=count) for w in windows}
            for batch in self.read(windows):
                for message in batch:
                    last[message.partition()].append(message.offset())
            if self._stop.is_set():
                return
            wider = []
            for (stretch, low), window in zip(looking, windows, strict=True):
                offsets = last[stretch.partition]
                stretch.start = offsets[0] if offsets else window.start
                if len(offsets) < count and window.start > low:
                    wider.append((stretch, low))
            looking, width = wider, width * _WIDER

    def read(self, stretches: Sequence[Stretch]) -> Iterator[list[Any]]:
        """Give the records of these stretches, batch by batch, empty ones too; those of one partition are in order.

        Raises:
            KafkaException: A partition cannot be read.
            StreamcryptError: Nothing arrives any more.
        """
        consumer = self._consumer
        left = {stretch.place: stretch for stretch in stretches if not stretch.is_empty}
        consumer.assign([TopicPartition(*s.place, s.start) for s in left.values()])
        seconds = _FIRST_WHEN_FOLLOWING if any(s.end is None for s in stretches) else _FIRST_IN_RANGE
        try:
            waiting = time.monotonic() + self._patience
            while left and not self._stop.is_set():
                first: Any = consumer.poll(seconds)
                messages = [] if first is None else [first, *consumer.consume(_BATCH - 1, 0)]
                batch = [message for message in messages if self._is_wanted(message, left)]
                yield batch
                if batch:
                    waiting = time.monotonic() + self._patience
                elif time.monotonic() > waiting and any(s.end is not None for s in left.values()):
                    where = ", ".join(f"{topic}[{partition}]" for topic, partition in left)
                    raise StreamcryptError(f"{where}: nothing arrived for {self._patience:g} s")
                self._leave_ended(left)
        finally:
            consumer.unassign()

    def _is_wanted(self, message: Any, left: Mapping[tuple[str, int], Stretch]) -> bool:
        error = message.error()
        if error is not None:
            if error.fatal() or error.code() not in PASSING:
                raise KafkaException(error)
            return False
        stretch = left.get((message.topic(), message.partition()))
        return stretch is not None and (stretch.end is None or message.offset() < stretch.end)

    def _leave_ended(self, left: dict[tuple[str, int], Stretch]) -> None:
        ending = [TopicPartition(*s.place) for s in left.values() if s.end is not None]
        if not ending:
            return
        # The position passes control records and aborted ones at the end, which no message shows.
        for found in self._consumer.position(ending):
            place = (found.topic, found.partition)
            if found.offset >= (left[place].end or 0):
                del left[place]
                # Not a pause: that would outlive the assignment.
                self._consumer.incremental_unassign([TopicPartition(*place)])
