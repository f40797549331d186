"""Which topics a sidecar reads and writes, where it begins, and what it says when one is missing."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewPartitions

from tests.broker import unique_name, wait_until
from tests.sidecar import COMPLAINT, Sidecar, config_of, keyring_at, streamcrypt


def _encrypt(source, target, **settings):
    return {"mode": "encrypt", "from": source, "to": target, **settings}


def _keys(broker, topic):
    return [m.key() for m in broker.read(topic)]


def _is_one_screen(text: str) -> bool:
    return text.startswith(COMPLAINT) and len(text.splitlines()) <= 6 and "Traceback" not in text


def test_a_target_with_fewer_partitions_is_refused_at_the_start_unless_records_go_by_key(broker, tmp_path):
    """Exit 1 with both remedies; `partition: by_key` passes, and equal keys meet in one partition."""
    source, target = broker.create_topic(partitions=4), broker.create_topic(partitions=2)
    broker.produce(source, [{"key": b"%d" % (n % 10), "value": b"v", "partition": n % 4} for n in range(40)])
    keys = keyring_at(tmp_path)
    for command in ("run", "check"):
        done = streamcrypt(tmp_path, command, config_of(broker.bootstrap, keys, _encrypt(source, target)))
        said = "\n".join(x for x in (done.stdout + done.stderr).splitlines() if not x.startswith("{"))
        assert done.returncode == 1, said
        assert f"{target!r} has 2 partitions" in said
        assert "at least 4 partitions" in said
        assert "by_key" in said
    assert broker.read(target) == []
    config = config_of(broker.bootstrap, keys, _encrypt(source, target, partition="by_key"))
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(40)
        assert sidecar.stop() == 0
    where: dict[bytes, set[int]] = {}
    for message in broker.read(target):
        where.setdefault(message.key(), set()).add(message.partition())
    assert len(where) == 10
    assert all(len(partitions) == 1 for partitions in where.values())
    assert len(set().union(*where.values())) == 2


@pytest.mark.parametrize("missing", ["source", "target"])
def test_a_missing_topic_is_named_with_its_remedy(broker, tmp_path, missing):
    """By `run` and by `check`, exit 1, one screen; and it is not created by asking."""
    names = {"source": broker.create_topic(), "target": broker.create_topic(), missing: unique_name("missing")}
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _encrypt(names["source"], names["target"]))
    ran = streamcrypt(tmp_path, "run", config)
    assert ran.returncode == 1
    assert ran.stdout == ""
    said = "\n".join(line for line in ran.stderr.splitlines() if not line.startswith("{"))
    assert _is_one_screen(said)
    assert f"the {missing} topic {names[missing]!r} does not exist" in said
    assert "Create it" in said
    checked = streamcrypt(tmp_path, "check", config)
    assert checked.returncode == 1
    assert f"the {missing} topic {names[missing]!r} does not exist" in checked.stdout


def test_a_regex_reads_new_topics_and_partitions_from_their_start_and_never_its_own_targets(broker_factory, tmp_path):
    """Also with `start: latest`, which counts for the first start of the group alone; nothing is created.

    They are seen at the next look at the metadata, every 10 s by default and more often here.

    The broker would create topics for anyone who asks for them.
    """
    broker = broker_factory(auto_create=True)
    old, late = "orders.old", "orders.late"
    for topic in (old, f"{old}.encrypted"):
        broker.create_topic(topic, partitions=2)
    broker.produce(old, [{"key": b"before", "value": b"v", "partition": p} for p in (0, 1)])
    pipeline = _encrypt("^orders\\..*", "{topic}.encrypted", start="latest", exclude=["^.*\\.private"])
    config = config_of(broker.bootstrap, keyring_at(tmp_path), pipeline)
    config["kafka"]["producer"] = {"topic.metadata.refresh.interval.ms": 500}
    config["kafka"]["consumer"]["topic.metadata.refresh.interval.ms"] = 1_000
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        broker.produce(old, [{"key": b"after", "value": b"v", "partition": p} for p in (0, 1)])
        sidecar.committed(2)
        for topic in (late, f"{late}.encrypted", "orders.private", "orders.private.encrypted"):
            broker.create_topic(topic, partitions=1)
        broker.produce(late, [{"key": b"first of a new topic", "value": b"v"}])
        broker.produce("orders.private", [{"key": b"x", "value": b"v"}])
        grown = broker.admin.create_partitions([NewPartitions(name, 3) for name in (f"{old}.encrypted", old)])
        for outcome in grown.values():
            outcome.result(30)
        wait_until(lambda: len(broker.describe(old).partitions) == 3, "the new partition")
        broker.produce(old, [{"key": b"first of a new partition", "value": b"v", "partition": 2}])
        sidecar.committed(4)
        # A target that vanishes is not made anew by those who write to it, however often they look for it.
        broker.delete_topic(f"{late}.encrypted")
        broker.produce(late, [{"key": b"waits", "value": b"v"}])
        looked = len(sidecar.of("pipeline.turned")) + 1
        wait_until(lambda: len(sidecar.of("pipeline.turned")) > looked, "some looks at the metadata")
        sidecar.kill()
    changes = [event["topics"] for event in sidecar.of("pipeline.sources_changed")]
    assert changes[0] == [old]
    assert changes[-1] == [late, old]
    assert sorted(_keys(broker, f"{old}.encrypted")) == [b"after", b"after", b"first of a new partition"]
    assert _keys(broker, "orders.private.encrypted") == []
    ours = {name for name in broker.admin.list_topics(timeout=30).topics if not name.startswith("__")}
    assert ours == {old, late, "orders.private", f"{old}.encrypted", "orders.private.encrypted"}


def test_start_latest_counts_only_where_the_group_has_no_commit(broker, tmp_path):
    """A restart goes on where the group stood, whatever was written meanwhile, and so does a group with commits."""
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    broker.produce(source, [{"key": b"old", "value": b"v", "partition": p} for p in (0, 1)])
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _encrypt(source, target, start="latest"))
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        assert sidecar.stop() == 0
    broker.produce(source, [{"key": b"while it was away", "value": b"v", "partition": p} for p in (0, 1)])
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(2)
        assert sidecar.stop() == 0
    assert _keys(broker, target) == [b"while it was away"] * 2


def test_a_committed_offset_out_of_range_halts_with_the_remedy(broker, tmp_path):
    """Never a silent reset: exit 1, nothing written, and the partition is named."""
    source, target, group = broker.create_topic(), broker.create_topic(), unique_name("g")
    broker.produce(source, [{"value": b"v"}] * 3)
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(source, 0, 1_000)], asynchronous=False)
    consumer.close()
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _encrypt(source, target, group=group))
    with Sidecar(tmp_path, config) as sidecar:
        assert sidecar.wait() == 1
    assert _is_one_screen(sidecar.complaint)
    assert f"{source}[0]" in sidecar.complaint
    assert "--reset-offsets" in sidecar.complaint
    assert broker.read(target) == []


def test_a_target_that_becomes_too_small_holds_the_partition_until_it_has_grown(broker, tmp_path):
    """The records of a new source partition wait for the target's, and the others go on."""
    source, target = broker.create_topic(), broker.create_topic()
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _encrypt(source, target))
    config["kafka"]["consumer"]["topic.metadata.refresh.interval.ms"] = 500
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        broker.admin.create_partitions([NewPartitions(source, 2)])[source].result(30)
        wait_until(lambda: len(broker.describe(source).partitions) == 2, "the new partition")
        broker.produce(source, [{"key": b"%d" % n, "value": b"v", "partition": 1} for n in range(10)])
        paused = sidecar.wait_for("partition.paused")
        assert (paused["topic"], paused["partition"], paused["offset"]) == (source, 1, 0)
        assert "at least 2 partitions" in paused["remedy"]
        assert sidecar.get("/readyz")[0] == 503
        assert sidecar.get("/healthz")[0] == 200
        broker.produce(source, [{"key": b"neighbour", "value": b"v", "partition": 0}])
        sidecar.committed(1)
        broker.admin.create_partitions([NewPartitions(target, 2)])[target].result(30)
        sidecar.wait_for("partition.resumed")
        sidecar.committed(11)
        assert sidecar.stop() == 0
    assert _keys(broker, target) == [b"neighbour", *(b"%d" % n for n in range(10))]
