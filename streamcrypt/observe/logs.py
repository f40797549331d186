"""Events as log lines: one JSON object a line on stderr, or text for people. The only importer of structlog.

docs/events.md lists every line: its name, level and fields; tests hold the tables here against it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import fields
from types import TracebackType
from typing import Any, Literal, Self, TextIO, cast

import structlog

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.observe.log_foreign import LIBRARY_EVENT, FoldIn, Level
from streamcrypt.observe.log_limits import Kind, Repeats, Suppressed
from streamcrypt.observe.log_rules import ALIKE, LEVEL_EVENT, SUPPRESSED_EVENT, kind_of, raised_level

__all__ = ["LIBRARY_EVENT", "LINES", "Level", "LogObserver", "Logs"]

LINES: Mapping[type[Event], tuple[str, Level]] = {
    events.DataKeyMinted: ("data_key.minted", "info"),
    events.DataKeyWrappedForFewer: ("data_key.wrapped_for_fewer", "warning"),
    events.DataKeyRetired: ("data_key.retired", "info"),
    events.DataKeyMintFailed: ("data_key.mint_failed", "warning"),
    events.DataKeyOpened: ("data_key.opened", "info"),
    # What it means for a record or a partition is told by record.failed and partition.paused.
    events.DataKeyRefused: ("data_key.refused", "debug"),
    events.DataKeyDropped: ("data_key.dropped", "debug"),
    events.DataKeyRewrapped: ("data_key.rewrapped", "info"),
    events.DataKeyGraceBegan: ("data_key.grace_began", "warning"),
    events.DataKeyGraceEnded: ("data_key.grace_ended", "warning"),
    events.DataKeyBudgetSpent: ("data_key.budget_spent", "warning"),
    events.BreakerOpened: ("key_service.breaker_opened", "warning"),
    events.BreakerClosed: ("key_service.breaker_closed", "warning"),
    # At the default level: each line of CloudTrail is to find its partner here. It is one for a data key, not a record.
    events.KeyServiceCalled: ("key_service.called", "info"),
    events.KeyAliasMoved: ("key_service.alias_moved", "warning"),
    events.DevelopmentKeyInUse: ("key_service.development_key", "warning"),
    events.PipelineStarting: ("pipeline.starting", "info"),
    events.PipelineReady: ("pipeline.ready", "info"),
    events.PipelineStopped: ("pipeline.stopped", "info"),
    events.PipelineFailed: ("pipeline.failed", "error"),
    events.PartitionsAssigned: ("partitions.assigned", "info"),
    events.PartitionsRevoked: ("partitions.revoked", "info"),
    events.PartitionsLost: ("partitions.lost", "warning"),
    events.PartitionPaused: ("partition.paused", "warning"),
    # An end has the level of its beginning, so that a log at warning tells of both.
    events.PartitionResumed: ("partition.resumed", "warning"),
    events.RecordFailed: ("record.failed", "error"),
    events.BatchDone: ("batch.done", "debug"),
    events.OffsetsCommitted: ("offsets.committed", "debug"),
    events.PipelineRestarting: ("pipeline.restarting", "warning"),
    events.LoopTurned: ("pipeline.turned", "debug"),
    events.SourcesChanged: ("pipeline.sources_changed", "info"),
    events.KafkaClientError: ("kafka.client_error", "warning"),
    events.BrokerRefused: ("kafka.access_refused", "error"),
    events.BrokerTokenFailed: ("kafka.token_failed", "error"),
    events.CommitFailed: ("offsets.commit_failed", "warning"),
    events.UnitGivenUp: ("unit.given_up", "warning"),
    events.SequenceFound: ("sequence.found", "error"),
    events.ReencryptionPlanned: ("reencryption.planned", "info"),
    events.ReencryptionProgress: ("reencryption.progress", "info"),
    events.ReencryptionVerified: ("reencryption.verified", "info"),
    events.RecordDiffers: ("record.differs", "error"),
    events.PlaintextPassed: ("record.plaintext_passed", "warning"),
    events.LagMeasured: ("pipeline.lag", "debug"),
    events.DataKeysInUse: ("data_key.in_use", "debug"),
    events.DataKeysHeld: ("data_key.held", "debug"),
    events.BrokersAnswered: ("kafka.brokers_answered", "debug"),
    events.HTTPUnprotected: ("http.unprotected", "warning"),
    events.WorkerStarted: ("worker.started", "info"),
    events.WorkerRestarting: ("worker.restarting", "warning"),
    # A sidecar that stands still on purpose must not look like one that is broken.
    events.PipelinePaused: ("pipeline.paused", "warning"),
    events.PipelineResumed: ("pipeline.resumed", "warning"),
    events.PipelineReloaded: ("pipeline.reloaded", "info"),
    events.ConfigReloaded: ("config.reloaded", "warning"),
    events.ConfigRefused: ("config.refused", "error"),
    events.ControlAsked: ("control.asked", "info"),
    events.ControlUnavailable: ("control.unavailable", "warning"),
}
"""Event class to the name and level of its line. Names are stable: alerts are built on them."""

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in LINES}
_LEVELS: Mapping[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_ALIKE_NAMES = {LINES[kind][0]: names for kind, names in ALIKE.items()} | {LIBRARY_EVENT: ("logger",)}


class LogObserver:
    """Writes one line for every event. See :data:`LINES` and ``log_rules``.

    Args:
        logs: Where to.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def __call__(self, event: Event) -> None:
        """Write the event's line."""
        name, level = LINES[type(event)]
        level = raised_level(event) or level
        if not self._logs.shows(level):
            return
        # A poisoned topic has this for every record: what is left out is not put into words before.
        if self._logs.admits(name, level, kind_of(event)):
            self._logs.say(name, level, {field: _plain(field, getattr(event, field)) for field in _FIELDS[type(event)]})


def _plain(name: str, value: Any) -> Any:
    if name == "context":
        return dict(value)
    if name == "partitions" and isinstance(value, tuple):
        by_topic: dict[str, list[int]] = {}
        for topic, partition in value:
            by_topic.setdefault(topic, []).append(partition)
        return by_topic
    return value


class Logs:
    """The log of a process: our lines, and what foreign libraries say, at levels that mean something.

    A context manager: while it is entered it listens to :mod:`logging`, to Python's warnings and to exceptions that
    nobody catches on a thread; what it changed for that is undone at the end.

    A line that repeats is written ten times a minute and then counted, see ``log_rules.ALIKE``; the count comes as
    ``log.suppressed`` once the minute is over.

    Args:
        level: The lowest level shown; default ``info``.
        style: ``json`` (default): one object a line with ``timestamp`` (RFC 3339, UTC), ``level``, ``event`` first;
            ``console``: text for people.
        stream: Where to; default stderr as it is now.
        always: Fields that every line has, such as the number of a worker.
        clock: Returns seconds, for the limit on repeats; default ``time.monotonic``.

    .. danger:: DEBUG of botocore is not shown at any level: it writes KMS answers, and so data keys in clear.
    """

    def __init__(
        self,
        level: Level = "info",
        style: Literal["json", "console"] = "json",
        stream: TextIO | None = None,
        *,
        always: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        renderer: Any = structlog.processors.JSONRenderer(default=str)
        if style == "console":
            renderer = structlog.dev.ConsoleRenderer(colors=False)
        self._logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            structlog.WriteLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _head_first,
                renderer,
            ],
            # The level is looked at in `write`, so that it can change.
            wrapper_class=structlog.make_filtering_bound_logger(0),
            cache_logger_on_first_use=True,
        )
        self._always = dict(always or {})
        self._level: Level = level
        self._threshold = _LEVELS[level]
        self._repeats = Repeats(clock)
        self._fold_in = FoldIn(self.write)
        self._listens = False

    def __enter__(self) -> Self:
        self._fold_in.install(self._level)
        self._listens = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listens = False
        self._fold_in.uninstall()
        self._tell(self._repeats.close())

    @property
    def level(self) -> Level:
        """The lowest level shown now."""
        return self._level

    def set_level(self, level: Level) -> None:
        """Show lines from this level on, from now on, and have the libraries follow. Safe on any thread.

        The change itself is a line, at warning: a log that falls silent must say why.
        """
        before = self._level
        if level == before:
            return
        changed = {"before": before, "after": level}
        if _LEVELS[level] > self._threshold:
            self.write(LEVEL_EVENT, "warning", changed)
        self._level, self._threshold = level, _LEVELS[level]
        if _LEVELS[level] < _LEVELS[before]:
            self.write(LEVEL_EVENT, "warning", changed)
        if self._listens:
            self._fold_in.listen(level)

    def observer(self) -> LogObserver:
        """Make an observer that writes to this log."""
        return LogObserver(self)

    def shows(self, level: Level) -> bool:
        """Say whether a line of this level is written now; write what closed windows left out, as time goes by."""
        if ended := self._repeats.ended():
            self._tell(ended)
        return _LEVELS[level] >= self._threshold

    def write(self, name: str, level: Level, fields: Mapping[str, Any], kind: Kind | None = None) -> None:
        """Write a line. A closed or broken stderr is no reason to stop records, so it is let pass.

        Args:
            name: Of the event, as in docs/events.md.
            level: Lines below that of the log are dropped.
            fields: What it says. Never a key, never a record's content.
            kind: By what it counts as a repeat of another of that name; None (default): it is always written. Debug
                lines always are: who asks for them wants them all.
        """
        if self.shows(level) and self.admits(name, level, kind):
            self.say(name, level, fields)

    def admits(self, name: str, level: Level, kind: Kind | None) -> bool:
        """Count a line that :meth:`shows` admits as a repeat of its kind; say whether it is to be said."""
        return kind is None or level == "debug" or self._repeats.admits((level, name, *kind))

    def _tell(self, left_out: Iterable[Suppressed]) -> None:
        for entry in left_out:
            level, name, *values = cast("tuple[Level, str, object]", entry.kind)
            if _LEVELS[level] >= self._threshold:
                alike = dict(zip(_ALIKE_NAMES[name], values, strict=False))
                told = {"suppressed": name, "alike": alike, "lines": entry.lines, "seconds": entry.seconds}
                self.say(SUPPRESSED_EVENT, level, told)

    def say(self, name: str, level: Level, fields: Mapping[str, Any]) -> None:
        """Say a line of which :meth:`shows` and :meth:`admits` said yes."""
        with contextlib.suppress(OSError, ValueError):
            getattr(self._logger, level)(name, **self._always, **fields)


def _head_first(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    head = {name: line.pop(name) for name in ("timestamp", "level", "event")}
    return {**head, **line}
