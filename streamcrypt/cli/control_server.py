"""The process's side of the control socket: who may ask, what was asked, and a line in the log for each."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from streamcrypt.cli.control import (
    MOST_REQUEST,
    BadRequest,
    Request,
    answer_line,
    peer_of,
    read_line,
    socket_path,
)
from streamcrypt.cli.control_place import Unsafe, private
from streamcrypt.cli.exits import Exit
from streamcrypt.config import Settings
from streamcrypt.config.sections import CONTROL_DEFAULT
from streamcrypt.errors import ConfigError
from streamcrypt.events import ControlAsked, ControlUnavailable, Observer

__all__ = ["Answer", "ControlServer", "controlled"]

Answer = Mapping[str, Any]
"""With ``code``, the exit code for who asked, and what there is to say."""

_REQUEST_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_MOST_CONNECTIONS = 8  # an operator, a script or two, and one that reloads
_MOST_NAMES = 20
_LONGEST_NAME = 100
_OUTCOMES = {Exit.DONE: "done", Exit.FAILED: "failed", Exit.USAGE: "refused"}


class ControlServer:
    """Answers on a listening socket, a thread for each connection, until closed. A context manager.

    Args:
        listening: The socket, of :func:`streamcrypt.cli.control.private`; closed with this.
        path: Its name, taken away at the end.
        answer: Carries a request out.
        observer: Told of each command.
    """

    def __init__(
        self, listening: socket.socket, path: Path, answer: Callable[[Request], Answer], observer: Observer
    ) -> None:
        self._listening = listening
        self._path = path
        self._file = path.lstat()
        self._answer = answer
        self._observer = observer
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="streamcrypt-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; what is under way ends by itself."""
        self._ended.set()
        with contextlib.suppress(OSError):
            # While this one listens nobody else puts another there; somebody may have by hand.
            if os.path.samestat(self._path.lstat(), self._file):
                self._path.unlink()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                # Closed; or out of file descriptors, say: that may pass, and must not spin meanwhile.
                self._ended.wait(0.1)
                continue
            if not self._room.acquire(blocking=False):
                with connection:
                    self._send(connection, _failure(Exit.FAILED, "too many commands at a time", "Try again."))
                continue
            threading.Thread(
                target=self._attend, args=(connection,), name="streamcrypt-control-command", daemon=True
            ).start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                peer = peer_of(connection)
                request, answer = self._carry_out(connection) if peer.may_command else (None, _DENIED)
                if answer is None:
                    return
                outcome = "denied" if answer is _DENIED else _OUTCOMES[answer["code"]]
                names = tuple(name[:_LONGEST_NAME] for name in request.pipelines[:_MOST_NAMES]) if request else ()
                command = request.command if request else "none"
                self._observer(ControlAsked(command, names, peer.uid, peer.pid, outcome))
                self._send(connection, answer)
        finally:
            self._room.release()

    def _carry_out(self, connection: socket.socket) -> tuple[Request | None, Answer | None]:
        try:
            request = Request.read(read_line(connection, MOST_REQUEST, _REQUEST_SECONDS))
        except BadRequest as error:
            return None, _failure(Exit.USAGE, str(error), "Use the ctl of the version that runs there.")
        except OSError:
            return None, None
        try:
            return request, self._answer(request)
        except Exception as error:  # noqa: BLE001  its text may hold anything, and the asker waits for an answer
            return request, _failure(Exit.FAILED, f"a mistake of ours: {type(error).__name__}", "Look at the log.")

    @staticmethod
    def _send(connection: socket.socket, answer: Answer) -> None:
        with contextlib.suppress(OSError):
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(answer_line(answer))


def _failure(code: Exit, message: str, remedy: str) -> Answer:
    return {"code": code, "message": message, "remedy": remedy}


_DENIED = _failure(Exit.FAILED, "this process takes commands of its own user and of root alone", "")


@contextlib.contextmanager
def controlled(
    path: Path, settings: Settings, answer: Callable[[Request], Answer], observer: Observer
) -> Iterator[None]:
    """Answer on the control socket of a configuration while the block runs.

    Where the default place cannot be had, the process runs on without: a root file system that is read-only throughout
    must not keep records from being sealed.

    Raises:
        ConfigError: The place that the configuration names cannot be had.
    """
    place = socket_path(path, settings)
    if place is None:
        yield
        return
    ours = settings.control.socket == CONTROL_DEFAULT
    try:
        listening = private(place, ours=ours)
    except Unsafe as error:
        if not ours:
            raise ConfigError(
                f"{settings.where('control', 'socket')}: no socket at {place}: {error}",
                remedy="Name a path in a directory that this user may write to, or null.",
            ) from None
        observer(ControlUnavailable(str(place), str(error)))
        yield
        return
    with ControlServer(listening, place, answer, observer):
        yield
