"""Exactly once: what a reader of committed records sees, whatever happens to the sidecar, its peers and its broker."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streamcrypt.testing import KMSServer
from tests.broker import unique_name, wait_until
from tests.sidecar import COMPLAINT, Load, Sidecar, config_of, keyring_at, kms_keys, numbers

PARTITIONS = 3
SEED = 20261124


def _numbers(broker, topic: str) -> list[list[int]]:
    return numbers(broker, topic, PARTITIONS)


def _assert_each_once(broker, topic: str, count: int, seconds: float = 120) -> None:
    """Every record arrives; none twice, each partition in order."""
    wait_until(lambda: sum(map(len, _numbers(broker, topic))) >= count, "every record", seconds)
    assert _numbers(broker, topic) == [list(range(p, count, PARTITIONS)) for p in range(PARTITIONS)]


def _pipeline(config: dict[str, Any]) -> dict[str, Any]:
    return config["pipelines"][0]


def _committed(broker, group: str, topic: str) -> list[int]:
    """The group's offsets, partition by partition; -1001 where it has none."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "log_level": 0})
    try:
        places = [TopicPartition(topic, p) for p in range(len(broker.describe(topic).partitions))]
        return [place.offset for place in consumer.committed(places, timeout=30)]
    except KafkaException:
        return []  # its coordinator is on its way
    finally:
        consumer.close()


def _ends(broker, topic: str) -> list[int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "ends"})
    try:
        places = [TopicPartition(topic, p) for p in range(len(broker.describe(topic).partitions))]
        return [consumer.get_watermark_offsets(place, timeout=30)[1] for place in places]
    finally:
        consumer.close()


@pytest.fixture
def config(broker, tmp_path):
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    return config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})


def test_kill_9_in_the_middle_of_a_transaction_doubles_and_loses_nothing(broker, tmp_path, config):
    """Five times at random instants; after each restart the group is back within its session."""
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    chance = random.Random(SEED)
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load:
        for _ in range(5):
            with Sidecar(tmp_path, config) as sidecar:
                sidecar.wait_for("batch.done")
                sidecar.wait_for("batch.done", after=len(sidecar.events))
                threading.Event().wait(chance.uniform(0.0, 0.3))
                sidecar.kill()
    with Sidecar(tmp_path, config) as sidecar:
        _assert_each_once(broker, target, load.sent)
        assert sidecar.stop() == 0


def test_the_position_passes_control_records_so_that_lag_becomes_zero(broker, tmp_path, config):
    """On a source that is itself written in transactions, some of them aborted, to the last one."""
    source = _pipeline(config)["from"]
    writer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("w")})
    writer.init_transactions(20)
    for unit, commit in enumerate([True, False, True, False]):
        writer.begin_transaction()
        for partition in range(PARTITIONS):
            writer.produce(source, b"v", b"%d" % unit, partition)
        (writer.commit_transaction if commit else writer.abort_transaction)(20)
    writer.close()
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(2 * PARTITIONS)
        group = _pipeline(config)["group"]
        wait_until(lambda: _committed(broker, group, source) == _ends(broker, source), "no lag")
        assert sidecar.stop() == 0


def test_offsets_are_committed_with_records_that_are_skipped_only(broker, tmp_path, config):
    """A skipped record is finished: where nothing else comes, its offset is committed all the same."""
    _pipeline(config)["on_failure"] = "skip"
    source = _pipeline(config)["from"]
    sealed = [("streamcrypt", b"forged")]
    broker.produce(source, [{"value": b"v", "partition": p, "headers": sealed} for p in range(PARTITIONS)])
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: _committed(broker, _pipeline(config)["group"], source) == [1] * PARTITIONS, "the commit")
        assert len(sidecar.of("record.failed")) == PARTITIONS
        assert sidecar.stop() == 0


# name: (configuration of the target, the record that its broker refuses, error class)
REFUSALS: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "size": ({"max.message.bytes": "50000"}, {"key": b"bad", "value": b"x" * 60_000}, "RecordTooLarge"),
    "timestamp": (
        {"message.timestamp.before.max.ms": "3600000"},
        {"key": b"bad", "value": b"x", "timestamp": 1_000},
        "RecordRefused",
    ),
    "null key": ({"cleanup.policy": "compact"}, {"value": b"x"}, "RecordRefused"),
}
NEIGHBOURS = 40


def _refusing(broker, tmp_path, kind: str, **pipeline) -> tuple[dict[str, Any], str, str]:
    settings, bad, _ = REFUSALS[kind]
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2, config=settings)
    good = [{"key": b"%d" % n, "value": b"v", "partition": n % 2} for n in range(NEIGHBOURS)]
    broker.produce(source, [*good[:20], {**bad, "partition": 0}, *good[20:30], {**bad, "partition": 1}, *good[30:]])
    pipeline = {"mode": "encrypt", "from": source, "to": target, **pipeline}
    config = config_of(broker.bootstrap, keyring_at(tmp_path), pipeline)
    config["kafka"]["producer"] = {"compression.type": "none", "batch.size": 20_000}
    return config, source, target


def _assert_neighbours(broker, target: str) -> None:
    by_partition = [[int(m.key()) for m in broker.read(target) if m.partition() == p] for p in range(2)]
    assert by_partition == [list(range(p, NEIGHBOURS, 2)) for p in range(2)]


@pytest.mark.parametrize(
    ("kind", "policy"), [("size", "skip"), ("timestamp", "dead_letter"), ("null key", "dead_letter")]
)
def test_of_a_batch_that_a_broker_refuses_only_the_culprit_is_left_behind(broker, tmp_path, kind, policy):
    """Also in a group that has never committed: the unit is read again, neighbours pass in order under a new key."""
    letters = broker.create_topic()
    extra = {"dead_letter": letters} if policy == "dead_letter" else {}
    config, source, target = _refusing(broker, tmp_path, kind, on_failure=policy, **extra)
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(
            lambda: _committed(broker, _pipeline(config)["group"], source) == [21, 21], "all to be committed", 90
        )
        assert {e["error"] for e in sidecar.of("record.failed")} == {REFUSALS[kind][2]}
        assert sidecar.of("unit.given_up")
        assert sidecar.of("pipeline.restarting") == []
        # What was sealed may have been seen by readers of uncommitted records: its key is not used again.
        assert "failure" in {e["reason"] for e in sidecar.of("data_key.retired")}
        assert sidecar.get("/healthz")[0] == 200
        assert sidecar.stop() == 0
    _assert_neighbours(broker, target)
    assert len(broker.read(letters)) == (2 if policy == "dead_letter" else 0)


@pytest.mark.parametrize("kind", REFUSALS)
def test_of_a_batch_that_a_broker_refuses_the_culprit_halts_with_its_place(broker, tmp_path, kind):
    """All before it is committed; the message names the source record and a remedy."""
    config, source, _ = _refusing(broker, tmp_path, kind)
    with Sidecar(tmp_path, config) as sidecar:
        assert sidecar.wait() == 1
    assert sidecar.complaint.startswith(COMPLAINT)
    assert f"{source}[0] offset 10" in sidecar.complaint or f"{source}[1] offset 15" in sidecar.complaint
    assert REFUSALS[kind][2] in sidecar.complaint
    assert len(sidecar.complaint.splitlines()) >= 2
    assert 10 in _committed(broker, _pipeline(config)["group"], source) or 15 in _committed(
        broker, _pipeline(config)["group"], source
    )


def test_a_refused_record_among_thousands_costs_seconds_not_minutes(broker, tmp_path):
    """The culprit is found among its neighbours by ever smaller units."""
    count = 6_000
    source, target = broker.create_topic(), broker.create_topic(config={"max.message.bytes": "50000"})
    records = [{"key": b"%d" % n, "value": b"v"} for n in range(count)]
    records[4_321]["value"] = b"x" * 60_000
    broker.produce(source, records)
    pipeline = {"mode": "encrypt", "from": source, "to": target, "on_failure": "skip"}
    config = config_of(broker.bootstrap, keyring_at(tmp_path), pipeline)
    config["kafka"]["producer"] = {"compression.type": "none", "batch.size": 20_000}
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.wait_for("record.failed")
        wait_until(lambda: len(broker.read(target)) == count - 1, "the others")
        # librdkafka follows each refusal up with a failure of its own, "skipped sequence numbers".
        assert len(sidecar.of("unit.given_up")) <= 30
        assert len(sidecar.of("data_key.minted")) <= 32
        assert sidecar.stop() == 0
    assert [int(m.key()) for m in broker.read(target)] == [n for n in range(count) if n != 4_321]


def test_a_second_process_with_our_instance_fences_us_and_the_log_says_why(broker, tmp_path, config):
    """Both causes are named, `/healthz` fails while the clients are made anew, and no record comes twice."""
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    other = {**config, "http": {"port": config_of("", {})["http"]["port"]}}
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load, Sidecar(tmp_path, config) as first:
        first.committed(500)
        with Sidecar(tmp_path, other) as second:
            restarting = first.wait_for("pipeline.restarting")
            wait_until(lambda: first.get("/healthz")[0] == 503, "a failing health check")
            for words in ("second process", "transaction.timeout.ms", "instance"):
                assert words in restarting["detail"]
            second.kill()
        first.ready()
        wait_until(lambda: first.get("/healthz")[0] == 200, "health")
        passed = load.sent
        wait_until(lambda: load.sent > passed, "more load")
    with Sidecar(tmp_path, config) as last:
        _assert_each_once(broker, target, load.sent)
        assert last.stop() == 0


def test_a_pause_longer_than_the_transaction_timeout_doubles_nothing(broker, tmp_path, config):
    """SIGSTOP in mid-transaction, the coordinator aborts it, SIGCONT: its records are sealed and sent again."""
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    config["kafka"]["producer"] = {"transaction.timeout.ms": 2_000}
    _pipeline(config)["commit_interval"] = "900ms"
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load, Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(300)
        sidecar.wait_for("batch.done", after=len(sidecar.events))
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        time.sleep(4.0)  # what is tested is a pause
        os.kill(sidecar.process.pid, signal.SIGCONT)
        seen = len(sidecar.events)
        sidecar.wait_for("offsets.committed", after=seen, where=lambda e: e["records"] > 0)
    with Sidecar(tmp_path, config) as sidecar:
        _assert_each_once(broker, target, load.sent)
        assert sidecar.stop() == 0


def test_members_come_go_and_are_missed_and_each_record_arrives_once(broker, tmp_path, config):
    """One joins and leaves by SIGTERM; one is stopped past its session, loses its partitions and comes back."""
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    second, third = (
        {
            **config,
            "http": {"port": config_of("", {})["http"]["port"]},
            "pipelines": [{**_pipeline(config), "instance": unique_name("i")}],
        }
        for _ in range(2)
    )
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load, Sidecar(tmp_path, config) as first:
        first.committed(500)
        with Sidecar(tmp_path, second) as brief:
            brief.wait_for("batch.done")
            first.wait_for("partitions.revoked")
            assert brief.stop() == 0
        with Sidecar(tmp_path, third) as missed:
            missed.wait_for("batch.done")
            os.kill(missed.process.pid, signal.SIGSTOP)
            # Only turns from now on: it may not have turned since it gave one away.
            turns = len(first.of("pipeline.turned"))
            wait_until(
                lambda: [e["assigned"] for e in first.of("pipeline.turned")[turns:][-2:]] == [PARTITIONS] * 2,
                "the first to have all partitions",
            )
            os.kill(missed.process.pid, signal.SIGCONT)
            # A batch that was under way when it was stopped may end before it learns that it was missed.
            wait_until(
                lambda: missed.of("partitions.lost") or missed.of("pipeline.restarting"),
                "it to learn that it was missed",
            )
            seen = len(missed.events)
            missed.wait_for("batch.done", after=seen)
            assert missed.stop() == 0
        assert first.of("unit.given_up") == [] or first.process.poll() is None
    with Sidecar(tmp_path, config) as last:
        _assert_each_once(broker, target, load.sent)
        assert last.stop() == 0


def test_the_consumer_group_protocol_needs_no_classic_property_and_recovers(broker_factory, tmp_path):
    """KIP-848: no instance id; members come, go and are killed; the broker misses one after its own session."""
    broker = broker_factory(
        config={
            "group.consumer.min.session.timeout.ms": "6000",
            "group.consumer.session.timeout.ms": "6000",
            # A member learns of a new assignment with its next heartbeat.
            "group.consumer.min.heartbeat.interval.ms": "500",
            "group.consumer.heartbeat.interval.ms": "500",
        }
    )
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    config["kafka"] = {"bootstrap.servers": broker.bootstrap, "group.protocol": "consumer"}
    other = {
        **config,
        "http": {"port": config_of("", {})["http"]["port"]},
        "pipelines": [{**_pipeline(config), "instance": unique_name("i")}],
    }
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load:
        with Sidecar(tmp_path, config) as first:
            first.committed(500)
            group = _pipeline(config)["group"]
            found = broker.admin.describe_consumer_groups([group])[group].result(30)
            assert [member.group_instance_id for member in found.members] == [None]
            with Sidecar(tmp_path, other) as second:
                second.wait_for("batch.done")
                first.wait_for("partitions.revoked")
                assert second.stop() == 0
            with Sidecar(tmp_path, other) as second:
                second.wait_for("batch.done")
                second.kill()
            first.kill()
        with Sidecar(tmp_path, config) as first:
            first.wait_for("batch.done")
    with Sidecar(tmp_path, config) as last:
        _assert_each_once(broker, target, load.sent)
        assert last.stop() == 0


def test_while_kms_is_away_no_transaction_stays_open(broker, tmp_path):
    """What was sealed before is committed at once, though no commit is due, and the partition waits without one."""
    source, target = broker.create_topic(), broker.create_topic()
    with KMSServer() as kms:
        kms.create_key("alias/payments")
        pipeline = {"mode": "encrypt", "from": source, "to": target, "commit_interval": "1h"}
        config = config_of(
            broker.bootstrap, kms_keys(kms), pipeline, rotation={"max_messages": 50, "max_age": "10m", "grace": "0s"}
        )
        # What is sealed is committed after half of it at the latest.
        config["kafka"]["producer"] = {"transaction.timeout.ms": 120_000}
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.ready()
            kms.drop()
            broker.produce(source, [{"key": b"%d" % n, "value": b"v"} for n in range(200)])
            paused = sidecar.wait_for("partition.paused")
            sidecar.wait_for("pipeline.turned", after=sidecar.events.index(paused))
            before = sum(event["records"] for event in sidecar.of("batch.done"))
            assert 0 < before < 200
            assert before % 50 == 0
            wait_until(lambda: len(broker.read(target)) == before, "what was sealed", 30)
            # An open transaction would hold back readers of everything behind it.
            broker.produce(target, [{"key": b"-1", "value": b"of somebody else"}])
            assert len(broker.read(target)) == before + 1
            kms.heal()
            wait_until(lambda: sum(event["records"] for event in sidecar.of("batch.done")) == 200, "the others")
            assert sidecar.stop() == 0
    assert len(broker.read(target)) == 201
    assert [int(m.key()) for m in broker.read(target) if m.key() != b"-1"] == list(range(200))


def test_a_commit_interval_longer_than_a_transaction_may_last_does_not_fence_ourselves(broker, tmp_path, config):
    """It commits within half of the transaction timeout."""
    _pipeline(config)["commit_interval"] = "1h"
    config["kafka"]["producer"] = {"transaction.timeout.ms": 5_000}
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    with Load(broker, source, PARTITIONS, burst=150, size=100).running() as load, Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(600)
        assert sidecar.of("pipeline.restarting") == []
        assert sidecar.stop() == 0
    with Sidecar(tmp_path, config) as sidecar:
        _assert_each_once(broker, target, load.sent)
        assert sidecar.stop() == 0


def test_static_ids_name_group_instance_and_worker(broker, tmp_path, config):
    """`group.instance.id` is <group>.<instance>.<worker>, and nothing but a session is between a crash and return."""
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        group = _pipeline(config)["group"]
        found = broker.admin.describe_consumer_groups([group])[group].result(30)
        assert [m.group_instance_id for m in found.members] == [f"{group}.{_pipeline(config)['instance']}.0"]
        assert sidecar.stop() == 0


def test_a_signal_in_the_middle_of_holds_and_batches_commits_nothing_that_did_not_pass(broker, tmp_path):
    """Stopped while some partitions wait for KMS and others pass: the next start continues without a gap."""
    count, partitions = 300, 6
    sources = [broker.create_topic(partitions=partitions), broker.create_topic(partitions=partitions)]
    targets = {topic: broker.create_topic(f"{topic}.sealed", partitions=partitions) for topic in sources}
    with KMSServer() as kms:
        kms.create_key("alias/payments")
        pipeline = {"mode": "encrypt", "from": sources, "to": "{topic}.sealed"}
        config = config_of(
            broker.bootstrap, kms_keys(kms), pipeline, rotation={"max_messages": 10, "max_age": "10m", "grace": "0s"}
        )
        sent = 0

        def produce() -> None:
            nonlocal sent
            numbers = range(sent, sent + count)
            for source in sources:
                broker.produce(
                    source, [{"key": b"%d" % n, "value": b"v", "partition": n % partitions} for n in numbers]
                )
            sent += count

        produce()
        for turn in itertools.count():
            with Sidecar(tmp_path, config) as sidecar:
                sidecar.wait_for("batch.done")
                if turn < 3:
                    kms.drop()
                    # It may have passed all that there was before KMS went; and minted ahead, for 160 records of each.
                    produce()
                    sidecar.wait_for("partition.paused")
                    threading.Event().wait(0.1 * turn)
                else:
                    for target in targets.values():
                        wait_until(lambda t=target: len(broker.read(t)) >= sent, "every record", 120)
                assert sidecar.stop() == 0
                kms.heal()
            if turn == 3:
                break
    for target in targets.values():
        for p in range(partitions):
            found = [int(m.key()) for m in broker.read(target) if m.partition() == p]
            assert found == list(range(p, sent, partitions))
