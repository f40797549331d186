"""The loop between topics: consume, transform, produce, commit. One thread, one consumer, one producer.

An offset is committed only after everything before it was delivered or, by policy, set aside or left behind. With
transactions, records and offsets become visible together.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from streamcrypt.errors import KeyUnavailable, StreamcryptError, again
from streamcrypt.events import (
    BrokerRefused,
    BrokersAnswered,
    KafkaClientError,
    LagMeasured,
    LoopTurned,
    Observer,
    PipelinePaused,
    PipelineReady,
    PipelineResumed,
    PipelineStarting,
    SourcesChanged,
)
from streamcrypt.sidecar.access import Logins, explained, raise_refused
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.failures import (
    ENDING,
    AccessRefused,
    Backoff,
    ConnectionLost,
    StopAsked,
    UnitFailed,
    blames_record,
    from_kafka,
    operator_must_act,
)
from streamcrypt.sidecar.foresight import Foresight
from streamcrypt.sidecar.garbage import collect_at_leisure
from streamcrypt.sidecar.lag import LagMeter
from streamcrypt.sidecar.ledger import Ledger, Place, Progress
from streamcrypt.sidecar.link import remedy_of, telling
from streamcrypt.sidecar.membership import Membership, runs
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.passing import Passing, Take
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.steering import Steering
from streamcrypt.sidecar.topics import RouteProblem, Routes, begin_at_latest
from streamcrypt.sidecar.transactions import Transactions
from streamcrypt.sidecar.transform import Transform

__all__ = ["Pipeline"]

_FIRST_RECORD = 0.2
_FIRST_RECORD_WHILE_HOLDING = 0.05
_DISCOVERY_INTERVAL = 10.0
_DISCOVERY_TIMEOUT = 1.0
_LOOK_SOON = 1.0
# While no broker answers: each question holds the loop up for as long as the timeout.
_ASK_AGAIN = 3.0
_SETTLE = 0.5
# What must be delivered before something else may be waited for: past this the brokers are away.
_DELIVER = 10.0
# Docker kills 10 s after SIGTERM: delivering, then committing and leaving the group must fit.
_DRAIN = 5.0
_END = 7.5
_COMMIT_PAUSE = 0.1
# Closing in the middle of a join leaves a member behind that the group waits for.
_JOIN = 2.0
# A cold KMS takes longer than a record waits for a key: TLS, credentials from a metadata service.
_FIRST_KEY = 5.0
_TURN = 1.0
# As often as this a unit may fail without any commit between, before the clients are made anew.
_UNITS_GIVEN_UP = 10
# In the middle of a rebalance a commit fails again and again, for a moment.
_BREATH = 0.05


class Pipeline:
    """One pipeline from its start to its end. Build a new one to start again.

    Args:
        spec: What to do.
        consumer_config: librdkafka properties; offsets are neither stored nor committed by librdkafka itself.
        producer_config: librdkafka properties, reporting failures only; with a ``transactional.id`` delivery is
            exactly once.
        transform: Seals or opens. Its owner closes it.
        observer: Told of everything that an operator may want to know.
        safeguards: The pipeline's policies besides sealing and opening.
        trace: Gives what passes a run of records a frame, such as a span; None: nothing stands around it.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        consumer_config: Mapping[str, Any],
        producer_config: Mapping[str, Any],
        transform: Transform,
        observer: Observer,
        safeguards: Safeguards | None = None,
        trace: Callable[[Take], Take] | None = None,
    ) -> None:
        self._spec = spec
        self._transform = transform
        self._observer = observer
        self._stop = threading.Event()
        self._steering = Steering()
        self._paused_at: float | None = None
        self._next_turn = self._next_discovery = self._next_commit = 0.0
        self._brokers = str(consumer_config.get("bootstrap.servers", ""))
        self._logins = Logins.of(consumer_config, producer_config)
        self._ledger = Ledger()
        self._delivery = self._make_delivery(producer_config)
        self._member = self._make_member(consumer_config)
        self._foresight = Foresight(transform.opener, self._member)
        # Partitions that went while records were read ahead.
        self._gone: set[Place] = set()
        self._safeguards = safeguards or Safeguards()
        self._lag = LagMeter(self._member.consumer, self._safeguards.admin)
        self._reached: Progress = {}
        self._passing = Passing(
            spec, transform, self._delivery, self._member, self._ledger, self._safeguards, observer, self._deliver_now
        )
        self._take: Take = trace(self._passing.take) if trace else self._passing.take
        self._routes = Routes(spec, {})
        self._failed: UnitFailed | None = None
        self._given_up = 0
        self._passed_at_turn = 0
        self._ready = False
        self._closing = False
        self._settled = False
        self._passed_at_commit = 0

    def _make_delivery(self, config: Mapping[str, Any]) -> Delivery:
        if "transactional.id" not in config:
            return Delivery(self._spec.name, config, self._observer, self._while_full)
        return Transactions(self._spec.name, config, self._observer, self._while_full, self._turn)

    def _make_member(self, config: Mapping[str, Any]) -> Membership:
        pace = None if self._spec.rate is None else Pace(self._spec.rate)
        return Membership(self._spec.name, config, self._delivery.on_commit, self._observer, self, pace)

    def run(self, stop: threading.Event, *, restarted: bool = False, steering: Steering | None = None) -> None:
        """Run until ``stop`` is set, then deliver and commit what was begun.

        Args:
            stop: Set it to end.
            restarted: Whether it ran before. A topic that has gone since holds its own partitions, not all others.
            steering: What an operator asks of it meanwhile.

        Raises:
            PipelineHalted: An operator must act.
            AccessRefused: One of them must add an ACL.
            ConnectionLost: Begin again with a new pipeline.
            StreamcryptError: The settings or the key service do not allow a start, or a record halts the pipeline.
        """
        self._steering = steering or self._steering
        try:
            self._run_through(stop, restarted=restarted)
        except AccessRefused as refused:
            error = explained(refused, self._spec, self._logins)
            self._observer(BrokerRefused(self._spec.name, *error.right, error.principal, error.cause, error.remedy))
            raise error from None

    def _run_through(self, stop: threading.Event, *, restarted: bool) -> None:
        self._stop = stop
        try:
            self._start(restarted=restarted)
            self._loop()
        except StopAsked:
            pass
        except UnitFailed as failure:
            topic = failure.target[0] if failure.target else ""
            raise from_kafka(failure.cause, f"pipeline {self._spec.name!r}", topic) from None
        except KafkaException as error:
            raise from_kafka(error, f"pipeline {self._spec.name!r}") from None
        finally:
            settled = self._close()
        if not settled:
            raise ConnectionLost(
                f"pipeline {self._spec.name!r}: the brokers did not take all records and offsets before the end; "
                "what they did not take will be read again"
            )

    def discard(self) -> None:
        """Close the clients of a pipeline that is not to run."""
        self._member.close()
        self._delivery.close()

    @property
    def passed(self) -> int:
        """How many records it handed to the producer."""
        return self._passing.passed

    @property
    def has_been_ready(self) -> bool:
        """Whether it ever was a member of its group, which it joins with a key at hand, however soon it fell out."""
        return self._member.joined

    def _start(self, *, restarted: bool) -> None:
        spec = self._spec
        self._observer(PipelineStarting(spec.name, spec.mode, spec.group, spec.kek_per_record))
        try:
            self._routes = Routes.discover(self._delivery.producer, self._spec)
        except KafkaException as error:
            raise self._no_answer(error) from None
        raise_refused(self._delivery.producer, self._spec.name, self._routes.unseen, _DISCOVERY_TIMEOUT)
        if not restarted:
            self._routes.check()
        self._passing.route(self._routes)
        if self._routes.sources:
            self._await_key(self._spec.target_of(self._routes.sources[0]))
        self._safeguards.begin(self._spec.name, self._routes.sources, self._observer)
        self._delivery.start()
        begin_at_latest(self._spec, self._member.consumer, self._routes)
        self._subscribe()

    def _no_answer(self, error: KafkaException) -> StreamcryptError:
        with suppress(KafkaException):
            # It hands over what went wrong underneath.
            self._delivery.producer.poll(0)
        lost = from_kafka(error, f"pipeline {self._spec.name!r}: no answer from {self._brokers}")
        trouble = telling(self._delivery.troubles)
        if not isinstance(lost, ConnectionLost) or not trouble:
            return lost
        told = ConnectionLost(f"{lost}: {trouble}", remedy=remedy_of(trouble))
        told.fatal = lost.fatal
        return told

    def _await_key(self, target: str) -> None:
        backoff, deadline = Backoff(0.2, 2.0), time.monotonic() + _FIRST_KEY
        cause: KeyUnavailable | None = None
        while True:
            try:
                self._transform.ready(target)
            except KeyUnavailable as error:
                # The first that names a key tells what went wrong; later ones may only say that it still does.
                cause = cause or (error if error.key_id else None)
                if time.monotonic() > deadline:
                    raise again(cause or error) from None
            else:
                return
            if self._stop.wait(backoff.next()):
                raise StopAsked

    def _loop(self) -> None:
        now = time.monotonic()
        interval = min(self._spec.commit_interval, self._delivery.longest)
        self._next_commit, self._next_discovery = now + interval, now + _DISCOVERY_INTERVAL
        while not self._stop.is_set():
            try:
                if self._steering.paused is not self._member.paused:
                    self._obey()
                self._pass_batch()
                self._delivery.producer.poll(0)
                self._delivery.raise_failure()
                now = time.monotonic()
                if self._passing.holds and not self._member.paused:
                    self._passing.try_holds(now)
                    self._look_sooner(now)
                if now >= self._next_commit:
                    committed = self._commit(_SETTLE)
                    self._next_commit = time.monotonic() + interval
                    self._tell_pause(committed)
            except UnitFailed as failure:
                self._give_up(failure)
            self._turn()
            if now >= self._next_discovery:
                self._next_discovery = now + _DISCOVERY_INTERVAL
                self._discover()

    def _obey(self) -> None:
        """Read nothing more, or go on, as an operator asks; what is in hand passes, and is committed at once."""
        if self._steering.paused:
            self._member.pause_all()
            self._next_commit = 0.0
            return
        self._member.resume_all(self._passing.holds)
        if self._paused_at is not None:
            self._observer(PipelineResumed(self._spec.name, time.monotonic() - self._paused_at))
            self._paused_at = None

    def _tell_pause(self, committed: bool) -> None:
        if self._member.paused and self._paused_at is None and committed and not self._member.ahead:
            self._paused_at = time.monotonic()
            self._observer(PipelinePaused(self._spec.name))

    def _look_sooner(self, now: float) -> None:
        """Look for topics soon where a record waits for one: it may only be younger than what we know."""
        if any(isinstance(hold.error, RouteProblem) for hold in self._passing.holds.values()):
            self._next_discovery = min(self._next_discovery, now + _LOOK_SOON)

    def _pass_batch(self) -> None:
        seconds = _FIRST_RECORD_WHILE_HOLDING if self._passing.holds else _FIRST_RECORD
        fetched = self._member.fetch(seconds, self._arrived)
        if self._foresight.is_needed and fetched:
            fetched = self._look_ahead(fetched)
        batch = deque(runs(fetched, self._member.only_topic))
        if self._failed is not None:
            failed, self._failed = self._failed, None
            self._still_in_hand(batch)
            raise failed
        try:
            while batch and not self._stop.is_set():
                place, messages = batch.popleft()
                self._take(place, messages)
                if batch and self._delivery.overdue:
                    self._deliver_now()
                # Each run may wait for a key; a batch has as many runs as partitions.
                self._turn()
        except BaseException:
            self._still_in_hand(batch)
            # Nor has the run that was under way come to its end.
            self._ledger.in_hand = True
            raise
        self._still_in_hand(batch)
        self._foresight.learn()

    def _look_ahead(self, fetched: Sequence[Any]) -> Sequence[Any]:
        """Have data keys unwrapped that will be needed: those of this batch, and of the next one meanwhile."""
        self._foresight.look(fetched)
        self._gone.clear()
        self._foresight.look(self._member.read_ahead())
        if not self._gone:
            return fetched
        # They may be ours again by now, and then they are read again.
        return [message for message in fetched if (message.topic(), message.partition()) not in self._gone]

    def _arrived(self) -> None:
        self._ledger.in_hand = True

    def _still_in_hand(self, batch: Collection[tuple[Place, Any]]) -> None:
        """Have what was fetched and not passed read again, should the unit be given up."""
        for place, messages in batch:
            hold = self._passing.holds.get(place)
            if hold is None:
                self._ledger.touch(place, messages[0].offset())
            else:
                # It goes on behind what it has in hand, and may be no part of the unit.
                hold.add(messages)
        self._ledger.in_hand = bool(batch)

    def _turn(self) -> None:
        now = time.monotonic()
        if now < self._next_turn:
            return
        self._next_turn = now + _TURN
        self._transform.idle()
        if self._passing.passed == self._passed_at_turn:
            collect_at_leisure()
        self._passed_at_turn = self._passing.passed
        self._observer(LoopTurned(self._spec.name, len(self._member.assigned), len(self._passing.holds)))
        self._tell_lag_and_keys()
        if self._member.joined and not self._ready:
            self._ready = True
            self._observer(PipelineReady(self._spec.name, len(self._member.assigned)))

    def _tell_lag_and_keys(self) -> None:
        reached = {place: offset for place, offset in self._reached.items() if place in self._member.assigned}
        lags = self._lag.measure({**self._member.began, **reached}, self._passing.held)
        if lags:
            self._observer(LagMeasured(self._spec.name, lags))
        for fact in self._transform.key_facts(self._spec.name):
            self._observer(fact)

    def _while_full(self) -> None:
        self._turn()
        if self._stop.is_set():
            raise StopAsked

    # -- units of work -------------------------------------------------------------------------------------------------

    def _commit(self, seconds: float, *, wait: bool = False) -> bool:
        in_hand = self._ledger.in_hand or self._member.ahead
        positions = {} if in_hand else self._member.positions()
        self._reached = offsets = self._ledger.offsets(self._member.assigned, self._passing.held, positions)
        records = self._passing.passed - self._passed_at_commit
        if not self._delivery.commit(self._member.consumer, offsets, records, seconds, wait=wait):
            return False
        self._passed_at_commit = self._passing.passed
        if self._ledger.firsts:
            self._given_up = 0
        self._ledger.committed()
        return True

    def _deliver_now(self) -> None:
        if not self._commit(_DELIVER):
            raise ConnectionLost(f"pipeline {self._spec.name!r}: the brokers took nothing for {_DELIVER:.0f} s")

    def _give_up(self, failure: UnitFailed) -> None:
        """Drop the unit, and read its records again under a new data key."""
        self._given_up += 1
        ends = {place: self._ledger.done.get(place, first) for place, first in self._ledger.firsts.items()}
        again = self._ledger.rewind()
        self._passing.passed = self._passed_at_commit
        failure = self._delivery.give_up(failure)
        self._transform.lost()
        blamed = blames_record(failure.cause)
        if self._given_up > _UNITS_GIVEN_UP or (operator_must_act(failure.cause) and not blamed):
            topic = failure.target[0] if failure.target else ""
            doing = f"pipeline {self._spec.name!r}: given up {self._given_up} times"
            raise from_kafka(failure.cause, doing, topic)
        if blamed:
            self._passing.suspect({place: end for place, end in ends.items() if self._may_go(place, failure.target)})
        self._passing.forget(list(again))
        self._member.seek(again)
        if self._stop.is_set():
            # What was fetched and is left to the next start is no part of the unit.
            self._ledger.in_hand = True
        elif not blamed:
            self._stop.wait(_BREATH * 2**self._given_up)

    def _may_go(self, place: Place, target: Place | None) -> bool:
        """Say whether a partition's records may go to this target; a dead letter may come from any."""
        if target is None or target[0] == self._spec.dead_letter:
            return True
        return self._spec.target_of(place[0]) == target[0] and (not self._spec.keep_partition or place[1] == target[1])

    def _close(self) -> bool:
        """Deliver, commit, leave the group; say whether everything passed on was delivered and committed."""
        self._closing = True
        # Without brokers both the commit and the farewell wait for longer than there is time, and in the middle of a
        # rebalance the farewell does.
        ending = threading.Thread(target=self._finish, name=f"finish-{self._spec.name}", daemon=True)
        ending.start()
        ending.join(_END)
        if not self._settled:
            self._transform.lost()
        return self._settled

    def _finish(self) -> None:
        try:
            self._await_join()
            self._settled = self._failed is None and self._commit_last()
        except (StreamcryptError, KafkaException, UnitFailed, StopAsked):
            # The error that ended the loop is on its way; nothing undelivered is committed.
            self._settled = False
        if not self._settled:
            # Readers would wait for an open transaction until it times out.
            with suppress(StreamcryptError, KafkaException, UnitFailed):
                self._delivery.give_up(ENDING)
        try:
            self._member.close()
            self._delivery.close()
        except KafkaException as error:
            cause = error.args[0]
            self._observer(KafkaClientError(self._spec.name, "consumer", cause.name(), cause.str()))

    def _commit_last(self) -> bool:
        drained = time.monotonic() + _DRAIN
        while not self._commit(max(0.1, drained - time.monotonic()), wait=True):
            # In the middle of a rebalance the group knows us by another generation than we do, for a moment.
            if time.monotonic() > drained:
                return False
            time.sleep(_COMMIT_PAUSE)
        return True

    def _await_join(self) -> None:
        deadline = time.monotonic() + _JOIN
        while self._member.subscribed and not self._member.joined and time.monotonic() < deadline:
            if self._member.consumer.poll(0.1) is not None:
                # It is left to the next start.
                self._ledger.in_hand = True

    # -- the consumer group --------------------------------------------------------------------------------------------

    def before_leaving(self, places: Collection[Place]) -> None:  # noqa: ARG002  a unit covers all partitions
        """Deliver and commit before partitions go; see :class:`streamcrypt.sidecar.membership.Upheaval`."""
        if self._closing:
            return
        try:
            self._commit(_DRAIN, wait=True)
        except UnitFailed as failure:
            self._failed = failure

    def after_losing(self, places: Collection[Place]) -> None:  # noqa: ARG002  a unit covers all partitions
        """Give the unit up: its offsets would be refused."""
        if self._delivery.must_not_wait and not self._closing:
            self._failed = UnitFailed(KafkaError(KafkaError._ASSIGNMENT_LOST))  # noqa: SLF001  a public code

    def forget(self, places: Collection[Place]) -> None:
        """Forget partitions that go; see :class:`streamcrypt.sidecar.membership.Upheaval`."""
        self._ledger.forget(places)
        self._gone.update(places)
        for place in places:
            if self._safeguards.evidence is not None:
                self._safeguards.evidence.forget(*place)
        if not self._closing:
            self._passing.forget(list(places))
        self._delivery.forget(places)

    def _subscribe(self) -> None:
        sources = self._routes.sources
        self._observer(SourcesChanged(self._spec.name, sources))
        if sources:
            self._member.subscribe(sources)

    def _discover(self) -> None:
        try:
            routes = Routes.discover(self._delivery.producer, self._spec, _DISCOVERY_TIMEOUT)
        except KafkaException as error:
            cause = error.args[0]
            self._observer(KafkaClientError(self._spec.name, "metadata", cause.name(), cause.str()))
            self._next_discovery = time.monotonic() + _ASK_AGAIN
            return
        self._observer(BrokersAnswered(self._spec.name))
        before, self._routes = self._routes, routes
        self._passing.route(routes)
        if routes.sources and routes.sources != before.sources:
            self._subscribe()
