"""What is read off a loop: wall time, CPU of the process and of its main thread, memory. One loop a process."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

__all__ = ["Meter", "rss_of"]

_MEGA = 1e6
_KIB = 1024
_PAGE = 4096


class Meter:
    """Measures from the end of the first batch to the commit after the last one.

    The first batch is left out on both sides: before it a consumer joins its group and connections are made, which
    is no part of a loop's speed.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float, float] | None = None
        self._last = (0.0, 0.0)
        self._skipped = 0
        self._memory: list[int] = []

    def batch(self, records: int) -> None:
        """Note that a batch went through; call it on the main thread."""
        if self._first is None:
            self._skipped = records
            self._first = (time.perf_counter(), time.process_time(), time.thread_time())

    def commit(self) -> None:
        """Note a commit; the last one ends the measurement."""
        self._last = (time.perf_counter(), time.process_time())
        self._memory.append(_resident())

    def read(self, records: int) -> dict[str, float]:
        """Give the figures; call it on the main thread, when all ``records`` are through.

        Raises:
            RuntimeError: No batch and no commit was noted.
        """
        thread = time.thread_time()
        if self._first is None or not self._memory:
            raise RuntimeError("the loop passed nothing or committed nothing")
        began, process, main = self._first
        counted = records - self._skipped
        return {
            "records_per_s": counted / (self._last[0] - began),
            "cpu_us": (self._last[1] - process) / counted * _MEGA,
            "main_us": (thread - main) / counted * _MEGA,
            # Steady: what is held between two commits once the queues have filled.
            "rss_steady_mb": statistics.median(self._memory[len(self._memory) // 2 :]) / _MEGA,
            "rss_peak_mb": _status("VmHWM", "self") * _KIB / _MEGA,
        }


def rss_of(pid: int) -> tuple[float, float]:
    """Give the resident and the highest resident memory of a process and its children, in MB.

    Raises:
        OSError: It has ended.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    members = [str(pid), *children]
    return tuple(sum(_status(name, one) for one in members) * _KIB / _MEGA for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _status(name: str, pid: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
