"""Several pipelines in one process: a thread each, started again with growing pauses, ended together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamcrypt.errors import KeyServiceError, StreamcryptError
from streamcrypt.events import Observer, PipelineFailed, PipelineRestarting, PipelineStopped
from streamcrypt.sidecar.failures import Backoff, ConnectionLost
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.topics import RouteProblem
from streamcrypt.sidecar.transform import Transform

__all__ = ["PipelineFactory", "Supervisor"]

_RESTART_FIRST = 1.0
_RESTART_CEILING = 30.0
# Two processes that fence each other come up every time: only one that lasted begins with short pauses again.
_LASTED = 30.0
# Docker kills 10 s after SIGTERM; what is left then is abandoned, in our own words.
_END = 9.0
# A call to the key service that hangs must not keep the process from ending.
_DROP_KEYS = 1.0


@dataclass(frozen=True, slots=True)
class PipelineFactory:
    """How to build one pipeline, as often as it must begin again.

    Attributes:
        name: The pipeline's name.
        transform: Seals or opens; kept over restarts, closed at the end.
        build: Makes a pipeline with new clients.
    """

    name: str
    transform: Transform
    build: Callable[[], Pipeline]


class Supervisor:
    """Runs pipelines until one halts or ``stop`` is set; then the others finish what they have begun.

    Args:
        factories: One for each pipeline.
        observer: Told of restarts, failures and ends.
        stop: Set it to end; set by the supervisor where a pipeline halts.
    """

    def __init__(self, factories: Sequence[PipelineFactory], observer: Observer, stop: threading.Event) -> None:
        self._factories = factories
        self._observer = observer
        self._stop = stop
        self._failures: list[StreamcryptError] = []

    def run(self) -> Sequence[StreamcryptError]:
        """Run to the end; return why pipelines halted, empty where all ended as asked.

        Returns within ten seconds of ``stop``, whatever the brokers and the key service do.
        """
        threads = {
            # Daemons: one that is abandoned must not keep the interpreter from ending.
            factory.name: threading.Thread(
                target=self._run_one, args=(factory,), name=f"pipeline-{factory.name}", daemon=True
            )
            for factory in self._factories
        }
        for thread in threads.values():
            thread.start()
        end = None
        while alive := [name for name, thread in threads.items() if thread.is_alive()]:
            # In short steps, so that signal handlers run on this thread meanwhile.
            threads[alive[0]].join(0.2)
            if end is None and self._stop.is_set():
                end = time.monotonic() + _END
            if end is not None and time.monotonic() > end:
                names = ", ".join(alive)
                self._failures.append(
                    StreamcryptError(f"{names}: no end within {_END:.0f} s; what is left is read again")
                )
                break
        return list(self._failures)

    def _run_one(self, factory: PipelineFactory) -> None:
        records, clean = 0, False
        backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
        started_once = False
        try:
            while True:
                pipeline: Pipeline | None = None
                began = time.monotonic()
                try:
                    pipeline = factory.build()
                    pipeline.run(self._stop, restarted=started_once)
                except (ConnectionLost, KeyServiceError, RouteProblem) as error:
                    fatal = isinstance(error, ConnectionLost) and error.fatal
                    if pipeline is not None and pipeline.has_been_ready:
                        started_once = True
                        if not fatal or time.monotonic() - began > _LASTED:
                            backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
                    if not started_once or self._stop.is_set():
                        # What cannot even start is a wrong address, name or key: say so and end.
                        self._fail(factory, error)
                        return
                    seconds = backoff.next()
                    self._observer(PipelineRestarting(factory.name, type(error).__name__, str(error), seconds, fatal))
                    self._stop.wait(seconds)
                except StreamcryptError as error:
                    self._fail(factory, error)
                    return
                except Exception as error:
                    self._fail(factory, StreamcryptError(f"pipeline {factory.name!r}: {type(error).__name__}"))
                    raise
                finally:
                    records += pipeline.passed if pipeline is not None else 0
                if self._stop.is_set():
                    clean = True
                    return
        finally:
            _within(_DROP_KEYS, factory.transform.close)
            self._observer(PipelineStopped(factory.name, clean, records))

    def _fail(self, factory: PipelineFactory, error: StreamcryptError) -> None:
        self._failures.append(error)
        self._observer(PipelineFailed(factory.name, type(error).__name__, str(error), error.remedy))
        self._stop.set()


def _within(seconds: float, work: Callable[[], None]) -> None:
    """Do ``work``, and leave it to itself where it takes longer."""
    thread = threading.Thread(target=work, name="streamcrypt-close", daemon=True)
    thread.start()
    thread.join(seconds)
