"""Settings of the documented configuration that this version knows but cannot do yet.

They are refused by name: a setting that were ignored would promise what nobody keeps. An entry is deleted here when
its setting begins to work; nothing else has to change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["NOT_YET", "NotYet"]


@dataclass(frozen=True, slots=True)
class NotYet:
    """Which values of a setting are not delivered yet, and what to write meanwhile."""

    applies: Callable[[Any], bool]
    message: str
    remedy: str


# Section and field, as in model.py.
NOT_YET: dict[str, NotYet] = {
    "settings.workers": NotYet(
        lambda value: value > 1,
        "several worker processes are not delivered yet",
        "Write 'workers: 1' and start more containers: each is one member of the consumer group.",
    ),
}
