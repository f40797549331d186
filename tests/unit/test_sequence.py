"""What lanes and sequences tell, and what they do not. spec: 10"""

from __future__ import annotations

import pytest

from streamcrypt.encryptor import LANE_UNKNOWN, Encryptor
from streamcrypt.envelope.sequence import SequenceFinding, SequenceKind, SequenceVerifier, numbered, tell
from streamcrypt.errors import SequenceViolated
from streamcrypt.events import SequenceFound
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import CollectingObserver

KEYS = LocalKeyProvider.generate()


def header(name: str) -> bytes:
    """Header bytes that hold a commitment where the format has it."""
    return b"\xc3\x01" + bytes(8) + b"\x00" + name.encode().ljust(32, b".") + b"the rest"


def value(number: int, lane: int = 0) -> bytes:
    """A sealed value, as far as a verifier looks at it."""
    return lane.to_bytes(4) + number.to_bytes(8) + b"sealed"


def check(
    verifier: SequenceVerifier, numbers: list[int], start: int = 0, *, key: str = "a", lane: int = 0, partition: int = 0
) -> list[tuple[str, int, int, int]]:
    """Feed records with these numbers from offset ``start`` on; give what was found, in short."""
    offsets = range(start, start + len(numbers))
    values = [value(number, lane) for number in numbers]
    found = verifier.check_block("t", partition, offsets, [header(key)] * len(numbers), values)
    return [(f.kind, f.offset, f.expected, f.found) for f in found]


def test_numbers_without_a_gap_are_no_evidence() -> None:
    """Over blocks of any size."""
    verifier = SequenceVerifier()
    assert check(verifier, [1, 2, 3]) == []
    assert check(verifier, [4], 3) == []
    assert check(verifier, [], 4) == []
    assert check(verifier, list(range(5, 300)), 4) == []


def test_a_verifier_may_begin_anywhere() -> None:
    """The first record of a data key and lane is taken as it is: after a restart, it has any number."""
    assert check(SequenceVerifier(), [7, 8, 9], 1000) == []


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([1, 2, 4, 5], [("gap", 2, 3, 4)]),
        ([1, 4, 9], [("gap", 1, 2, 4), ("gap", 2, 5, 9)]),
        ([1, 2, 2, 3], [("repeat", 2, 3, 2)]),
        ([1, 2, 3, 1, 4], [("repeat", 3, 4, 1)]),
        ([1, 3, 2, 4], [("gap", 1, 2, 3), ("disorder", 2, 4, 2)]),
        ([1, 3, 2, 2, 4], [("gap", 1, 2, 3), ("disorder", 2, 4, 2), ("repeat", 3, 4, 2)]),
        ([1, 6, 4, 2, 4, 3, 5, 7], [("gap", 1, 2, 6)] + [(k, o, 7, n) for k, o, n in [
            ("disorder", 2, 4), ("disorder", 3, 2), ("repeat", 4, 4), ("disorder", 5, 3), ("disorder", 6, 5)]]),
        ([5, 3, 6], [("disorder", 1, 6, 3)]),
    ],
)  # fmt: skip
def test_each_kind_is_told_with_its_coordinates(numbers: list[int], found: list[tuple[str, int, int, int]]) -> None:
    """Missing, seen before, and lower than the last without having been seen."""
    assert check(SequenceVerifier(), numbers) == found


def test_what_is_found_does_not_depend_on_the_blocks() -> None:
    """One by one, or all at once."""
    numbers = [1, 2, 5, 3, 3, 4, 6, 7, 7]
    single = SequenceVerifier()
    one_by_one = [found for offset, number in enumerate(numbers) for found in check(single, [number], offset)]
    assert one_by_one == check(SequenceVerifier(), numbers)


def test_in_compacted_topics_gaps_are_no_evidence() -> None:
    """Compaction leaves them; repeats and disorder it does not make."""
    numbers = [1, 5, 9, 9, 7]
    expected = [("repeat", 3, 10, 9), ("disorder", 4, 10, 7)]
    assert check(SequenceVerifier(compacted=True), numbers) == expected
    assert check(SequenceVerifier(compacted={"t"}), numbers) == expected
    assert len(check(SequenceVerifier(compacted={"other"}), numbers)) == 4


def test_a_record_in_another_partition_than_its_lane_is_moved() -> None:
    """Its number says nothing about the partition that it came to."""
    verifier = SequenceVerifier()
    check(verifier, [1, 2], partition=3, lane=3)
    assert check(verifier, [9], 2, partition=3, lane=1) == [("moved", 2, 1, 3)]
    assert check(verifier, [3], 3, partition=3, lane=3) == []


@pytest.mark.parametrize("lane", [LANE_UNKNOWN, 0x8000_0000])
def test_a_lane_that_is_no_partition_is_no_evidence(lane: int) -> None:
    """A writer that did not know the partition spread its numbers over all of them."""
    assert check(SequenceVerifier(), [4, 2, 2, 9], lane=lane) == []


def test_data_keys_are_numbered_each_by_itself() -> None:
    """Also where records of several alternate, as those of several writers do."""
    verifier = SequenceVerifier()
    numbers = [1, 1, 2, 2, 3, 4]
    keys = ["a", "b", "a", "b", "b", "a"]
    found = verifier.check_block("t", 0, range(6), [header(key) for key in keys], [value(n) for n in numbers])
    assert [(f.kind, f.data_key, f.offset) for f in found] == [("gap", b"a".ljust(32, b".").hex(), 5)]


def test_a_data_key_is_told_by_its_commitment() -> None:
    """Whoever can write to a topic may add or remove encrypted data keys, and the record opens all the same."""
    verifier = SequenceVerifier()
    check(verifier, [1, 2])
    rewrapped = header("a") + b"another encrypted data key"
    assert [f.kind for f in verifier.check_block("t", 0, [2], [rewrapped], [value(2)])] == ["repeat"]


def test_records_that_are_read_again_are_not_replayed_ones() -> None:
    """After an abort or a pause the loop begins again at an earlier offset; what was found there is known."""
    verifier = SequenceVerifier()
    check(verifier, [1, 2, 4, 5])
    again = verifier.check_block("t", 0, range(1, 6), [header("a")] * 5, [value(n) for n in (2, 4, 5, 6, 6)])
    assert [(f.kind, f.offset, f.known) for f in again] == [("gap", 2, True), ("repeat", 5, False)]
    assert [(f.kind, f.offset, f.known) for f in verifier.check_block("t", 0, [2], [header("a")], [value(4)])] == [
        ("gap", 2, True)
    ]


def test_a_partition_that_comes_back_starts_afresh() -> None:
    """Between revoked and assigned another member read on."""
    verifier = SequenceVerifier()
    check(verifier, [1, 2, 3])
    check(verifier, [1, 2, 3], partition=1, lane=1)
    verifier.forget("t", 0)
    assert check(verifier, [50, 51], 500) == []
    assert check(verifier, [5], 3, partition=1, lane=1) == [("gap", 3, 4, 5)]
    verifier.forget("t", 7)


def test_memory_is_bounded() -> None:
    """The least recently used lane goes first: what it would have told is not detected."""
    verifier = SequenceVerifier(max_lanes=2)
    for offset, key in enumerate("abacaba"):
        # a: 1, 2, 3, 4 in use all the time; b is forgotten when c comes.
        number = "abacaba"[: offset + 1].count(key)
        assert check(verifier, [number], offset, key=key) == []
    assert len(verifier._lanes) == 2
    assert check(verifier, [1], 7, key="b") == [("disorder", 7, 3, 1)]


def test_many_gaps_are_forgotten_from_the_oldest_on() -> None:
    """What comes so late is disorder, whether or not it was seen."""
    verifier = SequenceVerifier()
    numbers = list(range(1, 400, 2))
    assert len(check(verifier, numbers)) == 199
    (lane,) = verifier._lanes.values()
    assert len(lane.gaps) == 64
    assert check(verifier, [2, 1, 3, 398, 398], 200) == [
        (kind, offset, 400, number)
        for kind, offset, number in [
            ("disorder", 200, 2),
            ("disorder", 201, 1),
            ("disorder", 202, 3),
            ("disorder", 203, 398),
            ("repeat", 204, 398),
        ]
    ]


def test_findings_that_are_remembered_are_bounded() -> None:
    """A topic full of moved records costs no more memory than 10,000 of them."""
    verifier = SequenceVerifier()
    for start in range(0, 11_000, 1000):
        check(verifier, [1] * 1000, start, lane=5)
    assert len(verifier._places["t", 0].findings) == 10_000


@pytest.mark.parametrize("framing", ["header", "self_contained"])
def test_records_as_they_stand_on_a_topic_are_verified(framing: str) -> None:
    """Either framing, tombstones that are authenticated among them; plain ones and plaintext are passed over."""
    with Encryptor(KEYS, RotationPolicy(max_messages=6), framing=framing, tombstones="authenticated") as writer:
        records = [
            writer.encrypt("t", None if n % 3 == 0 else b"x" * n, b"k", [("trace", b"1")] if n % 2 else None, 0)
            for n in range(20)
        ]
    records.insert(4, (None, []))
    records.insert(9, (b"plaintext", None))
    values, headers = ([record[place] for record in records] for place in range(2))
    assert SequenceVerifier().check_records("t", 0, range(22), values, headers) == []
    del values[2], headers[2]  # a value
    del values[10], headers[10]  # a tombstone
    found = SequenceVerifier().check_records("t", 0, range(20), values, headers)
    assert [(f.kind, f.offset) for f in found] == [("gap", 2), ("gap", 10)]


def test_what_has_no_number_is_none() -> None:
    """Neither whole nor half an envelope makes the verifier fail."""
    for record in (None, b"", b"x", b"\xc5SC\x01", b"\xc5SC\x01\x00\x00\x00\x05short"):
        assert numbered(record, None) is None
        assert numbered(record, [("streamcrypt", None)]) is None
    assert numbered(None, [("streamcrypt", b"h")]) is None
    assert SequenceVerifier().check_records("t", 0, [1], [None], [None]) == []


def test_a_finding_makes_an_error_that_says_where() -> None:
    """Enforced, it is a failure of the record."""
    gap = SequenceFinding(SequenceKind.GAP, "t", 3, 77, "ab" * 32, 3, 5, 9)
    assert isinstance(gap.error(), SequenceViolated)
    assert str(gap.error()) == "gap: record 9 of lane 3 under data key abababababababab…, where 5 was expected"
    assert not gap.error().retriable
    moved = SequenceFinding(SequenceKind.MOVED, "t", 3, 77, "ab" * 32, 1, 1, 3)
    assert str(moved.error()) == "moved: sealed for partition 1, found in 3"


def test_a_flood_of_findings_is_few_events() -> None:
    """One for each kind, data key and lane of a block, and none for what is known."""
    seen = CollectingObserver()
    verifier = SequenceVerifier()
    headers, values = (
        [header("a")] * 6,
        [value(n, lane) for n, lane in [(1, 0), (1, 5), (2, 5), (3, 5), (3, 0), (3, 0)]],
    )
    for _ in range(2):
        tell(verifier.check_block("t", 0, range(10, 16), headers, values), "p", seen)
    data_key = b"a".ljust(32, b".").hex()
    assert seen.events == [
        SequenceFound("moved", "p", "t", 0, 11, data_key, 5, 5, 0, 3),
        SequenceFound("gap", "p", "t", 0, 14, data_key, 0, 2, 3, 1),
        SequenceFound("repeat", "p", "t", 0, 15, data_key, 0, 4, 3, 1),
    ]
