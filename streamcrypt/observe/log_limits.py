"""Lines that repeat: the first few of a kind are written, the rest counted. Pure but for the clock it is given."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

__all__ = ["BURST", "KINDS", "WINDOW", "Kind", "Repeats", "Suppressed"]

BURST = 10
"""Lines of a kind in a window: enough to see a rhythm, few enough to read."""
WINDOW = 60.0
"""Seconds: an alert on a line that goes on sees it again within a minute."""
KINDS = 1_000
"""Kinds remembered at once, about 1 MB: more than a process has partitions in trouble."""

Kind = tuple[Hashable, ...]


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What was left out of a window. ``lines`` of this ``kind``, in ``seconds`` from its first line on."""

    kind: Kind
    lines: int
    seconds: float


@dataclass(slots=True)
class _Window:
    began: float
    written: int = 0
    left_out: int = 0


class Repeats:
    """Says of each line whether it is written, and of each window what it left out. Thread-safe.

    A window begins with the first line of its kind and lasts ``window`` seconds; the next line after it begins
    another. So a kind writes at most ``burst`` lines, and one that counts the rest, in any window.

    Args:
        clock: Returns seconds, monotonic.
        burst: Lines of a kind written in a window.
        window: Its length in seconds.
        kinds: How many windows are open at once; beyond it the oldest ends early.
    """

    def __init__(
        self, clock: Callable[[], float], burst: int = BURST, window: float = WINDOW, kinds: int = KINDS
    ) -> None:
        self._clock = clock
        self._burst, self._window, self._kinds = burst, window, kinds
        self._lock = threading.Lock()
        self._open: OrderedDict[Kind, _Window] = OrderedDict()
        self._first_end = float("inf")

    def admits(self, kind: Kind) -> bool:
        """Count a line of this kind; say whether it is written. Call :meth:`ended` before, and write what it gives."""
        now = self._clock()
        with self._lock:
            window = self._open.get(kind)
            if window is None:
                window = self._open[kind] = _Window(now)
                self._first_end = min(self._first_end, now + self._window)
            if window.written < self._burst:
                window.written += 1
                return True
            window.left_out += 1
            return False

    def ended(self) -> Sequence[Suppressed]:
        """Close the windows that are over, and the oldest where there are too many; give what they left out."""
        now = self._clock()
        if now < self._first_end and len(self._open) < self._kinds:
            return ()
        with self._lock:
            return self._close(lambda window: window.began + self._window <= now, now)

    def close(self) -> Sequence[Suppressed]:
        """Close every window, at the end of a process; give what they left out."""
        with self._lock:
            return self._close(lambda _window: True, self._clock())

    def _close(self, is_over: Callable[[_Window], bool], now: float) -> list[Suppressed]:
        found = []
        # In the order of their beginnings, so that the first that is not over ends the search.
        while self._open:
            kind, window = next(iter(self._open.items()))
            if not is_over(window) and len(self._open) < self._kinds:
                break
            del self._open[kind]
            if window.left_out:
                found.append(Suppressed(kind, window.left_out, round(now - window.began, 3)))
        oldest = next(iter(self._open.values()), None)
        self._first_end = oldest.began + self._window if oldest else float("inf")
        return found
