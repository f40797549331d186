"""Cycles go, also where nearly nothing is made and the collector is asked to look seldom."""

from __future__ import annotations

import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from streamcrypt.events import ignore_events
from streamcrypt.sidecar import garbage, supervisor
from streamcrypt.sidecar.failures import ConnectionLost
from streamcrypt.sidecar.garbage import collect_at_leisure, collecting_seldom
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor


class Cycle:
    """Freed by the collector alone."""

    passed = 0
    has_been_ready = True

    def __init__(self) -> None:
        self.me = self

    def run(self, _stop: threading.Event, **_how: Any) -> None:
        """A pipeline's, while no broker answers."""
        raise ConnectionLost("no answer")


def test_pipelines_that_fail_one_after_the_other_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds the records that it had in hand: an outage of the brokers over a weekend filled the memory."""
    monkeypatch.setattr(supervisor, "_RESTART_FIRST", 0.001)
    stop, made, alive = threading.Event(), [], []

    def build() -> Any:
        alive.append(sum(one() is not None for one in made))
        if len(made) == 10:
            stop.set()
        pipeline = Cycle()
        made.append(weakref.ref(pipeline))
        return pipeline

    transform: Any = SimpleNamespace(close=lambda: None)
    with collecting_seldom():
        Supervisor([PipelineFactory("p", transform, build)], ignore_events, stop).run()
    assert len(alive) > 10
    assert max(alive) == 0


def test_where_nothing_passes_cycles_are_looked_for_at_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries of a partition that waits leave exceptions behind, and thresholds are not met for days."""
    with collecting_seldom():
        found = weakref.ref(Cycle())
        collect_at_leisure()
        assert found() is not None, "it was looked a moment ago"
        monkeypatch.setattr(garbage, "_AT_LEISURE", 0.0)
        collect_at_leisure()
        assert found() is None


def test_an_application_collects_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_AT_LEISURE", 0.0)
    found = weakref.ref(Cycle())
    collect_at_leisure()
    assert found() is not None
