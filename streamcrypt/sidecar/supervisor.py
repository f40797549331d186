"""Several pipelines in one process: a thread each, started again with growing pauses, ended together.

Some may end and others begin while the rest go on: see :meth:`Supervisor.changing`. For several processes see
``workers.py``.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamcrypt.clients.msk_iam import BrokerLoginFailed
from streamcrypt.errors import KeyServiceError, StreamcryptError
from streamcrypt.events import Observer, PipelineFailed, PipelineRestarting, PipelineStopped
from streamcrypt.sidecar.failures import AccessRefused, Backoff, ConnectionLost
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.steering import Steering
from streamcrypt.sidecar.topics import RouteProblem
from streamcrypt.sidecar.transform import Transform

__all__ = ["PipelineFactory", "Supervisor"]

_RESTART_FIRST = 1.0
# An outage of the brokers may last an hour; its end is noticed within this time and what one start takes.
_RESTART_CEILING = 10.0
# Two processes that fence each other come up every time: only one that lasted begins with short pauses again.
_LASTED = 30.0
# Docker kills 10 s after SIGTERM; what is left then is abandoned, in our own words.
_END = 9.0
# A call to the key service that hangs must not keep the process from ending.
_DROP_KEYS = 1.0
_TURN = 0.05


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class PipelineFactory:
    """How to build one pipeline, as often as it must begin again.

    Attributes:
        name: The pipeline's name.
        transform: Seals or opens; kept over restarts, closed at the end.
        build: Makes a pipeline with new clients.
        release: Called after the transform is closed: for what was made for this pipeline alone.
    """

    name: str
    transform: Transform
    build: Callable[[], Pipeline]
    release: Callable[[], None] = _nothing

    def close(self) -> None:
        """Drop all data keys, and what belongs to it."""
        try:
            self.transform.close()
        finally:
            self.release()


@dataclass(slots=True)
class _Run:
    """One pipeline on its thread. ``again``: what keeps it from starting is waited for; ``ran``: it ran before."""

    factory: PipelineFactory
    steering: Steering
    again: bool
    ran: bool
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Supervisor:
    """Runs pipelines until one halts or ``stop`` is set; then the others finish what they have begun.

    Args:
        factories: One for each pipeline.
        observer: Told of restarts, failures and ends.
        stop: Set it to end; set by the supervisor where a pipeline halts.
        again: Whether these pipelines were ready in an earlier process: then what keeps them from starting is waited
            for.
        paused: Names of those that begin paused.

    Call :meth:`run` on the main thread; the other methods from any.
    """

    def __init__(
        self,
        factories: Sequence[PipelineFactory],
        observer: Observer,
        stop: threading.Event,
        *,
        again: bool = False,
        paused: Collection[str] = (),
    ) -> None:
        self._observer = observer
        self._stop = stop
        self._failures: list[StreamcryptError] = []
        self._lock = threading.Lock()
        self._changing = 0
        self._begun = threading.Event()
        self._runs = {one.name: _Run(one, Steering(one.name in paused), again, again) for one in factories}

    def run(self) -> Sequence[StreamcryptError]:
        """Run to the end; return why pipelines halted, empty where all ended as asked.

        Returns within ten seconds of ``stop``, whatever the brokers and the key service do.
        """
        for run in self._all():
            self._start(run)
        self._begun.set()
        end = None
        while alive := self._alive():
            if end is None and self._stop.is_set():
                end = time.monotonic() + _END
            if end is not None:
                for run in alive:
                    run.stop.set()
                if time.monotonic() > end:
                    names = ", ".join(run.factory.name for run in alive)
                    self._failures.append(
                        StreamcryptError(f"{names}: no end within {_END:.0f} s; what is left is read again")
                    )
                    break
            # In short steps, so that signal handlers run on this thread meanwhile.
            _join(alive[0], _TURN)
        return list(self._failures)

    # -- while it runs -------------------------------------------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Keep :meth:`run` from its end while some pipelines have ended and others have not begun.

        Before :meth:`run` has begun them, this waits for it: one that is begun here would be begun twice.
        """
        self._begun.wait()
        with self._lock:
            self._changing += 1
        try:
            yield
        finally:
            with self._lock:
                self._changing -= 1

    def end(self, names: Collection[str]) -> None:
        """Have these pipelines deliver, commit and leave their groups, and wait for it; all of them at a time.

        What does not end in time is left to itself, as at the end of the process: what it has begun is read again.
        """
        with self._lock:
            leaving = [self._runs[name] for name in names]
        for run in leaving:
            run.stop.set()
        deadline = time.monotonic() + _END
        for run in leaving:
            _join(run, max(0.0, deadline - time.monotonic()))

    def begin(self, factories: Sequence[PipelineFactory], fresh: Collection[str] = ()) -> None:
        """Begin pipelines, or begin those of the same names anew, which stay paused where they were.

        What keeps one of them from starting is waited for: the others must not end with it.

        Args:
            factories: One for each.
            fresh: Names of those whose topics are to be looked at as at a first start: one that is missing is told.
        """
        for factory in factories:
            # To its start under the lock: once `run` has found nobody alive at the end, nobody may begin.
            with self._lock:
                before = self._runs.get(factory.name)
                steering = before.steering if before else Steering()
                ran = before is not None and factory.name not in fresh
                run = self._runs[factory.name] = _Run(factory, steering, again=True, ran=ran)
                if not self._stop.is_set():
                    self._start(run)
                    continue
            # It never ran, and nobody else closes it.
            _within(_DROP_KEYS, factory.close)

    def forget(self, names: Collection[str]) -> None:
        """Forget pipelines that were ended for good."""
        with self._lock:
            for name in names:
                del self._runs[name]

    def transform(self, name: str) -> Transform:
        """Give what a pipeline seals or opens with."""
        with self._lock:
            return self._runs[name].factory.transform

    def steering(self, name: str) -> Steering:
        """Give what a pipeline is steered by."""
        with self._lock:
            return self._runs[name].steering

    # -- one pipeline --------------------------------------------------------------------------------------------------

    def _all(self) -> list[_Run]:
        with self._lock:
            return list(self._runs.values())

    def _alive(self) -> list[_Run]:
        """Give the pipelines that run, none where it is over; wait out a change that is under way."""
        while True:
            with self._lock:
                changing = self._changing and not self._stop.is_set()
                alive = [run for run in self._runs.values() if run.thread is not None and run.thread.is_alive()]
            if alive or not changing:
                return alive
            time.sleep(_TURN)

    def _start(self, run: _Run) -> None:
        # A daemon: one that is abandoned must not keep the interpreter from ending.
        name = f"pipeline-{run.factory.name}"
        run.thread = threading.Thread(target=self._run_one, args=(run,), name=name, daemon=True)
        run.thread.start()

    def _run_one(self, run: _Run) -> None:
        factory, stop = run.factory, run.stop
        records, clean = 0, False
        backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
        started_once, restarted = run.again, run.ran
        try:
            while True:
                pipeline: Pipeline | None = None
                began, seconds = time.monotonic(), 0.0
                try:
                    pipeline = factory.build()
                    pipeline.run(stop, restarted=restarted, steering=run.steering)
                except (ConnectionLost, KeyServiceError, RouteProblem, AccessRefused, BrokerLoginFailed) as error:
                    fatal = isinstance(error, ConnectionLost) and error.fatal
                    if pipeline is not None and pipeline.has_been_ready:
                        started_once = restarted = True
                        # Nor does one whose ACL is missing become more right by being ready for a moment.
                        recurs = fatal or isinstance(error, AccessRefused)
                        if not recurs or time.monotonic() - began > _LASTED:
                            backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
                    if stop.is_set() and not self._stop.is_set():
                        # It alone was to end, and what it did not get done is read again by who follows.
                        return
                    if not started_once or stop.is_set():
                        # What cannot even start is a wrong address, name or key: say so and end.
                        self._fail(factory, error)
                        return
                    seconds = backoff.next()
                    self._observer(PipelineRestarting(factory.name, type(error).__name__, str(error), seconds, fatal))
                except StreamcryptError as error:
                    self._fail(factory, error)
                    return
                except Exception as error:
                    self._fail(factory, StreamcryptError(f"pipeline {factory.name!r}: {type(error).__name__}"))
                    raise
                finally:
                    records += pipeline.passed if pipeline is not None else 0
                if seconds:
                    # It is left in cycles, with the records that it had in hand, and an outage may make hundreds.
                    pipeline = None
                    gc.collect()
                    stop.wait(seconds)
                if stop.is_set():
                    clean = True
                    return
        finally:
            _within(_DROP_KEYS, factory.close)
            with self._lock:
                current = self._runs.get(factory.name) is run
            # One that was left to itself ends late: what it says would be taken for who follows, or for one removed.
            if current:
                self._observer(PipelineStopped(factory.name, clean, records))

    def _fail(self, factory: PipelineFactory, error: StreamcryptError) -> None:
        self._failures.append(error)
        self._observer(PipelineFailed(factory.name, type(error).__name__, str(error), error.remedy, error.request_id))
        self._stop.set()


def _join(run: _Run, seconds: float) -> None:
    if run.thread is not None:
        run.thread.join(seconds)


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do ``work``, and leave it to itself where it takes longer."""
    thread = threading.Thread(target=work, name="streamcrypt-close", daemon=True)
    thread.start()
    thread.join(seconds)
