"""The stage of a scenario: topics, a KMS behind a gate, members of the sidecar's groups, a load, and what arrives."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from confluent_kafka import Message

import streamcrypt as sc
from streamcrypt.envelope.sequence import SequenceVerifier
from streamcrypt.testing import KMSServer
from tests.broker import Broker, unique_name
from tests.chaos.checker import Checker, Findings, find_leaks
from tests.chaos.gate import Gate
from tests.chaos.records import Arrived, Book, arrived
from tests.chaos.traffic import Follower, Loader
from tests.sidecar import Sidecar

__all__ = ["BROKER", "KEY", "Member", "Stage"]

KEY = "alias/payments"
PARTITIONS = 4
_JUMPING = Path(__file__).parent / "jumping"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
# A member that was killed is missed after this time; brokers allow no less than 6 s.
_SESSION = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "500"}
_ROOM = 2_000_000
BROKER = {
    # Under KIP-848 the broker decides when a member is missed: 45 s by default.
    "group.consumer.min.session.timeout.ms": "6000",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "1000",
}
"""What the suite changes about a broker."""


class Member:
    """One process of ``streamcrypt run``, again and again under the same name.

    Args:
        directory: Where its configuration and its log are written.
        config: The configuration.
        jumps: Whether its clocks can be moved.
    """

    def __init__(self, directory: Path, name: str, config: dict[str, Any], *, jumps: bool = False) -> None:
        self.name = name
        self.config = config
        self.starts = 0
        self.workers_killed = 0
        self._directory = directory
        self._clock = directory / f"{name}.clock"
        self._clock.write_bytes(bytes(16))
        self._env = {"CHAOS_CLOCK": str(self._clock), "PYTHONPATH": str(_JUMPING)} if jumps else {}
        self.sidecar: Sidecar | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.sidecar is not None and self.sidecar.process.poll() is None

    def start(self) -> Self:
        """Start it, where it does not run."""
        if not self.alive:
            self._put_by_log()
            self.sidecar = Sidecar(self._directory, self.config, self._env)
            self.starts += 1
        return self

    def ready(self, pipelines: int = 2) -> Self:
        """Return once its pipelines are ready, in each of its workers."""
        assert self.sidecar is not None
        self.sidecar.ready(pipelines * self.config.get("workers", 1))
        return self

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers that it started last; none where it is one process."""
        return list({event["worker"]: event["pid"] for event in self.events("worker.started")}.values())

    def kill_worker(self, dice: random.Random) -> bool:
        """End one of its worker processes without a goodbye; False where it has none that runs."""
        if not self.alive or not self.workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(self.workers), signal.SIGKILL)
            self.workers_killed += 1
        return True

    def kill(self) -> None:
        """End it without a goodbye."""
        if self.sidecar is not None:
            self.sidecar.kill()

    def stop(self, seconds: float = 30.0) -> int:
        """Ask it to end; give its exit code."""
        assert self.sidecar is not None
        return self.sidecar.stop(seconds=seconds)

    def signal(self, how: signal.Signals) -> None:
        """Signal it and its workers, where it runs."""
        if self.alive and self.sidecar is not None:
            self.sidecar.process.send_signal(how)
            for pid in self.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)

    def jump(self, wall: float, suspended: float) -> None:
        """Move its clocks by so many seconds from the truth."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("<dd", wall, suspended))

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return self.sidecar.tail(lines) if self.sidecar is not None else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of that name since its last start."""
        return self.sidecar.of(name) if self.sidecar is not None else []

    def close(self) -> None:
        """Leave no process and all of its log behind."""
        self.kill()
        self._put_by_log()

    def _put_by_log(self) -> None:
        if self.sidecar is not None:
            with (self._directory / f"{self.name}.log").open("a") as file:
                file.writelines(f"{line}\n" for line in self.sidecar.lines)


class Stage:
    """Everything that one scenario plays with. A context manager that leaves nothing running.

    Args:
        broker: The broker.
        directory: For configurations and logs.
        seed: Of every chance.
        delivery: exactly_once or at_least_once.
        members: How many processes share the work.
        options: Of :class:`tests.chaos.records.Book`.
        pipeline: Further settings of both pipelines.
        rotation: As in the configuration.
        protocol: Of the consumer groups: classic, or consumer (KIP-848).
        jumps: Whether the members' clocks can be moved.
        workers: Processes of each member.
    """

    def __init__(
        self,
        broker: Broker,
        directory: Path,
        seed: int,
        *,
        delivery: str,
        members: int = 1,
        options: dict[str, Any] | None = None,
        pipeline: dict[str, Any] | None = None,
        rotation: dict[str, Any] | None = None,
        protocol: str = "classic",
        jumps: bool = False,
        workers: int = 1,
    ) -> None:
        self.broker, self.directory, self.seed, self.delivery = broker, directory, seed, delivery
        self.dice = random.Random(seed)
        self.book = Book(seed, int(time.time() * 1000) - 1000, PARTITIONS, **(options or {}))
        self.source = broker.create_topic(unique_name("plain"), PARTITIONS, {"max.message.bytes": str(_ROOM)})
        self.sealed = broker.create_topic(unique_name("sealed"), PARTITIONS, {"max.message.bytes": str(_ROOM)})
        self.opened = broker.create_topic(unique_name("opened"), PARTITIONS, {"max.message.bytes": str(_ROOM)})
        self.kms = KMSServer(random_seed=seed).start()
        self.key_arn = self.kms.create_key(KEY)
        self.gate = Gate(self.kms.url)
        names = [unique_name(mode) for mode in ("encrypt", "decrypt")]
        shared = {"delivery": delivery, **(pipeline or {})}
        self._config = {
            "kafka": {
                "bootstrap.servers": broker.bootstrap,
                "consumer": dict(_SESSION) if protocol == "classic" else {"group.protocol": protocol},
                "producer": {"message.max.bytes": _ROOM},
            },
            "keys": {"provider": "aws-kms", "key_id": KEY, "region": self.kms.region, "endpoint_url": self.gate.url},
            "rotation": rotation or {"max_messages": 1_000},
            "workers": workers,
            "http": {"port": 0},
            "log": {"level": "info"},
            "pipelines": [
                {"name": names[0], "mode": "encrypt", "from": self.source, "to": self.sealed, **shared},
                {"name": names[1], "mode": "decrypt", "from": self.sealed, "to": self.opened, **shared},
            ],
        }
        self._jumps = jumps
        self.members = [self.member(f"m{number}") for number in range(members)]
        self.guests: list[Member] = []
        self.guests_made = 0
        self.loader = Loader(broker.bootstrap, self.source, self.book)
        self.follower = Follower(broker.bootstrap, {self.sealed: PARTITIONS, self.opened: PARTITIONS})
        self.began = time.monotonic()

    def member(self, name: str) -> Member:
        """Make a member of that instance name; it is not started."""
        pipelines = [{**pipeline, "instance": name} for pipeline in self._config["pipelines"]]
        return Member(self.directory, name, {**self._config, "pipelines": pipelines}, jumps=self._jumps)

    def start(self) -> Self:
        """Start every member and return once all are ready."""
        for member in self.members:
            member.start()
        for member in self.members:
            member.ready()
        return self

    def revive(self) -> None:
        """Start again whoever has ended."""
        for member in self.members:
            member.start()

    def drain(self, seconds: float, *, reviving: bool = True) -> tuple[Findings, float]:
        """Wait until all that was sent has arrived, and check it; give the seconds that it took, too."""
        self.loader.settle()
        began, numbers = time.monotonic(), range(self.loader.sent)
        meanwhile = self.revive if reviving else _nothing
        findings = Findings()
        wanted = [self.book.epoch + number for number in numbers]
        if not self.follower.has(self.opened, wanted, seconds, meanwhile):
            arrived = self.follower.distinct(self.opened)
            findings.add("not drained", f"{arrived} of {len(numbers)} after {seconds:.0f} s")
            for member in self.members:
                findings.add("log", f"{member.name}: {member.tail()}")
        took = time.monotonic() - began
        # What comes twice may come late.
        time.sleep(1.0)
        findings.merge(self.check(numbers))
        return findings, took

    def check(self, numbers: Iterable[int]) -> Findings:
        """Hold both outputs against the records sent, and search the sealed one for plaintext."""
        numbers, findings = list(numbers), Findings()
        checker = Checker(self.book, once=self.delivery == "exactly_once")
        sealed = self.follower.arrivals(self.sealed)
        findings.merge(checker.check(self.open(sealed, findings), numbers), "sealed: ")
        findings.merge(checker.check(self.follower.arrivals(self.opened), numbers), "opened: ")
        if self.delivery == "exactly_once":
            findings.merge(_evidence(sealed))
        raw = [arrived(message) for message in self.broker.read(self.sealed, "read_uncommitted", 120)]
        findings.merge(find_leaks(raw))
        findings.counts["given up"] += len(raw) - len(sealed)
        return findings

    def check_opened(self, messages: Iterable[Message], numbers: Iterable[int]) -> Findings:
        """Hold one reading of the opened topic against the records that must stand there."""
        checker = Checker(self.book, once=self.delivery == "exactly_once")
        return checker.check([arrived(message) for message in messages], numbers)

    def open(self, sealed: Iterable[Arrived], findings: Findings) -> Iterator[Arrived]:
        """Open records as a consumer of one's own would; what does not open is a finding."""
        with mock.patch.dict(os.environ, _CREDENTIALS):
            keys = sc.AWSKMSKeyProvider(self.key_arn, region=self.kms.region, endpoint_url=self.kms.url)
            with contextlib.closing(keys), contextlib.closing(sc.Decryptor(keys)) as opener:
                for found in sealed:
                    try:
                        value, headers = opener.decrypt(
                            found.topic, found.value, found.key, list(found.headers), found.partition
                        )
                    except sc.StreamcryptError as error:
                        findings.add("unopenable", f"{found.place}: {type(error).__name__}: {error}")
                        continue
                    place = (found.topic, found.partition, found.offset)
                    yield Arrived(*place, found.key, value, tuple(headers), found.timestamp)

    def close(self) -> None:
        """End every process, client and server."""
        for member in (*self.members, *self.guests):
            member.close()
        self.follower.close()
        self.loader.close()
        self.gate.close()
        self.kms.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def _evidence(sealed: Sequence[Arrived]) -> Findings:
    """Look at the numbers under which records were sealed: after exactly-once delivery there is nothing to find."""
    findings, verifier = Findings(), SequenceVerifier()
    for (topic, partition), run in groupby(sealed, lambda found: (found.topic, found.partition)):
        records = list(run)
        offsets, values = [found.offset for found in records], [found.value for found in records]
        for evidence in verifier.check_records(topic, partition, offsets, values, [found.headers for found in records]):
            findings.add(f"sequence {evidence.kind}", f"{topic}[{partition}]@{evidence.offset}: {evidence.error()}")
    findings.counts["numbers verified"] = len(sealed)
    return findings


def _nothing() -> None:
    """Do nothing meanwhile."""
