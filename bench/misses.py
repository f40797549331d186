"""``python -m bench.misses``: a topic with a new data key every so many records, against one with a single data key."""

from __future__ import annotations

import argparse
import os
import statistics

from rich.console import Console

import streamcrypt as sc
from bench.kms_apart import SlowKMS, slow_kms
from bench.one_worker import fill, run_worker
from streamcrypt.sidecar.garbage import collecting_seldom
from streamcrypt.sidecar.transform import Open
from tests.broker import Broker, shared_broker, unique_name

PARTITIONS = 4


def main() -> None:
    """Measure both topics in turn."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=600_000)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--per-key", type=int, default=1000)
    arguments.add_argument("--latency", type=float, default=0.02, help="of KMS, in seconds")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    console, broker = Console(highlight=False), shared_broker()
    rates: dict[str, list[float]] = {"one data key": [], f"a data key every {options.per_key:,}": []}
    limits = [2**32, options.per_key]
    try:
        with collecting_seldom(), slow_kms() as kms:
            topics = [_fill(broker, kms, limit, options) for limit in limits]
            target = broker.create_topic(partitions=PARTITIONS)
            kms.answer_after(options.latency)
            for _ in range(options.rounds):
                for (name, found), topic in zip(rates.items(), topics, strict=True):
                    before = kms.calls()
                    found.append(_open(broker, kms, topic, target, options.records))
                    console.print(f"{name}: {found[-1]:,.0f} records/s, {kms.calls() - before} calls", highlight=False)
        for topic in (*topics, target):
            broker.delete_topic(topic)
    finally:
        broker.close()
    for name, found in rates.items():
        console.print(f"{name}: {statistics.median(found):,.0f} records/s ({min(found):,.0f} to {max(found):,.0f})")
    ratios = [many / single for single, many in zip(*rates.values(), strict=True)]
    low, high = min(ratios), max(ratios)
    middle = statistics.median(ratios)
    console.print(f"ratio at {options.latency * 1000:.0f} ms of latency: {middle:.2f} ({low:.2f} to {high:.2f})")


def _fill(broker: Broker, kms: SlowKMS, limit: int, options: argparse.Namespace) -> str:
    topic = broker.create_topic(partitions=PARTITIONS)
    keys = kms.keys()
    with sc.Encryptor(keys, sc.RotationPolicy(max_messages=limit)) as sealer:
        fill(broker.bootstrap, topic, [os.urandom(options.size)], options.records, PARTITIONS, sealer)
    keys.close()
    return topic


def _open(broker: Broker, kms: SlowKMS, topic: str, target: str, records: int) -> float:
    keys = kms.keys()
    opener = sc.Decryptor(keys, max_wait=0.5)
    pipeline = {"mode": "decrypt", "from": topic, "to": target, "group": unique_name("misses")}
    try:
        return run_worker(broker.bootstrap, Open(opener), pipeline, records)
    finally:
        keys.close()


if __name__ == "__main__":
    main()
