"""Exactly once: records and the offsets they came from become visible together or not at all (KIP-98, KIP-447)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from streamcrypt.events import Observer, UnitGivenUp
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.failures import (
    ConnectionLost,
    UnitFailed,
    blames_record,
    from_kafka,
    is_cause,
    is_fence,
    operator_must_act,
)
from streamcrypt.sidecar.ledger import Place, Progress

__all__ = ["Transactions"]

_OVERDUE = 0.1
# No call blocks longer, so that the loop shows that it turns.
_CALL = 1.0
# A call that takes longer than brokers need to answer this often, a second apart, takes for ever.
_ANSWERS = 3
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
        self._stuck = False
        self._since = 0.0

    @property
    def must_not_wait(self) -> bool:
        """Whether a transaction is open."""
        return self._open

    @property
    def longest(self) -> float:
        """Half of the transaction timeout: a longer commit interval would fence ourselves."""
        return self._patience / 2

    @property
    def overdue(self) -> bool:
        """Whether a transaction has been open for a tenth of what the coordinator allows."""
        return self._open and time.monotonic() - self._since > self._patience * _OVERDUE

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
            self._since = time.monotonic()

    def raise_failure(self) -> None:
        """Raise UnitFailed where the brokers did not take a record: the transaction can only be aborted."""
        if self._failure is not None:
            raise UnitFailed(self._failure, self._failed_at)

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
        self._raise_stuck()
        self.raise_failure()
        patience = max(seconds, 0.0) if wait else self._patience
        started = time.perf_counter()
        self.begin()
        offsets = [self._offset(place, offset) for place, offset in news.items()]
        if offsets:
            # Fetched each time: it changes with every rebalance, and a stale one is refused.
            member = consumer.consumer_group_metadata()
            send = partial(self.producer.send_offsets_to_transaction, offsets, member)
            bounded = partial(self._bounded, send, patience)
            self._insist("send_offsets_to_transaction", bounded, patience)
        self._insist("commit_transaction", self.producer.commit_transaction, patience)
        self._open = False
        self._note_committed(news, records, started, time.monotonic() - self._since)
        return True

    def _offset(self, place: Place, offset: int) -> TopicPartition:
        return TopicPartition(*place, offset)

    def give_up(self, failure: UnitFailed) -> UnitFailed:
        """Abort the open transaction; see :meth:`Delivery.give_up`.

        Raises:
            ConnectionLost, PipelineHalted: The producer is fenced or beyond repair.
        """
        self._raise_stuck()
        was_open = self._open
        if was_open:
            # All reports come in meanwhile: of records that were refused, and of those that were dropped for it.
            failure = self._asked(failure)
            self._abort(failure)
            self._open = False
        failure = self._explained(failure)
        self._failure = self._failed_at = None
        if was_open:
            self._observer(UnitGivenUp(self._pipeline, failure.cause.name(), failure.cause.str()))
        return failure

    def _asked(self, failure: UnitFailed) -> UnitFailed:
        """Ask for the cause where records were only dropped because of it: librdkafka may report those first."""
        if is_cause(self._explained(failure).cause):
            return failure
        try:
            # Refused in any case while a transaction is open; in one that failed, with what it failed for.
            self.producer.begin_transaction()
        except KafkaException as error:
            cause = error.args[0]
            if cause.txn_requires_abort() and not is_fence(cause):
                self._failure = self._failed_at = None
                return UnitFailed(cause)
        return failure

    def _abort(self, failure: UnitFailed) -> None:
        try:
            self._insist("abort_transaction", self.producer.abort_transaction, self._patience)
        except ConnectionLost:
            # A transaction that got no partition for want of a right cannot be aborted: that right is what is told.
            cause = self._explained(failure)
            if operator_must_act(cause.cause) and not blames_record(cause.cause):
                topic = cause.target[0] if cause.target else ""
                raise from_kafka(cause.cause, f"pipeline {self._pipeline!r}", topic) from None
            raise

    def close(self) -> None:
        """As :meth:`Delivery.close`; a producer with a call that does not return is left to itself."""
        if not self._stuck:
            super().close()

    def _raise_stuck(self) -> None:
        if self._stuck:
            raise ConnectionLost(
                f"pipeline {self._pipeline!r}: send_offsets_to_transaction did not return; going on with a new client"
            )

    def _brokers_answer(self) -> bool:
        try:
            return bool(self.producer.list_topics(timeout=_CALL).brokers)
        except KafkaException:
            return False

    def _bounded(self, call: Callable[[float], Any], patience: float, timeout: float) -> None:
        """Make a call that may never return, and leave it to itself where it does not.

        librdkafka 2.16 forgets the timeout of ``send_offsets_to_transaction``: where the group's coordinator was
        missing in metadata for a moment, as while it restarts, the call waits for ever (confluentinc/librdkafka#5456,
        #5511).
        """
        outcome: list[Exception | None] = []

        def run() -> None:
            try:
                call(timeout)
            except Exception as error:  # noqa: BLE001  raised again below, on the loop's thread
                outcome.append(error)
            else:
                outcome.append(None)

        thread = threading.Thread(target=run, name=f"offsets-{self._pipeline}", daemon=True)
        thread.start()
        deadline, answers = time.monotonic() + patience, 0
        while True:
            thread.join(timeout)
            if not thread.is_alive():
                break
            answers += self._brokers_answer()
            if answers >= _ANSWERS or time.monotonic() > deadline:
                self._stuck = True
                self._raise_stuck()
            self._alive()
        if outcome[0] is not None:
            raise outcome[0]

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
                    raise self._explained(UnitFailed(cause)) from None
                if cause.fatal() or not cause.retriable() or time.monotonic() > deadline:
                    raise from_kafka(cause, f"pipeline {self._pipeline!r}: {what}") from None
                (meanwhile or self._alive)()
            else:
                return
