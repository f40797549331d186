"""How many CPUs this process may use: the least of its affinity and of the quotas of its control groups.

``os.cpu_count()`` counts those of the host, of which a container may have a fraction.
Sources: Linux Documentation/admin-guide/cgroup-v2.rst (``cpu.max``), cgroup-v1/cpu (``cpu.cfs_quota_us``), cgroups(7).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["usable_cpus"]

_V1_CONTROLLER = "cpu"


def usable_cpus(root: Path = Path("/")) -> int:
    """Give the number of whole CPUs that this process may use, at least 1.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Rounded down: a second worker on half a CPU is throttled, and its partitions with it.
    return max(1, int(min([float(affinity), *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Give each quota on the way from our control group to the outermost: a child's may be wider than its parent's."""
    for base, group in _groups(root):
        # Inside a container's own namespace the path is "/"; without one, the directory may not be there to see.
        for inner in (PurePosixPath(group), *PurePosixPath(group).parents):
            directory = base / str(inner).lstrip("/.")
            quota = _quota_v2(directory) or _quota_v1(directory)
            if quota is not None:
                yield quota


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield mounted, group
        elif _V1_CONTROLLER in controllers.split(","):
            yield mounted / controllers, group
            yield mounted / _V1_CONTROLLER, group


def _quota_v2(directory: Path) -> float | None:
    quota, _, period = _read(directory / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(directory: Path) -> float | None:
    return _ratio(_read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        found = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file
    return found if found > 0 else None  # -1 stands for none


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
