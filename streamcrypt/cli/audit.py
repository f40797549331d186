"""``streamcrypt audit``: which KEKs the records of topics need, from their headers, and whether one may be disabled."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.audit.keks import KEKIdentity
from streamcrypt.audit.page import as_page
from streamcrypt.audit.plan import Plan, make_plan
from streamcrypt.audit.reading import Reader
from streamcrypt.audit.report import Findings, as_tree
from streamcrypt.audit.sequences import SequenceCounter
from streamcrypt.audit.state import StateFile
from streamcrypt.audit.tally import Counter, HeaderBook
from streamcrypt.audit.verdict import Answer, Verdict
from streamcrypt.cli.audit_keys import KeyQuestions
from streamcrypt.cli.audit_table import progress_of, show_table
from streamcrypt.cli.compose import CLIENT_LOGGER, admin_config, consumer_config, unusable_client
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.cli.run import end_on_signals, keep_keys_out_of_core_dumps
from streamcrypt.config import Settings, load
from streamcrypt.errors import ConfigError, KeyServiceError, StreamcryptError

__all__ = ["ANSWERS", "AuditRequest", "Format", "audit", "choose_format", "stopped_by_signals"]

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
        receipt: The KEK whose receipt is asked; None where none is.
        fewer: List records that miss a configured KEK.
        materials: Unwrap to tell the key material.
    """

    topics: tuple[str, ...] = ()
    everything: bool = False
    form: Format = Format.TABLE
    safe_to_disable: str | None = None
    sequence: bool = False
    state: Path | None = None
    receipt: str | None = None
    fewer: bool = False
    materials: bool = False

    def check(self) -> None:
        """Refuse what cannot be asked together.

        Raises:
            ConfigError: Topics and ``--all``, or neither; ``--sequence`` with ``--state``; two questions about a KEK.
        """
        if bool(self.topics) == self.everything:
            raise ConfigError("name topics, or pass --all")
        if self.safe_to_disable is not None and self.receipt is not None:
            raise ConfigError("ask for --safe-to-disable or for --receipt, each has an exit code of its own")
        if self.sequence and self.state is not None:
            raise ConfigError(
                "--sequence does not go with --state: what lies on both sides of an interruption cannot be compared",
                remedy="Leave one of them out.",
            )


def audit(path: Path, request: AuditRequest) -> int:
    """Read, count and print.

    Returns:
        The exit code. Asked whether a KEK may be disabled, the answer's alone: 0 yes, 1 no, 3 undetermined, also where
        the cluster or the key service fails. 1 as well where something was not read, or a receipt is not whole.

    Raises:
        ConfigError: The configuration or the arguments are wrong.
        StreamcryptError, KafkaException: The audit failed, and it was not asked whether a KEK may be disabled.
    """
    request.check()
    settings = load(path)
    keep_keys_out_of_core_dumps()
    logging.getLogger(CLIENT_LOGGER).addHandler(logging.NullHandler())
    logging.getLogger(CLIENT_LOGGER).propagate = False
    questions = KeyQuestions(settings)
    try:
        return _audit(settings, request, questions)
    except (StreamcryptError, KafkaException, OSError) as error:
        if request.safe_to_disable is None or isinstance(error, ConfigError):
            raise
        text = str(error.args[0].str()) if isinstance(error, KafkaException) else str(error)
        verdict = Verdict(request.safe_to_disable, Answer.UNDETERMINED, (text,))
        _print(request, Plan(), HeaderBook(), Findings(verdict))
        return ANSWERS[verdict.answer]
    finally:
        questions.close()


def _audit(settings: Settings, request: AuditRequest, questions: KeyQuestions) -> int:
    # The key service first, so that a wrong name costs no reading.
    doubted, receipted = _look_up(request, questions)
    configured = questions.configured() if request.fewer else None
    admin = _admin(settings)
    plan, book = make_plan(admin, None if request.everything else request.topics), HeaderBook()
    if not _read(settings, request, plan, book):
        complain("interrupted", "Run it again to go on." if request.state else "Pass --state FILE to go on later.")
        return Exit.INTERRUPTED
    findings = Findings(
        questions.verdict(doubted, admin, plan, book) if isinstance(doubted, KEKIdentity) else doubted,
        questions.receipt(receipted, admin, plan, book) if receipted is not None else None,
        configured,
        questions.materials(book) if request.materials else None,
    )
    _print(request, plan, book, findings)
    unread = {**plan.unreadable, **{place.name: place.unread for place in plan.places.values() if place.unread}}
    if request.state is not None:
        state = StateFile(request.state)
        if unread:
            state.write(plan, book)
        else:
            state.remove()
    for what, why in unread.items():
        complain(f"{what} was not read: {why}")
    if findings.verdict is not None:
        return ANSWERS[findings.verdict.answer]
    return Exit.FAILED if unread or (findings.receipt and findings.receipt.doubts) else Exit.DONE


def _look_up(request: AuditRequest, questions: KeyQuestions) -> tuple[KEKIdentity | Verdict | None, KEKIdentity | None]:
    """Look up the KEK that may be disabled, or the verdict that it cannot be looked up; and that of the receipt."""
    doubted: KEKIdentity | Verdict | None = None
    if request.safe_to_disable is not None:
        try:
            doubted = questions.kek(request.safe_to_disable, "--safe-to-disable")
        except KeyServiceError as error:
            reason = f"the KEK could not be looked up: {error}"
            doubted = Verdict(request.safe_to_disable, Answer.UNDETERMINED, (reason,))
    return doubted, None if request.receipt is None else questions.kek(request.receipt, "--receipt")


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
        with stopped_by_signals() as stop, progress_of(list(plan.places.values())) as show:

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
def stopped_by_signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM and SIGINT while reading; what follows, such as a call to KMS, ends as ever."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    end_on_signals(stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(request: AuditRequest, plan: Plan, book: HeaderBook, findings: Findings) -> None:
    if request.form is Format.TABLE:
        show_table(plan, book, findings)
    elif request.form is Format.JSON:
        sys.stdout.write(json.dumps(as_tree(plan, book, findings)) + "\n")
    else:
        sys.stdout.write(as_page(plan, book, datetime.now(UTC), findings))


def choose_format(text: str) -> Format:
    """Take a format by its name.

    Raises:
        ConfigError: There is no such format.
    """
    try:
        return Format(text)
    except ValueError:
        raise ConfigError(f"--format is one of {', '.join(Format)}, not {text!r}") from None
