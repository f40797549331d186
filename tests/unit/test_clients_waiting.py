"""The decrypting consumer while the key service is away: the partition waits, nothing moves on, others do."""

from __future__ import annotations

import gc
import weakref
from time import monotonic

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from streamcrypt import (
    AuthenticationFailed,
    DecryptingConsumer,
    Decryptor,
    Encryptor,
    KeyRefused,
    KeyUnavailable,
    RotationPolicy,
    failure_of,
)
from streamcrypt.events import PartitionPaused, PartitionResumed
from streamcrypt.testing import ManualClock
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.unit.test_clients_consumer import Reading, _read, both_ways
from tests.wrapping import eventually, take

AWAY = KeyUnavailable("KMS is away", operation="Decrypt")


class Waiting(Reading):
    """A topic in whose partition 0 the fourth record needs a data key that the key service does not give."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(bootstrap)
        self.script = ScriptedKeyProvider(self.keys)
        self.decryptor = Decryptor(self.script, observer=self.seen)
        self.clock = ManualClock()
        self.told: list[KafkaError] = []

    def consumer(self, kind=DecryptingConsumer, **options) -> Consumer:
        """Makes a consumer on the manual clock, whose error_cb collects."""
        if kind is DecryptingConsumer:
            options = {"clock": self.clock, **options}
            options["config"] = {"error_cb": self.told.append, **options.get("config", {})}
        return super().consumer(kind, **options)

    def write_two_keys(self) -> None:
        """Partition 0: three records under the first data key, three under the second. Partition 1: five, the first."""
        self.write(*(self.sealed(b"0.%d" % n) for n in range(3)), *(self.sealed(b"1.0", partition=1) for _ in range(5)))
        self.encryptor.retire(self.topic, "failure")
        self.write(*(self.sealed(b"0.%d" % n) for n in range(3, 6)))

    def go_away(self, error=AWAY) -> None:
        """Let the key service fail once the first data key is at hand."""
        self.script.script(DECRYPT, None)
        self.script.away(DECRYPT, error)

    def come_back(self) -> None:
        """Let the key service answer, and every wait be due."""
        self.script.back(DECRYPT)
        self.clock.advance(11)

    def place(self, offset=-1001) -> TopicPartition:
        """Gives partition 0 at an offset."""
        return TopicPartition(self.topic, 0, offset)

    def paused(self) -> list[tuple[int, int]]:
        """Gives partition and offset of each pause told."""
        return [(event.partition, event.offset) for event in self.seen.of(PartitionPaused)]


@pytest.fixture
def waiting(mock_cluster):
    """Ends with every consumer closed."""
    made = Waiting(mock_cluster)
    made.write_two_keys()
    yield made
    made.close()


def _values(messages, partition=0) -> list[bytes]:
    return [message.value() for message in messages if message.partition() == partition]


@both_ways
def test_the_partition_waits_at_the_record_and_the_others_go_on(waiting, how) -> None:
    """Nothing past the record is handed over, stored or committed; it goes on by itself, and nothing is lost."""
    waiting.go_away()
    consumer = waiting.consumer(config={"enable.auto.commit": True, "auto.commit.interval.ms": 20})
    before = _read(consumer, 8, how)
    assert (_values(before), len(_values(before, 1))) == ([b"0.0", b"0.1", b"0.2"], 5)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    assert waiting.paused() == [(0, 3)]
    waiting.write(waiting.sealed(b"0.6"), *({**waiting.sealed(b"1", partition=1), "value": None, "headers": None},))
    assert take(consumer, 1)[0].partition() == 1, "partition 1 goes on"
    eventually(lambda: consumer.poll(0.02) or waiting.committed(consumer)[:2] == [3, 6], "what was handed over")
    assert consumer.position(waiting.places())[0].offset == 3
    waiting.come_back()
    assert _values(_read(consumer, 4, how)) == [b"0.3", b"0.4", b"0.5", b"0.6"]
    assert [event.partition for event in waiting.seen.of(PartitionResumed)] == [0]
    assert waiting.seen.of(PartitionResumed)[0].seconds == 11.0
    eventually(lambda: consumer.poll(0.02) or waiting.committed(consumer)[0] == 7, "the rest")


@pytest.mark.parametrize("error", [AWAY, KeyRefused("denied", key_id="arn", remedy="Grant kms:Decrypt.")])
def test_it_is_told_once_however_often_it_is_tried(waiting, error) -> None:
    """By error_cb and by an event, refusals too."""
    waiting.go_away(error)
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    for _ in range(5):
        waiting.clock.advance(11)
        consumer.poll(0.01)
    asked = waiting.script.count(DECRYPT)
    consumer.poll(0.01)
    consumer.poll(0.01)
    assert waiting.script.count(DECRYPT) == asked, "not before it is due"
    assert asked >= 6
    [told] = waiting.told
    assert told.code() == KafkaError._VALUE_DESERIALIZATION
    assert told.retriable() is error.retriable
    assert type(failure_of(told)) is type(error)
    [event] = waiting.seen.of(PartitionPaused)
    assert (event.pipeline, event.error, event.detail, event.remedy) == (
        waiting.group,
        type(error).__name__,
        str(error),
        error.remedy,
    )
    waiting.come_back()
    assert _values(take(consumer, 3)) == [b"0.3", b"0.4", b"0.5"]


def test_no_record_is_read_from_the_broker_to_try_again(waiting) -> None:
    """The sealed record is kept, so that an outage does not fetch the topic over and over."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    assert consumer.position(waiting.places())[0].offset == 3
    assert Consumer.position(consumer, waiting.places())[0].offset == -1001, "sought, and nothing read since"
    for _ in range(3):
        waiting.clock.advance(11)
        consumer.poll(0.01)
    assert Consumer.position(consumer, waiting.places())[0].offset == -1001


def test_consume_without_a_timeout_waits_until_the_key_service_is_back(waiting) -> None:
    """As the base class waits: for as many records as were asked for."""
    waiting.go_away()
    waiting.script.on_call = lambda _call: waiting.script.count(DECRYPT) == 4 and waiting.script.back(DECRYPT)
    consumer = waiting.consumer(clock=monotonic)
    messages = consumer.consume(11)
    assert _values(messages) == [b"0.%d" % n for n in range(6)]
    assert len(messages) == 11


def test_poll_without_a_timeout_waits_until_the_key_service_is_back(waiting) -> None:
    """None would be a surprise to an application that gave no timeout."""
    waiting.go_away()
    waiting.script.on_call = lambda _call: waiting.script.count(DECRYPT) == 3 and waiting.script.back(DECRYPT)
    consumer = waiting.consumer(clock=monotonic)
    messages = [consumer.poll() for _ in range(11)]
    assert _values(messages) == [b"0.%d" % n for n in range(6)]


def test_a_record_at_fault_after_all_is_handed_over_as_such(waiting) -> None:
    """The key service came back and said so."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    waiting.script.away(DECRYPT, AuthenticationFailed("KMS: InvalidCiphertext"))
    waiting.clock.advance(11)
    failures = take(consumer, 3)
    assert [message.offset() for message in failures] == [3, 4, 5]
    assert {type(failure_of(message)) for message in failures} == {AuthenticationFailed}


def test_the_application_stores_offsets_itself_and_they_survive_our_seek(waiting) -> None:
    """seek() makes librdkafka forget the stored offset."""
    waiting.go_away()
    consumer = waiting.consumer(config={"enable.auto.offset.store": False})
    for message in _read(consumer, 8, "poll"):
        consumer.store_offsets(message)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    consumer.commit(asynchronous=False)
    assert waiting.committed(consumer)[:2] == [3, 5]


def test_a_partition_that_the_user_paused_stays_paused(waiting) -> None:
    """The wait ends without resuming it; the user's resume() does."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    consumer.pause([waiting.place()])
    waiting.come_back()
    consumer.poll(0.01)
    assert len(waiting.seen.of(PartitionResumed)) == 1
    assert consumer.poll(0.3) is None
    consumer.resume([waiting.place()])
    assert _values(take(consumer, 3)) == [b"0.3", b"0.4", b"0.5"]


def test_the_users_resume_does_not_end_a_wait(waiting) -> None:
    """The key service is not back because of it."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    asked = waiting.script.count(DECRYPT)
    consumer.resume([waiting.place()])
    consumer.pause([waiting.place()])
    consumer.resume(waiting.places())
    assert consumer.poll(0.2) is None
    assert waiting.script.count(DECRYPT) == asked
    waiting.come_back()
    assert _values(take(consumer, 3)) == [b"0.3", b"0.4", b"0.5"]


def test_seek_ends_a_wait(waiting) -> None:
    """The user chose another place."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    consumer.seek(waiting.place(1))
    assert _values(take(consumer, 2)) == [b"0.1", b"0.2"]
    eventually(lambda: consumer.poll(0.02) or len(waiting.paused()) == 2, "the next pause")
    assert waiting.paused() == [(0, 3), (0, 3)]


@pytest.mark.parametrize("again", ["assign", "unassign", "incremental"])
def test_a_new_assignment_ends_a_wait(waiting, again) -> None:
    """Else librdkafka would keep the partition paused."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    if again == "incremental":
        consumer.incremental_unassign([waiting.place()])
        consumer.incremental_assign([waiting.place(0)])
    else:
        if again == "unassign":
            consumer.unassign()
            assert consumer.poll(0) is None
        consumer.assign([waiting.place(0)])
    assert _values(take(consumer, 3)) == [b"0.0", b"0.1", b"0.2"]


def test_a_revocation_ends_a_wait_and_commits_what_was_handed_over(waiting) -> None:
    """Else librdkafka would keep the partition paused for whoever gets it back here."""
    waiting.go_away()
    consumer = waiting.consumer(start=False, config={"enable.auto.commit": True})
    consumer.subscribe([waiting.topic])
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    consumer.unsubscribe()
    eventually(lambda: consumer.poll(0.05) or not consumer.assignment(), "the revocation")
    assert waiting.committed(consumer)[:2] == [3, 5]
    waiting.come_back()
    consumer.assign([waiting.place(3)])
    assert _values(take(consumer, 3)) == [b"0.3", b"0.4", b"0.5"]


def test_close_while_waiting_commits_what_was_handed_over(waiting) -> None:
    """And no more."""
    waiting.go_away()
    consumer = waiting.consumer(config={"enable.auto.commit": True})
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    consumer.close()
    assert waiting.committed(waiting.consumer(Consumer))[:2] == [3, 5]


@pytest.mark.parametrize("paused", [False, True])
def test_an_exception_in_error_cb_comes_out_of_poll_and_loses_nothing(waiting, paused) -> None:
    """As in the base class, which would lose the batch."""

    def fail(_error) -> None:
        raise LookupError("the callback's own")

    waiting.go_away()
    consumer = waiting.consumer(config={"error_cb": fail})
    found: list = []
    with pytest.raises(LookupError):
        eventually(lambda: found.extend(consumer.consume(100, 0.2)), "the error")
    assert consumer.position(waiting.places())[0].offset == len(_values(found))
    if paused:
        consumer.pause([waiting.place()])
        found += consumer.consume(100, 0)
        consumer.resume([waiting.place()])
    waiting.come_back()
    found += _read(consumer, 11 - len(found), "consume")
    assert _values(found) == [b"0.%d" % n for n in range(6)]
    assert len(found) == 11


def test_partitions_wait_each_for_itself(waiting) -> None:
    """One data key is refused, the other is not."""
    encryptor = Encryptor(waiting.keys, rotation=RotationPolicy(max_messages=1))
    waiting.go_away()
    sealed, headers = encryptor.encrypt(waiting.topic, b"1.5", b"k")
    waiting.write({**waiting.sealed(b""), "value": sealed, "headers": headers, "partition": 1})
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or len(waiting.paused()) == 2, "both pauses")
    assert sorted(waiting.paused()) == [(0, 3), (1, 5)]
    assert len(waiting.told) == 2
    waiting.script.back(DECRYPT)
    waiting.clock.advance(11)
    assert sorted(m.value() for m in take(consumer, 4)) == [b"0.3", b"0.4", b"0.5", b"1.5"]
    encryptor.close()


def test_skip_and_raise_wait_too(waiting) -> None:
    """Only failures of the record move on."""
    waiting.go_away()
    for on_error in ("skip", "raise"):
        consumer = waiting.consumer(on_error=on_error)
        assert len(_read(consumer, 8, "consume")) == 8
        eventually(lambda: consumer.poll(0.02) or waiting.paused()[-1:] == [(0, 3)], "the pause")  # noqa: B023
        assert consumer.poll(0.1) is None
        consumer.close()
        waiting.seen.clear()


def test_a_key_service_that_takes_its_time_is_asked_for_one_partition_a_call(waiting) -> None:
    """So that the application keeps polling, however many partitions need it."""
    others = Encryptor(waiting.keys, rotation=RotationPolicy(max_messages=1))
    records = []
    for partition in (1, 2, 3):
        sealed, headers = others.encrypt(waiting.topic, b"v", b"k")
        records.append({**waiting.sealed(b""), "value": sealed, "headers": headers, "partition": partition})
    waiting.write(*records)
    others.close()
    waiting.go_away()
    consumer = waiting.consumer()
    ends = [6, 6, 1, 1]

    def fetched() -> bool:
        return ends == [consumer.get_watermark_offsets(place, cached=True)[1] for place in waiting.places()]

    eventually(fetched, "all partitions in the queue")
    asked: list[int] = []
    while waiting.script.count(DECRYPT) < 5:
        before = waiting.script.count(DECRYPT)
        consumer.consume(100, 0)
        asked.append(waiting.script.count(DECRYPT) - before)
    assert max(asked) <= 2, "the first call also gets the first data key"
    assert sorted(waiting.paused()) == [(0, 3), (1, 5), (2, 0), (3, 0)]


def test_a_timeout_of_zero_returns_at_once_while_a_partition_waits(waiting) -> None:
    """With nothing, from poll() and from consume()."""
    waiting.go_away()
    consumer = waiting.consumer()
    take(consumer, 8)
    eventually(lambda: consumer.poll(0.02) or waiting.paused(), "the pause")
    for _ in range(100):
        assert consumer.poll(0) is None
        assert consumer.consume(10, 0) == []


def test_an_outage_leaves_no_cycle_behind(waiting) -> None:
    """The consumer is freed when its last user lets go, as the base class is."""
    waiting.go_away()

    def live_through_an_outage() -> weakref.ref:
        consumer = waiting.consumer()
        waiting.consumers.clear()
        found: list = []
        eventually(lambda: found.extend(consumer.consume(100, 0.1)) or waiting.paused(), "the pause")
        waiting.clock.advance(11)
        consumer.poll(0.01)
        return weakref.ref(consumer)

    gc.collect()
    gc.disable()
    try:
        assert live_through_an_outage()() is None
    finally:
        gc.enable()
