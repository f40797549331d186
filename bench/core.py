"""The core matrix: what ``make bench`` runs, section by section, in under eight minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench import latency, sidecar
from bench.figures import Samples, collect
from bench.stage import Stage

__all__ = ["SECTIONS", "Run", "Variant", "loops_of"]

PARTITIONS = 4
SIZE = 1024
_RECORDS = {100: 400_000, 1024: 500_000, 10_240: 30_000, 102_400: 3_000}
_CLIENT_RECORDS = 100_000
_PEER_ROUNDS = 5
_STARTS = 3
_WARM_UP = 5
_LATENCY_SECONDS = 6.0


@dataclass
class Run:
    """One run of the matrix: where it takes place, and what it has found so far.

    Attributes:
        stage: Broker and KMS.
        rounds: How often each loop of 1 KB runs.
        say: Told what is being done.
        samples: What was found.
        absent: What could not be measured, and why.
    """

    stage: Stage
    rounds: int
    say: Callable[[str], None]
    samples: Samples = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """One loop of a comparison.

    Attributes:
        kind: The job.
        more: Its arguments besides topics, records and group.
        sealed: Whether it reads the sealed topic.
    """

    kind: str
    more: Mapping[str, Any]
    sealed: bool = False


def loops_of(delivery: str = "at_least_once") -> dict[str, Variant]:
    """Give the loops that are compared at any size: the raw copy, and ours in one delivery."""
    return {
        "copy": Variant("copy", {}),
        "encrypt": Variant("pipeline", {"mode": "encrypt", "delivery": delivery}),
        "decrypt": Variant("pipeline", {"mode": "decrypt", "delivery": delivery}, sealed=True),
    }


_MORE = {
    "copy, sealed to uncompressed": Variant("copy", {"mode": "decrypt"}, sealed=True),
    "encrypt, exactly once": Variant("pipeline", {"mode": "encrypt", "delivery": "exactly_once"}),
    "encrypt, observed": Variant("pipeline", {"mode": "encrypt", "observed": True}),
}


def records_of(size: int) -> int:
    """Give how many records of a size are passed in one run: 40 to 500 MB."""
    return _RECORDS[size]


def compare(
    run: Run, size: int, partitions: int, variants: Mapping[str, Variant], rounds: int, prefix: str, **more: Any
) -> None:
    """Run loops in turn over the same topics, the first of a round a different one each time.

    Args:
        run: Where figures go.
        size: Bytes of a value.
        partitions: Of each topic.
        variants: Name to loop.
        rounds: How often each one runs.
        prefix: Of the figures' names.
        more: Arguments for all of them, the filling included, such as ``compression``.
    """
    stage, records = run.stage, records_of(size)
    run.say(f"{size:,} B: filling a topic")
    plain, sealed = stage.filled(size, records, partitions, **more), stage.topic(partitions)
    wire = stage.settled_log_bytes(plain, 0) / records
    common = {"keys": stage.keys, "records": records, **more}
    stage.run("pipeline", mode="encrypt", source=plain, target=sealed, group=f"seal-{sealed}", **common)
    names = list(variants)
    # Round 0 is not counted: a broker that has just started runs at half its speed, and its first transaction waits for
    # the topic that transactions are kept in.
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn] if number else names[:_WARM_UP]:
            run.say(f"{size:,} B, round {number} of {rounds}: {name}")
            found = _once(stage, variants[name], sealed if variants[name].sealed else plain, partitions, common)
            if number:
                collect(run.samples, f"{prefix}/{name}", found)
        if number:
            # One value a round, so that it can be taken away from the others' round by round.
            collect(run.samples, f"{prefix}/plain topic", {"wire_bytes": wire})
    for topic in (plain, sealed):
        stage.broker.delete_topic(topic)


def _once(stage: Stage, variant: Variant, source: str, partitions: int, common: Mapping[str, Any]) -> dict[str, float]:
    """Run one loop once, into a topic that is gone afterwards: what earlier runs wrote must not weigh on later ones."""
    target, records = stage.topic(partitions), common["records"]
    busy, strangers = stage.broker_cpu(), stage.strangers()
    found = stage.run(variant.kind, source=source, target=target, group=f"g-{target}", **common, **variant.more)
    found |= strangers.read()
    if busy is not None:
        found["broker_us"] = ((stage.broker_cpu() or busy) - busy) / records * 1e6
    found["wire_bytes"] = stage.settled_log_bytes(target, 0) / records
    stage.broker.delete_topic(target)
    return found


def _loops(run: Run) -> None:
    compare(run, SIZE, PARTITIONS, {**loops_of(), **_MORE}, run.rounds, f"loop/{SIZE}")
    compare(run, 100, PARTITIONS, loops_of(), max(3, run.rounds // 2), "loop/100")


def _clients(run: Run) -> None:
    stage = run.stage
    plain = stage.filled(SIZE, _CLIENT_RECORDS, PARTITIONS)
    sealed, target = (stage.topic(PARTITIONS) for _ in range(2))
    common = {"keys": stage.keys, "records": _CLIENT_RECORDS}
    stage.run("pipeline", mode="encrypt", source=plain, target=sealed, group=f"seal-{sealed}", **common)
    for number in range(run.rounds):
        run.say(f"clients, round {number + 1} of {run.rounds}")
        group = f"clients-{number}-{sealed}"
        found = stage.run("clients", source=sealed, target=target, size=SIZE, group=group, **common)
        collect(run.samples, f"client/{SIZE}", found)
    for topic in (plain, sealed, target):
        stage.broker.delete_topic(topic)


def _peers(run: Run) -> None:
    for number in range(_PEER_ROUNDS):
        run.say(f"peers, round {number + 1} of {_PEER_ROUNDS}")
        found = run.stage.run("peers", keys=run.stage.keys, size=SIZE)
        collect(run.samples, "peer", found["samples"])
        run.absent |= {f"peer {name}": reason for name, reason in found["absent"].items()}


def _sidecar(run: Run) -> None:
    records = records_of(SIZE)
    source = run.stage.filled(SIZE, records, PARTITIONS)
    for number in range(_STARTS):
        run.say(f"sidecar, start {number + 1} of {_STARTS}")
        collect(run.samples, "sidecar", sidecar.measure(run.stage, source, records, PARTITIONS))
        try:
            found = sidecar.measure(run.stage, source, records, PARTITIONS, workers=2)
            collect(run.samples, "sidecar, two workers", found)
        except RuntimeError as refused:
            run.absent["sidecar, two workers"] = str(refused).splitlines()[-1]
    run.stage.broker.delete_topic(source)


def _latency(run: Run) -> None:
    ceiling = None
    for way, delivery in (("exactly once", "exactly_once"), ("at least once", "at_least_once"), ("no sidecar", None)):
        run.say(f"latency: {way}")
        # All ways at the same rates, which are those of the default.
        found = latency.measure(run.stage, SIZE, PARTITIONS, _LATENCY_SECONDS, delivery, ceiling)
        ceiling = ceiling or found["ceiling_records_per_s"]
        collect(run.samples, f"latency/{way}", found)


SECTIONS: Mapping[str, Callable[[Run], None]] = {
    # First: a broker with gigabytes behind it takes records more slowly, and a full queue costs the caller's thread.
    "clients": _clients,
    "peers": _peers,
    "loops": _loops,
    "sidecar": _sidecar,
    "latency": _latency,
}
"""Name to what measures it, in order."""


def timed(run: Run, names: list[str]) -> dict[str, float]:
    """Run sections; give the seconds of each."""
    took = {}
    for name in names:
        began = time.monotonic()
        SECTIONS[name](run)
        took[name] = round(time.monotonic() - began, 1)
    return took
