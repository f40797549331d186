"""``python -m bench.workers``: one worker against two on this machine, with what the broker takes of its cores.

Whole sidecars are measured, as processes of their own: ``streamcrypt run`` over a filled topic, at steady state: from
the moment at which every worker has its share of the partitions until it has passed half of what was left then, so that
no worker has run dry. Runs alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from tests.broker import Broker, shared_broker, wait_until
from tests.sidecar import Sidecar, config_of, keyring_at

PARTITIONS = 4
_WINDOW = 0.5
_TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a table of medians with the lowest and the highest."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delivery", default="exactly_once", choices=["exactly_once", "at_least_once"])
    options = parser.parse_args()
    found: dict[int, dict[str, list[float]]] = {count: defaultdict(list) for count in options.workers}
    broker = shared_broker()
    try:
        source = broker.create_topic(partitions=PARTITIONS)
        _fill(broker, source, options.records, options.size)
        with tempfile.TemporaryDirectory() as directory:
            for _ in range(options.rounds):
                for count in options.workers:
                    for name, value in _run(broker, Path(directory), source, count, options).items():
                        found[count][name].append(value)
    finally:
        broker.close()
    _show(found, options)


def _fill(broker: Broker, topic: str, records: int, size: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20})
    values = [os.urandom(size) for _ in range(100)]
    for number in range(records):
        while True:
            try:
                producer.produce(topic, values[number % 100], b"key-%d" % (number % 1000), number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush(120)


def _run(broker: Broker, directory: Path, source: str, count: int, options: argparse.Namespace) -> dict[str, float]:
    target = broker.create_topic(partitions=PARTITIONS)
    pipeline = {"mode": "encrypt", "from": source, "to": target, "delivery": options.delivery}
    config = config_of(broker.bootstrap, keyring_at(directory), pipeline, workers=count, log={"level": "info"})
    # The tests' own short session is no default.
    config["kafka"] = {"bootstrap.servers": broker.bootstrap}
    with Sidecar(directory, config) as sidecar:
        sidecar.ready(count)
        wait_until(lambda: _shares(sidecar) == [PARTITIONS // count] * count, "each worker's share", 60)
        pids = {event["pid"] for event in sidecar.of("worker.started")} | {sidecar.process.pid}
        first, began, cpu = _committed(sidecar), time.perf_counter(), (_cpu(pids), _cpu(_pid(broker)), _busy())
        enough = first + (options.records - first) * _WINDOW
        while (last := _committed(sidecar)) < enough:
            time.sleep(0.05)
        seconds = time.perf_counter() - began
        after = (_cpu(pids), _cpu(_pid(broker)), _busy())
        memory = sum(_memory(pid) for pid in pids)
        sidecar.stop()
    broker.delete_topic(target)
    ours, brokers, machine = ((b - a) / seconds for a, b in zip(cpu, after, strict=True))
    return {
        "records/s": (last - first) / seconds,
        "cores of the sidecar": ours,
        "cores of the broker": brokers,
        "cores busy in all": machine,
        "CPU us a record": ours * seconds / (last - first) * 1e6,
        "resident MB": memory / 2**20,
    }


def _shares(sidecar: Sidecar) -> list[int]:
    """Give the number of partitions of each worker, as its log tells."""
    held: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for event in list(sidecar.events):
        places = (
            {(topic, p) for topic, numbers in (event.get("partitions") or {}).items() for p in numbers}
            if (event["event"].startswith("partitions."))
            else set()
        )
        if event["event"] == "partitions.assigned":
            held[event.get("worker", 0)] |= places
        else:
            held[event.get("worker", 0)] -= places
    return [len(places) for places in held.values() if places]


def _committed(sidecar: Sidecar) -> float:
    return sidecar.metric("streamcrypt_committed_records_total")


def _pid(broker: Broker) -> Iterable[int]:
    pid = getattr(broker, "pid", None)
    return () if pid is None else (pid,)


def _cpu(pids: Iterable[int]) -> float:
    """Give the CPU seconds that processes have used. Source: proc_pid_stat(5), fields 14 and 15."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICK


def _busy() -> float:
    """Give the CPU seconds that the machine has worked, all cores together. Source: proc_stat(5)."""
    user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / _TICK


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _show(found: dict[int, dict[str, list[float]]], options: argparse.Namespace) -> None:
    title = f"{options.records:,} records of {options.size} B, {PARTITIONS} partitions, {options.delivery}, "
    table = Table(title=title + f"{os.cpu_count()} cores; medians [lowest to highest]")
    table.add_column("")
    for count in found:
        table.add_column(f"{count} worker{'' if count == 1 else 's'}", justify="right")
    for name in next(iter(found.values())):
        digits = 0 if name in {"records/s", "resident MB"} else 2
        cells = [
            f"{statistics.median(v):,.{digits}f} [{min(v):,.{digits}f} to {max(v):,.{digits}f}]"
            for v in (figures[name] for figures in found.values())
        ]
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
