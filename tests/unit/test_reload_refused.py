"""Claims about reloads that come too early, and those over which workers die: real signals, real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from streamcrypt.cli.hangups import EarlyHangup, remember_hangups
from streamcrypt.cli.reloading import Reloader, reload_on_hangup
from streamcrypt.cli.workers import _Steered
from streamcrypt.config import load
from streamcrypt.events import ConfigRefused
from streamcrypt.sidecar.supervisor import PipelineFactory, Supervisor
from streamcrypt.sidecar.workers import Times, Workers
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until

CONFIG = """
kafka: {bootstrap.servers: "x:1"}
keys: {key_id: alias/payments, region: eu-west-1}
workers: 2
context: {app: a}
pipelines: [{name: p, mode: encrypt, from: a, to: b}]
"""


# -- early -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def default_handler():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("default_handler")
def test_a_hangup_before_anybody_can_reload_is_a_reload_as_soon_as_somebody_can():
    """And one that comes after that ends nothing either: the process may be about to end by itself."""
    remember_hangups()
    os.kill(os.getpid(), signal.SIGHUP)
    remember_hangups()
    read = threading.Event()
    with reload_on_hangup(read.set):
        assert read.wait(10)
    os.kill(os.getpid(), signal.SIGHUP)
    assert isinstance(signal.getsignal(signal.SIGHUP), EarlyHangup)


@pytest.mark.usefixtures("default_handler")
def test_without_an_early_hangup_nothing_is_read():
    """What there is to read was read a moment ago."""
    remember_hangups()
    read = []
    with reload_on_hangup(lambda: read.append(1)):
        pass
    assert read == []


LOADING = """
import os, signal, sys
from streamcrypt.cli import main

class Late:
    '''Stands where the command line is loaded from: the signal comes before any of it is there.'''
    def find_spec(self, name, *_):
        if name == "streamcrypt.cli.app":
            os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Late())
sys.argv = ["streamcrypt", *sys.argv[1:]]
main()
"""


def _main(*arguments: str) -> int:
    command = [sys.executable, "-c", LOADING, *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


def test_run_lives_through_a_hangup_that_comes_while_it_loads(tmp_path):
    """It goes on to say that the file is missing."""
    assert _main("run", str(tmp_path / "missing.yaml")) == 2


def test_nothing_heavy_is_loaded_before_the_signal_is_taken():
    """Loading the core takes a tenth of a second or more, in which a hangup would end the process."""
    script = "import sys, streamcrypt.cli; print({'cryptography', 'fastavro', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_any_other_command_ends_with_its_terminal(tmp_path):
    """As a command does."""
    assert _main("check", str(tmp_path / "missing.yaml")) == -signal.SIGHUP


def test_a_worker_that_starts_lives_through_a_hangup():
    """From its first moment, as its supervisor starts it: with the signal held back."""
    ours, theirs = socket.socketpair()
    held = {signal.SIGHUP}
    with ours:
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            with theirs:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "streamcrypt.cli.worker", "0", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
        worker.send_signal(signal.SIGHUP)
    # Its supervisor is gone before it was told what to run.
    assert worker.wait(60) == 1


class Brief:
    """A pipeline that runs until it is asked to end, and counts how often it was begun."""

    passed = 0
    has_been_ready = True

    def __init__(self) -> None:
        self.begun = 0

    def run(self, stop: threading.Event, **_how: Any) -> None:
        self.begun += 1
        stop.wait(20)

    def factory(self) -> PipelineFactory:
        """Give one that builds this."""
        return PipelineFactory("p", SimpleNamespace(close=lambda: None), lambda: self)  # type: ignore[arg-type, return-value]


def test_a_change_before_the_pipelines_have_begun_waits_for_them():
    """Else its pipelines would be begun twice, two members with one name."""
    old, new, stop = Brief(), Brief(), threading.Event()
    supervisor = Supervisor([old.factory()], CollectingObserver(), stop)
    changing = threading.Event()

    def change() -> None:
        changing.set()
        with supervisor.changing():
            supervisor.end(["p"])
            supervisor.begin([new.factory()])

    early = threading.Thread(target=change)
    early.start()
    assert changing.wait(10)
    main = threading.Thread(target=supervisor.run)
    main.start()
    early.join(10)
    wait_until(lambda: new.begun == 1, "the new one")
    stop.set()
    main.join(10)
    assert (old.begun, new.begun) == (1, 1)


# -- workers -----------------------------------------------------------------------------------------------------------

# A worker without Kafka. It answers orders, or does what the argument says when it is to make ready for the first one.
CHILD = """
import json, os, signal, socket, sys, time
what, number, end = sys.argv[1], int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3]))
stream = end.makefile("rb")
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

def send(kind, body=None, **frame):
    end.sendall(json.dumps({"kind": kind, "body": body or {}, **frame}).encode() + b"\\n")

json.loads(stream.readline())
send("Ready")
for line in stream:
    order = json.loads(line)
    if what == "all die" or (what == "one dies" and number == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    send("Done", answer=order["ask"])
"""


class Steering:
    """A supervisor of such workers, and a file that it reads again."""

    def __init__(self, directory, what: str) -> None:
        self.file = directory / "c.yaml"
        self.file.write_text(CONFIG)
        settings = load(self.file, {})
        self.seen, self.stop = CollectingObserver(), threading.Event()
        self.steered = _Steered(self.file, settings.text, directory, SimpleNamespace(set_level=lambda _: None))  # type: ignore[arg-type]
        self.workers = self.steered.workers = Workers(
            2,
            (sys.executable, "-I", "-S", "-c", CHILD, what),
            self.steered.begin,
            self.seen,
            self.stop,
            times=Times(first_pause=20.0, longest_pause=20.0),
        )
        self.reloader = Reloader(self.file, settings, self.steered, self.seen, self.stop)

    def __enter__(self):
        self.thread = threading.Thread(target=self.workers.run)
        self.thread.start()
        wait_until(lambda: all(slot.was_ready for slot in self.workers._slots), "two workers")
        return self

    def __exit__(self, *_exc):
        self.stop.set()
        self.thread.join()


@pytest.mark.parametrize("what", ["all die", "one dies"])
def test_a_file_over_which_workers_die_is_refused_and_the_old_one_stays_in_force(tmp_path, what):
    """For those that start later as well; log, metric and ``ctl`` tell of it."""
    with Steering(tmp_path, what) as play:
        play.file.write_text(CONFIG.replace("app: a", "app: b"))
        done = play.reloader.reload()
        assert (len(done.problems), done.usage) == (1, False)
        assert "could not make ready for it: the process is gone" in done.problems[0]
        assert [e for e in play.seen.events if isinstance(e, ConfigRefused)] == [
            ConfigRefused(str(play.file), done.problems)
        ]
        assert play.reloader.settings.context == {"app": "a"}
        assert play.steered.begin(0, True).text == CONFIG
        if what == "all die":
            wait_until(lambda: all(state.pid is None for state in play.workers.states().values()), "no worker")
            [problem] = play.reloader.reload().problems
            assert "no worker runs that could make ready for it" in problem
            assert play.steered.begin(0, True).text == CONFIG


def test_a_reload_waits_for_the_first_workers(tmp_path):
    """One that came before they were started is theirs to make ready for, too."""
    play = Steering(tmp_path, "none dies")
    play.file.write_text(CONFIG.replace("app: a", "app: b"))
    done = []
    early = threading.Thread(target=lambda: done.append(play.reloader.reload()))
    early.start()
    with play:
        early.join(20)
        assert done[0].problems == ()
        assert play.steered.begin(0, True).text == play.file.read_text()
