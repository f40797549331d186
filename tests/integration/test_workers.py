"""Several workers of one sidecar, as real processes on a real broker: what they pass, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.broker import wait_until
from tests.sidecar import COMPLAINT, Load, Sidecar, config_of, keyring_at, numbers
from tests.waiting import alive

PARTITIONS = 4


@pytest.fixture
def config(broker, tmp_path):
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    return config_of(broker.bootstrap, keyring_at(tmp_path), pipeline, workers=2)


def _pids(sidecar: Sidecar) -> dict[int, int]:
    """The process of each worker, by its number."""
    return {event["worker"]: event["pid"] for event in sidecar.of("worker.started")}


def _shared_out(sidecar: Sidecar) -> None:
    """Return once each worker has half of the partitions."""
    wait_until(lambda: sidecar.metric("streamcrypt_partitions_assigned") == PARTITIONS, "all partitions")
    for worker in (0, 1):
        sidecar.wait_for(
            "pipeline.turned", where=lambda e, w=worker: e["worker"] == w and e["assigned"] == PARTITIONS // 2
        )


def test_two_workers_pass_everything_once_and_one_that_is_killed_costs_nothing(broker, tmp_path, config):
    """Exactly once, in order, through kill -9 of one under load; metrics and health are those of both, the dead
    one's counters are kept, and SIGTERM ends both with everything delivered.
    """
    source, target = config["pipelines"][0]["from"], config["pipelines"][0]["to"]
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready(2)
        _shared_out(sidecar)
        wait_until(lambda: sidecar.get("/readyz")[0] == 200, "both workers to be ready")
        with Load(broker, source, PARTITIONS).running() as load:
            for worker in (0, 1):
                sidecar.wait_for("batch.done", where=lambda e, w=worker: e["worker"] == w)
            wait_until(lambda: load.sent > 3_000, "some load")
            counted = sidecar.metric("streamcrypt_records_total")
            assert counted > 0
            pids, seen = _pids(sidecar), len(sidecar.events)
            os.kill(pids[1], signal.SIGKILL)
            restarting = sidecar.wait_for("worker.restarting", after=seen)
            assert (restarting["worker"], restarting["reason"]) == (1, "signal 9 (SIGKILL)")
            sidecar.wait_for("pipeline.ready", after=seen, where=lambda e: e["worker"] == 1)
            assert _pids(sidecar)[0] == pids[0]
            wait_until(lambda: sidecar.metric("streamcrypt_records_total") > counted, "more records than before")
            wait_until(lambda: sidecar.metric("streamcrypt_workers") == 2, "two workers")
            assert sidecar.metric("streamcrypt_worker_restarts_total", worker="1") == 1
        wait_until(lambda: sum(map(len, numbers(broker, target, PARTITIONS))) >= load.sent, "every record", 120)
        _shared_out(sidecar)
        assert set(json.loads(sidecar.get("/readyz")[1])["pipelines"]) == {config["pipelines"][0]["name"]}
        assert sidecar.stop() == 0
    assert sidecar.complaint == ""
    assert numbers(broker, target, PARTITIONS) == [list(range(p, load.sent, PARTITIONS)) for p in range(PARTITIONS)]
    passed = {w: [e for e in sidecar.of("batch.done") if e["worker"] == w] for w in (0, 1)}
    assert all(passed.values())


def test_containers_share_one_group_and_kill_9_of_a_supervisor_ends_its_workers_cleanly(broker, tmp_path, config):
    """Two containers, one with two workers, under load. The workers of a supervisor that was killed notice by
    themselves, deliver and commit what they have begun and leave the group: the other container takes over, and at
    least once as it is, nothing comes twice.
    """
    config["pipelines"][0] |= {"delivery": "at_least_once", "instance": "a"}
    beside = config_of(broker.bootstrap, config["keys"], {**config["pipelines"][0], "instance": "b"})
    source, target = config["pipelines"][0]["from"], config["pipelines"][0]["to"]
    with Sidecar(tmp_path, config) as pair, Sidecar(tmp_path, beside) as single:
        pair.ready(2)
        single.ready()
        wait_until(lambda: all(0 < _assigned(s) < PARTITIONS for s in (pair, single)), "both to have partitions")
        with Load(broker, source, PARTITIONS).running() as load:
            wait_until(lambda: pair.of("offsets.committed") and single.of("offsets.committed"), "both to work")
            os.kill(pair.process.pid, signal.SIGKILL)
            wait_until(lambda: sum(e["clean"] for e in pair.of("pipeline.stopped")) == 2, "two clean ends")
        wait_until(lambda: not any(map(alive, _pids(pair).values())), "their processes to end")
        wait_until(lambda: sum(map(len, numbers(broker, target, PARTITIONS))) >= load.sent, "every record", 120)
        assert single.stop() == 0
    assert numbers(broker, target, PARTITIONS) == [list(range(p, load.sent, PARTITIONS)) for p in range(PARTITIONS)]


def _assigned(sidecar: Sidecar) -> float:
    return sidecar.metric("streamcrypt_partitions_assigned")


def test_a_worker_that_cannot_start_ends_all_with_its_exit_code(broker, tmp_path, config):
    """A topic that is not there is told once, though no worker finds it."""
    config["pipelines"][0]["from"] = "missing"
    with Sidecar(tmp_path, config) as sidecar:
        assert sidecar.wait() == 1
    assert sidecar.complaint.count(COMPLAINT) == 1
    assert "missing" in sidecar.complaint
