"""``python -m bench.full``: sizes, partitions, deliveries and compressions, slice by slice; a rerun goes on.

Each slice runs the raw copy loop and our loops in turn over topics of its own and keeps its samples in
bench/results/full. Slices of other code, libraries or machines count as not measured.
"""

from __future__ import annotations

import argparse
import time

from rich.console import Console
from rich.table import Table

from bench import terminal
from bench.core import Run, compare, loops_of
from bench.figures import Samples, ratio
from bench.machine import describe
from bench.result import RESULTS, Result
from bench.slices import Shelf, Slice, matrix
from bench.stage import Stage
from bench.wording import cell

__all__ = ["main", "pieces", "prefix"]

SIZES, PARTITIONS = (100, 1024, 10_240, 102_400), (1, 4, 32)
DELIVERIES, COMPRESSIONS = ("at_least_once", "exactly_once"), ("lz4", "none", "zstd")
_ROUNDS = 3


def prefix(piece: Slice) -> str:
    """Give where a slice's figures stand in the samples."""
    return f"full/{piece.name}"


def pieces() -> list[Slice]:
    """Give all slices, in the order in which they are measured."""
    return list(matrix(SIZES, PARTITIONS, DELIVERIES, COMPRESSIONS))


def main() -> None:
    """Measure what is missing, as long as the arguments allow; then put everything together."""
    arguments = argparse.ArgumentParser(prog="python -m bench.full", description=__doc__)
    arguments.add_argument("--rounds", type=int, default=_ROUNDS, help="of each loop (default: %(default)s)")
    arguments.add_argument("--minutes", type=float, help="begin no further slice after this time")
    options = arguments.parse_args()
    console = terminal.console()
    machine = describe()
    shelf = Shelf(RESULTS / "full", {**machine, "rounds": options.rounds})
    wanted = pieces()
    missing = shelf.missing(wanted)
    console.print(f"{len(wanted) - len(missing)} of {len(wanted)} slices are there")
    end = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    if missing:
        with Stage() as stage, console.status("starting") as status:
            for piece in missing:
                if end is not None and time.monotonic() > end:
                    break
                run = Run(stage, options.rounds, lambda text, name=piece.name: status.update(f"{name}: {text}"))
                _measure(run, piece, options.rounds)
                shelf.put(piece, run.samples)
                console.print(f"{piece.name}: {_ratios(run.samples, piece)}")
    samples: Samples = {}
    for piece in wanted:
        samples |= shelf.get(piece) or {}
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    Result("python -m bench.full", made, {}, options.rounds, machine, samples).save(RESULTS / "full.json")
    _show(console, samples, wanted)


def _measure(run: Run, piece: Slice, rounds: int) -> None:
    more = {"compression": piece.compression}
    compare(run, piece.size, piece.partitions, loops_of(piece.delivery), rounds, prefix(piece), **more)


def _ratios(samples: Samples, piece: Slice) -> str:
    base = f"{prefix(piece)}/copy/records_per_s"
    parts = (
        f"{name} {cell(ratio(samples, f'{prefix(piece)}/{name}/records_per_s', base), 2)}"
        for name in ("encrypt", "decrypt")
    )
    return "of the copy loop: " + ", ".join(parts)


def _show(console: Console, samples: Samples, wanted: list[Slice]) -> None:
    table = Table(title="records/s, and share of the raw copy loop (which delivers at least once)")
    for heading in ("slice", "copy", "encrypt", "share", "decrypt", "share", "wire B sealed", "wire B plain"):
        table.add_column(heading, justify="right")
    for piece in wanted:
        where = prefix(piece)
        base = f"{where}/copy/records_per_s"
        cells = [cell(samples.get(base), 0)]
        for name in ("encrypt", "decrypt"):
            cells += [cell(samples.get(f"{where}/{name}/records_per_s"), 0)]
            cells += [cell(ratio(samples, f"{where}/{name}/records_per_s", base), 2)]
        cells += [cell(samples.get(f"{where}/{name}/wire_bytes"), 0) for name in ("encrypt", "plain topic")]
        if base in samples:
            table.add_row(piece.name, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
