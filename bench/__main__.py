"""``python -m bench [SECTION ...]``: the core matrix; tables and verdicts on screen, JSON in bench/results.

Sections: clients, peers, loops, sidecar, latency. Default: all of them.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time

from bench import proxy, terminal
from bench.core import PARTITIONS, SECTIONS, SIZE, Run, timed
from bench.machine import describe
from bench.result import RESULTS, Result
from bench.stage import Stage

_ROUNDS = 9
_PROXY_RECORDS = 200_000


def main() -> None:
    """Run what the arguments name."""
    arguments = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    arguments.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="what to measure; default: everything")
    arguments.add_argument("--rounds", type=int, default=_ROUNDS, help="of loops and clients (default: %(default)s)")
    arguments.add_argument(
        "--proxy", metavar="HOST:PORT", help="measure plain clients through this Kafka proxy against direct, only that"
    )
    options = arguments.parse_args()
    console = terminal.console()
    with Stage() as stage, console.status("starting") as status:
        run = Run(stage, options.rounds, status.update)
        if options.proxy:
            began = time.monotonic()
            run.samples |= proxy.measure(stage, options.proxy, SIZE, _PROXY_RECORDS, PARTITIONS, options.rounds)
            took = {"proxy": round(time.monotonic() - began, 1)}
        else:
            took = timed(run, options.sections or list(SECTIONS))
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result = Result(command, made, took, options.rounds, describe(), run.samples, run.absent)
    path = RESULTS / f"bench-{made.replace('-', '').replace(':', '')}.json"
    result.save(path)
    terminal.show(console, result)
    console.print(f"{sum(took.values()):.0f} s; written to {path.relative_to(RESULTS.parent.parent)}")
    console.print(
        f"Make the page and its picture of it: python -m bench.report {path.relative_to(RESULTS.parent.parent)}"
    )


if __name__ == "__main__":
    main()
