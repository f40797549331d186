"""Several pipelines in one process: a thread each, started again with growing pauses, ended together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamcrypt.errors import StreamcryptError
from streamcrypt.events import Observer, PipelineFailed, PipelineRestarting
from streamcrypt.sidecar.failures import Backoff, ConnectionLost
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.transform import Transform

__all__ = ["PipelineFactory", "Supervisor"]

_RESTART_FIRST = 1.0
_RESTART_CEILING = 30.0


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
        observer: Told of restarts and failures.
        stop: Set it to end; set by the supervisor where a pipeline halts.
    """

    def __init__(self, factories: Sequence[PipelineFactory], observer: Observer, stop: threading.Event) -> None:
        self._factories = factories
        self._observer = observer
        self._stop = stop
        self._failures: list[StreamcryptError] = []

    def run(self) -> Sequence[StreamcryptError]:
        """Run to the end; return why pipelines halted, empty where all ended as asked."""
        threads = [
            threading.Thread(target=self._run_one, args=(factory,), name=f"pipeline-{factory.name}")
            for factory in self._factories
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            # In short steps, so that signal handlers run on this thread meanwhile.
            while thread.is_alive():
                thread.join(0.2)
        for factory in self._factories:
            factory.transform.close()
        return self._failures

    def _run_one(self, factory: PipelineFactory) -> None:
        backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
        started_once = False
        while True:
            pipeline: Pipeline | None = None
            try:
                pipeline = factory.build()
                pipeline.run(self._stop)
            except ConnectionLost as error:
                started_once = started_once or (pipeline is not None and pipeline.has_been_ready)
                if pipeline is not None and pipeline.has_been_ready:
                    backoff = Backoff(_RESTART_FIRST, _RESTART_CEILING)
                if not started_once or self._stop.is_set():
                    # What cannot even start is a wrong address or a dead broker: say so and end.
                    self._fail(factory, error)
                    return
                seconds = backoff.next()
                self._observer(PipelineRestarting(factory.name, type(error).__name__, str(error), seconds))
                self._stop.wait(seconds)
            except StreamcryptError as error:
                self._fail(factory, error)
                return
            except Exception as error:  # noqa: BLE001  our bug must not leave other pipelines without an end
                self._fail(factory, StreamcryptError(f"pipeline {factory.name!r}: {type(error).__name__}"))
                raise
            if self._stop.is_set():
                return

    def _fail(self, factory: PipelineFactory, error: StreamcryptError) -> None:
        self._failures.append(error)
        self._observer(PipelineFailed(factory.name, type(error).__name__, str(error), error.remedy))
        self._stop.set()
