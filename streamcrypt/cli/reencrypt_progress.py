"""How far a re-encryption is: a bar with rate and time to go on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from streamcrypt.events import Observer, ReencryptionProgress

__all__ = ["showing"]

_BAR_EVERY = 0.2
_LINE_EVERY = 10.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} records/s", style="progress.data.speed")


@contextmanager
def showing(
    pipeline: str,
    phase: str,
    done: Callable[[], int],
    total: int,
    observer: Observer,
    *,
    bar: bool,
    stream: TextIO | None = None,
) -> Iterator[None]:
    """Show progress while the block runs, from a thread of its own.

    Args:
        pipeline: The job's name.
        phase: copy or verify.
        done: Says how many offsets are done.
        total: How many there are.
        observer: Told every ten seconds, and at the end, where no bar is shown.
        bar: Whether a bar is wanted; it is shown on a terminal only.
        stream: Where to; by default standard error.
    """
    stream = stream or sys.stderr
    over = threading.Event()
    drawn = bar and stream.isatty()
    show = _draw if drawn else _say
    thread = threading.Thread(
        target=show, args=(pipeline, phase, done, total, observer, stream, over), name="progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _draw(
    _pipeline: str,
    phase: str,
    done: Callable[[], int],
    total: int,
    _observer: Observer,
    stream: TextIO,
    over: threading.Event,
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = Console(file=stream)
    with Progress(*columns, _Rate(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(phase, total=total, completed=done())
        while not over.wait(_BAR_EVERY):
            bar.update(task, completed=done())


def _say(
    pipeline: str,
    phase: str,
    done: Callable[[], int],
    total: int,
    observer: Observer,
    _stream: TextIO,
    over: threading.Event,
) -> None:
    at, before = time.monotonic(), done()
    while True:
        ended = over.wait(_LINE_EVERY)
        now, count = time.monotonic(), done()
        rate = (count - before) / max(now - at, 1e-3)
        observer(ReencryptionProgress(pipeline, phase, count, total, round(rate, 1)))
        at, before = now, count
        if ended:
            return
