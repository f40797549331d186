"""The scenarios: each plays on a stage of its own and says what it found. Sizes are arguments, so that a short form
shows the same things as the full one.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.broker import Broker
from tests.chaos.budget import kms_budget
from tests.chaos.checker import Findings
from tests.chaos.faults import KMS_FAULTS, WORKER_FAULTS, carry_out, schedule
from tests.chaos.stage import PARTITIONS, Stage

__all__ = ["Context", "Outcome", "broker_restarts", "deleted_target", "kills", "kms_outages", "mixed", "zombies"]

_DRAIN = 120.0
# Of the kills of a member with several workers, how many hit the whole of it.
_WHOLE = 0.25
# With its header, what brokers take by default.
_LARGEST = 1_048_000


@dataclass
class Outcome:
    """What a scenario came to.

    Attributes:
        name: Of the scenario.
        seed: Repeats it.
        findings: What is wrong.
        figures: What it did and measured.
    """

    name: str
    seed: int
    findings: Findings = field(default_factory=Findings)
    figures: dict[str, Any] = field(default_factory=dict)

    def tell(self) -> str:
        """Say what was found, for people, with the seed."""
        return "\n  ".join([f"{self.name}, seed {self.seed}, {self.figures}:", *self.findings.lines()])


@dataclass(frozen=True)
class Context:
    """What every scenario is given.

    Attributes:
        broker: The broker.
        directory: For configurations and logs.
        seed: Of every chance.
        delivery: exactly_once or at_least_once.
        workers: Processes of each member.
    """

    broker: Broker
    directory: Path
    seed: int
    delivery: str = "exactly_once"
    workers: int = 1

    def stage(self, name: str, **options: Any) -> Stage:
        """Set the stage of one scenario."""
        directory = self.directory / f"{name.replace(' ', '-')}-{self.delivery}"
        directory.mkdir(parents=True, exist_ok=True)
        return Stage(self.broker, directory, self.seed, delivery=self.delivery, workers=self.workers, **options)


def _finish(outcome: Outcome, stage: Stage, seconds: float = _DRAIN) -> None:
    """Drain the stage, check it and stop it; note what there is to note."""
    findings, took = stage.drain(seconds)
    outcome.findings.merge(findings)
    outcome.figures |= {"records": stage.loader.sent, "drained in s": round(took, 1), **findings.counts}
    for member in stage.members:
        if member.alive and member.stop(30) != 0:
            outcome.findings.add("did not end cleanly", f"{member.name}: {member.tail()}")
    outcome.figures["process starts"] = sum(member.starts for member in stage.members)
    outcome.figures["seconds"] = round(time.monotonic() - stage.began, 1)


def kills(
    context: Context, *, records: int, kills: int, members: int = 1, protocol: str = "classic", large: bool = False
) -> Outcome:
    """Kill -9 at random instants under load, and start again at once.

    They fall into bursts of records and anywhere else: start, join, idling, commit. Of a member with several workers,
    three in four hit one of the workers, which its supervisor starts again. ``large``: one record in 500 is as
    large as brokers take by default.
    """
    name = f"{kills} kills, {members} members, {protocol} protocol, {context.delivery}"
    outcome = Outcome(name, context.seed)
    options = {"largest": _LARGEST, "large_every": 500} if large else {}
    with context.stage(f"kills-{members}", members=members, protocol=protocol, options=options) as stage:
        stage.start()
        share = records // (kills + 1)
        for _ in range(kills):
            victim = stage.dice.choice(stage.members)
            if context.delivery == "at_least_once" or context.workers > 1:
                # A member of no fixed name waits for the session of the one that was killed: idle, it shows nothing.
                # A supervisor ends where a worker does before it was ever ready: then there is nothing to restart.
                victim.ready()
            time.sleep(stage.dice.uniform(0.0, 2.5))
            stage.loader.send(share)
            time.sleep(stage.dice.uniform(0.0, 0.5))
            if context.workers == 1 or stage.dice.random() < _WHOLE or not victim.kill_worker(stage.dice):
                victim.kill()
                victim.start()
        stage.loader.send(records - stage.loader.sent)
        _finish(outcome, stage)
        outcome.figures["kills"] = kills
        outcome.figures["of one worker"] = sum(member.workers_killed for member in stage.members)
    return outcome


def broker_restarts(context: Context, *, records: int, restarts: int) -> Outcome:
    """The broker goes, in order or by a kill, under load, and comes back."""
    outcome = Outcome(f"{restarts} broker restarts, {context.delivery}", context.seed)
    with context.stage("broker-restarts") as stage:
        stage.start()
        share = records // (restarts + 1)
        for number in range(restarts):
            stage.loader.send(share)
            time.sleep(stage.dice.uniform(0.0, 1.0))
            if stage.dice.random() < 0.5:
                stage.broker.stop()
            else:
                stage.broker.kill()
            if number % 2:
                stage.members[0].kill()
            stage.broker.start()
            stage.revive()
            time.sleep(stage.dice.uniform(0.0, 3.0))
        stage.loader.send(records - stage.loader.sent)
        _finish(outcome, stage)
        outcome.figures["broker restarts"] = restarts
    return outcome


def _play(
    context: Context, name: str, seconds: float, kinds: Sequence[str], rate: float, pace: float = 1.0, **options: Any
) -> Outcome:
    outcome = Outcome(f"{name}, {context.delivery}", context.seed)
    with context.stage(name, **options) as stage:
        stage.start()
        loader, restarted = stage.loader, Counter[str]()

        def load(now: float) -> None:
            due = int(now * rate) - loader.sent
            if due > 0:
                loader.send(due)

        faults = schedule(context.seed, seconds, kinds, pace=pace)
        began = time.time()
        for fault in carry_out(stage, faults, load):
            restarted[fault.kind] += 1
        _finish(outcome, stage)
        outcome.figures["faults"] = dict(restarted)
        outcome.figures["schedule"] = [str(fault) for fault in faults]
        calls = stage.kms.calls
        budget = kms_budget(
            faults,
            began,
            calls,
            members=len(stage.members) * context.workers,
            processes=(outcome.figures["process starts"] + stage.guests_made) * context.workers,
        )
        outcome.figures["kms"] = budget.figures
        for what in budget.exceeded:
            outcome.findings.add("kms calls over budget", what)
    return outcome


def kms_outages(
    context: Context,
    *,
    seconds: float,
    rate: float = 1_000.0,
    kinds: Sequence[str] = KMS_FAULTS,
    pace: float = 1.0,
) -> Outcome:
    """KMS goes through everything that it can go through, under load; afterwards the lag drains by itself."""
    rotation = {"max_messages": 1_000, "max_age": "1m"}
    return _play(context, "kms outages", seconds, kinds, rate, pace, rotation=rotation)


def mixed(context: Context, *, seconds: float, rate: float = 500.0, members: int = 2) -> Outcome:
    """Everything at once: members, brokers, clocks, keys."""
    kinds = (*WORKER_FAULTS, *WORKER_FAULTS, *KMS_FAULTS)
    return _play(context, "mixed", seconds, kinds, rate, members=members, jumps=True)


def zombies(context: Context, *, records: int, sleep: float) -> Outcome:
    """A process sleeps past its transaction's timeout while another takes its place under its name, and wakes."""
    outcome = Outcome(f"zombies, {context.delivery}", context.seed)
    with context.stage("zombies") as stage:
        stage.start()
        [first] = stage.members
        stage.loader.send(records // 3)
        time.sleep(stage.dice.uniform(0.05, 0.4))
        first.signal(signal.SIGSTOP)
        stage.loader.send(records // 3)
        twin = stage.member("m0")
        stage.guests.append(twin)
        twin.start()
        time.sleep(sleep)
        first.signal(signal.SIGCONT)
        stage.loader.send(records - stage.loader.sent)
        # Each fences the other for as long as both run, and none may write twice meanwhile.
        time.sleep(5.0)
        twin.kill()
        _finish(outcome, stage)
    return outcome


def deleted_target(context: Context, *, records: int) -> Outcome:
    """The target topic is deleted and made again: what comes meanwhile waits, and arrives once."""
    outcome = Outcome(f"deleted target, {context.delivery}", context.seed)
    with context.stage("deleted-target") as stage:
        stage.start()
        before = stage.loader.send(records)
        findings, _ = stage.drain(_DRAIN)
        outcome.findings.merge(findings, "before: ")
        stage.broker.delete_topic(stage.opened)
        after = stage.loader.send(records)
        stage.loader.settle()
        time.sleep(stage.dice.uniform(2.0, 6.0))
        stage.broker.create_topic(stage.opened, PARTITIONS)
        deadline = time.monotonic() + _DRAIN
        found: list[Any] = []
        while len(found) < len(after) and time.monotonic() < deadline:
            stage.revive()
            time.sleep(1.0)
            with contextlib.suppress(Exception):
                found = stage.broker.read(stage.opened)
        outcome.findings.merge(stage.check_opened(found, after))
        outcome.figures |= {"records": len(before) + len(after), "arrived": len(found)}
        for member in stage.members:
            outcome.figures["process starts"] = member.starts
    return outcome
