"""Numbers drawn without a lock: none twice, none left out, none beyond a limit, none of a key that is gone."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.encryptor import Encryptor
from streamcrypt.events import DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.minting import Lease
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.keys.tickets import LANE_UNKNOWN, NO_TICKETS, Tickets, draws_are_atomic, how_many, nonce_of
from streamcrypt.testing import CollectingObserver, ManualClock
from streamcrypt.testing.slow_keys import ScriptedKeyProvider

AAD = 2  # bytes of AAD of a record whose key is null
KEYS = LocalKeyProvider.generate()
needs_tickets = pytest.mark.skipif(not draws_are_atomic(), reason="no ticket is issued without the global lock")


def number(nonce: bytes) -> int:
    """The number in a nonce."""
    return int.from_bytes(nonce[4:12], "big")


def drawn(tickets: Tickets, most: int = 1) -> list[bytes]:
    """Draw up to so many as the sealer does."""
    got: list[bytes] = []
    while len(got) < most:
        for nonce in tickets.nonces:
            tickets.sizes.append(1)
            got.append(nonce)
            break
        else:
            break
    return got


def sealing(records: int = 8, rotation: RotationPolicy | None = None) -> tuple[Encryptor, Lease]:
    """An encryptor that has sealed a few records, and its lease, which has tickets out."""
    encryptor = Encryptor(KEYS, rotation, clock=ManualClock())
    for _ in range(records):
        encryptor.encrypt("t", b"v")
    return encryptor, encryptor.topic("t").issuer.lease


STEP = st.one_of(
    st.tuples(
        st.sampled_from(["seal 1", "seal 10", "seal 100"]),
        st.sampled_from([0, 1, 100, 3_000, 9_000]),
        st.sampled_from([None, None, None, 0]),
    ),
    st.tuples(st.just("block"), st.integers(1, 4), st.sampled_from([LANE_UNKNOWN, 0])),
    st.tuples(st.just("sleep"), st.sampled_from([0.4, 2.0]), st.none()),
    st.tuples(st.just("ask"), st.none(), st.none()),
    st.tuples(st.just("retire"), st.none(), st.none()),
    st.tuples(st.just("rotate by"), st.sampled_from([1, 40, 500]), st.none()),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(STEP, max_size=40),
    st.sampled_from([1, 7, 60, 1_000, 10**6]),
    st.sampled_from([3_000, 100_000, 1_000_000, 16 * 2**30]),
)
def test_whatever_comes_numbers_run_without_gap_and_every_count_is_exact(
    steps: list[tuple[str, object, object]], messages: int, size: int
) -> None:
    """Lanes, sizes, blocks, time, retirements and new limits in any order. spec: 5.1.3, 7.2.1"""
    clock, seen = ManualClock(), CollectingObserver()
    encryptor = Encryptor(
        KEYS, RotationPolicy(max_messages=messages, max_bytes=size, grace=0), clock=clock, observer=seen
    )
    numbers: dict[tuple[str, int], list[int]] = {}
    records: Counter[str] = Counter()
    total: Counter[str] = Counter()

    def note(sealed: bytes, header: bytes, plain: int) -> None:
        key = header.hex()
        numbers.setdefault((key, int.from_bytes(sealed[:4], "big")), []).append(number(sealed))
        records[key] += 1
        total[key] += plain + AAD

    for step, first, second in steps:
        if step.startswith("seal"):
            for _ in range(int(step.split()[1])):
                sealed, headers = encryptor.encrypt("t", bytes(first), partition=second)
                note(sealed, headers[-1][1], first)
        elif step == "block":
            block = encryptor.topic("t").seal_block([b"v"] * first, [None] * first, [None] * first, second)
            for sealed, headers in zip(*block, strict=True) if block else ():
                note(sealed, headers[-1][1], 1)
        elif step == "sleep":
            clock.advance(first)
        elif step == "ask":
            used = encryptor.in_use("p")
            if used and used[0].data_key:
                lease = encryptor.topic("t").issuer.lease
                key = lease.header_bytes.hex()
                assert (used[0].messages, used[0].bytes) == (records[key], total[key])
        elif step == "retire":
            encryptor.retire("t", "failure")
        else:
            encryptor.rotate_by(RotationPolicy(max_messages=first, max_bytes=size, grace=0))
    encryptor.close()
    for found in numbers.values():
        assert found == list(range(1, len(found) + 1))
    assert all(total[key] <= size or records[key] == 1 for key in records)
    told = sorted((event.messages, event.bytes) for event in seen.of(DataKeyRetired) if event.messages)
    assert told == sorted((records[key], total[key]) for key in records)


@needs_tickets
def test_one_thread_draws_tickets_for_nearly_all_records() -> None:
    """The lock is taken some ten times in a thousand records, not a thousand times."""
    encryptor, lease = sealing(0)
    times, seen = 0, NO_TICKETS
    for _ in range(1_000):
        encryptor.encrypt("t", b"v")
        lease = encryptor.topic("t").issuer.lease
        times += lease.tickets is not seen
        seen = lease.tickets
    assert times < 20


@needs_tickets
def test_threads_that_draw_and_one_that_takes_back_share_all_tickets_out() -> None:
    """No number goes to two, and none is lost, however threads are switched."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(5) as pool:
            for _ in range(20):
                tickets, start = Tickets(1, 20_000, 100), Barrier(5)

                def draw(tickets: Tickets = tickets, start: Barrier = start) -> list[bytes]:
                    start.wait()
                    return drawn(tickets, 4_900)

                drawing = [pool.submit(draw) for _ in range(4)]
                start.wait()
                while len(tickets.sizes) < 1_000:
                    sleep(0)
                left, _, free = tickets.take_back()
                given = [nonce for future in drawing for nonce in future.result()]
                assert free == left
                assert sorted(map(number, given)) == list(range(1, 20_000 - left + 1))
    finally:
        sys.setswitchinterval(interval)


@needs_tickets
def test_a_key_that_is_retired_gives_no_number_to_a_thread_that_holds_it() -> None:
    """It looked at the lease before, and draws after."""
    encryptor, lease = sealing()
    tickets = lease.tickets
    assert tickets is not NO_TICKETS
    encryptor.retire("t", "failure")
    assert drawn(tickets) == []


@needs_tickets
def test_a_child_process_draws_none_of_its_parents_tickets() -> None:
    """Not even where the fork came between looking at the lease and drawing. spec: 4.4"""
    encryptor, lease = sealing()
    tickets = lease.tickets
    encryptor.topic("t").issuer.after_fork()
    assert drawn(tickets) == []


def test_without_the_global_lock_no_ticket_is_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is one step under that lock only; every number is taken under the issuer's."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not draws_are_atomic()
    encryptor, lease = sealing(50)
    assert lease.tickets is NO_TICKETS
    assert number(encryptor.encrypt("t", b"v")[0]) == 51


@needs_tickets
def test_numbers_are_not_counted_back_where_a_higher_one_was_given() -> None:
    """Defence in depth: nothing in the code does that, and if something did, a gap is better than a nonce twice."""
    _, lease = sealing()
    assert lease.tickets is not NO_TICKETS
    higher = lease.count(1, LANE_UNKNOWN)
    lease.take_tickets_back()
    assert lease.count(1, LANE_UNKNOWN) == higher + 1


@needs_tickets
def test_records_larger_than_a_ticket_was_charged_for_are_counted_by_themselves() -> None:
    """Else a few of them would pass the limit in bytes before anybody looked."""
    encryptor, lease = sealing(40, RotationPolicy(max_bytes=1_000_000))
    assert lease.tickets is not NO_TICKETS
    headers = [encryptor.encrypt("t", bytes(400_000))[1][-1][1] for _ in range(3)]
    assert headers[1] == lease.header_bytes != headers[2]


@needs_tickets
def test_a_ticket_drawn_and_not_paid_stays_charged_in_full() -> None:
    """Its thread may seal up to so many bytes; a limit must hold for them."""
    tickets = Tickets(1, 10, 4096)
    assert next(tickets.nonces)
    assert drawn(tickets, 3)
    assert tickets.take_back() == (6, 9 * 4096 - 3, 6)


@pytest.mark.parametrize(
    ("left", "free"), [([4, 5, 6], 3), ([6], 1), ([], 0), ([3, 5, 6], 0), ([4, 5], 0), ([2, 3, 4], 0)]
)
def test_only_the_highest_numbers_are_free_to_be_given_again(left: list[int], free: int) -> None:
    """Where one among them was drawn, by whatever mistake, all of them are left out: a gap, never a nonce twice."""
    tickets = Tickets(1, 6, 100)
    tickets.nonces = iter([nonce_of(LANE_UNKNOWN, one) for one in left])
    assert tickets.take_back()[2] == free


@needs_tickets
def test_numbers_are_unique_and_whole_while_threads_seal_and_one_retires_and_rotates() -> None:
    """Through the public calls, with switches every microsecond. spec: 5.1.3"""
    interval = sys.getswitchinterval()
    encryptor = Encryptor(KEYS, RotationPolicy(max_messages=700))
    start = Barrier(4)

    def seal(which: int) -> list[tuple[bytes, bytes]]:
        start.wait()
        records = []
        for turn in range(3_000):
            sealed, headers = encryptor.encrypt("t", bytes(9_000 if turn % 97 == which else turn % 40))
            records.append((headers[-1][1], sealed[:12]))
            if turn % 50 == 0:
                encryptor.in_use("p") if which else encryptor.topic("t").issuer.follow_rotation()
        return records

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            records = [record for done in [pool.submit(seal, n) for n in range(4)] for record in done.result()]
    finally:
        sys.setswitchinterval(interval)
        encryptor.close()
    numbers: dict[bytes, list[int]] = {}
    for header, nonce in records:
        numbers.setdefault(header, []).append(number(nonce))
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in numbers.values())
    assert max(map(len, numbers.values())) <= 700


@pytest.mark.parametrize(
    ("messages", "messages_left", "bytes_left", "size", "expected"),
    [
        (10**6, 10**6, 2**40, 1_000, (256, 4096)),
        (10**6, 10**6, 2**40, 10_000, (256, 20_000)),
        (3, 10**6, 2**40, 1_000, (3, 4096)),
        (10**6, 40, 2**40, 1_000, (10, 4096)),
        (10**6, 3, 2**40, 1_000, (0, 4096)),
        (10**6, 10**6, 40_000, 1_000, (2, 4096)),
        (10**6, 10**6, -5, 1_000, (0, 4096)),
        (10**6, 0, 2**40, 0, (0, 4096)),
    ],
)
def test_a_key_gets_few_tickets_while_it_is_new_and_none_towards_its_end(
    messages: int, messages_left: int, bytes_left: int, size: int, expected: tuple[int, int]
) -> None:
    """A quarter of what is left at most, so that both limits stay exact for whatever comes beside."""
    assert how_many(messages, messages_left, bytes_left, size) == expected


@needs_tickets
def test_a_limit_that_was_lowered_holds_for_tickets_that_are_out() -> None:
    """The key has sealed more than it may by now, so the next record gets another."""
    encryptor, lease = sealing(20)
    assert lease.tickets is not NO_TICKETS
    encryptor.rotate_by(RotationPolicy(max_messages=10))
    assert encryptor.encrypt("t", b"v")[1][-1][1] != lease.header_bytes


@needs_tickets
def test_a_key_wrapped_under_an_old_kek_gives_no_number_once_that_is_known() -> None:
    """The look of every minute finds that a new one would be wrapped otherwise."""
    keys = ScriptedKeyProvider(KEYS)
    encryptor = Encryptor(keys, clock=ManualClock())
    old = {encryptor.encrypt("t", b"v")[1][-1][1] for _ in range(20)}
    assert encryptor.topic("t").issuer.lease.tickets is not NO_TICKETS
    keys.sealing_generation += 1
    encryptor.sweep()
    assert encryptor.encrypt("t", b"v")[1][-1][1] not in old
    encryptor.close()


@needs_tickets
def test_a_record_that_waited_for_the_lock_goes_behind_tickets_issued_meanwhile() -> None:
    """It saw none before, so it would count past them, and leave a gap."""
    encryptor, lease = sealing(5)
    issuer = encryptor.topic("t").issuer
    lease.take_tickets_back()

    class Issuing:
        """A lock: another thread had it before, and issued tickets."""

        def __enter__(self) -> None:
            if lease.tickets is NO_TICKETS:
                lease.issue_tickets(10)

        def __exit__(self, *_exc: object) -> None: ...

    issuer.lock = Issuing()
    found = [number(encryptor.encrypt("t", b"v")[0]) for _ in range(3)]
    assert found == [6, 7, 8]
