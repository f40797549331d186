"""The configuration changes under load, again and again: pipelines come, go, restart and change in place."""

from __future__ import annotations

import copy
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.broker import unique_name
from tests.chaos.scenarios import Context, Outcome, _finish
from tests.chaos.stage import PARTITIONS, Member, Stage

__all__ = ["reloads"]

_RELOADED = 60.0


class _Changes:
    """Makes one configuration of the one before.

    Args:
        stage: Where it plays.
        config: The first one.
    """

    def __init__(self, stage: Stage, config: dict[str, Any]) -> None:
        self._dice = stage.dice
        self.config = copy.deepcopy(config)
        self._rest = self.config["pipelines"]
        topics = [stage.broker.create_topic(unique_name(name), PARTITIONS) for name in ("beside", "beside-sealed")]
        self._beside = {**self._rest[0], "name": unique_name("beside"), "from": topics[0], "to": topics[1]}
        self.kinds: Counter[str] = Counter()

    def next(self) -> dict[str, Any]:
        """Give the next one."""
        kind = self._dice.choice(("rotation", "cache", "beside", "seal", "open", "both", "broken", "refused", "same"))
        self.kinds[kind] += 1
        many = self._dice.randrange(200, 2_000)
        first, second = self.config["pipelines"][:2]
        match kind:
            case "rotation":
                self.config["rotation"] = {"max_messages": many}
            case "cache":
                self.config["cache"] = {"ttl": f"{many}s"}
            case "beside":
                there = len(self.config["pipelines"]) > 2
                self.config["pipelines"] = [first, second] if there else [first, second, self._beside]
            case "seal":
                first["commit_interval"] = f"{self._dice.randrange(20, 300)}ms"
            case "open":
                second["commit_interval"] = f"{self._dice.randrange(20, 300)}ms"
            case "both":
                self.config["topic_names"] = {unique_name("x"): "y"}
            case "broken":
                return {**self.config, "rotaton": {}}
            case "refused":
                return {**self.config, "log": {"format": "console"}}
        return self.config


def reloads(context: Context, *, records: int, count: int) -> Outcome:
    """Reload so often under load, some of them in quick succession, some with a mistake in them."""
    outcome = Outcome(f"{count} reloads, {context.delivery}", context.seed)
    with context.stage("reloads") as stage:
        stage.start()
        [member] = stage.members
        changes = _Changes(stage, member.config)
        share = records // (count + 1)
        for _ in range(count):
            stage.loader.send(share)
            _reload(member, changes.next(), quick=stage.dice.random() < 0.2)
            time.sleep(stage.dice.uniform(0.0, 0.3))
        _reload(member, changes.config, quick=False)
        stage.loader.send(records - stage.loader.sent)
        outcome.figures |= {"reloads": count, "kinds": dict(changes.kinds)}
        _finish(outcome, stage)
        told = {name: len(member.events(name)) for name in ("config.reloaded", "config.refused", "unit.given_up")}
        outcome.figures |= told
        if (starts := outcome.figures["process starts"]) != 1:
            outcome.findings.add("ended", f"{starts} starts: {member.tail()}")
        for unclean in (event for event in member.events("pipeline.stopped") if not event["clean"]):
            outcome.findings.add("not drained before a restart", str(unclean))
    return outcome


def _reload(member: Member, config: dict[str, Any], *, quick: bool) -> None:
    """Put a configuration in its place and signal; ``quick``: do not wait for what comes of it."""
    assert member.sidecar is not None
    path = Path(member.sidecar.process.args[-1])  # type: ignore[index, arg-type]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(config))
    fresh.replace(path)
    told = len(member.events("config.reloaded")) + len(member.events("config.refused"))
    member.sidecar.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + _RELOADED
    while not quick and len(member.events("config.reloaded")) + len(member.events("config.refused")) == told:
        assert time.monotonic() < deadline, f"no reload\n{member.tail()}"
        time.sleep(0.02)
