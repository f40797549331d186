"""How many records a second may be read: a token bucket, filled by time."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace"]

# Twenty times a second is smooth enough for any consumer, and keeps batches long at high rates.
_PORTION = 0.05
# What may be caught up with after a pause, in seconds of the rate.
_BURST = 0.25


class Pace:
    """A limit on records a second.

    Args:
        rate: Records a second.
        clock: Returns seconds and only goes forward.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._tokens = 0.0
        self._at = clock()

    def room(self, most: int, seconds: float) -> int:
        """Wait until a portion of records may be read, and say how many may be, at most ``most``.

        Args:
            most: As many as are wanted.
            seconds: How long to wait; the answer may be 0 then.
        """
        portion = min(float(most), max(1.0, self._rate * _PORTION))
        lacking = (portion - self._filled()) / self._rate
        if lacking > 0:
            self._sleep(min(lacking, seconds))
            if lacking > seconds:
                return 0
        return min(most, max(1, int(self._filled())))

    def spend(self, records: int) -> None:
        """Note that records were read."""
        self._tokens = self._filled() - records

    def _filled(self) -> float:
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._at) * self._rate, max(1.0, self._rate * _BURST))
        self._at = now
        return self._tokens
