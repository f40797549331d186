"""Opened data keys of a reader: one call for many misses, and no longer than allowed."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    KeyRefused,
    KeyUnavailable,
    StreamcryptError,
    UntrustedKey,
)
from streamcrypt.events import DataKeyDropped, DataKeyOpened, DataKeyRefused
from streamcrypt.keys.cache import DataKeyCache, MissBudget
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.waiting import until

Record = tuple[bytes, list[tuple[str, bytes | None]]]


class Reader:
    """A decryptor on a scripted key service and a manual clock, and a writer of records for it."""

    def __init__(self, cache: CachePolicy | None = None, **options: object) -> None:
        self.keyring = LocalKeyProvider({"a": os.urandom(32), "b": os.urandom(32)}, "a")
        self.keys = ScriptedKeyProvider(self.keyring)
        self.clock = ManualClock()
        self.seen = CollectingObserver()
        options = {"observer": self.seen, **options}
        self.decryptor = Decryptor(self.keys, cache, clock=self.clock, **options)

    def records(self, count: int, per_key: int = 1, topic: str = "t") -> list[Record]:
        """Seal so many records, so many under each data key."""
        with Encryptor(self.keyring, RotationPolicy(max_messages=per_key)) as writer:
            return [writer.encrypt(topic, b"value %d" % n, b"k") for n in range(count)]

    def open(self, record: Record, topic: str = "t", partition: int | None = None) -> bytes | None:
        """Open one record."""
        value, headers = record
        return self.decryptor.decrypt(topic, value, b"k", headers, partition)[0]

    @property
    def calls(self) -> int:
        """How many unwrappings the key service was asked for."""
        return self.keys.count(DECRYPT)


def inside(name: str) -> int:
    """How many threads are inside a function of that name."""
    frames = sys._current_frames().values()
    return sum(any(frame.f_code.co_name == name for frame, _ in traceback.walk_stack(top)) for top in frames)


def other_header(record: Record, number: int) -> Record:
    """The same record under a header that differs in the wrapped keys alone."""
    value, headers = record
    header = decode_header(headers[-1][1])
    more = EncryptedDataKey("local", f"b{number}", b"rewrapped")
    return value, [("streamcrypt", encode_header(replace(header, keys=(*header.keys, more))))]


def altered(record: Record, number: int) -> Record:
    """The same record with a wrapped key that does not open."""
    value, headers = record
    header = decode_header(headers[-1][1])
    junk = replace(header.keys[0], ciphertext=header.keys[0].ciphertext + number.to_bytes(4, "big"))
    return value, [("streamcrypt", encode_header(replace(header, keys=(junk,))))]


# --- One call for many misses


def test_a_thousand_misses_on_one_key_make_one_call() -> None:
    """From 20 threads at once, on different records of the key."""
    reader = Reader()
    records = reader.records(1000, per_key=1000)
    reader.keys.hold(DECRYPT)
    with ThreadPoolExecutor(20) as pool:
        opened = pool.map(reader.open, records)
        until(lambda: inside("load") == 20)
        reader.keys.release(DECRYPT)
        assert list(opened) == [b"value %d" % n for n in range(1000)]
    assert reader.calls == 1
    assert len(reader.seen.of(DataKeyOpened)) == 1


@pytest.mark.parametrize("error", [KeyUnavailable("away", request_id="r"), KeyRefused("no"), AuthenticationFailed("x")])
def test_threads_that_miss_together_fail_together_each_with_its_own_error(error: StreamcryptError) -> None:
    """One call, one kind of error, as many instances as threads."""
    reader = Reader()
    (record,) = reader.records(1)
    reader.keys.script(DECRYPT, error)
    reader.keys.hold(DECRYPT)
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(reader.open, record) for _ in range(16)]
        until(lambda: inside("load") == 16)
        reader.keys.release(DECRYPT)
        errors = [future.exception() for future in futures]
    assert reader.calls == 1
    assert {type(e) for e in errors} == {type(error)}
    assert {str(e) for e in errors} == {str(error)}
    assert len({id(e) for e in errors}) == 16


@pytest.mark.parametrize("defect", [ValueError("secret"), KeyboardInterrupt("secret")])
def test_a_defect_or_an_interrupt_in_one_thread_is_not_raised_in_others(defect: BaseException) -> None:
    """The others try for themselves."""
    reader = Reader()
    (record,) = reader.records(1)
    reader.keys.script(DECRYPT, defect)
    reader.keys.hold(DECRYPT)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(reader.open, record) for _ in range(8)]
        until(lambda: inside("load") == 8)
        reader.keys.release(DECRYPT)
        errors = [future.exception() for future in futures]
    assert [error for error in errors if error is not None] == [defect]
    assert reader.calls == 2


def test_a_bounded_wait_ends_while_unwrapping_goes_on() -> None:
    """The call that was waited for serves the next record."""
    reader = Reader(max_wait=0.01)
    (record,) = reader.records(1)
    reader.keys.hold(DECRYPT)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            reader.open(record)
    reader.keys.release(DECRYPT)
    until(lambda: len(reader.decryptor._entries) == 1)
    assert reader.open(record) == b"value 0"
    assert reader.calls == 1
    reader.decryptor.close()


def test_a_bounded_wait_gives_the_key_services_own_error() -> None:
    """Where it answers in time."""
    reader = Reader(max_wait=30)
    (record,) = reader.records(1)
    for error in (KeyRefused("denied"), ZeroDivisionError("defect")):
        reader.keys.script(DECRYPT, error)
        with pytest.raises(type(error)):
            reader.open(record)
    assert reader.open(record) == b"value 0"
    reader.decryptor.close()


# --- How much, and how long


def test_the_least_recently_used_key_goes_first() -> None:
    """Using a key keeps it."""
    reader = Reader(CachePolicy(max_entries=3))
    records = reader.records(4)
    for record in (*records[:3], records[0]):
        reader.clock.advance(1)
        reader.open(record)
    assert reader.calls == 3
    reader.clock.advance(1)
    reader.open(records[3])  # drops the second
    for record in (records[0], records[2], records[3]):
        reader.open(record)
    assert reader.calls == 4
    reader.open(records[1])
    assert reader.calls == 5
    dropped = [(e.data_key, e.reason) for e in reader.seen.of(DataKeyDropped)]
    assert dropped[0] == (decode_header(records[1][1][-1][1]).commitment.hex(), "lru")


def test_headers_that_differ_in_their_wrapped_keys_alone_drop_no_other_key() -> None:
    """Whoever can write records can make any number of them out of one; they have a small share for themselves."""
    reader = Reader(CachePolicy(max_entries=32))
    records = reader.records(32)
    for record in records[:31]:
        reader.open(record)
    for number in range(100):
        assert reader.open(other_header(records[0], number)) == b"value 0"
    entries = reader.decryptor._entries
    assert all(headers[-1][1] in entries for _, headers in records[:31])
    assert len(entries) == 32
    reader.open(records[31])
    assert len(entries) <= 32
    assert reader.open(other_header(records[31], 1)) == b"value 31"
    assert reader.calls == 32


def test_an_alias_is_kept_within_its_share_and_expires_with_its_key() -> None:
    """The oldest goes first, and a sweep takes the rest."""
    reader = Reader(CachePolicy(max_entries=64, ttl=60))
    (record,) = reader.records(1)
    reader.open(record)
    for number in range(10):
        reader.open(other_header(record, number))
    assert len(reader.decryptor._entries) == 1 + 64 // 16
    reader.clock.advance(60)
    reader.decryptor.sweep()
    assert not reader.decryptor._entries
    assert not reader.decryptor._cache._aliases


def test_keys_loaded_together_do_not_expire_together() -> None:
    """So that a fleet does not come back to KMS at once; none lives longer than its TTL."""
    reader = Reader(CachePolicy(ttl=60))
    for record in reader.records(200):
        reader.open(record)
    left = [entry.expires - reader.clock() for entry in reader.decryptor._entries.values()]
    assert 54 <= min(left) < 55
    assert 59 < max(left) <= 60


def test_a_block_whose_first_key_cannot_be_had_costs_one_call_and_one_event() -> None:
    """It raises; of a block that got further, what comes before is given."""
    reader = Reader()
    first, second = reader.records(2)
    reader.keys.away(DECRYPT, KeyUnavailable("away"))
    values, headers = [first[0]], [first[1]]
    with pytest.raises(KeyUnavailable):
        reader.decryptor.open_block("t", values, [b"k"], headers, 0)
    assert reader.calls == 1
    assert len(reader.seen.of(DataKeyRefused)) == 1
    reader.keys.back(DECRYPT)
    reader.open(first)
    reader.keys.away(DECRYPT, KeyUnavailable("away"))
    block = reader.decryptor.open_block("t", [first[0], second[0]], [b"k"] * 2, [first[1], second[1]], 0)
    assert block == ([b"value 0"], [None])


def test_there_are_never_more_entries_than_allowed() -> None:
    """Whatever threads do; for every key opened and not kept there is an event."""
    reader = Reader(CachePolicy(max_entries=32))
    records = reader.records(200)
    sizes = []

    def work(record: Record) -> None:
        reader.open(record)
        sizes.append(len(reader.decryptor._entries))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, records))
    assert max(sizes) <= 32
    opened, dropped = len(reader.seen.of(DataKeyOpened)), len(reader.seen.of(DataKeyDropped))
    assert opened - dropped == len(reader.decryptor._entries)


def test_a_key_is_unwrapped_again_after_its_ttl_in_spite_of_use() -> None:
    """So a revoked permission stops reading within that time."""
    reader = Reader(CachePolicy(ttl=60))
    (record,) = reader.records(1)
    for _ in range(54):
        reader.open(record)
        reader.clock.advance(0.999)
    assert reader.calls == 1
    reader.clock.advance(6.1)
    reader.keys.script(DECRYPT, KeyRefused("denied"))
    with pytest.raises(KeyRefused):
        reader.open(record)
    assert reader.open(record) == b"value 0"
    assert reader.calls == 3


def test_the_ttl_runs_from_before_the_call() -> None:
    """A slow key service does not lengthen it."""
    reader = Reader(CachePolicy(ttl=60))
    (record,) = reader.records(1)
    reader.keys.on_call = lambda _call: reader.clock.advance(10)
    reader.open(record)
    reader.clock.advance(43.9)
    reader.open(record)
    assert reader.calls == 1
    reader.clock.advance(6.1)
    reader.open(record)
    assert reader.calls == 2


def test_a_sweep_drops_what_is_past_its_ttl_and_nothing_else() -> None:
    """Those included that took over the expiry of another entry and stand behind younger ones."""
    reader = Reader(CachePolicy(ttl=60))
    first, second = reader.records(2)
    reader.open(first)
    reader.clock.advance(30)
    reader.open(second)
    reader.open(other_header(first, 1))
    reader.clock.advance(30)
    reader.decryptor.sweep()
    assert list(reader.decryptor._entries) == [second[1][-1][1]]
    assert [e.reason for e in reader.seen.of(DataKeyDropped)] == ["ttl", "ttl"]
    reader.clock.advance(30)
    reader.decryptor.sweep()
    assert not reader.decryptor._entries


def test_an_entry_loaded_again_does_not_hide_older_ones_from_their_ttl() -> None:
    """It takes its place behind them."""
    reader = Reader(CachePolicy(ttl=60))
    first, second, third = reader.records(3)
    reader.open(first)
    reader.open(other_header(first, 1))
    reader.clock.advance(50)
    reader.open(second)
    reader.clock.advance(10)
    reader.open(other_header(first, 1))
    reader.clock.advance(50)
    reader.open(third)
    assert second[1][-1][1] not in reader.decryptor._entries


def test_a_dropped_key_is_gone() -> None:
    """Nothing of ours keeps the plaintext key alive: not the cache, not its index, not an error."""
    reader = Reader(CachePolicy(max_entries=1, ttl=60))
    first, second = reader.records(2)
    reader.open(first)
    one = weakref.ref(reader.decryptor._entries[first[1][-1][1]].key)
    reader.open(second)
    two = weakref.ref(reader.decryptor._entries[second[1][-1][1]].key)
    gc.collect()
    assert one() is None
    assert two() is not None
    reader.clock.advance(60)
    reader.decryptor.sweep()
    gc.collect()
    assert two() is None


# --- What is remembered


def test_a_refused_header_is_refused_again_without_a_call_for_a_while() -> None:
    """Each time with an error of its own."""
    reader = Reader(CachePolicy(refusal_ttl=30))
    bad = altered(reader.records(1)[0], 1)
    errors = []
    for _ in range(3):
        with pytest.raises(AuthenticationFailed) as caught:
            reader.open(bad)
        errors.append(caught.value)
    assert reader.calls == 1
    assert len({id(e) for e in errors}) == 3
    reader.clock.advance(30)
    with pytest.raises(AuthenticationFailed):
        reader.open(bad)
    assert reader.calls == 2


@pytest.mark.parametrize("error", [KeyUnavailable("away"), KeyRefused("denied"), ConfigError("no such suite")])
def test_what_is_not_the_records_fault_is_not_remembered(error: StreamcryptError) -> None:
    """The next try asks again, and observers are told whose fault it is."""
    reader = Reader()
    (record,) = reader.records(1)
    for n in range(3):
        reader.keys.script(DECRYPT, error)
        with pytest.raises(type(error)):
            reader.open(record)
        assert reader.calls == n + 1
    assert reader.open(record) == b"value 0"
    assert {event.record_fault for event in reader.seen.of(DataKeyRefused)} == {False}


def test_a_remembered_refusal_holds_on_to_no_record() -> None:
    """An error that was raised would keep every frame that it passed, and the record in them."""
    reader = Reader()
    bad = altered(reader.records(1)[0], 1)

    class Payload(bytes):
        """A value that can be watched."""

    value = Payload(bad[0])
    gone = weakref.ref(value) if hasattr(value, "__weakref__") else None
    with pytest.raises(AuthenticationFailed):
        reader.open((value, bad[1]))
    ((error, _),) = reader.decryptor._cache._refusals.values()
    assert error.__traceback__ is None
    assert error.__context__ is None
    del value
    gc.collect()
    assert gone is None or gone() is None


def test_refusals_are_bounded_in_number_and_size() -> None:
    """Whoever writes to the topic chooses headers of 8 KiB and how many; digests are kept, not headers."""
    reader = Reader(CachePolicy(max_entries=10, refused_misses_per_minute=1000))
    (record,) = reader.records(1)
    for n in range(50):
        with pytest.raises(AuthenticationFailed):
            reader.open(altered(record, n))
    refusals = reader.decryptor._cache._refusals
    assert len(refusals) == 10
    assert {len(key) for key in refusals} == {32}
    reader.clock.advance(30)
    reader.decryptor.sweep()
    assert not reader.decryptor._cache._refusals


# --- The budget of refusals


def test_a_partition_that_spends_its_refusals_waits_until_time_fills_them_up() -> None:
    """It is no fault of the record then, known keys stay open, and other partitions do not suffer."""
    reader = Reader(CachePolicy(refused_misses_per_minute=6, refusal_ttl=1))
    good, fresh, other = reader.records(3)
    assert reader.open(good, partition=0) == b"value 0"
    for n in range(6):
        with pytest.raises(AuthenticationFailed):
            reader.open(altered(other, n), partition=0)
    calls = reader.calls
    for record in (altered(other, 6), fresh):
        with pytest.raises(KeyUnavailable):
            reader.open(record, partition=0)
    assert reader.calls == calls
    assert reader.open(good, partition=0) == b"value 0"
    with pytest.raises(AuthenticationFailed):
        reader.open(altered(other, 7), partition=1)
    reader.clock.advance(10)  # one token
    assert reader.open(fresh, partition=0) == b"value 1"  # costs none
    with pytest.raises(AuthenticationFailed):
        reader.open(altered(other, 8), partition=0)
    with pytest.raises(KeyUnavailable):
        reader.open(altered(other, 9), partition=0)


def test_the_budget_is_a_bucket_that_never_overflows() -> None:
    """Time fills it up to its size; a clock that goes back takes nothing."""
    clock = ManualClock()
    budget = MissBudget(6, clock)
    for left in range(6, 0, -1):
        assert budget.left("t", 0) == left
        budget.spend("t", 0)
    assert budget.left("t", 0) == 0
    clock.advance(-1000)
    assert budget.left("t", 0) == 0
    clock.advance(1010)
    assert budget.left("t", 0) == pytest.approx(1)
    clock.advance(10_000)
    assert budget.left("t", 0) == 6


def test_buckets_that_are_full_again_are_thrown_away() -> None:
    """The number of partitions that once were in trouble does not grow without bound."""
    clock = ManualClock()
    budget = MissBudget(600, clock)
    for n in range(5000):
        budget.spend("t", n)
        clock.advance(1)
    assert len(budget._buckets) < 1100


# --- Headers that differ in the wrapped keys alone


def test_a_header_that_differs_in_keys_alone_costs_no_call_and_no_time() -> None:
    """The data key is the same, and its absolute expiry too."""
    reader = Reader(CachePolicy(ttl=60))
    (record,) = reader.records(1)
    reader.open(record)
    reader.clock.advance(40)
    for n in range(5):
        assert reader.open(other_header(record, n)) == b"value 0"
    assert reader.calls == 1
    assert [event.shared for event in reader.seen.of(DataKeyOpened)] == [False] + [True] * 5
    reader.clock.advance(20)
    reader.open(other_header(record, 0))
    assert reader.calls == 2


def test_a_shared_data_key_is_held_to_the_policy_of_its_own_header() -> None:
    """A header that wraps the known data key under foreign KEKs alone is refused."""
    reader = Reader()
    (record,) = reader.records(1)
    reader.open(record)
    header = decode_header(record[1][-1][1])
    foreign = encode_header(replace(header, keys=(EncryptedDataKey("local", "foreign", b"x"),)))
    with pytest.raises(UntrustedKey):
        reader.open((record[0], [("streamcrypt", foreign)]))


def test_another_topic_is_another_data_key() -> None:
    """The topic is part of what the key is bound to, so nothing is shared."""
    reader = Reader()
    (record,) = reader.records(1)
    reader.open(record)
    header = decode_header(record[1][-1][1])
    moved = encode_header(replace(header, context=(("streamcrypt:topic", "u"),)))
    with pytest.raises(AuthenticationFailed):
        reader.open((record[0], [("streamcrypt", moved)]), topic="u")
    assert reader.calls == 2


# --- Policy on hits


def test_policy_is_checked_on_hits_for_every_topic() -> None:
    """Through topic names one data key may serve several topics, and no others."""
    reader = Reader(topic_names={"eu.t": "t", "us.t": "t"})
    (record,) = reader.records(1)
    for topic in ("t", "eu.t", "us.t"):
        assert reader.open(record, topic) == b"value 0"
    with pytest.raises(ContextMismatch):
        reader.open(record, "other")
    assert reader.calls == 1
    (entry,) = reader.decryptor._entries.values()
    assert set(entry.approved) == {"t", "eu.t", "us.t"}


def test_a_kek_that_is_trusted_no_more_opens_not_even_the_next_record() -> None:
    """In spite of a hit."""
    reader = Reader()
    (record,) = reader.records(1)
    reader.open(record)
    reader.keys.distrust("a")
    with pytest.raises(UntrustedKey):
        reader.open(record)


def two_keks(trusts: str) -> tuple[FixedKeyProvider, Record]:
    """A reader's key service that trusts some of two KEKs, and a record whose data key is wrapped under both."""
    both = (EncryptedDataKey("fixed", "a", b"x"), EncryptedDataKey("fixed", "b", b"x"))
    with Encryptor(FixedKeyProvider(bytes(32), (), both)) as writer:
        record = writer.encrypt("t", b"value", b"k")
    return FixedKeyProvider(bytes(32), {("fixed", name) for name in trusts}), record


def test_where_the_kek_that_opened_is_trusted_no_more_another_has_to_prove_itself() -> None:
    """That it stands in the header proves nothing: anybody may have put it there."""
    keys, (value, headers) = two_keks("ab")
    seen = CollectingObserver()
    with Decryptor(keys, observer=seen) as reader:
        reader.decrypt("t", value, b"k", headers)
        assert keys.unwrapped == ["a"]
        keys.trusts = {("fixed", "b")}
        keys.trust_generation += 1
        reader.decrypt("t", value, b"k", headers)
        assert keys.unwrapped == ["a", "b"]
        assert [event.reason for event in seen.of(DataKeyDropped)] == ["untrusted"]
        keys._dek = bytes(31)
        keys.trust_generation += 1
        reader.decrypt("t", value, b"k", headers)  # b is trusted still
        assert keys.unwrapped == ["a", "b"]


def test_a_data_key_is_not_shared_once_the_kek_that_opened_it_is_trusted_no_more() -> None:
    """A header that names a trusted KEK with junk for it must not ride on the old one."""
    keys, (value, headers) = two_keks("a")
    with Decryptor(keys) as reader:
        reader.decrypt("t", value, b"k", headers)
        keys.trusts = {("fixed", "b")}
        keys.trust_generation += 1
        keys._dek = bytes(31)  # what b makes of the junk
        header = decode_header(headers[-1][1])
        forged = encode_header(replace(header, keys=header.keys[1:]))
        with pytest.raises(AuthenticationFailed):
            reader.decrypt("t", value, b"k", [("streamcrypt", forged)])


# --- Observers and closing


def test_an_observer_may_use_the_decryptor() -> None:
    """It is called without the lock."""

    def observer(event: object) -> None:
        if isinstance(event, DataKeyDropped):
            reader.open(last)

    reader = Reader(CachePolicy(max_entries=2), observer=observer)
    *records, last = reader.records(5)
    for record in records:
        reader.open(record)
    reader.clock.advance(10_000)
    reader.decryptor.sweep()


def test_an_observer_that_raises_leaves_nobody_waiting() -> None:
    """The next call does not hang on the one that failed."""

    def observer(_event: object) -> None:
        if len(calls) < 4:
            calls.append(_event)
            raise ZeroDivisionError

    calls: list[object] = []
    reader = Reader(CachePolicy(max_entries=1), observer=observer)
    records = reader.records(3)
    for record in (*records, *records):
        for _ in range(5):
            try:
                assert reader.open(record).startswith(b"value")
            except ZeroDivisionError:
                continue
            break
        else:
            pytest.fail("it never opened")
    assert len(calls) == 4


def test_closing_drops_everything_and_keeps_nothing_from_then_on() -> None:
    """Also where a data key comes back only afterwards."""
    reader = Reader()
    first, second = reader.records(2)
    reader.open(first)
    key = weakref.ref(reader.decryptor._entries[first[1][-1][1]].key)
    reader.keys.hold(DECRYPT)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(reader.open, second)
        until(lambda: reader.calls == 2)
        reader.decryptor.close()
        reader.keys.release(DECRYPT)
        assert isinstance(late.exception(), ConfigError)
    gc.collect()
    assert key() is None
    assert not reader.decryptor._entries
    for record in (first, second):
        with pytest.raises(ConfigError, match="closed"):
            reader.open(record)
    assert reader.calls == 2
    reader.decryptor.close()


def test_one_key_never_waits_for_another() -> None:
    """While one unwrapping hangs, others go on."""
    reader = Reader()
    slow, quick = reader.records(2)
    stuck = threading.current_thread().name
    reader.keys.hold(DECRYPT, lambda call: call.thread != stuck)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(reader.open, slow)
        until(lambda: reader.calls == 1)
        assert reader.open(quick) == b"value 1"
        reader.keys.release(DECRYPT)
        assert late.result() == b"value 0"


def test_the_cache_is_usable_by_itself() -> None:
    """It asks for an entry and keeps it; the reader decides what an entry is."""
    cache = DataKeyCache(CachePolicy(), ManualClock(), CollectingObserver())
    reader = Reader()
    (record,) = reader.records(1)
    reader.open(record)
    (entry,) = reader.decryptor._entries.values()
    asked: list[float] = []

    def unwrap(expires: float) -> object:
        asked.append(expires)
        return entry

    assert cache.load(b"h", unwrap) is cache.load(b"h", unwrap) is entry
    assert len(asked) == 1
    assert 1_810.0 <= asked[0] <= 1_900.0
    assert cache.same_data_key(entry.identity) is entry
    assert cache.same_data_key(b"other") is None
    cache.forget(b"unknown", "ttl")


@pytest.mark.parametrize("error", [KeyUnavailable("away"), AuthenticationFailed("forged")])
@pytest.mark.parametrize("max_wait", [None, 30.0])
def test_a_failure_leaves_no_cycle_that_holds_the_record(error: StreamcryptError, max_wait: float | None) -> None:
    """The frames that an error passed end with the error, not with the next collection."""

    class Watched:
        """Stands for what the caller's frames hold."""

    def fail() -> weakref.ref[Watched]:
        watched = Watched()
        with pytest.raises(type(error)):
            reader.open(record)
        return weakref.ref(watched)

    reader = Reader(max_wait=max_wait)
    (record,) = reader.records(1)
    reader.keys.script(DECRYPT, error)
    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()
    reader.decryptor.close()
