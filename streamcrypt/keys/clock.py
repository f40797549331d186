"""The clock by which data keys age: it counts the time a host was suspended, and nobody can set it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

__all__ = ["Clock", "boottime"]

Clock = Callable[[], float]
"""Gives seconds since some fixed moment."""

boottime: Clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""CLOCK_BOOTTIME where the system has it: CLOCK_MONOTONIC stands still in suspend on Linux."""
