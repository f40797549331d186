"""Claims about what a configuration is read from: regular files of a bounded size, and nothing that would block."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from streamcrypt import LocalKeyProvider
from streamcrypt.cli.control import candidates
from streamcrypt.cli.reloading import Reloader
from streamcrypt.config import ConfigProblems, load
from streamcrypt.config.files import read_regular
from streamcrypt.config.source import MAX_BYTES
from streamcrypt.errors import ConfigError
from streamcrypt.testing import CollectingObserver

CONFIG = {
    "kafka": {"bootstrap.servers": "x:1", "sasl.password.file": "password"},
    "keys": {"provider": "local", "keyring": "keyring.json"},
    "http": {"token_file": "token"},
    "pipelines": [{"name": "p", "mode": "encrypt", "from": "a", "to": "b"}],
}


@pytest.fixture
def file(tmp_path) -> Path:
    """A configuration with a password, a token and a keyring in files of their own."""
    (tmp_path / "password").write_text("one\n")
    (tmp_path / "token").write_text("t" * 40)
    LocalKeyProvider.generate().save(tmp_path / "keyring.json")
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def reloader(file) -> Reloader:
    """Of a process that runs by it, and whose changes come to nothing."""

    class Taken:
        def change(self, settings, _changes, _replaced) -> None:
            LocalKeyProvider.from_file(settings.keys.keyring)

    return Reloader(file, load(file, {}), Taken(), CollectingObserver(), threading.Event())


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def _huge(path: Path) -> None:
    os.truncate(path, 2**40)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_pipe, "cannot be read: it is a named pipe, and no regular file"),
        (_device, "cannot be read: it is a device, and no regular file"),
        (_directory, "cannot be read: it is a directory, and no regular file"),
        (_socket, "cannot be read: No such device or address"),
        (_huge, f"is larger than {MAX_BYTES // 2**20} MiB"),
    ],
    ids=["pipe", "device", "directory", "socket", "huge"],
)
def test_what_is_no_regular_file_of_some_size_is_refused_and_keeps_nobody_waiting(file, reloader, spoil, says):
    """A start, a reload and ``ctl`` alike; and the reload after it is as if there had been none."""
    whole = file.read_bytes()
    places = candidates(file, {})
    spoil(file)
    with pytest.raises(ConfigProblems) as caught:
        load(file, {})
    [problem] = caught.value.problems
    assert problem.message == says
    assert problem.remedy.startswith("Give the path of a")
    done = reloader.reload()
    assert (done.problems, done.usage) == ((str(problem),), True)
    assert candidates(file, {}) == places
    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_bytes(whole)
    assert reloader.reload().problems == ()


@pytest.mark.parametrize("name", ["password", "token", "keyring.json"])
def test_a_pipe_in_the_place_of_a_secret_keeps_no_reload_waiting(file, reloader, name):
    """It is refused by its name."""
    _pipe(file.parent / name)
    [problem] = reloader.reload().problems
    assert name in problem
    assert "regular file" in problem


def test_a_keyring_that_is_no_regular_file_is_refused_by_the_library_too(tmp_path):
    """Whoever opens it."""
    os.mkfifo(tmp_path / "keyring.json", 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        LocalKeyProvider.from_file(tmp_path / "keyring.json")


def test_a_config_map_is_read_through_its_links(file, tmp_path):
    """As Kubernetes lays it out, and changes it: two links, the second to another directory from now on."""
    mounted = tmp_path / "mounted"
    for version, app in (("..1", "a"), ("..2", "b")):
        (mounted / version).mkdir(parents=True)
        (mounted / version / "c.yaml").write_text(json.dumps({**CONFIG, "context": {"app": app}}))
        for name in ("password", "token", "keyring.json"):
            (mounted / version / name).write_bytes((tmp_path / name).read_bytes())
    (mounted / "..data").symlink_to("..1")
    for name in ("c.yaml", "password", "token", "keyring.json"):
        (mounted / name).symlink_to(f"..data/{name}")
    assert load(mounted / "c.yaml", {}).context == {"app": "a"}
    (mounted / "..new").symlink_to("..2")
    (mounted / "..new").replace(mounted / "..data")
    assert load(mounted / "c.yaml", {}).context == {"app": "b"}


def test_no_descriptor_is_left_open(tmp_path):
    """Neither of what is read nor of what is refused."""
    (tmp_path / "file").write_bytes(b"x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert read_regular(tmp_path / "file", 1) == b"x"
    with pytest.raises(OSError, match="no regular file"):
        read_regular("/dev/null", 1)
    with pytest.raises(OSError, match="a directory"):
        read_regular(tmp_path, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_line_ends_of_other_systems_are_read_as_ours(tmp_path):
    """With a byte order mark, too; so that the places that problems name are right."""
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfkafka: {}\r\nlag: 1\r")
    with pytest.raises(ConfigProblems) as caught:
        load(path, {})
    assert f"{path}:2:1" in [problem.location for problem in caught.value.problems]
