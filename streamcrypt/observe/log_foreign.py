"""What others say, folded into our log: records of :mod:`logging`, Python warnings, exceptions that nobody caught.

Their texts are theirs, so what may quote a record or a key is left out: DEBUG of every library but librdkafka
(botocore logs whole answers there, and an answer of KMS holds a data key), tracebacks, and texts of exceptions.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Protocol

from streamcrypt.errors import StreamcryptError
from streamcrypt.observe.log_limits import Kind

__all__ = ["EXCEPTION_EVENT", "LIBRARY_EVENT", "FoldIn", "Level", "Write"]

Level = Literal["debug", "info", "warning", "error"]

LIBRARY_EVENT = "library.message"
EXCEPTION_EVENT = "process.exception"

_LIBRDKAFKA = "librdkafka"
# Named besides the root: a logger with a level of its own does not ask the root for it.
_TALKATIVE = ("boto3", "botocore", "s3transfer", "urllib3")
_MESSAGE_CHARACTERS = 2_000
_FRAMES = 20
# How librdkafka's binding logs: facility, client, text. Source: confluent_kafka/src/confluent_kafka.c, log_cb.
_LIBRDKAFKA_FORM = "%s [%s] %s"


class Write(Protocol):
    """Writes one line; ``kind`` marks those that count as the same for the limit on repeats."""

    def __call__(self, name: str, level: Level, fields: Mapping[str, Any], kind: Kind | None = None) -> None:
        """Write it, where its level is shown."""
        ...


class FoldIn(logging.Handler):
    """Turns a record of :mod:`logging` into a line of ours, and an exception that nobody caught.

    What a library calls an error is a warning here: what holds records up is told by lines of our own. Its INFO is
    our debug; its DEBUG is dropped, whatever the level, but for librdkafka, which says nothing at DEBUG unless the
    property ``debug`` is set, and never quotes records.

    Args:
        write: Writes a line.
    """

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write
        self._before: dict[str, int] = {}
        self._hooks: tuple[Any, Any] = (threading.excepthook, sys.unraisablehook)

    def install(self, level: Level) -> None:
        """Listen to every library from now on, at ``level``; Python's warnings come along."""
        root = logging.getLogger()
        self._before = {name: logging.getLogger(name).level for name in ("", _LIBRDKAFKA, *_TALKATIVE)}
        root.addHandler(self)
        self.listen(level)
        logging.captureWarnings(True)
        self._hooks = (threading.excepthook, sys.unraisablehook)
        threading.excepthook = self._on_thread_exception
        sys.unraisablehook = self._on_unraisable

    def listen(self, level: Level) -> None:
        """Have the libraries make no more records than ``level`` shows."""
        in_detail = level == "debug"
        logging.getLogger().setLevel(logging.INFO if in_detail else logging.WARNING)
        logging.getLogger(_LIBRDKAFKA).setLevel(logging.DEBUG if in_detail else logging.WARNING)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO if in_detail else logging.WARNING)

    def uninstall(self) -> None:
        """Undo :meth:`install`."""
        threading.excepthook, sys.unraisablehook = self._hooks
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self)
        for name, level in self._before.items():
            logging.getLogger(name).setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        level = _level_of(record)
        if level is None:
            return
        try:
            fields, kind = _described(record)
        except (TypeError, ValueError):
            # Arguments that do not fit their text: a mistake of the library's.
            fields, kind = {"logger": record.name, "message": str(record.msg)[:_MESSAGE_CHARACTERS]}, (record.name,)
        if record.exc_info and record.exc_info[0]:
            fields["error"] = record.exc_info[0].__name__
        self._write(LIBRARY_EVENT, level, fields, kind)

    def _on_thread_exception(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else ""
            self._write(EXCEPTION_EVENT, "error", _exception(name, args.exc_type, args.exc_value, args.exc_traceback))

    def _on_unraisable(self, args: Any) -> None:
        name = threading.current_thread().name
        self._write(EXCEPTION_EVENT, "error", _exception(name, args.exc_type, args.exc_value, args.exc_traceback))


def _level_of(record: logging.LogRecord) -> Level | None:
    if record.levelno >= logging.CRITICAL:
        return "error"
    if record.levelno >= logging.WARNING:
        return "warning"
    return "debug" if record.levelno >= logging.INFO or record.name == _LIBRDKAFKA else None


def _described(record: logging.LogRecord) -> tuple[dict[str, Any], Kind]:
    """Give the fields of a record, and what makes another one its repeat: its text before values are put in."""
    if record.name == _LIBRDKAFKA and record.msg == _LIBRDKAFKA_FORM and isinstance(record.args, tuple):
        facility, client, text = map(str, record.args)
        fields = {"logger": record.name, "client": client, "facility": facility, "message": text[:_MESSAGE_CHARACTERS]}
        return fields, (record.name, client, facility, record.levelno)
    fields = {"logger": record.name, "message": record.getMessage()[:_MESSAGE_CHARACTERS]}
    return fields, (record.name, str(record.msg)[:200], record.levelno)


def _exception(
    thread: str, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> Mapping[str, Any]:
    """Say what was raised and where; its text only where it is one of ours, which quote nothing."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    # The end of a path: where a package is installed tells nothing.
    places = [f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.name}" for frame in frames]
    detail = str(error) if isinstance(error, StreamcryptError) else ""
    return {"thread": thread, "error": kind.__name__, "detail": detail, "frames": places}
