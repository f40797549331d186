"""``python -m tests.chaos``: the full chaos suite. A JSON report, a summary for people, exit 1 on any violation."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.broker import private_broker
from tests.chaos.closing import fail_closed
from tests.chaos.poisoning import poisoned
from tests.chaos.reloading import reloads
from tests.chaos.scenarios import (
    Context,
    Outcome,
    broker_restarts,
    deleted_target,
    kills,
    kms_outages,
    mixed,
    zombies,
)
from tests.chaos.stage import BROKER
from tests.log_scan import SCAN

Play = Callable[[Context], Outcome]


def plays(minutes: float, scale: float) -> dict[str, tuple[str, Play]]:
    """Give every scenario of the full form: its name to delivery and play.

    Args:
        minutes: Of each of the scenarios that last as long as they are told to.
        scale: Of all numbers of records; 1 is the full size.
    """

    def many(count: int) -> int:
        return max(500, int(count * scale))

    once, least = "exactly_once", "at_least_once"
    seconds = minutes * 60
    return {
        "kills": (once, lambda c: kills(c, records=many(200_000), kills=30)),
        "kills-two-members": (once, lambda c: kills(c, records=many(200_000), kills=30, members=2)),
        "kills-at-least-once": (least, lambda c: kills(c, records=many(200_000), kills=30)),
        "kills-kip-848": (once, lambda c: kills(c, records=many(50_000), kills=8, protocol="consumer")),
        "kills-large-records": (once, lambda c: kills(c, records=many(20_000), kills=8, large=True)),
        "broker-restarts": (once, lambda c: broker_restarts(c, records=many(100_000), restarts=6)),
        "broker-restarts-at-least-once": (least, lambda c: broker_restarts(c, records=many(100_000), restarts=4)),
        "zombies": (once, lambda c: zombies(c, records=many(12_000), sleep=25.0)),
        "deleted-target": (once, lambda c: deleted_target(c, records=many(5_000))),
        "closed": (once, fail_closed),
        "closed-at-least-once": (least, fail_closed),
        "poison": (once, lambda c: poisoned(c, records=many(100_000), poison=many(100_000) // 100)),
        "reload": (once, lambda c: reloads(c, records=many(100_000), count=20)),
        "reload-at-least-once": (least, lambda c: reloads(c, records=many(100_000), count=20)),
        "kms": (once, lambda c: kms_outages(c, seconds=seconds)),
        "mixed": (once, lambda c: mixed(c, seconds=seconds)),
    }


def main() -> int:
    """Play what is asked for; 0 where nothing was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeats a run (default: by chance, and printed)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of KMS faults, and of mixed faults")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of records")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=list(plays(1, 1)), help="these scenarios")
    parser.add_argument("--workers", type=int, default=1, help="processes of each member (default: 1)")
    parser.add_argument("--report", type=Path, help="where the JSON report goes (default: beside the logs)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    directory = Path(tempfile.mkdtemp(prefix="streamcrypt-chaos-"))
    print(f"seed {seed}; logs and report in {directory}", flush=True)
    chosen = plays(options.minutes, options.scale)
    names = options.only or list(chosen)
    outcomes = []
    with contextlib.closing(private_broker(config=BROKER)) as broker:
        for number, name in enumerate(names):
            delivery, play = chosen[name]
            shift = 0 if options.only else number
            context = Context(broker, directory / name, seed + shift, delivery, options.workers)
            outcomes.append(_played(name, play, context))
    report = {
        "seed": seed,
        "minutes": options.minutes,
        "scale": options.scale,
        "workers": options.workers,
        "scenarios": list(map(_as_json, outcomes)),
    }
    path = options.report or directory / "report.json"
    path.write_text(json.dumps(report, indent=1, default=str))
    failed = [outcome for outcome in outcomes if outcome.findings]
    print(f"{len(outcomes)} scenarios, {len(failed)} with violations; report: {path}")
    return 1 if failed else 0


def _played(name: str, play: Play, context: Context) -> Outcome:
    print(f"{time.strftime('%H:%M:%S')} {name} …", flush=True)
    began = time.monotonic()
    with SCAN.open() as scan:
        try:
            outcome = play(context)
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(name, context.seed)
            outcome.findings.add("broken off", f"{type(error).__name__}: {error}")
        before, leaks = scan.scanned, scan.look()
        outcome.figures["bytes of logs searched"] = scan.scanned - before
        for leak in leaks:
            outcome.findings.add("in a log", leak)
    verdict = "VIOLATED" if outcome.findings else "held"
    print(f"  {verdict} in {time.monotonic() - began:.0f} s: {outcome.name}", flush=True)
    for line in _lines(outcome):
        print(f"    {line}", flush=True)
    return outcome


def _lines(outcome: Outcome) -> Iterator[str]:
    for name, figure in outcome.figures.items():
        if name != "schedule":
            yield f"{name}: {figure}"
    for line in outcome.findings.lines():
        yield f"!! {line}"
    if outcome.findings:
        yield f"!! repeat with: python -m tests.chaos --seed {outcome.seed} --only <this scenario>"


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.name,
        "seed": outcome.seed,
        "held": not outcome.findings,
        "violations": outcome.findings.found,
        "figures": outcome.figures,
    }


if __name__ == "__main__":
    sys.exit(main())
