"""Doubles of the two things that every component is handed: a clock and an observer."""

from __future__ import annotations

import threading
from typing import TypeVar

from streamcrypt.events import Event

__all__ = ["CollectingObserver", "ManualClock"]

_E = TypeVar("_E", bound=Event)


class ManualClock:
    """A clock that moves only when told to: a callable that returns seconds.

    Args:
        start: The first reading in seconds. Not 0 by default, so that a forgotten offset shows.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        self._lock = threading.Lock()
        self._now = start

    def __call__(self) -> float:
        """Return the current reading in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``. A negative number is a clock jump backwards."""
        with self._lock:
            self._now += seconds


class CollectingObserver:
    """An observer that keeps every event in order. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Keep ``event``."""
        with self._lock:
            self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """A copy of all events so far, oldest first."""
        with self._lock:
            return list(self._events)

    def of(self, kind: type[_E]) -> list[_E]:
        """Return the events of one type, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]

    def clear(self) -> None:
        """Forget all events."""
        with self._lock:
            self._events.clear()
