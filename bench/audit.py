"""``python -m bench.audit``: records under three KEKs over six partitions, audited, against a plain consume loop."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console

import streamcrypt as sc
from streamcrypt.audit.plan import make_plan
from streamcrypt.audit.reading import Reader
from streamcrypt.audit.tally import Counter, HeaderBook
from tests.broker import Broker, shared_broker

PARTITIONS = 6
KEKS = ("first", "second", "third")
_PER_DATA_KEY = 20_000
_BATCH = 10_000


def main() -> None:
    """Measure both loops in turn, and compare every count with what was written."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--size", type=int, default=100)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--varying", action="store_true", help="a second header that differs in every record")
    options = arguments.parse_args()
    console, broker = Console(highlight=False), shared_broker()
    try:
        with tempfile.TemporaryDirectory() as directory:
            keyring = Path(directory) / "keyring.json"
            sc.LocalKeyProvider({name: os.urandom(32) for name in KEKS}, KEKS[0]).save(keyring)
            topic = broker.create_topic(partitions=PARTITIONS)
            written = _fill(broker, topic, keyring, options)
            rates: dict[str, list[float]] = {"plain consume loop": [], "audit": []}
            for _ in range(options.rounds):
                rates["plain consume loop"].append(options.records / _consume(broker, topic, options.records))
                rates["audit"].append(options.records / _audit(broker, topic, written))
            _command(broker, topic, keyring, written, console)
        broker.delete_topic(topic)
    finally:
        broker.close()
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, found in rates.items():
        console.print(f"{name}: {medians[name]:,.0f} records/s ({min(found):,.0f} to {max(found):,.0f})")
    console.print(f"ratio: {medians['audit'] / medians['plain consume loop']:.2f}")


def _fill(broker: Broker, topic: str, keyring: Path, options: argparse.Namespace) -> dict[tuple[int, str], list[int]]:
    """Write the records; give for each partition and KEK how many there are, the first offset and the last."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    tree = json.loads(keyring.read_text())
    sealers = {}
    for name in KEKS:
        path = keyring.with_name(f"{name}.json")
        path.write_text(json.dumps({**tree, "primary": name}))
        path.chmod(0o600)
        sealers[name] = sc.Encryptor(
            sc.LocalKeyProvider.from_file(path), rotation=sc.RotationPolicy(max_messages=_PER_DATA_KEY)
        )
    value, written = os.urandom(options.size), dict[tuple[int, str], list[int]]()
    offsets = [0] * PARTITIONS
    for number in range(options.records):
        partition, kek = number % PARTITIONS, KEKS[number * len(KEKS) // options.records]
        more = [("trace", b"%016d" % number)] if options.varying else None
        sealed, headers = sealers[kek].encrypt(topic, value, headers=more, partition=partition)
        while True:
            try:
                producer.produce(topic, sealed, partition=partition, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        count = written.setdefault((partition, kek), [0, offsets[partition], 0])
        count[0], count[2] = count[0] + 1, offsets[partition]
        offsets[partition] += 1
    assert producer.flush(120) == 0
    for sealer in sealers.values():
        sealer.close()
    return written


def _settings(broker: Broker) -> dict[str, Any]:
    return {
        "bootstrap.servers": broker.bootstrap,
        "group.id": "bench-audit",
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": 65536,
    }


def _consume(broker: Broker, topic: str, records: int) -> float:
    """Read everything and look at each value; give the seconds."""
    consumer = Consumer({**_settings(broker), "auto.offset.reset": "earliest", "enable.auto.commit": False})
    began = time.perf_counter()
    consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
    seen = 0
    while seen < records:
        for message in consumer.consume(_BATCH, 0.2):
            if message.error() is None and message.value() is not None:
                seen += 1
    took = time.perf_counter() - began
    consumer.close()
    return took


def _audit(broker: Broker, topic: str, written: dict[tuple[int, str], list[int]]) -> float:
    """Count everything as the command does; give the seconds, from assignment to the last partition's end."""
    plan, book = make_plan(broker.admin, [topic]), HeaderBook()
    reader = Reader(_settings(broker), plan.places, Counter(plan.places, book))
    began = time.perf_counter()
    reader.read(threading.Event(), lambda: None)
    took = time.perf_counter() - began
    reader.close()
    assert sum(place.records for place in plan.places.values()) == sum(n for n, *_ in written.values())
    return took


def _command(
    broker: Broker, topic: str, keyring: Path, written: dict[tuple[int, str], list[int]], console: Console
) -> None:
    """Run the command itself once and compare its document with what was written."""
    path = keyring.with_name("streamcrypt.yaml")
    tree = {
        "kafka": {"bootstrap.servers": broker.bootstrap},
        "keys": {"provider": "local", "keyring": str(keyring)},
        "pipelines": [{"name": "bench", "mode": "encrypt", "from": "plain", "to": topic}],
    }
    path.write_text(json.dumps(tree))
    began = time.perf_counter()
    command = [sys.executable, "-m", "streamcrypt", "audit", str(path), topic, "--format", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    took = time.perf_counter() - began
    (found,) = json.loads(done.stdout)["topics"]
    counts = {
        (partition["partition"], key["key_id"]): [key["records"], key["first_offset"], key["last_offset"]]
        for partition in found["partitions"]
        for key in partition["keys"]
    }
    assert counts == written, (counts, written)
    console.print(f"the command: {took:.1f} s with its start; all {len(counts)} counts are those that were written")


if __name__ == "__main__":
    main()
