"""A status snapshot as text for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streamcrypt.observe.page_words import clock, lasting, sentences

__all__ = ["table"]

_GAP = "  "


def table(status: Mapping[str, Any]) -> str:
    """Write what an operator must know first, then pipelines, data keys and the last reload."""
    return "\n".join([*_words(status), *_pipelines(status), *_data_keys(status), *_reload(status)]) + "\n"


def _words(status: Mapping[str, Any]) -> Iterator[str]:
    for one in sentences(status):
        yield " ".join(part for part in (one["text"], one["then"], one["remedy"]) if part)


def _pipelines(status: Mapping[str, Any]) -> Iterator[str]:
    now = status["now"]
    rows = [
        (
            one["name"],
            one["mode"],
            one["state"],
            lasting(now - one["since"]),
            f"{one['rate']:,.0f}/s",
            "-" if one["lag"] is None else f"{one['lag']:,}",
            f"{one['held']}/{one['assigned']}",
            f"{one['records']:,}",
        )
        for one in status["pipelines"]
    ]
    yield from _aligned(("PIPELINE", "MODE", "STATE", "FOR", "RATE", "LAG", "WAITING", "RECORDS"), rows)


def _data_keys(status: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (
            one["topic"],
            one["id"],
            one["role"],
            lasting(one["age"]),
            "-" if one["messages"] is None else f"{one['messages']:,}",
            ", ".join(one["keks"]),
        )
        for one in status["data_keys"]
    ]
    if rows:
        yield from _aligned(("TOPIC", "DATA KEY", "ROLE", "AGE", "SEALED", "KEKS"), rows)


def _reload(status: Mapping[str, Any]) -> Iterator[str]:
    last = status.get("reload")
    if not last:
        return
    yield ""
    yield f"Configuration read again at {clock(last['at'], status['now'])}: {last['outcome']}"
    changes: dict[str, list[str]] = {}
    for name, change in last.get("pipelines", {}).items():
        changes.setdefault(change, []).append(name)
    yield from (f"{_GAP}{change}: {', '.join(names)}" for change, names in changes.items())
    yield from (f"{_GAP}{setting}: changed in place" for setting in last.get("settings", ()))
    yield from (f"{_GAP}{problem}" for problem in last.get("problems", ()))


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        yield _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
