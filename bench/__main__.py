"""``python -m bench``: alternating runs in one session, medians with spread; a table, and JSON in bench/results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from timeit import repeat
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from rich.console import Console
from rich.table import Table

import streamcrypt as sc
from bench.loops import Bench, copy_loop, decrypt_loop, encrypt_loop, exactly_once_loop
from bench.wrappers import consume_cost, produce_cost
from tests.broker import Broker, shared_broker

RESULTS = Path(__file__).parent / "results"
RECORDS = {100: 400_000, 1024: 200_000, 10_240: 30_000}
PARTITIONS = 4
ROUNDS = 7

LOOPS = {"copy": copy_loop, "encrypt": encrypt_loop, "exactly once": exactly_once_loop, "decrypt": decrypt_loop}

Figures = dict[str, list[float]]


def main() -> None:
    """Run the whole matrix."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--sizes", type=int, nargs="*", default=list(RECORDS))
    options = arguments.parse_args()
    console, began = Console(), time.monotonic()
    broker = shared_broker()
    try:
        measured = {size: _measure(broker, size, options.rounds, console) for size in options.sizes}
    finally:
        broker.close()
    _show(console, measured)
    path = RESULTS / f"bench-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": _machine(), "rounds": options.rounds, "sizes": measured}, indent=1))
    console.print(f"{time.monotonic() - began:.0f} s in all; written to {path}")


def _measure(broker: Broker, size: int, rounds: int, console: Console) -> dict[str, Any]:
    records = RECORDS.get(size, 50_000)
    plain, sealed, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(3))
    keys = sc.LocalKeyProvider.generate()
    bench = Bench(broker.bootstrap, keys, plain, sealed, target, records)
    values = [os.urandom(size) for _ in range(100)]
    _fill(broker, plain, values, records)
    encrypt_loop(bench, f"fill-{sealed}", target=sealed)
    figures: Figures = defaultdict(list)
    for number in range(rounds):
        for name, loop in LOOPS.items():
            console.print(f"{size} B, round {number + 1} of {rounds}: {name} loop", end="\r", highlight=False)
            rate, cpu = loop(bench, f"{name.replace(' ', '-')}-{number}-{target}")
            figures[f"{name} records/s"].append(rate)
            figures[f"{name} thread us"].append(cpu / records * 1e6)
        _wrappers(bench, keys, values[0], number, figures)
        figures["AESGCM us"].append(_aesgcm(values[0]))
    for topic in (plain, sealed, target):
        broker.delete_topic(topic)
    return _summary(figures)


def _fill(broker: Broker, topic: str, values: list[bytes], records: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})
    for number in range(records):
        record = (topic, values[number % len(values)], b"key-%d" % (number % 1000), number % PARTITIONS)
        while True:
            try:
                producer.produce(*record)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(120)


def _wrappers(bench: Bench, keys: sc.LocalKeyProvider, value: bytes, number: int, figures: Figures) -> None:
    n = min(bench.records, 50_000)
    encryptor, decryptor = sc.Encryptor(keys), sc.Decryptor(keys)
    makers: dict[str, Any] = {
        "plain": (Producer, Consumer),
        "wrapper": (
            lambda config: sc.EncryptingProducer(config, encryptor=encryptor),
            lambda config: sc.DecryptingConsumer(config, decryptor=decryptor),
        ),
    }
    for name, (make_producer, make_consumer) in makers.items():
        cost = produce_cost(make_producer, bench.bootstrap, bench.target, value, n)
        figures[f"produce {name} us"].append(cost * 1e6)
        topic = bench.sealed
        cost = consume_cost(make_consumer, bench.bootstrap, topic, f"{name}-{number}-{topic}", bench.records)
        figures[f"consume {name} us"].append(cost * 1e6)
    encryptor.close()
    decryptor.close()


def _aesgcm(value: bytes) -> float:
    seal, nonce, aad, calls = AESGCM(os.urandom(32)).encrypt, bytes(12), b"\x01\x01\x00\x00\x00\x05key-1", 20_000
    return statistics.median(repeat(lambda: seal(nonce, value, aad), number=calls, repeat=5)) / calls * 1e6


def _summary(figures: Figures) -> dict[str, Any]:
    median = {name: statistics.median(values) for name, values in figures.items()}
    rates = {name: figures[f"{name} records/s"] for name in LOOPS}
    ratios = {
        f"{this} / {that}": [a / b for a, b in zip(rates[this], rates[that], strict=True)]
        for this, that in (("encrypt", "copy"), ("decrypt", "copy"), ("exactly once", "encrypt"))
    }
    for name in ("produce", "consume"):
        added = zip(figures[f"{name} wrapper us"], figures[f"{name} plain us"], figures["AESGCM us"], strict=True)
        ratios[f"{name}: added, in AESGCM calls"] = [(wrapper - plain) / call for wrapper, plain, call in added]
    return {
        "median": median,
        "spread": {name: [min(values), max(values)] for name, values in figures.items()},
        "ratio": {name: statistics.median(values) for name, values in ratios.items()},
        "ratio spread": {name: [min(values), max(values)] for name, values in ratios.items()},
    }


def _show(console: Console, measured: dict[int, dict[str, Any]]) -> None:
    table = Table(title=f"medians, {PARTITIONS} partitions; at least once but for 'exactly once'; [lowest to highest]")
    table.add_column("")
    for size in measured:
        table.add_column(f"{size:,} B", justify="right")
    for part, spread, digits in (("median", "spread", 2), ("ratio", "ratio spread", 2)):
        names = next(iter(measured.values()))[part]
        for name in names:
            cells = []
            for figures in measured.values():
                low, high = figures[spread][name]
                cells.append(_cell(figures[part][name], low, high, 0 if "records/s" in name else digits))
            table.add_row(name, *cells)
        table.add_section()
    console.print(table)


def _cell(middle: float, low: float, high: float, digits: int) -> str:
    return f"{middle:,.{digits}f} [{low:,.{digits}f} to {high:,.{digits}f}]"


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        **{name: version(name) for name in ("confluent-kafka", "cryptography", "streamcrypt")},
    }


if __name__ == "__main__":
    main()
