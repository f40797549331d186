"""What the sidecar says is in docs/operations.md, with what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

from streamcrypt import errors
from streamcrypt.observe.log_rules import OTHER_LINES
from streamcrypt.observe.logs import LINES
from streamcrypt.observe.metrics import Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
ROWS = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))


def test_every_line_above_debug_is_explained():
    """A name that an alert may be built on stands in a table, with what to do."""
    named = {name for name, level in LINES.values() if level != "debug"} | set(OTHER_LINES)
    assert sorted(name for name in named if f"`{name}`" not in ROWS) == []


def test_every_error_of_a_record_is_explained():
    """Each class that a record can fail with has its row."""
    of_records = {
        name
        for name in errors.__all__
        if name[0].isupper()
        and name
        not in {"ConfigError", "EnvelopeError", "KeyRefused", "KeyServiceError", "KeyUnavailable", "StreamcryptError"}
    }
    assert sorted(name for name in of_records if f"`{name}`" not in ROWS) == []


def test_every_metric_on_the_page_exists():
    """What the page names is what the process exports."""
    exported = {family.name for family in Metrics().registry.collect()}
    named = set(re.findall(r"`(?:streamcrypt_|…_)?([a-z_]+?)(?:_total)?(?:\{[a-z_,=\"]+\})?`", _metric_cells()))
    assert len(named) > 20
    unknown = {name for name in named if f"streamcrypt_{name}" not in exported}
    assert sorted(unknown) == []


def _metric_cells() -> str:
    cells = [row.split("|")[2] for row in PAGE.splitlines() if row.startswith("| `") and row.count("|") >= 4]
    return " ".join(cell for cell in cells if "`" in cell and "…" not in cell)
