"""Events as Prometheus metrics. Their reference, and what a bad value means, is docs/metrics.md.

Labels are names from the configuration, Kafka topics and partitions, regions, and outcomes out of closed sets; none
comes from a record's content or from its envelope, so that nobody who can write a record can multiply time series.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamcrypt.events import Event
from streamcrypt.observe.metrics.families import Families, Handler
from streamcrypt.observe.metrics.keys import KeyMetrics
from streamcrypt.observe.metrics.pipelines import PipelineMetrics
from streamcrypt.observe.metrics.records import RecordMetrics

__all__ = ["Metrics"]


class Metrics:
    """An observer that counts. Safe to call from several threads.

    Several worker processes count together where each has ``PROMETHEUS_MULTIPROC_DIR`` in its environment before this
    module is imported; the one that serves the port then merges their files.

    Attributes:
        registry: Its own registry, never the global one, so that two can live in one process.
        merges: Name of a gauge to what several workers make of it.
        handlers: What is done with each event: one lookup for an event, and a test proves that none is missing.
    """

    def __init__(self) -> None:
        families = Families()
        self.registry, self.merges = families.registry, families.merges
        handlers: dict[type[Event], Handler] = {}
        for part in (RecordMetrics(families), KeyMetrics(families), PipelineMetrics(families)):
            for kind, handle in part.handlers.items():
                handlers[kind] = _both(handlers[kind], handle) if kind in handlers else handle
        self.handlers: Mapping[type[Event], Handler] = handlers

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self.handlers[type(event)](event)


def _both(first: Handler, second: Handler) -> Handler:
    def handle(event: Event) -> None:
        first(event)
        second(event)

    return handle
