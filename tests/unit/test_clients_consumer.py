"""The decrypting consumer where records are at fault or none is; test_clients_waiting.py has the key service away."""

from __future__ import annotations

import gc
import weakref

import pytest
from confluent_kafka import (
    Consumer,
    DeserializingConsumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.error import ConsumeError
from confluent_kafka.serialization import StringDeserializer

from streamcrypt import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    DecryptingConsumer,
    Decryptor,
    EncryptingProducer,
    Encryptor,
    LocalKeyProvider,
    MalformedEnvelope,
    PlaintextRejected,
    RotationPolicy,
    UntrustedKey,
    failure_of,
)
from streamcrypt.events import RecordFailed
from streamcrypt.testing import CollectingObserver
from tests.wrapping import SECONDS, eventually, send, take, unique

BAD = KafkaError._VALUE_DESERIALIZATION


class Reading:
    """A topic of four partitions on a mock cluster, written through an encryptor, and consumers that get closed."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.topic = unique()
        self.group = unique("group")
        self.keys = LocalKeyProvider.generate()
        self.encryptor = Encryptor(self.keys, rotation=RotationPolicy(max_messages=1000))
        self.seen = CollectingObserver()
        self.decryptor = Decryptor(self.keys, observer=self.seen)
        self.consumers: list[Consumer] = []

    def sealed(self, value, key=b"k", partition=0, headers=None, **change) -> dict:
        """Gives the arguments that produce one sealed record."""
        sealed, sent = self.encryptor.encrypt(self.topic, value, key, headers, partition)
        return {"topic": self.topic, "value": sealed, "key": key, "partition": partition, "headers": sent, **change}

    def tampered(self, value=b"bad", **place) -> dict:
        """Gives a sealed record with its last bit flipped."""
        record = self.sealed(value, **place)
        return {**record, "value": record["value"][:-1] + bytes([record["value"][-1] ^ 1])}

    def write(self, *records) -> None:
        """Produces records as they are."""
        send(self.bootstrap, *records)

    def consumer(self, kind=DecryptingConsumer, *, start=True, **options) -> DecryptingConsumer:
        """Makes a consumer, by default one that reads every partition from its start."""
        config = {
            "bootstrap.servers": self.bootstrap,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
            **options.pop("config", {}),
        }
        if issubclass(kind, DecryptingConsumer) and kind.__init__ is DecryptingConsumer.__init__:
            options = {"decryptor": self.decryptor, **options}
        made = kind(config, **options)
        self.consumers.append(made)
        if start:
            made.assign(self.places(0))
        return made

    def places(self, offset=-1001) -> list[TopicPartition]:
        """Gives the topic's four partitions at one offset."""
        return [TopicPartition(self.topic, partition, offset) for partition in range(4)]

    def committed(self, consumer) -> list[int]:
        """Gives the committed offset of each partition."""
        return [place.offset for place in consumer.committed(self.places(), timeout=SECONDS)]

    def close(self) -> None:
        """Closes the consumers."""
        for consumer in self.consumers:
            consumer.close()


@pytest.fixture
def reading(mock_cluster):
    """Ends with every consumer closed."""
    made = Reading(mock_cluster)
    yield made
    made.close()


def _read(consumer: Consumer, count: int, how: str) -> list[Message]:
    if how == "poll":
        return take(consumer, count)
    found: list[Message] = []
    eventually(lambda: len(found.extend(consumer.consume(100, 0.1)) or found) >= count, f"{count} messages")
    return found


both_ways = pytest.mark.parametrize("how", ["poll", "consume"])


@both_ways
def test_a_message_shows_plaintext_and_not_our_header(reading, how) -> None:
    """And is confluent-kafka's own Message; all else about it is as it was."""
    reading.write(reading.sealed(b"plain", headers=[("h", b"1")], timestamp=1234), reading.sealed(b"bare"))
    first, second = _read(reading.consumer(), 2, how)
    assert type(first) is Message
    assert (first.value(), first.headers(), first.error()) == (b"plain", [("h", b"1")], None)
    assert (first.topic(), first.partition(), first.offset(), first.key()) == (reading.topic, 0, 0, b"k")
    assert first.timestamp()[1] == 1234
    assert (second.value(), second.headers()) == (b"bare", None), "a record that had no headers reads None again"
    assert len(second) == 4


@both_ways
def test_a_tombstone_is_handed_over_as_it_is(reading, how) -> None:
    """Null value, its own headers."""
    reading.write(
        {"topic": reading.topic, "key": b"k", "partition": 0},
        {"topic": reading.topic, "key": b"k", "partition": 0, "headers": [("h", b"1")]},
    )
    first, second = _read(reading.consumer(), 2, how)
    assert (first.value(), first.headers(), first.error()) == (None, None, None)
    assert (second.value(), second.headers(), second.error()) == (None, [("h", b"1")], None)


@both_ways
def test_an_authenticated_tombstone_goes_through_both_wrappers(reading, how) -> None:
    """Null to the last; a plain one is refused where proof is required."""
    with Encryptor(reading.keys, tombstones="authenticated") as encryptor:
        config = {"bootstrap.servers": reading.bootstrap, "log_level": 0}
        with EncryptingProducer(config, encryptor=encryptor) as producer:
            producer.produce(reading.topic, None, b"k", 0, headers={"h": "1"})
            assert producer.produce_batch(reading.topic, [{"key": b"k", "partition": 0}]) == 1
    reading.write({"topic": reading.topic, "key": b"k", "partition": 0})
    consumer = reading.consumer(decryptor=Decryptor(reading.keys, tombstones="authenticated"))
    first, second, plain = _read(consumer, 3, how)
    assert (first.value(), first.headers(), first.error()) == (None, [("h", b"1")], None)
    assert (second.value(), second.headers(), second.error()) == (None, None, None)
    assert isinstance(failure_of(plain), PlaintextRejected)
    assert failure_of(plain).sealed_value is None


def _faults(reading) -> list[tuple[dict, type]]:
    good = reading.sealed(b"good")
    elsewhere = Encryptor(reading.keys).encrypt("elsewhere", b"v", b"k")
    stranger = Encryptor(LocalKeyProvider.generate("stranger")).encrypt(reading.topic, b"v", b"k")
    return [
        (reading.tampered(), AuthenticationFailed),
        ({**good, "key": b"another"}, AuthenticationFailed),
        ({**good, "value": b"short"}, AuthenticationFailed),
        ({**good, "headers": None}, PlaintextRejected),
        ({**good, "headers": good["headers"] * 2}, MalformedEnvelope),
        ({**good, "headers": [("streamcrypt", b"junk")]}, MalformedEnvelope),
        ({**good, "value": None}, MalformedEnvelope),
        ({**good, "value": elsewhere[0], "headers": elsewhere[1]}, ContextMismatch),
        ({**good, "value": stranger[0], "headers": stranger[1]}, UntrustedKey),
    ]


@both_ways
def test_a_record_that_cannot_be_opened_comes_back_as_an_error_and_its_neighbours_as_they_are(reading, how) -> None:
    """With the reason, the sealed bytes, and key and headers as they were read."""
    faults = _faults(reading)
    records = [reading.sealed(b"first")]
    for fault, _ in faults:
        records += [fault, reading.sealed(b"neighbour")]
    reading.write(*records)
    first, *rest = _read(reading.consumer(), len(records), how)
    assert first.value() == b"first"
    assert [message.offset() for message in rest] == list(range(1, len(records)))
    assert [message.value() for message in rest[1::2]] == [b"neighbour"] * len(faults)
    for message, (fault, kind) in zip(rest[::2], faults, strict=True):
        failure = failure_of(message)
        assert type(failure) is kind
        assert message.error().code() == BAD
        assert not message.error().retriable()
        assert message.value() is None
        assert failure.sealed_value == fault["value"]
        assert message.key() == fault["key"]
        assert message.headers() == fault["headers"]
        assert f"partition 0, offset {message.offset()}" in failure.__notes__[0]
    assert [event.error for event in reading.seen.of(RecordFailed)] == [kind.__name__ for _, kind in faults]
    assert {event.action for event in reading.seen.of(RecordFailed)} == {"return"}
    assert {event.pipeline for event in reading.seen.of(RecordFailed)} == {reading.group}


def test_two_records_that_fail_alike_have_errors_of_their_own(reading) -> None:
    """Although the refusal of their header is remembered."""
    bad = {**reading.sealed(b"v"), "headers": [("streamcrypt", b"junk")]}
    reading.write({**bad, "value": b"1"}, {**bad, "value": b"2"})
    messages = take(reading.consumer(), 2)
    assert [failure_of(message).sealed_value for message in messages] == [b"1", b"2"]


def test_no_text_shows_the_record(reading) -> None:
    """Neither the error's nor the reason's."""
    reading.write(reading.tampered(b"secret"), {**reading.sealed(b"x"), "value": b"secret", "headers": None})
    for message in take(reading.consumer(), 2):
        text = f"{message.error()!r} {message.error()} {failure_of(message)!r} {failure_of(message).__notes__}"
        assert "secret" not in text


@both_ways
def test_skip_drops_failed_records(reading, how) -> None:
    """An event tells of each; the offsets behind them are stored."""
    reading.write(reading.tampered(), reading.sealed(b"1"), reading.tampered(), reading.sealed(b"2"))
    consumer = reading.consumer(on_error="skip")
    assert [message.value() for message in _read(consumer, 2, how)] == [b"1", b"2"]
    assert [event.action for event in reading.seen.of(RecordFailed)] == ["skip", "skip"]


def test_skip_alone_leaves_nothing_and_still_moves_on(reading) -> None:
    """poll() gives None in its time, and the offset is stored."""
    reading.write(reading.tampered())
    consumer = reading.consumer(on_error="skip")
    eventually(lambda: consumer.poll(0.05) or reading.seen.of(RecordFailed), "the failure")
    assert consumer.poll(0) is None
    consumer.commit(asynchronous=False)
    assert reading.committed(consumer)[0] == 1


def _poll_all(consumer, count) -> list:
    """Gives values and errors, in order."""
    found = []

    def more() -> bool:
        try:
            message = consumer.poll(0.05)
        except AuthenticationFailed as failure:
            found.append(failure)
        else:
            found.extend([] if message is None else [message.value()])
        return len(found) >= count

    eventually(more, f"{count} outcomes")
    return found


def test_raise_raises_the_reason_and_goes_on_behind_the_record(reading) -> None:
    """The record counts as handed over once the application polls on."""
    reading.write(reading.sealed(b"1"), reading.tampered(), reading.sealed(b"2"))
    consumer = reading.consumer(on_error="raise")
    one, failure, two = _poll_all(consumer, 3)
    assert (one, two) == (b"1", b"2")
    assert failure.sealed_value is not None
    assert [event.action for event in reading.seen.of(RecordFailed)] == ["halt"]


@pytest.mark.parametrize("polls_on", [False, True])
def test_a_raised_record_counts_as_handed_over_once_the_application_polls_on(reading, polls_on) -> None:
    """One that ends on the error instead, by its context manager, commits only what came before the record."""
    reading.write(reading.sealed(b"1"), reading.tampered())
    with reading.consumer(on_error="raise", config={"enable.auto.commit": True}) as consumer:
        assert [message.value() for message in _read(consumer, 1, "consume")] == [b"1"]
        with pytest.raises(AuthenticationFailed):
            eventually(lambda: consumer.consume(3, 0.1), "a failure")
        if polls_on:
            assert consumer.poll(0) is None
    assert reading.committed(reading.consumer(Consumer))[0] == (2 if polls_on else 1)


def test_a_raise_loses_no_other_record_of_a_batch(reading) -> None:
    """Those before the record come first, those behind it after; position() tells which is next."""
    reading.write(*(reading.tampered() if n in {3, 4} else reading.sealed(b"%d" % n) for n in range(8)))
    consumer = reading.consumer(on_error="raise")
    eventually(lambda: consumer.get_watermark_offsets(TopicPartition(reading.topic, 0), cached=True)[1] == 8, "fetched")
    assert [message.value() for message in consumer.consume(8, SECONDS)] == [b"0", b"1", b"2"]
    assert consumer.position(reading.places())[0].offset == 3
    for behind in (4, 5):
        with pytest.raises(AuthenticationFailed):
            consumer.consume(8, 1)
        assert consumer.position(reading.places())[0].offset == behind
    assert [message.value() for message in consumer.consume(2, 1)] == [b"5", b"6"]
    assert consumer.position(reading.places())[0].offset == 7
    assert consumer.poll(1).value() == b"7"
    assert consumer.position(reading.places())[0].offset == 8


def test_held_records_follow_pause_seek_and_assign(reading) -> None:
    """As records in the base class's queue do: none comes out of a partition that is paused or sought elsewhere."""
    reading.write(*(reading.tampered() if n == 0 else reading.sealed(b"%d" % n) for n in range(4)))
    consumer = reading.consumer(on_error="raise")
    place = TopicPartition(reading.topic, 0)

    def hold_the_rest() -> None:
        with pytest.raises(AuthenticationFailed):
            eventually(lambda: consumer.consume(4, 1) and False, "a failure")
        assert consumer.position([place])[0].offset == 1

    hold_the_rest()
    consumer.pause([place])
    assert consumer.consume(4, 0.1) == []
    consumer.resume([place])
    assert [message.value() for message in _read(consumer, 3, "consume")] == [b"1", b"2", b"3"]
    consumer.seek(TopicPartition(reading.topic, 0, 0))
    hold_the_rest()
    consumer.seek(TopicPartition(reading.topic, 0, 3))
    assert consumer.poll(SECONDS).value() == b"3"
    consumer.assign([TopicPartition(reading.topic, 0, 0)])
    hold_the_rest()
    consumer.unassign()
    assert consumer.consume(4, 0.1) == []


def test_on_error_is_one_of_three(reading) -> None:
    """Anything else is a configuration error."""
    with pytest.raises(ConfigError):
        reading.consumer(on_error="ignore")


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_message_can_be_committed(reading, asynchronous) -> None:
    """The base class refuses messages with an error; ours are records that were handed over."""
    reading.write(reading.tampered(), reading.sealed(b"1"), reading.tampered())
    consumer = reading.consumer()
    messages = take(consumer, 3)
    for count, message in enumerate(messages, start=1):
        result = consumer.commit(message=message, asynchronous=asynchronous)
        assert result is None if asynchronous else result[0].offset == count
        eventually(lambda: consumer.poll(0) or reading.committed(consumer)[0] == count, "the commit")  # noqa: B023
    consumer.commit(messages[0], None, False)
    assert reading.committed(consumer)[0] == 1


def test_a_failed_message_can_be_stored(reading) -> None:
    """With the application storing offsets itself."""
    reading.write(reading.tampered(), reading.sealed(b"1"))
    consumer = reading.consumer(config={"enable.auto.offset.store": False})
    failed, good = take(consumer, 2)
    with pytest.raises(KafkaException):
        consumer.commit(asynchronous=False)
    consumer.store_offsets(message=failed)
    consumer.commit(asynchronous=False)
    assert reading.committed(consumer)[0] == 1
    consumer.store_offsets(good)
    consumer.commit(asynchronous=False)
    assert reading.committed(consumer)[0] == 2
    reading.write(reading.sealed(b"2"))
    consumer.store_offsets(offsets=[TopicPartition(reading.topic, 0, 3)])
    consumer.commit(asynchronous=False)
    assert reading.committed(consumer)[0] == 3


def test_messages_that_are_no_records_are_refused_as_in_the_base_class(reading) -> None:
    """And wrong arguments too."""
    base, wrapper = reading.consumer(Consumer), reading.consumer()
    end = Message(topic=reading.topic, partition=0, offset=1, error=KafkaError(KafkaError._PARTITION_EOF))
    wrong = [
        ("commit", {"message": end}),
        ("commit", {"message": "m"}),
        ("commit", {"message": end, "offsets": []}),
        ("commit", {"offsets": 3}),
        ("store_offsets", {}),
        ("store_offsets", {"message": end, "offsets": []}),
        ("store_offsets", {"offsets": [TopicPartition(reading.topic, 0, 1)]}),
        ("store_offsets", {"message": end}),
        ("poll", {"timeout": None}),
        ("poll", {"timeout": "1"}),
        ("consume", {"num_messages": -1}),
        ("consume", {"num_messages": 1_000_001}),
        ("consume", {"timeout": None}),
        ("seek", {"partition": 3}),
        ("pause", {"partitions": 3}),
        ("resume", {"partitions": 3}),
        ("position", {"partitions": 3}),
        ("subscribe", {"topics": "t"}),
        ("subscribe", {"topics": ["t"], "on_assign": 3}),
        ("subscribe", {"topics": ["t"], "on_revoke": 3}),
        ("subscribe", {"topics": ["t"], "on_lost": 3}),
    ]
    for method, kwargs in wrong:
        with pytest.raises(Exception) as expected:
            getattr(base, method)(**kwargs)
        with pytest.raises(expected.type) as caught:
            getattr(wrapper, method)(**kwargs)
        if expected.type is KafkaException:
            assert caught.value.args[0].code() == expected.value.args[0].code(), method


def test_offsets_are_stored_after_a_record_was_handed_over(reading) -> None:
    """commit() without arguments commits them, as in the base class."""
    reading.write(*(reading.sealed(b"v", partition=n % 2) for n in range(6)))
    consumer = reading.consumer()
    counts = [0, 0]
    for message in take(consumer, 6):
        counts[message.partition()] += 1
    consumer.commit(asynchronous=False)
    assert counts == [3, 3]
    assert reading.committed(consumer) == [3, 3, -1001, -1001]


def test_offsets_are_committed_by_librdkafkas_own_timer(reading) -> None:
    """While the application polls, and while it sits in a poll that finds nothing."""
    reading.write(reading.sealed(b"1"), reading.sealed(b"2"))
    consumer = reading.consumer(config={"enable.auto.commit": True, "auto.commit.interval.ms": 50})
    take(consumer, 2)
    assert consumer.poll(0.05) is None
    eventually(lambda: reading.committed(consumer)[0] == 2, "the timer")


@pytest.mark.parametrize("how", ["close", "with", "unsubscribe"])
def test_offsets_are_committed_at_the_end(reading, how) -> None:
    """Of the last record too, with nothing polled after it."""
    reading.write(reading.sealed(b"1"), reading.sealed(b"2"))
    consumer = reading.consumer(config={"enable.auto.commit": True}, start=how != "unsubscribe")
    if how == "unsubscribe":
        consumer.subscribe([reading.topic])
    take(consumer, 2)
    if how == "close":
        consumer.close()
    elif how == "with":
        with consumer as same:
            assert same is consumer
    else:
        consumer.unsubscribe()
        eventually(lambda: consumer.poll(0.05) or not consumer.assignment(), "the revocation")
    assert reading.committed(reading.consumer(Consumer))[0] == 2


def test_a_closed_consumer_is_closed(reading) -> None:
    """Twice is no error; reading is the base class's own."""
    consumer = reading.consumer()
    consumer.close()
    consumer.close()
    for call in (lambda: consumer.poll(0), lambda: consumer.consume(1, 0), consumer.commit, consumer.assignment):
        with pytest.raises(RuntimeError):
            call()


def test_end_of_partition_passes_untouched(reading) -> None:
    """It is no record, and stores nothing."""
    reading.write(reading.sealed(b"1"))
    consumer = reading.consumer(config={"enable.partition.eof": True}, start=False)
    consumer.assign([TopicPartition(reading.topic, 0, 0)])
    record, end = take(consumer, 2)
    assert record.value() == b"1"
    assert end.error().code() == KafkaError._PARTITION_EOF
    assert failure_of(end) is None
    consumer.seek(TopicPartition(reading.topic, 0, 0))
    record, end = _read(consumer, 2, "consume")
    assert record.value() == b"1"
    assert end.error().code() == KafkaError._PARTITION_EOF


def test_rebalance_callbacks_get_our_consumer_and_the_default_assignment_stands(reading) -> None:
    """Called with the base class's arguments; without callbacks of the user's, too."""
    reading.write(reading.sealed(b"1"))
    calls = []

    def note(name):
        return lambda consumer, partitions: calls.append((name, consumer, sorted(p.partition for p in partitions)))

    consumer = reading.consumer(start=False)
    consumer.subscribe([reading.topic], on_assign=note("assign"), on_revoke=note("revoke"), on_lost=note("lost"))
    take(consumer, 1)
    assert len(consumer.assignment()) == 4
    consumer.unsubscribe()
    eventually(lambda: consumer.poll(0.05) or len(calls) == 2, "the revocation")
    assert calls == [("assign", consumer, [0, 1, 2, 3]), ("revoke", consumer, [0, 1, 2, 3])]
    assert consumer.assignment() == []


def test_a_rebalance_callback_may_assign_itself(reading) -> None:
    """From another offset, as in the base class."""
    reading.write(*(reading.sealed(b"%d" % n) for n in range(3)))

    def from_two(consumer, partitions) -> None:
        consumer.assign([TopicPartition(p.topic, p.partition, 2 if p.partition == 0 else -2) for p in partitions])

    consumer = reading.consumer(start=False)
    consumer.subscribe([reading.topic], from_two)
    assert take(consumer, 1)[0].value() == b"2"


def test_an_exception_in_a_rebalance_callback_comes_out_of_poll(reading) -> None:
    """As in the base class."""

    def fail(_consumer, _partitions) -> None:
        raise LookupError("the callback's own")

    reading.write(reading.sealed(b"1"))
    consumer = reading.consumer(start=False)
    consumer.subscribe([reading.topic], on_revoke=fail)
    take(consumer, 1)
    consumer.unsubscribe()
    with pytest.raises(LookupError):
        eventually(lambda: consumer.poll(0.05) and False, "the revocation")


def test_a_consumer_is_freed_when_its_last_user_lets_go(reading) -> None:
    """Without the garbage collector, as the base class is."""
    consumer = reading.consumer(start=False)
    consumer.subscribe([reading.topic], on_revoke=lambda *_: None)
    reading.consumers.clear()
    gc.disable()
    try:
        gone = weakref.ref(consumer)
        del consumer
        assert gone() is None
    finally:
        gc.enable()


def test_a_deserializing_consumer_mixed_in_opens_then_deserializes(reading) -> None:
    """By the method resolution order; a failed record is its ConsumeError, with our reason."""

    class Both(DeserializingConsumer, DecryptingConsumer.bound(reading.decryptor)):
        pass

    reading.write(reading.sealed("é".encode(), headers=[("h", b"1")]), reading.tampered(), reading.sealed(b"2"))
    consumer = reading.consumer(
        Both,
        config={
            "key.deserializer": StringDeserializer("utf_8"),
            "value.deserializer": lambda data, context: (data.decode(), context.headers),
        },
    )
    assert isinstance(consumer, DecryptingConsumer)
    assert consumer.poll(SECONDS).value() == ("é", [("h", b"1")])
    with pytest.raises(ConsumeError) as caught:
        consumer.poll(SECONDS)
    assert caught.value.code == BAD
    failed = caught.value.kafka_message
    assert isinstance(failure_of(failed), AuthenticationFailed)
    assert failure_of(caught.value) is failure_of(failed)
    consumer.commit(message=failed, asynchronous=False)
    assert reading.committed(consumer)[0] == 2
    message = consumer.poll(SECONDS)
    assert (message.key(), message.value()) == ("k", ("2", None))


def test_failure_of_gives_none_where_there_is_no_failure_of_ours(reading) -> None:
    """Whatever it is asked of."""
    assert failure_of(None) is None
    assert failure_of(Message(topic="t")) is None
    assert failure_of(KafkaError(BAD)) is None
    assert failure_of(KafkaException(KafkaError(BAD))) is None
    assert failure_of(KafkaException()) is None
    assert failure_of(Message(topic="t", error=KafkaError(BAD))) is None
    assert failure_of(ValueError()) is None


def test_an_error_that_is_not_about_records_moves_nothing_on(reading) -> None:
    """Here a key service that breaks its contract: every call raises it until it is mended, and nothing is lost."""
    reading.write(*(reading.sealed(b"%d" % n) for n in range(3)))

    class Broken(LocalKeyProvider):
        def decrypt_data_key(self, encrypted, key_id, context) -> bytearray:
            raise ZeroDivisionError

    broken = Broken(reading.keys._keys, "local-1")
    decryptor = Decryptor(broken)
    consumer = reading.consumer(decryptor=decryptor)
    for how in (lambda: consumer.poll(1), lambda: consumer.consume(3, 1)) * 2:
        with pytest.raises(ZeroDivisionError):
            eventually(lambda: how() and False, "the error")  # noqa: B023
        assert consumer.position(reading.places())[0].offset == 0
    decryptor._keys = reading.keys
    assert [message.value() for message in _read(consumer, 3, "consume")] == [b"0", b"1", b"2"]
