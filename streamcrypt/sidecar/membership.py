"""A consumer as a member of its group: what it is assigned, where it reads, what it pauses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, Protocol, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.clients.headers import headers_of
from streamcrypt.events import KafkaClientError, Observer, PartitionsAssigned, PartitionsLost, PartitionsRevoked
from streamcrypt.sidecar.failures import from_kafka, operator_must_act
from streamcrypt.sidecar.ledger import Place, Progress
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.topics import start_where_uncommitted

__all__ = ["Membership", "Upheaval", "runs"]

_BATCH = 1000
# A batch is held as Python objects beside librdkafka's queue: 1,000 records of 1 MB would be 1 GB.
_BATCH_BYTES = 4 * 2**20
# Read ahead for data keys that are looked ahead: 80 ms of 200,000 records/s of 1 KB.
_MOST_BYTES = 16 * 2**20


class Upheaval(Protocol):
    """Who must act when partitions go."""

    def before_leaving(self, places: Collection[Place]) -> None:
        """Finish what was begun: these partitions are about to go to another member."""
        ...

    def after_losing(self, places: Collection[Place]) -> None:
        """Drop what was begun: these partitions are another member's already."""
        ...

    def forget(self, places: Collection[Place]) -> None:
        """Forget these partitions."""
        ...


class Membership:
    """One consumer in its group.

    Args:
        pipeline: Its name, for events.
        config: librdkafka properties of the consumer.
        on_commit: Told the answer to commits that were not waited for.
        observer: Told of assignments and of trouble with the broker.
        upheaval: Acts before partitions go and after.
        pace: Bounds how fast records are fetched.
    """

    def __init__(
        self,
        pipeline: str,
        config: Mapping[str, Any],
        on_commit: Callable[[KafkaError | None, list[TopicPartition]], None],
        observer: Observer,
        upheaval: Upheaval,
        pace: Pace | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._pace = pace
        self._observer = observer
        self._upheaval = upheaval
        self.consumer = Consumer({**config, "error_cb": self._on_error, "on_commit": on_commit})
        strategy = str(config.get("partition.assignment.strategy", ""))
        self._incremental = "cooperative" in strategy or str(config.get("group.protocol")).lower() == "consumer"
        self._fatal: KafkaError | None = None
        self.assigned: set[Place] = set()
        self.began: Progress = {}
        """Where the partitions that are ours began, as far as the group had an offset for them."""
        self.joined = False
        self.subscribed = False
        self.paused = False
        """Whether nothing is fetched, of whatever partition."""
        # Batches of the usual size: what is read long before it is passed has left the processor's caches by then, and
        # one large batch keeps the client's own threads idle while it is passed.
        self._ahead: deque[Sequence[Message]] = deque()
        # Partitions that went during the read under way.
        self._left: set[Place] = set()
        # Of the last batch: what the next one is cut by. Records of a topic are about alike.
        self._record_bytes = 1.0
        self.reach = 1
        """How many batches :meth:`read_ahead` keeps in hand, at most."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics from now on, and no others."""
        self.subscribed = True
        self.consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def fetch(self, seconds: float, arrived: Callable[[], None]) -> Sequence[Message]:
        """Wait for a first record, then take what is there. No record is held back for others to come.

        Args:
            seconds: How long to wait for the first one.
            arrived: Called once there is a first one, before a rebalance may strike again; also for one read ahead.

        Raises:
            ConnectionLost: The consumer is beyond repair.
            PipelineHalted: An operator must act.
        """
        if self._ahead:
            # Before anything else: the client's position is ahead of them, and they are `ahead` no more.
            arrived()
            return self._ahead.popleft()
        return self._read(seconds, arrived)

    def read_ahead(self) -> Sequence[Message]:
        """Take what is there now for the next calls of :meth:`fetch`, and give it to be looked at.

        What is in hand is dropped where its partition goes, or is to be read again from elsewhere.

        Raises:
            ConnectionLost, PipelineHalted: As :meth:`fetch`.
        """
        fresh: list[Message] = []
        while len(self._ahead) < self.reach and self._bytes_ahead < _MOST_BYTES:
            batch = self._read(0.0, _nothing)
            if not batch:
                break
            # At once: the next read may bring a rebalance, which takes back what is in here.
            self._ahead.append(batch)
            fresh += batch
        return fresh

    @property
    def ahead(self) -> int:
        """How many batches are in hand for the next calls of :meth:`fetch`; the client's position is behind them."""
        return len(self._ahead)

    @property
    def _bytes_ahead(self) -> float:
        return sum(map(len, self._ahead)) * self._record_bytes

    @property
    def _room(self) -> int:
        return max(1, min(_BATCH, int(_BATCH_BYTES / self._record_bytes)))

    def _read(self, seconds: float, arrived: Callable[[], None]) -> Sequence[Message]:
        room = self._room if self._pace is None else self._pace.room(self._room, seconds)
        first = self.consumer.poll(seconds) if room else None
        if first is None:
            self._raise_fatal()
            return ()
        arrived()
        self._left.clear()
        messages = [first, *(self.consumer.consume(room - 1, 0) if room > 1 else ())]
        if self._pace is not None:
            self._pace.spend(len(messages))
        self._raise_fatal()
        if any(map(Message.error, messages)):
            for message in messages:
                self._look_at_error(message)
            messages = [message for message in messages if message.error() is None]
        if self._left:
            # The client takes back what it fetched of them, but for the one that we had already.
            rest = messages[1:] if messages[:1] == [first] and _place(first) in self._left else messages
            messages = [message for message in rest if _place(message) in self.assigned]
        if messages:
            self._record_bytes = _mean_bytes(messages)
        return messages

    def _drop_ahead(self, places: Collection[Place]) -> None:
        if self._ahead:
            kept = ([message for message in batch if _place(message) not in places] for batch in self._ahead)
            self._ahead = deque(filter(None, kept))

    @property
    def only_topic(self) -> str | None:
        """The topic of every partition that is ours, where it is one and the same."""
        topics = {topic for topic, _ in self.assigned}
        return topics.pop() if len(topics) == 1 else None

    def positions(self) -> Progress:
        """Give the client's positions, where it has any."""
        places = [TopicPartition(*place) for place in self.assigned]
        return {(p.topic, p.partition): p.offset for p in self.consumer.position(places) if p.offset >= 0}

    def pause(self, place: Place) -> None:
        """Fetch nothing more of a partition."""
        self.consumer.pause([TopicPartition(*place)])

    def resume(self, place: Place) -> None:
        """Fetch a partition again, where not all are paused; one that is no longer ours needs it not."""
        if not (self.paused and place in self.assigned):
            self._resume([place])

    def pause_all(self) -> None:
        """Fetch nothing more, neither of the partitions that are ours nor of those that will be."""
        self.paused = True
        self.consumer.pause([TopicPartition(*place) for place in self.assigned])

    def resume_all(self, waiting: Collection[Place]) -> None:
        """Fetch again, but for the partitions that wait for something of their own."""
        self.paused = False
        self._resume(self.assigned.difference(waiting))

    def _resume(self, places: Iterable[Place]) -> None:
        with suppress(KafkaException):
            self.consumer.resume([TopicPartition(*place) for place in places])

    def seek(self, progress: Progress) -> None:
        """Read partitions again from these offsets.

        Raises:
            ConnectionLost: The client could not.
        """
        self._drop_ahead(progress)
        for (topic, partition), offset in progress.items():
            if (topic, partition) in self.assigned:
                try:
                    self.consumer.seek(TopicPartition(topic, partition, offset))
                except KafkaException as error:
                    raise from_kafka(error, f"pipeline {self._pipeline!r}: seek in {topic}[{partition}]") from None

    def close(self) -> None:
        """Leave the group; a static member leaves its place for its return."""
        self.consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = start_where_uncommitted(consumer, partitions) if partitions else []
        if self._incremental:
            consumer.incremental_assign(places)
        else:
            consumer.assign(places)
        added = _places(partitions)
        if self.paused and partitions:
            consumer.pause(partitions)
        self.assigned.update(added)
        self.began.update({(p.topic, p.partition): p.offset for p in places if p.offset >= 0})
        self.joined = True
        self._observer(PartitionsAssigned(self._pipeline, added))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leaving = _places(partitions)
        self._upheaval.before_leaving(leaving)
        self._let_go(consumer, partitions)
        self._observer(PartitionsRevoked(self._pipeline, leaving))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = _places(partitions)
        self._upheaval.after_losing(lost)
        self._let_go(consumer, partitions)
        self._observer(PartitionsLost(self._pipeline, lost))

    def _let_go(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = _places(partitions)
        self._upheaval.forget(places)
        self._left.update(places)
        self._drop_ahead(places)
        self.assigned.difference_update(places)
        if self.paused:
            # A pause outlives the assignment: see Passing.forget.
            self._resume(places)
        for place in places:
            self.began.pop(place, None)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _look_at_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.fatal() or error.code() == KafkaError._FATAL or operator_must_act(error):  # noqa: SLF001  a public code
            topic = message.topic() or ""
            doing = f"pipeline {self._pipeline!r}: consume {topic}[{message.partition()}]"
            raise from_kafka(error, doing, topic)
        self._on_error(error)

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            # After one such error a consumer says nothing more, for ever.
            raise from_kafka(self._fatal, f"pipeline {self._pipeline!r}: consumer")

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001  a public code
            self._fatal = error
        self._observer(KafkaClientError(self._pipeline, "consumer", error.name(), error.str()))


def _nothing() -> None:
    pass


def _place(message: Message) -> Place:
    return cast("Place", (message.topic(), message.partition()))


def _mean_bytes(messages: Sequence[Message]) -> float:
    """Give the mean size of values, and of key and headers as the last record has them."""
    last = messages[-1]
    pairs = headers_of(last) or ()
    beside = len(last.key() or b"") + sum(len(name) + len(value or b"") for name, value in pairs)
    return sum(map(len, messages)) / len(messages) + beside + 1


def _places(partitions: Sequence[TopicPartition]) -> tuple[Place, ...]:
    return tuple((p.topic, p.partition) for p in partitions)


def runs(messages: Sequence[Message], topic: str | None = None) -> Iterator[tuple[Place, Sequence[Message]]]:
    """Cut a batch where topic or partition changes. librdkafka hands out long runs of one partition.

    Args:
        messages: The batch.
        topic: Their topic, where it is known to be one: then it is not asked of each.
    """
    partitions = map(Message.partition, messages)
    # A pair for each record costs more than everything else here.
    marks: Iterable[Any] = partitions if topic else zip(map(Message.topic, messages), partitions, strict=True)
    start = 0
    for mark, run in groupby(marks):
        end = start + len(list(run))
        yield cast("Place", (topic, mark) if topic else mark), messages[start:end]
        start = end
