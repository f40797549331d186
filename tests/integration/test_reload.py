"""A sidecar that is steered while it runs: SIGHUP, and ``streamcrypt ctl`` over the control socket."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from streamcrypt.cli.ctl import CtlRequest, ctl
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.log_scan import SCAN
from tests.sidecar import Load, Sidecar, config_of, environment, keyring_at, kms_keys, numbers

PARTITIONS = 4


class Steered(Sidecar):
    """A sidecar with the file that it was started with at hand."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.process.args[-1])

    def rewrite(self, config) -> None:
        """Put another configuration into the file, at once, as an editor or a ConfigMap does."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(config if isinstance(config, str) else json.dumps(config))
        fresh.replace(self.path)

    def hang_up(self, config, outcome: str = "config.reloaded"):
        """Reload by SIGHUP, and give the line that tells what came of it."""
        self.rewrite(config)
        seen = len(self.events)
        self.process.send_signal(signal.SIGHUP)
        return self.wait_for(outcome, after=seen)

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``streamcrypt ctl`` on that file."""
        command = [sys.executable, "-m", "streamcrypt", "ctl", str(self.path), *arguments]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        SCAN.add(done.stdout)
        SCAN.add(done.stderr)
        return done

    def told(self, *arguments: str) -> tuple[int, str, str]:
        """The same without a process of its own: exit code, standard output and error."""
        command, *pipelines = [one for one in arguments if not one.startswith("--")]
        form = "json" if "--json" in arguments else "table"
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = ctl(self.path, CtlRequest.read(command, pipelines, form, None))
        return code, out.getvalue(), err.getvalue()


@pytest.fixture
def keys(tmp_path):
    return keyring_at(tmp_path)


def _encrypting(broker, **more):
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    return {"mode": "encrypt", "from": source, "to": target, **more}


def _with(config, *pipelines, **sections):
    return {**config, "pipelines": list(pipelines), **sections}


def _joined(broker, pipeline) -> Consumer:
    """Another member of a pipeline's group, which writes nothing and commits nothing."""
    member = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": pipeline["group"],
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
    )
    member.subscribe([pipeline["from"]])
    return member


def _assert_whole(broker, pipeline, sent: int) -> None:
    """All of them, once, in order."""
    wait_until(lambda: sum(map(len, numbers(broker, pipeline["to"], PARTITIONS))) >= sent, "every record", 120)
    expected = [list(range(p, sent, PARTITIONS)) for p in range(PARTITIONS)]
    assert numbers(broker, pipeline["to"], PARTITIONS) == expected


def test_reloads_under_load_lose_and_double_nothing(broker, tmp_path, keys):
    """Exactly once and at least once, through pipelines added, removed, restarted and changed in place; a broken file,
    and one with a new port, change nothing and name the line.
    """
    config = config_of(broker.bootstrap, keys, _encrypting(broker), _encrypting(broker, delivery="at_least_once"))
    added = config_of(broker.bootstrap, keys, _encrypting(broker))["pipelines"][0]
    once, least = config["pipelines"]
    with Steered(tmp_path, config) as sidecar, contextlib.ExitStack() as loads:
        sidecar.ready(2)
        loading = [
            loads.enter_context(Load(broker, pipeline["from"], PARTITIONS, 100).running()) for pipeline in (once, least)
        ]
        told = sidecar.hang_up(_with(config, once, least, rotation={"max_messages": 500}))
        assert told["changed"] == [once["name"], least["name"]]
        told = sidecar.hang_up(_with(config, once, {**least, "on_failure": "skip"}, added, log={"level": "info"}))
        assert (told["restarted"], told["changed"]) == ([least["name"]], [once["name"]])
        assert (told["added"], told["settings"]) == ([added["name"]], ["log.level"])
        told = sidecar.hang_up(_with(config, once, context={"app": "b"}))
        assert (told["removed"], told["restarted"]) == ([least["name"], added["name"]], [once["name"]])
        broken = json.dumps(config, indent=1).replace('"encrypt"', '"encypt"', 1)
        told = sidecar.hang_up(broken, "config.refused")
        line = next(n for n, text in enumerate(broken.splitlines(), 1) if '"encypt"' in text)
        assert f"{sidecar.path}:{line}:" in told["problems"][0]
        told = sidecar.hang_up({**config, "http": {"port": 1}}, "config.refused")
        assert "http.port" in told["problems"][0]
        assert sidecar.metric("streamcrypt_config_reloads_total", outcome="refused") == 2
        sidecar.rewrite(config)
        for _ in range(3):
            sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for("config.reloaded", where=lambda e: e["added"] == [least["name"]])
        loads.close()
        for pipeline, load in zip((once, least), loading, strict=True):
            _assert_whole(broker, pipeline, load.sent)
        assert sidecar.stop() == 0
    assert sidecar.complaint == ""


def test_reloads_in_an_outage_of_kms_a_rebalance_and_an_end_lose_and_double_nothing(broker, tmp_path):
    """Taken while partitions wait for KMS, in place and by a restart; while partitions come and go; and cut short by
    SIGTERM, after which another process goes on.
    """
    with KMSServer() as kms, contextlib.ExitStack() as running:
        kms.create_key("alias/payments")
        config = config_of(
            broker.bootstrap, kms_keys(kms), _encrypting(broker), rotation={"max_messages": 100, "max_age": "10m"}
        )
        [pipeline] = config["pipelines"]
        sidecar = running.enter_context(Steered(tmp_path, config)).ready()
        load = running.enter_context(contextlib.ExitStack())
        loading = load.enter_context(Load(broker, pipeline["from"], PARTITIONS, 40).running())
        kms.drop()
        sidecar.wait_for("partition.paused")
        told = sidecar.hang_up(_with(config, pipeline, rotation={"max_messages": 90, "max_age": "10m"}))
        assert told["changed"] == [pipeline["name"]]
        config = _with(config, {**pipeline, "on_failure": "skip"}, rotation={"max_messages": 90, "max_age": "10m"})
        seen = len(sidecar.events)
        assert sidecar.hang_up(config)["restarted"] == [pipeline["name"]]
        assert sidecar.get("/readyz")[0] == 503
        kms.heal()
        sidecar.wait_for("offsets.committed", after=seen)
        with contextlib.closing(_joined(broker, pipeline)) as beside:
            wait_until(lambda: beside.poll(0.05) is not None or bool(beside.assignment()), "its partitions")
            sidecar.rewrite(_with(config, {**pipeline, "on_failure": "halt"}))
            seen = len(sidecar.events)
            sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for("config.reloaded", after=seen)
        sidecar.rewrite(config)
        seen = len(sidecar.events)
        sidecar.process.send_signal(signal.SIGHUP)
        sidecar.wait_for("pipeline.reloaded", after=seen)
        assert sidecar.stop() == 0
        follows = running.enter_context(Steered(tmp_path, config)).ready()
        load.close()
        _assert_whole(broker, pipeline, loading.sent)
        assert follows.stop() == 0
    assert sidecar.complaint == follows.complaint == ""


def test_an_operator_pauses_resumes_rotates_and_asks_how_it_is(broker, tmp_path, keys):
    """Paused, a pipeline writes nothing more, keeps its partitions through a rebalance, is told by /readyz, and goes on
    where it was; what cannot be is told with its remedy.
    """
    config = config_of(
        broker.bootstrap,
        keys,
        _encrypting(broker, name="protect", delivery="at_least_once"),
        _encrypting(broker, name="other"),
    )
    paused, other = config["pipelines"]
    with Steered(tmp_path, config) as sidecar, Load(broker, paused["from"], PARTITIONS, 100).running() as load:
        sidecar.ready(2)
        wait_until(lambda: sidecar.metric("streamcrypt_records_total", pipeline="protect") > 0, "work")
        done = sidecar.ctl("pause", "protect")
        assert (done.returncode, done.stdout, done.stderr) == (0, "protect: paused\n", "")
        status, said = sidecar.get("/readyz")
        assert (status, "paused by an operator" in said) == (503, True)
        with contextlib.closing(_joined(broker, paused)) as beside:
            # Partitions go to another member and come back: those that come are paused as well.
            wait_until(lambda: beside.poll(0.05) is not None or bool(beside.assignment()), "its partitions")
        wait_until(lambda: sidecar.metric("streamcrypt_partitions_assigned", pipeline="protect") == PARTITIONS, "all")
        stood = sum(map(len, numbers(broker, paused["to"], PARTITIONS)))
        behind = load.sent
        wait_until(lambda: load.sent > behind + 500, "more load")
        assert sum(map(len, numbers(broker, paused["to"], PARTITIONS))) == stood
        shown = json.loads(sidecar.told("status", "--json")[1])
        assert {one["name"]: one["state"] for one in shown["pipelines"]} == {"protect": "paused", "other": "running"}
        assert "protect was paused by an operator" in sidecar.told("status")[1]
        assert sidecar.told("resume")[1] == "protect: running\nother: running\n"
        seen = len(sidecar.events)
        assert sidecar.told("rotate", "protect")[1] == "protect: rotated\n"
        retired = sidecar.wait_for("data_key.retired", where=lambda e: e["reason"] == "operator")
        assert retired["topic"] == paused["to"]
        sidecar.wait_for("data_key.minted", where=lambda e: e["topic"] == paused["to"], after=seen)
        code, _, said = sidecar.told("pause", "protekt")
        assert (code, "Did you mean 'protect'?" in said) == (2, True)
        sidecar.rewrite(_with(config, other, {**paused, "to": "", "group": "x"}))
        code, _, said = sidecar.told("reload")
        assert (code, "nothing was changed" in said) == (2, True)
        assert f"{sidecar.path}:1:" in said
    asked = [(e["command"], e["outcome"]) for e in sidecar.of("control.asked")]
    assert asked[0] == ("pause", "done")
    assert asked[-2:] == [("pause", "refused"), ("reload", "refused")]
    assert {e["uid"] for e in sidecar.of("control.asked")} == {os.geteuid()}
    done = sidecar.ctl("status")
    assert (done.returncode, "no process listens" in done.stderr) == (1, True)


def test_workers_reload_and_pause_together_and_one_that_starts_later_does_as_the_others(broker, tmp_path, keys):
    """Two workers under load: paused and killed, a worker comes back paused and by the new file."""
    config = config_of(broker.bootstrap, keys, _encrypting(broker), workers=2)
    [pipeline] = config["pipelines"]
    added = config_of(broker.bootstrap, keys, _encrypting(broker))["pipelines"][0]
    with Steered(tmp_path, config) as sidecar, contextlib.ExitStack() as loads:
        sidecar.ready(2)
        load = loads.enter_context(Load(broker, pipeline["from"], PARTITIONS, 100).running())
        told = sidecar.hang_up(_with(config, {**pipeline, "on_failure": "skip"}, added))
        assert (told["restarted"], told["added"]) == ([pipeline["name"]], [added["name"]])
        assert {e["worker"] for e in sidecar.of("pipeline.reloaded")} == {0, 1}
        told = sidecar.hang_up(_with(config, {**pipeline, "to": "^"}, added), "config.refused")
        assert len(told["problems"]) == 1
        wait_until(
            lambda: sidecar.metric("streamcrypt_partitions_assigned", pipeline=added["name"]) == PARTITIONS, "all"
        )
        done = sidecar.told("pause")
        assert done[1] == f"{pipeline['name']}: paused\n{added['name']}: paused\n"
        seen = len(sidecar.events)
        [victim] = {e["pid"] for e in sidecar.of("worker.started") if e["worker"] == 1}
        os.kill(victim, signal.SIGKILL)
        for name in (pipeline["name"], added["name"]):
            sidecar.wait_for(
                "pipeline.paused", after=seen, where=lambda e, n=name: (e["worker"], e["pipeline"]) == (1, n)
            )
        loads.close()
        assert sidecar.told("resume")[0] == 0
        _assert_whole(broker, pipeline, load.sent)
        assert sidecar.stop() == 0
