"""Internal: events as log lines, metrics and health.

Importing this package loads neither structlog nor prometheus_client; its modules do.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamcrypt.events import Event, Observer

__all__ = ["fan_out"]


def fan_out(observers: Iterable[Observer]) -> Observer:
    """Make one observer that tells several, in order."""
    told = tuple(observers)

    def tell(event: Event) -> None:
        for observer in told:
            observer(event)

    return tell
