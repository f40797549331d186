"""An audit as a table for people, and its progress on the way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from streamcrypt.audit.materials import by_material
from streamcrypt.audit.plan import Plan
from streamcrypt.audit.receipt_text import receipt_lines
from streamcrypt.audit.report import Findings, by_key, rfc3339
from streamcrypt.audit.shortfall import shortfalls
from streamcrypt.audit.tally import HeaderBook, Place
from streamcrypt.audit.verdict import Answer

__all__ = ["progress_of", "show_table"]

_WIDE = 200
_STYLES = {Answer.YES: "green", Answer.NO: "red", Answer.UNDETERMINED: "yellow"}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} records/s", style="progress.data.speed")


@contextmanager
def progress_of(places: Sequence[Place], stream: TextIO | None = None) -> Iterator[Callable[[], None]]:
    """Show how far reading came, with rate and time to go; nothing where the stream is no terminal.

    Args:
        places: What is read.
        stream: By default standard error.
    """
    stream = stream or sys.stderr
    if not stream.isatty():
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, _Rate(), TimeRemainingColumn(), console=Console(file=stream), transient=True) as bar:
        total = sum(place.end - place.start for place in places)
        task = bar.add_task("reading", total=total, completed=_done(places))
        due = time.monotonic()

        def show() -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + 0.1
                bar.update(task, completed=_done(places))

        yield show
        bar.update(task, completed=_done(places))


def _done(places: Sequence[Place]) -> int:
    return sum(min(place.position, place.end) - place.start for place in places)


def show_table(plan: Plan, book: HeaderBook, findings: Findings) -> None:
    """Print what was counted to standard output; wide enough that a key ARN stays whole where it goes to a file.

    Asked for a receipt, the receipt alone: it is a document of its own.
    """
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    if findings.receipt is not None:
        for line in receipt_lines(findings.receipt):
            console.print(Text(line), soft_wrap=True)
        return
    for topic, facts in plan.topics.items():
        places = [place for place in plan.places.values() if place.topic == topic]
        console.print(_table(topic, facts.cleanup_policy, places, book, findings))
    if findings.configured is not None:
        for line in _shortfall_lines(plan, book, findings.configured):
            console.print(Text(line), soft_wrap=True)
    verdict = findings.verdict
    if verdict is not None:
        style = _STYLES[verdict.answer]
        console.print(
            Text.assemble(f"safe to disable {verdict.key_id}: ", (str(verdict.answer), style)), soft_wrap=True
        )
        for line in verdict.evidence:
            console.print(Text(f"  {line}"), soft_wrap=True)


def _shortfall_lines(plan: Plan, book: HeaderBook, configured: Sequence[str]) -> Iterator[str]:
    found = [(place, short) for place in plan.places.values() for short in shortfalls(place, book, configured)]
    yield f"records that miss a configured KEK: {sum(short.records for _, short in found)}"
    for place, short in found:
        span = f"{short.records} records at offsets {short.first_offset} to {short.last_offset}"
        yield f"  {place.name}: {span}, {short.data_keys} data keys: not wrapped for {', '.join(short.missing)}"


def _table(topic: str, policy: str, places: Sequence[Place], book: HeaderBook, findings: Findings) -> Table:
    title = Text(f"{topic} ({policy})" if policy else topic)
    table = Table(title=title, title_justify="left")
    for head in ("partition", "records", "data keys"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("KEK", overflow="fold")
    for head in ("first", "last"):
        table.add_column(head, justify="right")
    for place in places:
        span = (str(place.start), str(place.end - 1)) if place.end > place.start else ("", "")
        table.add_row(str(place.partition), str(place.records), "", Text(_all(place)), *span, style="bold")
        for count in by_key(place, book):
            first, last = count.first, count.last
            ends = [(first.first_offset, first.first_time), (last.last_offset, last.last_time)]
            spans = [f"{offset} {rfc3339(time_) or ''}".strip() for offset, time_ in ends]
            table.add_row("", str(count.records), str(count.data_keys), Text(count.key_id), *spans)
            if findings.materials is not None:
                for found in by_material(place, book, count.key_id, findings.materials):
                    text = Text(f"  key material {found.material or 'unknown'}")
                    table.add_row("", str(found.records), str(found.data_keys), text, "", "", style="dim")
    return table


def _all(place: Place) -> str:
    counts = {"plaintext": place.plaintext, "malformed": place.malformed, "tombstones": place.tombstones}
    parts = [f"{number} {what}" for what, number in counts.items() if number]
    parts += [f"{kind}: {number}" for kind, number in (place.sequence or {}).items() if number]
    parts += [f"not read beyond {place.position}: {place.unread}"] if place.unread else []
    return ", ".join(parts)
