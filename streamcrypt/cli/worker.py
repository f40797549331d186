"""One of the worker processes of ``streamcrypt run``. Its supervisor starts it, nobody else:
``python -m streamcrypt.cli.worker NUMBER FILE_DESCRIPTOR``.

It runs every pipeline of the configuration that it is told. It ends on SIGTERM, which its supervisor sends, and by
itself when its supervisor is gone: the batch under way is delivered and committed, in at most ten seconds.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from streamcrypt.cli.exits import Exit, reported
from streamcrypt.cli.run import exit_code, keep_keys_out_of_core_dumps
from streamcrypt.cli.running import Prepared, Running
from streamcrypt.cli.serving import build_status
from streamcrypt.config import Settings, load
from streamcrypt.errors import StreamcryptError
from streamcrypt.events import Event, PipelineReady, PipelineReloaded
from streamcrypt.observe import fan_out
from streamcrypt.observe.health import Health
from streamcrypt.observe.logs import Logs
from streamcrypt.observe.metrics import Metrics
from streamcrypt.observe.workers import share_metrics
from streamcrypt.sidecar.channel import (
    Begin,
    Channel,
    Done,
    Ended,
    Handler,
    Message,
    Ready,
    Refused,
    Reload,
    Report,
    Steer,
)

__all__ = ["main"]

_REPORT_EVERY = 0.5
# The pipelines end within nine seconds of being asked; what hangs even so is not waited for.
_END = 10.0
_STARTED = 10.0


def main(arguments: Sequence[str]) -> int:
    """Run until asked to end, or until the supervisor is gone; give the exit code."""
    stop = threading.Event()
    # The terminal sends Ctrl-C to every process of the group: it is the supervisor who decides.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # However often it comes, to one process or to all of a control group: it asks to end.
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    keep_keys_out_of_core_dumps()
    begun: SimpleQueue[Begin | None] = SimpleQueue()

    def orphaned() -> None:
        stop.set()
        begun.put(None)
        time.sleep(_END)
        os._exit(Exit.FAILED)

    orders = _Orders()
    handlers: Mapping[type[Message], Handler] = {Begin: begun.put, Reload: orders.reload, Steer: orders.steer}
    channel = Channel(socket.socket(fileno=int(arguments[1])), handlers, orphaned)
    channel.start()
    begin = begun.get()
    if begin is None:
        return Exit.FAILED
    try:
        with reported():
            return _run(begin, channel, stop, orders)
    except SystemExit as ended:
        return int(ended.code or 0)


def _run(begin: Begin, channel: Channel, stop: threading.Event, orders: _Orders) -> int:
    # Before the first metric is made.
    share_metrics(Path(begin.metrics), str(begin.worker))
    settings = load(begin.path, text=begin.text)
    reporter = _Reporter(channel, settings, begin.worker)
    with Logs(settings.log.level, settings.log.format, always={"worker": begin.worker}) as logs:
        # The log last: who acts on a line finds /readyz and /metrics to agree with it.
        observer = fan_out((Metrics(), reporter, logs.observer()))
        failures: Sequence[StreamcryptError]
        try:
            running = Running(
                settings,
                observer,
                stop,
                worker=begin.worker,
                again=begin.again,
                paused=begin.paused,
                logs=logs,
                status=reporter.status,
            )
            orders.are_for(begin.path, running)
            failures = running.run()
        except StreamcryptError as error:
            failures = [error]
    code = exit_code(failures)
    channel.send(Ended(code, [[str(error), error.remedy] for error in failures]))
    return code


class _Orders:
    """What the supervisor asks of this process while it runs. Its methods are called on the channel's thread alone."""

    def __init__(self) -> None:
        self._runs = threading.Event()
        self._path = ""
        self._running: Running | None = None
        self._prepared: Prepared | None = None

    def are_for(self, path: str, running: Running) -> None:
        """Carry orders out on these pipelines from now on."""
        self._path, self._running = path, running
        self._runs.set()

    def reload(self, order: Reload) -> Message:
        """Make ready for another configuration, and at a second order run by it."""
        if (running := self._wait()) is None:
            return Refused("it has not started yet")
        prepared, self._prepared = self._prepared, None
        try:
            if not order.apply or prepared is None or prepared.settings.text != order.text:
                if prepared is not None:
                    prepared.drop()
                prepared = running.prepare(load(self._path, text=order.text), order.replaced)
            if not order.apply:
                self._prepared = prepared
                return Done()
            running.apply(prepared)
        except StreamcryptError as error:
            return Refused(f"{error}. {error.remedy}" if error.remedy else str(error))
        except Exception as error:  # noqa: BLE001  its text may hold anything, and without this thread the process ends
            return Refused(f"a mistake of ours: {type(error).__name__}")
        return Done()

    def steer(self, order: Steer) -> Message:
        """Pause, resume or rotate."""
        if (running := self._wait()) is None:
            return Refused("it has not started yet")
        # One that was started with another file a moment ago gets this one before the next order.
        names = [name for name in order.pipelines if name in running.names]
        return Done(dict(running.steer(order.command, names)))

    def _wait(self) -> Running | None:
        self._runs.wait(_STARTED)
        return self._running


class _Reporter:
    """An observer that tells the supervisor how this process is: in fixed steps, and when a pipeline becomes ready."""

    def __init__(self, channel: Channel, settings: Settings, worker: int) -> None:
        names = tuple(pipeline.name for pipeline in settings.pipelines)
        self._channel = channel
        self._health = Health(names)
        self.status = build_status(settings, worker)
        self._waiting = set(names)
        threading.Thread(target=self._report_on, name="streamcrypt-report", daemon=True).start()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self._health(event)
        self.status(event)
        if isinstance(event, PipelineReloaded) and event.change == "removed":
            self._waiting.discard(event.pipeline)
        if isinstance(event, PipelineReady):
            self._waiting.discard(event.pipeline)
            if not self._waiting:
                self._channel.send(Ready())
            self._channel.send(self._report())

    def _report(self) -> Report:
        return Report(_fields(self._health.liveness()), _fields(self._health.readiness()), self.status.snapshot())

    def _report_on(self) -> None:
        while self._channel.send(self._report()):
            time.sleep(_REPORT_EVERY)


def _fields(report: Any) -> dict[str, Any]:
    fields: Mapping[str, Any] = asdict(report)
    return dict(fields)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # A call to the key service or a broker may still hang, and the interpreter would wait for its thread.
    os._exit(code)
