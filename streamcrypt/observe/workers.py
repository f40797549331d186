"""What several worker processes show as one: their metrics, added up by prometheus_client itself, and their health.

Source: https://prometheus.github.io/client_python/multiprocess/. Each process writes its values to files of its own in
one directory, and the supervisor reads them all at each scrape. The files bear the numbers of workers instead of
process ids: one that takes the place of another counts on where that ended, so that counters never fall and a worker
that is started again and again leaves no trail of files. Only plain counters, gauges and histograms are merged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from streamcrypt.observe.health import STALLED_AFTER, Reason, Report
from streamcrypt.sidecar.workers import Times, WorkerState

__all__ = ["SUPERVISOR", "MergedHealth", "drop_gauges", "merged_registry", "share_metrics"]

SUPERVISOR = "supervisor"
"""The supervisor's own name among the processes that write values."""

# A worker reports twice a second: what it said is not true for ever.
_SILENT_AFTER = 5.0
# Two minutes: a worker that crashes is up again after at most 30 s, so this is a round of crashes without one success.
_NONE_REPORTS_AFTER = 120.0

_OVERDUE = "The supervisor stands still: a restart helps."
_NONE = "Workers end as soon as they start: the log says why. A restart gives them a new container."


def share_metrics(directory: Path, process: str) -> None:
    """Have every metric that this process makes from now on live in ``directory``. For the life of the process.

    Args:
        directory: Shared by all processes of one sidecar, and by no one else.
        process: Among them; no two that run at a time may bear the same name. No underscore.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]


def merged_registry(directory: Path) -> CollectorRegistry:
    """Give a registry that shows the metrics of all processes as those of one."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return registry


def drop_gauges(directory: Path, worker: int) -> None:
    """Forget the gauges of a worker that is no more; its counters stay."""
    mark_process_dead(worker, str(directory))  # type: ignore[no-untyped-call]


class MergedHealth:
    """The health of several workers, asked as :class:`streamcrypt.observe.health.Health` is.

    It is ready when all workers are. It lives while no worker that runs is dead or silent: nobody else restarts that
    one. A worker that ended is the supervisor's to start again, within its back-off: it is named among ``waiting`` and
    fails only the readiness, lest an orchestrator kill those that work. Unless the restart is overdue, or no worker has
    reported for two minutes. Reasons name the worker.

    Args:
        states: Gives what is known of each worker now, by its number.
        stalled_after: Seconds without a word from a worker after which it counts as dead. Default 30.
        clock: Seconds on the monotonic clock.
    """

    def __init__(
        self,
        states: Callable[[], Mapping[int, WorkerState]],
        *,
        stalled_after: float = STALLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states = states
        self._stalled_after = stalled_after
        self._clock = clock

    def liveness(self) -> Report:
        """Say whether a restart would help: a worker hangs or halted, a restart is overdue, or none came up."""
        states, now = self._states(), self._clock()
        report = Report.merged(self._said(states, "live", self._stalled_after))
        silent = now - max((state.reported for state in states.values()), default=now)
        if silent <= _NONE_REPORTS_AFTER:
            return report
        none = Reason(f"no worker has reported for {silent:.0f} s", since=time.time() - silent, remedy=_NONE)
        return Report.merged([report, Report.of([none])])

    def readiness(self) -> Report:
        """Say whether every worker has its assignment and a key at hand, and no partition waits."""
        return Report.merged(self._said(self._states(), "ready", min(_SILENT_AFTER, self._stalled_after)))

    def _said(self, states: Mapping[int, WorkerState], probe: str, patience: float) -> Iterator[Report]:
        now = self._clock()
        for number, state in states.items():
            silent = now - state.heard
            if state.pid is None:
                gone = Reason(state.gone, since=time.time() - silent, worker=number)
                overdue = silent > self._stalled_after + Times().longest_pause
                if probe == "ready":
                    yield Report.of([gone])
                elif overdue:
                    yield Report.of([replace(gone, remedy=_OVERDUE)])
                else:
                    yield Report.of([], waiting=[gone])
            elif silent > patience:
                text = f"has said nothing for {silent:.0f} s"
                yield Report.of([Reason(text, since=time.time() - silent, worker=number)])
            elif state.report is None:
                # It starts: alive, and not ready.
                yield Report.of([Reason("starting", worker=number)] if probe == "ready" else [])
            else:
                yield Report.from_worker(number, getattr(state.report, probe))
