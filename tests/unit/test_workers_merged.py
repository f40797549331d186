"""Claims about what several workers show as one: channel, metrics, health; and how many CPUs are usable."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, fields
from typing import Any

import pytest

from streamcrypt import events
from streamcrypt.observe import health
from streamcrypt.observe.workers import MergedHealth, drop_gauges, merged_registry
from streamcrypt.sidecar.channel import Begin, Channel, ChannelClosed, Ended, Ready, Refused, Report
from streamcrypt.sidecar.cpus import usable_cpus
from streamcrypt.sidecar.workers import WorkerState
from streamcrypt.testing import ManualClock

# -- the channel -------------------------------------------------------------------------------------------------------


class Pair:
    """Two ends that note what came and whether the other end went."""

    def __init__(self, **handlers) -> None:
        self.came, self.gone = [], threading.Event()
        one, self.raw = socket.socketpair()
        taken = {Ready: self.came.append, Ended: self.came.append} | handlers.get("handlers", {})
        self.end = Channel(one, taken, self.gone.set)
        self.end.start()

    def other(self, **handlers) -> Channel:
        """The other end as a channel, too."""
        channel = Channel(self.raw, handlers.get("handlers", {}))
        channel.start()
        return channel

    def close(self) -> None:
        self.end.close()
        self.raw.close()


@pytest.fixture
def pair():
    made = Pair(handlers={Begin: lambda begin: Ended(begin.worker, [[begin.text, ""]])})
    yield made
    made.close()


BEGIN = Begin("config.yaml", "pipelines: […]\n", 3, "/tmp/m", True)


def test_a_message_arrives_as_it_was_sent_and_a_command_is_answered(pair):
    """Both directions on one pair; what a handler returns answers the one who asked."""
    other = pair.other()
    assert other.send(Ended(2, [["wrong", "mend it"]]))
    assert other.ask(BEGIN, 30.0) == Ended(3, [["pipelines: […]\n", ""]])
    assert pair.came == [Ended(2, [["wrong", "mend it"]])]
    assert other.ask(Ready(), 30.0) == Refused("no answer")
    assert other.ask(Report({}, {}), 30.0) == Refused("Report is not known here")
    other.close()


def test_an_answer_that_comes_late_is_for_nobody(pair):
    with pytest.raises(ChannelClosed, match=r"no answer within 0\.01 s"):
        pair.end.ask(BEGIN, 0.01)
    pair.raw.sendall(b'{"kind": "Ready", "body": {}, "answer": 1}\n')
    pair.raw.shutdown(socket.SHUT_WR)
    assert pair.gone.wait(30)
    assert pair.came == []


def test_the_death_of_the_other_end_is_told_once_and_ends_those_who_wait(pair):
    """Half a line is no message; then nothing more can be sent or asked."""
    failed = []

    def ask() -> None:
        try:
            pair.end.ask(Ready(), 10.0)
        except ChannelClosed as closed:
            failed.append(str(closed))

    waiting = threading.Thread(target=ask)
    waiting.start()
    pair.raw.recv(1000)
    pair.raw.sendall(b'{"kind": "Ready", "bo')
    pair.raw.close()
    assert pair.gone.wait(30)
    waiting.join(30)
    assert (pair.came, failed) == ([], ["the process is gone"])
    assert not pair.end.send(Ready())
    with pytest.raises(ChannelClosed):
        pair.end.ask(Ready(), 1.0)


def test_a_child_process_does_not_inherit_the_pair(pair):
    assert not os.get_inheritable(pair.end._socket.fileno())


# -- metrics -----------------------------------------------------------------------------------------------------------

# Each part stands for a process: what it makes after share_metrics() is its own.
_PROCESSES = """
import sys
from pathlib import Path
from streamcrypt import events
from streamcrypt.observe.metrics import Metrics
from streamcrypt.observe.workers import share_metrics

def process(name, *told):
    share_metrics(Path(sys.argv[1]), name)
    metrics = Metrics()
    for event in told:
        metrics(event)

batch = events.BatchDone("p", "t", **{fields})
process("0", events.PipelineReady("p"), batch, events.BreakerOpened("eu-west-1", 1))
process("1", events.PipelineStarting("p", "encrypt", "g"), batch, batch)
process("1", events.PipelineReady("p"), batch)
started = (events.WorkerStarted(0, 10), events.WorkerStarted(1, 11))
process("supervisor", *started, events.WorkerRestarting(1, 11, "x", 1.0))
"""


def _sample(registry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_counters_of_all_workers_add_up_and_outlive_them_gauges_are_those_of_the_living(tmp_path):
    """A worker that takes the place of another counts on; the gauges of a dead one are dropped."""
    filled = {f.name: 5 if f.type in {"int", "float"} else "x" for f in fields(events.BatchDone)}
    for known in ("pipeline", "topic"):
        del filled[known]
    opened = {f.name: "eu-west-1" if f.type == "str" else 1 for f in fields(events.BreakerOpened)}
    ready = {f.name: "p" for f in fields(events.PipelineReady)}
    script = (
        _PROCESSES.replace("{fields}", repr(filled))
        .replace('BreakerOpened("eu-west-1", 1)', f"BreakerOpened(**{opened!r})")
        .replace('PipelineReady("p")', f"PipelineReady(**{ready!r})")
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    registry = merged_registry(tmp_path)
    assert _sample(registry, "streamcrypt_records_total", pipeline="p", topic="t") == 4 * 5
    assert _sample(registry, "streamcrypt_batch_seconds_count", pipeline="p") == 4
    assert _sample(registry, "streamcrypt_pipeline_ready", pipeline="p") == 1
    assert _sample(registry, "streamcrypt_key_service_breaker_open", region="eu-west-1") == 1
    assert _sample(registry, "streamcrypt_workers") == 1
    assert _sample(registry, "streamcrypt_worker_restarts_total", worker="1") == 1
    assert _sample(registry, "streamcrypt_worker_restarts_total", worker="0") == 0  # or its first one would go unseen
    drop_gauges(tmp_path, 0)
    assert _sample(registry, "streamcrypt_key_service_breaker_open", region="eu-west-1") is None
    assert _sample(registry, "streamcrypt_pipeline_ready", pipeline="p") == 1
    drop_gauges(tmp_path, 1)
    assert _sample(registry, "streamcrypt_pipeline_ready", pipeline="p") is None
    assert _sample(registry, "streamcrypt_records_total", pipeline="p", topic="t") == 4 * 5


# -- health ------------------------------------------------------------------------------------------------------------


def _said(live: list[str], ready: list[str]) -> Report:
    def fields(texts: list[str]) -> dict[str, Any]:
        # As it arrives: over JSON.
        made = health.Report.of([health.Reason(text, "p", since=1.5) for text in texts], names=["p"])
        return json.loads(json.dumps(asdict(made)))

    return Report(fields(live), fields([*live, *ready]))


WELL = _said([], [])


def _health(clock: ManualClock, *states: WorkerState) -> MergedHealth:
    return MergedHealth(lambda: dict(enumerate(states)), clock=clock)


def _why(report: health.Report) -> list[tuple[int | None, str]]:
    return [(reason.worker, reason.reason) for reason in report.reasons]


@pytest.fixture
def clock():
    return ManualClock()


def test_all_are_well_where_each_is(clock):
    merged = _health(clock, WorkerState(1, "", WELL, clock(), clock()), WorkerState(2, "", WELL, clock(), clock()))
    assert merged.liveness().ok
    assert merged.readiness().as_json() == {"status": "ok", "reasons": [], "waiting": [], "pipelines": {"p": []}}


def test_what_one_worker_waits_for_makes_all_unready_and_is_told_with_its_number(clock):
    waits = WorkerState(2, "", _said([], ["joining its consumer group"]), clock(), clock())
    merged = _health(clock, WorkerState(1, "", WELL, clock(), clock()), waits)
    assert merged.liveness().ok
    assert not merged.readiness().ok
    assert merged.readiness().pipelines == {"p": ["joining its consumer group"]}
    assert _why(merged.readiness()) == [(1, "joining its consumer group")]


def test_one_loop_that_stands_still_makes_all_unhealthy(clock):
    dead = WorkerState(2, "", _said(["its loop has stood still for 31 s"], []), clock(), clock())
    merged = _health(clock, WorkerState(1, "", WELL, clock(), clock()), dead)
    assert _why(merged.liveness()) == [(1, "its loop has stood still for 31 s")]
    assert not merged.readiness().ok


def test_a_worker_that_starts_is_alive_and_not_ready(clock):
    starting = _health(clock, WorkerState(3, "", None, clock(), clock()))
    assert starting.liveness().ok
    assert _why(starting.readiness()) == [(0, "starting")]


def test_a_worker_that_waits_for_its_restart_is_named_and_the_others_are_not_killed_for_it(clock):
    """Its back-off is 30 s at the most, longer than a liveness probe has patience."""
    gone = WorkerState(None, "starts again: signal 9 (SIGKILL)", None, clock(), clock())
    clock.advance(29)
    merged = _health(clock, gone, WorkerState(1, "", WELL, clock(), clock()))
    live = merged.liveness()
    assert live.ok
    assert [(reason.worker, reason.reason) for reason in live.waiting] == [(0, "starts again: signal 9 (SIGKILL)")]
    assert _why(merged.readiness()) == [(0, "starts again: signal 9 (SIGKILL)")]


def test_a_restart_that_is_overdue_is_for_the_orchestrator(clock):
    """Then the supervisor itself stands still."""
    gone = WorkerState(None, "starts again: exit code 1", None, clock(), clock())
    clock.advance(61)
    merged = _health(clock, gone, WorkerState(1, "", WELL, clock(), clock()))
    assert _why(merged.liveness()) == [(0, "starts again: exit code 1")]


def test_where_no_worker_has_come_up_for_two_minutes_the_process_is_not_alive(clock):
    """Each was started again in time, and ended before it said a word."""
    last = clock()
    clock.advance(121)
    crashing = [WorkerState(None, "starts again: exit code 1", None, clock() - 5, last) for _ in range(2)]
    assert _why(_health(clock, *crashing).liveness()) == [(None, "no worker has reported for 121 s")]
    assert _health(clock, *crashing, WorkerState(1, "", WELL, clock(), clock())).liveness().ok


def test_a_worker_that_says_nothing_is_first_not_ready_and_then_not_alive(clock):
    """Frozen, or so busy that it cannot even say so."""
    merged = _health(clock, WorkerState(1, "", WELL, clock(), clock()))
    clock.advance(6)
    assert (merged.liveness().ok, merged.readiness().ok) == (True, False)
    clock.advance(25)
    assert _why(merged.liveness()) == [(0, "has said nothing for 31 s")]


# -- CPUs --------------------------------------------------------------------------------------------------------------


def _host(root, group: str, files: dict[str, str]):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(group)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../../x\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "3:cpu,cpuacct:/d\n",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "500000", "cpu,cpuacct/d/cpu.cfs_period_us": "100000"},
            5,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ("nonsense", {}, 16),
    ],
    ids=[
        "no quota",
        "three",
        "one and a half",
        "half",
        "of a parent",
        "of the root",
        "outside",
        "v1",
        "v1 none",
        "unknown",
    ],
)
def test_usable_cpus_are_the_whole_ones_within_every_quota(tmp_path, monkeypatch, group, files, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(16))
    assert usable_cpus(_host(tmp_path, group, files)) == cpus


def test_usable_cpus_are_no_more_than_this_process_may_run_on(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 5})
    assert usable_cpus(_host(tmp_path, "0::/\n", {"cpu.max": "800000 100000\n"})) == 2
