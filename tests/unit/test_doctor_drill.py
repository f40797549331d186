"""Which records a drill looks at, and what it makes of those that do not open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.diagnosis.drill import NEWEST, Closed, PartitionDrill, judge_partition, spots
from streamcrypt.diagnosis.findings import Check, Level

NEAR, FAR = "arn:near", "arn:far"


@given(start=st.integers(0, 10**9), count=st.integers(0, 10**6), most=st.integers(1, 500))
def test_spots_are_few_ascending_and_hold_both_ends(start, count, most):
    """Never more than asked for, each once, within the partition; the newest is always there, the oldest unless one."""
    end = start + count
    chosen = spots(start, end, most)
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    if count:
        assert start <= chosen[0]
        assert chosen[-1] == end - 1
        assert chosen[0] == start or most == 1


def test_a_small_partition_is_read_whole():
    """Below the limit nothing is left out."""
    assert spots(5, 9, 100) == [5, 6, 7, 8]


def test_the_newest_records_are_all_read():
    """The last ten stand at the end of the sample."""
    assert spots(0, 10_000, 100)[-NEWEST:] == list(range(9_990, 10_000))


@pytest.mark.parametrize(
    ("done", "level", "words"),
    [
        (PartitionDrill("t", 0, 5, 1, 2), Level.OK, "2 data keys opened with eu-west-1 alone; 5 records"),
        (PartitionDrill("t", 0), Level.OK, "nothing to open"),
        (PartitionDrill("t", 0, 5, 5), Level.WARN, "nothing to open"),
        (PartitionDrill("t", 0, unread="silence"), Level.FAIL, "could not be read: silence"),
        (
            PartitionDrill("t", 0, 5, 0, 1, [Closed(3, "KeyUnavailable", "away", (NEAR, FAR))]),
            Level.FAIL,
            f"do not open with eu-west-1 alone, the first at offset 3: KeyUnavailable: away. Needed: {NEAR}, {FAR}",
        ),
        (
            PartitionDrill("t", 0, 1, 0, 0, [Closed(0, "MalformedEnvelope", "short")]),
            Level.FAIL,
            "no KEK could be read",
        ),
    ],
    ids=["opens", "empty", "plaintext", "unread", "closed", "malformed"],
)
def test_a_partition_is_judged(done, level, words):
    """One envelope that does not open is enough to fail, and says which KEKs it needs."""
    finding = judge_partition("eu-west-1", done)
    assert (finding.check, finding.level, finding.subject) == (Check.DRILL_OPENS, level, "t[0]")
    assert words in finding.seen
