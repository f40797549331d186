"""What may be committed, and where a unit of work is read again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.sidecar.ledger import Ledger

A, B = ("t", 0), ("t", 1)


def test_the_position_counts_where_nothing_is_in_hand_since_it_alone_passes_control_records():
    ledger = Ledger()
    ledger.passed(A, 10)
    assert ledger.offsets({A, B}, {}, {A: 12, B: 3}) == {A: 12, B: 3}


def test_the_position_does_not_count_while_fetched_records_are_in_hand():
    """It is ahead of them: committed, they would be lost with a crash."""
    ledger = Ledger()
    ledger.passed(A, 10)
    ledger.in_hand = True
    assert ledger.offsets({A, B}, {}, {A: 500, B: 500}) == {A: 10}


def test_the_oldest_record_that_waits_limits_its_partition_and_no_other():
    ledger = Ledger()
    ledger.passed(A, 10)
    ledger.passed(B, 10)
    assert ledger.offsets({A, B}, {A: 7}, {A: 500, B: 20}) == {A: 7, B: 20}


def test_partitions_that_went_elsewhere_are_not_committed():
    ledger = Ledger()
    ledger.passed(A, 10)
    assert ledger.offsets({B}, {A: 4}, {A: 12}) == {}
    ledger.forget([A])
    assert ledger.offsets({A}, {}, {}) == {}


def test_a_rewind_goes_to_the_first_offset_of_the_unit_not_to_what_was_committed():
    """In a group that has never committed there is nothing else to go by."""
    ledger = Ledger()
    ledger.touch(A, 5)
    ledger.passed(A, 8)
    ledger.touch(A, 8)
    ledger.passed(A, 9)
    assert ledger.rewind() == {A: 5}
    assert ledger.firsts == {}


def test_after_a_rewind_neither_the_position_nor_what_had_passed_counts():
    """The client's position is stale until the first record has come again."""
    ledger = Ledger()
    ledger.touch(A, 5)
    ledger.passed(A, 8)
    ledger.rewind()
    assert ledger.offsets({A}, {}, {A: 8}) == {A: 5}
    ledger.passed(A, 6)
    assert ledger.offsets({A}, {}, {A: 6}) == {A: 6}


def test_a_unit_ends_with_its_commit():
    ledger = Ledger()
    ledger.touch(A, 5)
    ledger.passed(A, 8)
    ledger.committed()
    ledger.touch(A, 8)
    assert ledger.rewind() == {A: 8}


def test_records_in_hand_that_did_not_pass_are_read_again_though_the_unit_began_anew_since():
    """A commit in the middle of a batch begins a unit that knows nothing of the rest in hand."""
    ledger = Ledger()
    ledger.touch(A, 5)
    ledger.passed(A, 8)
    ledger.committed()
    ledger.not_passed(A, 5)
    assert ledger.rewind() == {A: 8}


def test_records_in_hand_of_which_none_passed_are_read_again_from_the_first():
    ledger = Ledger()
    ledger.passed(A, 5)
    ledger.not_passed(A, 9)
    assert ledger.rewind() == {A: 9}


def test_a_partition_that_is_fetched_again_from_earlier_is_not_committed_by_its_position():
    ledger = Ledger()
    ledger.passed(A, 10)
    ledger.moved_back(A)
    assert ledger.offsets({A}, {}, {A: 90}) == {A: 10}


@given(st.lists(st.sampled_from(["pass", "commit", "rewind", "fetch"]), max_size=60))
def test_whatever_happens_no_record_is_committed_that_did_not_pass(steps):
    """A model of one partition: a commit never covers a record that was not handed over in a unit that held."""
    ledger = Ledger()
    fetched = handed_over = safe = 0
    for step in steps:
        if step == "fetch":
            fetched += 3
            ledger.in_hand = True
        elif step == "pass" and handed_over < fetched:
            ledger.touch(A, handed_over)
            handed_over = fetched
            ledger.passed(A, handed_over)
            ledger.in_hand = False
        elif step == "commit":
            committed = ledger.offsets({A}, {}, {A: fetched}).get(A, 0)
            assert safe <= committed <= handed_over
            safe = committed
            ledger.committed()
        elif step == "rewind" and not ledger.in_hand:
            again = ledger.rewind()
            if A in again:
                handed_over = fetched = again[A]
            assert handed_over >= safe
