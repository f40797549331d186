"""What a supervisor and a worker process say to each other: small typed messages over a socket pair, JSON lines.

A message is a frozen dataclass whose fields are JSON. To add one: write the dataclass below, name it in ``Message``,
and give a handler for it to the :class:`Channel` of the side that receives it: in ``streamcrypt/cli/worker.py`` for
what goes down (what to run, commands), in ``workers.py`` for what goes up (snapshots, what became of a worker). A
command that has an answer is sent by :meth:`Channel.ask`; its handler returns the answer, a message as well.

No message holds a data key or a record's content. :class:`Begin` holds the configuration, and so perhaps passwords of
Kafka: neither side logs messages. The pair is inherited, has no name, and is open to these two processes alone. When
one of them dies, the kernel closes its end, and the other reads the end of the stream: this, not a signal, tells a
worker that its supervisor is gone, even where that was killed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerYet
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

__all__ = [
    "MESSAGES",
    "Begin",
    "Channel",
    "ChannelClosed",
    "Done",
    "Ended",
    "Handler",
    "Message",
    "NotRunning",
    "Ready",
    "Refused",
    "Reload",
    "Report",
    "Steer",
]


@dataclass(frozen=True, slots=True)
class Begin:
    """Down, first: what to run.

    Attributes:
        path: The configuration file, for messages.
        text: Its content, as the supervisor checked it.
        worker: The number of this worker, from 0.
        metrics: The directory of the values of metrics.
        again: Whether a worker of this number was ready before: then it waits for brokers and keys instead of ending.
        paused: The pipelines that an operator has paused.
    """

    path: str
    text: str
    worker: int
    metrics: str
    again: bool
    paused: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ready:
    """Up, once: every pipeline was assigned with a key at hand."""


@dataclass(frozen=True, slots=True)
class Report:
    """Up, twice a second: how the worker is.

    Attributes:
        live: The fields of its :class:`streamcrypt.observe.health.Report` of liveness.
        ready: The same of readiness.
        status: Its snapshot for the status page; empty where it has none.
    """

    live: dict[str, Any]
    ready: dict[str, Any]
    status: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """Up, last: the worker ends by its own decision.

    Attributes:
        code: The exit code that the same would have in a single process.
        complaints: Pairs of a message and a remedy, for people.
    """

    code: int
    complaints: list[list[str]]


@dataclass(frozen=True, slots=True)
class Reload:
    """Down, with an answer: another configuration.

    Attributes:
        text: The content of the file.
        apply: False: only say whether it could be done, and be ready to; True: run by it.
        replaced: Settings that name a file whose content is another one now.
    """

    text: str
    apply: bool
    replaced: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Steer:
    """Down, with an answer: pause, resume or rotate these pipelines."""

    command: str
    pipelines: list[str]


@dataclass(frozen=True, slots=True)
class Done:
    """Up, an answer: it is done. ``states``: how the pipelines are now, by name."""

    states: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """Either way, an answer: what was asked for could not be done."""

    reason: str


Message = Begin | Ready | Report | Ended | Reload | Steer | Done | Refused
MESSAGES: Mapping[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
"""Every message by the name that goes over the wire."""

Handler = Callable[[Any], "Message | None"]


class ChannelClosed(Exception):
    """The other process is gone, or did not answer in time."""


class NotRunning(ChannelClosed):
    """There is no process to ask just now."""


class Channel:
    """One end of the pair.

    Args:
        end: The socket; the channel owns it from now on.
        handlers: Kind of message to who takes it. They are called one after the other on the channel's thread, so
            they return within seconds and never :meth:`ask` on the same channel: meanwhile nothing else is taken, not
            even the other's end. What one returns answers :meth:`ask`. A kind that has no handler is answered with
            :class:`Refused`.
        closed: Called once, on the same thread, when the other end is gone.
    """

    def __init__(
        self,
        end: socket.socket,
        handlers: Mapping[type[Message], Handler],
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        # A process that this one starts must not keep the pair open.
        end.set_inheritable(False)
        self._socket = end
        self._handlers = handlers
        self._closed = closed
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[Message]] = {}
        self._thread = threading.Thread(target=self._read, name="streamcrypt-channel", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def send(self, message: Message) -> bool:
        """Send a message that has no answer; return False where the other end is gone."""
        return self._write(message, {})

    def ask(self, message: Message, seconds: float) -> Message:
        """Send a message and give what its handler on the other side returns.

        Raises:
            ChannelClosed: The other end is gone, or gives no answer within ``seconds``.
        """
        number, answer = next(self._numbers), Future[Message]()
        self._asked[number] = answer
        try:
            if not self._write(message, {"ask": number}) or not self._thread.is_alive():
                raise ChannelClosed("the process is gone")
            return answer.result(seconds)
        except NoAnswerYet:
            raise ChannelClosed(f"no answer within {seconds:g} s") from None
        finally:
            self._asked.pop(number, None)

    def close(self) -> None:
        """Close this end; the other reads the end of the stream."""
        # shutdown first: close alone leaves a thread that reads where it is.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join(1.0)
        self._socket.close()

    def join(self, seconds: float) -> None:
        """Wait until everything that the other end sent before it ended was taken."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def _write(self, message: Message, frame: dict[str, Any]) -> bool:
        line = json.dumps({"kind": type(message).__name__, "body": asdict(message), **frame}).encode() + b"\n"
        try:
            with self._writing:
                self._socket.sendall(line)
        except OSError:
            return False
        return True

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as stream:
                for line in stream:
                    # The last one of a process that was killed may be cut off.
                    if line.endswith(b"\n"):
                        self._take(json.loads(line))
        except OSError:
            pass
        finally:
            for number in list(self._asked):
                if answer := self._asked.pop(number, None):
                    answer.set_exception(ChannelClosed("the process is gone"))
            self._closed()

    def _take(self, frame: dict[str, Any]) -> None:
        message = MESSAGES[frame["kind"]](**frame["body"])
        if "answer" in frame:
            # Nobody waits any more for one that comes late.
            if answered := self._asked.pop(frame["answer"], None):
                answered.set_result(message)
            return
        handler = self._handlers.get(type(message), _refuse)
        answer = handler(message)
        if (number := frame.get("ask")) is not None:
            self._write(answer or Refused("no answer"), {"answer": number})


def _refuse(message: Message) -> Message:
    return Refused(f"{type(message).__name__} is not known here")
