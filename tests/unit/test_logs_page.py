"""docs/events.md and what the process can write are the same: names, levels, fields, and what counts as a repeat."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from streamcrypt import events
from streamcrypt.observe.log_limits import BURST, KINDS, WINDOW
from streamcrypt.observe.log_rules import ALIKE, OTHER_LINES, RAISED, kind_of, raised_level
from streamcrypt.observe.logs import LINES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "events.md").read_text(encoding="utf-8")
LEVELS = {"debug", "info", "warning", "error"}


@dataclass(frozen=True)
class Row:
    """One row of the page's tables of lines."""

    levels: frozenset[str]
    fields: tuple[str, ...]
    alike: tuple[str, ...]


def _rows() -> dict[str, Row]:
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"`[a-z_]+\.[a-z_]+`", cells[0]):
            name, level, line_fields, alike, what = cells
            assert name not in found, f"{name} stands on the page twice"
            assert what, f"{name} has no meaning"
            # The name of a field in a condition is no level.
            words = set(re.findall(r"[a-z]+", re.sub(r"`[^`]*`", "", level)))
            ticked = [tuple(re.findall(r"`([a-z_]+)`", cell)) for cell in (line_fields, alike)]
            found[name.strip("`")] = Row(frozenset(words & LEVELS), *ticked)
    return found


ROWS = _rows()


def _row_of(kind: type) -> str:
    """The row to put on the page."""
    name, level = LINES[kind]
    ticked = [", ".join(f"`{name}`" for name in names) for names in (_fields(kind), ALIKE.get(kind, ()))]
    return f"| `{name}` | {level} | {ticked[0]} | {ticked[1] or '-'} | … |"


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def test_the_page_has_every_line_and_no_other():
    """A name is added, renamed and removed on both sides."""
    missing = [_row_of(kind) for kind, (name, _) in LINES.items() if name not in ROWS]
    assert missing == [], "docs/events.md lacks these rows"
    assert sorted(set(OTHER_LINES) - set(ROWS)) == []
    assert sorted(set(ROWS) - {name for name, _ in LINES.values()} - set(OTHER_LINES)) == []


@pytest.mark.parametrize("kind", list(LINES), ids=lambda kind: kind.__name__)
def test_a_row_is_true(kind):
    """Levels, those under a condition included, fields in their order, and what makes a repeat."""
    name, level = LINES[kind]
    raised = {RAISED[kind][0]} if kind in RAISED else set()
    true = Row(frozenset({level} | raised), _fields(kind), ALIKE.get(kind, ()))
    assert ROWS.get(name) == true, f"docs/events.md should say: {_row_of(kind)}"


@pytest.mark.parametrize("name", sorted(OTHER_LINES))
def test_a_row_of_another_line_is_true(name):
    """Of lines that are no events."""
    levels, line_fields = OTHER_LINES[name]
    assert ROWS[name].levels == levels
    assert set(ROWS[name].fields) == line_fields


def test_the_numbers_of_the_limit_stand_on_the_page():
    assert f"{BURST} are written in a window of {WINDOW:.0f} s" in PAGE
    assert f"{KINDS:,} windows" in PAGE


def test_an_error_line_is_explained_in_the_runbook():
    """Who is woken finds what to do."""
    runbook = (DOCS / "operations.md").read_text(encoding="utf-8")
    waking = {name for name, row in ROWS.items() if "error" in row.levels}
    assert sorted(name for name in waking if f"`{name}`" not in runbook) == []


# -- levels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (events.PartitionPaused("p", "t", 0, 1, "KeyUnavailable", "", ""), None),
        (events.PartitionPaused("p", "t", 0, 1, "KeyRefused", "", ""), "error"),
        (events.PartitionPaused("p", "t", 0, 1, "RouteProblem", "", ""), "error"),
        (events.DataKeyMintFailed("t", "KeyUnavailable", "", retriable=True, ahead=True), None),
        (events.DataKeyMintFailed("t", "KeyRefused", "", retriable=False, ahead=True), "error"),
        (events.PipelineStopped("p", clean=True, records=1), None),
        (events.PipelineStopped("p", clean=False, records=1), "warning"),
        (events.PipelineReady("p", 1), None),
    ],
    ids=["away", "refused", "no target", "mint away", "mint refused", "clean", "unclean", "ready"],
)
def test_what_needs_an_operator_is_an_error_and_what_mends_itself_is_not(event, level):
    assert raised_level(event) == level


def test_what_ends_something_is_never_a_repeat():
    """Nor is a record that is skipped: its line is all that is left of it."""
    ending = (events.PipelineFailed, events.PipelineStopped, events.PipelineRestarting, events.KeyServiceCalled)
    assert not set(ending) & set(ALIKE)
    limited = {
        action: kind_of(events.RecordFailed("p", "t", 0, 1, "AuthenticationFailed", "", action)) is not None
        for action in ("halt", "skip", "dead_letter", "return")
    }
    assert limited == {"halt": False, "skip": False, "dead_letter": True, "return": True}


@pytest.mark.parametrize("kind", list(ALIKE), ids=lambda kind: kind.__name__)
def test_repeats_are_told_by_fields_that_the_line_has(kind):
    assert set(ALIKE[kind]) <= set(_fields(kind))


def test_no_event_has_a_field_for_bytes():
    """Neither a key nor a record's value or key fits into one."""
    hints = {kind.__name__: typing.get_type_hints(kind) for kind in typing.get_args(events.Event)}
    unfit = {f"{name}.{field}" for name, types in hints.items() for field, of in types.items() if "bytes" in str(of)}
    assert unfit == set()
