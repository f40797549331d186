"""From records a second to cores, workers, pods, partitions, calls, money and bytes. Pure: no clock, no call.

It adds the fleet to :mod:`streamcrypt.cost.model`, which knows calls, money and bytes of a given number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from streamcrypt.cost.measured import BROKER_US, CPU, WORKER_MB
from streamcrypt.cost.model import MONTH, RECORD_OVERHEAD, SHORT_LIFE, Estimate, Load, Place, estimate, lz4_overhead
from streamcrypt.cost.prices import Prices
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

__all__ = ["COLUMNS", "SCALES", "Fleet", "Growth", "Scale", "cells", "grow"]

SCALES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
"""Records a second that the page and ``streamcrypt cost --scale`` show."""

MOST_MEMBERS = 200
"""Members of one consumer group above which we advise another group: a choice of ours, not a measurement."""
MOST_COMMITS = 1_000
"""Offset commits a second at one group coordinator above which we advise fewer: a choice of ours, not a measurement."""
MOST_PARTITIONS = 200_000
"""Partitions of a cluster, replicas included (Amazon MSK Developer Guide, "Best practices for Standard brokers")."""
BROKER_PARTITIONS = 4_000
"""Partitions of a broker of size 4xlarge or more, replicas included (the same page)."""
_HOUR = 3600.0
_MICRO = 1e6


@dataclass(frozen=True, slots=True)
class Fleet:
    """What is decided before the number of records is known.

    Attributes:
        size: Bytes of a value. Default 1,024.
        key: Bytes of a record key. Default 16.
        modes: ``encrypt``, ``decrypt`` or both. Default both.
        delivery: ``exactly_once`` (default) or ``at_least_once``.
        topics: Topics sealed. Default 1.
        keks: As in :class:`~streamcrypt.cost.model.Load`. Default one in eu-west-1.
        rotation: When a data key is replaced. Default as shipped.
        cache: How long an opened data key is kept. Default as shipped.
        header: Bytes of the envelope header. Default 364: one KEK, a topic name of 20 letters.
        commit_interval: Seconds between commits of a worker. Default 0.1.
        partitions: Partitions of all topics together; None: as many as needed.
        headroom: Share of its core that a worker is planned to use. Default 0.6: the rest is for rebalances.
        pod: Workers a pod. Default 4.
        fan_out: Groups of readers. Default 1.
        kept: Whether a record stays in its partition, as in the sidecar; False: every reader meets every data key.
        replicas: Of a partition. Default 3.
        restarts: Of each reader a day, each with an empty cache. Default 1.
        core_hour: US dollars. Default $0.04048: Fargate, Linux/x86, us-east-1, on demand, a vCPU-hour.
        gb_hour: US dollars. Default $0.004445, the same price list.
    """

    size: int = 1024
    key: int = 16
    modes: tuple[str, ...] = ("encrypt", "decrypt")
    delivery: str = "exactly_once"
    topics: int = 1
    keks: tuple[Place, ...] = (Place("eu-west-1"),)
    rotation: RotationPolicy = field(default_factory=RotationPolicy)
    cache: CachePolicy = field(default_factory=CachePolicy)
    header: int = 364
    commit_interval: float = 0.1
    partitions: int | None = None
    headroom: float = 0.6
    pod: int = 4
    fan_out: int = 1
    kept: bool = True
    replicas: int = 3
    restarts: float = 1.0
    core_hour: float = 0.04048
    gb_hour: float = 0.004445


@dataclass(frozen=True, slots=True)
class Scale:
    """One row: what a rate comes to.

    Attributes:
        rate: Records a second.
        per_core: Records a second that a fully used core takes, by mode.
        cores: Kept busy, by mode, before headroom.
        workers: Processes, by mode; decrypting ones of all groups together.
        pods: Of all modes.
        partitions: Needed, or as given.
        estimate: Calls, quota, money for KMS and bytes.
        restart_decrypts: Decrypt calls a day that cold caches after restarts add.
        compute_money: US dollars a month for cores and memory.
        header: Bytes a second of headers as they are made, uncompressed.
        network: Bytes a second in and out of all workers, lz4 on sealed topics.
        broker_cores: Of all brokers for the copies, before replication.
        transactions: A second, all workers together; 0 at least once.
        warnings: Where it bites, and what to set.
    """

    rate: float
    per_core: dict[str, float]
    cores: dict[str, float]
    workers: dict[str, int]
    pods: int
    partitions: int
    estimate: Estimate
    restart_decrypts: float
    compute_money: float
    header: float
    network: float
    broker_cores: float
    transactions: float
    warnings: tuple[str, ...]

    @property
    def kms_calls(self) -> float:
        """Calls to KMS a second."""
        return sum(call.per_second for call in self.estimate.calls)

    @property
    def money(self) -> float:
        """US dollars a month: cores, memory, KMS."""
        return self.compute_money + self.estimate.requests_money + self.estimate.keys_money


@dataclass(frozen=True, slots=True)
class Growth:
    """Rows for several rates of one fleet."""

    fleet: Fleet
    rows: tuple[Scale, ...]


def grow(fleet: Fleet, rates: tuple[int, ...] = SCALES, prices: Prices | None = None) -> Growth:
    """Give a row for each rate."""
    return Growth(fleet, tuple(_scale(fleet, rate, prices or Prices()) for rate in rates))


COLUMNS = (
    "records/s", "cores busy", "workers", "pods", "partitions", "broker cores", "KMS calls/s", "of quota",
    "data key lives", "$/month: compute", "$/month: KMS", "added, lz4", "added, none", "network",
)  # fmt: skip
"""Heads of the table; :func:`cells` gives a row."""


def cells(row: Scale) -> tuple[str, ...]:
    """Give a row as the page and the command show it."""
    found = row.estimate
    return (
        f"{row.rate:,.0f}",
        _number(sum(row.cores.values())),
        " + ".join(f"{count:,}" for count in row.workers.values()),
        f"{row.pods:,}",
        f"{row.partitions:,}",
        _number(row.broker_cores),
        _number(row.kms_calls),
        f"{max(found.quotas.values(), default=0.0):.2%}",
        f"{found.seconds_in_use:,.0f} s",
        f"{row.compute_money:,.0f}",
        f"{found.requests_money + found.keys_money:,.0f}",
        f"{_bytes(found.wire_lz4)}/s",
        f"{_bytes(found.wire)}/s",
        f"{_bytes(row.network)}/s",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"  # noqa: PLR2004


def _bytes(count: float) -> str:
    unit, size = next(((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= s), ("B", 1.0))
    return f"{count / size:,.1f} {unit}"


def _scale(fleet: Fleet, rate: float, prices: Prices) -> Scale:
    micros = {mode: CPU[mode, fleet.delivery].at(fleet.size) for mode in fleet.modes}
    times = {"encrypt": 1, "decrypt": fleet.fan_out}
    cores = {mode: rate * times[mode] * cost / _MICRO for mode, cost in micros.items()}
    one = {mode: math.ceil(rate * cost / _MICRO / fleet.headroom) for mode, cost in micros.items()}
    workers = {mode: max(1, count) * times[mode] for mode, count in one.items()}
    needed = max(one.values(), default=1)
    # Two a worker: one more or one fewer member then shifts half a share and not a whole one.
    partitions = fleet.partitions or max(6, 2 * needed)
    load = _load(fleet, rate, workers, one, partitions)
    found = estimate(load, prices)
    pods = sum(math.ceil(count / fleet.pod) for count in workers.values())
    everyone = sum(workers.values())
    row = Scale(
        rate=rate,
        per_core={mode: _MICRO / cost for mode, cost in micros.items()},
        cores=cores,
        workers=workers,
        pods=pods,
        partitions=partitions,
        estimate=found,
        restart_decrypts=_restarts(fleet, load),
        compute_money=everyone * (fleet.core_hour + WORKER_MB / 1000 * fleet.gb_hour) * MONTH / _HOUR,
        header=rate * (fleet.header + RECORD_OVERHEAD) if "encrypt" in fleet.modes else 0.0,
        network=_network(fleet, rate),
        broker_cores=sum(times[mode] for mode in fleet.modes) * rate * BROKER_US.at(fleet.size) / _MICRO,
        transactions=everyone / fleet.commit_interval if fleet.delivery == "exactly_once" else 0.0,
        warnings=(),
    )
    return replace(row, warnings=(*found.warnings, *_bites(fleet, row, needed)))


def _load(fleet: Fleet, rate: float, workers: dict[str, int], one: dict[str, int], partitions: int) -> Load:
    # Without sealing workers of ours, somebody seals as many records with as many processes.
    writers = workers.get("encrypt") or max(1, one["decrypt"])
    each_topic = max(1, partitions // fleet.topics)
    readers = 0
    if "decrypt" in workers:
        each = max(1, one["decrypt"])
        # Partitions kept, a data key is in as many partitions as its writer has, and met by as many members.
        readers = (min(each, math.ceil(each_topic / min(writers, each_topic))) if fleet.kept else each) * fleet.fan_out
    return Load(
        rate=rate,
        size=fleet.size,
        keks=fleet.keks,
        rotation=fleet.rotation,
        cache=fleet.cache,
        topics=fleet.topics,
        writers=writers,
        readers=readers,
        partitions=each_topic,
        # A cold replay is split between members; ``estimate`` alone speaks of it, for one reader.
        retention=0.0,
        header=fleet.header,
    )


def _restarts(fleet: Fleet, load: Load) -> float:
    """A reader that starts meets the data keys in use on its partitions, once each."""
    return fleet.restarts * load.topics * min(load.writers, load.partitions) * load.readers


def _network(fleet: Fleet, rate: float) -> float:
    plain = fleet.size + fleet.key
    sealed = plain + lz4_overhead(fleet.header, fleet.size)
    return rate * (plain + sealed) * sum(fleet.fan_out if mode == "decrypt" else 1 for mode in fleet.modes)


def _bites(fleet: Fleet, row: Scale, needed: int) -> list[str]:
    found = []
    if fleet.partitions and needed > fleet.partitions:
        most = fleet.partitions * fleet.headroom * min(row.per_core.values())
        found.append(
            f"{fleet.partitions:,} partitions feed {fleet.partitions:,} workers at most, {most:,.0f} records/s:"
            f" make it {2 * needed:,}"
        )
    held = row.partitions * fleet.replicas * len({"source", *fleet.modes})
    if held > BROKER_PARTITIONS:
        brokers = math.ceil(held / BROKER_PARTITIONS)
        found.append(f"{held:,} partition replicas on source and targets: at least {brokers:,} brokers")
    if held > MOST_PARTITIONS:
        found.append(f"that is more than the {MOST_PARTITIONS:,} of a cluster: several clusters")
    if needed > MOST_MEMBERS:
        groups = math.ceil(needed / MOST_MEMBERS)
        found.append(
            f"{needed:,} members in a group: spread the topics over {groups:,} pipelines with groups of their own,"
            " or kafka: {group.protocol: consumer}"
        )
    commits = needed / fleet.commit_interval
    if commits > MOST_COMMITS:
        found.append(
            f"{commits:,.0f} commits/s at the coordinator of one group: commit_interval"
            f" {math.ceil(needed / MOST_COMMITS * 10) / 10:g}s, or several groups"
        )
    if row.estimate.seconds_in_use < SHORT_LIFE and "encrypt" in fleet.modes:
        found.append("rotation: raise max_messages (at most 2^32) or max_bytes (at most 64GiB) until max_age decides")
    return found
