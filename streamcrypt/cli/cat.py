"""``streamcrypt cat``: the records of a topic, opened, with what their envelopes say. Nothing is committed."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.audit.plan import Plan, make_plan
from streamcrypt.cli.audit import stopped_by_signals
from streamcrypt.cli.cat_output import Printer, harmless
from streamcrypt.cli.cat_readers import Opener, TopicReader, build_opener, choose_reader
from streamcrypt.cli.cat_reading import StretchReader, lone_reader
from streamcrypt.cli.cat_records import Kind, RecordReader, ShownRecord
from streamcrypt.cli.cat_request import CatRequest, SpotKind
from streamcrypt.cli.compose import CLIENT_LOGGER, admin_config, consumer_config, unusable_client
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.cli.run import keep_keys_out_of_core_dumps
from streamcrypt.config import Settings, load
from streamcrypt.errors import ConfigError, StreamcryptError

__all__ = ["cat"]

_T = TypeVar("_T")


def cat(path: Path, request: CatRequest) -> Exit:
    """Write the records of a topic to standard output, and to standard error what is to be said about them.

    Args:
        path: The configuration.
        request: What is asked.

    Returns:
        DONE where every record that was sealed opened, also where Ctrl-C ended ``--follow`` or the reader of standard
        output went away; FAILED where a record did not; INTERRUPTED where a signal came before the end of a range.

    Raises:
        ConfigError: The configuration or the request is wrong.
        StreamcryptError: The topic does not exist, or nothing arrives any more.
        KafkaException: The cluster does not answer, or refuses.
    """
    settings = load(path)
    keep_keys_out_of_core_dumps()
    logging.getLogger(CLIENT_LOGGER).addHandler(logging.NullHandler())
    logging.getLogger(CLIENT_LOGGER).propagate = False
    reader = choose_reader(settings, request.topic)
    if not reader.known:
        complain(f"no pipeline of {path} knows {request.topic!r}: every KEK that is trusted anywhere in it may open")
    printing = _Printing(request, Printer(request, terminal=sys.stdout.isatty()))
    opener = build_opener(settings, reader) if request.opens else None
    try:
        with stopped_by_signals() as stop:
            _read(settings, reader, request, opener, printing, stop)
            interrupted = stop.is_set() and not request.follow
    except BrokenPipeError:
        _let_go_of_stdout()
        return Exit.FAILED if printing.failed else Exit.DONE
    finally:
        if opener is not None:
            opener.close()
    printing.sum_up()
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.FAILED if printing.failed else Exit.DONE


def _read(
    settings: Settings,
    reader: TopicReader,
    request: CatRequest,
    opener: Opener | None,
    printing: _Printing,
    stop: threading.Event,
) -> None:
    decryptor = None if opener is None else opener.decryptor
    records = RecordReader(decryptor, reader.expects, reader.pipeline.cutover, allow_plaintext=request.allow_plaintext)
    admin = _made(settings, lambda: AdminClient(admin_config(settings, reader.pipeline)))
    plan = make_plan(admin, [request.topic])
    places = [plan.places[request.topic, number] for number in _partitions(plan, request)]
    # What is assigned at once is read at once; a little later, librdkafka takes a second over it (measured).
    config = consumer_config(settings, reader.pipeline)
    consumer = _made(settings, lambda: lone_reader(config, follows=request.follow))
    with closing(consumer):
        reading = StretchReader(consumer, stop)
        stretches = reading.stretches(places, request.start, request.end, follow=request.follow)
        for place in places:
            if request.start.kind is SpotKind.OFFSET and request.start.number < place.start:
                complain(f"{place.name} begins at offset {place.start}")
        for batch in reading.read(stretches):
            if not printing.take(records, batch):
                return
            if not batch and decryptor is not None:
                decryptor.sweep()


def _made(settings: Settings, make: Callable[[], _T]) -> _T:
    try:
        return make()
    except KafkaException as error:
        raise unusable_client(settings, error) from None


def _partitions(plan: Plan, request: CatRequest) -> Sequence[int]:
    for what, why in plan.unreadable.items():
        raise StreamcryptError(f"{what} cannot be read: {why}")
    there = sorted(partition for _, partition in plan.places)
    if unknown := sorted(set(request.partitions) - set(there)):
        raise ConfigError(f"--partition {unknown[0]}: {request.topic!r} has {len(there)} partitions, from 0")
    return request.partitions or there


class _Printing:
    """Prints records, and counts them."""

    def __init__(self, request: CatRequest, printer: Printer) -> None:
        self._request = request
        self._printer = printer
        self._left = request.count
        self._counts: Counter[str] = Counter()
        self.failed = 0

    def take(self, records: RecordReader, batch: Sequence[Any]) -> bool:
        """Print a batch; say whether more is wanted.

        Raises:
            BrokenPipeError: Nobody reads standard output any more.
        """
        out, going_on = sys.stdout.buffer, True
        for message in batch:
            failed = self._print(out, records.read(message))
            if self._left is not None:
                self._left -= 1
            if self._left == 0 or (failed and self._request.fail_fast):
                going_on = False
                break
        out.flush()
        return going_on

    def _print(self, out: Any, record: ShownRecord) -> bool:
        data, failure = self._printer.render(record)
        out.write(data)
        self._counts[str(record.kind)] += 1
        if record.opened:
            self._counts["opened"] += 1
        if failure is None:
            return False
        self.failed += 1
        if self._printer.is_silent_on_failure:
            complain(f"{record.place}: {type(failure).__name__}: {harmless(str(failure))}", failure.remedy)
        return True

    def sum_up(self) -> None:
        """Say on standard error what was read."""
        counts = self._counts
        total = sum(counts[kind] for kind in Kind)
        parts = [f"{counts[kind]} {kind}" for kind in Kind if counts[kind]]
        parts += [f"{counts['opened']} opened"] if self._request.opens else []
        parts += [f"{self.failed} failed"] if self.failed else []
        complain(f"{total} records" + (f": {', '.join(parts)}" if total else ""))


def _let_go_of_stdout() -> None:
    """Have the interpreter's last flush meet no broken pipe. Source: Python documentation, "Note on SIGPIPE"."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
