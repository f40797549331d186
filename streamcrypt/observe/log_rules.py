"""Rules of the log beside its table of lines: levels that depend on the event, and what counts as a repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.observe.log_foreign import EXCEPTION_EVENT, LIBRARY_EVENT, Level
from streamcrypt.observe.log_limits import Kind

__all__ = ["ALIKE", "LEVEL_EVENT", "OTHER_LINES", "RAISED", "SUPPRESSED_EVENT", "kind_of", "raised_level"]

RAISED: Mapping[type[Event], tuple[Level, Callable[[Any], bool]]] = {
    # KeyUnavailable mends itself; whatever else a partition waits for, an operator must give.
    events.PartitionPaused: ("error", lambda event: event.error != "KeyUnavailable"),
    events.DataKeyMintFailed: ("error", lambda event: not event.retriable),
    events.PipelineStopped: ("warning", lambda event: not event.clean),
    events.ReencryptionVerified: ("error", lambda event: not event.passed),
}
"""Event class to the level that its line has instead where the condition holds."""

ALIKE: Mapping[type[Event], tuple[str, ...]] = {
    events.DataKeyMintFailed: ("topic", "error"),
    events.DataKeyWrappedForFewer: ("topic", "missing"),
    events.DataKeyOpened: ("topic", "data_key"),
    events.DataKeyGraceBegan: ("topic", "reason"),
    events.DataKeyGraceEnded: ("topic", "outcome"),
    events.PartitionPaused: ("pipeline", "topic", "partition", "error"),
    events.PartitionResumed: ("pipeline", "topic", "partition"),
    events.RecordFailed: ("pipeline", "topic", "partition", "error", "action"),
    events.KafkaClientError: ("pipeline", "client", "code"),
    events.CommitFailed: ("pipeline", "code"),
    events.UnitGivenUp: ("pipeline", "code"),
    events.SequenceFound: ("kind", "pipeline", "topic", "partition"),
    events.PlaintextPassed: ("pipeline", "topic", "partition"),
    events.RecordDiffers: ("pipeline", "topic", "partition", "what"),
}
"""Event class to the fields by which its lines count as repeats; the lines of other events are all written."""

# Whose record has a dead letter, or goes to the caller. The others end a pipeline, or leave no trace but their line.
_LIMITED_ACTIONS = frozenset({"dead_letter", "return"})

SUPPRESSED_EVENT = "log.suppressed"
LEVEL_EVENT = "log.level_changed"

OTHER_LINES: Mapping[str, tuple[frozenset[Level], frozenset[str]]] = {
    LIBRARY_EVENT: (
        frozenset({"debug", "warning", "error"}),
        frozenset({"logger", "message", "error", "client", "facility"}),
    ),
    EXCEPTION_EVENT: (frozenset({"error"}), frozenset({"thread", "error", "detail", "frames"})),
    SUPPRESSED_EVENT: (
        frozenset({"debug", "info", "warning", "error"}),
        frozenset({"suppressed", "alike", "lines", "seconds"}),
    ),
    LEVEL_EVENT: (frozenset({"warning"}), frozenset({"before", "after"})),
}
"""Lines that are no events: name to the levels and fields that they may have."""


def raised_level(event: Event) -> Level | None:
    """Give the level that this event has instead of its usual one; None where it has that."""
    level, is_so = RAISED.get(type(event), (None, bool))
    return level if level is not None and is_so(event) else None


def kind_of(event: Event) -> Kind | None:
    """Give what makes another event of its class a repeat; None where each is written."""
    names = ALIKE.get(type(event))
    if names is None or (isinstance(event, events.RecordFailed) and event.action not in _LIMITED_ACTIONS):
        return None
    return tuple(getattr(event, name) for name in names)
