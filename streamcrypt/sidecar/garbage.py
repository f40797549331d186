"""How a process that does nothing but pass records looks for cyclic garbage: seldom."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collect_at_leisure", "collecting_seldom"]

# A batch of 1,000 records makes some 3,000 objects that the collector counts, and nearly all of them go by reference
# counting. Looked through every 700, as by default, they cost a fifth of the loop's time, and more the more records
# are in hand. Cycles (an exception and its frames) are a few hundred bytes, and still go within seconds under load.
_YOUNG = 50_000
_MIDDLE = 20
_OLD = 50
# Seconds. Where nothing passes, nearly nothing is made, and those thresholds are not met for days; but each try of a
# partition that waits leaves an exception behind, and with it records.
_AT_LEISURE = 30.0


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Look for cyclic garbage seldom meanwhile, and not at all through what the start has loaded.

    For a process that passes records, once everything is imported and composed; in each worker process anew. A library
    must not: how garbage is collected is the application's affair.
    """
    global _looked_at  # noqa: PLW0603  the collector is the process's own too
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    _looked_at = time.monotonic()
    try:
        yield
    finally:
        _looked_at = None
        gc.set_threshold(*before)
        gc.unfreeze()


_looked_at: float | None = None


def collect_at_leisure() -> None:
    """Look for cycles now, where this process collects seldom and has not looked for half a minute.

    For a loop in which nothing passes: it takes some 10 ms.
    """
    global _looked_at  # noqa: PLW0603  as above
    now = time.monotonic()
    if _looked_at is not None and now - _looked_at >= _AT_LEISURE:
        _looked_at = now
        gc.collect()
