"""How a process that does nothing but pass records looks for cyclic garbage: seldom."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collecting_seldom"]

# A batch of 1,000 records makes some 3,000 objects that the collector counts, and nearly all of them go by reference
# counting. Looked through every 700, as by default, they cost a fifth of the loop's time, and more the more records
# are in hand. Cycles (an exception and its frames) are a few hundred bytes, and still go within seconds under load.
_YOUNG = 50_000
_MIDDLE = 20
_OLD = 50


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """Look for cyclic garbage seldom meanwhile, and not at all through what the start has loaded.

    For a process that passes records, once everything is imported and composed; in each worker process anew. A library
    must not: how garbage is collected is the application's affair.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
