"""A result on screen: tables with bars, and the targets with their verdicts."""

from __future__ import annotations

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from bench.figures import names_under, spread
from bench.result import Result
from bench.targets import judge
from bench.wording import cell, quiet, verdict_cells

__all__ = ["console", "show"]

_BAR = 24
_WIDTH = 200
_COLUMNS = {
    "records_per_s": ("records/s", 0),
    "cpu_us": ("CPU µs", 2),
    "main_us": ("main µs", 2),
    "broker_us": ("broker µs", 2),
    "wire_bytes": ("wire B", 0),
    "rss_peak_mb": ("peak MB", 0),
    "kms_calls": ("KMS", 0),
}


def console() -> Console:
    """Give a console; where it is no terminal, it is wide enough for every table."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_WIDTH)


def show(screen: Console, result: Result) -> None:
    """Print everything that a result holds."""
    for size in names_under(result.samples, "loop"):
        _loops(screen, result, f"loop/{size}", f"{int(size):,} B, a record")
    for group in ("client/1024", "peer", "proxy"):
        if names_under(result.samples, group):
            _bars(screen, result, group)
    _plain(screen, result, ("sidecar", "sidecar, two workers"))
    _plain(screen, result, [f"latency/{way}" for way in names_under(result.samples, "latency")])
    _targets(screen, result)
    for name, reason in result.absent.items():
        screen.print(f"absent: {name}: {reason}")


def _loops(screen: Console, result: Result, prefix: str, title: str) -> None:
    table = Table(title=f"{title}; median [quartiles] of {result.rounds} rounds")
    table.add_column("")
    for heading, _ in _COLUMNS.values():
        table.add_column(heading, justify="right")
    table.add_column("", width=_BAR)
    loops = [name for name in names_under(result.samples, prefix) if f"{prefix}/{name}/records_per_s" in result.samples]
    fastest = max(spread(result.samples[f"{prefix}/{name}/records_per_s"]).median for name in loops)
    for name in loops:
        cells = [
            cell(result.samples.get(f"{prefix}/{name}/{column}"), digits) for column, (_, digits) in _COLUMNS.items()
        ]
        rate = spread(result.samples[f"{prefix}/{name}/records_per_s"]).median
        table.add_row(name, *cells, Bar(fastest, 0, rate, width=_BAR))
    screen.print(table)
    screen.print(quiet(result.samples, prefix))


def _bars(screen: Console, result: Result, prefix: str) -> None:
    table = Table(title=f"{prefix.partition('/')[0]}: median [quartiles]")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", width=_BAR)
    figures = [name for name in result.samples if name.startswith(prefix + "/")]
    longest = {}
    for name in figures:
        unit = name.rsplit("_", 1)[-1].rsplit("/", 1)[-1]
        longest[unit] = max(longest.get(unit, 0.0), spread(result.samples[name]).median)
    for name in figures:
        unit = name.rsplit("_", 1)[-1].rsplit("/", 1)[-1]
        bar = Bar(longest[unit] or 1.0, 0, spread(result.samples[name]).median, width=_BAR)
        table.add_row(name[len(prefix) + 1 :], cell(result.samples[name], 2), bar)
    screen.print(table)


def _plain(screen: Console, result: Result, prefixes: list[str] | tuple[str, ...]) -> None:
    table = Table(title=prefixes[0].split("/")[0] if prefixes else "")
    table.add_column("")
    table.add_column("", justify="right")
    for prefix in prefixes:
        for name, values in result.samples.items():
            if name.startswith(prefix + "/"):
                table.add_row(name, cell(values, 2))
    if table.row_count:
        screen.print(table)


def _targets(screen: Console, result: Result) -> None:
    table = Table(title="targets")
    for heading in ("", "target", "measured", "", "by"):
        table.add_column(heading)
    for verdict in judge(result.samples):
        table.add_row(*verdict_cells(verdict))
    screen.print(table)
