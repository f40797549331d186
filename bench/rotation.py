"""``python -m bench.rotation``: what rotation adds to the time of a seal while KMS is slow, in turn."""

from __future__ import annotations

import argparse
import gc
import os
import time

from rich.console import Console
from rich.table import Table

import streamcrypt as sc
from bench.kms_apart import SlowKMS, slow_kms
from bench.one_worker import fill, run_worker
from streamcrypt.events import BatchDone
from streamcrypt.sidecar.garbage import collecting_seldom
from streamcrypt.sidecar.transform import Seal
from tests.broker import shared_broker, unique_name

PARTITIONS = 4
_SHARES = (0.5, 0.99, 0.999, 0.9999)


def main() -> None:
    """Measure seals by an Encryptor, then batches of a pipeline."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=1_000_000)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--per-key", type=int, default=10_000)
    arguments.add_argument("--latency", type=float, default=0.2, help="of KMS, in seconds")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--loop", action="store_true", help="also the loop between topics, on a broker")
    options = arguments.parse_args()
    console = Console(highlight=False)
    with collecting_seldom(), slow_kms() as kms:
        kms.answer_after(options.latency)
        runs = [(name, _seals(kms, limit, options)) for _ in range(options.rounds) for name, limit in _limits(options)]
        console.print(_table("one seal, in microseconds", runs, 1e6))
        if options.loop:
            console.print(_table("one batch of the loop, in milliseconds", _batches(kms, options), 1e3))


def _limits(options: argparse.Namespace) -> list[tuple[str, int]]:
    return [("without rotation", 2**32), (f"a data key every {options.per_key:,}", options.per_key)]


Run = tuple[str, tuple[list[float], int]]


def _seals(kms: SlowKMS, limit: int, options: argparse.Namespace) -> tuple[list[float], int]:
    keys, value, clock = kms.keys(), os.urandom(options.size), time.perf_counter
    times, before = [0.0] * options.records, kms.calls()
    with sc.Encryptor(keys, sc.RotationPolicy(max_messages=limit)) as sealer:
        # The first keys are waited for: the latency is not known yet.
        for _ in range(6 * min(limit, options.per_key)):
            sealer.encrypt("bench", value, b"key", partition=0)
        seal = sealer.topic("bench").seal
        gc.collect()
        for number in range(options.records):
            began = clock()
            seal(value, b"key", None, 0)
            times[number] = clock() - began
    keys.close()
    return times, kms.calls() - before


def _batches(kms: SlowKMS, options: argparse.Namespace) -> list[Run]:
    broker, runs = shared_broker(), []
    try:
        source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
        fill(broker.bootstrap, source, [os.urandom(options.size)], options.records, PARTITIONS)
        pipeline = {"mode": "encrypt", "from": source, "to": target}
        for _ in range(options.rounds):
            for name, limit in _limits(options):
                times: list[float] = []
                keys, before = kms.keys(), kms.calls()
                transform = Seal(sc.Encryptor(keys, sc.RotationPolicy(max_messages=limit), max_wait=0.5))
                group = {"group": unique_name("rotation")}

                def note(event: BatchDone, times: list[float] = times) -> None:
                    times.append(event.seconds)

                run_worker(broker.bootstrap, transform, {**pipeline, **group}, options.records, note)
                keys.close()
                # As above: the first keys are waited for.
                runs.append((name, (times[len(times) // 10 :], kms.calls() - before)))
        for topic in (source, target):
            broker.delete_topic(topic)
    finally:
        broker.close()
    return runs


def _table(title: str, runs: list[Run], factor: float) -> Table:
    table = Table(title=title)
    for column in ("", *(f"p{share * 100:g}" for share in _SHARES), "longest", "calls to KMS"):
        table.add_column(column, justify="right" if column else "left")
    for name, (times, calls) in runs:
        ordered = sorted(times)
        cells = [f"{ordered[int(share * len(ordered))] * factor:,.1f}" for share in _SHARES]
        table.add_row(name, *cells, f"{ordered[-1] * factor:,.1f}", str(calls))
    return table


if __name__ == "__main__":
    main()
