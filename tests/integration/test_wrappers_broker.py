"""The client wrappers on a real Apache Kafka: groups, transactions, and what a broker refuses."""

from __future__ import annotations

import contextlib

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt import (
    AuthenticationFailed,
    DecryptingConsumer,
    Decryptor,
    EncryptingProducer,
    Encryptor,
    KeyUnavailable,
    LocalKeyProvider,
    failure_of,
)
from streamcrypt.events import DataKeyRetired, PartitionPaused
from streamcrypt.testing import CollectingObserver
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.odd_headers import send
from tests.wrapping import SECONDS, eventually, ours, take, unique

AWAY = KeyUnavailable("KMS is away", operation="Decrypt")
PROTOCOLS = {
    "eager": {"partition.assignment.strategy": "range"},
    "cooperative": {"partition.assignment.strategy": "cooperative-sticky"},
    "consumer": {"group.protocol": "consumer"},
}


class World:
    """One topic, keys, and clients that get closed."""

    def __init__(self, broker, partitions=4, config=None) -> None:
        self.broker = broker
        self.topic = broker.create_topic(unique(), partitions=partitions, config=config or {})
        self.group = unique("group")
        self.script = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.seen = CollectingObserver()
        self.encryptor = Encryptor(self.script, observer=self.seen)
        self.open = contextlib.ExitStack()
        self.open.callback(self.encryptor.close)

    def producer(self, **config) -> EncryptingProducer:
        """Makes a producer that is closed at the end of the test."""
        config = {"bootstrap.servers": self.broker.bootstrap, "log_level": 0, **config}
        return self.open.enter_context(EncryptingProducer(config, encryptor=self.encryptor))

    def config(self, **config) -> dict:
        """Gives a consumer's configuration."""
        return {
            "bootstrap.servers": self.broker.bootstrap,
            "group.id": self.group,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **config,
        }

    def consumer(self, *, keys=None, on_error="return", **config) -> DecryptingConsumer:
        """Makes a consumer that is closed at the end of the test."""
        decryptor = Decryptor(keys or self.script, observer=self.seen)
        return self.open.enter_context(
            DecryptingConsumer(self.config(**config), decryptor=decryptor, on_error=on_error)
        )

    def committed(self) -> list[int]:
        """Gives what the group has committed for each partition."""
        with Consumer(self.config()) as consumer:
            places = [TopicPartition(self.topic, partition) for partition in range(4)]
            return [place.offset for place in consumer.committed(places, timeout=SECONDS)]


@pytest.fixture
def world(broker):
    """A topic of four partitions."""
    made = World(broker)
    with made.open:
        yield made


def test_a_group_reads_what_was_sealed_and_goes_on_where_it_stopped(world) -> None:
    """Written and read by the loops that confluent-kafka documents, wrappers in place of the base classes."""
    producer = world.producer()
    for number in range(40):
        producer.produce(world.topic, key=str(number), value=f"value {number}", headers={"n": str(number)})
        producer.poll(0)
    assert producer.flush(SECONDS) == 0
    records = world.broker.read(world.topic)
    assert len(records) == 40
    assert all(len(ours(record)) == 1 and b"value" not in record.value() for record in records)
    first = world.consumer(**{"auto.commit.interval.ms": 100})
    first.subscribe([world.topic])
    found = take(first, 25)
    first.close()
    second = world.consumer()
    second.subscribe([world.topic])
    found += take(second, 15)
    expected = {str(n).encode(): (f"value {n}".encode(), [("n", str(n).encode())]) for n in range(40)}
    assert {message.key(): (message.value(), message.headers()) for message in found} == expected
    assert len(found) == 40


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # kafka-python's own
@pytest.mark.parametrize("batch", [1, 100], ids=["poll", "consume"])
def test_a_header_name_that_is_no_text_fails_its_record_and_nothing_else(world, batch) -> None:
    """confluent-kafka raises when it is first asked for such headers, and gives a null pointer from then on."""
    sealed = [world.encryptor.encrypt(world.topic, b"value %d" % n, b"%d" % n) for n in range(6)]
    send(world.broker.bootstrap, world.topic, [(v, b"%d" % n, h, n in (2, 3)) for n, (v, h) in enumerate(sealed)])
    consumer = world.consumer()
    consumer.subscribe([world.topic])
    found: list[Message] = []

    def all_there() -> bool:
        got = consumer.consume(batch, 0.2) if batch > 1 else [consumer.poll(0.2)]
        found.extend(message for message in got if message is not None)
        return len(found) == 6

    eventually(all_there, "all six")
    failed = {int(m.key()): failure_of(m) for m in found if m.error() is not None}
    assert [(n, type(failure).__name__) for n, failure in failed.items()] == [
        (2, "MalformedEnvelope"),
        (3, "MalformedEnvelope"),
    ]
    assert all(m.headers() is None for m in found if m.error() is not None)
    assert [m.value() for m in found if m.error() is None] == [b"value %d" % n for n in (0, 1, 4, 5)]


def test_a_record_over_the_topics_limit_retires_the_data_key(broker) -> None:
    """The broker refuses it after it was queued; without a callback nobody else would notice."""
    world = World(broker, config={"max.message.bytes": "2000"})
    with world.open:
        producer = world.producer()
        producer.produce(world.topic, b"x" * 1000, partition=0)
        producer.flush(SECONDS)
        producer.produce(world.topic, b"x" * 5000, partition=0)
        producer.flush(SECONDS)
        assert [event.reason for event in world.seen.of(DataKeyRetired)] == ["failure"]
        producer.produce(world.topic, b"x" * 1000, partition=0)
        producer.flush(SECONDS)
        first, second = broker.read(world.topic)
        assert ours(first) != ours(second)


def test_a_transaction_that_consumes_and_produces(world, broker) -> None:
    """The offsets go with position(); what was aborted is not read, and comes again."""
    source = world.producer()
    for number in range(6):
        source.produce(world.topic, b"%d" % number, partition=0)
    assert source.flush(SECONDS) == 0
    target = broker.create_topic(unique("target"))
    producer = world.producer(**{"transactional.id": unique("tx")})
    producer.init_transactions(SECONDS)
    consumer = world.consumer(**{"enable.auto.commit": False, "isolation.level": "read_committed"})
    consumer.subscribe([world.topic])

    def carry(count) -> None:
        producer.begin_transaction()
        for message in take(consumer, count):
            producer.produce(target, message.value(), message.key(), 0)
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), SECONDS
        )

    carry(2)
    producer.commit_transaction(SECONDS)
    carry(2)
    producer.abort_transaction(SECONDS)
    assert world.committed()[0] == 2
    consumer.seek(TopicPartition(world.topic, 0, 2))
    carry(4)
    producer.commit_transaction(SECONDS)
    assert world.committed()[0] == 6
    reader = world.consumer(**{"group.id": unique("reader"), "isolation.level": "read_committed"})
    reader.subscribe([target])
    assert [message.value() for message in take(reader, 6)] == [b"%d" % number for number in range(6)]


def _seal_under_two_keys(world) -> None:
    """Twelve records a partition, the last six under a second data key."""
    producer = world.producer()
    for key in range(2):
        for number in range(key * 6, key * 6 + 6):
            for partition in range(4):
                producer.produce(world.topic, b"%d" % number, partition=partition)
        assert producer.flush(SECONDS) == 0
        world.encryptor.retire(world.topic, "failure")


def _give_first_key_only(world) -> None:
    world.script.script(DECRYPT, None)
    world.script.away(DECRYPT, AWAY)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_rebalance_while_partitions_wait_loses_nothing(world, protocol) -> None:
    """A second member takes half of them over, with the key service away for both; then it comes back."""
    _seal_under_two_keys(world)
    _give_first_key_only(world)
    config = {"auto.commit.interval.ms": 50, **PROTOCOLS[protocol]}
    found: list = []
    first = world.consumer(**config)
    first.subscribe([world.topic])
    found += take(first, 24)
    eventually(lambda: first.poll(0.02) or len(world.seen.of(PartitionPaused)) == 4, "four pauses")
    second = world.consumer(**config)
    second.subscribe([world.topic])

    def shared() -> bool:
        found.extend(message for message in (first.poll(0.05), second.poll(0.05)) if message is not None)
        return len(first.assignment()) == len(second.assignment()) == 2

    eventually(shared, "two partitions each")
    eventually(lambda: shared() and world.committed() == [6] * 4, "the commits of the first key's records")
    assert {message.error() for message in found} == {None}
    world.script.back(DECRYPT)
    eventually(lambda: shared() and len(found) >= 48, "the rest")
    by_partition = {n: [m.value() for m in found if m.partition() == n] for n in range(4)}
    assert by_partition == {n: [b"%d" % number for number in range(12)] for n in range(4)}
    eventually(lambda: shared() and world.committed() == [12] * 4, "the commits")


def test_after_a_crash_the_group_meets_the_waiting_record_first(world) -> None:
    """Whatever librdkafka committed by its timer before it."""
    _seal_under_two_keys(world)
    _give_first_key_only(world)

    def live_and_crash() -> None:
        config = world.config(**{"auto.commit.interval.ms": 20, "session.timeout.ms": 6000})
        consumer = DecryptingConsumer(config, decryptor=Decryptor(world.script, observer=world.seen))
        consumer.subscribe([world.topic])
        found: list = []
        eventually(lambda: found.extend(consumer.consume(1000, 0.2)) or len(found) == 24, "the first key's records")
        eventually(lambda: consumer.poll(0.02) or world.committed() == [6] * 4, "the commits")

    # No close(): the broker sees a member that is gone, as after kill -9.
    live_and_crash()
    world.script.back(DECRYPT)
    second = world.consumer()
    second.subscribe([world.topic])
    messages = take(second, 24)
    assert {message.partition(): message.offset() for message in reversed(messages)} == dict.fromkeys(range(4), 6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_application_that_ends_on_a_raised_error_meets_the_record_again(world, protocol) -> None:
    """Until somebody mends the topic or skips the record."""
    producer = world.producer()
    producer.produce(world.topic, b"good", partition=0)
    producer.flush(SECONDS)
    [good] = world.broker.read(world.topic)
    bad = {"value": good.value()[:-1] + bytes([good.value()[-1] ^ 1]), "headers": good.headers(), "partition": 0}
    world.broker.produce(world.topic, [bad])

    def run() -> tuple[list, bytes | None]:
        values: list = []
        with (
            pytest.raises(AuthenticationFailed) as caught,
            world.consumer(on_error="raise", **PROTOCOLS[protocol]) as consumer,
        ):
            consumer.subscribe([world.topic])
            eventually(lambda: values.extend(m.value() for m in consumer.consume(10, 0.2)), "a failure")
        return values, caught.value.sealed_value

    assert run() == ([b"good"], bad["value"])
    assert run() == ([], bad["value"])


def test_lost_partitions_are_told_as_the_base_class_tells_them(world, broker) -> None:
    """To on_lost, or to on_revoke where there is none; what was handed over of them is not committed any more."""
    producer = world.producer()
    for partition in range(4):
        producer.produce(world.topic, b"v", partition=partition)
    assert producer.flush(SECONDS) == 0
    calls: dict = {}
    consumers: dict = {}
    for who, kind, names in (
        ("plain", Consumer, ("assign", "revoke")),
        ("without", DecryptingConsumer, ("assign", "revoke")),
        ("with", DecryptingConsumer, ("assign", "revoke", "lost")),
    ):
        heard = calls[who] = []
        config = world.config(
            **{"group.id": f"{world.group}-{who}", "max.poll.interval.ms": 6000, "session.timeout.ms": 6000}
        )
        options = {} if kind is Consumer else {"decryptor": Decryptor(world.script)}
        consumer = consumers[who] = world.open.enter_context(kind(config, **options))
        consumer.subscribe(
            [world.topic], **{f"on_{name}": (lambda c, p, n=name, h=heard: h.append((n, c, len(p)))) for name in names}
        )
    for consumer in consumers.values():
        take(consumer, 4)

    def members() -> int:
        groups = [f"{world.group}-{who}" for who in consumers]
        described = broker.admin.describe_consumer_groups(groups, request_timeout=30).values()
        return sum(len(group.result().members) for group in described)

    eventually(lambda: members() == 0, "three members that are out for not polling")
    for who, consumer in consumers.items():
        eventually(lambda: (consumer.poll(0.1) and False) or len(calls[who]) >= 2, "the loss")  # noqa: B023
        assert calls[who][1] == ("lost" if who == "with" else "revoke", consumer, 4)


def test_a_commit_of_a_failed_message_counts_in_the_group(world) -> None:
    """And the next member starts behind it."""
    world.broker.produce(world.topic, [{"value": b"plaintext", "partition": 0}])
    producer = world.producer()
    producer.produce(world.topic, b"good", partition=0)
    assert producer.flush(SECONDS) == 0
    first = world.consumer(**{"enable.auto.commit": False})
    first.subscribe([world.topic])
    [failed] = take(first, 1)
    assert failure_of(failed).sealed_value == b"plaintext"
    first.commit(message=failed, asynchronous=False)
    first.close()
    second = world.consumer(**{"enable.auto.commit": False})
    second.subscribe([world.topic])
    assert take(second, 1)[0].value() == b"good"
    with pytest.raises(KafkaException):
        end = Message(topic=world.topic, partition=0, offset=1, error=KafkaError(KafkaError._PARTITION_EOF))
        second.commit(message=end, asynchronous=False)
