"""Genuine streams give no evidence, and what was done to one by hand is found, all of it and nothing else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.envelope.sequence import SequenceVerifier

PARTITIONS = 3


@dataclass(frozen=True)
class Record:
    """A record that opened: its data key, the lane and its number."""

    key: int
    lane: int
    number: int

    @property
    def header(self) -> bytes:
        return bytes(11) + self.key.to_bytes(32) + b"rest"

    @property
    def value(self) -> bytes:
        return self.lane.to_bytes(4) + self.number.to_bytes(8) + b"sealed"


@st.composite
def genuine(draw: st.DrawFn) -> dict[int, list[Record]]:
    """What several writers, each with data key after data key, write to the partitions of a topic."""
    log: dict[int, list[Record]] = {partition: [] for partition in range(PARTITIONS)}
    counters: dict[tuple[int, int], int] = defaultdict(int)
    current: dict[int, int] = {}
    keys = 0
    for writer, lane, count, renew in draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, PARTITIONS - 1), st.integers(1, 9), st.booleans()), max_size=25
        )
    ):
        if renew or writer not in current:
            keys += 1
            current[writer] = keys
        for _ in range(count):
            counters[current[writer], lane] += 1
            log[lane].append(Record(current[writer], lane, counters[current[writer], lane]))
    return log


def blocks(data: st.DataObject, start: int, end: int) -> list[slice]:
    """Cut offsets into blocks anywhere."""
    cuts = sorted({start, end, *data.draw(st.lists(st.integers(start, end), max_size=8))})
    return [slice(a, b) for a, b in pairwise(cuts)]


def fed(verifier: SequenceVerifier, partition: int, log: list[Record], part: slice) -> list[tuple[str, int, int, int]]:
    """Feed a slice of a partition's log; its offsets are its places."""
    offsets = range(len(log))[part]
    found = verifier.check_block("t", partition, offsets, [r.header for r in log[part]], [r.value for r in log[part]])
    return [(f.kind, f.offset, f.expected, f.found) for f in found if not f.known]


@given(log=genuine(), data=st.data())
@settings(max_examples=200)
def test_a_genuine_stream_is_no_evidence(log: dict[int, list[Record]], data: st.DataObject) -> None:
    """Members come and go, begin in the middle, rewind after an abort; partitions pass between them."""
    members = [SequenceVerifier(), SequenceVerifier()]
    position = dict.fromkeys(range(PARTITIONS), 0)
    owner = dict.fromkeys(range(PARTITIONS), 0)
    for partition, action, steps in data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(range(PARTITIONS)),
                st.sampled_from(["read", "rewind", "pass", "restart"]),
                st.integers(1, 9),
            ),
            max_size=30,
        )
    ):
        at, end = position[partition], len(log[partition])
        match action:
            case "read":
                position[partition] = min(at + steps, end)
                part = slice(at, position[partition])
                assert fed(members[owner[partition]], partition, log[partition], part) == []
            case "rewind":
                position[partition] = max(0, at - steps)
            case "pass":
                members[owner[partition]].forget("t", partition)
                owner[partition] = 1 - owner[partition]
            case "restart":
                members[owner[partition]] = SequenceVerifier()


@given(log=genuine(), compacted=st.booleans(), data=st.data())
@settings(max_examples=300)
def test_what_was_done_by_hand_is_found_exactly(
    log: dict[int, list[Record]], compacted: bool, data: st.DataObject
) -> None:
    """Deletions, duplications, swaps and moves, against a verifier that remembers all and counts on its fingers."""
    for _ in range(data.draw(st.integers(0, 6))):
        partition = data.draw(st.sampled_from(range(PARTITIONS)))
        records = log[partition]
        if not records:
            continue
        at, other = data.draw(st.integers(0, len(records) - 1)), data.draw(st.integers(0, len(records) - 1))
        match data.draw(st.sampled_from(["delete", "duplicate", "swap", "move"])):
            case "delete":
                del records[at]
            case "duplicate":
                records.insert(other, records[at])
            case "swap":
                records[at], records[other] = records[other], records[at]
            case "move":
                log[(partition + 1) % PARTITIONS].append(records.pop(at))
    verifier = SequenceVerifier(compacted=compacted)
    for partition, records in log.items():
        found = [f for part in blocks(data, 0, len(records)) for f in fed(verifier, partition, records, part)]
        assert found == expected(partition, records, compacted)


def expected(partition: int, records: list[Record], compacted: bool) -> list[tuple[str, int, int, int]]:
    """What a slow verifier finds that keeps every number it has seen."""
    seen: dict[tuple[int, int], set[int]] = defaultdict(set)
    found = []
    for offset, record in enumerate(records):
        if record.lane != partition:
            found.append(("moved", offset, record.lane, partition))
            continue
        before = seen[record.key, record.lane]
        following = max(before) + 1 if before else record.number
        if record.number in before:
            found.append(("repeat", offset, following, record.number))
        elif record.number < following:
            found.append(("disorder", offset, following, record.number))
        elif record.number > following and not compacted:
            found.append(("gap", offset, following, record.number))
        before.add(record.number)
    return found
