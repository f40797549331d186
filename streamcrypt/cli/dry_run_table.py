"""What a dry run found, as a table for people and as a tree for JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamcrypt.cli.cat_output import harmless
from streamcrypt.cli.dry_run_looking import Foreseen, Outcome, Rehearsed
from streamcrypt.errors import StreamcryptError

__all__ = ["as_tree", "show_table"]

_WIDE = 200
_PUBLIC_ID = 12
_STYLES = {
    Outcome.ARRIVE: "green",
    Outcome.ARRIVE_AS_IT_IS: "green",
    Outcome.WAIT: "yellow",
    Outcome.DEAD_LETTER: "yellow",
    Outcome.SKIP: "yellow",
    Outcome.HALT: "bold red",
}


def show_table(found: Sequence[Rehearsed]) -> None:
    """Print a table for each pipeline to standard output."""
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    for one in found:
        title = Text(f"{one.name} ({one.mode})")
        if one.problem is not None:
            console.print(title, style="bold")
            console.print(Text(f"  would not start: {_reason(one.problem)}", style="bold red"), soft_wrap=True)
            _print_remedy(console, one.problem)
            continue
        if not one.records:
            console.print(title, style="bold")
            console.print("  no record to look at: it stands at the end of everything that it reads")
            continue
        console.print(_table(title, one.records))
        for record in one.records:
            if record.failure is not None:
                at = f"{record.topic}[{record.partition}] offset {record.offset}"
                console.print(Text(f"  {at}: {_reason(record.failure)}"), soft_wrap=True)
                _print_remedy(console, record.failure)
    console.print("nothing was written or committed; what was sealed is thrown away")


def _table(title: Text, records: Sequence[Foreseen]) -> Table:
    table = Table(title=title, title_justify="left")
    for head in ("from", "outcome", "to"):
        table.add_column(head, overflow="fold")
    for head in ("bytes before", "after", "header"):
        table.add_column(head, justify="right")
    table.add_column("data key", no_wrap=True)
    table.add_column("KEK", overflow="fold")
    for record in records:
        facts = record.envelope
        table.add_row(
            Text(f"{record.topic}[{record.partition}] {record.offset}"),
            Text(str(record.outcome), style=_STYLES[record.outcome]),
            Text(_target(record)),
            _number(record.bytes_in, "null"),
            _number(record.bytes_out, "null" if record.outcome.passes else ""),
            "" if facts is None else str(len(facts.header_bytes)),
            "" if facts is None else facts.data_key[:_PUBLIC_ID],
            Text("" if facts is None else ", ".join(facts.keks)),
        )
    return table


def _number(size: int | None, otherwise: str) -> str:
    return otherwise if size is None else str(size)


def _target(record: Foreseen) -> str:
    if not record.target:
        return ""
    return f"{record.target}[{'by key' if record.target_partition is None else record.target_partition}]"


def _reason(failure: StreamcryptError) -> str:
    return f"{type(failure).__name__}: {harmless(str(failure))}"


def _print_remedy(console: Console, failure: StreamcryptError) -> None:
    if failure.remedy:
        console.print(Text(f"    {harmless(failure.remedy)}", style="dim"), soft_wrap=True)


def as_tree(found: Sequence[Rehearsed]) -> dict[str, Any]:
    """Give what JSON has; see docs/cat.md."""
    return {
        "passes": all(one.passes for one in found),
        "pipelines": [
            {
                "pipeline": one.name,
                "mode": one.mode,
                "passes": one.passes,
                "problem": _failure(one.problem),
                "records": [_record(record) for record in one.records],
            }
            for one in found
        ],
    }


def _record(record: Foreseen) -> dict[str, Any]:
    facts = record.envelope
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "outcome": str(record.outcome),
        "target": record.target or None,
        "target_partition": record.target_partition,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "header_bytes": None if facts is None else len(facts.header_bytes),
        "data_key": None if facts is None else facts.data_key,
        "keks": [] if facts is None else list(facts.keks),
        "failure": _failure(record.failure),
    }


def _failure(failure: StreamcryptError | None) -> dict[str, str] | None:
    if failure is None:
        return None
    return {"error": type(failure).__name__, "reason": str(failure), "remedy": failure.remedy}
