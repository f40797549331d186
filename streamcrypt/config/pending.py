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


def _given(value: Any) -> bool:
    return value is not None and value != ()


def _is(*values: object) -> Callable[[Any], bool]:
    return lambda value: value in values


def _is_template(keys: tuple[str, ...]) -> bool:
    return any("{" in key for key in keys)


def _several_or_template(keys: tuple[str, ...] | None) -> bool:
    return keys is not None and (len(keys) > 1 or _is_template(keys))


# Section and field, as in model.py.
NOT_YET: dict[str, NotYet] = {
    "settings.workers": NotYet(
        lambda value: value > 1,
        "several worker processes are not delivered yet",
        "Write 'workers: 1' and start more containers: each is one member of the consumer group.",
    ),
    "keys.key_id": NotYet(
        _several_or_template,
        "several key ids, and key id templates, are not delivered yet",
        "Name one key: an ARN, an alias ARN or an alias.",
    ),
    "keys.require": NotYet(
        _given, "'require' goes with several key ids, which are not delivered yet", "Remove this line."
    ),
    "keys.regions": NotYet(
        _given, "further regions are not delivered yet", "Remove this line and name one region in 'region'."
    ),
    "pipelines.mode": NotYet(
        _is("reencrypt"), "mode 'reencrypt' is not delivered yet", "Write 'mode: encrypt' or 'mode: decrypt'."
    ),
    "pipelines.how": NotYet(
        _given, "'how' goes with mode 'reencrypt', which is not delivered yet", "Remove this line."
    ),
}
