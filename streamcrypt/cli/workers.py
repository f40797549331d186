"""``streamcrypt run`` with several workers: the process that starts them, watches them and serves their metrics."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from streamcrypt.cli.commands import Commands
from streamcrypt.cli.control_server import controlled
from streamcrypt.cli.exits import complain
from streamcrypt.cli.reloading import Reloader, reload_on_hangup
from streamcrypt.cli.run import end_on_signals
from streamcrypt.cli.serving import serve
from streamcrypt.config import Settings
from streamcrypt.config.changes import Change, Plan
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.observe import fan_out
from streamcrypt.observe.logs import Logs
from streamcrypt.observe.metrics import Metrics
from streamcrypt.observe.status import Status, merge
from streamcrypt.observe.workers import SUPERVISOR, MergedHealth, drop_gauges, merged_registry, share_metrics
from streamcrypt.sidecar.channel import Begin, ChannelClosed, Done, Message, NotRunning, Refused, Reload, Steer
from streamcrypt.sidecar.workers import Outcome, Workers

__all__ = ["run_workers"]

# Seconds. A worker may have to start first; to apply is to drain, and that takes as long as an end.
_PREPARE = 20.0
_APPLY = 30.0
_STEER = 20.0


def run_workers(path: Path, settings: Settings) -> int:
    """Run ``settings.worker_count`` workers until SIGTERM or SIGINT, or until one halts.

    Args:
        path: The configuration file, for messages.
        settings: The configuration; workers run with its text, whatever becomes of the file.

    Returns:
        The exit code, as :func:`streamcrypt.cli.run.run` gives it.

    Raises:
        ConfigError: There is no directory to write to.
        OSError: The port is not free.
    """
    directory = _directory(settings)
    try:
        outcome = _supervise(path, settings, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for complaint in outcome.complaints:
        complain(complaint.message, complaint.remedy)
    return outcome.code


def _supervise(path: Path, settings: Settings, directory: Path) -> Outcome:
    # Before the first metric is made.
    share_metrics(directory, SUPERVISOR)
    stop, status = threading.Event(), Status()
    with Logs(settings.log.level, settings.log.format) as logs:
        observer = fan_out((Metrics(), status, logs.observer()))
        steered = _Steered(path, settings.text, directory, logs)
        workers = steered.workers = Workers(
            settings.worker_count,
            _command(),
            steered.begin,
            observer,
            stop,
            buried=lambda worker: drop_gauges(directory, worker),
        )

        def at_once() -> None:
            workers.kill()
            shutil.rmtree(directory, ignore_errors=True)

        end_on_signals(stop, at_once)

        def snapshot() -> Mapping[str, Any]:
            reports = [state.report for state in workers.states().values()]
            return merge([status.snapshot(), *(report.status for report in reports if report and report.status)])

        health = MergedHealth(workers.states)
        reloader = Reloader(path, settings, steered, observer, stop)
        commands = Commands(steered, reloader, snapshot)
        with (
            serve(settings, merged_registry(directory), health, snapshot, observer) as server,
            controlled(path, settings, commands, observer),
            reload_on_hangup(reloader.reload),
        ):
            reloader.serves(server)
            return workers.run()


class _Steered:
    """The pipelines of all workers, those that start later among them.

    Args:
        path: The configuration file, for messages.
        text: Its content.
        directory: The directory of the values of metrics.
        logs: Whose level follows the configuration.
    """

    workers: Workers

    def __init__(self, path: Path, text: str, directory: Path, logs: Logs) -> None:
        self._path = path
        self._text = text
        self._directory = directory
        self._logs = logs
        self._paused: set[str] = set()

    def begin(self, worker: int, again: bool) -> Begin:
        """Give what to tell a worker first."""
        paused = sorted(self._paused)
        return Begin(str(self._path), self._text, worker, str(self._directory), again, paused)

    def change(self, settings: Settings, changes: Plan, replaced: Collection[str]) -> None:
        """See :class:`streamcrypt.cli.reloading.Target`: first every worker makes ready, and then every one does it."""
        answers = self.workers.ask_all(Reload(settings.text, apply=False, replaced=list(replaced)), _PREPARE)
        _require_prepared(answers)
        # From here on whoever starts anew runs by it.
        self._text = settings.text
        # One of that name that is added again one day is another one.
        self._paused.difference_update(changes.names(Change.REMOVED))
        self._logs.set_level(settings.log.level)
        answers = self.workers.ask_all(Reload(settings.text, apply=True, replaced=list(replaced)), _APPLY)
        for worker, answer in answers.items():
            if not isinstance(answer, Done):
                self.workers.renew(worker)

    def steer(self, command: str, names: Collection[str]) -> Mapping[str, str]:
        """See :class:`streamcrypt.cli.commands.Steered`."""
        if command == "pause":
            self._paused.update(names)
        elif command == "resume":
            self._paused.difference_update(names)
        answers = self.workers.ask_all(Steer(command, list(names)), _STEER)
        return {name: ", ".join(dict.fromkeys(_state(name, answer) for answer in answers.values())) for name in names}


def _require_prepared(answers: Mapping[int, Message | ChannelClosed]) -> None:
    """Let a reload go on only where every worker that was asked is ready for it, and one at least was.

    Raises:
        ConfigError: A worker refuses it.
        StreamcryptError: One died or hung over it: a file that does that to one may do it to all. Or none runs.
    """
    for answer in answers.values():
        if isinstance(answer, Refused):
            raise ConfigError(answer.reason)
    for worker, answer in answers.items():
        if isinstance(answer, ChannelClosed) and not isinstance(answer, NotRunning):
            raise StreamcryptError(
                f"worker {worker} could not make ready for it: {answer}",
                remedy="Nothing was changed. Look at that worker's log, then reload again.",
            )
    if not any(isinstance(answer, Done) for answer in answers.values()):
        why = ", ".join(f"worker {worker}: {answer}" for worker, answer in answers.items())
        raise StreamcryptError(
            f"no worker runs that could make ready for it: {why}",
            remedy="Nothing was changed. Reload again when one runs, or restart the process.",
        )


def _state(name: str, answer: Message | ChannelClosed) -> str:
    if isinstance(answer, Done):
        return answer.states.get(name, "not started yet")
    return "a worker does not answer" if isinstance(answer, ChannelClosed) else "a worker has not started yet"


def _directory(settings: Settings) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="streamcrypt-metrics-"))
    except OSError as error:
        raise ConfigError(
            f"{settings.where('workers')}: several workers share their metrics in files, and there is no directory to"
            f" write to: {error.strerror or error}",
            remedy="Mount a small tmpfs at /tmp, or name a writable directory in TMPDIR.",
        ) from None


def _command() -> tuple[str, ...]:
    # A worker finds modules where this process does: with -m alone, also in the directory that it happens to run in.
    safe = () if str(Path.cwd()) in sys.path else ("-P",)
    return (sys.executable, *safe, "-m", "streamcrypt.cli.worker")
