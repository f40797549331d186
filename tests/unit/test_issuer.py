"""Data keys for writing: replaced exactly when due, minted ahead, and never mixed up by threads."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.events import DataKeyMinted, DataKeyMintFailed, DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from streamcrypt.testing.slow_keys import GENERATE, KeyCall, ScriptedKeyProvider
from tests.waiting import until

AAD = 2  # bytes of AAD of a record whose key is null


class Writer:
    """An encryptor on a scripted key service, a manual clock and a wall clock that can be set apart."""

    def __init__(self, rotation: RotationPolicy | None = None, **options: object) -> None:
        self.keys = ScriptedKeyProvider(LocalKeyProvider.generate())
        self.clock = ManualClock()
        self.wall = ManualClock(5_000_000.0)
        self.seen = CollectingObserver()
        options = {"observer": self.seen, **options}
        self.encryptor = Encryptor(self.keys, rotation, clock=self.clock, wall_clock=self.wall, **options)

    def seal(self, value: bytes = b"v", topic: str = "t", partition: int | None = None) -> tuple[bytes, bytes]:
        """Seal one record; give header and nonce."""
        sealed, headers = self.encryptor.encrypt(topic, value, partition=partition)
        return headers[-1][1], sealed[:12]

    def header(self, value: bytes = b"v", topic: str = "t") -> bytes:
        """Seal one record; give its header."""
        return self.seal(value, topic)[0]

    def sleep(self, seconds: float) -> None:
        """Let both clocks run."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def minted(self, count: int) -> bool:
        """Whether so many keys are there, told of included."""
        return len(self.seen.of(DataKeyMinted)) >= count


def waiting_in(name: str, threads: set[int]) -> int:
    """How many of the threads are inside a function of that name."""
    frames = sys._current_frames()
    return sum(
        any(frame.f_code.co_name == name for frame, _ in traceback.walk_stack(frames[ident]))
        for ident in threads
        if ident in frames
    )


@contextmanager
def all_at_once(count: int, work: Callable[[], object]):
    """Run ``work`` in so many threads; give their futures once every one waits for a data key."""
    idents: set[int] = set()

    def run() -> object:
        idents.add(threading.get_ident())
        return work()

    with ThreadPoolExecutor(count) as pool:
        futures: list[Future[object]] = [pool.submit(run) for _ in range(count)]
        until(lambda: len(idents) == count and waiting_in("_await", idents) == count)
        yield futures


def numbers(nonces: list[bytes]) -> list[int]:
    """Sequence numbers, sorted."""
    return sorted(int.from_bytes(nonce[4:], "big") for nonce in nonces)


# --- Exact rotation


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 100])
def test_no_record_passes_the_number_of_messages(limit: int) -> None:
    """Every key but the last seals exactly as many as it may, and one key at most is minted in vain. spec: 7.2.1"""
    writer, total = Writer(RotationPolicy(max_messages=limit)), 50
    headers = [writer.header() for _ in range(total)]
    counts = [headers.count(h) for h in dict.fromkeys(headers)]
    needed = -(-total // limit)
    assert counts == [limit] * (total // limit) + ([total % limit] if total % limit else [])
    writer.encryptor.close()
    assert needed <= writer.keys.count(GENERATE) <= needed + 1


@pytest.mark.parametrize("limit", [1, 10, 37])
def test_no_record_passes_the_number_of_messages_under_threads(limit: int) -> None:
    """Eight threads: keys = ceil(n/N), none above N, no nonce twice under a key. spec: 5.1.3, 7.2.1"""
    writer, each = Writer(RotationPolicy(max_messages=limit)), 250
    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(lambda: [writer.seal() for _ in range(each)]) for _ in range(8)]
        records = [record for done in work for record in done.result()]
    by_key: dict[bytes, list[bytes]] = {}
    for header, nonce in records:
        by_key.setdefault(header, []).append(nonce)
    assert len(by_key) == -(-8 * each // limit)
    for nonces in by_key.values():
        assert numbers(nonces) == list(range(1, len(nonces) + 1))
    assert sorted(map(len, by_key.values()))[1:] == [limit] * (len(by_key) - 1)
    assert max(map(len, by_key.values())) <= limit
    writer.encryptor.close()
    assert writer.keys.count(GENERATE) <= len(by_key) + 1
    # What observers were told is what was sealed.
    retired = writer.seen.of(DataKeyRetired)
    assert sum(event.messages for event in retired) == 8 * each
    # A thread that holds a number and has not said its size when a key is retired is told of as more.
    assert sum(event.bytes for event in retired) >= 8 * each * (1 + AAD)


def test_bytes_are_counted_with_the_aad_and_never_passed() -> None:
    """Two records of exactly half fit; one byte more and each has its own key. spec: 7.2.1"""
    for size, expected in ((50 - AAD, [2, 2, 1]), (51 - AAD, [1] * 5)):
        writer = Writer(RotationPolicy(max_bytes=100))
        headers = [writer.header(bytes(size)) for _ in range(5)]
        assert list(Counter(headers).values()) == expected


def test_a_record_larger_than_the_bytes_of_a_key_has_a_key_of_its_own() -> None:
    """It is sealed nevertheless. spec: 7.1.1"""
    writer = Writer(RotationPolicy(max_bytes=100))
    headers = [writer.header(bytes(size)) for size in (10, 500, 10, 10)]
    assert headers[0] != headers[1] != headers[2] == headers[3]
    assert headers[0] != headers[2]


def test_bytes_are_never_passed_under_threads() -> None:
    """Whatever the order in which sizes come. spec: 7.2.1"""
    writer, sealed = Writer(RotationPolicy(max_bytes=1000)), []
    with ThreadPoolExecutor(8) as pool:
        for size in range(400):
            pool.submit(lambda n: sealed.append((writer.header(bytes(n)), n + AAD)), size)
    assert len(sealed) == 400
    used: Counter[bytes] = Counter()
    for header, size in sealed:
        used[header] += size
    assert max(used.values()) <= 1000


def test_age_is_exact() -> None:
    """Up to the last moment before, and not at it; from minting, whatever the use. spec: 7.2.1"""
    writer = Writer(RotationPolicy(max_age=60))
    first = writer.header()
    writer.sleep(59.999)
    assert writer.header() == first
    until(lambda: writer.minted(2))  # ahead, a moment ago
    writer.sleep(0.001)
    second = writer.header()
    assert second != first
    writer.sleep(59.998)
    assert writer.header() == second
    writer.sleep(0.001)
    assert writer.header() != second


def test_a_key_minted_ahead_ages_from_its_own_minting() -> None:
    """Unused for too long, it is dropped as too old, with that reason."""
    writer = Writer(RotationPolicy(max_messages=2, max_age=60))
    first = writer.header()
    until(lambda: writer.minted(2))
    writer.sleep(60)
    assert writer.header() != first
    ahead = writer.seen.of(DataKeyMinted)[1].data_key
    (retired,) = (event for event in writer.seen.of(DataKeyRetired) if event.data_key == ahead)
    assert (retired.reason, retired.messages, retired.age) == ("age", 0, 60)


def test_a_clock_that_goes_back_drops_the_key_for_good() -> None:
    """Also the one minted ahead, and also where the key service is away and the clock catches up."""
    writer = Writer(RotationPolicy(max_messages=10))
    first = writer.header()
    writer.clock.advance(-1.0)
    writer.keys.away(GENERATE, KeyUnavailable("away"))
    with pytest.raises(KeyUnavailable):
        writer.seal()
    writer.clock.advance(1.5)
    with pytest.raises(KeyUnavailable):
        writer.seal()
    writer.keys.back(GENERATE)
    assert writer.header() != first
    assert [event.reason for event in writer.seen.of(DataKeyRetired)] == ["clock"]


def test_the_next_key_does_not_outlive_a_clock_that_goes_back_either() -> None:
    """It was minted before the jump as well."""
    writer = Writer(RotationPolicy(max_messages=2))
    writer.seal()
    until(lambda: writer.minted(2))
    before = {event.data_key for event in writer.seen.of(DataKeyMinted)}
    writer.clock.advance(-1.0)
    assert decode_header(writer.header()).commitment.hex() not in before


@pytest.mark.parametrize("jump", [-3600.0, -6.0, 6.0, 3600.0])
def test_a_wall_clock_that_jumps_drops_the_key_within_a_second(jump: float) -> None:
    """A restored snapshot shows in this way."""
    writer = Writer()
    first = writer.header()
    writer.wall.advance(jump)
    writer.sleep(1.0)
    assert writer.header() != first
    assert [event.reason for event in writer.seen.of(DataKeyRetired)] == ["clock"]


def test_a_host_that_was_suspended_keeps_its_key() -> None:
    """Both clocks count suspend, so nothing has jumped; small corrections are no jump either."""
    writer = Writer()
    first = writer.header()
    writer.sleep(100.0)
    writer.wall.advance(4.0)
    assert writer.header() == first


# --- Minting ahead


def test_the_next_key_is_minted_in_the_background_and_switched_to_without_a_call() -> None:
    """While minting waits, records are sealed; when the current key is used up the next one stands ready."""
    writer = Writer(RotationPolicy(max_messages=10))
    headers = [writer.header() for _ in range(5)]
    writer.keys.hold(GENERATE)
    headers += [writer.header() for _ in range(5)]  # none of them waits at the gate
    until(lambda: writer.keys.count(GENERATE) == 2)
    assert len(set(headers)) == 1
    writer.keys.release(GENERATE)
    until(lambda: writer.minted(2))
    writer.keys.hold(GENERATE)
    assert writer.header() not in headers  # the gate is closed: this was no call of this thread
    writer.keys.release(GENERATE)
    assert [call.thread.partition("_")[0] for call in writer.keys.calls[1:]] == ["streamcrypt-mint"] * (
        writer.keys.count(GENERATE) - 1
    )
    assert [event.ahead for event in writer.seen.of(DataKeyMinted)][:2] == [False, True]
    writer.encryptor.close()


@pytest.mark.parametrize(
    ("rotation", "value", "seconds"),
    [
        (RotationPolicy(max_messages=1), b"v", 0.0),
        (RotationPolicy(max_messages=3), b"v", 0.0),
        (RotationPolicy(max_bytes=100), bytes(90), 0.0),
        (RotationPolicy(max_bytes=100), bytes(30), 0.0),
        (RotationPolicy(max_age=1), b"v", 0.86),
        (RotationPolicy(max_age=300), b"v", 256.0),
    ],
)
def test_the_next_key_is_under_way_before_any_limit_is_reached(
    rotation: RotationPolicy, value: bytes, seconds: float
) -> None:
    """Also where one record uses up a key, and where a key lives for a second."""
    writer = Writer(rotation)
    first = writer.header(value)
    if seconds or rotation.max_messages == 3 or len(value) == 30:
        writer.sleep(seconds)
        assert writer.header(value) == first
    until(lambda: writer.minted(2))
    writer.keys.hold(GENERATE)
    writer.sleep(rotation.max_age - seconds if seconds else 0.0)
    while (header := writer.header(value)) == first:
        pass
    writer.keys.release(GENERATE)
    assert header != first
    writer.encryptor.close()


def test_a_failed_minting_ahead_hurts_nobody_and_is_tried_again_later() -> None:
    """Not at once, so that a key service in trouble is not hammered, but before the key is due."""
    writer = Writer(RotationPolicy(max_messages=1000))
    writer.keys.script(GENERATE, None, KeyUnavailable("away"))
    first = [writer.header() for _ in range(600)]
    until(lambda: len(writer.seen.of(DataKeyMintFailed)) == 1)
    (failed,) = writer.seen.of(DataKeyMintFailed)
    assert (failed.ahead, failed.error, failed.detail, failed.retriable) == (True, "KeyUnavailable", "away", True)
    first += [writer.header() for _ in range(100)]
    assert writer.keys.count(GENERATE) == 2
    writer.sleep(3.5)
    first.append(writer.header())
    until(lambda: writer.minted(2))
    assert len(set(first)) == 1
    writer.keys.hold(GENERATE)
    first += [writer.header() for _ in range(299)]
    assert len(set(first)) == 1
    assert writer.header() not in first
    writer.keys.release(GENERATE)
    writer.encryptor.close()


def test_a_key_that_is_due_while_the_key_service_is_away_seals_nothing_more_without_a_grace() -> None:
    """The caller is told, nothing is counted, and the next call succeeds once the service is back. spec: 7.2.1"""
    writer = Writer(RotationPolicy(max_messages=3, grace=0))
    writer.keys.script(GENERATE, None)
    writer.keys.away(GENERATE, KeyUnavailable("away", key_id="k", request_id="r"))
    old = {writer.header() for _ in range(3)}
    for _ in range(5):
        with pytest.raises(KeyUnavailable) as caught:
            writer.seal()
        assert (caught.value.key_id, caught.value.request_id) == ("k", "r")
    writer.keys.back(GENERATE)
    records = [writer.seal() for _ in range(3)]
    assert {header for header, _ in records}.isdisjoint(old)
    assert len({header for header, _ in records}) == 1
    assert numbers([nonce for _, nonce in records]) == [1, 2, 3]
    (retired,) = writer.seen.of(DataKeyRetired)
    assert (retired.reason, retired.messages) == ("messages", 3)


@pytest.mark.parametrize("error", [KeyRefused("denied"), ConfigError("wrong usage")])
def test_the_key_services_own_error_reaches_the_caller(error: StreamcryptError) -> None:
    """By type and text."""
    writer = Writer()
    writer.keys.script(GENERATE, error)
    with pytest.raises(type(error), match=str(error)):
        writer.seal()
    assert writer.header()


def test_many_threads_that_wait_make_one_call_and_each_has_an_error_of_its_own() -> None:
    """An instance that two threads raise would show the traceback of both."""
    writer = Writer()
    writer.keys.script(GENERATE, KeyUnavailable("away"))
    writer.keys.hold(GENERATE)
    with all_at_once(32, writer.seal) as futures:
        writer.keys.release(GENERATE)
        errors = [future.exception() for future in futures]
    assert writer.keys.count(GENERATE) == 1
    assert {type(error) for error in errors} == {KeyUnavailable}
    assert len({id(error) for error in errors}) == 32
    assert all(error.__cause__ is None and error.__suppress_context__ for error in errors)


def test_many_threads_that_wait_share_the_key_that_comes() -> None:
    """One call, one header, numbers 1 to 32."""
    writer = Writer()
    writer.keys.hold(GENERATE)
    with all_at_once(32, writer.seal) as futures:
        writer.keys.release(GENERATE)
        records = [future.result() for future in futures]
    assert writer.keys.count(GENERATE) == 1
    assert len({header for header, _ in records}) == 1
    assert numbers([nonce for _, nonce in records]) == list(range(1, 33))


@pytest.mark.parametrize("defect", [ValueError("secret"), KeyboardInterrupt("secret")])
def test_a_defect_or_an_interrupt_in_one_thread_is_not_raised_in_others(defect: BaseException) -> None:
    """The others try for themselves; no text of a foreign exception reaches an observer."""
    writer = Writer()
    writer.keys.script(GENERATE, defect)
    writer.keys.hold(GENERATE)
    with all_at_once(8, writer.seal) as futures:
        writer.keys.release(GENERATE)
        errors = [future.exception() for future in futures]
    assert [error for error in errors if error is not None] == [defect]
    (failed,) = writer.seen.of(DataKeyMintFailed)
    assert (failed.error, failed.detail, failed.retriable) == (type(defect).__name__, "", False)


def test_an_interrupted_wait_leaves_the_lock_as_it_was() -> None:
    """The thread that mints is interrupted; afterwards the lock is free and everything works."""
    writer = Writer()
    writer.keys.script(GENERATE, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        writer.seal()
    assert not writer.encryptor.topic("t").issuer.lock.locked()
    assert numbers([writer.seal()[1]]) == [1]


def test_minting_ahead_that_meets_a_defect_hurts_nobody() -> None:
    """It is told of, and when the key is due the caller mints."""
    writer = Writer(RotationPolicy(max_messages=4))
    writer.keys.script(GENERATE, None, ZeroDivisionError("x"))
    headers = [writer.header() for _ in range(4)]
    until(lambda: len(writer.seen.of(DataKeyMintFailed)) == 1)
    assert writer.header() not in headers


def test_who_is_due_does_not_wait_behind_other_topics() -> None:
    """With every background thread stuck, a due topic mints on the caller's own thread."""
    writer = Writer(RotationPolicy(max_messages=2))
    writer.keys.hold(GENERATE, lambda call: call.thread.startswith("streamcrypt-mint"))
    topics = [f"t{n}" for n in range(40)]
    before = {topic: writer.header(topic=topic) for topic in topics}
    writer.seal(topic="t39")
    assert writer.header(topic="t39") != before["t39"]
    writer.keys.release(GENERATE)
    writer.encryptor.close()


def test_a_key_older_than_allowed_on_arrival_is_an_error_and_no_endless_loop() -> None:
    """A key service slower than max_age, twice in a row, is unavailable."""
    writer = Writer(RotationPolicy(max_age=1))
    writer.keys.on_call = lambda _call: writer.sleep(1.0)
    with pytest.raises(KeyUnavailable, match="max_age"):
        writer.seal()
    assert writer.keys.count(GENERATE) == 2
    writer.keys.on_call = None
    assert writer.header()


def test_a_key_that_came_too_late_once_is_minted_once_more() -> None:
    """A host that slept during the call costs no error."""
    writer = Writer(RotationPolicy(max_age=60))
    naps = iter([60.0, 0.0])
    writer.keys.on_call = lambda _call: writer.sleep(next(naps))
    assert numbers([writer.seal()[1]]) == [1]
    assert (writer.keys.count(GENERATE), len(writer.seen.of(DataKeyMinted))) == (2, 1)


def test_a_bounded_wait_ends_while_minting_goes_on() -> None:
    """The same call that was waited for serves the next record."""
    writer = Writer(max_wait=0.01)
    writer.keys.hold(GENERATE)
    for _ in range(3):
        with pytest.raises(KeyUnavailable):
            writer.seal()
    writer.keys.release(GENERATE)
    until(lambda: writer.minted(1))
    assert numbers([writer.seal()[1]]) == [1]
    assert writer.keys.count(GENERATE) == 1
    writer.encryptor.close()


def test_a_bounded_wait_gives_the_key_services_own_error() -> None:
    """Where it answers in time."""
    writer = Writer(max_wait=30)
    for error in (KeyRefused("denied"), ZeroDivisionError("defect")):
        writer.keys.script(GENERATE, error)
        with pytest.raises(type(error)):
            writer.seal()
    assert writer.header()
    writer.encryptor.close()


# --- What a key service may get wrong


def test_a_data_key_of_a_wrong_size_is_the_key_services_fault() -> None:
    """Not the record's. spec: 4.2.1"""
    keys = FixedKeyProvider(bytes(31), (), (EncryptedDataKey("fixed", "a", b"x"),))
    with Encryptor(keys) as writer, pytest.raises(KeyRefused):
        writer.encrypt("t", b"v")


@pytest.mark.parametrize(
    "encrypted", [(EncryptedDataKey("fixed", "a", bytes(6145)),), (EncryptedDataKey("fixed", "a", b"x"),) * 2]
)
def test_what_makes_no_envelope_is_a_setting_that_is_wrong(encrypted: tuple[EncryptedDataKey, ...]) -> None:
    """The writer of such an envelope hears of it, not its readers."""
    with Encryptor(FixedKeyProvider(bytes(32), (), encrypted)) as writer, pytest.raises(ConfigError):
        writer.encrypt("t", b"v")


def test_a_context_too_large_for_a_header_is_a_setting_that_is_wrong() -> None:
    """It shows with the first record."""
    writer = Writer(context={f"name{n}": "v" * 1000 for n in range(12)})
    with pytest.raises(ConfigError):
        writer.seal()


# --- Observers


def test_an_observer_may_use_the_encryptor() -> None:
    """It is called without any lock."""
    headers: list[bytes] = []
    busy = True

    def observer(event: object) -> None:
        if busy and isinstance(event, (DataKeyRetired, DataKeyMinted)) and len(headers) < 50:
            headers.append(writer.header(topic="log"))

    writer = Writer(RotationPolicy(max_messages=2), observer=observer)
    for _ in range(10):
        writer.seal()
    assert headers
    busy = False
    writer.encryptor.close()


def test_an_observer_that_raises_costs_no_key() -> None:
    """The key that it was told of seals the next record."""
    calls = []

    def observer(event: object) -> None:
        calls.append(event)
        if len(calls) == 1:
            raise ZeroDivisionError

    writer = Writer(observer=observer)
    with pytest.raises(ZeroDivisionError):
        writer.seal()
    assert writer.header() == writer.header()
    assert writer.keys.count(GENERATE) == 1


def test_events_tell_the_whole_life_of_a_key() -> None:
    """Minted, then retired with what it sealed, and no event holds more than public facts."""
    writer = Writer(RotationPolicy(max_messages=2))
    first = decode_header(writer.header(b"plaintext"))
    writer.header(b"plaintext")
    second = decode_header(writer.header(b"plaintext"))
    writer.encryptor.retire("t", "failure")
    writer.encryptor.close()
    events = [(e.data_key, e.reason, e.messages, e.bytes) for e in writer.seen.of(DataKeyRetired) if e.messages]
    size = len(b"plaintext") + AAD
    assert events == [
        (first.commitment.hex(), "messages", 2, 2 * size),
        (second.commitment.hex(), "failure", 1, size),
    ]
    minted = writer.seen.of(DataKeyMinted)
    assert {e.data_key for e in minted} == {e.data_key for e in writer.seen.of(DataKeyRetired)}
    assert minted[0].key_ids == ("local-1",)
    assert "plaintext" not in repr(writer.seen.events)


# --- Retiring and closing


def test_a_retired_key_seals_nothing_more_and_the_next_one_stands_ready() -> None:
    """No call is needed where one was minted ahead."""
    writer = Writer(RotationPolicy(max_messages=4))
    first = {writer.header() for _ in range(3)}
    until(lambda: writer.minted(2))
    writer.encryptor.retire("t", "failure")
    writer.keys.hold(GENERATE)
    assert writer.header() not in first
    writer.keys.release(GENERATE)
    writer.encryptor.retire("unknown", "failure")  # nothing to retire
    writer.encryptor.close()


@pytest.mark.parametrize("wait", [None, 10.0], ids=["on its own thread", "on another"])
def test_after_a_rotation_no_key_is_used_whose_minting_began_before_it(wait: float | None) -> None:
    """Neither the one in use nor those in stock, nor one that is on its way just then; each is told of."""
    writer = Writer(RotationPolicy(max_messages=2), max_wait=wait)
    first = writer.header()
    until(lambda: writer.minted(2))
    writer.keys.hold(GENERATE)
    second = writer.header(), writer.header()
    until(lambda: writer.keys.count(GENERATE) >= 3)
    asked = len(writer.keys.calls)
    writer.encryptor.rotate()
    with ThreadPoolExecutor(1) as pool:
        after = pool.submit(writer.header)
        # The record waits for a call of its own, and not for one that began earlier.
        until(lambda: len(writer.keys.calls) > asked)
        writer.keys.release(GENERATE)
        header = after.result(10)
    # Closed before it comes, the one on its way would be retired for that.
    until(lambda: [event.reason for event in writer.seen.of(DataKeyRetired)].count("operator") >= 2)
    writer.encryptor.close()
    assert header not in {first, *second}
    minted = [event.data_key for event in writer.seen.of(DataKeyMinted)]
    retired = {event.data_key: event.reason for event in writer.seen.of(DataKeyRetired)}
    assert set(retired) == set(minted)
    assert retired[decode_header(header).commitment.hex()] == "closed"


def test_a_record_that_waits_for_a_key_when_it_is_rotated_gets_one_minted_after_it() -> None:
    """Its own call began before."""
    writer = Writer()
    writer.keys.hold(GENERATE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(writer.header)
        until(lambda: writer.keys.count(GENERATE) == 1)
        writer.encryptor.rotate()
        writer.keys.release(GENERATE)
        header = waiting.result(10)
    assert writer.keys.count(GENERATE) == 2
    [retired] = writer.seen.of(DataKeyRetired)
    assert (retired.reason, retired.messages) == ("operator", 0)
    assert retired.data_key != decode_header(header).commitment.hex()


def test_only_the_key_that_failed_is_retired_where_its_header_is_given() -> None:
    """Many failed deliveries under one key cost one key, not those after it."""
    writer = Writer()
    old = writer.header()
    for _ in range(10):
        writer.encryptor.retire("t", "failure", old)
        new = writer.header()
    assert new != old
    assert writer.header() == new
    assert [event.reason for event in writer.seen.of(DataKeyRetired)] == ["failure"]
    assert writer.keys.count(GENERATE) == 2


def test_a_key_of_a_topic_that_is_written_no_more_is_dropped() -> None:
    """By the minting of others, or by a sweep; keys that still serve stay."""
    writer = Writer(RotationPolicy(max_age=300, grace=60))
    writer.seal(topic="idle")
    writer.sleep(200)
    writer.seal(topic="busy")
    writer.sleep(160)
    idle, busy = (writer.encryptor.topic(topic).issuer for topic in ("idle", "busy"))
    writer.seal(topic="another")
    assert idle.lease.key is None
    assert busy.lease.key is not None
    assert [(e.topic, e.reason) for e in writer.seen.of(DataKeyRetired)] == [("idle", "age")]
    writer.sleep(360)
    writer.encryptor.sweep()
    assert busy.lease.key is None


def test_closing_drops_every_key_even_where_an_observer_raises() -> None:
    """It hears of the defect, and no key stays."""

    def observer(event: object) -> None:
        if isinstance(event, DataKeyRetired):
            raise ZeroDivisionError

    writer = Writer(observer=observer)
    for topic in "abc":
        writer.seal(topic=topic)
    with pytest.raises(ZeroDivisionError):
        writer.encryptor.close()
    assert [writer.encryptor._sealers[topic].issuer.lease.key for topic in "abc"] == [None] * 3
    assert writer.encryptor._minter._executor is None


def test_closing_drops_every_key() -> None:
    """The current one and the next, of every topic; no sealing afterwards, by whatever way."""
    writer = Writer(RotationPolicy(max_messages=2))
    for topic in "ab":
        writer.seal(topic=topic)
    until(lambda: writer.minted(4))
    sealer = writer.encryptor.topic("a")
    keys = [weakref.ref(lease.key) for lease in (sealer.issuer.lease, *sealer.issuer._stock)]
    writer.encryptor.close()
    writer.encryptor.close()
    gc.collect()
    assert [key() for key in keys] == [None, None]
    assert [event.reason for event in writer.seen.of(DataKeyRetired)] == ["closed"] * 4
    for act in (
        lambda: sealer.seal(b"v", None, None, 0),
        writer.seal,
        lambda: writer.seal(topic="new"),
        lambda: writer.encryptor.topic("new"),
        lambda: writer.encryptor.ready("a"),
        lambda: writer.encryptor.ready("new"),
    ):
        with pytest.raises(ConfigError, match="closed"):
            act()


def test_closing_while_keys_are_minted_keeps_none_of_them() -> None:
    """Who waits is told, and who mints throws its key away."""
    writer = Writer()
    writer.keys.hold(GENERATE)
    with all_at_once(4, writer.seal) as futures:
        for sealer in list(writer.encryptor._sealers.values()):
            sealer.issuer.close()
        writer.keys.release(GENERATE)
        errors = [future.exception() for future in futures]
    assert [type(error) for error in errors] == [ConfigError] * 4
    assert [event.reason for event in writer.seen.of(DataKeyRetired)] == ["closed"]
    assert not sealer.issuer._stock


def test_a_replaced_key_is_gone_once_nobody_holds_it() -> None:
    """Nothing of ours keeps it."""
    writer = Writer(RotationPolicy(max_messages=1))
    writer.seal()
    key = weakref.ref(writer.encryptor.topic("t").issuer.lease.key)
    writer.seal()
    gc.collect()
    assert key() is None
    writer.encryptor.close()


def test_being_ready_means_that_the_next_record_makes_no_call() -> None:
    """And it consumes no number."""
    writer = Writer()
    writer.encryptor.ready("t")
    writer.keys.hold(GENERATE)
    assert numbers([writer.seal()[1]]) == [1]
    assert writer.keys.count(GENERATE) == 1
    writer.keys.release(GENERATE)


def test_topics_have_keys_of_their_own() -> None:
    """Each in its own encryption context. spec: 4.4.1, 9.1.2"""
    writer = Writer(topic_names={"eu.b": "b"}, context={"app": "x"})
    headers = {writer.header(topic=topic) for topic in ("a", "b", "eu.b")}
    assert len(headers) == 3
    assert [call.context for call in writer.keys.calls] == [
        {"app": "x", "streamcrypt:topic": "a"},
        {"app": "x", "streamcrypt:topic": "b"},
        {"app": "x", "streamcrypt:topic": "b"},
    ]


def test_sealing_while_the_interpreter_ends_needs_no_thread() -> None:
    """A last flush past half of a key must not fail for want of a background thread."""
    script = """
import atexit, streamcrypt as sc
sealer = sc.Encryptor(sc.LocalKeyProvider.generate(), sc.RotationPolicy(max_messages=4))
opener = sc.Decryptor(sealer._minter.keys, max_wait=5)
def last():
    records = [sealer.encrypt("t", b"v") for _ in range(10)]
    assert [opener.decrypt("t", value, None, headers)[0] for value, headers in records] == [b"v"] * 10
    print("sealed", len({headers[-1][1] for _, headers in records}))
atexit.register(last)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("sealed 3\n", "", 0)


def test_work_that_found_no_thread_is_given_up_for_good() -> None:
    """An executor may keep what it could not start; when it runs at last it mints nothing."""
    writer = Writer()
    writer.seal()
    abandoned: Future[None] = Future()
    writer.encryptor.topic("t").issuer._mint(abandoned, ahead=True)
    assert writer.keys.count(GENERATE) == 1


def test_a_provider_is_told_where_it_is_called_from() -> None:
    """The first key of a topic is minted on the caller's thread."""
    calls: list[KeyCall] = []
    writer = Writer()
    writer.keys.on_call = calls.append
    writer.seal()
    assert [call.thread for call in calls] == [threading.current_thread().name]


@pytest.mark.parametrize("max_wait", [None, 30.0])
def test_a_failure_leaves_no_cycle_that_holds_the_record(max_wait: float | None) -> None:
    """The frames that an error passed hold the plaintext: they end with the error, not with the next collection."""

    class Watched:
        """Stands for what the caller's frames hold."""

    def fail() -> weakref.ref[Watched]:
        watched = Watched()
        with pytest.raises(KeyUnavailable):
            writer.seal()
        return weakref.ref(watched)

    writer = Writer(max_wait=max_wait)
    writer.keys.script(GENERATE, KeyUnavailable("away"))
    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()
    writer.encryptor.close()
