"""local-kms, an emulator written in Go, built from source into .cache and run for one test module."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

_SOURCE = Path(__file__).parent / "local_kms_main"
_BINARY = Path(__file__).parents[1] / ".cache" / "local-kms" / "local-kms"
_BUILD_SECONDS = 150.0
_START_SECONDS = 20.0
_STARTED = re.compile(r"started on 127\.0\.0\.1:(\d+)")


def _build() -> Path:
    """Builds local-kms, or has Go see that nothing changed: 20 s with a fresh module cache. Skips without Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("local-kms is built with Go, and there is no `go` on the PATH")
    try:
        subprocess.run(
            [go, "build", "-o", str(_BINARY), "."],
            cwd=_SOURCE,
            env=os.environ | {"CGO_ENABLED": "0"},
            check=True,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"`go build` of local-kms took longer than {_BUILD_SECONDS:g} s")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"`go build` of local-kms failed: {(error.stderr.strip() or 'no output').splitlines()[-1]}")
    return _BINARY


@contextlib.contextmanager
def local_kms(region: str, data: Path) -> Iterator[str]:
    """Runs local-kms on a free port of 127.0.0.1 and gives its URL."""
    environment = os.environ | {"KMS_REGION": region, "KMS_DATA_PATH": str(data)}
    with subprocess.Popen([_build()], env=environment, stderr=subprocess.PIPE, text=True) as process:
        lines: Queue[str] = Queue()
        # Read to the end, or the process would block on a full pipe.
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stderr], daemon=True)
        reader.start()
        try:
            yield f"http://127.0.0.1:{_await_port(lines)}"
        finally:
            process.terminate()
            process.wait(10)
            reader.join(10)


def _await_port(lines: Queue[str]) -> int:
    seen = []
    while True:
        try:
            seen.append(lines.get(timeout=_START_SECONDS))
        except Empty:
            raise AssertionError(f"local-kms did not start: {''.join(seen)}") from None
        if match := _STARTED.search(seen[-1]):
            return int(match[1])
