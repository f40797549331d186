"""Events as log lines: one JSON object a line on stderr, or text for people. The only importer of structlog."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import fields
from types import TracebackType
from typing import Any, Literal, Self, TextIO

import structlog

from streamcrypt import events
from streamcrypt.events import Event

__all__ = ["LIBRARY_EVENT", "LINES", "Level", "LogObserver", "Logs"]

Level = Literal["debug", "info", "warning", "error"]

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
    events.PartitionResumed: ("partition.resumed", "info"),
    events.RecordFailed: ("record.failed", "error"),
    events.BatchDone: ("batch.done", "debug"),
    events.OffsetsCommitted: ("offsets.committed", "debug"),
    events.PipelineRestarting: ("pipeline.restarting", "warning"),
    events.LoopTurned: ("pipeline.turned", "debug"),
    events.SourcesChanged: ("pipeline.sources_changed", "info"),
    events.KafkaClientError: ("kafka.client_error", "warning"),
    events.CommitFailed: ("offsets.commit_failed", "warning"),
    events.UnitGivenUp: ("unit.given_up", "warning"),
    events.SequenceFound: ("sequence.found", "error"),
    events.ReencryptionPlanned: ("reencryption.planned", "info"),
    events.ReencryptionProgress: ("reencryption.progress", "info"),
    events.ReencryptionVerified: ("reencryption.verified", "info"),
    events.RecordDiffers: ("record.differs", "error"),
    events.PlaintextPassed: ("record.plaintext_passed", "warning"),
}
"""Event class to the name and level of its line. Names are stable: alerts are built on them."""

LIBRARY_EVENT = "library.message"

_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in LINES}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogObserver:
    """Writes one line for every event. See :data:`LINES`.

    Args:
        logger: A logger of structlog, as :class:`Logs` makes it.
    """

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        self._write = {kind: (getattr(logger, level), name, _FIELDS[kind]) for kind, (name, level) in LINES.items()}

    def __call__(self, event: Event) -> None:
        """Write the event's line. A closed or broken stderr is no reason to stop records, so it is let pass."""
        write, name, names = self._write[type(event)]
        with contextlib.suppress(OSError, ValueError):
            write(name, **{field: _plain(field, getattr(event, field)) for field in names})


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
    """The log of a process: writes our lines, and folds in those of foreign libraries from WARNING on.

    A context manager: what it changed in :mod:`logging` is undone at the end.

    Args:
        level: The lowest level shown; default ``info``.
        style: ``json`` (default): one object a line with ``timestamp`` (RFC 3339, UTC), ``level``, ``event`` first;
            ``console``: text for people.
        stream: Where to; default stderr as it is now.

    .. danger:: Foreign libraries are never shown below WARNING: at DEBUG botocore writes KMS answers, and so data
        keys in clear.
    """

    def __init__(
        self,
        level: Level = "info",
        style: Literal["json", "console"] = "json",
        stream: TextIO | None = None,
    ) -> None:
        renderer: Any = structlog.processors.JSONRenderer(default=str)
        if style == "console":
            renderer = structlog.dev.ConsoleRenderer(colors=False)
        self.logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            structlog.WriteLogger(stream or sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                _head_first,
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            cache_logger_on_first_use=True,
        )
        self._handler = _FoldIn(self.logger)
        self._level_before = logging.WARNING

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._level_before = root.level
        root.setLevel(logging.WARNING)
        root.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level_before)

    def observer(self) -> LogObserver:
        """Make an observer that writes to this log."""
        return LogObserver(self.logger)


def _head_first(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    head = {name: line.pop(name) for name in ("timestamp", "level", "event")}
    return {**head, **line}


class _FoldIn(logging.Handler):
    """Turns a record of :mod:`logging` into a line of ours; tracebacks are left out, they may quote values."""

    def __init__(self, logger: structlog.typing.FilteringBoundLogger) -> None:
        super().__init__(level=logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        write = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        cause = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        with contextlib.suppress(OSError, ValueError, TypeError):
            write(LIBRARY_EVENT, logger=record.name, message=record.getMessage(), **({"error": cause} if cause else {}))
