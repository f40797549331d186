"""How a sidecar ends, by signal, by force or against a dead broker, and what the next one makes of it."""

from __future__ import annotations

import os
import signal

import pytest

from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.sidecar import COMPLAINT, READY, STOPPED, Load, Sidecar, config_of, keyring_at, kms_keys, numbers

PARTITIONS = 3


def _numbers(broker, topic: str) -> list[list[int]]:
    return numbers(broker, topic, PARTITIONS)


@pytest.fixture
def config(broker, tmp_path):
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    return config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})


def _topics(config) -> tuple[str, str]:
    return config["pipelines"][0]["from"], config["pipelines"][0]["to"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_it_in_time_and_a_restart_goes_on_exactly_there(broker, tmp_path, config, how):
    """Exit 0 within 10 s, all that was begun is delivered and committed: nothing missing, nothing twice, in order."""
    source, target = _topics(config)
    with Load(broker, source, PARTITIONS).running() as load:
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.committed(1_000)
            assert sidecar.stop(how, seconds=10) == 0
        assert sidecar.stdout == b""
        assert sidecar.complaint == ""
        assert sidecar.events[-1]["event"] == STOPPED
        assert sidecar.events[-1]["clean"] is True
        read = sum(map(len, _numbers(broker, target)))
        assert sidecar.events[-1]["records"] == read
        passed = load.sent
        wait_until(lambda: load.sent > passed, "more load")
        restarted = Sidecar(tmp_path, config)
    with restarted as sidecar:
        sidecar.committed(load.sent - read)
        assert sidecar.stop() == 0
    assert _numbers(broker, target) == [list(range(p, load.sent, PARTITIONS)) for p in range(PARTITIONS)]


def test_kill_9_under_load_loses_nothing_at_least_once(broker, tmp_path, config):
    """The next one begins at the last commit: records may come twice, none is missing, first ones are in order."""
    config["pipelines"][0]["delivery"] = "at_least_once"
    source, target = _topics(config)
    with Load(broker, source, PARTITIONS).running() as load:
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.committed(1_000)
            sidecar.wait_for("batch.done", after=len(sidecar.events))
            sidecar.kill()
        assert sidecar.stdout == b""
    with Sidecar(tmp_path, config) as sidecar:
        expected = [list(range(p, load.sent, PARTITIONS)) for p in range(PARTITIONS)]
        sidecar.ready()
        wait_until(lambda: [list(dict.fromkeys(n)) for n in _numbers(broker, target)] == expected, "every record", 120)
        assert sidecar.stop() == 0


def test_a_second_signal_ends_it_at_once_with_130(broker, tmp_path, config):
    """Where the drain has to wait for a target that is gone, nobody has to wait for the drain."""
    source, target = _topics(config)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        broker.delete_topic(target)
        broker.produce(source, [{"key": b"0", "value": b"v"}])
        sidecar.wait_for("batch.done")
        sidecar.process.send_signal(signal.SIGTERM)
        # Without it the drain would end by itself, and with another code.
        assert sidecar.stop(signal.SIGINT) == 130


def test_a_drain_that_cannot_finish_ends_in_time_and_says_so(broker, tmp_path, config):
    """Exit 1 within 10 s, though the producer's queue is full: what it did not take is read again, in order."""
    source, target = _topics(config)
    config["kafka"]["producer"] = {"queue.buffering.max.messages": 10}
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        broker.delete_topic(target)
        broker.produce(source, [{"key": b"%d" % n, "value": b"v", "partition": 0} for n in range(100)])
        wait_until(
            lambda: sidecar.metric("streamcrypt_data_key_records", topic=target) > 10,
            "more records than the queue takes",
        )
        turns = len(sidecar.of("pipeline.turned"))
        wait_until(lambda: len(sidecar.of("pipeline.turned")) > turns + 1, "the loop to turn while the queue is full")
        assert sidecar.get("/healthz")[0] == 200
        assert sum(event["records"] for event in sidecar.of("batch.done")) <= 10
        assert sidecar.stop(seconds=10) == 1
    assert sidecar.complaint.startswith(COMPLAINT)
    assert "read again" in sidecar.complaint
    assert sidecar.events[-1]["clean"] is False
    broker.create_topic(target, partitions=PARTITIONS)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(100)
        assert sidecar.stop() == 0
    assert _numbers(broker, target) == [list(range(100)), [], []]


def test_a_frozen_or_dead_broker_does_not_keep_it_from_ending(broker_factory, tmp_path):
    """Commit and farewell have no one to go to: within 10 s all the same, exit 1, and what passed is read again."""
    private = broker_factory()
    source, target = (private.create_topic(partitions=PARTITIONS) for _ in range(2))
    config = config_of(private.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    config["pipelines"][0] |= {"commit_interval": "1h", "delivery": "at_least_once"}
    private.produce(source, [{"key": b"%d" % n, "value": b"v", "partition": n % PARTITIONS} for n in range(300)])
    pid = getattr(private, "pid", None)
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: sum(e["records"] for e in sidecar.of("batch.done")) == 300, "all records")
        wait_until(lambda: len(private.read(target)) == 300, "their delivery")
        if pid is None:
            private.kill()  # in a container it has no process of ours to freeze
        else:
            os.kill(pid, signal.SIGSTOP)
        assert sidecar.stop(seconds=10) == 1
        if pid is not None:
            os.kill(pid, signal.SIGCONT)
    assert "read again" in sidecar.complaint
    assert sidecar.events[-1]["event"] == STOPPED


def test_a_signal_while_it_waits_for_its_first_key_is_obeyed(broker, tmp_path, config):
    with KMSServer() as kms:
        kms.create_key("alias/payments")
        kms.hang()
        config["keys"] = kms_keys(kms)
        with Sidecar(tmp_path, config) as sidecar:
            wait_until(lambda: len(kms.calls) > 0, "the first call")
            assert sidecar.stop(seconds=10) == 0
        assert sidecar.of(READY) == []


def test_a_partition_that_waits_survives_leaving_and_coming_back(broker, tmp_path, config):
    """Held, taken over by a second member, given back, and healed: its records pass, in order, none missing."""
    source, sealed = _topics(config)
    opened = broker.create_topic(partitions=PARTITIONS)
    with KMSServer() as kms:
        arn = kms.create_key("alias/payments")
        config["keys"] = kms_keys(kms, arn)
        broker.produce(source, [{"key": b"%d" % n, "value": b"v", "partition": n % PARTITIONS} for n in range(90)])
        with Sidecar(tmp_path, config) as writer:
            writer.committed(90)
            assert writer.stop() == 0
        kms.fail("AccessDeniedException", "Decrypt")
        reader = {"name": "reader", "group": f"g-{sealed}", "mode": "decrypt", "from": sealed, "to": opened}
        one, two = (config_of(broker.bootstrap, kms_keys(kms, arn), reader) for _ in range(2))
        with Sidecar(tmp_path, one) as first:
            wait_until(lambda: len(first.of("partition.paused")) == PARTITIONS, "all partitions to wait")
            with Sidecar(tmp_path, two) as second:
                second.wait_for("partition.paused")
                first.wait_for("partitions.revoked")
                assert second.stop() == 0
            wait_until(lambda: len(first.of("partition.paused")) > PARTITIONS, "the partition to come back and wait")
            assert broker.read(opened) == []
            kms.heal()
            first.committed(90)
            assert first.stop() == 0
    assert _numbers(broker, opened) == [list(range(p, 90, PARTITIONS)) for p in range(PARTITIONS)]
