"""``streamcrypt run`` as a process of its own, seen from outside: how soon it seals, and how much memory it holds."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from confluent_kafka import Consumer, TopicPartition

from bench.job import environment
from bench.meter import rss_of
from bench.stage import Stage
from tests.broker import free_ports

__all__ = ["Sidecar", "measure"]

_PATIENCE = 60.0
_LOOK = 0.1
_TAIL = 2000


class Sidecar:
    """A running sidecar; a context manager. The configuration says what has to be said and nothing else.

    Args:
        stage: Broker and KMS.
        source: The topic to read.
        target: The topic to write.
        group: A consumer group of its own.
        more: Further lines of the pipeline, such as ``delivery``.
        sections: Further sections, such as ``workers``.
    """

    def __init__(
        self, stage: Stage, source: str, target: str, group: str, more: Mapping[str, Any] | None = None, **sections: Any
    ) -> None:
        one = {"name": "bench", "mode": "encrypt", "from": source, "to": target, "group": group, **(more or {})}
        self._config = {
            "kafka": {"bootstrap.servers": stage.broker.bootstrap},
            "keys": stage.keys,
            "http": {"port": free_ports(1)[0]},
            "pipelines": [one],
            **sections,
        }
        self._folder = tempfile.TemporaryDirectory(prefix="streamcrypt-bench-")
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        path = Path(self._folder.name) / "config.json"
        path.write_text(json.dumps(self._config))
        command = [sys.executable, "-m", "streamcrypt", "run", str(path)]
        self._process = subprocess.Popen(command, stderr=self._errors, env=environment())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._errors.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """Its process id; look at :meth:`check` first."""
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raise RuntimeError with the end of its log where it has ended."""
        if self._process is not None and self._process.poll() is not None:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace")[-_TAIL:]
            raise RuntimeError(f"the sidecar ended with {self._process.returncode}: {said}")


def measure(stage: Stage, source: str, records: int, partitions: int, workers: int = 1) -> dict[str, float]:
    """Start a sidecar over a full topic, with its defaults, and follow it to the end of the topic.

    Args:
        stage: Broker and KMS.
        source: The topic, ``records`` records in it.
        records: How many.
        partitions: Of source and target.
        workers: Worker processes; above 1 it is left to the configuration whether that goes.
    """
    target = stage.topic(partitions)
    reader = Consumer({"bootstrap.servers": stage.broker.bootstrap, "group.id": f"seen-{target}"})
    places = [TopicPartition(target, number, 0) for number in range(partitions)]
    reader.assign(places)
    reader.poll(0)
    sections = {"workers": workers} if workers > 1 else {}
    began = time.perf_counter()
    try:
        with Sidecar(stage, source, target, f"bench-{target}", **sections) as sidecar:
            first = _first_sealed(reader, sidecar) - began
            reader.unassign()
            broker = stage.broker_cpu()
            memory, seconds = _follow(reader, places, sidecar, records)
            busy = None if broker is None else (stage.broker_cpu() or broker) - broker
    finally:
        reader.close()
        stage.broker.delete_topic(target)
    return {
        "start_s": first,
        # Once its queues have filled.
        "rss_steady_mb": statistics.median(resident for resident, _ in memory[len(memory) // 2 :]),
        "rss_peak_mb": max(peak for _, peak in memory),
        "records_per_s": records / seconds,
        **({} if busy is None else {"broker_cores": busy / seconds}),
    }


def _first_sealed(reader: Consumer, sidecar: Sidecar) -> float:
    deadline = time.perf_counter() + _PATIENCE
    while time.perf_counter() < deadline:
        message = reader.poll(0.02)
        if message is not None and message.error() is None:
            return time.perf_counter()
        sidecar.check()
    raise RuntimeError("no sealed record came")


def _follow(
    reader: Consumer, places: list[TopicPartition], sidecar: Sidecar, records: int
) -> tuple[list[tuple[float, float]], float]:
    """Sample memory until the target holds all records; give the samples, and the seconds since the first record."""
    began, memory = time.perf_counter(), []
    while True:
        time.sleep(_LOOK)
        sidecar.check()
        memory.append(rss_of(sidecar.pid))
        ends = sum(reader.get_watermark_offsets(place, timeout=10)[1] for place in places)
        if ends >= records:
            return memory, time.perf_counter() - began
        if time.perf_counter() - began > _PATIENCE:
            raise RuntimeError(f"{ends} of {records} records in {_PATIENCE:.0f} s")
