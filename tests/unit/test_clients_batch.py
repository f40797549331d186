"""``produce_batch``: sealed record by record, with the base class's return value, callbacks and marks."""

from __future__ import annotations

import copy

import pytest
from confluent_kafka import KafkaError, Producer

from streamcrypt import AlreadySealed, KeyUnavailable, RecordTooLarge, RotationPolicy, failure_of
from streamcrypt.clients.producer import EncryptingProducer
from streamcrypt.encryptor import Encryptor
from streamcrypt.testing.slow_keys import GENERATE
from tests.unit.test_clients_producer import NOBODY, Sealing, sealing, topic  # noqa: F401  fixtures
from tests.wrapping import SECONDS, ours, raw


def test_a_batch_is_sealed_record_by_record(sealing, mock_cluster, topic) -> None:  # noqa: F811
    """With its callbacks, keys, partitions and headers; the dicts stay as they were."""
    default, own = [], []
    messages = [
        {"value": "é", "key": "k", "partition": 0},
        {"value": b"2", "key": b"k", "partition": 1, "callback": lambda *report: own.append(report)},
        {"value": None, "key": b"k", "partition": 2},
        {"value": b"4", "headers": {"h": "1"}, "partition": 3},
    ]
    before = copy.copy([dict(message) for message in messages])
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    assert producer.produce_batch(topic, messages, -1, lambda *report: default.append(report)) == 4
    assert producer.flush(SECONDS) == 0
    assert messages == before
    assert (len(default), len(own)) == (3, 1)
    first, second, tombstone, last = raw(mock_cluster, topic, 4)
    assert sealing.open(first) == ("é".encode(), [])
    assert (first.key(), sealing.open(second)[0]) == (b"k", b"2")
    assert (tombstone.value(), tombstone.headers()) == (None, None)
    assert sealing.open(last) == (b"4", [("h", b"1")])


def test_the_batchs_partition_holds_for_records_without_one(sealing, mock_cluster, topic) -> None:  # noqa: F811
    """And the lane is the record's partition."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    assert producer.produce_batch(topic, [{"value": b"1"}, {"value": b"2", "partition": 3}], partition=1) == 2
    assert producer.flush(SECONDS) == 0
    records = raw(mock_cluster, topic, 2)
    assert [(record.partition(), record.value()[:4]) for record in records] == [
        (1, b"\0\0\0\x01"),
        (3, b"\0\0\0\x03"),
    ]


def test_an_empty_batch_is_no_records(sealing, topic) -> None:  # noqa: F811
    """And asks for no data key."""
    assert sealing.producer(NOBODY).produce_batch(topic, []) == 0
    assert sealing.keys.count(GENERATE) == 0


def test_records_that_find_the_queue_full_are_marked(sealing, topic) -> None:  # noqa: F811
    """As the base class marks them."""
    messages = [[{"value": b"1"}, {"value": b"2"}, {"value": b"3"}] for _ in range(2)]
    base = Producer({**NOBODY, "queue.buffering.max.messages": 2})
    producer = sealing.producer({**NOBODY, "queue.buffering.max.messages": 2})
    assert base.produce_batch(topic, messages[0]) == producer.produce_batch(topic, messages[1]) == 2
    assert ["_error" in message for message in messages[1]] == [False, False, True]
    expected, mark = messages[0][2]["_error"], messages[1][2]["_error"]
    assert (mark.code(), mark.str()) == (expected.code(), expected.str())
    base.purge()
    base.flush(1)


def test_records_that_are_refused_are_marked_with_the_reason(sealing, topic) -> None:  # noqa: F811
    """And their neighbours are queued."""
    messages = [{"value": b"1"}, {"value": b"x" * 3000}, {"value": b"3", "headers": {"streamcrypt": b""}}, {}]
    producer = sealing.producer({**NOBODY, "message.max.bytes": 2048})
    assert producer.produce_batch(topic, messages) == 2
    assert isinstance(failure_of(messages[1]["_error"]), RecordTooLarge)
    assert messages[1]["_error"].code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert isinstance(failure_of(messages[2]["_error"]), AlreadySealed)
    assert messages[2]["_error"].code() == KafkaError._VALUE_SERIALIZATION
    assert ["_error" in message for message in messages] == [False, True, True, False]


def test_a_key_service_that_goes_away_is_asked_once_a_batch(sealing, topic) -> None:  # noqa: F811
    """The records after the first refusal are marked without a further call."""
    encryptor = Encryptor(sealing.keys, rotation=RotationPolicy(max_messages=2, grace=0))
    encryptor.ready(topic)
    sealing.keys.away(GENERATE, KeyUnavailable("away"))
    producer = EncryptingProducer(NOBODY, encryptor=encryptor)
    messages = [{"value": b"v"} for _ in range(10)]
    asked = sealing.keys.count(GENERATE)
    queued = producer.produce_batch(topic, messages)
    assert queued in {2, 4}, "with the key at hand, and perhaps one minted ahead"
    marks = [message.get("_error") for message in messages]
    assert marks[:queued] == [None] * queued
    assert all(isinstance(failure_of(mark), KeyUnavailable) and mark.retriable() for mark in marks[queued:])
    assert sealing.keys.count(GENERATE) - asked <= 2, "one ahead, one when it was due"
    producer.purge()
    producer.flush(1)
    encryptor.close()


def test_a_partition_that_is_not_there_is_marked(sealing, mock_cluster, topic) -> None:  # noqa: F811
    """With the base class's own error; the data key is retired."""
    producer = sealing.producer({"bootstrap.servers": mock_cluster})
    producer.produce(topic, b"1")
    assert producer.flush(SECONDS) == 0
    messages = [{"value": b"2", "partition": 99}, {"value": b"3"}]
    assert producer.produce_batch(topic, messages) == 1
    assert producer.flush(SECONDS) == 0
    assert messages[0]["_error"].code() == KafkaError._UNKNOWN_PARTITION
    assert len({ours(record)[0] for record in raw(mock_cluster, topic, 2)}) == 2


WRONG_BATCHES = [
    ((), {}),
    (("t",), {}),
    ((1, []), {}),
    (("t", ({"value": b"v"},)), {}),
    (("t", [{"value": b"v"}, 3]), {}),
    (("t", [{"value": 1}]), {}),
    (("t", [{"value": bytearray(b"v")}]), {}),
    (("t", [{"value": "\ud800"}]), {}),
    (("t", [{"key": 1}]), {}),
    (("t", [{"partition": "1"}]), {}),
    (("t", [{"timestamp": 1}]), {}),
    (("t", [{"headers": 3}]), {}),
    (("t", [{"headers": [("a", 1)]}]), {}),
    (("t", [{"value": b"v"}]), {"headers": None}),
]


@pytest.mark.parametrize(("args", "kwargs"), WRONG_BATCHES)
def test_a_wrong_batch_raises_what_the_base_class_raises(sealing, args, kwargs) -> None:  # noqa: F811
    """And no record of it is queued."""
    base, wrapper = Producer(NOBODY), sealing.producer(NOBODY)
    with pytest.raises(Exception) as expected:
        base.produce_batch(*args, **kwargs)
    with pytest.raises(expected.type) as caught:
        wrapper.produce_batch(*args, **kwargs)
    if expected.type in {ValueError, NotImplementedError}:
        assert str(caught.value) == str(expected.value)
    assert len(wrapper) == 0
    base.purge()
    base.flush(1)
