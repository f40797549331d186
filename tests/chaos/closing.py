"""Failing closed: whatever is wrong with keys, headers or topics, no byte of plaintext goes where it must not."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import streamcrypt as sc
from streamcrypt.testing import KMSServer
from tests.broker import Broker, unique_name, wait_until
from tests.chaos.checker import Checker, Findings, Letter, check_letters, find_leaks
from tests.chaos.faults import limit_topic
from tests.chaos.records import Arrived, Book, Record, arrived
from tests.chaos.scenarios import Context, Outcome
from tests.chaos.traffic import Loader
from tests.sidecar import Sidecar, config_of, kms_keys, streamcrypt

__all__ = ["fail_closed"]

PARTITIONS = 4
KEY, LETTER_KEY = "alias/payments", "alias/letters"
_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
_SMALL = 50_000


class _Room:
    """Source, target and dead letters of one pipeline, and a KMS."""

    def __init__(self, context: Context, kms: KMSServer, mode: str, target: Mapping[str, str] | None = None) -> None:
        self.broker: Broker = context.broker
        self.context, self.kms, self.mode = context, kms, mode
        self.book = Book(context.seed, int(time.time() * 1000) - 1000, PARTITIONS)
        self.source = self.broker.create_topic(unique_name("in"), PARTITIONS)
        self.target = self.broker.create_topic(unique_name("out"), PARTITIONS, target)
        self.letters = self.broker.create_topic(unique_name("letters"), PARTITIONS)
        self.name = unique_name(mode)

    def config(self, key_id: str = KEY, **pipeline: Any) -> dict[str, Any]:
        """The configuration of the pipeline."""
        named = {
            "name": self.name,
            "mode": self.mode,
            "from": self.source,
            "to": self.target,
            "delivery": self.context.delivery,
            "on_failure": "dead_letter",
            "dead_letter": self.letters,
            "instance": "only",
        }
        if self.mode == "encrypt":
            named["dead_letter_key"] = LETTER_KEY
        keys = kms_keys(self.kms, key_id)
        return config_of(
            self.broker.bootstrap, keys, {**named, **pipeline}, http={"port": 0}, rotation={"max_messages": 100}
        )

    def load(self, count: int) -> None:
        """Put records on the source topic."""
        with contextlib.closing(Loader(self.broker.bootstrap, self.source, self.book)) as loader:
            loader.send(count)
            loader.settle()

    def read(self, topic: str, isolation: str = "read_committed") -> list[Arrived]:
        """Everything on a topic."""
        return [arrived(message) for message in self.broker.read(topic, isolation, 60)]

    def checker(self) -> Checker:
        """A checker of what the pipeline promises."""
        return Checker(self.book, once=self.context.delivery == "exactly_once")

    def leaks(self) -> Findings:
        """Search target and dead letters, aborted records included."""
        findings = find_leaks(self.read(self.target, "read_uncommitted"))
        findings.merge(find_leaks(self.read(self.letters, "read_uncommitted")))
        return findings

    @contextlib.contextmanager
    def opener(self, key_id: str) -> Iterator[sc.Decryptor]:
        """A decryptor of one KEK."""
        with (
            mock.patch.dict(os.environ, _ENVIRONMENT),
            contextlib.closing(sc.AWSKMSKeyProvider(key_id, region=self.kms.region, endpoint_url=self.kms.url)) as keys,
            contextlib.closing(sc.Decryptor(keys)) as opener,
        ):
            yield opener


def fail_closed(context: Context, *, records: int = 400, plays: Sequence[str] | None = None) -> Outcome:
    """A mistyped alias, a denied key, a stripped header, and records that an encrypting pipeline cannot pass.

    Args:
        context: Broker, seed and delivery.
        records: Of each play.
        plays: Some of them only.
    """
    outcome = Outcome(f"fail closed, {context.delivery}", context.seed)
    directory = context.directory / f"closed-{context.delivery}"
    directory.mkdir(parents=True, exist_ok=True)
    context = replace(context, directory=directory)
    with KMSServer(random_seed=context.seed) as kms:
        for alias in (KEY, LETTER_KEY):
            kms.create_key(alias)
        for name in plays or _PLAYS:
            findings, figures = _PLAYS[name](context, kms, records)
            outcome.findings.merge(findings, f"{name}: ")
            outcome.figures[name] = figures
    return outcome


Played = tuple[Findings, dict[str, Any]]


def _mistyped(context: Context, kms: KMSServer, records: int) -> Played:
    """The alias does not exist: nothing starts, nothing passes."""
    room = _Room(context, kms, "encrypt")
    room.load(records)
    done = streamcrypt(context.directory, "run", room.config("alias/paymnets"), seconds=60)
    findings = room.leaks()
    if done.returncode == 0:
        findings.add("started", "exit 0")
    if written := len(room.read(room.target, "read_uncommitted")) + len(room.read(room.letters, "read_uncommitted")):
        findings.add("wrote", f"{written} records")
    return findings, {"exit": done.returncode}


def _mistyped_letters(context: Context, kms: KMSServer, records: int) -> Played:
    """The alias for dead letters does not exist: what cannot pass stays where it is, or nothing starts."""
    room = _Room(context, kms, "encrypt")
    # It carries our header already, so it needs a dead letter.
    room.broker.produce(
        room.source, [{"value": room.book.record(1).value or b"", "headers": [("streamcrypt", b"x")], "partition": 0}]
    )
    config = room.config(dead_letter_key="alias/lettres")
    with Sidecar(context.directory, config) as sidecar:
        deadline = time.monotonic() + 8
        while sidecar.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        ended = sidecar.process.poll()
    findings = room.leaks()
    if room.read(room.letters, "read_uncommitted"):
        findings.add("wrote", "a letter without its key")
    return findings, {"exit": ended}


def _denied(context: Context, kms: KMSServer, records: int) -> Played:
    """The key is denied while records pass: they wait, and arrive sealed once it is granted."""
    room = _Room(context, kms, "encrypt")
    findings = Findings()
    with Sidecar(context.directory, room.config()) as sidecar:
        sidecar.ready()
        kms.fail("AccessDeniedException")
        room.load(records)
        sidecar.wait_for("partition.paused", 60)
        findings.merge(room.leaks())
        passed = len(room.read(room.target))
        if passed >= records:
            findings.add("passed", f"{passed} records under a denied key")
        if letters := room.read(room.letters, "read_uncommitted"):
            findings.add("letters", f"{len(letters)}, though no record was at fault")
        kms.heal()
        wait_until(lambda: len(room.read(room.target)) >= records, "the rest", 90)
        if sidecar.stop() != 0:
            findings.add("did not end cleanly", sidecar.tail())
    findings.merge(room.leaks())
    with room.opener(KEY) as opener:
        opened = [_opened(opener, found) for found in room.read(room.target)]
    findings.merge(room.checker().check(opened, range(records)))
    return findings, {"passed while denied": passed}


def _stripped(context: Context, kms: KMSServer, records: int) -> Played:
    """Headers are stripped, and plaintext stands on a sealed topic: neither target nor letters show a byte of it."""
    room = _Room(context, kms, "decrypt")
    sent: dict[int, Record] = {}
    with (
        mock.patch.dict(os.environ, _ENVIRONMENT),
        contextlib.closing(sc.AWSKMSKeyProvider(KEY, region=kms.region, endpoint_url=kms.url)) as keys,
        contextlib.closing(sc.Encryptor(keys)) as sealer,
        contextlib.closing(Loader(room.broker.bootstrap, room.source, room.book)) as loader,
    ):
        for number in range(records):
            record = room.book.record(number)
            if record.value is None:
                continue
            if number % 2:
                value, _ = sealer.encrypt(room.source, record.value, record.key, list(record.headers))
                record = replace(record, value=value)
            sent[record.timestamp] = record
            loader.put(record)
        loader.settle()
    with Sidecar(context.directory, room.config()) as sidecar:
        sidecar.ready()
        wait_until(lambda: len(room.read(room.letters)) >= len(sent), "every letter", 60)
        if sidecar.stop() != 0:
            return room.leaks(), {"log": sidecar.tail()}
    findings = room.leaks()
    if passed := room.read(room.target):
        findings.add("passed", f"{len(passed)} records without an envelope")
    expected = _letters(room, sent, "PlaintextRejected", None)
    findings.merge(check_letters(room.read(room.letters), expected, room.name))
    return findings, {"letters": len(expected)}


def _cannot_pass(context: Context, kms: KMSServer, records: int) -> Played:
    """Records that carry an envelope where plaintext belongs: their letters are sealed under the letters' own key."""
    room = _Room(context, kms, "encrypt")
    spoiled: dict[int, Record] = {}
    with contextlib.closing(Loader(room.broker.bootstrap, room.source, room.book)) as loader:
        for number in range(records):
            record = room.book.record(number)
            if number % 10 == 3 and record.value is not None:
                record = replace(record, headers=(*record.headers, ("streamcrypt", b"not ours to judge")))
                spoiled[record.timestamp] = record
            loader.put(record)
        loader.settle()
    return _sealed_letters(context, room, records, spoiled, "AlreadySealed")


def _refused_by_broker(context: Context, kms: KMSServer, records: int) -> Played:
    """Records too large for the target: refused by the broker, set aside sealed; their neighbours pass."""
    room = _Room(context, kms, "encrypt")
    limit_topic(room.broker, room.target, _SMALL)
    spoiled: dict[int, Record] = {}
    with contextlib.closing(Loader(room.broker.bootstrap, room.source, room.book)) as loader:
        for number in range(records):
            record = room.book.record(number)
            if number in {5, 6, records // 2, records - 1} and record.value is not None:
                record = replace(record, value=record.value + os.urandom(2 * _SMALL))
                spoiled[record.timestamp] = record
            loader.put(record)
        loader.settle()
    return _sealed_letters(context, room, records, spoiled, "RecordTooLarge")


def _sealed_letters(context: Context, room: _Room, records: int, spoiled: dict[int, Record], kind: str) -> Played:
    sound = [n for n in range(records) if room.book.epoch + n not in spoiled]
    findings = Findings()
    with Sidecar(context.directory, room.config()) as sidecar:
        with contextlib.suppress(AssertionError):
            wait_until(
                lambda: len(room.read(room.target)) >= len(sound) and len(room.read(room.letters)) >= len(spoiled),
                "every record",
                60,
            )
        if sidecar.process.poll() is not None or sidecar.stop() != 0:
            findings.add("did not end cleanly", sidecar.tail())
    findings.merge(room.leaks())
    with room.opener(KEY) as opener:
        opened = [_opened(opener, found) for found in room.read(room.target)]
    findings.merge(room.checker().check(opened, sound))
    raw = room.read(room.letters)
    with room.opener(LETTER_KEY) as opener:
        letters = [_opened(opener, found) for found in raw]
    findings.merge(check_letters(letters, _letters(room, spoiled, kind), room.name))
    return findings, {"letters": len(raw), "passed": len(opened)}


def _opened(opener: sc.Decryptor, found: Arrived) -> Arrived:
    value, headers = opener.decrypt(found.topic, found.value, found.key, list(found.headers), found.partition)
    return replace(found, value=value, headers=tuple(headers))


_AS_SENT: Any = object()


def _letters(
    room: _Room, sent: dict[int, Record], kind: str, value: Any = _AS_SENT
) -> dict[tuple[str, int, int], Letter]:
    """Say which letters must stand there: one for each of these records, found again by its timestamp."""
    expected = {}
    for found in room.read(room.source):
        record = sent.get(found.timestamp)
        if record is not None:
            own = record.value if value is _AS_SENT else value
            letter = Letter(kind, "", own, record.key, record.headers, record.timestamp)
            expected[found.topic, found.partition, found.offset] = letter
    return expected


_PLAYS: dict[str, Callable[[Context, KMSServer, int], Played]] = {
    "mistyped alias": _mistyped,
    "mistyped alias for letters": _mistyped_letters,
    "denied key": _denied,
    "stripped headers": _stripped,
    "sealed already": _cannot_pass,
    "refused by the broker": _refused_by_broker,
}
