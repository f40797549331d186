"""Reading the configuration again while the process runs: on SIGHUP, or when ``streamcrypt ctl`` asks for it.

All or nothing: a file with a mistake, or with a change that a running process cannot take over, changes nothing.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Protocol

from streamcrypt.cli.hangups import EarlyHangup
from streamcrypt.config import ConfigProblems, Settings, load
from streamcrypt.config.changes import Change, Plan, plan
from streamcrypt.config.files import read_regular
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import ConfigRefused, ConfigReloaded, Observer
from streamcrypt.observe.http import HTTPServer

__all__ = ["Contents", "Reloaded", "Reloader", "Target", "reload_on_hangup"]

_MOST_BYTES = 2**20
_ENDING = "the process is about to end"


class Target(Protocol):
    """What runs by the configuration: the pipelines of this process, or workers."""

    def change(self, settings: Settings, changes: Plan, replaced: Collection[str]) -> None:
        """Run by these settings from now on.

        Raises:
            StreamcryptError: They cannot be used, and nothing has changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of it.

    Attributes:
        problems: Why nothing was changed, one line each; empty where it was.
        changes: What became of each pipeline, by name.
        settings: Those of the process that were taken over.
        usage: Whether the configuration is to blame, and not the world.
    """

    problems: tuple[str, ...] = ()
    changes: Mapping[str, str] | None = None
    settings: tuple[str, ...] = ()
    usage: bool = False


class Contents:
    """Remembers what stood in files that a configuration names, without keeping it.

    A keyring or a token may be replaced while the configuration stays as it is. Passwords of the broker link need no
    such thing: they are read into the settings themselves.
    """

    def __init__(self, settings: Settings) -> None:
        self._known = self._look(settings)

    def replaced(self, settings: Settings) -> tuple[str, ...]:
        """Say which of these files hold something else than they did."""
        return tuple(name for name, digest in self._look(settings).items() if self._known.get(name, digest) != digest)

    def remember(self, settings: Settings) -> None:
        """Hold the next look against what stands there now."""
        self._known = self._look(settings)

    @staticmethod
    def _look(settings: Settings) -> dict[str, bytes]:
        named = {"keys.keyring": settings.keys.keyring, "http.token_file": settings.http.token_file}
        return {name: _digest(path) for name, path in named.items() if path is not None}


def _digest(path: str) -> bytes:
    try:
        return hashlib.sha256(read_regular(path, _MOST_BYTES)).digest()
    except OSError:
        # Whoever needs it says so.
        return b""


class Reloader:
    """Reads the file again and has it applied, one time after the other.

    Args:
        path: The configuration file.
        settings: What the process runs by.
        target: What runs by it.
        observer: Told of what came of it.
        stop: Set once the process is to end: then nothing is changed any more.
    """

    def __init__(
        self, path: Path, settings: Settings, target: Target, observer: Observer, stop: threading.Event
    ) -> None:
        self._path = path
        self._target = target
        self._observer = observer
        self._stop = stop
        self._lock = threading.Lock()
        self._contents = Contents(settings)
        self._server: HTTPServer | None = None
        self.settings = settings
        """What the process runs by now."""

    def serves(self, server: HTTPServer) -> None:
        """Have this server ask for the token that the configuration names."""
        self._server = server

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Keep reloads away meanwhile."""
        with self._lock:
            yield

    def reload(self) -> Reloaded:
        """Read the file, and run by it where nothing is wrong with it. Safe to call from several threads."""
        with self._lock:
            began = time.monotonic()
            try:
                settings, changes = self._apply()
            except ConfigProblems as error:
                return self._refuse(*map(str, error.problems), usage=True)
            except StreamcryptError as error:
                text = f"{error}. {error.remedy}" if error.remedy else str(error)
                return self._refuse(text, usage=isinstance(error, ConfigError))
            except Exception as error:
                # Its text may hold anything; nobody else would tell of it.
                self._refuse(f"a mistake of ours: {type(error).__name__}")
                raise
            self.settings = settings
            self._observer(_told(str(self._path), changes, time.monotonic() - began))
            became = {name: str(one.change) for name, one in changes.pipelines.items()}
            return Reloaded(changes=became, settings=changes.process)

    def _apply(self) -> tuple[Settings, Plan]:
        if self._stop.is_set():
            raise StreamcryptError(_ENDING)
        settings = load(self._path)
        replaced = self._contents.replaced(settings)
        changes = plan(self.settings, settings, replaced)
        if changes.refused:
            where = ", ".join(f"{settings.where(*name.split('.'))}: {name}" for name in changes.refused)
            raise ConfigError(
                f"{where}: cannot change while the process runs",
                remedy="Nothing was changed. Restart the process for it, or take it back and reload again.",
            )
        token = settings.http.read_token()
        self._target.change(settings, changes, replaced)
        if self._server is not None:
            self._server.change_token(token)
        self._contents.remember(settings)
        return settings, changes

    def _refuse(self, *problems: str, usage: bool = False) -> Reloaded:
        self._observer(ConfigRefused(str(self._path), problems))
        return Reloaded(problems, usage=usage)


def _told(file: str, changes: Plan, seconds: float) -> ConfigReloaded:
    return ConfigReloaded(
        file,
        changes.process,
        added=changes.names(Change.ADDED),
        removed=changes.names(Change.REMOVED),
        restarted=changes.names(Change.RESTARTED),
        changed=changes.names(Change.IN_PLACE),
        unchanged=changes.names(Change.UNCHANGED),
        seconds=round(seconds, 3),
    )


@contextmanager
def reload_on_hangup(reload: Callable[[], object]) -> Iterator[None]:
    """Call ``reload`` on a thread of its own for SIGHUP, while the block runs; enter it on the main thread.

    Several that come while one is under way are one: the file is read after the last of them. One that came before, and
    that :func:`streamcrypt.cli.hangups.remember_hangups` remembers, counts as well.
    """
    asked: SimpleQueue[bool] = SimpleQueue()

    def on_hangup(_number: int, _frame: FrameType | None) -> None:
        # A queue that a signal handler may put into, see the documentation of SimpleQueue.
        asked.put(True)

    def serve() -> None:
        while asked.get():
            again = True
            while again:
                try:
                    again = asked.get_nowait()
                except Empty:
                    break
                if not again:
                    return
            # A mistake of ours was told of already; without this thread the next signal would go unheard.
            with suppress(Exception):
                reload()

    thread = threading.Thread(target=serve, name="streamcrypt-reload", daemon=True)
    thread.start()
    before = signal.signal(signal.SIGHUP, on_hangup)
    if isinstance(before, EarlyHangup) and before.came:
        asked.put(True)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        asked.put(False)
        # One that is under way ends by itself: the process is about to.
        thread.join(1.0)
