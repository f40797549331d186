"""A consumer as a member of its group: what it is assigned, where it reads, what it pauses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, repeat
from typing import Any, Protocol, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.events import KafkaClientError, Observer, PartitionsAssigned, PartitionsLost, PartitionsRevoked
from streamcrypt.sidecar.failures import from_kafka, operator_must_act
from streamcrypt.sidecar.ledger import Place, Progress
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.topics import start_where_uncommitted

__all__ = ["Membership", "Upheaval", "runs"]

_BATCH = 1000


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
        self.joined = False
        self.subscribed = False

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
            arrived: Called once there is a first one, before a rebalance may strike again.

        Raises:
            ConnectionLost: The consumer is beyond repair.
            PipelineHalted: An operator must act.
        """
        room = _BATCH if self._pace is None else self._pace.room(_BATCH, seconds)
        first = self.consumer.poll(seconds) if room else None
        if first is None:
            self._raise_fatal()
            return ()
        arrived()
        messages = [first, *(self.consumer.consume(room - 1, 0) if room > 1 else ())]
        if self._pace is not None:
            self._pace.spend(len(messages))
        self._raise_fatal()
        if any(map(Message.error, messages)):
            for message in messages:
                self._look_at_error(message)
            return [message for message in messages if message.error() is None]
        return messages

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
        """Fetch a partition again; one that is no longer ours needs it not."""
        with suppress(KafkaException):
            self.consumer.resume([TopicPartition(*place)])

    def seek(self, progress: Progress) -> None:
        """Read partitions again from these offsets.

        Raises:
            ConnectionLost: The client could not.
        """
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
        self.assigned.update(added)
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
        self.assigned.difference_update(places)
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _look_at_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.fatal() or error.code() == KafkaError._FATAL or operator_must_act(error):  # noqa: SLF001  a public code
            raise from_kafka(error, f"pipeline {self._pipeline!r}: consume {message.topic()}[{message.partition()}]")
        self._on_error(error)

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            # After one such error a consumer says nothing more, for ever.
            raise from_kafka(self._fatal, f"pipeline {self._pipeline!r}: consumer")

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001  a public code
            self._fatal = error
        self._observer(KafkaClientError(self._pipeline, "consumer", error.name(), error.str()))


def _places(partitions: Sequence[TopicPartition]) -> tuple[Place, ...]:
    return tuple((p.topic, p.partition) for p in partitions)


def runs(messages: Sequence[Message], topic: str | None = None) -> Iterator[tuple[Place, Sequence[Message]]]:
    """Cut a batch where topic or partition changes. librdkafka hands out long runs of one partition.

    Args:
        messages: The batch.
        topic: Their topic, where it is known to be one: then it is not asked of each.
    """
    partitions = map(Message.partition, messages)
    places = zip(repeat(topic) if topic is not None else map(Message.topic, messages), partitions, strict=False)
    start = 0
    for place, run in groupby(places):
        end = start + len(list(run))
        yield cast("Place", place), messages[start:end]
        start = end
