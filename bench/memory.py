"""``python -m bench.memory``: the memory of one worker, ``streamcrypt run`` at default settings, over a long run.

Sampled ten times a second: steady is the median of the last half, flat where the slope of that half is small.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

import streamcrypt as sc
from bench.one_worker import fill
from tests.broker import Broker, free_ports, shared_broker, unique_name

PARTITIONS = 4
_LARGEST = 20_000_000
_EVERY = 0.1
_MIB = 2**20
# What the last half may grow by: an allocator settles for long, and a leak of 100 B a record is 250 MB.
_FLAT_MIB = 8.0
_PATIENCE = 900.0


@dataclass(frozen=True, slots=True)
class Load:
    """What goes through the worker.

    Attributes:
        name: For the table.
        mode: Of the pipeline.
        records: How many.
        size: Bytes of each.
        per_key: Records under one data key.
    """

    name: str
    mode: str
    records: int
    size: int
    per_key: int = 1_000_000


def main() -> None:
    """Run the loads one after the other, each through a worker of its own."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=5_000_000, help="of 100 B")
    arguments.add_argument("--keys", type=int, default=100_000, help="distinct data keys to open")
    arguments.add_argument("--only", choices=["records", "keys", "steady", "1MB", "10MB"], action="append")
    arguments.add_argument("--kafka", metavar="NAME=VALUE", action="append", default=[], help="besides our defaults")
    options = arguments.parse_args()
    properties = dict(given.split("=", 1) for given in options.kafka)
    loads = {
        "records": Load(f"{options.records:,} records of 100 B", "encrypt", options.records, 100),
        "keys": Load(f"{options.keys:,} data keys opened", "decrypt", 2 * options.keys, 100, per_key=2),
        "steady": Load("1,000,000 records of 1 KB", "encrypt", 1_000_000, 1024),
        "1MB": Load("1,000 records of 1 MB", "encrypt", 1000, 1_000_000),
        "10MB": Load("60 records of 10 MB", "encrypt", 60, 10_000_000),
    }
    table = Table(title="resident memory of one worker, MiB")
    for column in ("", "at first", "peak", "steady", "growth of the last half", "records/s", ""):
        table.add_column(column, justify="right" if column else "left")
    broker = shared_broker()
    try:
        for load in [loads[name] for name in options.only or loads]:
            table.add_row(load.name, *_measure(broker, load, properties))
    finally:
        broker.close()
    Console().print(table)


def _measure(broker: Broker, load: Load, properties: dict[str, str]) -> tuple[str, ...]:
    large = {"max.message.bytes": str(_LARGEST + 1_000_000)}
    source, target = (broker.create_topic(partitions=PARTITIONS, config=large) for _ in range(2))
    with tempfile.TemporaryDirectory() as directory:
        keyring = Path(directory) / "keyring.json"
        keys = sc.LocalKeyProvider.generate()
        keys.save(keyring)
        sealer = None
        if load.mode == "decrypt":
            sealer = sc.Encryptor(keys, sc.RotationPolicy(max_messages=load.per_key))
        fill(broker.bootstrap, source, [os.urandom(load.size)], load.records, PARTITIONS, sealer)
        path = Path(directory) / "streamcrypt.yaml"
        port = free_ports(1)[0]
        path.write_text(
            json.dumps(
                _configuration(
                    {"bootstrap.servers": broker.bootstrap, **properties}, load, keyring, source, target, port
                )
            )
        )
        with _worker(path) as process:
            samples, seconds = _sample(broker, process, target, load.records)
    for topic in (source, target):
        broker.delete_topic(topic)
    return _judged(samples, load.records / seconds)


def _configuration(
    kafka: dict[str, Any], load: Load, keyring: Path, source: str, target: str, port: int
) -> dict[str, Any]:
    if load.size > _MIB // 2:
        kafka["producer"] = {"message.max.bytes": str(_LARGEST)}
    pipeline = {"name": "memory", "mode": load.mode, "from": source, "to": target, "group": unique_name("memory")}
    return {
        "kafka": kafka,
        "keys": {"provider": "local", "keyring": str(keyring)},
        "http": {"port": port},
        "log": {"level": "warning"},
        "pipelines": [{**pipeline, "delivery": "at_least_once"}],
    }


@contextmanager
def _worker(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", "streamcrypt", "run", str(path)]) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def _sample(broker: Broker, process: subprocess.Popen[bytes], target: str, records: int) -> tuple[list[float], float]:
    """Give the resident memory over the run, and how long it took from the first record on."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "memory"})
    samples: list[float] = []
    began, asked, deadline = 0.0, 0.0, time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_EVERY)
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        samples.append(resident / _MIB)
        if time.monotonic() - asked > 1:
            asked = time.monotonic()
            done = sum(
                consumer.get_watermark_offsets(TopicPartition(target, number), timeout=10)[1]
                for number in range(PARTITIONS)
            )
            began = began or (asked if done else 0.0)
            if done >= records:
                break
    consumer.close()
    if process.poll() is not None or time.monotonic() >= deadline:
        raise RuntimeError("the worker did not pass all records")
    return samples, max(time.monotonic() - began, _EVERY)


def _judged(samples: list[float], rate: float) -> tuple[str, ...]:
    # What is before the first record and after the last one is no load.
    half = samples[len(samples) // 2 :]
    slope = statistics.linear_regression(range(len(half)), half).slope * len(half)
    steady = statistics.median(half)
    verdict = "flat" if slope < _FLAT_MIB else "GROWS"
    figures = (samples[min(10, len(samples) - 1)], max(samples), steady, slope)
    return (*(f"{figure:,.1f}" for figure in figures), f"{rate:,.0f}", verdict)


if __name__ == "__main__":
    main()
