"""At least once: records out, and offsets committed only once everything before them is delivered."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from streamcrypt.events import CommitFailed, KafkaClientError, Observer, OffsetsCommitted, UnitGivenUp
from streamcrypt.sidecar.failures import ConnectionLost, UnitFailed, blames_record, from_kafka, is_cause
from streamcrypt.sidecar.ledger import Place, Progress

__all__ = ["Delivery"]

_FULL_QUEUE_POLL = 0.1
# Past this the broker has taken nothing for a minute: begin again rather than fall out of the consumer group.
_FULL_QUEUE_PATIENCE = 60.0
_TROUBLES = 10


class Delivery:
    """A producer whose every failure is noticed, and the commits that follow its deliveries.

    ``flush() == 0`` alone proves nothing: a record that the broker refused is gone from the queue as well. So the
    producer reports failures only, through one callback for the whole client, and any failure forbids the commit of
    everything since the last one.

    Args:
        pipeline: Its name, for events.
        config: librdkafka properties with ``delivery.report.only.error=true``.
        observer: Told of commits and of trouble with the broker.
        meanwhile: Called at least once a second while there is no room for a record; may raise to give up.
    """

    def __init__(
        self, pipeline: str, config: Mapping[str, Any], observer: Observer, meanwhile: Callable[[], None]
    ) -> None:
        self._pipeline = pipeline
        self._observer = observer
        self._meanwhile = meanwhile
        self._failure: KafkaError | None = None
        self._failed_at: Place | None = None
        self.troubles: list[str] = []
        """What went wrong underneath, in librdkafka's words; the first few."""
        self.producer = Producer({**config, "on_delivery": self._on_delivery, "error_cb": self._on_error})
        self._committed: Progress = {}

    @property
    def must_not_wait(self) -> bool:
        """Whether something is open that does not bear waiting: a transaction."""
        return False

    @property
    def longest(self) -> float:
        """Seconds after which a commit is due at the latest."""
        return math.inf

    @property
    def overdue(self) -> bool:
        """Whether what is open has been so for too long, and should be committed before more is begun."""
        return False

    def start(self) -> None:
        """Make ready for the first record."""

    def begin(self) -> None:
        """Begin a unit of work where none has begun; called before records are handed over."""

    def offer_again(self, topic: str, *record: Any) -> None:
        """Offer the very same record again, after the producer's queue was full, until there is room.

        Args:
            topic: Where to.
            record: The other positional arguments of ``Producer.produce``.

        Raises:
            ConnectionLost: The queue stayed full for a minute.
            UnitFailed, PipelineHalted: As :meth:`raise_failure`.
            StopAsked: As ``meanwhile`` does.
        """
        deadline = time.monotonic() + _FULL_QUEUE_PATIENCE
        while True:
            self.producer.poll(_FULL_QUEUE_POLL)
            self.raise_failure()
            self._meanwhile()
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
            UnitFailed: Records since the last commit must be sent again, without the one to blame.
            ConnectionLost: A restart from the committed offsets helps.
            PipelineHalted: An operator must act.
        """
        if self._failure is None:
            return
        if blames_record(self._failure):
            raise UnitFailed(self._failure, self._failed_at)
        topic, partition = self._failed_at or ("", -1)
        raise from_kafka(self._failure, f"pipeline {self._pipeline!r}: delivery to {topic}[{partition}]", topic)

    def not_produced(self, error: KafkaError) -> None:
        """Raise what lies behind it where the producer takes no record whatever, since one before it has failed.

        Raises:
            UnitFailed, ConnectionLost, PipelineHalted: As :meth:`raise_failure`.
        """
        if error.code() == KafkaError._STATE or error.txn_requires_abort():  # noqa: SLF001  a public code
            raise self._explained(UnitFailed(error))
        if error.code() == KafkaError._FATAL:  # noqa: SLF001
            # It says why to whoever polls.
            self.producer.poll(_FULL_QUEUE_POLL)

    def commit(self, consumer: Consumer, progress: Progress, records: int, seconds: float, *, wait: bool) -> bool:
        """Wait until everything handed over is delivered, then commit ``progress``.

        Args:
            consumer: The consumer whose group it is.
            progress: What to commit; parts that are committed already are left out.
            records: How many records this covers, for the event.
            seconds: How long to wait for deliveries.
            wait: Whether to wait for the broker's answer to the commit.

        Returns:
            Whether everything was delivered in time and the commit is done, or under way where it is not waited for.

        Raises:
            UnitFailed, ConnectionLost, PipelineHalted: As :meth:`raise_failure`.
        """
        news = self._news(progress)
        left = self.producer.flush(seconds) if news or len(self.producer) else 0
        self.raise_failure()
        if left or not news:
            return not left
        started = time.perf_counter()
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in news.items()]
        try:
            if wait:
                answer = consumer.commit(offsets=offsets, asynchronous=False) or []
                refused = next((place.error for place in answer if place.error is not None), None)
                if refused is not None:
                    self._on_commit_error(refused)
                    return False
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit_error(error.args[0])
            return False
        self._note_committed(news, records, started)
        return True

    def give_up(self, failure: UnitFailed) -> UnitFailed:
        """Drop what is under way since the last commit; some of it may have been delivered all the same.

        Args:
            failure: Why, as far as it is known.

        Returns:
            Why, once all reports are in.
        """
        failure = self._explained(failure)
        self.producer.purge()
        self.producer.flush(1.0)
        # What was purged is reported as failed.
        self._failure = self._failed_at = None
        self._observer(UnitGivenUp(self._pipeline, failure.cause.name(), failure.cause.str()))
        return failure

    def _explained(self, failure: UnitFailed) -> UnitFailed:
        """Give the record's refusal that lies behind a failure: a producer says at first that its state is wrong."""
        if self._failure is not None and is_cause(self._failure) and not blames_record(failure.cause):
            return UnitFailed(self._failure, self._failed_at)
        return failure if failure.target else UnitFailed(failure.cause, self._failed_at)

    def on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Take the broker's answer to a commit that was not waited for; the consumer's ``on_commit`` callback."""
        failed = error or next((p.error for p in partitions if p.error is not None), None)
        if failed is not None and failed.code() != KafkaError._NO_OFFSET:  # noqa: SLF001
            self.forget([(place.topic, place.partition) for place in partitions])
            self._on_commit_error(failed)

    def forget(self, places: Collection[Place]) -> None:
        """Forget what was committed for partitions that went elsewhere."""
        for place in places:
            self._committed.pop(place, None)

    def close(self) -> None:
        """Drop what was not delivered, and end the producer's threads and connections."""
        self.producer.purge()
        self.producer.flush(0.1)
        with warnings.catch_warnings():
            # Of a transaction that cannot be aborted any more; the coordinator does that.
            warnings.simplefilter("ignore", RuntimeWarning)
            self.producer.close()

    def _news(self, progress: Progress) -> Progress:
        return {place: offset for place, offset in progress.items() if self._committed.get(place) != offset}

    def _note_committed(self, news: Progress, records: int, started: float, opened: float = 0.0) -> None:
        self._committed.update(news)
        self._observer(OffsetsCommitted(self._pipeline, len(news), records, time.perf_counter() - started, opened))

    def _on_commit_error(self, error: KafkaError) -> None:
        self._observer(CommitFailed(self._pipeline, error.name(), error.str()))

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and (self._failure is None or (is_cause(error) and not is_cause(self._failure))):
            self._failure, self._failed_at = error, (str(message.topic()), int(message.partition() or 0))

    def _on_error(self, error: KafkaError) -> None:
        # The first ones tell why no broker answers; a hundred more would say it again.
        if len(self.troubles) < _TROUBLES:
            self.troubles.append(error.str())
        self._observer(KafkaClientError(self._pipeline, "producer", error.name(), error.str()))
