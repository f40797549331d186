"""Several worker processes under one supervisor: started, watched, started again with growing pauses, ended together.

Each worker is a fresh interpreter, never a fork: a forked copy of a producer loses the records in its queue, and a data
key belongs to one process. Each runs every pipeline as one member of its consumer group, and Kafka shares the
partitions out. The supervisor has no Kafka client, no key service and no data key. For the pipelines *within* one
process see ``supervisor.py``; for the messages between the two, ``channel.py``.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from streamcrypt.events import Observer, WorkerRestarting, WorkerStarted
from streamcrypt.sidecar.channel import Begin, Channel, ChannelClosed, Ended, Message, NotRunning, Ready, Report
from streamcrypt.sidecar.failures import Backoff

__all__ = ["Complaint", "Outcome", "Times", "WorkerState", "Workers"]

_FAILED = 1
_TURN = 0.05
# Workers take these when they are ready for them: one that comes while the interpreter starts must not kill it.
_HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Times:
    """How long things may take, in seconds.

    Attributes:
        first_pause: Before a worker is started again. Short: its partitions wait for it.
        longest_pause: The ceiling of pauses, which double.
        lasted: A worker that ran for so long begins with short pauses again.
        end: From the request to end; what is left then is killed. Docker kills 10 s after SIGTERM.
    """

    first_pause: float = 0.2
    longest_pause: float = 30.0
    lasted: float = 30.0
    end: float = 9.6


@dataclass(frozen=True, slots=True)
class Complaint:
    """What to tell people at the end."""

    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the exit code, 0 where all ended as asked, and the complaints, each once."""

    code: int
    complaints: tuple[Complaint, ...]


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What is known of one worker.

    Attributes:
        pid: Of the process; None while there is none.
        gone: Why there is none.
        report: What it last said of itself.
        heard: When, in seconds of the monotonic clock; when it was started, where it said nothing yet.
        reported: When it, or one before it in its place, said anything last; when the supervisor began, if never.
    """

    pid: int | None
    gone: str
    report: Report | None
    heard: float
    reported: float


@dataclass
class _Slot:
    """The place of one worker, with whatever process fills it at the time."""

    number: int
    backoff: Backoff
    process: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    began: float = 0.0
    was_ready: bool = False
    ended: Ended | None = None
    report: Report | None = None
    heard: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)
    gone: str = "not started yet"
    start_at: float | None = 0.0
    complaints: list[Complaint] = field(default_factory=list)


class Workers:
    """Runs ``count`` worker processes until one halts or ``stop`` is set; then the others finish what they have begun.

    A worker that ends by itself before it was ever ready, or that says that it halts, ends all: what cannot start is a
    wrong address, name or key, and a halt is for an operator. Any other end is a crash, and another takes its place.

    Args:
        count: How many.
        command: Starts one; its number and the number of its file descriptor are added.
        begin: Gives what to tell worker ``number`` first; ``again`` whether one of that number was ready before.
        observer: Told of starts and restarts.
        stop: Set it to end; set here where a worker ends all.
        buried: Called with the number of a worker that ended, before another takes its place.
        times: How long things may take.

    Call :meth:`run` on the main thread; the other methods from any.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        begin: Callable[[int, bool], Begin],
        observer: Observer,
        stop: threading.Event,
        *,
        buried: Callable[[int], None] = lambda _: None,
        times: Times = Times(),
    ) -> None:
        self._command = tuple(command)
        self._begin = begin
        self._observer = observer
        self._stop = stop
        self._buried = buried
        self._times = times
        self._starting = threading.Lock()
        self._begun = threading.Event()
        self._slots = [_Slot(number, self._fresh()) for number in range(count)]
        self._code = 0

    def _fresh(self) -> Backoff:
        return Backoff(self._times.first_pause, self._times.longest_pause)

    def run(self) -> Outcome:
        """Run to the end, which comes within ten seconds of ``stop``."""
        end: float | None = None
        try:
            while True:
                if end is None and self._stop.is_set():
                    end = time.monotonic() + self._times.end
                    self._ask_to_end()
                for slot in self._slots:
                    self._look_after(slot, ending=end is not None)
                self._begun.set()
                if end is not None and not any(slot.process for slot in self._slots):
                    break
                if end is not None and time.monotonic() > end:
                    self._give_up()
                    break
                # In short steps, so that signal handlers run on this thread meanwhile.
                time.sleep(_TURN)
        finally:
            self.kill()
            for slot in self._slots:
                if slot.process is not None:
                    self._bury(slot, "killed")
        complaints = dict.fromkeys(complaint for slot in self._slots for complaint in slot.complaints)
        return Outcome(self._code, tuple(complaints))

    def kill(self) -> None:
        """End every worker without a goodbye. Safe in a signal handler."""
        for slot in self._slots:
            if slot.process is not None:
                slot.process.kill()
        for slot in self._slots:
            if slot.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    slot.process.wait(1.0)

    def states(self) -> Mapping[int, WorkerState]:
        """Give what is known of every worker, by its number."""
        processes = [(slot, slot.process) for slot in self._slots]
        return {
            slot.number: WorkerState(
                process.pid if process else None, slot.gone, slot.report, slot.heard, slot.reported
            )
            for slot, process in processes
        }

    def ask_all(self, message: Message, seconds: float = 5.0) -> Mapping[int, Message | ChannelClosed]:
        """Ask every worker; give its answer, or why there is none, by its number.

        Before :meth:`run` has started the first ones, this waits for it. Of one that does not run just now the answer
        is :class:`NotRunning`.

        Args:
            message: A command that has an answer.
            seconds: For all of them together.
        """
        self._begun.wait(seconds)
        # One that is about to start has been told all that there was to tell before this, or nothing of it.
        with self._starting:
            channels = [(slot, slot.channel) for slot in self._slots]

        def ask(slot: _Slot, channel: Channel | None) -> Message | ChannelClosed:
            if channel is None:
                return NotRunning(slot.gone)
            try:
                return channel.ask(message, seconds)
            except ChannelClosed as reason:
                return reason

        with ThreadPoolExecutor(len(channels), "streamcrypt-ask") as pool:
            answers = pool.map(lambda pair: ask(*pair), channels)
        return {slot.number: answer for (slot, _), answer in zip(channels, answers, strict=True)}

    def renew(self, number: int) -> None:
        """Have a worker that was ready end in order and another take its place; any other is left alone."""
        slot = self._slots[number]
        process = slot.process
        if process is not None and slot.was_ready:
            process.send_signal(signal.SIGTERM)

    def _look_after(self, slot: _Slot, *, ending: bool) -> None:
        if slot.process is None:
            if not ending and slot.start_at is not None and time.monotonic() >= slot.start_at:
                self._start(slot)
            return
        code = slot.process.poll()
        if code is None:
            return
        pid = self._bury(slot, _how(code))
        if ending or (slot.ended is not None and slot.ended.code):
            self._note_end(slot, code)
        elif not slot.was_ready:
            self._fail(slot, Complaint(f"worker {slot.number} ended before it was ready: {_how(code)}"))
        else:
            self._start_again(slot, pid, _how(code))

    def _start(self, slot: _Slot) -> None:
        ours, theirs = socket.socketpair()
        slot.ended = slot.report = None
        slot.began = slot.heard = time.monotonic()
        slot.start_at = None
        channel = Channel(ours, self._handlers(slot))
        try:
            with theirs, _signals_held_back():
                slot.process = subprocess.Popen(  # noqa: S603  our own interpreter
                    [*self._command, str(slot.number), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        except OSError as error:
            channel.close()
            reason = f"cannot be started: {error.strerror or type(error).__name__}"
            if slot.was_ready:
                self._start_again(slot, 0, reason)
            else:
                self._fail(slot, Complaint(f"worker {slot.number} {reason}"))
            return
        slot.gone = ""
        self._observer(WorkerStarted(slot.number, slot.process.pid))
        with self._starting:
            channel.send(self._begin(slot.number, slot.was_ready))
            channel.start()
            slot.channel = channel

    def _handlers(self, slot: _Slot) -> Mapping[type[Message], Callable[[Any], None]]:
        def ready(_message: Ready) -> None:
            slot.was_ready = True

        def report(message: Report) -> None:
            slot.heard = slot.reported = time.monotonic()
            slot.report = message

        def ended(message: Ended) -> None:
            slot.ended = message

        return {Ready: ready, Report: report, Ended: ended}

    def _bury(self, slot: _Slot, how: str) -> int:
        assert slot.process is not None
        pid, slot.process, slot.gone, slot.report = slot.process.pid, None, how, None
        if slot.channel is not None:
            # What it said last decides what its end means.
            slot.channel.join(1.0)
            slot.channel.close()
            slot.channel = None
        self._buried(slot.number)
        return pid

    def _start_again(self, slot: _Slot, pid: int, reason: str) -> None:
        now = time.monotonic()
        if now - slot.began > self._times.lasted:
            slot.backoff = self._fresh()
        seconds = slot.backoff.next()
        slot.start_at, slot.gone = now + seconds, f"starts again: {reason}"
        self._observer(WorkerRestarting(slot.number, pid, reason, round(seconds, 3)))

    def _note_end(self, slot: _Slot, code: int) -> None:
        if slot.ended is not None:
            slot.complaints += [Complaint(message, remedy) for message, remedy in slot.ended.complaints]
            self._fail(slot, code=slot.ended.code)
        elif code:
            # Killed while it was to end: like a crash, but nobody takes its place.
            text = f"worker {slot.number} ended with {_how(code)} in the middle; what it had begun is read again"
            self._fail(slot, Complaint(text))

    def _fail(self, slot: _Slot, complaint: Complaint | None = None, code: int = _FAILED) -> None:
        if complaint is not None:
            slot.complaints.append(complaint)
        # The first one is the cause, as a rule; those after it may only say that they were asked to end.
        self._code = self._code or code
        if code:
            self._stop.set()

    def _ask_to_end(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send_signal(signal.SIGTERM)

    def _give_up(self) -> None:
        for slot in self._slots:
            if slot.process is not None:
                text = f"worker {slot.number}: no end within {self._times.end:g} s; what is left is read again"
                self._fail(slot, Complaint(text))


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start children with these signals blocked; one to this process waits for the moment that it takes."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
