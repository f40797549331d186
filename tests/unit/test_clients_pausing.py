"""When a waiting partition is tried again: a pure rule on a manual clock."""

from __future__ import annotations

import pytest

from streamcrypt.clients.pausing import FIRST_DELAY, LONGEST_DELAY, WaitingPartitions
from streamcrypt.testing import ManualClock

KEY = ("t", 0)
SEALED = (b"sealed", b"k", None)


def test_the_delay_doubles_from_half_a_second_to_ten_seconds() -> None:
    """With up to a fifth taken off, so that consumers do not ask together; for ever, without overflow."""
    clock = ManualClock()
    waits = WaitingPartitions(clock)
    wait = waits.begin(KEY, 7, SEALED)
    longest = FIRST_DELAY
    for _ in range(2000):
        assert 0.8 * longest <= wait.due - clock() <= longest
        assert waits.next_due() is None
        clock.advance(longest)
        assert waits.next_due() is wait
        waits.postpone(wait)
        longest = min(LONGEST_DELAY, 2 * longest)
    assert longest == LONGEST_DELAY == 10.0


def test_the_one_due_longest_comes_first() -> None:
    """And nothing is due where nothing waits."""
    clock = ManualClock()
    waits = WaitingPartitions(clock)
    assert waits.next_due() is None
    assert waits.seconds_left() == float("inf")
    first = waits.begin(KEY, 7, SEALED)
    clock.advance(0.3)
    waits.begin(("t", 1), 9, SEALED)
    assert waits.seconds_left() == pytest.approx(first.due - clock())
    clock.advance(10)
    assert waits.next_due() is first
    assert waits.seconds_left() == 0.0


def test_a_wait_ends_with_its_length() -> None:
    """And is forgotten."""
    clock = ManualClock()
    waits = WaitingPartitions(clock)
    waits.begin(KEY, 7, SEALED)
    clock.advance(3)
    assert KEY in waits
    assert waits.end(KEY) == 3.0
    assert waits.end(KEY) is None
    assert not waits
    assert KEY not in waits


def test_what_the_user_paused_is_the_users() -> None:
    """Until the user resumes it."""
    waits = WaitingPartitions(ManualClock())
    waits.user_paused([KEY])
    assert waits.is_users(KEY)
    waits.user_resumed([KEY])
    assert not waits.is_users(KEY)
