"""The loop between topics: consume, transform, produce, commit. One thread, one consumer, one producer.

Rule 1: a partition's records pass in order. One that has to wait holds its partition, and no other.
Rule 2: an offset is committed only after everything before it was delivered or, by policy, left behind.
Rule 3: nothing is looked up per record that stays the same for a run of records of one partition.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.errors import RecordTooLarge, StreamcryptError
from streamcrypt.events import (
    BatchDone,
    KafkaClientError,
    LoopTurned,
    Observer,
    PartitionPaused,
    PartitionResumed,
    PartitionsAssigned,
    PartitionsLost,
    PartitionsRevoked,
    PipelineReady,
    PipelineStarting,
    PipelineStopped,
    RecordFailed,
    SourcesChanged,
)
from streamcrypt.sidecar.delivery import Delivery, Progress
from streamcrypt.sidecar.failures import ConnectionLost, PipelineHalted, Verdict, from_kafka, operator_must_act, verdict
from streamcrypt.sidecar.holds import Hold
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.topics import Routes, begin_at_latest, start_where_uncommitted
from streamcrypt.sidecar.transform import PartitionWork, Transform

__all__ = ["Pipeline"]

_BATCH = 1000
# poll for the first record, then take what is there: a full consume(1000, 0.1) would hold single records back.
_FIRST_RECORD = 0.2
_FIRST_RECORD_WHILE_HOLDING = 0.05
_DISCOVERY_INTERVAL = 10.0
_DISCOVERY_TIMEOUT = 1.0
_SETTLE = 0.5
# Docker kills 10 s after SIGTERM: flush, commit and leaving the group must fit.
_DRAIN = 5.0
_TURN = 1.0
_PARTITION_BY_KEY = -1

Place = tuple[str, int]


class Pipeline:
    """One pipeline from its start to its end. Build a new one to start again.

    Args:
        spec: What to do.
        consumer_config: librdkafka properties; offsets are neither stored nor committed by librdkafka itself.
        producer_config: librdkafka properties, reporting failures only.
        transform: Seals or opens. Its owner closes it.
        observer: Told of everything that an operator may want to know.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        consumer_config: Mapping[str, Any],
        producer_config: Mapping[str, Any],
        transform: Transform,
        observer: Observer,
    ) -> None:
        self._spec = spec
        self._transform = transform
        self._observer = observer
        self._delivery = Delivery(spec.name, producer_config, observer)
        self._consumer = Consumer(
            {**consumer_config, "error_cb": self._on_error, "on_commit": self._delivery.on_commit}
        )
        self._brokers = str(consumer_config.get("bootstrap.servers", ""))
        strategy = str(consumer_config.get("partition.assignment.strategy", ""))
        self._incremental = "cooperative" in strategy or consumer_config.get("group.protocol") == "consumer"
        self._routes = Routes(spec, {})
        self._work: dict[Place, tuple[PartitionWork, str, int]] = {}
        self._progress: Progress = {}
        self._holds: dict[Place, Hold] = {}
        self._assigned: set[Place] = set()
        self._ready = False
        self._closing = False
        self._passed = 0
        self._passed_at_commit = 0

    def run(self, stop: threading.Event) -> None:
        """Run until ``stop`` is set, then deliver and commit what was begun.

        Raises:
            PipelineHalted: An operator must act.
            ConnectionLost: Begin again with a new pipeline.
            StreamcryptError: The settings or the key service do not allow a start, or a record halts the pipeline.
        """
        clean = False
        try:
            self._start()
            self._loop(stop)
            clean = True
        except KafkaException as error:
            raise from_kafka(error, f"pipeline {self._spec.name!r}") from None
        finally:
            settled = self._close()
            self._observer(PipelineStopped(self._spec.name, clean and settled, self._passed))
        if not settled:
            raise ConnectionLost("the brokers did not take all records before the end; they will be read again")

    @property
    def has_been_ready(self) -> bool:
        """Whether it ever had partitions and a key at hand."""
        return self._ready

    def _start(self) -> None:
        self._observer(PipelineStarting(self._spec.name, self._spec.mode, self._spec.group))
        try:
            self._routes = Routes.discover(self._delivery.producer, self._spec)
        except KafkaException as error:
            raise from_kafka(error, f"pipeline {self._spec.name!r}: no answer from {self._brokers}") from None
        self._routes.check()
        if self._routes.sources:
            self._transform.ready(self._spec.target_of(self._routes.sources[0]))
        begin_at_latest(self._spec, self._consumer, self._routes)
        self._subscribe()

    def _loop(self, stop: threading.Event) -> None:
        now = time.monotonic()
        next_turn, next_commit, next_discovery = now, now + self._spec.commit_interval, now + _DISCOVERY_INTERVAL
        while not stop.is_set():
            for place, messages in _runs(self._fetch()):
                self._take(place, messages)
            self._delivery.producer.poll(0)
            self._delivery.raise_failure()
            now = time.monotonic()
            if self._holds:
                self._try_holds(now)
            if now >= next_commit:
                self._commit()
                next_commit = time.monotonic() + self._spec.commit_interval
            if now >= next_turn:
                self._turn()
                next_turn = now + _TURN
            if now >= next_discovery:
                self._discover()
                next_discovery = now + _DISCOVERY_INTERVAL

    def _fetch(self) -> Sequence[Message]:
        first = self._consumer.poll(_FIRST_RECORD_WHILE_HOLDING if self._holds else _FIRST_RECORD)
        if first is None:
            return ()
        messages = [first, *self._consumer.consume(_BATCH - 1, 0)]
        if any(message.error() for message in messages):
            for message in messages:
                self._on_message_error(message)
            return [message for message in messages if message.error() is None]
        return messages

    def _turn(self) -> None:
        self._transform.idle()
        self._observer(LoopTurned(self._spec.name, len(self._assigned), len(self._holds)))
        if not self._ready and self._assigned:
            self._ready = True
            self._observer(PipelineReady(self._spec.name, len(self._assigned)))

    # -- records ---------------------------------------------------------------------------------------------------

    def _take(self, place: Place, messages: Sequence[Any]) -> None:
        hold = self._holds.get(place)
        if hold is not None:
            hold.messages.extend(messages)
            return
        rest = messages
        while rest:
            passed, error = self._pass(place, rest)
            if error is None:
                return
            rest = rest[passed:]
            if self._judge(place, rest[0], error) is Verdict.WAIT:
                self._hold(place, rest, error)
                return
            self._progress[place] = rest[0].offset() + 1
            rest = rest[1:]

    def _pass(self, place: Place, messages: Sequence[Any]) -> tuple[int, StreamcryptError | None]:
        """Pass the records of one partition in order; say how many passed, and what stopped the next one."""
        started = time.perf_counter()
        produce = self._delivery.producer.produce
        passed = size = tombstones = 0
        failure: StreamcryptError | None = None
        try:
            work, target, partition = self._work_of(place)
            for message in messages:
                value = message.value()
                key = message.key()
                sent, headers = work(value, key, message.headers())
                kind, timestamp = message.timestamp()
                record: Any = (sent, key, partition, None, None, timestamp if kind else 0, headers)
                try:
                    produce(target, *record)
                except BufferError:
                    self._delivery.offer_again(target, *record)
                passed += 1
                if value is None:
                    tombstones += 1
                else:
                    size += len(value)
        except (ConnectionLost, PipelineHalted):
            raise
        except StreamcryptError as error:
            failure = error
        except KafkaException as error:
            failure = self._not_produced(error, place)
        if passed:
            self._progress[place] = messages[passed - 1].offset() + 1
            self._passed += passed
            out = size + self._transform.growth * (passed - tombstones)
            seconds = time.perf_counter() - started
            self._observer(BatchDone(self._spec.name, place[0], passed, size, out, tombstones, seconds))
        return passed, failure

    def _work_of(self, place: Place) -> tuple[PartitionWork, str, int]:
        known = self._work.get(place)
        if known is None:
            source, partition = place
            target = self._routes.target_of(source, partition)
            lane = partition if self._spec.keep_partition else None
            work = self._transform.work(source, partition, target, lane)
            known = self._work[place] = (work, target, _PARTITION_BY_KEY if lane is None else lane)
        return known

    def _not_produced(self, error: KafkaException, place: Place) -> StreamcryptError:
        self._transform.lost()
        if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return RecordTooLarge("the record is over the producer's message.max.bytes")
        raise from_kafka(error, f"produce from {place[0]!r}") from None

    def _judge(self, place: Place, message: Any, error: StreamcryptError) -> Verdict:
        decision = verdict(error, self._spec.on_failure)
        if decision is Verdict.WAIT:
            return decision
        kind, detail = type(error).__name__, str(error)
        action = decision.name.lower()
        self._observer(RecordFailed(self._spec.name, *place, message.offset(), kind, detail, action))
        if decision is Verdict.HALT:
            at = f"{place[0]}[{place[1]}] offset {message.offset()}"
            raise PipelineHalted(
                f"pipeline {self._spec.name!r} halts at {at}: {kind}: {detail}",
                remedy=error.remedy,
            )
        return decision

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _hold(self, place: Place, messages: Sequence[Any], error: StreamcryptError) -> None:
        self._consumer.pause([TopicPartition(*place)])
        self._holds[place] = Hold(deque(messages), error)
        offset = messages[0].offset()
        kind = type(error).__name__
        self._observer(PartitionPaused(self._spec.name, *place, offset, kind, str(error), error.remedy))

    def _try_holds(self, now: float) -> None:
        for place, hold in list(self._holds.items()):
            if now < hold.due:
                continue
            messages: list[Any] = list(hold.messages)
            passed, error = self._pass(place, messages)
            for _ in range(passed):
                hold.messages.popleft()
            if error is None:
                del self._holds[place]
                self._consumer.resume([TopicPartition(*place)])
                self._observer(PartitionResumed(self._spec.name, *place, now - hold.since))
            elif self._judge(place, messages[passed], error) is Verdict.WAIT:
                hold.failed_again(error)
            else:
                self._progress[place] = messages[passed].offset() + 1
                hold.messages.popleft()
                hold.due = now

    # -- commits ---------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        if self._delivery.has_news(self._progress) and self._delivery.settle(_SETTLE):
            self._delivery.commit(self._consumer, self._progress, self._take_count(), wait=False)

    def _take_count(self) -> int:
        count = self._passed - self._passed_at_commit
        self._passed_at_commit = self._passed
        return count

    def _close(self) -> bool:
        """Deliver, commit, leave the group; say whether everything passed on was delivered."""
        settled = False
        try:
            settled = self._delivery.settle(_DRAIN)
            if settled and self._assigned:
                self._delivery.commit(self._consumer, self._progress, self._take_count(), wait=True)
        except StreamcryptError:
            # The error that ended the loop is on its way; nothing undelivered is committed.
            settled = False
        self._closing = True
        self._consumer.close()
        if not settled:
            self._transform.lost()
            self._delivery.discard()
        return settled

    # -- the consumer group ------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        sources = self._routes.sources
        self._observer(SourcesChanged(self._spec.name, sources))
        if sources:
            self._consumer.subscribe(
                list(sources), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )

    def _discover(self) -> None:
        try:
            routes = Routes.discover(self._delivery.producer, self._spec, _DISCOVERY_TIMEOUT)
        except KafkaException as error:
            self._on_error(error.args[0])
            return
        before, self._routes = self._routes, routes
        self._work.clear()
        if routes.sources and routes.sources != before.sources:
            self._subscribe()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = start_where_uncommitted(consumer, partitions) if partitions else []
        if self._incremental:
            consumer.incremental_assign(places)
        else:
            consumer.assign(places)
        added = tuple((p.topic, p.partition) for p in partitions)
        self._assigned.update(added)
        self._observer(PartitionsAssigned(self._spec.name, added))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        leaving = [(p.topic, p.partition) for p in partitions]
        if not self._closing and self._delivery.settle(_DRAIN):
            going = {place: self._progress[place] for place in leaving if place in self._progress}
            self._delivery.commit(consumer, going, self._take_count(), wait=True)
        self._forget(partitions)
        self._unassign(consumer, partitions)
        self._observer(PartitionsRevoked(self._spec.name, tuple(leaving)))

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        self._unassign(consumer, partitions)
        self._observer(PartitionsLost(self._spec.name, tuple((p.topic, p.partition) for p in partitions)))

    def _forget(self, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            place = (p.topic, p.partition)
            self._progress.pop(place, None)
            self._holds.pop(place, None)
            self._assigned.discard(place)
        self._delivery.forget(partitions)

    def _unassign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _on_message_error(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        if error.fatal() or operator_must_act(error):
            raise from_kafka(error, f"consume {message.topic()}[{message.partition()}]")
        self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        self._observer(KafkaClientError(self._spec.name, "consumer", error.name(), error.str()))


def _runs(messages: Sequence[Message]) -> Iterator[tuple[Place, Sequence[Message]]]:
    """Cut a batch where topic or partition changes. librdkafka hands out long runs of one partition."""
    start = 0
    topic: str | None = None
    partition: int | None = None
    for index, message in enumerate(messages):
        if message.partition() != partition or message.topic() != topic:
            if index:
                yield (str(topic), int(partition or 0)), messages[start:index]
            start, topic, partition = index, message.topic(), message.partition()
    if messages:
        yield (str(topic), int(partition or 0)), messages[start:]
