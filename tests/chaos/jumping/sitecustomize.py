"""Loaded by a worker's interpreter at its start: clocks that jump when a file says so.

``CHAOS_CLOCK`` names a file of two doubles: seconds to add to the wall clock, and to the clock that counts suspend.
"""

from __future__ import annotations

import mmap
import os
import struct
import time


def _jump(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123 - nothing else is to be imported this early
        offsets = mmap.mmap(file.fileno(), 16, access=mmap.ACCESS_READ)
    wall, suspended = time.time, time.clock_gettime
    boottime = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def jumping_time() -> float:
        """The wall clock, moved."""
        return wall() + float(struct.unpack_from("<d", offsets, 0)[0])

    def jumping_clock_gettime(clock: int) -> float:
        """Any clock; the one that counts suspend is moved."""
        moved = struct.unpack_from("<d", offsets, 8)[0] if clock == boottime else 0.0
        return suspended(clock) + float(moved)

    time.time = jumping_time
    time.clock_gettime = jumping_clock_gettime


if path := os.environ.get("CHAOS_CLOCK"):
    _jump(path)
