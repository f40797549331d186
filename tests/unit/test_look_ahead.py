"""Data keys looked ahead: the same calls, checks and budget as opening makes, only sooner and several at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.errors import AuthenticationFailed, ConfigError, KeyRefused, KeyUnavailable, UntrustedKey
from streamcrypt.events import DataKeyOpened, DataKeyRefused
from streamcrypt.keys.ahead import QUEUE, THREADS, WorkAhead
from streamcrypt.keys.cache import MissBudget
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.waiting import until

Headers = list[tuple[str, bytes | None]]
Record = tuple[bytes, Headers]


class Reader:
    """A decryptor on a scripted key service, and records for it, each under a data key of its own."""

    def __init__(self, cache: CachePolicy | None = None, **options: object) -> None:
        self.keyring = LocalKeyProvider({"a": os.urandom(32), "b": os.urandom(32)}, "a")
        self.keys = ScriptedKeyProvider(self.keyring)
        self.seen = CollectingObserver()
        self.options = options
        self.decryptor = Decryptor(self.keys, cache, observer=self.seen, **options)

    def records(self, count: int) -> list[Record]:
        """Seal so many records."""
        framing = self.options.get("framing", "header")
        with Encryptor(self.keyring, RotationPolicy(max_messages=1), framing=framing) as writer:
            return [writer.encrypt("t", b"value %d" % number, b"k") for number in range(count)]

    def look(self, records: list[Record], partition: int | None = 0) -> int:
        """Look their data keys ahead."""
        values = [value for value, _ in records]
        return self.decryptor.look_ahead("t", [headers for _, headers in records], partition, values)

    def open(self, record: Record, partition: int | None = 0) -> bytes | None:
        """Open one record."""
        return self.decryptor.decrypt("t", record[0], b"k", record[1], partition)[0]

    def settle(self) -> None:
        """Wait until nothing is looked ahead any more."""
        until(lambda: not self.decryptor._ahead._known)

    @property
    def calls(self) -> int:
        """How many unwrappings the key service was asked for."""
        return self.keys.count(DECRYPT)


def altered(record: Record, number: int) -> Record:
    """The same record with a wrapped key that does not open."""
    value, headers = record
    header = decode_header(headers[-1][1])
    junk = replace(header.keys[0], ciphertext=header.keys[0].ciphertext + number.to_bytes(4, "big"))
    return value, [("streamcrypt", encode_header(replace(header, keys=(junk,))))]


@pytest.mark.parametrize("options", [{}, {"max_wait": 30.0}, {"framing": "self_contained"}])
def test_what_was_looked_ahead_is_at_hand(options: dict[str, object]) -> None:
    """One call for each data key, made on other threads; opening makes none and waits for none."""
    reader = Reader(**options)
    records = reader.records(8)
    reader.keys.hold(DECRYPT)
    assert reader.look([*records, *records]) == 8
    reader.keys.release(DECRYPT)
    reader.settle()
    reader.keys.hold(DECRYPT)
    misses = reader.decryptor.misses
    assert [reader.open(record) for record in records] == [b"value %d" % number for number in range(8)]
    assert (reader.calls, reader.decryptor.misses) == (8, misses)
    assert {call.thread.partition("_")[0] for call in reader.keys.calls} == {"streamcrypt-ahead"}
    assert reader.look(records) == 0
    reader.decryptor.close()


def test_several_are_under_way_at_once_and_no_more_than_threads() -> None:
    """The others wait in the queue, which is bounded as well."""
    reader = Reader()
    records = reader.records(THREADS + 4)
    reader.keys.hold(DECRYPT)
    assert reader.look(records) == THREADS + 4
    until(lambda: reader.calls == THREADS)
    assert reader.look(records) == 0
    reader.keys.release(DECRYPT)
    reader.settle()
    assert reader.calls == THREADS + 4
    reader.decryptor.close()


@pytest.mark.parametrize("options", [{}, {"max_wait": 30.0}])
def test_opening_waits_for_the_call_that_is_under_way(options: dict[str, object]) -> None:
    """It makes none of its own."""
    reader = Reader(**options)
    (record,) = reader.records(1)
    reader.keys.hold(DECRYPT)
    reader.look([record])
    until(lambda: reader.calls == 1)
    with ThreadPoolExecutor(4) as pool:
        opened = [pool.submit(reader.open, record) for _ in range(4)]
        until(lambda: reader.decryptor.misses >= 4)
        reader.keys.release(DECRYPT)
        assert {future.result() for future in opened} == {b"value 0"}
    assert reader.calls == 1
    assert len(reader.seen.of(DataKeyOpened)) == 1
    reader.decryptor.close()


def test_a_data_key_whose_turn_comes_first_does_not_wait_behind_those_looked_ahead() -> None:
    """All threads that look ahead hang; a record's own call is made on another."""
    reader = Reader(max_wait=30.0)
    records = reader.records(THREADS + 2)
    reader.keys.hold(DECRYPT, lambda call: call.thread.startswith("streamcrypt-ahead"))
    reader.look(records)
    assert reader.open(records[-1]) == b"value %d" % (THREADS + 1)
    reader.keys.release(DECRYPT)
    reader.decryptor.close()


def test_an_untrusted_or_foreign_header_causes_no_call() -> None:
    """Nor does one of another topic, or one that is no header at all: the policy is checked first."""
    reader = Reader()
    good, other = reader.records(2)
    with Encryptor(LocalKeyProvider({"x": os.urandom(32)}, "x")) as writer:
        foreign = writer.encrypt("t", b"v", b"k")
    with Encryptor(reader.keyring) as writer:
        elsewhere = writer.encrypt("u", b"v", b"k")
    reader.keys.distrust("b")
    poisoned: list[Record] = [
        foreign,
        elsewhere,
        (b"", [("streamcrypt", b"junk")]),
        (b"", [("streamcrypt", None)]),
        (b"", [("streamcrypt", other[1][-1][1][:-1])]),
    ]
    reader.look([*poisoned, good])
    reader.settle()
    assert reader.calls == 1
    assert reader.seen.of(DataKeyRefused) == []
    with pytest.raises(UntrustedKey):
        reader.open(foreign)
    reader.decryptor.close()


def test_a_refusal_met_ahead_is_remembered_and_raised_by_the_record_without_another_call() -> None:
    """The same negative memory, told of once: when the record is opened."""
    reader = Reader()
    (record,) = reader.records(1)
    junk = altered(record, 1)
    reader.look([junk])
    reader.settle()
    assert reader.look([junk]) == 0
    with pytest.raises(AuthenticationFailed):
        reader.open(junk)
    assert reader.calls == 1
    assert len(reader.seen.of(DataKeyRefused)) == 1
    reader.decryptor.close()


def test_poisoned_headers_looked_ahead_cost_no_more_than_the_budget_of_their_partition() -> None:
    """Ahead and opened together; one token is left to the records, and other partitions are not touched."""
    reader = Reader(CachePolicy(refused_misses_per_minute=5), clock=ManualClock())
    good, *records = reader.records(40)
    poisoned = [altered(record, number) for number, record in enumerate(records)]
    reader.look(poisoned)
    reader.settle()
    assert 1 <= reader.calls <= 4
    refused = [type(failure_of(reader, record)) for record in poisoned]
    assert reader.calls == 5
    assert refused.count(KeyUnavailable) == len(poisoned) - 5
    assert reader.look([good], partition=1) == 1
    reader.settle()
    assert reader.open(good, partition=1) == b"value 0"
    reader.decryptor.close()


def failure_of(reader: Reader, record: Record) -> Exception | None:
    """What opening a record raises."""
    try:
        reader.open(record)
    except (AuthenticationFailed, KeyUnavailable) as error:
        return error
    return None


@pytest.mark.parametrize("error", [KeyUnavailable("away"), KeyRefused("denied")])
def test_a_key_service_that_is_away_is_not_asked_ahead_for_what_waits(error: Exception) -> None:
    """No error of anybody's; records that need their data key ask by themselves and meet it."""
    reader = Reader()
    records = reader.records(QUEUE)
    reader.keys.away(DECRYPT, error)
    reader.look(records)
    reader.settle()
    assert reader.calls <= 2 * THREADS
    calls = reader.calls
    assert reader.look(records) == 0
    with pytest.raises(type(error)):
        reader.open(records[-1])
    assert reader.calls == calls + 1
    reader.keys.back(DECRYPT)
    assert reader.open(records[-1]) == b"value %d" % (QUEUE - 1)
    reader.decryptor.close()


def test_a_key_service_that_answers_at_once_is_not_asked_ahead() -> None:
    """Threads would cost more than they spare."""
    reader = Reader()
    with Decryptor(reader.keyring) as decryptor:
        assert decryptor.look_ahead("t", [headers for _, headers in reader.records(4)]) == 0
        assert decryptor._ahead._executor is None


def test_closing_ends_the_threads_and_what_waits() -> None:
    """What is under way ends first; nothing is kept, and nothing more is taken."""
    reader = Reader()
    records = reader.records(3 * THREADS)
    reader.keys.hold(DECRYPT)
    reader.look(records)
    until(lambda: reader.calls == THREADS)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(reader.decryptor.close)
        until(lambda: reader.decryptor._ahead._closed)
        reader.keys.release(DECRYPT)
        closing.result()
    assert reader.calls == THREADS
    assert reader.look(records) == 0
    with pytest.raises(ConfigError):
        reader.open(records[0])


def test_a_sweep_ends_idle_threads_and_the_next_look_starts_them_again() -> None:
    """Threads that were used a moment ago stay."""
    reader = Reader()
    first, second = reader.records(2)
    reader.look([first])
    reader.settle()
    until(lambda: not reader.decryptor._ahead._active)
    reader.decryptor.sweep()
    assert reader.decryptor._ahead._executor is not None
    reader.decryptor._ahead._used_at -= 3600
    reader.decryptor.sweep()
    assert reader.decryptor._ahead._executor is None
    assert reader.look([second]) == 1
    reader.settle()
    reader.decryptor.close()


def test_a_defect_in_work_ahead_stops_no_thread() -> None:
    """The next items are done as if nothing had been."""
    done: list[int] = []

    def work(item: int) -> None:
        if item % 2:
            raise ZeroDivisionError
        done.append(item)

    ahead = WorkAhead(work)
    for item in range(60):
        ahead.add(item)
    until(lambda: not ahead._known)
    assert sorted(done) == list(range(0, 60, 2))
    ahead.close()


def test_calls_made_at_once_are_refused_no_more_often_than_the_budget_allows() -> None:
    """A token is claimed for as long as a call is under way, and given back where nothing was refused."""
    budget = MissBudget(2, ManualClock())
    with budget.claim("t", 0), budget.claim("t", 0):
        with pytest.raises(KeyUnavailable), budget.claim("t", 0):
            pass
        budget.require("t", 1)
        budget.spend("t", 0)
    assert budget.left("t", 0) == 1


def test_a_record_with_many_envelope_headers_spends_nothing() -> None:
    """Opening it refuses it without a call; so does looking at it."""
    reader = Reader()
    headers = [pairs[0] for _, pairs in reader.records(3)]
    assert reader.decryptor.look_ahead("t", [headers, headers[:1]], 0) == 1
    reader.settle()
    assert reader.calls == 1
    reader.decryptor.close()


def test_what_is_too_long_for_a_header_does_not_wait_in_memory() -> None:
    """Whoever writes to the topic chooses how long it is."""
    reader = Reader()
    assert reader.decryptor.look_ahead("t", [[("streamcrypt", bytes(8 * 1024 + 1))]], 0) == 0
    reader.decryptor.close()


@pytest.mark.parametrize("other", [None, [("h", b"v")]])
def test_a_refused_record_in_a_block_is_told_of_once(other: Headers | None) -> None:
    """The block leaves it to be met by itself, and says nothing of it before."""
    reader = Reader()
    with Encryptor(LocalKeyProvider({"z": os.urandom(32)}, "z")) as stranger:
        value, headers = stranger.encrypt("t", b"v", b"k", other)
    block = [value] * 9, [b"k"] * 9, [headers] * 9
    assert reader.decryptor.open_block("t", *block, 0) == ([], [])
    with pytest.raises(UntrustedKey):
        reader.decryptor.open("t", value, b"k", headers, 0)
    assert len(reader.seen.of(DataKeyRefused)) == 1
    assert reader.decryptor.open_block("t", [], [], [], 0) == ([], [])
    reader.decryptor.close()
