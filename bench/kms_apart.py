"""The test KMS in a process of its own, answering late: what it costs must not be taken from the process measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import streamcrypt as sc
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.testing import KMSServer

__all__ = ["SlowKMS", "slow_kms"]

_REGION = "eu-west-1"


class SlowKMS:
    """A KMS in another process.

    Args:
        process: It; it takes a latency in seconds a line.
        url: Its address.
        key_id: A KEK there.
    """

    def __init__(self, process: subprocess.Popen[str], url: str, key_id: str) -> None:
        self._process = process
        self.url = url
        self.key_id = key_id

    def answer_after(self, seconds: float) -> None:
        """Have every later answer take so long."""
        self._ask(f"{seconds}")

    def calls(self) -> int:
        """Give how many calls it answered."""
        return int(self._ask("calls"))

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def keys(self) -> AWSKMSKeyProvider:
        """Make a key service that calls it."""
        return sc.AWSKMSKeyProvider(self.key_id, region=_REGION, endpoint_url=self.url)


@contextmanager
def slow_kms() -> Iterator[SlowKMS]:
    """Start one, without latency at first, and stop it."""
    os.environ.update(AWS_ACCESS_KEY_ID="AKIATEST", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
    command = [sys.executable, "-m", "bench.kms_apart"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url, key_id = process.stdout.readline().split()
        try:
            yield SlowKMS(process, url, key_id)
        finally:
            process.stdin.close()


def main() -> None:
    """Serve until the end of standard input."""
    with KMSServer() as server:
        sys.stdout.write(f"{server.url} {server.create_key(region=_REGION)}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line.startswith("calls"):
                sys.stdout.write(f"{len(server.calls)}\n")
            else:
                server.heal()
                if float(line):
                    server.delay(float(line))
                sys.stdout.write("ok\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
