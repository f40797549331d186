"""``python -m bench.scaling_page``: write the tables of docs/scaling.md from the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from streamcrypt.cost.measured import BROKER_US, CPU, MEASURED_ON
from streamcrypt.cost.scaling import COLUMNS, Fleet, cells, grow
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["PAGE", "filled"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
_BLOCK = re.compile(r"(<!-- table: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LONG = RotationPolicy(max_messages=2**32, max_age="5m", max_bytes="64GiB")


def filled(text: str) -> str:
    """Give the page with its tables as the model has them now."""
    return _BLOCK.sub(lambda block: f"{block[1]}{_TABLES[block[2]]()}\n{block[3]}", text)


def _growth() -> str:
    return _markdown(COLUMNS, [cells(row) for row in grow(Fleet()).rows])


def _sizes() -> str:
    heads = ("records of", "records/s a core, encrypt", "decrypt", "encrypt, at least once", "decrypt, at least once")
    order = [("encrypt", "exactly_once"), ("decrypt", "exactly_once")]
    order += [(mode, "at_least_once") for mode, _ in order]
    rows = [(f"{size:,} B", *(f"{1e6 / CPU[one].at(size):,.0f}" for one in order)) for size in (100, 512, 1024)]
    return _markdown(heads, rows)


def _keys() -> str:
    """Calls at rates where rotation and the way of readers make the difference."""
    rows, fleet = [], Fleet()
    variants = {
        "as shipped": fleet,
        "max_messages 2^32, max_bytes 64GiB: max_age 5m decides": replace(fleet, rotation=_LONG),
        "as shipped, records keyed anew: every reader meets every data key": replace(fleet, kept=False),
        "the same with max_age deciding": replace(fleet, kept=False, rotation=_LONG),
        "max_age 10s, every reader meets every data key": replace(
            fleet, kept=False, rotation=replace(_LONG, max_age=10.0, grace=0.0)
        ),
    }
    for name, one in variants.items():
        found = grow(one, (1_000_000, 10_000_000, 100_000_000)).rows
        rows.append((name, *(f"{row.kms_calls:,.1f} ({max(row.estimate.quotas.values()):.1%})" for row in found)))
    return _markdown(("rotation", "1,000,000/s", "10,000,000/s", "100,000,000/s"), rows)


def _bites() -> str:
    found = [f"- {row.rate:,.0f}/s: {warning}." for row in grow(Fleet()).rows for warning in row.warnings]
    return "\n".join(found)


def _constants() -> str:
    rows = [
        (mode, delivery.replace("_", " "), f"{line.record:.2f}", f"{line.kib:.2f}")
        for (mode, delivery), line in CPU.items()
    ]
    rows.append(("broker", "exactly once", f"{BROKER_US.record:.2f}", f"{BROKER_US.kib:.2f}"))
    heads = ("CPU of", "delivery", "us a record", "us a KiB of value")
    return f"{_markdown(heads, rows)}\n\n{MEASURED_ON}."


def _markdown(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows))


_TABLES = {"growth": _growth, "sizes": _sizes, "keys": _keys, "bites": _bites, "constants": _constants}


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
