"""Pipelines that end while others begin in their place: what one says that was left to itself."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamcrypt.cli.workers import _Steered
from streamcrypt.config import load
from streamcrypt.config.changes import plan
from streamcrypt.events import PipelineStopped
from streamcrypt.sidecar import supervisor as module
from streamcrypt.sidecar.channel import Done
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until

CONFIG = """
kafka: {bootstrap.servers: "x:1"}
keys: {key_id: alias/payments, region: eu-west-1}
pipelines: [{name: p, mode: encrypt, from: a, to: b}, {name: q, mode: encrypt, from: c, to: d}]
"""


class Stubborn:
    """Runs until it is let go, whatever it is asked."""

    passed = 0
    has_been_ready = True

    def __init__(self) -> None:
        self.runs, self.let_go = threading.Event(), threading.Event()

    def run(self, _stop: threading.Event, **_how: Any) -> None:
        self.runs.set()
        assert self.let_go.wait(60)

    def factory(self, closed: threading.Event) -> PipelineFactory:
        """Give one that builds this; ``closed`` is set at its end."""
        transform = SimpleNamespace(close=closed.set)
        return PipelineFactory("p", transform, lambda: self)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("removed", [False, True], ids=["replaced", "removed"])
def test_a_pipeline_that_was_left_to_itself_says_nothing_at_its_late_end(
    monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """Its commit waits for brokers that are away, say. Its successor would count as stopped for ever."""
    monkeypatch.setattr(module, "_END", 0.1)
    seen, stop = CollectingObserver(), threading.Event()
    old, new, closed = Stubborn(), Stubborn(), (threading.Event(), threading.Event())
    supervisor = Supervisor([old.factory(closed[0])], seen, stop)
    main = threading.Thread(target=supervisor.run)
    main.start()
    try:
        assert old.runs.wait(60)
        with supervisor.changing():
            supervisor.end(["p"])
            if removed:
                supervisor.forget(["p"])
            else:
                supervisor.begin([new.factory(closed[1])])
                assert new.runs.wait(60)
            old.let_go.set()
            assert closed[0].wait(60)
    finally:
        stop.set()
        old.let_go.set()
        new.let_go.set()
        main.join(60)
    wait_until(lambda: not any(thread.name == "pipeline-p" for thread in threading.enumerate()), "the ends")
    stopped = [event for event in seen.events if isinstance(event, PipelineStopped)]
    assert len(stopped) == (0 if removed else 1)


class Silent:
    """Workers that all do as they are told."""

    def ask_all(self, _order: object, _seconds: float) -> dict[int, Done]:
        return {0: Done()}


def test_a_pipeline_that_was_paused_and_removed_is_not_paused_where_it_is_added_again(tmp_path: Path) -> None:
    """A worker that starts anew would hold its partitions back, and the others not theirs."""
    both = load("c.yaml", {}, text=CONFIG)
    one = load("c.yaml", {}, text=CONFIG.replace(", {name: q, mode: encrypt, from: c, to: d}", ""))
    steered = _Steered(tmp_path / "c.yaml", both.text, tmp_path, SimpleNamespace(set_level=lambda _: None))  # type: ignore[arg-type]
    steered.workers = Silent()  # type: ignore[assignment]
    steered.steer("pause", ["p", "q"])
    for before, after in ((both, one), (one, both)):
        steered.change(after, plan(before, after), ())
    assert steered.begin(0, True).paused == ["p"]
