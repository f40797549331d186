"""Records that were fetched and have not passed: no commit may cover them, and none may leave out what has passed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

import streamcrypt as sc
from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import PlaintextPassed, RecordFailed, ignore_events
from streamcrypt.sidecar.cutover import Cutover, TopicCutover
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.ledger import Ledger, Place
from streamcrypt.sidecar.membership import Membership
from streamcrypt.sidecar.passing import Passing
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spec import Mode, PipelineSpec
from streamcrypt.sidecar.topics import Routes
from streamcrypt.sidecar.transform import AS_IT_IS, Open
from streamcrypt.testing import CollectingObserver

NO_BROKER = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
A, B = ("a", 0), ("b", 0)


class NoUpheaval:
    """Nothing was begun."""

    def before_leaving(self, places: Any) -> None: ...
    def after_losing(self, places: Any) -> None: ...
    def forget(self, places: Any) -> None: ...


class Scripted:
    """A consumer that has these records, and in the middle of whose next batch partitions may go."""

    def __init__(self, batches: Sequence[Sequence[Message]]) -> None:
        self.batches = [list(batch) for batch in batches]
        self.meanwhile: Any = lambda: None

    def poll(self, _seconds: float) -> Message | None:
        return self.batches[0].pop(0) if self.batches else None

    def consume(self, _most: int, _seconds: float) -> list[Message]:
        self.meanwhile()
        return self.batches.pop(0)

    def unassign(self) -> None: ...


def message(place: Place, offset: int) -> Message:
    return Message(topic=place[0], partition=place[1], offset=offset, value=b"v", timestamp=(1, 1))


@pytest.fixture
def member() -> Iterator[Membership]:
    made = Membership("p", {**NO_BROKER, "group.id": "g"}, lambda *_: None, ignore_events, NoUpheaval())
    client = made.consumer
    yield made
    client.close()


def test_records_read_ahead_are_in_hand_from_the_moment_that_they_are_fetched(member: Membership) -> None:
    """The client's position is behind them already: a rebalance while more is read ahead would commit it."""
    told: list[bool] = []
    member.assigned = {A}
    member.consumer = Scripted([[message(A, 7)]])  # type: ignore[assignment]
    member.read_ahead()
    assert [one.offset() for one in member.fetch(0.0, lambda: told.append(bool(member.ahead)))] == [7]
    assert told == [True]


def test_a_record_whose_partition_goes_during_the_read_is_no_part_of_the_batch(member: Membership) -> None:
    """It would pass as one of the topic that is left, and again where the partition comes back."""
    member.assigned = {A, B}
    script = member.consumer = Scripted([[message(A, 7), message(B, 3)]])  # type: ignore[assignment]

    def leave() -> None:
        member._let_go(script, [TopicPartition(*A)])  # type: ignore[arg-type]

    script.meanwhile = leave
    assert [(one.topic(), one.offset()) for one in member.read_ahead()] == [("b", 3)]
    assert member.only_topic == "b"


def test_what_is_read_ahead_comes_in_usual_batches_and_goes_with_its_partition(member: Membership) -> None:
    """A second read may bring the rebalance that takes back what the first one brought."""
    member.assigned, member.reach = {A, B}, 3
    script = member.consumer = Scripted([[message(A, 7), message(B, 3)], [message(A, 8)], [message(B, 4)]])  # type: ignore[assignment]
    member.read_ahead()
    assert member.ahead == 3
    assert [one.offset() for one in member.fetch(0.0, lambda: None)] == [7, 3]
    member._let_go(script, [TopicPartition(*A)])  # type: ignore[arg-type]
    assert member.ahead == 1
    assert [(one.topic(), one.offset()) for one in member.fetch(0.0, lambda: None)] == [("b", 4)]
    assert not member.ahead


class Plain:
    """Passes everything as it is."""

    growth = 0

    def work(self, *_where: Any) -> Any:
        return AS_IT_IS

    def lost(self) -> None: ...


class Overdue(Delivery):
    """A delivery that wants a commit before each block of records."""

    overdue = True


def test_a_commit_while_held_records_are_tried_covers_those_that_passed_with_it(member: Membership) -> None:
    """In a transaction: with the offset of the first one, they would be there twice after a crash."""
    committed: list[int] = []
    ledger, delivery = Ledger(), Overdue("p", NO_BROKER, ignore_events, lambda: None)
    spec = PipelineSpec("p", Mode.DECRYPT, "g", ("a",), "plain")

    def commit() -> None:
        committed.append(ledger.offsets(member.assigned, passing.held, {})[A])

    passing = Passing(spec, Plain(), delivery, member, ledger, Safeguards(), ignore_events, commit)  # type: ignore[arg-type]
    passing.route(Routes(spec, {"a": 1, "plain": 1}))
    member.assigned = {A}
    member.consumer.assign([TopicPartition(*A, 0)])
    try:
        passing._hold(A, [message(A, offset) for offset in range(600)], KeyUnavailable("away"))
        assert passing.held == {A: 0}
        passing.try_holds(time.monotonic() + 60)
        # Never before what passed, and never past it.
        assert committed == [250, 500]
        assert not passing.holds
    finally:
        delivery.close()


@pytest.mark.parametrize("way", ["at once", "held before", "a broker refuses one"])
@pytest.mark.parametrize("order", ["sbsb", "ssbb", "bsbs", "bbss", "sbbs"])
def test_bare_records_below_the_cut_over_pass_wherever_they_stand_among_sealed_ones(
    member: Membership, order: str, way: str
) -> None:
    """Producers are replaced one by one: old and new ones write side by side."""
    keys, seen, ledger = sc.LocalKeyProvider.generate(), CollectingObserver(), Ledger()
    sealer, opener = sc.Encryptor(keys), sc.Decryptor(keys)
    spec = PipelineSpec("p", Mode.DECRYPT, "g", ("a",), "plain")
    delivery = Delivery("p", NO_BROKER, ignore_events, lambda: None)
    safeguards = Safeguards(cutover=Cutover({"a": TopicCutover("id", {0: len(order)})}))
    passing = Passing(spec, Open(opener), delivery, member, ledger, safeguards, seen, lambda: None)
    passing.route(Routes(spec, {"a": 1, "plain": 1}))
    member.assigned = {A}
    member.consumer.assign([TopicPartition(*A, 0)])
    batch: list[Message] = []
    for offset, kind in enumerate(order):
        value, headers = sealer.encrypt("a", b"v") if kind == "s" else (b"v", None)
        sent: Any = headers
        batch.append(Message(topic="a", partition=0, offset=offset, value=value, headers=sent, timestamp=(1, 1)))
    try:
        if way == "held before":
            passing._hold(A, batch, KeyUnavailable("away"))
            passing.try_holds(time.monotonic() + 60)
        else:
            passing.suspect({A: len(order)} if way == "a broker refuses one" else {})
            passing.take(A, batch)
        assert ledger.done == {A: len(order)}
        assert (passing.passed, passing.holds, seen.of(RecordFailed)) == (len(order), {}, [])
        assert sum(event.records for event in seen.of(PlaintextPassed)) == order.count("b")
    finally:
        delivery.close()
