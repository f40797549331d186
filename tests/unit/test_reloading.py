"""Claims about reading the configuration again: all or nothing, one at a time, and told whatever comes of it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

import streamcrypt as sc
from streamcrypt.cli.reloading import Reloader, reload_on_hangup
from streamcrypt.config import load
from streamcrypt.errors import ConfigError, KeyUnavailable
from streamcrypt.events import ConfigRefused, ConfigReloaded
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until

CONFIG = """
kafka: {{bootstrap.servers: "x:1", sasl.password.file: password}}
keys: {{provider: local, keyring: keyring.json}}
context: {{app: {app}}}
pipelines: [{{name: protect, mode: encrypt, from: a, to: b}}]
"""


class Applied:
    """What runs by the configuration: takes it, or refuses it with an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.plans = []

    def change(self, settings, changes, replaced) -> None:
        if self.error is not None:
            raise self.error
        self.plans.append((settings, changes, replaced))


class Play:
    def __init__(self, directory: Path) -> None:
        self.file = directory / "c.yaml"
        (directory / "password").write_text("one")
        (directory / "keyring.json").write_text("a")
        self.write("a")
        self.target, self.seen, self.stop = Applied(), CollectingObserver(), threading.Event()
        self.reloader = Reloader(self.file, load(self.file), self.target, self.seen, self.stop)

    def write(self, app: str, more: str = "") -> None:
        self.file.write_text(CONFIG.format(app=app) + more)


@pytest.fixture
def play(tmp_path):
    return Play(tmp_path)


def test_a_sound_change_is_applied_and_told(play):
    play.write("b")
    done = play.reloader.reload()
    assert (done.problems, done.changes) == ((), {"protect": "restarted"})
    [told] = play.seen.events
    assert isinstance(told, ConfigReloaded)
    assert (told.restarted, told.unchanged) == (("protect",), ())
    assert play.reloader.settings.context == {"app": "b"}


def test_each_mistake_is_told_with_its_line_and_nothing_is_applied(play):
    play.write("b", "lag: 1\nworkers: -1\n")
    done = play.reloader.reload()
    assert done.usage
    assert [problem.split(": ")[0] for problem in done.problems] == [f"{play.file}:6:1", f"{play.file}:7:1"]
    [told] = play.seen.events
    assert told == ConfigRefused(str(play.file), done.problems)
    assert play.target.plans == []
    assert play.reloader.settings.context == {"app": "a"}


def test_a_setting_of_the_process_refuses_the_whole_file(play):
    play.write("b", "workers: 7\n")
    done = play.reloader.reload()
    assert done.usage
    assert f"{play.file}:6:" in done.problems[0]
    assert "workers: cannot change" in done.problems[0]
    assert play.target.plans == []


@pytest.mark.parametrize(
    ("error", "usage"), [(ConfigError("no such suite"), True), (KeyUnavailable("away"), False)], ids=["wrong", "away"]
)
def test_what_cannot_be_made_changes_nothing(play, error, usage):
    """And the next one is compared with what still runs."""
    play.write("b")
    play.target.error = error
    assert (play.reloader.reload().usage, play.reloader.settings.context) == (usage, {"app": "a"})
    play.target.error = None
    assert play.reloader.reload().changes == {"protect": "restarted"}


def test_a_mistake_of_ours_is_told_without_its_text(play):
    play.target.error = ValueError("secret")
    with pytest.raises(ValueError, match="secret"):
        play.reloader.reload()
    assert play.seen.events == [ConfigRefused(str(play.file), ("a mistake of ours: ValueError",))]


def test_secrets_in_files_are_read_again(play, tmp_path):
    """A password, and a keyring that has the same name; once each."""
    (tmp_path / "password").write_text("two")
    assert play.reloader.reload().changes == {"protect": "restarted"}
    assert play.target.plans[-1][0].kafka.properties["sasl.password"] == "two"
    (tmp_path / "keyring.json").write_text("b")
    play.reloader.reload()
    assert play.target.plans[-1][2] == ("keys.keyring",)
    assert play.reloader.reload().changes == {"protect": "unchanged"}


def test_nothing_is_changed_once_the_process_is_to_end(play):
    play.stop.set()
    play.write("b")
    done = play.reloader.reload()
    assert (done.problems, done.usage) == (("the process is about to end",), False)


def test_hangups_in_quick_succession_are_few_reloads_after_the_last():
    """None is lost, and the old handler is back afterwards."""
    before = signal.getsignal(signal.SIGHUP)
    under_way, go_on, read = threading.Event(), threading.Event(), []
    content = [0]

    def reload() -> None:
        read.append(content[0])
        under_way.set()
        assert go_on.wait(60)

    with reload_on_hangup(reload):
        os.kill(os.getpid(), signal.SIGHUP)
        assert under_way.wait(60)
        for content[0] in range(1, 21):
            os.kill(os.getpid(), signal.SIGHUP)
        go_on.set()
        wait_until(lambda: read[-1] == 20, "the last content")
    assert read[0] == 0
    assert len(read) <= 3
    assert signal.getsignal(signal.SIGHUP) is before


def test_a_reload_that_fails_for_a_mistake_of_ours_leaves_the_next_signal_heard():
    read = []

    def reload() -> None:
        read.append(len(read))
        raise RuntimeError("a mistake of ours")

    with reload_on_hangup(reload):
        for number in (1, 2):
            os.kill(os.getpid(), signal.SIGHUP)
            wait_until(lambda number=number: len(read) == number, "the reload")


# -- data keys ---------------------------------------------------------------------------------------------------------


def _retired(seen) -> list[str]:
    return [event.reason for event in seen.events if type(event).__name__ == "DataKeyRetired"]


def test_rotating_drops_the_key_in_use_and_those_minted_ahead():
    seen = CollectingObserver()
    rotation = sc.RotationPolicy(max_messages=4)
    with sc.Encryptor(sc.LocalKeyProvider.generate(), rotation, observer=seen) as sealer:
        first = sealer.encrypt("t", b"x")[1]
        sealer.rotate()
        assert sealer.encrypt("t", b"x")[1] != first
        assert _retired(seen) == ["operator"]


def test_another_rotation_holds_for_the_key_in_use():
    """A smaller limit replaces it at the next record, a larger one keeps it; the exact number counts."""
    seen = CollectingObserver()
    with sc.Encryptor(sc.LocalKeyProvider.generate(), sc.RotationPolicy(max_messages=100), observer=seen) as sealer:
        for _ in range(10):
            sealer.encrypt("t", b"x")
        sealer.rotate_by(sc.RotationPolicy(max_messages=5))
        headers = [sealer.encrypt("t", b"x")[1][0][1] for _ in range(10)]
        assert (len(set(headers)), _retired(seen)) == (2, ["messages", "messages"])
        sealer.rotate_by(sc.RotationPolicy(max_messages=50))
        headers = [sealer.encrypt("t", b"x")[1][0][1] for _ in range(45)]
        assert len(set(headers)) == 1
