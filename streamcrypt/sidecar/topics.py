"""Which topics a pipeline reads now, where each goes, and where reading begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]  # the stubs forget it

from streamcrypt.errors import StreamcryptError
from streamcrypt.sidecar.spec import PipelineSpec, Start

__all__ = [
    "RouteProblem",
    "Routes",
    "ask",
    "begin_at_latest",
    "begins_at_latest",
    "is_compacted",
    "start_where_uncommitted",
]

_METADATA_TIMEOUT = 5.0
# A rebalance callback waits for this, and the end of the process waits for the callback.
_OFFSETS_TIMEOUT = 4.0
_ASK_AGAIN = 0.1
# A coordinator that has just moved or begun, as on a young cluster; librdkafka hands these to us.
_COORDINATOR_ON_ITS_WAY = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)

_T = TypeVar("_T")


class RouteProblem(StreamcryptError):
    """A record's target is missing or has too few partitions: an operator must act, the record waits."""


@dataclass(frozen=True, slots=True)
class Routes:
    """A snapshot of the cluster as one pipeline sees it.

    Attributes:
        spec: The pipeline.
        partitions: Every topic of the cluster and its number of partitions.
    """

    spec: PipelineSpec
    partitions: dict[str, int]

    @classmethod
    def discover(cls, client: Producer, spec: PipelineSpec, timeout: float = _METADATA_TIMEOUT) -> Routes:
        """Ask the cluster. No topic is created by asking.

        Raises:
            KafkaException: No broker answered in time.
        """
        topics = client.list_topics(timeout=timeout).topics
        return cls(spec, {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None})

    @property
    def sources(self) -> tuple[str, ...]:
        """The topics to read that exist, in order of name."""
        return tuple(sorted(topic for topic in self.partitions if self.spec.reads(topic)))

    @property
    def unseen(self) -> tuple[str, ...]:
        """The topics that are named, or follow from what is read, and that no listing shows."""
        named = [source for source in self.spec.sources if not source.startswith("^")]
        wanted = [*named, *map(self.spec.target_of, (*named, *self.sources)), self.spec.dead_letter]
        return tuple(dict.fromkeys(topic for topic in wanted if topic and topic not in self.partitions))

    def check(self) -> None:
        """Hold the cluster to what the pipeline needs at its start.

        Raises:
            RouteProblem: A named source or a target is missing, or a target has too few partitions.
        """
        for source in self.spec.sources:
            if not source.startswith("^") and source not in self.partitions:
                raise RouteProblem(
                    f"pipeline {self.spec.name!r}: the source topic {source!r} does not exist",
                    remedy="Create it, or correct 'from'.",
                )
        if self.spec.dead_letter and self.spec.dead_letter not in self.partitions:
            raise RouteProblem(
                f"pipeline {self.spec.name!r}: the dead-letter topic {self.spec.dead_letter!r} does not exist",
                remedy="Create it, or correct 'dead_letter'.",
            )
        for source in self.sources:
            self.target_of(source, self.partitions[source] - 1)

    def target_of(self, source: str, partition: int) -> str:
        """Give the target of a record.

        Raises:
            RouteProblem: The target is missing, or has no such partition though partitions are kept.
        """
        target = self.spec.target_of(source)
        count = self.partitions.get(target)
        if count is None:
            raise RouteProblem(
                f"pipeline {self.spec.name!r}: the target topic {target!r} does not exist, or may not be seen",
                remedy="Create it, correct 'to', or allow this login to Write it.",
            )
        if self.spec.keep_partition and partition >= count:
            raise RouteProblem(
                f"pipeline {self.spec.name!r}: {target!r} has {count} partitions, too few to keep those of {source!r}",
                # The source may have grown since this snapshot.
                remedy=f"Give {target!r} at least {max(self.partitions.get(source, 0), partition + 1)} partitions, "
                "or set partition: by_key.",
            )
        return target


def begin_at_latest(spec: PipelineSpec, consumer: Consumer, routes: Routes) -> None:
    """Commit the ends of all sources, once, for a group that has never committed anything and starts at latest.

    Done before joining, so that a restart continues from the same place, and that topics and partitions which appear
    later are read from their start.

    Raises:
        KafkaException: The cluster did not answer.
    """
    partitions = [TopicPartition(topic, p) for topic in routes.sources for p in range(routes.partitions[topic])]
    if not begins_at_latest(spec, consumer, partitions):
        return
    offsets = []
    for place in partitions:
        watermarks = consumer.get_watermark_offsets(place, timeout=_OFFSETS_TIMEOUT)
        if watermarks is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001  a public code of the library
        offsets.append(TopicPartition(place.topic, place.partition, watermarks[1]))
    try:
        ask(lambda: consumer.commit(offsets=offsets, asynchronous=False))
    except KafkaException:
        # Another member has joined meanwhile, and it did this before it joined.
        if not any(p.offset >= 0 for p in _committed(consumer, partitions)):
            raise


def begins_at_latest(spec: PipelineSpec, consumer: Consumer, partitions: list[TopicPartition]) -> bool:
    """Say whether the group would begin at the ends: it starts there, and has never committed anything.

    Raises:
        KafkaException: The cluster did not answer.
    """
    if spec.start is not Start.LATEST or not partitions:
        return False
    return not any(p.offset >= 0 for p in _committed(consumer, partitions))


def start_where_uncommitted(consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
    """Give the assignment with a place to begin for each partition: what is committed, else the start.

    Raises:
        KafkaException: The group's offsets could not be read.
    """
    committed = _committed(consumer, partitions)
    for place in committed:
        if place.error is not None:
            raise KafkaException(place.error)
        if place.offset < 0:
            place.offset = OFFSET_BEGINNING
    return list(committed)


def _committed(consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
    return ask(lambda: consumer.committed(partitions, timeout=_OFFSETS_TIMEOUT))


def ask(question: Callable[[], _T]) -> _T:
    """Ask a group's coordinator, again while it is on its way.

    Raises:
        KafkaException: It did not answer in time, or said no.
    """
    deadline = time.monotonic() + _OFFSETS_TIMEOUT
    while True:
        try:
            return question()
        except KafkaException as error:
            if error.args[0].code() not in _COORDINATOR_ON_ITS_WAY or time.monotonic() > deadline:
                raise
            time.sleep(_ASK_AGAIN)


def is_compacted(admin: AdminClient, topic: str) -> bool:
    """Say whether a topic keeps the last value of each key only.

    Raises:
        KafkaException: The cluster did not answer, or does not let us ask.
    """
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    answer = admin.describe_configs([resource], request_timeout=_OFFSETS_TIMEOUT)[resource].result()
    return "compact" in str(answer["cleanup.policy"].value)
