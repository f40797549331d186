"""Claims about the supervisor of worker processes, with real processes that are tiny."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from streamcrypt.events import WorkerRestarting, WorkerStarted
from streamcrypt.sidecar.channel import Begin, ChannelClosed, Ended, Ready, Refused
from streamcrypt.sidecar.workers import Complaint, Times, Workers
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until
from tests.waiting import alive

# It does what the text says that it is told: a worker without Kafka.
CHILD = """
import json, os, signal, socket, sys, time
number, end = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
stream = end.makefile("rb")
begin = json.loads(stream.readline())["body"]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGINT])

def send(kind, body=None, **frame):
    end.sendall(json.dumps({"kind": kind, "body": body or {}, **frame}).encode() + b"\\n")

def until_asked():
    while not asked:
        time.sleep(0.01)

exec(begin["text"])
"""
COMMAND = (sys.executable, "-I", "-S", "-c", CHILD)
QUICK = Times(first_pause=0.01, longest_pause=0.2, lasted=30.0, end=30.0)

ALL_WELL = "send('Ready'); until_asked()"


class Play:
    """A supervisor with workers that follow a text, run on a thread of its own or on this one."""

    def __init__(self, *texts: str, times: Times = QUICK) -> None:
        self.stop = threading.Event()
        self.seen = CollectingObserver()
        self.begun: list[tuple[int, bool]] = []
        self.buried: list[tuple[int, int]] = []
        self.workers = Workers(
            len(texts),
            COMMAND,
            lambda number, again: self._begin(texts[number], number, again),
            self.seen,
            self.stop,
            buried=lambda number: self.buried.append((number, len(self.begun))),
            times=times,
        )

    def _begin(self, text: str, number: int, again: bool) -> Begin:
        self.begun.append((number, again))
        return Begin("", text, number, "", again)

    def of(self, kind):
        return [event for event in self.seen.events if isinstance(event, kind)]

    def run_until(self, condition, what: str):
        """Run; end once the condition holds, looked at beside; give the outcome."""
        failed = []

        def look() -> None:
            try:
                wait_until(lambda: condition() or self.stop.is_set(), what)
            except AssertionError as error:
                failed.append(error)
            self.stop.set()

        looker = threading.Thread(target=look)
        looker.start()
        outcome = self.workers.run()
        looker.join()
        assert not failed, failed
        return outcome

    def all_ready(self) -> bool:
        """Whether every worker said so."""
        return all(slot.was_ready for slot in self.workers._slots)


def test_each_worker_is_a_process_with_its_number_and_all_end_when_asked():
    play = Play(ALL_WELL, ALL_WELL, ALL_WELL)
    outcome = play.run_until(play.all_ready, "three workers")
    assert (outcome.code, outcome.complaints) == (0, ())
    assert play.begun == [(0, False), (1, False), (2, False)]
    assert [event.worker for event in play.of(WorkerStarted)] == [0, 1, 2]
    assert len({event.pid for event in play.of(WorkerStarted)} | {os.getpid()}) == 4


def test_a_worker_that_crashes_is_started_again_with_growing_pauses_and_the_others_go_on():
    """It is told that it was ready before, and is buried before the next one begins."""
    play = Play(ALL_WELL, "send('Ready'); os.kill(os.getpid(), signal.SIGKILL)")
    outcome = play.run_until(lambda: len(play.of(WorkerRestarting)) == 4, "four restarts")
    assert outcome.code == 0
    restarts = play.of(WorkerRestarting)
    assert {(event.worker, event.reason) for event in restarts} == {(1, "signal 9 (SIGKILL)")}
    assert restarts[0].seconds < restarts[2].seconds
    assert play.begun[:4] == [(0, False), (1, False), (1, True), (1, True)]
    assert play.buried[:2] == [(1, 2), (1, 3)]


def test_a_worker_that_lasted_begins_with_short_pauses_again():
    play = Play("send('Ready'); sys.exit(3)", times=Times(first_pause=0.02, longest_pause=10, lasted=0.0, end=30.0))
    play.run_until(lambda: len(play.of(WorkerRestarting)) == 3, "three restarts")
    assert max(event.seconds for event in play.of(WorkerRestarting)) <= 0.02
    assert play.of(WorkerRestarting)[0].reason == "exit code 3"


def test_a_worker_that_ends_before_it_was_ever_ready_ends_all():
    play = Play(ALL_WELL, "sys.exit(7)")
    outcome = play.workers.run()
    assert outcome.code == 1
    assert outcome.complaints == (Complaint("worker 1 ended before it was ready: exit code 7"),)


def test_a_worker_that_says_why_it_ends_decides_the_exit_code_and_is_quoted_once():
    """Two workers meet the same trouble, which is told to people once; the others are asked to end."""
    halts = "send('Ready'); send('Ended', {'code': 2, 'complaints': [['wrong', 'mend it']]}); sys.exit(2)"
    outcome = Play(halts, halts, ALL_WELL).workers.run()
    assert outcome.code == 2
    assert outcome.complaints == (Complaint("wrong", "mend it"),)


def test_every_worker_gets_one_signal_though_it_was_asked_while_its_interpreter_started():
    """A SIGTERM that comes too early waits until the worker can take it: none dies of it, and none gets a second."""
    told = "until_asked(); time.sleep(0.2); send('Ended', {'code': 0, 'complaints': [[f'asked {len(asked)}', '']]})"
    play = Play(told, told)
    outcome = play.run_until(lambda: len(play.begun) == 2, "two processes")
    assert outcome.code == 0
    assert outcome.complaints == (Complaint("asked 1"),)


def test_a_worker_that_does_not_end_in_time_is_killed_and_named():
    play = Play("send('Ready'); time.sleep(60)", ALL_WELL, times=Times(end=2.0))
    outcome = play.run_until(play.all_ready, "two workers")
    assert outcome.code == 1
    [complaint] = outcome.complaints
    assert complaint.message.startswith("worker 0: no end within 2 s")
    assert all(state.pid is None or not alive(state.pid) for state in play.workers.states().values())


def test_one_that_dies_while_it_is_to_end_is_told():
    play = Play("send('Ready'); until_asked(); os.kill(os.getpid(), signal.SIGKILL)")
    outcome = play.run_until(play.all_ready, "a worker")
    assert outcome.code == 1
    assert "worker 0 ended with signal 9 (SIGKILL) in the middle" in outcome.complaints[0].message


def test_a_command_that_cannot_be_run_ends_all():
    stop = threading.Event()
    workers = Workers(1, ["/nonexistent/python"], lambda *_: Begin("", "", 0, "", False), CollectingObserver(), stop)
    outcome = workers.run()
    assert (outcome.code, outcome.complaints) == (
        1,
        (Complaint("worker 0 cannot be started: No such file or directory"),),
    )
    assert stop.is_set()


def test_kill_takes_every_worker_down_at_once():
    play = Play("send('Ready'); time.sleep(60)", "send('Ready'); time.sleep(60)")
    killed = []

    def kill() -> bool:
        if play.all_ready() and not killed:
            killed.extend(state.pid for state in play.workers.states().values())
            play.stop.set()
            play.workers.kill()
        return bool(killed)

    play.run_until(kill, "the kill")
    assert len(killed) == 2
    assert not any(map(alive, killed))


def test_commands_go_to_every_worker_and_each_answers_for_itself():
    """One answers, one does not know the command, one is silent: each gets its own answer, none waits for another."""
    asked = "send('Ready'); number = json.loads(stream.readline())['ask']; "
    texts = (
        asked + "send('Ended', {'code': 0, 'complaints': []}, answer=number); until_asked()",
        asked + "send('Refused', {'reason': 'no'}, answer=number); until_asked()",
        "send('Ready'); until_asked()",
    )
    play, got = Play(*texts), {}

    def ask() -> bool:
        if play.all_ready():
            got.update(play.workers.ask_all(Ready(), 2.0))
        return bool(got)

    assert play.run_until(ask, "the answers").code == 0
    assert (got[0], got[1]) == (Ended(0, []), Refused("no"))
    assert isinstance(got[2], ChannelClosed)
    assert "no answer within" in str(got[2])
    assert [str(gone) for gone in play.workers.ask_all(Ready(), 0.5).values()] == ["exit code 0"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_the_supervisor_is_not_lost_while_it_starts_a_worker(number):
    """It holds signals back for its children only as long as it makes them."""
    before, came = signal.getsignal(number), []
    signal.signal(number, lambda *_: (came.append(time.monotonic()), play.stop.set()))
    try:
        play = Play(ALL_WELL, ALL_WELL)
        threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
        assert play.workers.run().code == 0
        assert len(came) == 1
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(number, before)
