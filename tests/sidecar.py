"""A sidecar as a real process, for tests: started with a config dict, followed by the events of its log, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.broker import free_ports, unique_name
from tests.log_scan import SCAN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamcrypt.testing import KMSServer
    from tests.broker import Broker

__all__ = [
    "COMPLAINT",
    "READY",
    "STOPPED",
    "Event",
    "Load",
    "Sidecar",
    "config_of",
    "environment",
    "keyring_at",
    "kms_keys",
    "marked",
    "numbers",
    "streamcrypt",
]

Event = dict[str, Any]

READY = "pipeline.ready"
STOPPED = "pipeline.stopped"
COMPLAINT = "streamcrypt: "
"""How the message for people begins; every other line of stderr is a JSON object."""

_ENVIRONMENT = {
    # Nothing of this machine's AWS configuration reaches a test; these credentials open nothing.
    "AWS_ACCESS_KEY_ID": "AKIATEST",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "PYTHONUTF8": "1",
}
# A member that was killed is missed after this time instead of 45 s; brokers allow no less than 6 s.
_SESSION = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}


def config_of(bootstrap: str, keys: Mapping[str, Any], *pipelines: Mapping[str, Any], **sections: Any) -> Event:
    """A whole configuration: a free port, debug lines, and unique names where a pipeline gives none.

    Each call makes another member of the group: start a sidecar anew with the same configuration.
    """
    named = []
    for pipeline in pipelines:
        name = pipeline.get("name") or unique_name("p")
        named.append({"name": name, "group": unique_name("g"), "instance": unique_name("i"), **pipeline})
    return {
        "kafka": {"bootstrap.servers": bootstrap, "consumer": dict(_SESSION)},
        "keys": dict(keys),
        "http": {"port": free_ports(1)[0]},
        "log": {"level": "debug"},
        "pipelines": named,
        **sections,
    }


def keyring_at(directory: Path) -> dict[str, str]:
    """The ``keys`` section of a new local keyring in ``directory``."""
    from streamcrypt import LocalKeyProvider

    path = directory / f"{unique_name('keyring')}.json"
    LocalKeyProvider.generate().save(path)
    return {"provider": "local", "keyring": str(path)}


def kms_keys(kms: KMSServer, key_id: str = "alias/payments") -> dict[str, str]:
    """The ``keys`` section for a key of a test KMS."""
    return {"provider": "aws-kms", "key_id": key_id, "region": kms.region, "endpoint_url": kms.url}


def marked(number: int) -> bytes:
    """A plaintext that is easily found again, in whole or in part."""
    return b"PLAINTEXT-%06d-" % number + b"IBAN DE89370400440532013000"


class Load:
    """Writes records to a topic without a pause, until told to end; their keys are numbers from 0.

    Args:
        broker: Where the topic is.
        topic: Written to partition by partition, in turn.
        partitions: How many it has.
        burst: Records at once, every 20 ms.
        size: Bytes of a value.

    Attributes:
        sent: How many are on the topic.
    """

    def __init__(self, broker: Broker, topic: str, partitions: int, burst: int = 300, size: int = 1) -> None:
        self._broker, self._topic, self._partitions = broker, topic, partitions
        self._burst, self._value = burst, b"v" * size
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Write until the block ends."""
        self._thread.start()
        try:
            yield self
        finally:
            self._enough.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(0.02):
            count = range(self.sent, self.sent + self._burst)
            self._broker.produce(
                self._topic,
                [{"key": b"%d" % n, "value": self._value, "partition": n % self._partitions} for n in count],
            )
            self.sent += self._burst


def numbers(broker: Broker, topic: str, partitions: int) -> list[list[int]]:
    """The numbers that stand in the keys of a topic's records, by partition, in order."""
    found: list[list[int]] = [[] for _ in range(partitions)]
    for message in broker.read(topic):
        found[message.partition()].append(int(message.key()))
    return found


def streamcrypt(
    directory: Path, command: str, config: Mapping[str, Any], env: Mapping[str, str] | None = None, seconds: float = 90
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, such as ``check`` or a ``run`` that cannot start."""
    done = subprocess.run(
        _command(directory, command, config),
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    SCAN.add(done.stderr)
    return done


class Sidecar:
    """``streamcrypt run`` as a process of its own. A context manager that leaves no process behind.

    Args:
        directory: Where its configuration is written.
        config: The configuration; JSON is YAML.
        env: Variables besides those of this process.
        within: A command that runs it, such as ``env``; it must become it, so that signals arrive.

    Attributes:
        lines: Every line of stderr so far.
        events: The JSON objects among them.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any],
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.lines: list[str] = []
        self.events: list[Event] = []
        self.stdout = b""
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*within, *_command(directory, "run", config)],
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._readers = [threading.Thread(target=target, daemon=True) for target in (self._read_log, self._read_out)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def wait_for(
        self, name: str, seconds: float = 60.0, where: Callable[[Event], bool] = lambda _event: True, after: int = 0
    ) -> Event:
        """The first event called ``name`` that ``where`` picks, from index ``after`` on.

        Raises:
            AssertionError: it did not come in time, or the process ended without it; the end of the log is in the text.
        """

        def find() -> Event | None:
            return next((e for e in self.events[after:] if e["event"] == name and where(e)), None)

        deadline = time.monotonic() + seconds
        with self._news:
            while (found := find()) is None:
                left = deadline - time.monotonic()
                ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
                assert not ended, f"ended with {self.process.returncode} before {name}\n{self.tail()}"
                assert left > 0, f"waited {seconds:g} s in vain for {name}\n{self.tail()}"
                self._news.wait(min(left, 0.2))
        return found

    def ready(self, pipelines: int = 1) -> Self:
        """Return once this many pipelines are ready."""
        seen = 0
        for _ in range(pipelines):
            found = self.wait_for(READY, after=seen)
            seen = self.events.index(found) + 1
        return self

    def committed(self, records: int, seconds: float = 60.0) -> None:
        """Return once offsets of this many records are committed, all pipelines together."""

        def enough(_event: Event) -> bool:
            return sum(event["records"] for event in self.of("offsets.committed")) >= records

        self.wait_for("offsets.committed", seconds, enough)

    def of(self, name: str) -> list[Event]:
        """Every event called ``name`` so far."""
        return [event for event in list(self.events) if event["event"] == name]

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 30.0) -> int:
        """Signal it, and give its exit code; an assertion fails where it takes longer than ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._news:
            # Before its first line it knows no signal, and would be killed by it.
            while not self.events and self.process.poll() is None and time.monotonic() < deadline:
                self._news.wait(0.1)
        self.process.send_signal(how)
        return self.wait(seconds)

    def wait(self, seconds: float = 60.0) -> int:
        """Give its exit code once it has ended by itself."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s\n{self.tail()}") from None
        self._join()
        return code

    def kill(self) -> None:
        """End it without a goodbye (SIGKILL); may be called again."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._join()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of its own HTTP server's answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.config['http']['port']}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            head, _, value = line.rpartition(" ")
            sample, _, rest = head.partition("{")
            if sample == name and all(f'{label}="{text}"' in rest for label, text in labels.items()):
                total += float(value)
        return total

    @property
    def complaint(self) -> str:
        """The message for people, which comes last: all lines that are no JSON."""
        return "\n".join(line for line in self.lines if not line.startswith("{"))

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(line[:400] for line in self.lines[-lines:])

    def _join(self) -> None:
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            SCAN.add(raw)
            line = raw.decode(errors="replace").rstrip("\n")
            event = None
            with contextlib.suppress(ValueError):
                event = json.loads(line)
            with self._news:
                self.lines.append(line)
                if isinstance(event, dict):
                    self.events.append(event)
                self._news.notify_all()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        self.stdout = self.process.stdout.read()


def _command(directory: Path, command: str, config: Mapping[str, Any]) -> list[str]:
    path = directory / f"{unique_name('config')}.yaml"
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "streamcrypt", command, str(path)]


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a process: this one's without its AWS configuration, and its log is searched for its keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STREAMCRYPT__"))}
    return SCAN.environment(kept | _ENVIRONMENT | dict(env or {}))
