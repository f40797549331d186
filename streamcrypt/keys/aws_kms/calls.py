"""How KMS is called: one retry budget per operation, one retry allowance and one circuit breaker per region.

The only importer of tenacity, and with ``breaker`` of pybreaker; both are loaded at the first call. botocore's own
retries are off: it would retry inside each of ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import Observer
from streamcrypt.keys.aws_kms.breaker import RegionBreaker

__all__ = ["ATTEMPTS", "BUDGET_SECONDS", "RETRY_BURST", "RETRY_SHARE", "RegionCalls", "RetryAllowance"]

_T = TypeVar("_T")

ATTEMPTS = 3
"""Attempts of one operation, the first included."""
BUDGET_SECONDS = 2.0
"""No attempt of an operation begins later than this after its first."""
RETRY_SHARE = 0.2
"""Retries per operation of a region, in the long run: a throttled fleet adds a fifth to its load, not two times."""
RETRY_BURST = 10
"""Retries at hand after quiet times: a passing fault of several threads at once is not seen."""
# Full jitter: the wait before the second attempt is 0 to 0.2 s by chance, before the third 0 to 0.4 s.
_FIRST_WAIT = 0.2
_LONGEST_WAIT = 0.8


class RetryAllowance:
    """How many retries a region is still good for: a token bucket filled by operations, not by time.

    Safe to share between threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = float(RETRY_BURST)

    def earn(self) -> None:
        """Count one operation."""
        with self._lock:
            self._tokens = min(float(RETRY_BURST), self._tokens + RETRY_SHARE)

    def spend(self) -> bool:
        """Take one retry; False where none is left."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


class RegionCalls:
    """All operations on KMS in one region. Safe to share between threads.

    Args:
        region: Its name.
        clock: Returns seconds and only goes forward; for the breaker's pauses.
        observer: Told when the breaker opens and closes.
        sleep: Waits before a retry; a test may pass one that only counts.
    """

    def __init__(
        self,
        region: str,
        clock: Callable[[], float],
        observer: Observer,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.breaker = RegionBreaker(region, clock, observer)
        self.allowance = RetryAllowance()
        self._sleep = sleep

    def run(self, attempt: Callable[[], _T]) -> _T:
        """Make one operation: ``attempt`` once, and again while a retry helps and may be made.

        Raises:
            KeyUnavailable: From the last attempt, or because the breaker is open.
            StreamcryptError: Whatever else ``attempt`` raised; that ends it at once.
        """
        self.allowance.earn()
        # Made anew each time: tenacity keeps what an attempt gave, and that may be a data key.
        retrying = Retrying(
            sleep=self._sleep,
            stop=stop_any(stop_after_attempt(ATTEMPTS), stop_before_delay(BUDGET_SECONDS), _NoMore(self)),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            retry=retry_if_exception_type(KeyUnavailable),
            reraise=True,
        )
        answer: _T = retrying(self._once, attempt)
        return answer

    def _once(self, attempt: Callable[[], _T]) -> _T:
        with self.breaker.watch():
            return attempt()


class _NoMore(stop_base):
    """Ends an operation where the region is away or has no retry left."""

    def __init__(self, calls: RegionCalls) -> None:
        self._calls = calls

    def __call__(self, retry_state: RetryCallState) -> bool:  # noqa: ARG002 - tenacity's signature
        # Asked last, so that a token is taken only for a retry that will be made.
        return not self._calls.breaker.closed or not self._calls.allowance.spend()
