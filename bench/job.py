"""One measurement in a process of its own: fresh memory, a fresh heap, nobody else's threads.

``python -m bench.job '{"kind": ..., ...}'`` prints one JSON object. :func:`run` and :func:`spawn` are its callers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from typing import IO, Any

__all__ = ["KINDS", "Job", "environment", "run", "spawn"]

KINDS = {
    "fill": "bench.loops:fill",
    "copy": "bench.loops:copy",
    "pipeline": "bench.loops:pipeline",
    "clients": "bench.clients:measure",
    "peers": "bench.peers:measure",
    "pace": "bench.latency:pace",
    "read": "bench.latency:read",
    "through": "bench.proxy:through",
}
_TAIL = 2000
# Credentials that open nothing, and nothing of this machine's AWS configuration.
_AWS = {
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


class Job:
    """A measurement under way.

    Args:
        kind: One of :data:`KINDS`.
        arguments: What the kind takes, as JSON.
    """

    def __init__(self, kind: str, arguments: dict[str, Any]) -> None:
        self._kind = kind
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by result()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.job", json.dumps({"kind": kind, **arguments})],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(),
        )

    def result(self, seconds: float = 170.0) -> dict[str, Any]:
        """Wait and give what it found.

        Raises:
            RuntimeError: It failed; the end of what it said is in the text.
            subprocess.TimeoutExpired: It took longer than ``seconds`` and was ended.
        """
        with self._errors as errors:
            try:
                said, _ = self._process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                raise
            if self._process.returncode:
                errors.seek(0)
                raise RuntimeError(f"{self._kind}: {errors.read().decode(errors='replace')[-_TAIL:]}")
        found: dict[str, Any] = json.loads(said)
        return found


def spawn(kind: str, **arguments: Any) -> Job:
    """Start a measurement; another may run beside it."""
    return Job(kind, arguments)


def run(kind: str, **arguments: Any) -> dict[str, Any]:
    """Start a measurement and wait for it. Raises as :meth:`Job.result` does."""
    return spawn(kind, **arguments).result()


def environment() -> dict[str, str]:
    """Give the environment of a measured process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMCRYPT__"))}
    return {**kept, **_AWS}


def main() -> None:
    """Run the kind that the argument names."""
    arguments = json.loads(sys.argv[1])
    module, function = KINDS[arguments.pop("kind")].split(":")
    print(json.dumps(getattr(import_module(module), function)(**arguments)))


if __name__ == "__main__":
    main()
