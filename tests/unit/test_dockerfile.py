"""The image, as far as it can be judged without a Docker engine: a linter and the rules that we promise."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def _stages() -> list[list[tuple[str, str]]]:
    stages: list[list[tuple[str, str]]] = []
    for word, rest in _instructions():
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


@pytest.fixture
def final() -> list[tuple[str, str]]:
    """Instructions of the stage that is shipped."""
    return _stages()[-1]


def _only(instructions: list[tuple[str, str]], word: str) -> str:
    [found] = [rest for name, rest in instructions if name == word]
    return found


def _environment(instructions: list[tuple[str, str]]) -> dict[str, str]:
    words = [word for name, rest in instructions if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def test_the_linter_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [str(hadolint) if hadolint.exists() else shutil.which("hadolint") or "hadolint"]
    done = subprocess.run(
        [*command, "--failure-threshold", "style", str(ROOT / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_has_every_extra_that_a_configuration_can_ask_for():
    """Wheels and environment alike: the log in at MSK, and traces."""
    commands = " ".join(rest for word, rest in _stages()[0] if word == "RUN")
    assert re.findall(r"\[(sidecar[^]]*)\]", commands) == ["sidecar,msk,otel"] * 2


def test_every_base_image_has_a_version():
    bases = [rest.split()[0] for word, rest in _instructions() if word == "FROM"]
    assert all(re.search(r":\d", base) for base in bases), bases


def test_the_image_is_built_in_two_stages_from_one_base():
    """The environment is copied with its paths and its bytecode, so both stages need the same Python."""
    first, last = _stages()
    assert first[0][1].split()[0] == last[0][1].split()[0]


def test_the_shipped_stage_installs_no_compiler_and_keeps_no_package_cache(final):
    commands = " ".join(rest for word, rest in final if word == "RUN")
    assert not re.search(r"\b(apt-get|apk|gcc|build-essential|pip)\b", commands)
    builder = _stages()[0]
    assert _environment(builder)["PIP_NO_CACHE_DIR"] == "1"


def test_the_process_runs_as_a_numeric_user_that_is_not_root(final):
    """Kubernetes proves runAsNonRoot from a number only."""
    assert _only(final, "USER") == "10001:10001"
    order = [word for word, _ in final]
    assert order.index("USER") > max(place for place, word in enumerate(order) if word in {"COPY", "RUN"})


def test_nothing_needs_to_be_written_at_run_time(final):
    """Bytecode is made while building and never while running, so that the root file system may be read-only."""
    builder = " ".join(rest for word, rest in _stages()[0] if word == "RUN")
    assert "compileall" in builder
    assert "unchecked-hash" in builder
    assert _environment(final)["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_process_is_the_first_one_and_gets_sigterm(final):
    """The exec form has no shell in between that would keep the signal for itself."""
    assert _only(final, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(_only(final, "ENTRYPOINT")) == ["streamcrypt"]
    assert json.loads(_only(final, "CMD")) == ["run", "/etc/streamcrypt/config.yaml"]


def test_the_page_listens_outside_of_the_container(final):
    assert _environment(final)["STREAMCRYPT__HTTP__HOST"] == "0.0.0.0"
    assert _only(final, "EXPOSE") == "9464"


def test_the_image_says_what_it_is(final):
    labels = _only(final, "LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_healthz_and_believes_it(final, status, healthy):
    asked: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            # A proxy in the environment must not be asked for the container's own page.
            port = {"STREAMCRYPT__HTTP__PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
            done = subprocess.run(_health_check(final), env=port, capture_output=True, timeout=30, check=False)
        finally:
            server.shutdown()
            serving.join()
    assert asked == ["/healthz"]
    assert (done.returncode == 0) is healthy


def test_the_health_check_fails_where_nobody_listens(final):
    done = subprocess.run(
        _health_check(final), env={"STREAMCRYPT__HTTP__PORT": "1"}, capture_output=True, timeout=30, check=False
    )
    assert done.returncode != 0


def _health_check(final: list[tuple[str, str]]) -> list[str]:
    _, _, command = _only(final, "HEALTHCHECK").partition(" CMD ")
    python, *arguments = json.loads(command)
    assert python == "python"
    return [sys.executable, *arguments]


def test_every_copied_file_exists_and_is_in_the_build_context():
    """What .dockerignore keeps out cannot be copied, and secrets and history must be kept out."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    for word, rest in _stages()[0]:
        if word == "COPY":
            *sources, _ = rest.split()
            assert set(sources) <= admitted
            assert all((ROOT / source).exists() for source in sources)
    assert not any(fnmatch.fnmatch(secret, rule) for secret in (".git", "keyring.json", ".venv") for rule in admitted)


def test_the_shipped_version_is_the_package_version(final):
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"VERSION={version[1]}" in [rest for word, rest in final if word == "ARG"]
