"""The encrypting producer: nothing but sealed values leaves it, and all else is as in the base class."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, SerializingProducer
from confluent_kafka.serialization import SerializationContext, StringSerializer

from streamcrypt import (
    AlreadySealed,
    ConfigError,
    Decryptor,
    EncryptingProducer,
    Encryptor,
    KeyUnavailable,
    LocalKeyProvider,
    RecordTooLarge,
    RotationPolicy,
)
from streamcrypt.events import DataKeyMinted, DataKeyRetired
from streamcrypt.testing import CollectingObserver
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider
from tests.wrapping import SECONDS, eventually, ours, raw, unique

NOBODY = {"log_level": 0}  # no bootstrap servers: nothing is tried, so that len() counts records alone


class Sealing:
    """An encryptor with its keys and events, and producers that are purged at the end of the test."""

    def __init__(self, **options) -> None:
        self.keys = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.seen = CollectingObserver()
        self.encryptor = Encryptor(self.keys, observer=self.seen, **options)
        self.decryptor = Decryptor(self.keys)
        self.producers: list[EncryptingProducer] = []

    def producer(self, config, kind=EncryptingProducer, **options) -> EncryptingProducer:
        """Makes a producer that is purged at the end of the test."""
        made = kind({"log_level": 0, **config}, encryptor=self.encryptor, **options)
        self.producers.append(made)
        return made

    def retired(self) -> list[str]:
        """Gives the reasons for which data keys were retired."""
        return [event.reason for event in self.seen.of(DataKeyRetired)]

    def open(self, message) -> tuple[bytes | None, list]:
        """Opens a message as it stands on the topic."""
        return self.decryptor.decrypt(
            message.topic(), message.value(), message.key(), message.headers(), message.partition()
        )


@pytest.fixture
def sealing(request):
    """Ends without waiting for brokers that are not there. Options of the encryptor come as an indirect parameter."""
    made = Sealing(**getattr(request, "param", {}))
    yield made
    for producer in made.producers:
        if len(producer):
            producer.purge()
            producer.flush(1)
    made.encryptor.close()


@pytest.fixture
def topic() -> str:
    """A topic's name that nobody else uses."""
    return unique()


def test_the_topic_holds_a_sealed_value_and_one_header_of_ours(sealing, mock_cluster, topic) -> None:
    """And no byte sequence of the plaintext; the reader gets it back."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"the plaintext", b"k")
    assert producer.flush(SECONDS) == 0
    [record] = raw(mock_cluster, topic, 1)
    assert b"plaintext" not in record.value()
    assert len(ours(record)) == 1
    assert sealing.open(record) == (b"the plaintext", [])


def test_all_eight_arguments_go_by_position(sealing, mock_cluster, topic) -> None:
    """topic, value, key, partition, callback, on_delivery, timestamp, headers."""
    reports, ignored = [], []
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(
        topic, b"v", b"k", 3, lambda *report: reports.append(report), lambda *_: ignored.append(1), 1234, [("h", b"1")]
    )
    assert producer.flush(SECONDS) == 0
    [record] = raw(mock_cluster, topic, 1)
    assert (record.key(), record.partition(), record.timestamp()[1]) == (b"k", 3, 1234)
    assert record.headers()[0] == ("h", b"1")
    assert record.headers()[1][0] == "streamcrypt"
    assert sealing.open(record) == (b"v", [("h", b"1")])
    [(error, report)] = reports
    assert error is None
    assert report.value() == record.value(), "a delivery report shows what was sent"
    assert not ignored


def test_all_arguments_go_by_name(sealing, mock_cluster, topic) -> None:
    """on_delivery alone is the callback."""
    reports = []
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(
        headers={"h": "é", "n": None},
        timestamp=5,
        on_delivery=lambda *report: reports.append(report),
        partition=1,
        key="ключ",
        value="значение",
        topic=topic,
    )
    assert producer.flush(SECONDS) == 0
    [record] = raw(mock_cluster, topic, 1)
    assert record.key() == "ключ".encode()
    assert sealing.open(record) == ("значение".encode(), [("h", "é".encode()), ("n", None)])
    assert len(reports) == 1


def test_a_tombstone_stays_null_and_carries_no_header_of_ours(sealing, mock_cluster, topic) -> None:
    """So that compaction works; its own headers are kept."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, None, b"k", 0)
    producer.produce(topic, key="k", partition=0, headers=[("h", "1")])
    assert producer.flush(SECONDS) == 0
    first, second = raw(mock_cluster, topic, 2)
    assert (first.value(), first.key(), first.headers()) == (None, b"k", None)
    assert (second.value(), second.key(), second.headers()) == (None, b"k", [("h", b"1")])


@pytest.mark.parametrize("value", [b"", ""])
def test_an_empty_value_is_sealed(sealing, mock_cluster, topic, value) -> None:
    """Empty is not null."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, value)
    assert producer.flush(SECONDS) == 0
    [record] = raw(mock_cluster, topic, 1)
    assert len(record.value()) == 28
    assert sealing.open(record)[0] == b""


def test_the_lane_is_the_partition_that_the_caller_named(sealing, mock_cluster, topic) -> None:
    """Or the unknown one. spec: 5.1"""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"v", partition=2)
    producer.produce(topic, b"v", partition=2)
    producer.produce(topic, b"v")
    assert producer.flush(SECONDS) == 0
    nonces = {record.value()[:12] for record in raw(mock_cluster, topic, 3)}
    assert nonces == {
        bytes.fromhex("000000020000000000000001"),
        bytes.fromhex("000000020000000000000002"),
        bytes.fromhex("ffffffff0000000000000001"),
    }


WRONG_ARGUMENTS = [
    ((), {}),
    ((1,), {}),
    (("t", 1), {}),
    (("t", bytearray(b"v")), {}),
    (("t", memoryview(b"v")), {}),
    (("t", b"v", 1), {}),
    (("t", "\ud800"), {}),
    (("t", b"v", "\ud800"), {}),
    (("t", b"v", b"k", "0"), {}),
    (("t", b"v", b"k", None), {}),
    (("t", b"v", b"k", 2**40), {}),
    (("t", b"v", b"k", 2**31), {}),
    (("t", b"v", b"k", 0, None, None, "0"), {}),
    (("t", b"v", b"k", 0, None, None, 0, None, None), {}),
    (("t", b"v"), {"headers": 5}),
    (("t", b"v"), {"headers": ()}),
    (("t", b"v"), {"headers": [("a", 1)]}),
    (("t", b"v"), {"headers": [("a", bytearray(b"1"))]}),
    (("t", b"v"), {"headers": [["a", b"1"]]}),
    (("t", b"v"), {"headers": [("a",)]}),
    (("t", b"v"), {"headers": {"a": 1}}),
    (("t", b"v"), {"header": None}),
    (("t\0", b"v"), {}),
]


@pytest.mark.parametrize(("args", "kwargs"), WRONG_ARGUMENTS)
def test_wrong_arguments_raise_what_the_base_class_raises(sealing, args, kwargs) -> None:
    """And nothing is queued."""
    base, wrapper = Producer(NOBODY), sealing.producer(NOBODY)
    with pytest.raises(Exception) as expected:
        base.produce(*args, **kwargs)
    with pytest.raises(expected.type):
        wrapper.produce(*args, **kwargs)
    assert len(wrapper) == 0


ODD_HEADERS = [[], {}, [("a", "x"), ("a", None), ("b", b"\xff")], {"a": "x"}, [(1, b"1")]]


@pytest.mark.parametrize("headers", ODD_HEADERS)
def test_headers_reach_the_topic_as_the_base_class_sends_them(sealing, mock_cluster, topic, headers) -> None:
    """Before ours."""
    plain = Producer({"bootstrap.servers": mock_cluster, "log_level": 0})
    plain.produce(f"{topic}-plain", b"v", headers=headers)
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"v", headers=headers)
    assert plain.flush(SECONDS) == producer.flush(SECONDS) == 0
    [expected], [record] = raw(mock_cluster, f"{topic}-plain", 1), raw(mock_cluster, topic, 1)
    assert record.headers()[:-1] == (expected.headers() or [])


@pytest.mark.parametrize("name", ["streamcrypt", "streamcrypt-tombstone"])
@pytest.mark.parametrize("value", [b"v", None])
def test_a_header_of_ours_is_refused(sealing, topic, name, value) -> None:
    """Whoever sends it has sealed already, or wants to be taken for us."""
    producer = sealing.producer(NOBODY)
    with pytest.raises(AlreadySealed):
        producer.produce(topic, value, headers={name: b"x"})
    assert len(producer) == 0


def test_the_configured_callback_is_called_where_none_was_given(sealing, mock_cluster, topic) -> None:
    """As in the base class: one report goes to one callback."""
    default, own = [], []
    producer = sealing.producer(
        {"bootstrap.servers": mock_cluster, "on_delivery": lambda error, message: default.append((error, message))}
    )
    producer.produce(topic, b"1")
    producer.produce(topic, b"2", callback=lambda error, message: own.append((error, message)))
    assert producer.flush(SECONDS) == 0
    assert [error for error, _ in default + own] == [None, None]
    assert len(default) == len(own) == 1


def test_with_only_errors_reported_no_callback_hears_of_success(sealing, mock_cluster, topic) -> None:
    """As in the base class."""
    heard = []
    producer = sealing.producer({"bootstrap.servers": mock_cluster, "delivery.report.only.error": True})
    producer.produce(topic, b"1", callback=lambda *report: heard.append(report))
    assert producer.flush(SECONDS) == 0
    assert not heard


def test_an_exception_in_a_callback_comes_out_of_poll(sealing, mock_cluster, topic) -> None:
    """As in the base class."""

    def fail(_error, _message) -> None:
        raise LookupError("the callback's own")

    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"1", callback=fail)
    with pytest.raises(LookupError):
        producer.flush(SECONDS)


def test_a_full_queue_raises_buffer_error_and_the_same_call_seals_anew(sealing, topic) -> None:
    """The number that was used up is not used again, and the data key stays."""
    producer = sealing.producer({**NOBODY, "queue.buffering.max.messages": 1})
    sent = []
    producer.produce(topic, b"1", partition=0, callback=lambda _, message: sent.append(message.value()[:12]))
    with pytest.raises(BufferError):
        producer.produce(topic, b"2", partition=0)
    Producer.purge(producer)
    producer.flush(5)
    producer.produce(topic, b"2", partition=0, callback=lambda _, message: sent.append(message.value()[:12]))
    Producer.purge(producer)
    producer.flush(5)
    assert sent == [bytes(11) + b"\x01", bytes(11) + b"\x03"]
    assert sealing.retired() == []


@pytest.mark.parametrize(
    "record",
    [
        {"value": b"x" * 2000},
        {"value": b"x" * 1970},
        {"value": b"x", "key": b"k" * 2000},
        {"value": b"x", "headers": {"h": b"x" * 2000}},
    ],
)
def test_a_record_too_large_once_sealed_is_refused_before_it_is_sent(sealing, topic, record) -> None:
    """Value, key and headers count; the base class would take the second one unsealed."""
    producer = sealing.producer({**NOBODY, "message.max.bytes": 2048})
    with pytest.raises(RecordTooLarge) as caught:
        producer.produce(topic, **record)
    assert len(producer) == 0
    assert caught.value.__cause__ is None
    producer.produce(topic, b"small")
    assert sealing.retired() == []


def test_an_exception_of_the_base_class_retires_the_data_key(sealing, mock_cluster, topic) -> None:
    """Here: a partition that the topic does not have."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"1", partition=0)
    assert producer.flush(SECONDS) == 0
    with pytest.raises(KafkaException) as caught:
        producer.produce(topic, b"2", partition=99)
    assert caught.value.args[0].code() == KafkaError._UNKNOWN_PARTITION
    producer.produce(topic, b"3", partition=0)
    assert producer.flush(SECONDS) == 0
    first, second = raw(mock_cluster, topic, 2)
    assert ours(first) != ours(second)
    assert sealing.retired() == ["failure"]


@pytest.mark.parametrize(
    "sealing", [{}, {"framing": "self_contained"}], indirect=True, ids=["header", "self-contained"]
)
@pytest.mark.parametrize("callback", [False, True])
@pytest.mark.parametrize("only_errors", [False, True])
def test_a_failed_delivery_retires_the_data_key_once_for_a_burst(sealing, topic, callback, only_errors) -> None:
    """With a callback or without, and a callback still hears of each."""
    heard = []
    producer = sealing.producer(
        {**NOBODY, "message.timeout.ms": 50, "linger.ms": 0, "delivery.report.only.error": only_errors}
    )
    for _ in range(20):
        producer.produce(topic, b"v", callback=(lambda error, _: heard.append(error.code())) if callback else None)
    eventually(lambda: producer.poll(0.05) and len(producer) == 0, "all reports")
    assert sealing.retired() == ["failure"]
    assert heard == ([KafkaError._MSG_TIMED_OUT] * 20 if callback else [])
    producer.produce(topic, b"v")
    assert len(sealing.seen.of(DataKeyMinted)) == 2
    eventually(lambda: producer.poll(0.05) and len(producer) == 0, "the next report")
    assert sealing.retired() == ["failure"] * 2


@pytest.mark.parametrize("sealing", [{"rotation": RotationPolicy(max_messages=2)}], indirect=True, ids=["two a key"])
def test_a_failed_delivery_retires_no_data_key_but_its_own(sealing, topic) -> None:
    """Three keys, five records, all failed: only the key of the last one was still in use."""
    producer = sealing.producer({**NOBODY, "message.timeout.ms": 50, "linger.ms": 0})
    for _ in range(5):
        producer.produce(topic, b"v")
    eventually(lambda: producer.poll(0.05) and len(producer) == 0, "all reports")
    assert sealing.retired() == ["messages", "messages", "failure"]


@pytest.mark.parametrize(
    ("sealing", "reasons"),
    [({}, []), ({"tombstones": "authenticated"}, ["failure"])],
    indirect=["sealing"],
    ids=["plain", "authenticated"],
)
def test_a_tombstone_that_failed_retires_the_key_that_proves_it(sealing, topic, reasons) -> None:
    """A plain one took no number, and no later record is in doubt for it."""
    producer = sealing.producer({**NOBODY, "message.timeout.ms": 50, "linger.ms": 0})
    sealing.encryptor.ready(topic)
    producer.produce(topic, None, b"k")
    eventually(lambda: producer.poll(0.05) and len(producer) == 0, "the report")
    assert sealing.retired() == reasons


def test_a_purge_retires_the_data_key_and_its_reports_not_the_next_one(sealing, topic) -> None:
    """The reports of purged records come later."""
    producer = sealing.producer(NOBODY)
    producer.produce(topic, b"1")
    producer.purge()
    assert sealing.retired() == ["failure"]
    producer.produce(topic, b"2")
    eventually(lambda: producer.poll(0.05) or len(producer) == 1, "the report of the purged record")
    assert sealing.retired() == ["failure"]


def test_an_aborted_transaction_retires_the_data_keys_of_its_topics(sealing, mock_cluster, topic) -> None:
    """And a committed one does not."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster, "transactional.id": unique("tx")})
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    producer.produce(topic, b"1", partition=0)
    producer.commit_transaction(SECONDS)
    assert sealing.retired() == []
    producer.begin_transaction()
    producer.produce(topic, b"2", partition=0)
    producer.abort_transaction(SECONDS)
    assert sealing.retired() == ["failure"]
    producer.begin_transaction()
    producer.produce(topic, b"3", partition=0)
    producer.close()
    assert sealing.retired() == ["failure"] * 2, "close() aborts a transaction in progress"


def _idempotent(producer: Producer, statistics: list[str]) -> bool:
    eventually(lambda: producer.poll(0.05) or statistics, "statistics")
    return "eos" in json.loads(statistics[0])


@pytest.mark.parametrize(
    ("config", "on"),
    [
        ({}, True),
        ({"acks": "all"}, True),
        ({"enable.idempotence": False}, False),
        ({"enable.idempotence": "true"}, True),
        ({"acks": 1}, False),
        ({"default.topic.config": {"acks": 1}}, False),
        ({"max.in.flight": 10}, False),
        ({"retries": 0}, False),
    ],
)
def test_idempotence_is_on_unless_the_configuration_decides_otherwise(sealing, config, on) -> None:
    """Also by a setting that excludes it."""
    statistics: list[str] = []
    producer = sealing.producer({**NOBODY, "statistics.interval.ms": 10, "stats_cb": statistics.append, **config})
    assert _idempotent(producer, statistics) is on


@pytest.mark.parametrize(
    "config",
    [{"no.such.property": 1}, {"enable.idempotence": True, "acks": 1}, {"message.max.bytes": "x"}, {"on_delivery": 3}],
)
def test_a_wrong_configuration_raises_what_the_base_class_raises(sealing, config) -> None:
    """Word for word."""
    with pytest.raises(KafkaException) as expected:
        Producer({**NOBODY, **config})
    with pytest.raises(KafkaException) as caught:
        sealing.producer({**NOBODY, **config})
    assert str(caught.value) == str(expected.value)


def test_properties_may_be_given_by_keyword(sealing, topic) -> None:
    """Which win, as in the base class."""
    producer = EncryptingProducer(
        {"message.max.bytes": 1_000_000}, encryptor=sealing.encryptor, **{**NOBODY, "message.max.bytes": 2048}
    )
    with pytest.raises(RecordTooLarge):
        producer.produce(topic, b"x" * 3000)
    assert len(EncryptingProducer(encryptor=sealing.encryptor, **NOBODY)) == 0
    with pytest.raises(TypeError):
        EncryptingProducer("bootstrap.servers=127.0.0.1:1", encryptor=sealing.encryptor)


def test_the_callers_configuration_is_not_changed(sealing) -> None:
    """It may serve a plain producer next."""
    config = {**NOBODY, "default.topic.config": {"acks": "all"}}
    before = {**config, "default.topic.config": dict(config["default.topic.config"])}
    sealing.producer(config)
    assert config == before


def test_without_a_data_key_nothing_is_sent(sealing, topic) -> None:
    """Neither sealed nor in clear."""
    sealing.keys.away(GENERATE, KeyUnavailable("away"))
    producer = sealing.producer(NOBODY)
    with pytest.raises(KeyUnavailable):
        producer.produce(topic, b"v")
    with pytest.raises(KeyUnavailable):
        producer.produce_batch(topic, [{"value": b"v"}])
    assert len(producer) == 0
    sealing.keys.back(GENERATE)
    producer.produce(topic, b"v")
    assert len(producer) == 1


def test_a_closed_encryptor_sends_nothing(sealing, topic) -> None:
    """A configuration error."""
    producer = sealing.producer(NOBODY)
    sealing.encryptor.close()
    with pytest.raises(ConfigError):
        producer.produce(topic, b"v")
    assert len(producer) == 0


def test_the_context_manager_closes_and_delivers(sealing, mock_cluster, topic) -> None:
    """As in the base class; the encryptor stays open."""
    with EncryptingProducer(
        {"bootstrap.servers": mock_cluster, "log_level": 0}, encryptor=sealing.encryptor
    ) as producer:
        producer.produce(topic, b"v")
    assert sealing.open(raw(mock_cluster, topic, 1)[0])[0] == b"v"
    with pytest.raises(RuntimeError):
        producer.produce(topic, b"v")
    assert producer.close() is True
    sealing.encryptor.ready(topic)


def test_a_producer_is_freed_when_its_last_user_lets_go(sealing) -> None:
    """Without the garbage collector, as the base class is: its threads and sockets go with it."""
    gc.disable()
    try:
        producer = EncryptingProducer({**NOBODY, "on_delivery": print}, encryptor=sealing.encryptor)
        gone = weakref.ref(producer)
        del producer
        assert gone() is None
    finally:
        gc.enable()


def test_threads_share_one_producer_and_no_nonce_repeats(mock_cluster, topic) -> None:
    """While data keys rotate among them."""
    keys = LocalKeyProvider.generate()
    with Encryptor(keys, rotation=RotationPolicy(max_messages=100)) as encryptor:
        producer = EncryptingProducer({"bootstrap.servers": mock_cluster, "log_level": 0}, encryptor=encryptor)
        work = [threading.Thread(target=lambda: [producer.produce(topic, b"v") for _ in range(250)]) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        assert producer.flush(SECONDS) == 0
    records = raw(mock_cluster, topic, 1000)
    assert len({(ours(record)[0], record.value()[:12]) for record in records}) == 1000
    assert len({ours(record)[0] for record in records}) == 10


class StringsOver(SerializingProducer):
    """Stands for what applications mix."""


def test_a_serializing_producer_mixed_in_serializes_then_seals(sealing, mock_cluster, topic) -> None:
    """By the method resolution order; its own order of arguments is topic, key, value."""

    class Both(StringsOver, EncryptingProducer.bound(sealing.encryptor)):
        pass

    def like_avro(record: dict | None, context: SerializationContext) -> bytes | None:
        context.headers.append(("schema", b"7"))
        return None if record is None else b"\0" + json.dumps(record).encode()

    reports = []
    config = {
        "bootstrap.servers": mock_cluster,
        "log_level": 0,
        "key.serializer": StringSerializer("utf_8"),
        "value.serializer": like_avro,
    }
    with Both(config) as producer:
        assert isinstance(producer, EncryptingProducer)
        producer.produce(
            topic, "k", {"a": 1}, partition=0, headers=[], on_delivery=lambda *report: reports.append(report)
        )
        producer.produce(topic, key="k", value=None, partition=0, headers=[])
    value, tombstone = raw(mock_cluster, topic, 2)
    assert b'"a"' not in value.value()
    assert sealing.open(value) == (b'\0{"a": 1}', [("schema", b"7")])
    assert (value.key(), tombstone.value(), tombstone.headers()) == (b"k", None, [("schema", b"7")])
    assert len(reports) == 1


def test_a_subclass_may_override_produce(sealing, mock_cluster, topic) -> None:
    """And the batch does not go through the override, as in the base class."""
    seen = []

    class Counting(EncryptingProducer):
        def produce(self, *args, **kwargs) -> None:
            seen.append(args)
            super().produce(*args, **kwargs)

    producer = sealing.producer({"bootstrap.servers": mock_cluster}, Counting)
    producer.produce(topic, b"1")
    producer.produce_batch(topic, [{"value": b"2"}])
    assert producer.flush(SECONDS) == 0
    assert len(seen) == 1
    assert all(ours(record) for record in raw(mock_cluster, topic, 2))
