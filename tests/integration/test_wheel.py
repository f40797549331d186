"""The wheel as a user gets it: what is in it, and that it runs without rights, from a read-only place."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from this tree by the installed build backend."""
    target = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(ROOT))
    [built] = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel) -> Iterator[Path]:
    """A directory that everybody may read and nobody may write, with the package and its command."""
    base = Path(tempfile.mkdtemp(prefix="streamcrypt-wheel-"))
    place = base / "site"
    _pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(place), str(wheel))
    base.chmod(0o755)
    _chmod(place, writable=False)
    yield place
    _chmod(place, writable=True)
    shutil.rmtree(base)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _chmod(place: Path, *, writable: bool) -> None:
    for path in (place, *place.rglob("*")):
        mode = 0o755 if path.is_dir() or path.parent.name == "bin" else 0o644
        path.chmod(mode if writable else mode & ~0o222)


@pytest.fixture(scope="module")
def unprivileged(installed) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python on the installed package: as nobody where we are root, and as ourselves otherwise.

    The interpreter of the tests may stand in a home directory that nobody else may enter. Then the system's own Python
    of the same version does it, or the right to read every file (not to write any).
    """
    paths = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(paths), "HOME": "/nonexistent"}

    def run(python: list[str], nobody: bool, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, *arguments],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **({"user": NOBODY, "group": NOBODY, "extra_groups": []} if nobody else {}),
        )

    if os.geteuid() != 0:
        return lambda *arguments: run([sys.executable], False, *arguments)
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    read_only = ["setpriv", *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable]
    same_version = f"python3.{sys.version_info.minor}"
    for python, nobody in (([sys.executable], True), ([same_version], True), (read_only, False)):
        with contextlib.suppress(OSError):
            tried = run(
                python, nobody, "-c", "import os, sys, streamcrypt; print(os.geteuid(), sys.version_info.minor)"
            )
            if tried.stdout.split() == [str(NOBODY), str(sys.version_info.minor)]:
                return lambda *arguments: run(python, nobody, *arguments)
    pytest.fail(f"no Python of this version runs as user {NOBODY}: install {same_version} or util-linux (setpriv)")


def test_the_wheel_holds_the_package_and_its_type_marker_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "streamcrypt/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"streamcrypt", f"streamcrypt-{VERSION}.dist-info"}
    assert f"streamcrypt-{VERSION}.dist-info/licenses/LICENSE" in names
    assert {"__pycache__", ".pyc"}.isdisjoint(part for name in names for part in (Path(name).suffix, *name.split("/")))


def test_every_module_of_the_tree_is_in_the_wheel(wheel):
    """A package that somebody forgot would be missing for users only."""
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("streamcrypt/")}
    tree = {path.relative_to(ROOT).as_posix() for path in (ROOT / "streamcrypt").rglob("*") if path.is_file()}
    assert {name for name in tree if "__pycache__" not in name} == shipped


def test_the_wheel_is_for_every_platform(wheel):
    assert wheel.name == f"streamcrypt-{VERSION}-py3-none-any.whl"


def test_the_command_runs_as_an_unprivileged_user_from_a_read_only_directory(installed, unprivileged):
    done = unprivileged(str(installed / "bin" / "streamcrypt"), "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert VERSION in done.stdout
    assert not list(installed.rglob("__pycache__"))


def test_the_installed_package_is_the_one_that_ran_and_cannot_be_changed_by_the_user_who_runs_it(
    installed, unprivileged
):
    """The tree itself must not be on the path, or the test above would prove nothing."""
    code = "import os, streamcrypt; f = streamcrypt.__file__; print(f, os.access(f, os.W_OK), os.geteuid())"
    done = unprivileged("-c", code)
    file, writable, user = done.stdout.split()
    assert (file, writable) == (str(installed / "streamcrypt" / "__init__.py"), "False")
    assert user != "0"
