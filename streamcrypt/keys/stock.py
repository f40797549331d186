"""How many data keys are minted ahead: as many as are used up while one is minted. Pure: readings are passed in."""

from __future__ import annotations

from collections import deque
from statistics import median

__all__ = ["LARGEST", "StockSize"]

LARGEST = 16
"""Data keys in stock for one topic, at most; what may be minted in vain at the end, too."""
# A key that lived shorter than this leaves little time for a slow KMS: its successor's successor is minted at once.
_SHORT_LIFE = 20.0
# KMS takes longer than it mostly does for one call in some, and keys are used up faster for a while.
_MARGIN = 1.5
# A life below this is no rate: a few records in a burst, under a limit made for a test.
_SHORTEST = 0.02
# One call that hung is no latency.
_READINGS = 5
# The share of the last reading in the mean.
_WEIGHT = 0.25


class StockSize:
    """Learns the life of keys and the latency of the key service. Guarded by the issuer's lock.

    Attributes:
        is_short: Whether the last key was used up soon after it came into use.
    """

    __slots__ = ("_is_warm", "_latencies", "_life", "is_short")

    def __init__(self) -> None:
        self._life = 0.0
        self._latencies: deque[float] = deque(maxlen=_READINGS)
        self._is_warm = False
        self.is_short = False

    def lived(self, seconds: float) -> None:
        """Note for how long a key was in use."""
        self.is_short = seconds < _SHORT_LIFE
        # A rush is answered at once, a lull slowly: keys that wait cost no call.
        self._life = min(seconds, self._life + _WEIGHT * (seconds - self._life)) if self._life else seconds

    def took(self, seconds: float) -> None:
        """Note for how long the key service took; the first time it also connects, which says nothing."""
        if self._is_warm:
            self._latencies.append(seconds)
        self._is_warm = True

    def wanted(self, life: float | None = None) -> int:
        """Give how many keys should stand ready or be on their way, besides the one in use.

        Args:
            life: Seconds for which the one in use will last at this rate, where none was used up yet.
        """
        life = self._life or life
        if life is None or life >= _SHORT_LIFE:
            return 1
        latency = median(self._latencies) if self._latencies else 0.0
        return min(LARGEST, 1 + int(_MARGIN * latency / max(life, _SHORTEST)))
