"""``python -m bench.report [RESULT.json] [--full FULL.json]``: write docs/performance.md and its picture from results.

Without an argument the page is made again from the results that it was made from, bench/results/reference*.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.figures import added, names_under, ratio, spread
from bench.full import pieces, prefix
from bench.prose import CLIENTS, FULL, HEAD, HOW, LATENCY, LOOPS, NOT_MEASURED, OTHERS, PEERS, SIDECAR, TARGETS
from bench.result import RESULTS, Result
from bench.targets import judge
from bench.wording import cell, quiet, verdict_cells

__all__ = ["FULL_REFERENCE", "PAGE", "PICTURE", "REFERENCE", "render"]

_ROOT = Path(__file__).resolve().parent.parent
PAGE = _ROOT / "docs" / "performance.md"
PICTURE = _ROOT / "docs" / "images" / "performance.png"
REFERENCE = RESULTS / "reference.json"
FULL_REFERENCE = RESULTS / "reference-full.json"


def main() -> None:
    """Write page and picture."""
    arguments = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    arguments.add_argument("result", nargs="?", type=Path, help="a result of python -m bench")
    arguments.add_argument("--full", type=Path, help="a result of python -m bench.full")
    options = arguments.parse_args()
    for given, kept in ((options.result, REFERENCE), (options.full, FULL_REFERENCE)):
        if given is not None:
            Result.load(given).save(kept)
    # As they were written: figures are rounded in the files, and the page shows what they hold.
    result = Result.load(REFERENCE)
    PAGE.write_text(render(result, load_full()))
    from bench.plot import draw

    draw(result, PICTURE)
    print(f"{PAGE.relative_to(_ROOT)}, {PICTURE.relative_to(_ROOT)}, {REFERENCE.relative_to(_ROOT)}")


def load_full() -> Result | None:
    """Give the wide matrix that the page shows; None where there is none yet."""
    return Result.load(FULL_REFERENCE) if FULL_REFERENCE.exists() else None


def render(result: Result, full: Result | None = None) -> str:
    """Give the page of a result of the core matrix, and of the wide one where there is one."""
    minutes = sum(result.seconds.values()) / 60
    head = HEAD.format(minutes=max(1.0, minutes), made=result.made, command=result.command)
    machine = "".join(f"| {name} | {value} |\n" for name, value in result.machine.items())
    sections = [section(result) for section in _SECTIONS]
    if full is not None:
        sections.append(_full(full))
    how = HOW.format(cores=result.machine["cores"])
    return (
        "\n".join([head + machine, *(text for text in sections if text), how, OTHERS, NOT_MEASURED]).rstrip("\n") + "\n"
    )


def _table(headings: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _targets(result: Result) -> str:
    rows = []
    for verdict in judge(result.samples):
        claim, limit, measured, word, command = verdict_cells(verdict)
        rows.append((claim, limit, measured, f"**{word}**" if word == "MISSED" else word, f"`{command}`"))
    return f"## Targets\n\n{TARGETS}\n" + _table(("", "target", "measured", "", "by"), rows)


def _loops(result: Result) -> str:
    parts = []
    for size in names_under(result.samples, "loop"):
        where = f"loop/{size}"
        columns = (("records_per_s", 0), ("cpu_us", 2), ("main_us", 2), ("broker_us", 2), ("wire_bytes", 1))
        memory = (("rss_steady_mb", 0), ("rss_peak_mb", 0), ("kms_calls", 0))
        rows = []
        for name in names_under(result.samples, where):
            share = ratio(result.samples, f"{where}/{name}/records_per_s", f"{where}/copy/records_per_s")
            cells = [cell(result.samples.get(f"{where}/{name}/{column}"), digits) for column, digits in columns]
            medians = [_median(result, f"{where}/{name}/{column}", digits) for column, digits in memory]
            rows.append((name, cells[0], cell(share, 2), *cells[1:], *medians))
        headings = (
            "",
            "records/s",
            "of copy",
            "CPU µs",
            "main µs",
            "broker µs",
            "wire B",
            "MB steady",
            "MB peak",
            "KMS calls",
        )
        said = quiet(result.samples, where + "/")
        parts.append(f"Values of {int(size):,} B. {said}".rstrip() + "\n\n" + _table(headings, rows))
    if not parts:
        return ""
    return f"## Loops between topics\n\n{LOOPS}\n" + "\n".join(parts)


def _median(result: Result, name: str, digits: int) -> str:
    values = result.samples.get(name)
    return "-" if not values else f"{spread(values).median:,.{digits}f}"


def _clients(result: Result) -> str:
    if not names_under(result.samples, "client/1024"):
        return ""
    unit = "client/1024/AESGCM/us"
    rows = []
    for name in names_under(result.samples, "client/1024"):
        values = result.samples[f"client/1024/{name}/us"]
        extra = "-"
        if name.endswith("wrapper"):
            plain = f"client/1024/{name.replace('wrapper', 'plain')}/us"
            extra = cell(added(result.samples, f"client/1024/{name}/us", plain, unit), 2)
        rows.append((name, cell(values, 2), cell(ratio(result.samples, f"client/1024/{name}/us", unit), 2), extra))
    return f"## Clients and calls\n\n{CLIENTS}\n" + _table(
        ("", "µs", "in AESGCM calls", "added, in AESGCM calls"), rows
    )


def _peers(result: Result) -> str:
    names = names_under(result.samples, "peer")
    if not names:
        return ""
    rows = []
    for name in names:
        cells = [cell(result.samples.get(f"peer/{name}/{act}_us"), 1) for act in ("encrypt", "decrypt")]
        times = [_times(result, name, act) for act in ("encrypt", "decrypt")]
        rows.append((name, cells[0], times[0], cells[1], times[1], _median(result, f"peer/{name}/added_bytes", 0)))
    absent = [f"- Absent: {name}, {reason}.\n" for name, reason in result.absent.items() if name.startswith("peer ")]
    headings = ("", "encrypt µs", "times ours", "decrypt µs", "times ours", "bytes added")
    return f"## Peers\n\n{PEERS}\n" + _table(headings, rows) + ("\n" + "".join(absent) if absent else "")


def _times(result: Result, name: str, act: str) -> str:
    values = ratio(result.samples, f"peer/{name}/{act}_us", f"peer/streamcrypt/{act}_us")
    return "-" if not values else f"{spread(values).median:.1f}"


def _sidecar(result: Result) -> str:
    rows = []
    for title, where in (("one worker", "sidecar"), ("two workers", "sidecar, two workers")):
        if not names_under(result.samples, where):
            rows.append((title, result.absent.get(where, "not measured"), "-", "-", "-", "-"))
            continue
        columns = (("start_s", 2), ("rss_steady_mb", 0), ("rss_peak_mb", 0), ("records_per_s", 0), ("broker_cores", 2))
        rows.append((title, *(cell(result.samples.get(f"{where}/{name}"), digits) for name, digits in columns)))
    if not names_under(result.samples, "sidecar"):
        return ""
    headings = ("", "start s", "MB steady", "MB peak", "records/s", "cores busy with the broker")
    return f"## The sidecar as a process\n\n{SIDECAR}\n" + _table(headings, rows)


def _latency(result: Result) -> str:
    ways = names_under(result.samples, "latency")
    if not ways:
        return ""
    rows = []
    for way in ways:
        for share in (s for s in names_under(result.samples, f"latency/{way}") if s.isdigit()):
            where = f"latency/{way}/{share}"
            rate = _median(result, f"{where}/records_per_s", 0)
            rows.append(
                (way, f"{share} %", rate, *(_median(result, f"{where}/{p}_ms", 1) for p in ("p50", "p99", "p999")))
            )
    ceiling = (
        spread(result.samples["latency/exactly once/ceiling_records_per_s"]).median if "exactly once" in ways else 0
    )
    words = LATENCY.format(ceiling=ceiling)
    return f"## Latency\n\n{words}\n" + _table(("", "rate", "records/s", "p50", "p99", "p99.9"), rows)


def _full(result: Result) -> str:
    rows = []
    for piece in pieces():
        where = prefix(piece)
        copied = f"{where}/copy/records_per_s"
        if copied not in result.samples:
            continue
        cells = [_median(result, copied, 0)]
        for name in ("encrypt", "decrypt"):
            share = ratio(result.samples, f"{where}/{name}/records_per_s", copied)
            cells += [_median(result, f"{where}/{name}/records_per_s", 0), f"{spread(share).median:.2f}"]
        grown = spread(added(result.samples, f"{where}/encrypt/wire_bytes", f"{where}/plain topic/wire_bytes")).median
        what = (f"{piece.size:,}", str(piece.partitions), piece.delivery.replace("_", " "), piece.compression)
        rows.append((*what, *cells, f"{grown:,.0f}"))
    words = FULL.format(made=result.made[:10], code=result.machine["streamcrypt code"], rounds=result.rounds)
    headings = (
        "B",
        "partitions",
        "delivery",
        "compression",
        "copy",
        "encrypt",
        "of copy",
        "decrypt",
        "of copy",
        "bytes",
    )
    return f"## The wide matrix\n\n{words}\n" + _table(headings, rows)


_SECTIONS: tuple[Callable[[Result], str], ...] = (_targets, _loops, _clients, _peers, _sidecar, _latency)


if __name__ == "__main__":
    main()
