"""``streamcrypt cost --scale``: what a configuration comes to from 1,000 to 100,000,000 records/s."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streamcrypt.cli.cost import CostRequest, load_of, settings_of
from streamcrypt.cli.exits import Exit
from streamcrypt.cost.measured import MEASURED_ON
from streamcrypt.cost.scaling import COLUMNS, Fleet, cells, grow

__all__ = ["scale"]


def scale(path: Path, request: CostRequest) -> int:
    """Print a row for each rate, then where it bites.

    Raises:
        ConfigError: The configuration or an argument is wrong, or the keys are no AWS KMS keys.
    """
    settings = settings_of(path, request)
    first, known = settings.pipelines[0], load_of(settings, request)
    modes = {"decrypt" if pipeline.mode == "decrypt" else "encrypt" for pipeline in settings.pipelines}
    fleet = Fleet(
        size=request.size,
        modes=tuple(sorted(modes, reverse=True)),
        delivery=first.delivery,
        topics=known.topics,
        keks=tuple(known.keks),
        rotation=known.rotation,
        cache=known.cache,
        header=known.header,
        commit_interval=first.commit_interval,
        pod=settings.worker_count,
        kept=all(pipeline.partition == "keep" for pipeline in settings.pipelines),
    )
    found = grow(fleet, prices=request.prices)
    if request.form == "json":
        sys.stdout.write(json.dumps([asdict(row) for row in found.rows], indent=2) + "\n")
        return Exit.DONE
    # A pipe is no reason to break rows.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(*COLUMNS)
    for row in found.rows:
        table.add_row(*cells(row))
    console.print(table)
    for row in found.rows:
        for warning in row.warnings:
            console.print(f"[yellow]{row.rate:,.0f}/s[/]: {warning}", soft_wrap=True)
    console.print(f"measured on {MEASURED_ON}; the rest is arithmetic: docs/scaling.md", style="dim", soft_wrap=True)
    return Exit.DONE
