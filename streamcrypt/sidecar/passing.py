"""Records on their way through one pipeline: transform, hand over, or wait, or be set aside.

Rule 1: a partition's records pass in order. One that has to wait holds its partition, and no other.
Rule 2: nothing is looked up per record that stays the same for a run of records of one partition.
Rule 3: nothing waits for the key service while a transaction is open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from streamcrypt.clients.headers import UNREADABLE, headers_of, unreadable
from streamcrypt.errors import KeyServiceError, PlaintextRejected, RecordTooLarge, StreamcryptError, again
from streamcrypt.events import BatchDone, Observer, PartitionPaused, PartitionResumed, PlaintextPassed, RecordFailed
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.failures import (
    ConnectionLost,
    PipelineHalted,
    UnitFailed,
    Verdict,
    blames_record,
    from_kafka,
    refused,
    verdict,
)
from streamcrypt.sidecar.fetched import Block, Fetched
from streamcrypt.sidecar.holds import Gate, Hold
from streamcrypt.sidecar.ledger import Ledger, Place, Progress
from streamcrypt.sidecar.membership import Membership
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spec import Mode, PipelineSpec
from streamcrypt.sidecar.topics import RouteProblem, Routes
from streamcrypt.sidecar.transform import AS_IT_IS, PartitionWork, Transform

__all__ = ["Passing", "Take"]

Take = Callable[[Place, Sequence[Any]], None]
"""Passes a run of records of one partition: :meth:`Passing.take`."""

_BLOCK = 250
# After a record that fails: what is taken out of its neighbours' messages may be taken out again.
_BLOCK_AFTER_FAILURE = 64
_PARTITION_BY_KEY = -1
_NOW = 0
# Of records of which a broker refuses one: few enough at first, fewer until the one is alone.
_SUSPECTS_TOGETHER = 32
_FEWER = 4
# Probing what waits must not keep the loop from its consumer group.
_PROBING = 0.5


class Passing:
    """Passes records on, partition by partition.

    Args:
        spec: What the pipeline does.
        transform: Seals or opens.
        delivery: Where records go.
        member: Where they come from; partitions are paused and resumed there.
        ledger: Told how far each partition has come.
        safeguards: The pipeline's policies besides sealing and opening.
        observer: Told of batches, pauses and failures.
        commit: Delivers and commits what was begun, before something else is waited for.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        transform: Transform,
        delivery: Delivery,
        member: Membership,
        ledger: Ledger,
        safeguards: Safeguards,
        observer: Observer,
        commit: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._transform = transform
        self._delivery = delivery
        self._member = member
        self._ledger = ledger
        self._safeguards = safeguards
        self._letters = safeguards.letters
        self._evidence = safeguards.evidence
        self._observer = observer
        self._commit = commit
        self._routes = Routes(spec, {})
        self._work: dict[Place, tuple[PartitionWork, str, int]] = {}
        self._suspects: Progress = {}
        self._together = _SUSPECTS_TOGETHER
        self._block = _BLOCK
        self._tally = _Tally()
        self.holds: dict[Place, Hold] = {}
        self.passed = 0

    def route(self, routes: Routes) -> None:
        """Take a new look at the cluster; partitions that wait for a target are tried at once."""
        self._routes = routes
        self._work.clear()
        for hold in self.holds.values():
            if isinstance(hold.error, RouteProblem):
                hold.due = 0.0

    @property
    def held(self) -> Progress:
        """The offset of the oldest record in hand, for every partition that waits."""
        return {place: hold.oldest for place, hold in self.holds.items()}

    def take(self, place: Place, messages: Sequence[Any]) -> None:
        """Pass a run of records of one partition, as far as they go; the others wait in hand.

        Raises:
            PipelineHalted: A record may not be passed over.
            UnitFailed: The unit must be given up.
            ConnectionLost: Begin again.
        """
        if place not in self._member.assigned or not messages:
            return  # it went to another member between two fetches, and with it these records
        try:
            self._take(place, messages)
        except UnitFailed:
            # The unit may have begun anew since the first of them.
            self._ledger.not_passed(place, messages[0].offset())
            raise
        finally:
            self._tell(place)

    def _take(self, place: Place, messages: Sequence[Any]) -> None:
        hold = self.holds.get(place)
        if hold is not None:
            hold.add(messages)
            return
        if self.holds and (shut := self._shut(place)) is not None:
            self._hold(place, messages, again(shut))
            return
        fetched, at = Fetched(messages), 0
        while at < len(messages):
            if self._is_suspect(place, messages[at]):
                going_on, done = self._pass_warily(place, messages[at:])
                if not going_on:
                    return
                at += done
                continue
            bare = self._safeguards.bare_ahead(*place, messages, at)
            end, work_instead = (at + bare, AS_IT_IS) if bare else (len(messages), None)
            passed, error = self._pass(place, fetched, at, end, work_instead)
            at += passed
            if bare and passed:
                self._observer(PlaintextPassed(self._spec.name, *place, messages[at - 1].offset(), passed))
            if error is not None:
                if not self._deal_with(place, messages, at, error):
                    return
                at += 1

    def suspect(self, places: Progress) -> None:
        """Have the records below these offsets pass few by few and at last alone: a broker refuses one of them."""
        self._suspects.update(places)

    def forget(self, places: Sequence[Place]) -> None:
        """Forget partitions that went elsewhere, or whose records will be read again."""
        for place in places:
            if self.holds.pop(place, None) is not None:
                # A pause outlives the assignment: the partition would come back one day and stay silent.
                self._member.resume(place)

    # -- passing -----------------------------------------------------------------------------------------------------

    def _pass(
        self, place: Place, fetched: Fetched, at: int, end: int, work_instead: PartitionWork | None = None
    ) -> tuple[int, StreamcryptError | None]:
        """Pass the records from ``at`` to before ``end`` in order; say how many passed, and what the next failed of.

        It stops without a failure before one that may pass as it is, which the caller then has pass so.
        """
        started, messages = time.perf_counter(), fetched.messages
        failure: StreamcryptError | None = None
        passed_before = self._tally.passed
        # What passes as it is does not grow or shrink.
        growth = 0 if work_instead else self._transform.growth
        try:
            work, target, partition = self._work_of(place)
            work = work_instead or work
            self._ledger.touch(place, messages[at].offset())
            self._delivery.begin()
            start, block = at, self._block
            while start < end:
                if start > at and self._delivery.overdue:
                    # Every record may have cost a call to the key service.
                    self._note_passed(place, messages[start - 1], start - at)
                    self._commit()
                    self._ledger.touch(place, messages[start].offset())
                    self._delivery.begin()
                asked = min(block, end - start)
                done = self._pass_block(place, fetched.block(start, start + asked), work, target, partition, growth)
                start += done
                # Stopped short: the next one fails, most likely, and has to be met by itself.
                block = 1 if done < asked else min(max(2 * block, _BLOCK_AFTER_FAILURE), _BLOCK)
            self._block = block
        except (ConnectionLost, PipelineHalted):
            raise
        except StreamcryptError as error:
            # Its traceback holds this frame, which holds it and all records in hand: the collector alone frees that.
            failure = error.with_traceback(None)
        except KafkaException as error:
            failure = self._not_produced(error, place)
        finally:
            passed = self._tally.passed - passed_before
            if passed:
                self._note_passed(place, messages[at + passed - 1], passed)
            self._tally.seconds += time.perf_counter() - started
        if failure is not None:
            self._block = _BLOCK_AFTER_FAILURE
        self.passed += passed
        if work_instead is None and isinstance(failure, PlaintextRejected):
            next_one = (messages[at + passed],)
            failure = None if self._safeguards.bare_ahead(*place, next_one) else failure
        return passed, failure

    def _note_passed(self, place: Place, last: Any, passed: int) -> None:
        self._ledger.passed(place, last.offset() + 1)
        if (hold := self.holds.get(place)) is not None:
            # A commit of what passed with the offset of what waited would have it twice, should we die then.
            hold.passed = passed

    def _tell(self, place: Place) -> None:
        """Tell what came of a run of records: once, however often it stopped at a record that fails."""
        tally, self._tally = self._tally, _Tally()
        if tally.passed:
            counts = (tally.passed, tally.bytes_in, tally.bytes_out, tally.tombstones)
            times = (tally.seconds, tally.transform_seconds)
            self._observer(BatchDone(self._spec.name, place[0], *counts, *times, tally.as_it_is))

    def _pass_block(
        self, place: Place, block: Block, work: PartitionWork, target: str, partition: int, growth: int
    ) -> int:
        """Pass a block of records, or as many of its first ones as can be done at once; say how many."""
        messages, values, keys, headers = block
        # One alone is met by itself: what it fails of is then looked for once.
        began = time.perf_counter()
        transformed = work.block(values, keys, headers) if len(values) > 1 else None
        if transformed and work is not AS_IT_IS:
            self._tally.transform_seconds += time.perf_counter() - began
        done = len(transformed[0]) if transformed else 0
        if done < len(messages) and done:
            # The next one does not open: those before it go first, and it is then met by itself.
            messages, values, keys, headers = block = block.first(done)
        if done and self._evidence and self._evidence.look(*place, messages, values, headers):
            done = 0
        stamps = map(Message.timestamp, messages)
        sent: Iterable[tuple[Any, bytes | None, bytes | None, Any]]
        if done and transformed:
            sent = zip(stamps, keys, *transformed, strict=True)
        else:
            sent = self._one_by_one(place, block, work)
        # Any: confluent-kafka's stubs want header lists that may hold text, and lists are invariant.
        produce: Any = self._delivery.producer.produce
        passed = 0
        try:
            for (kind, timestamp), key, value, pairs in sent:
                sent_at = timestamp if kind else 0
                try:
                    produce(target, value, key, partition, None, None, sent_at, pairs)
                except BufferError:
                    self._delivery.offer_again(target, value, key, partition, None, None, sent_at, pairs)
                passed += 1
        finally:
            self._tally.note(values[:passed], growth)
            self._tally.as_it_is += passed if work is AS_IT_IS else 0
        return passed

    def _one_by_one(
        self, place: Place, block: Block, work: PartitionWork
    ) -> Iterator[tuple[Any, bytes | None, bytes | None, Any]]:
        for message, value, key, headers in zip(*block, strict=True):
            sent = work.one(value, key, headers)
            if self._evidence:
                violated = self._evidence.look(*place, [message], [value], [headers])
                if violated is not None:
                    raise violated
            yield message.timestamp(), key, *sent

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
        self._delivery.not_produced(error.args[0])
        doing = f"pipeline {self._spec.name!r}: produce from {place[0]!r}"
        raise from_kafka(error, doing, self._spec.target_of(place[0])) from None

    def _is_suspect(self, place: Place, message: Any) -> bool:
        end = self._suspects.get(place)
        if end is None:
            return False
        if message.offset() >= end:
            del self._suspects[place]
            return False
        return True

    def _pass_warily(self, place: Place, messages: Sequence[Any]) -> tuple[bool, int]:
        """Pass the first few of these records in a unit of their own, and the one that a broker refuses alone.

        Returns:
            Whether the others may follow, and how many are done.
        """
        self._commit()
        few = Fetched(messages[: self._together])
        bare = self._safeguards.bare_ahead(*place, few.messages)
        passed, error = self._pass(place, few, 0, bare or len(few), AS_IT_IS if bare else None)
        refusal = self._refusal(passed)
        if refusal is not None and passed > 1:
            self._together = max(1, passed // _FEWER)
            return True, 0
        self._together = min(_SUSPECTS_TOGETHER, 2 * self._together)
        if refusal is not None:
            passed, error = 0, refusal
        if bare and passed:
            self._observer(PlaintextPassed(self._spec.name, *place, messages[passed - 1].offset(), passed))
        if error is None:
            return True, passed
        going_on = self._deal_with(place, messages, passed, error)
        worse = self._refusal(0)
        if worse is not None:
            raise self._halted(place, messages[passed], f"its dead letter is refused: {worse}", worse.remedy)
        return going_on, passed + 1

    def _refusal(self, records: int) -> StreamcryptError | None:
        """Deliver and commit; give the failure of a record in the unit, where a broker refuses one of these."""
        try:
            self._commit()
        except UnitFailed as failure:
            self._ledger.rewind()
            self._ledger.in_hand = True
            self.passed -= records
            explained = self._delivery.give_up(failure)
            self._transform.lost()
            if not blames_record(explained.cause):
                raise explained from None
            return refused(explained.cause)
        return None

    # -- what cannot pass ----------------------------------------------------------------------------------------------

    def _deal_with(self, place: Place, messages: Sequence[Any], at: int, error: StreamcryptError) -> bool:
        """Do what the policy says of the record ``at`` this place; say whether the others may follow."""
        message = messages[at]
        if headers_of(message) is UNREADABLE:
            error = unreadable()
        decision = verdict(error, self._spec.on_failure)
        if decision is Verdict.DEAD_LETTER:
            try:
                self._bury(place, message, error)
            except KeyServiceError as away:
                error, decision = away.with_traceback(None), Verdict.WAIT
        if decision is Verdict.WAIT:
            self._hold(place, messages[at:], error)
            if self._delivery.must_not_wait:
                self._commit()
            return False
        kind, detail, action = type(error).__name__, str(error), decision.name.lower()
        self._observer(RecordFailed(self._spec.name, *place, message.offset(), kind, detail, action))
        if decision is Verdict.HALT:
            raise self._halted(place, message, f"{kind}: {detail}", error.remedy)
        self._ledger.touch(place, message.offset())
        self._ledger.passed(place, message.offset() + 1)
        return True

    def _bury(self, place: Place, message: Any, error: StreamcryptError) -> None:
        """Hand over the dead letter of a record, in the same unit as its neighbours.

        Raises:
            KeyUnavailable, KeyRefused: It has to be sealed and no data key is at hand.
            PipelineHalted: It cannot be written.
        """
        if self._letters is None:
            raise self._halted(place, message, "there is no dead-letter topic", "")
        headers = headers_of(message)
        # What cannot be read cannot be kept.
        record = (message.value(), message.key(), None if headers is UNREADABLE else headers)
        kind, timestamp = message.timestamp()
        self._ledger.touch(place, message.offset())
        try:
            letter = self._letters.letter(place, message.offset(), record, timestamp if kind else 0, error)
        except KeyServiceError:
            raise
        except StreamcryptError as cause:
            raise self._halted(place, message, f"its dead letter cannot be sealed: {cause}", cause.remedy) from None
        fields: tuple[Any, ...] = (letter.value, message.key(), _PARTITION_BY_KEY, None, None, _NOW, letter.headers)
        produce: Any = self._delivery.producer.produce
        self._delivery.begin()
        try:
            try:
                produce(self._letters.topic, *fields)
            except BufferError:
                self._delivery.offer_again(self._letters.topic, *fields)
        except KafkaException as cause:
            self._transform.lost()
            self._delivery.not_produced(cause.args[0])
            if cause.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                doing = f"pipeline {self._spec.name!r}: produce a dead letter"
                raise from_kafka(cause, doing, self._spec.dead_letter) from None
            raise self._halted(place, message, f"its dead letter does not fit: {cause.args[0].str()}", "") from None

    def _halted(self, place: Place, message: Any, why: str, remedy: str) -> PipelineHalted:
        at = f"{place[0]}[{place[1]}] offset {message.offset()}"
        return PipelineHalted(f"pipeline {self._spec.name!r} halts at {at}: {why}", remedy=remedy)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _hold(self, place: Place, messages: Sequence[Any], error: StreamcryptError) -> None:
        self._member.pause(place)
        hold = Hold(error)
        hold.add(messages)
        self.holds[place] = hold
        hold.join(self.holds.values())
        self._tell_of_pause(place, hold)

    def _tell_of_pause(self, place: Place, hold: Hold) -> None:
        error = hold.error
        why = (type(error).__name__, str(error), error.remedy, error.request_id)
        self._observer(PartitionPaused(self._spec.name, *place, hold.oldest, *why))

    def _shut(self, place: Place) -> StreamcryptError | None:
        """Give why a record of ``place`` need not even be tried: its target has no data key to seal with.

        Opening is tried always: its data key may be at hand though that of another partition is not.
        """
        if self._spec.mode is not Mode.ENCRYPT or self._spec.kek_per_record:
            return None
        target = self._spec.target_of(place[0])
        for (source, _), hold in self.holds.items():
            if isinstance(hold.error, KeyServiceError) and self._spec.target_of(source) == target:
                return hold.error
        return None

    def try_holds(self, now: float) -> None:
        """Try again the partitions whose pause is over.

        Raises:
            PipelineHalted, UnitFailed, ConnectionLost: As :meth:`take`.
        """
        for place, hold in list(self.holds.items()):
            if now < hold.due or place not in self.holds:
                continue
            if time.monotonic() - now > _PROBING:
                return
            # Another one comes first next time.
            self.holds[place] = self.holds.pop(place)
            # The client's position is ahead of what a hold has in hand.
            in_hand, self._ledger.in_hand = self._ledger.in_hand, True
            try:
                self._try(place, hold, now)
            finally:
                self._tell(place)
            self._ledger.in_hand = in_hand

    def _try(self, place: Place, hold: Hold, now: float) -> None:
        gate, messages = hold.gate, list(hold.messages)
        passed, error = self._pass(place, Fetched(messages), 0, len(messages))
        hold.drop_passed()
        if error is None and passed == len(messages):
            del self.holds[place]
            self._go_on(place, hold, now)
            self._release(gate)
        elif error is not None and verdict(error, self._spec.on_failure) is Verdict.WAIT:
            told = type(hold.error)
            hold.failed_again(error, moved=passed > 0, others=self.holds.values())
            if type(error) is not told:
                # It was away and now refuses: who is asked for help is another, and must be told of it.
                self._tell_of_pause(place, hold)
            if self._delivery.must_not_wait:
                self._commit()
        else:
            del self.holds[place]
            if error is None:
                self.take(place, messages[passed:])
            elif self._deal_with(place, messages, passed, error):
                self.take(place, messages[passed + 1 :])
            if place in self.holds:
                self.holds[place].take_over(hold)
            else:
                self._go_on(place, hold, now)

    def _go_on(self, place: Place, hold: Hold, now: float) -> None:
        if hold.fetch_from is not None:
            self._ledger.moved_back(place)
            self._member.seek({place: hold.fetch_from})
        self._member.resume(place)
        self._observer(PartitionResumed(self._spec.name, *place, now - hold.since))

    def _release(self, gate: Gate | None) -> None:
        """Let all that wait at a gate be tried at once."""
        for hold in self.holds.values():
            if gate is not None and hold.gate == gate:
                hold.due = 0.0


@dataclass(slots=True)
class _Tally:
    """What came of a run of records of one partition."""

    passed: int = 0
    tombstones: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    transform_seconds: float = 0.0
    as_it_is: int = 0

    def note(self, values: Sequence[bytes | None], growth: int) -> None:
        """Count records that were passed, whose values grew by ``growth`` bytes each."""
        tombstones = values.count(None)
        size = sum(map(len, filter(None, values)))
        self.passed += len(values)
        self.tombstones += tombstones
        self.bytes_in += size
        self.bytes_out += size + growth * (len(values) - tombstones)
