"""The circuit breaker of one KMS region: after a run of unavailable answers no call goes out but a probe now and then.

pybreaker keeps the states, the count and the threshold. Its ``call`` holds one lock for as long as a call takes, so
that one hang would queue every other, and its pause is fixed and read off the wall clock: who is let through, and
when, is decided here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pybreaker

from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import BreakerClosed, BreakerOpened, Event, Observer

__all__ = ["FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS", "OPENS_AFTER", "RegionBreaker"]

OPENS_AFTER = 5
"""Unavailable answers in a row: at 10 % throttling it opens once in 100,000 calls, in an outage after two records."""
FIRST_PAUSE_SECONDS = 1.0
"""Pause before the first probe; each failed probe doubles it. The true pause is 50 to 100 % of it, by chance."""
LONGEST_PAUSE_SECONDS = 30.0
"""A fleet notices within half a minute that KMS is back, and costs it at most four calls a minute each until then."""


class RegionBreaker:
    """Counts the answers of a region and refuses calls while it is away. Safe to share between threads.

    Only :class:`KeyUnavailable` counts against the region: refusals and faults of the record are answers like any.

    Args:
        region: Its name, for events and errors.
        clock: Returns seconds and only goes forward.
        observer: Told when it opens and closes. It is called without the lock.
    """

    def __init__(self, region: str, clock: Callable[[], float], observer: Observer) -> None:
        self._region = region
        self._clock = clock
        self._observer = observer
        self._lock = threading.Lock()
        # Raising an error of its own would hide which one tripped it.
        self._states = pybreaker.CircuitBreaker(fail_max=OPENS_AFTER, throw_new_error_on_trip=False)
        self._probe_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._opened_at = 0.0
        self._opened_wall = 0.0

    @property
    def closed(self) -> bool:
        """Whether calls go through freely."""
        return bool(self._states.current_state == pybreaker.STATE_CLOSED)

    @property
    def admits(self) -> bool:
        """Whether a call would be let through now: it is closed, or its next probe is due."""
        state = self._states.current_state
        due = state == pybreaker.STATE_OPEN and self._clock() >= self._probe_at
        return bool(state == pybreaker.STATE_CLOSED or due)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Let one call through, and count how it ends.

        Raises:
            KeyUnavailable: The breaker is open; the call is not to be made.
        """
        probe = self._admit()
        try:
            yield
        except KeyUnavailable as error:
            self._settle(probe=probe, outcome=type(error))
            raise
        except Exception:
            self._settle(probe=probe)
            raise
        except BaseException:
            # An interrupt says nothing of KMS: the next caller probes.
            self._settle(probe=probe, outcome=KeyboardInterrupt)
            raise
        else:
            self._settle(probe=probe)

    def _admit(self) -> bool:
        with self._lock:
            state = self._states.current_state
            if state == pybreaker.STATE_CLOSED:
                return False
            if state == pybreaker.STATE_OPEN and self._clock() >= self._probe_at:
                self._states.half_open()
                return True
            raise self._refusal()

    def _refusal(self) -> KeyUnavailable:
        since = datetime.fromtimestamp(self._opened_wall, UTC).isoformat(timespec="seconds")
        left = max(0.0, self._probe_at - self._clock())
        return KeyUnavailable(
            f"KMS in {self._region}: circuit breaker open since {since}, next probe in {left:.1f} s",
            remedy="KMS did not answer several times in a row; streamcrypt probes it by itself.",
        )

    def _settle(self, *, probe: bool, outcome: type[BaseException] | None = None) -> None:
        event: Event | None = None
        with self._lock:
            state = self._states.current_state
            # A call from before it opened has nothing to say about the time after.
            if probe or state == pybreaker.STATE_CLOSED:
                event = self._count(state, outcome)
        if event is not None:
            self._observer(event)

    def _count(self, before: str, outcome: type[BaseException] | None) -> Event | None:
        if outcome is KeyboardInterrupt:
            if before == pybreaker.STATE_HALF_OPEN:
                self._states.open()
            return None
        with suppress(_UnavailableError):
            self._states.call(_end, outcome)
        after, now = self._states.current_state, self._clock()
        if after == pybreaker.STATE_OPEN:
            first = before == pybreaker.STATE_CLOSED
            self._pause = FIRST_PAUSE_SECONDS if first else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            # By chance, so that a fleet which lost KMS together does not probe together.
            pause = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 - spread, no secret
            self._probe_at = now + pause
            if first:
                self._opened_at, self._opened_wall = now, time.time()
                return BreakerOpened(self._region, OPENS_AFTER, pause)
        elif before == pybreaker.STATE_HALF_OPEN:
            return BreakerClosed(self._region, now - self._opened_at)
        return None


class _UnavailableError(Exception):
    """Stands for an unavailable answer: the answer's own error would be raised twice, and gather tracebacks."""


def _end(outcome: type[BaseException] | None) -> None:
    if outcome is not None:
        raise _UnavailableError
