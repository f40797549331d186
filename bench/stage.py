"""What everything is measured on: one Apache Kafka broker, one KMS over HTTP, topics of random values."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench import job
from streamcrypt.testing import KMSServer
from tests.broker import Broker, shared_broker

__all__ = ["REGION", "Stage"]

REGION = "eu-west-1"
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED = 5.0
_MEMORY = Path("/dev/shm")
_ROOM = 6 * 2**30


class Stage:
    """Broker and KMS of one session; a context manager.

    The broker is the one that the tests use: named by ``STREAMCRYPT_TEST_BOOTSTRAP``, in a container, or a child
    process, whose log is kept in memory where there is room: a disk that writes back what earlier runs left makes a
    later one half as fast. The KMS is the double that streamcrypt ships, over real HTTP, in this process.
    """

    def __init__(self) -> None:
        with _files_in_memory():
            self.broker: Broker = shared_broker()
        self.kms = KMSServer(region=REGION).start()
        self.key_id = self.kms.create_key()
        self._log_dirs: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._log_dirs is not None:
            self._log_dirs.close()
        self.kms.close()
        self.broker.close()

    @property
    def keys(self) -> dict[str, Any]:
        """The section ``keys`` of a configuration that reaches the KMS."""
        return {"provider": "aws-kms", "key_id": self.key_id, "region": REGION, "endpoint_url": self.kms.url}

    def run(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """Run one measurement on this stage, in a process of its own."""
        return job.run(kind, bootstrap=self.broker.bootstrap, **arguments)

    def spawn(self, kind: str, **arguments: Any) -> job.Job:
        """Start one measurement on this stage."""
        return job.spawn(kind, bootstrap=self.broker.bootstrap, **arguments)

    def topic(self, partitions: int) -> str:
        """Make a topic; once it is deleted its bytes are gone at once, before the disk is busy with them."""
        return self.broker.create_topic(partitions=partitions, config={"file.delete.delay.ms": "100"})

    def filled(self, size: int, records: int, partitions: int, **more: Any) -> str:
        """Make a topic of random values, written with the settings of an encrypting pipeline's producer."""
        topic = self.topic(partitions)
        self.run("fill", keys=self.keys, topic=topic, size=size, records=records, partitions=partitions, **more)
        return topic

    def log_bytes(self, topic: str) -> int:
        """Give the bytes of a topic as its broker stores them, which is as they came over the wire (KIP-113)."""
        from kafka.admin import KafkaAdminClient

        if self._log_dirs is None:
            self._log_dirs = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        found = self._log_dirs.describe_log_dirs([topic])
        return sum(sizes(found, topic))

    def settled_log_bytes(self, topic: str, before: int) -> int:
        """Give the bytes of a topic once they have grown and stand still."""
        deadline, last = time.monotonic() + _SETTLED, before
        while (now := self.log_bytes(topic)) == before or now != last:
            last = now
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return now

    def strangers(self) -> Strangers:
        """Begin to watch what other processes take of this machine; see :class:`Strangers`."""
        return Strangers(self)

    def broker_cpu(self) -> float | None:
        """Give the CPU seconds of the broker so far; None where it is not a process of ours."""
        pid = getattr(self.broker, "pid", None)
        if pid is None:
            return None
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


class Strangers:
    """What ran besides the benchmark and its broker: a figure that is worth something says how quiet it was."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._began = time.perf_counter()
        self._machine = _machine()
        self._ours = self._own()

    def _own(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return ended.ru_utime + ended.ru_stime + time.process_time() + (self._stage.broker_cpu() or 0.0)

    def read(self) -> dict[str, float]:
        """Give the cores that others kept busy since then, and those that the hypervisor kept back.

        A broker in a container or elsewhere counts as other.
        """
        seconds = time.perf_counter() - self._began
        busy, stolen = (now - before for now, before in zip(_machine(), self._machine, strict=True))
        return {
            "others_cores": max(0.0, busy - (self._own() - self._ours)) / seconds,
            "stolen_cores": stolen / seconds,
        }


def _machine() -> tuple[float, float]:
    """Give CPU seconds of the whole machine so far: busy, and kept back by a hypervisor (proc(5), ``cpu``)."""
    fields = [int(field) / _TICKS for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _wait, interrupts, soft, stolen = fields[:8]
    return user + nice + system + interrupts + soft, stolen


@contextmanager
def _files_in_memory() -> Iterator[None]:
    """Have temporary files made in memory, where a tmpfs has room for them."""
    before = tempfile.tempdir
    with suppress(OSError):
        if shutil.disk_usage(_MEMORY).free > _ROOM:
            tempfile.tempdir = str(_MEMORY)
    try:
        yield
    finally:
        tempfile.tempdir = before


def sizes(answer: Any, topic: str) -> list[int]:
    """Give the partition sizes that a description of log directories holds for a topic."""
    found: list[int] = []
    for broker in answer:
        for directory in broker["log_dirs"]:
            for named in directory["topics"]:
                if named["name"] == topic:
                    found += [partition["partition_size"] for partition in named["partitions"]]
    return found
