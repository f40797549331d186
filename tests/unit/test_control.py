"""Claims about the control socket, with real sockets: who may ask, what is refused, what is bounded."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcrypt.cli import control, control_place, control_server
from streamcrypt.cli import ctl as ctl_module
from streamcrypt.cli.control import (
    MOST_REQUEST,
    BadRequest,
    Peer,
    Request,
    candidates,
    peer_of,
    read_line,
    socket_path,
)
from streamcrypt.cli.control_place import Unsafe, UntrustedSocket, private
from streamcrypt.cli.control_server import ControlServer, controlled
from streamcrypt.cli.ctl import CtlRequest, ctl
from streamcrypt.cli.exits import Exit
from streamcrypt.config import load
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import ControlAsked, ControlUnavailable
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until

CONFIG = """
kafka: {bootstrap.servers: "x:1"}
keys: {key_id: alias/payments, region: eu-west-1}
pipelines: [{name: protect, mode: encrypt, from: a, to: b}]
"""


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def runtime(monkeypatch) -> Iterator[Path]:
    """A directory of this test's as XDG_RUNTIME_DIR, of a short name as that has."""
    with tempfile.TemporaryDirectory(prefix="sc-", ignore_cleanup_errors=True) as directory:
        monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
        yield Path(directory)


class Served:
    """A server that answers what it is told to, and remembers what it was asked."""

    def __init__(self, path: Path, answer=None) -> None:
        self.path = path
        self.asked: list[Request] = []
        self.answer = answer or {"code": Exit.DONE, "pipelines": {"protect": "paused"}}
        self.seen = CollectingObserver()

    def __call__(self, request: Request):
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __enter__(self):
        self.server = ControlServer(private(self.path, ours=False), self.path, self, self.seen)
        return self

    def __exit__(self, *_exc):
        self.server.close()

    def say(self, *parts: bytes, end: bool = False):
        """Send bytes and give the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.path))
            with contextlib.suppress(BrokenPipeError):
                for part in parts:
                    connection.sendall(part)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            return json.loads(read_line(connection, 10**6, 10))

    @property
    def outcomes(self):
        return [(e.command, e.outcome) for e in self.seen.events if isinstance(e, ControlAsked)]


@pytest.fixture
def served(tmp_path):
    with Served(tmp_path / "s") as made:
        yield made


def asked(command: str, *pipelines: str, form: str = "table", place: Path | None = None) -> CtlRequest:
    return CtlRequest.read(command, pipelines, form, place)


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_a_request_reads_as_it_was_written():
    request = Request("pause", ("a", "b"))
    assert Request.read(request.line()) == request


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "no JSON"),
        (b"pause", "no JSON"),
        (b"[" * 50_000, "no JSON"),
        (b"[]", "version 1"),
        (b'{"command": "pause"}', "version 1"),
        (b'{"version": 2, "command": "pause"}', "version 1"),
        (b'{"version": 1, "command": "stop"}', "no such command"),
        (b'{"version": 1, "command": ["pause"]}', "no such command"),
        (b'{"version": 1, "command": "pause", "pipelines": "a"}', "list of names"),
        (b'{"version": 1, "command": "pause", "pipelines": [1]}', "list of names"),
    ],
    ids=["nothing", "text", "nested", "list", "no version", "version 2", "unknown", "unhashable", "names", "number"],
)
def test_what_is_no_request_is_refused_and_told(served, line, says):
    answer = served.say(line + b"\n", end=True)
    assert answer["code"] == 2
    assert says in answer["message"]
    assert served.asked == []
    assert served.outcomes == [("none", "refused")]


def test_a_request_is_bounded_in_size(served):
    answer = served.say(b" " * (MOST_REQUEST + 1), b"\n")
    assert (answer["code"], "at most" in answer["message"]) == (2, True)


def test_a_line_is_bounded_in_time_though_it_drips():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"{")
        with pytest.raises(TimeoutError):
            read_line(ours, 100, 0.05)
        with pytest.raises(BadRequest):
            theirs.sendall(b"x" * 200)
            read_line(ours, 100, 5)


def test_one_that_says_nothing_and_goes_is_no_command(served):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(served.path))
    assert served.say(Request("status").line())["code"] == 0
    wait_until(lambda: len(served.outcomes) == 2, "both to be attended to")
    assert ("status", "done") in served.outcomes


def test_commands_beside_each_other_do_not_wait_for_each_other(tmp_path):
    """A status is answered while a reload drains; of too many one is told so."""
    let_go, under_way = threading.Event(), threading.Semaphore(0)

    class Slow(Served):
        def __call__(self, request: Request):
            if request.command == "reload":
                under_way.release()
                assert let_go.wait(30)
            return super().__call__(request)

    with Slow(tmp_path / "s") as slow:
        threads: list[threading.Thread] = []

        def one_more() -> bool:
            threads.append(threading.Thread(target=slow.say, args=(Request("reload").line(),)))
            threads[-1].start()
            return under_way.acquire(timeout=0.5)

        for _ in range(7):
            assert one_more()
        assert slow.say(Request("status").line())["code"] == 0
        # The place of the one that was answered is free in a moment.
        wait_until(one_more, "the last place")
        assert slow.say(Request("status").line())["message"] == "too many commands at a time"
        let_go.set()
        for thread in threads:
            thread.join()


def test_a_mistake_of_ours_is_an_answer_without_its_text(tmp_path):
    with Served(tmp_path / "s", ValueError("secret")) as broken:
        answer = broken.say(Request("status").line())
        assert (answer["code"], answer["message"]) == (1, "a mistake of ours: ValueError")
        assert broken.outcomes == [("status", "failed")]


def test_each_command_is_told_with_who_gave_it(served):
    served.say(Request("rotate", ("protect",)).line())
    [told] = served.seen.events
    assert told == ControlAsked("rotate", ("protect",), os.geteuid(), os.getpid(), "done")


# -- who may ask -------------------------------------------------------------------------------------------------------


def test_the_kernel_says_who_is_there():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of(ours) == Peer(os.getpid(), os.geteuid())


def test_the_same_user_and_root_may_command(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert [uid for uid in (0, 999, 1000, 1001) if Peer(1, uid).may_command] == [0, 1000]


def test_others_are_denied_unheard(served, monkeypatch):
    """The kernel's word counts, and what they send is not read."""
    monkeypatch.setattr(control_server, "peer_of", lambda _connection: Peer(17, os.geteuid() + 1))
    assert served.say(Request("pause").line())["code"] == 1
    assert served.asked == []
    [told] = served.seen.events
    assert told == ControlAsked("none", (), os.geteuid() + 1, 17, "denied")


def test_the_socket_is_its_users_alone(served):
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


def test_the_socket_has_that_mode_from_its_first_moment(tmp_path):
    """Whatever the umask is: nobody gets in between two calls."""
    before = os.umask(0)
    try:
        made = private(tmp_path / "s", ours=False)
    finally:
        os.umask(before)
    with made:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        assert stat.S_IMODE(os.fstat(made.fileno()).st_mode) == 0o600


# -- where it is -------------------------------------------------------------------------------------------------------


def test_the_default_is_found_by_both_sides(file, runtime):
    place = socket_path(file, load(file, {}))
    assert place == candidates(file, {})[0]
    assert place.parent == runtime / f"streamcrypt-{os.geteuid()}"


def test_the_default_follows_the_name_of_the_file_and_not_what_is_behind_it(tmp_path, runtime, monkeypatch):
    """A ConfigMap puts another file behind the same link; a relative path means the same as a whole one."""
    for name in ("v1", "v2"):
        (tmp_path / name).write_text(CONFIG)
    link = tmp_path / "c.yaml"
    link.symlink_to("v1")
    before = candidates(link, {})[0]
    link.unlink()
    link.symlink_to("v2")
    assert candidates(link, {})[0] == before
    monkeypatch.chdir(tmp_path)
    assert candidates(Path("c.yaml"), {})[0] == before
    assert candidates(tmp_path / "v1", {})[0] != before


def test_a_file_that_is_broken_just_now_still_leads_to_the_socket(file, runtime):
    before = candidates(file, {})
    file.write_text("kafka: [")
    assert candidates(file, {}) == before
    file.write_text("control: {socket: there.sock}\npipelines: 3\n")
    assert candidates(file, {}) == [file.parent / "there.sock"]


def test_null_means_none(file):
    file.write_text(CONFIG + "control: {socket: null}\n")
    assert socket_path(file, load(file, {})) is None
    assert candidates(file, {}) == []
    with pytest.raises(ConfigError, match="signals alone"):
        ctl(file, asked("status"))


def test_the_default_directory_must_be_ours_alone(file, runtime):
    """In /tmp anybody can make a directory of that name first."""
    place = candidates(file, {})[0]
    place.parent.mkdir(mode=0o755)
    place.parent.chmod(0o755)
    with pytest.raises(Unsafe, match="this user alone"):
        private(place, ours=True)
    place.parent.rmdir()
    place.parent.symlink_to(file.parent)
    with pytest.raises(Unsafe, match="this user alone"):
        private(place, ours=True)


def test_without_the_default_the_process_runs_on_and_says_so(file, runtime):
    (runtime / "file").write_text("no directory")
    seen = CollectingObserver()
    place = runtime / "file" / f"streamcrypt-{os.geteuid()}" / candidates(file, {})[0].name
    settings = load(file, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "default_directories", lambda: [place.parent])
        with controlled(file, settings, lambda _: {"code": 0}, seen):
            pass
    [told] = seen.events
    assert isinstance(told, ControlUnavailable)
    assert told.socket == str(place)


def test_a_place_that_was_asked_for_and_cannot_be_had_is_told_with_its_line(file):
    file.write_text(CONFIG + "control: {socket: missing/s.sock}\n")
    with (
        pytest.raises(ConfigError, match=r"c\.yaml:5:\d+: no socket at .*No such file"),
        controlled(file, load(file, {}), lambda _: {"code": 0}, CollectingObserver()),
    ):
        pass


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(Unsafe, match="107 bytes"):
        private(tmp_path / ("s" * 108), ours=False)


def test_what_a_killed_process_left_is_taken_away_and_a_live_one_is_not(tmp_path):
    place = tmp_path / "s"
    private(place, ours=False).close()
    assert place.exists()
    with Served(place) as served:
        with pytest.raises(Unsafe, match="another process listens"):
            private(place, ours=False)
        assert served.say(Request("status").line())["code"] == 0
    assert not place.exists()


def test_of_two_processes_that_start_at_a_time_one_listens_and_the_other_is_told(tmp_path, monkeypatch):
    """Between its name and its first connection a socket looks like one that was left behind."""
    place, told = tmp_path / "s", []

    class Early(socket.socket):
        """One beside which another process starts just then."""

        def listen(self, *most: int) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(control_place.socket, "socket", plain)
                patch.setattr(control_place, "_LOCK_SECONDS", 0.0)
                try:
                    private(place, ours=False).close()
                except Unsafe as refused:
                    told.append(str(refused))
            super().listen(*most)

    plain = socket.socket
    monkeypatch.setattr(control_place.socket, "socket", Early)
    with private(place, ours=False), plain(socket.AF_UNIX) as asking:
        asking.connect(str(place))
    assert told == ["another process is about to listen there"]
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_many_that_start_at_a_time_leave_one_that_is_reached(tmp_path):
    """Over a socket that was left behind, too."""
    for turn in range(20):
        place, made, barrier = tmp_path / f"s{turn % 2}", [], threading.Barrier(4)

        def start(place=place, made=made, barrier=barrier) -> None:
            barrier.wait()
            with contextlib.suppress(Unsafe):
                made.append(private(place, ours=False))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [listening] = made
        with listening, socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(place))


def test_an_end_takes_its_own_socket_away_and_nobody_elses(tmp_path):
    """Somebody took it away by hand, and another process listens there by now."""
    place = tmp_path / "s"
    with Served(place) as first:
        place.unlink()
        with Served(place) as second:
            first.server.close()
            assert second.say(Request("status").line())["code"] == 0


def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "s").write_text("somebody's")
    with pytest.raises(Unsafe, match="something else"):
        private(tmp_path / "s", ours=False)
    assert (tmp_path / "s").read_text() == "somebody's"


# -- whom ctl trusts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def at_default(file, runtime) -> Iterator[Path]:
    """A process listens at the default place; give that place."""
    place = candidates(file, {})[0]
    place.parent.mkdir(mode=0o700)
    listening = private(place, ours=True)
    with ControlServer(listening, place, lambda _: {"code": 0, "pipelines": {}}, CollectingObserver()):
        yield place


def test_ctl_asks_at_the_default_place_where_it_is_this_users_alone(file, at_default):
    assert ctl(file, asked("pause")) == 0


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777], ids=["the group", "everybody", "everybody, sticky"])
def test_ctl_trusts_no_directory_that_others_may_write_to(file, at_default, mode):
    at_default.parent.chmod(mode)
    with pytest.raises(UntrustedSocket, match="others may write to its directory") as caught:
        ctl(file, asked("pause"))
    assert "remove it" in caught.value.remedy


def test_ctl_trusts_no_socket_that_others_may_write_to(file, at_default):
    at_default.chmod(0o622)
    with pytest.raises(UntrustedSocket, match="others may write to it"):
        ctl(file, asked("pause"))


def test_ctl_trusts_no_directory_behind_a_link(file, at_default, tmp_path):
    """As anybody may make in /tmp."""
    at_default.parent.rename(tmp_path / "elsewhere")
    at_default.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UntrustedSocket, match="belongs to uid"):
        ctl(file, asked("pause"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("whose", ["directory", "socket"])
def test_root_trusts_nothing_that_another_user_made_at_the_default_place(file, at_default, whose):
    os.chown(at_default.parent if whose == "directory" else at_default, 12345, 12345)
    with pytest.raises(UntrustedSocket, match="belongs to uid 12345"):
        ctl(file, asked("pause"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_may_name_the_socket_of_another_user_where_that_user_alone_can_have_made_it(file, served, tmp_path):
    """Never in a directory of everybody's, whoever may remove what there."""
    os.chown(tmp_path, 12345, 12345)
    os.chown(served.path, 12345, 12345)
    assert ctl(file, asked("pause", place=served.path)) == 0
    tmp_path.chmod(0o1777)
    os.chown(tmp_path, 0, 0)
    with pytest.raises(UntrustedSocket, match="belongs to uid 12345"):
        ctl(file, asked("pause", place=served.path))


def test_a_socket_that_was_named_may_lie_where_each_users_files_are_safe_from_the_others(file, served, tmp_path):
    """As in /tmp itself; the sticky bit makes it so."""
    tmp_path.chmod(0o1777)
    assert ctl(file, asked("pause", place=served.path)) == 0
    tmp_path.chmod(0o777)
    with pytest.raises(UntrustedSocket, match="others may write to its directory"):
        ctl(file, asked("pause", place=served.path))


def test_ctl_asks_nothing_of_a_process_of_another_user(file, served, monkeypatch):
    """Whatever the files look like, the kernel's word counts."""
    monkeypatch.setattr(ctl_module, "peer_of", lambda _connection: Peer(17, os.geteuid() + 1))
    with pytest.raises(UntrustedSocket, match="a process of uid"):
        ctl(file, asked("pause", place=served.path))
    assert served.asked == []


# -- streamcrypt ctl ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize(
    "answer",
    [
        {"code": 0, "pipelines": {"p\x1b[2J\x7f\x9b": "paused\x1b]0;x\x07"}},
        {"code": 2, "problems": ["c\x1b[2J.yaml:\x9b1:\x7f1"]},
        {"code": 1, "message": "\x1b[31mno\x7f", "remedy": "\x9bnone\r"},
    ],
    ids=["done", "problems", "message"],
)
def test_an_answer_commands_no_terminal(file, tmp_path, capsys, answer, form):
    """A file's name and a pipeline's are others' text."""
    with Served(tmp_path / "s", answer) as served:
        ctl(file, asked("pause", place=served.path, form=form))
    out, err = capsys.readouterr()
    assert out or err
    assert all(character.isprintable() or character == "\n" for character in out + err)
    if out and form == "json":
        assert json.loads(out) == {"pipelines": answer["pipelines"]}


@pytest.mark.parametrize(
    "answer",
    [{"code": 0, "status": {}}, {"code": 0, "pipelines": 7}, {"code": 1, "problems": 7}],
    ids=["status", "pipelines", "problems"],
)
def test_an_answer_of_another_version_is_told_as_that(file, tmp_path, answer):
    with Served(tmp_path / "s", answer) as served, pytest.raises(StreamcryptError, match="does not understand"):
        ctl(file, asked("pause", place=served.path))


def test_ctl_prints_what_became_of_each_pipeline(file, served, capsys):
    assert ctl(file, asked("pause", "protect", place=served.path)) == 0
    assert capsys.readouterr() == ("protect: paused\n", "")
    assert served.asked == [Request("pause", ("protect",))]
    assert ctl(file, asked("pause", form="json", place=served.path)) == 0
    assert json.loads(capsys.readouterr().out) == {"pipelines": {"protect": "paused"}}


def test_ctl_ends_with_the_code_of_the_answer_and_prints_every_problem(file, tmp_path, capsys):
    with Served(
        tmp_path / "s", {"code": Exit.USAGE, "problems": ["c.yaml:3:1: first", "c.yaml:4:1: second"]}
    ) as served:
        assert ctl(file, asked("reload", place=served.path)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "streamcrypt: c.yaml:3:1: first",
        "streamcrypt: c.yaml:4:1: second",
        "streamcrypt: nothing was changed",
    ]


def test_ctl_says_where_nobody_listens(file, runtime):
    with pytest.raises(StreamcryptError, match=r"no process listens at .*streamcrypt-"):
        ctl(file, asked("status"))
    candidates(file, {})[0].parent.mkdir(mode=0o700)
    private(candidates(file, {})[0], ours=True).close()
    with pytest.raises(StreamcryptError, match="no process listens"):
        ctl(file, asked("status"))


def test_ctl_says_that_the_process_gave_no_answer(file, tmp_path):
    """As where it was killed meanwhile."""
    place = tmp_path / "s"
    with private(place, ours=False) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(StreamcryptError, match="gave no answer"):
            ctl(file, asked("status", place=place))
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("staus",), "no command 'staus'"), (("status", "--", "xml"), "neither table nor json")],
    ids=["command", "format"],
)
def test_ctl_refuses_what_it_does_not_know(arguments, says):
    with pytest.raises(ConfigError, match=says):
        CtlRequest.read(arguments[0], (), arguments[-1] if len(arguments) > 1 else "table", None)
