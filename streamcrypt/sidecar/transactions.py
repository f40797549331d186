"""Exactly once: records and the offsets they came from become visible together or not at all (KIP-98, KIP-447)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streamcrypt.events import Observer
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.failures import UnitFailed, from_kafka, is_fence
from streamcrypt.sidecar.ledger import Progress

__all__ = ["Transactions"]

# No call blocks longer, so that the loop shows that it turns.
_CALL = 1.0
_MILLISECONDS = 1000


class Transactions(Delivery):
    """A transactional producer. A unit of work is a transaction.

    Args:
        pipeline: Its name, for events.
        config: librdkafka properties with ``transactional.id`` and ``transaction.timeout.ms``.
        observer: Told of commits, aborts and of trouble with the broker.
        meanwhile: Called at least once a second while something is waited for; may raise to give up.
        alive: The same while what is waited for must not be given up.
    """

    def __init__(
        self,
        pipeline: str,
        config: Mapping[str, Any],
        observer: Observer,
        meanwhile: Callable[[], None],
        alive: Callable[[], None],
    ) -> None:
        super().__init__(pipeline, config, observer, meanwhile)
        self._alive = alive
        self._patience = float(config["transaction.timeout.ms"]) / _MILLISECONDS
        self._open = False

    @property
    def must_not_wait(self) -> bool:
        """Whether a transaction is open."""
        return self._open

    def start(self) -> None:
        """Take over the transactional id: an earlier holder is fenced, and its open transaction aborted.

        Raises:
            ConnectionLost, PipelineHalted: The coordinator did not answer, or refuses.
        """
        self._insist("init_transactions", self.producer.init_transactions, 2 * self._patience, self._meanwhile)

    def begin(self) -> None:
        """Open a transaction where none is open."""
        if not self._open:
            self._insist("begin_transaction", lambda _timeout: self.producer.begin_transaction(), self._patience)
            self._open = True

    def raise_failure(self) -> None:
        """Raise UnitFailed where the brokers did not take a record: the transaction can only be aborted."""
        if self._failure is not None:
            raise UnitFailed(self._failure)

    def commit(self, consumer: Consumer, progress: Progress, records: int, seconds: float, *, wait: bool) -> bool:
        """Commit records and offsets together. Always waits for the answer.

        Raises:
            UnitFailed: The transaction must be given up and its records read again.
            ConnectionLost: The producer is fenced, or the coordinator did not answer in time.
            PipelineHalted: An operator must act.
        """
        news = self._news(progress)
        if not news and not self._open:
            return True
        self.raise_failure()
        patience = max(seconds, 0.0) if wait else self._patience
        started = time.perf_counter()
        self.begin()
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in news.items()]
        if offsets:
            # Fetched each time: it changes with every rebalance, and a stale one is refused.
            member = consumer.consumer_group_metadata()
            send = self.producer.send_offsets_to_transaction
            self._insist("send_offsets_to_transaction", lambda timeout: send(offsets, member, timeout), patience)
        self._insist("commit_transaction", self.producer.commit_transaction, patience)
        self._open = False
        self._note_committed(news, records, started)
        return True

    def give_up(self) -> None:
        """Abort the open transaction.

        Raises:
            ConnectionLost, PipelineHalted: The producer is fenced or beyond repair.
        """
        failure = self._failure
        if self._open:
            self._open = False
            self._insist("abort_transaction", self.producer.abort_transaction, self._patience)
        # What was purged is reported as failed.
        self._failure = None
        self._tell_given_up(failure)

    def _insist(
        self, what: str, call: Callable[[float], Any], patience: float, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Make the same call until it succeeds, as the library asks for errors that a retry helps."""
        deadline = time.monotonic() + patience
        while True:
            try:
                call(_CALL)
            except KafkaException as error:
                cause = error.args[0]
                if not is_fence(cause) and cause.txn_requires_abort():
                    raise UnitFailed(self._failure or cause) from None
                if cause.fatal() or not cause.retriable() or time.monotonic() > deadline:
                    raise from_kafka(cause, f"pipeline {self._pipeline!r}: {what}") from None
                (meanwhile or self._alive)()
            else:
                return
