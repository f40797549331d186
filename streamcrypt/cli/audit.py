"""``streamcrypt audit``: which KEKs the records of topics need, from their headers, and whether one may be disabled."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.audit.keks import KEKIdentity, arn_of
from streamcrypt.audit.page import as_page
from streamcrypt.audit.plan import Plan, ends_now, make_plan, starts_now
from streamcrypt.audit.reading import Reader
from streamcrypt.audit.report import as_tree
from streamcrypt.audit.sequences import SequenceCounter
from streamcrypt.audit.state import StateFile
from streamcrypt.audit.tally import Counter, HeaderBook
from streamcrypt.audit.verdict import Answer, Substitutes, Verdict, judge
from streamcrypt.cli.audit_table import progress_of, show_table
from streamcrypt.cli.compose import CLIENT_LOGGER, admin_config, build_provider, consumer_config, unusable_client
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.cli.run import end_on_signals
from streamcrypt.config import Settings, load
from streamcrypt.errors import ConfigError, KeyRefused, KeyServiceError, StreamcryptError
from streamcrypt.keys.aws_names import parse_key_arn

if TYPE_CHECKING:
    from streamcrypt.keys.provider import KeyProvider

__all__ = ["ANSWERS", "AuditRequest", "Format", "audit", "choose_format"]

ANSWERS = {Answer.YES: 0, Answer.NO: 1, Answer.UNDETERMINED: 3}
"""Exit code of each answer of ``--safe-to-disable``."""


class Format(StrEnum):
    """How an audit is printed."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What is asked.

    Attributes:
        topics: Names; none with ``everything``.
        everything: All topics that the login may see.
        form: How it is printed.
        safe_to_disable: The KEK in question; None where none is.
        sequence: Look for gaps, repeats and disorder.
        state: Keeps how far the audit came; None: nowhere.
    """

    topics: tuple[str, ...] = ()
    everything: bool = False
    form: Format = Format.TABLE
    safe_to_disable: str | None = None
    sequence: bool = False
    state: Path | None = None

    def check(self) -> None:
        """Refuse what cannot be asked together.

        Raises:
            ConfigError: Topics and ``--all``, or neither; ``--sequence`` with ``--state``.
        """
        if bool(self.topics) == self.everything:
            raise ConfigError("name topics, or pass --all")
        if self.sequence and self.state is not None:
            raise ConfigError(
                "--sequence does not go with --state: what lies on both sides of an interruption cannot be compared",
                remedy="Leave one of them out.",
            )


def audit(path: Path, request: AuditRequest) -> int:
    """Read, count and print.

    Returns:
        The exit code. Asked about a KEK, the answer's alone: 0 yes, 1 no, 3 undetermined, also where the cluster or
        the key service fails.

    Raises:
        ConfigError: The configuration or the arguments are wrong.
        StreamcryptError, KafkaException: The audit failed, and no KEK was asked about.
    """
    request.check()
    settings = load(path)
    logging.getLogger(CLIENT_LOGGER).addHandler(logging.NullHandler())
    logging.getLogger(CLIENT_LOGGER).propagate = False
    try:
        return _audit(settings, request)
    except (StreamcryptError, KafkaException, OSError) as error:
        if request.safe_to_disable is None or isinstance(error, ConfigError):
            raise
        text = str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
        verdict = Verdict(request.safe_to_disable, Answer.UNDETERMINED, (text,))
        _print(request, Plan(), HeaderBook(), verdict)
        return ANSWERS[verdict.answer]


def _audit(settings: Settings, request: AuditRequest) -> int:
    kek = _Question(settings, request.safe_to_disable) if request.safe_to_disable is not None else None
    try:
        admin = _admin(settings)
        plan, book = make_plan(admin, None if request.everything else request.topics), HeaderBook()
        if not _read(settings, request, plan, book):
            complain("interrupted", "Run it again to go on." if request.state else "Pass --state FILE to go on later.")
            return Exit.INTERRUPTED
        verdict = kek.answer(admin, plan, book) if kek is not None else None
    finally:
        if kek is not None:
            kek.close()
    _print(request, plan, book, verdict)
    unread = {**plan.unreadable, **{place.name: place.unread for place in plan.places.values() if place.unread}}
    if request.state is not None:
        state = StateFile(request.state)
        if unread:
            state.write(plan, book)
        else:
            state.remove()
    for what, why in unread.items():
        complain(f"{what} was not read: {why}")
    if verdict is not None:
        return ANSWERS[verdict.answer]
    return Exit.FAILED if unread else Exit.DONE


def _admin(settings: Settings) -> AdminClient:
    try:
        return AdminClient(admin_config(settings, settings.pipelines[0]))
    except KafkaException as error:
        raise unusable_client(settings, error) from None


def _read(settings: Settings, request: AuditRequest, plan: Plan, book: HeaderBook) -> bool:
    """Read all there is; False where a signal came first."""
    state = StateFile(request.state) if request.state is not None else None
    if state is not None:
        state.restore(plan, book)
    compacted = [topic for topic, facts in plan.topics.items() if facts.compacted]
    also = SequenceCounter(plan.places, book, compacted).take if request.sequence else None
    try:
        reader = Reader(
            consumer_config(settings, settings.pipelines[0]), plan.places, Counter(plan.places, book), also=also
        )
    except KafkaException as error:
        raise unusable_client(settings, error) from None
    try:
        with _stopped_by_signals() as stop, progress_of(list(plan.places.values())) as show:

            def each() -> None:
                show()
                if state is not None:
                    state.write_if_due(plan, book)

            reader.read(stop, each)
    finally:
        reader.close()
    if not stop.is_set():
        return True
    if state is not None:
        state.write(plan, book)
    return False


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM and SIGINT while reading; what follows, such as a call to KMS, ends as ever."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    end_on_signals(stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Question:
    """Whether one KEK may be disabled: asks the key service at once, so that a wrong name costs no reading."""

    def __init__(self, settings: Settings, target: str) -> None:
        self._settings = settings
        self._providers: list[KeyProvider] = []
        self._target = target
        self._kek: KEKIdentity | None = None
        self._failure = ""
        try:
            self._kek = KEKIdentity(target, None if self._is_of_a_keyring() else self._resolve)
        except KeyServiceError as error:
            self._failure = str(error)

    def _is_of_a_keyring(self) -> bool:
        if self._settings.keys.provider != "local":
            return False
        try:
            parse_key_arn(self._target, "--safe-to-disable")
        except ConfigError:
            return True
        return False

    def _resolve(self, name: str) -> str:
        if self._settings.keys.provider == "local":
            raise KeyRefused("the configuration names no KMS to look it up", operation="DescribeKey", key_id=name)
        keys = self._settings.keys.model_copy(update={"key_id": (name,), "trusted_keys": ()})
        if name.startswith("arn:"):
            keys = keys.model_copy(update={"region": None})
        provider = build_provider(keys)
        try:
            return arn_of(provider)
        finally:
            provider.close()

    def answer(self, admin: AdminClient, plan: Plan, book: HeaderBook) -> Verdict:
        """Answer from what was counted."""
        if self._kek is None:
            return Verdict(self._target, Answer.UNDETERMINED, (f"the KEK could not be looked up: {self._failure}",))
        trusted = dict.fromkeys(self._settings.keys.trusted_keys)
        for pipeline in self._settings.pipelines:
            trusted.update(dict.fromkeys(pipeline.trusted_keys or ()))
        provider = build_provider(self._settings.keys, trusted_keys=tuple(trusted))
        self._providers.append(provider)
        return judge(
            list(plan.places.values()),
            book,
            self._kek,
            Substitutes(provider),
            unreadable=plan.unreadable,
            lows=starts_now(admin, list(plan.places)),
            now=ends_now(admin, list(plan.places)),
            notes=self._notes(book),
        )

    def _notes(self, book: HeaderBook) -> list[str]:
        assert self._kek is not None
        notes = []
        named = {key_id for envelope in book.envelopes for key_id in envelope.key_ids}
        with suppress(KeyServiceError, ConfigError):
            if not any(self._kek.means(key_id) for key_id in named):
                notes.append(f"no record names this KEK at all: check that {self._kek.arn} is the one you mean")
        seals = any(pipeline.mode == "encrypt" for pipeline in self._settings.pipelines)
        with suppress(KeyServiceError, ConfigError):
            if seals and any(self._kek.means(key_id) for key_id in self._settings.keys.key_id or ()):
                notes.append("the configuration seals under this KEK still: change key_id before you disable it")
        return notes

    def close(self) -> None:
        """Close the key services."""
        for provider in self._providers:
            provider.close()


def _print(request: AuditRequest, plan: Plan, book: HeaderBook, verdict: Verdict | None) -> None:
    if request.form is Format.TABLE:
        show_table(plan, book, verdict)
    elif request.form is Format.JSON:
        sys.stdout.write(json.dumps(as_tree(plan, book, verdict)) + "\n")
    else:
        sys.stdout.write(as_page(plan, book, datetime.now(UTC), verdict))


def choose_format(text: str) -> Format:
    """Take a format by its name.

    Raises:
        ConfigError: There is no such format.
    """
    try:
        return Format(text)
    except ValueError:
        raise ConfigError(f"--format is one of {', '.join(Format)}, not {text!r}") from None
