"""No data key seals more than its policy allows, and no nonce is used twice, whatever threads do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor
from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import DataKeyMinted, DataKeyRetired
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver, ManualClock

KEYS = LocalKeyProvider.generate()
AAD_OF_NULL_KEY = 2


@dataclass
class Sealed:
    """What was sealed under one header."""

    messages: int = 0
    bytes: int = 0
    largest: int = 0
    sequences: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sealed: bytes, size: int) -> None:
        """Count one record."""
        self.messages += 1
        self.bytes += size + AAD_OF_NULL_KEY
        self.largest = max(self.largest, size + AAD_OF_NULL_KEY)
        self.sequences[int.from_bytes(sealed[:4])].append(int.from_bytes(sealed[4:12]))


def by_header(records: list[tuple[bytes, bytes, int]]) -> dict[bytes, Sealed]:
    """Records as (header, sealed value, size of plaintext), per header."""
    found: dict[bytes, Sealed] = defaultdict(Sealed)
    for header, sealed, size in records:
        found[header].add(sealed, size)
    return found


def assert_numbered_without_gap_or_repeat(found: dict[bytes, Sealed]) -> None:
    """1, 2, 3 and so on in each lane of each key, in whatever order threads finished."""
    for key in found.values():
        for sequence in key.sequences.values():
            assert sorted(sequence) == list(range(1, len(sequence) + 1))


@given(
    max_messages=st.integers(1, 12),
    max_bytes=st.integers(1, 400),
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=60),
)
@settings(max_examples=100)
def test_one_thread_uses_each_key_as_far_as_the_policy_allows(
    max_messages: int, max_bytes: int, sizes: list[int]
) -> None:
    """Never a record further, and never a record less. spec: 5.1.3, 7.2.1"""
    expected: list[list[int]] = []
    for size in (size + AAD_OF_NULL_KEY for size in sizes):
        current = expected[-1] if expected else None
        if current is None or len(current) == max_messages or sum(current) + size > max_bytes:
            expected.append([])
        expected[-1].append(size)

    clock = ManualClock()
    policy = RotationPolicy(max_messages=max_messages, max_bytes=max_bytes)
    with Encryptor(KEYS, policy, clock=clock) as writer:
        records = []
        for size in sizes:
            sealed, headers = writer.encrypt("t", bytes(size))
            records.append((headers[-1][1], sealed, size))
    found = by_header(records)
    assert [(key.messages, key.bytes) for key in found.values()] == [(len(part), sum(part)) for part in expected]
    assert_numbered_without_gap_or_repeat(found)


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (RotationPolicy(max_messages=1), 10),
        (RotationPolicy(max_messages=7), 10),
        (RotationPolicy(max_messages=250), 100),
        (RotationPolicy(max_bytes=1000), 100),
        (RotationPolicy(max_bytes=50), 100),
        (RotationPolicy(max_messages=13, max_bytes=1500), 100),
    ],
)
def test_many_threads_together_stay_within_the_policy(policy: RotationPolicy, size: int) -> None:
    """Eight threads, three lanes and none, one topic. spec: 5.1.3, 7.2.1"""
    threads, each = 8, 300
    observer = CollectingObserver()
    start = threading.Barrier(threads)

    def work(number: int) -> list[tuple[bytes, bytes, int]]:
        sealer = writer.topic("t")
        start.wait()
        records = []
        for n in range(each):
            length = (number * 31 + n * 7) % (2 * size)
            lane = (0, 1, 2, LANE_UNKNOWN)[n % 4]
            sealed, headers = sealer.seal(bytes(length), None, None, lane)
            records.append((headers[-1][1], sealed, length))
        return records

    with Encryptor(KEYS, policy, observer=observer) as writer, ThreadPoolExecutor(threads) as pool:
        records = [record for part in pool.map(work, range(threads)) for record in part]
    assert len(records) == threads * each
    found = by_header(records)
    for key in found.values():
        assert key.messages <= policy.max_messages
        assert key.bytes <= policy.max_bytes or key.messages == 1
    assert_numbered_without_gap_or_repeat(found)
    assert len({(header, sealed[:12]) for header, sealed, _ in records}) == len(records)
    minted = {event.data_key for event in observer.of(DataKeyMinted)}
    assert len(found) <= len(minted) <= len(found) + 1
    counted = {event.data_key: event.messages for event in observer.of(DataKeyRetired)}
    assert sum(counted.values()) == len(records)


def test_blocks_and_single_records_share_one_numbering() -> None:
    """Threads that seal blocks and threads that seal one by one, in the same lanes. spec: 5.1.3, 7.2.1"""
    policy = RotationPolicy(max_messages=500)

    def work(number: int) -> list[tuple[bytes, bytes, int]]:
        sealer = writer.topic("t")
        records: list[tuple[bytes, bytes, int]] = []
        while len(records) < 3000:
            values = [bytes(n) for n in range(number + 20)]
            lane = len(records) % 3
            block = sealer.seal_block(values, [None] * len(values), [None] * len(values), lane) if number % 2 else None
            done = zip(*block, strict=True) if block else (sealer.seal(value, None, None, lane) for value in values)
            records += [(headers[-1][1], sealed, len(sealed) - 28) for sealed, headers in done]
            blocks[number] += block is not None
        return records

    blocks = [0] * 6
    with Encryptor(KEYS, policy) as writer, ThreadPoolExecutor(6) as pool:
        records = [record for part in pool.map(work, range(6)) for record in part]
    found = by_header(records)
    assert sum(blocks) > 100
    assert all(key.messages <= policy.max_messages for key in found.values())
    assert_numbered_without_gap_or_repeat(found)
    assert len({(header, sealed[:12]) for header, sealed, _ in records}) == len(records)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=40), st.floats(0.5, 10))
@settings(max_examples=50)
def test_no_record_is_sealed_under_a_key_past_its_age(steps: list[float], max_age: float) -> None:
    """Age runs from minting. spec: 7.2.1"""
    clock = ManualClock()
    observer = CollectingObserver()
    with Encryptor(KEYS, RotationPolicy(max_age=max_age), clock=clock, observer=observer) as writer:
        first_use: dict[bytes | None, float] = {}
        for step in steps:
            # A key that was under way while the clock moved may arrive too old: then nothing is sealed.
            with contextlib.suppress(KeyUnavailable):
                header = writer.encrypt("t", b"x")[1][-1][1]
                assert clock() - first_use.setdefault(header, clock()) < max_age
            clock.advance(step)
    for event in observer.of(DataKeyRetired):
        assert event.age >= 0


def test_threads_that_retire_and_seal_at_once_repeat_no_nonce() -> None:
    """A key that is dropped in the middle takes its numbers with it. spec: 4.4.2, 5.1.3"""
    stop = threading.Event()

    def retire() -> None:
        while not stop.wait(0.001):
            writer.retire("t", "failure")

    def work(_: int) -> list[tuple[bytes, bytes, int]]:
        sealer = writer.topic("t")
        records = []
        for n in range(400):
            sealed, headers = sealer.seal(b"x", None, None, n % 3)
            records.append((headers[-1][1], sealed, 1))
        return records

    with Encryptor(KEYS, RotationPolicy(max_messages=100)) as writer, ThreadPoolExecutor(5) as pool:
        retiring = pool.submit(retire)
        try:
            records = [record for part in pool.map(work, range(4)) for record in part]
        finally:
            stop.set()
        retiring.result()
    assert len({(header, sealed[:12]) for header, sealed, _ in records}) == len(records)
    assert_numbered_without_gap_or_repeat(by_header(records))


def test_a_forked_child_seals_under_a_key_of_its_own() -> None:
    """Parent and child would number records alike. spec: 4.4.1"""
    reading, writing = os.pipe()
    with Encryptor(KEYS) as writer:
        sealer = writer.topic("t")
        before = sealer.seal(b"x", None, None, 0)[1][-1][1]
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, sealer.seal(b"x", None, None, 0)[1][-1][1])
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            of_child = pipe.read()
        os.waitpid(child, 0)
        after = sealer.seal(b"x", None, None, 0)[1][-1][1]
    assert of_child
    assert before == after != of_child
