"""What the sparklines of the status page are drawn from: one number for each of the last seconds, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["SECONDS", "Counts", "Levels", "added"]

SECONDS = 120
"""How far back a series goes: two minutes show whether it just broke or just recovered."""


class Counts:
    """Adds up what happens, second by second, for the last :data:`SECONDS`. Not safe for several threads by itself."""

    __slots__ = ("_counts", "_newest")

    def __init__(self) -> None:
        self._counts = [0] * SECONDS
        self._newest = 0

    def add(self, second: int, count: int) -> None:
        """Count something in a second, as of the Unix clock. A clock that was set back counts into the newest."""
        self._advance(second)
        self._counts[self._newest % SECONDS] += count

    def _advance(self, second: int) -> None:
        for slot in range(max(self._newest + 1, second - SECONDS + 1), second + 1):
            self._counts[slot % SECONDS] = 0
        self._newest = max(self._newest, second)

    def until(self, second: int) -> list[int]:
        """Give the counts of the :data:`SECONDS` that end with ``second``, oldest first."""
        self._advance(second)
        end = self._newest + 1
        return [self._counts[slot % SECONDS] for slot in range(end - SECONDS, end)]


class Levels:
    """Keeps how high something stood in each of the last :data:`SECONDS`; it stays so until something else is said."""

    __slots__ = ("_levels", "_newest")

    def __init__(self) -> None:
        self._levels: list[int | None] = [None] * SECONDS
        self._newest = 0

    def set(self, second: int, level: int | None) -> None:
        """Note the level from this second on; None: it is not known."""
        self._advance(second)
        self._levels[self._newest % SECONDS] = level

    def _advance(self, second: int) -> None:
        last = self._levels[self._newest % SECONDS]
        for slot in range(max(self._newest + 1, second - SECONDS + 1), second + 1):
            self._levels[slot % SECONDS] = last
        self._newest = max(self._newest, second)

    def until(self, second: int) -> list[int | None]:
        """Give the levels of the :data:`SECONDS` that end with ``second``, oldest first."""
        self._advance(second)
        end = self._newest + 1
        return [self._levels[slot % SECONDS] for slot in range(end - SECONDS, end)]


def added(parts: Iterable[Mapping[str, Any]], name: str) -> list[int | None]:
    """Add series of several processes, second by second.

    Args:
        parts: Objects with ``until``, the second that their series end with, and the series.
        name: Which series.
    """
    known = [(int(part["until"]), part[name]) for part in parts]
    end = max(until for until, _ in known)
    total: list[int | None] = [None] * SECONDS
    for until, series in known:
        for place, number in enumerate(series, SECONDS - len(series) - (end - until)):
            if number is not None and place >= 0:
                total[place] = (total[place] or 0) + number
    return total
