"""How families of metrics are made. The only importer of prometheus_client beside the HTTP server.

Rule 1: one process and several are served by the same families. Of several worker processes only plain values are
merged: no ``set_function``, no ``Info``, no collector of our own, and no series is removed there.
Rule 2: a family whose values have a unit says so, and its name ends in it (OpenMetrics 1.0, "Units and Base Units").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

__all__ = ["PREFIX", "Counter", "Families", "Gauge", "Handler", "Histogram", "Merge"]

PREFIX = "streamcrypt_"

Handler = Callable[[Any], None]

Merge = Literal["livesum", "livemax", "livemin", "livemostrecent"]
"""How one gauge is made of those of several worker processes; one of a process that died counts no more."""


class Families:
    """Makes families, and their names complete.

    Attributes:
        registry: Where they are registered.
        merges: Name of a gauge to what several workers make of it.
        merged: Whether this process is one of several whose values are merged; decided when prometheus_client is
            imported.
    """

    def __init__(self) -> None:
        # When a series began is one series more for each, and workers would not have them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
        self.registry = CollectorRegistry()
        self.merges: dict[str, Merge] = {}
        self.merged = "PROMETHEUS_MULTIPROC_DIR" in os.environ

    def counter(self, name: str, text: str, *labels: str, unit: str = "") -> Counter:
        """Make a counter; ``_total`` is added to its name."""
        return Counter(PREFIX + name, text, labels, unit=unit, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str, unit: str = "", merge: Merge = "livesum") -> Gauge:
        """Make a gauge, and say what several workers make of it."""
        self.merges[PREFIX + name] = merge
        return Gauge(PREFIX + name, text, labels, unit=unit, registry=self.registry, multiprocess_mode=merge)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        """Make a histogram of seconds."""
        return Histogram(PREFIX + name, text, labels, unit="seconds", buckets=buckets, registry=self.registry)

    def drop(self, gauge: Gauge, *labels: str, instead: float = 0.0) -> None:
        """Remove a series that has no meaning any more; where values are merged it can only be set to ``instead``."""
        if self.merged:
            gauge.labels(*labels).set(instead)
        else:
            gauge.remove(*labels)
