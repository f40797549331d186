"""Asking several places: the first answer counts, a place that hangs holds nobody up, and no late key is left over."""

from __future__ import annotations

import threading

import pytest

from streamcrypt.errors import KeyRefused, KeyUnavailable
from streamcrypt.keys.hedging import all_answers, first_answer

# Longer than a test takes: a head start that has to run out is given as 0.
LONG = 600.0


class Place:
    """A place that answers once its gate is open, with ``answer`` or an error."""

    def __init__(self, answer: object = None, *, is_open: bool = True) -> None:
        self.answer = answer
        self.asked = threading.Event()
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def __call__(self) -> object:
        """Answer."""
        self.asked.set()
        assert self.gate.wait(60)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def is_unavailable(error):
    return isinstance(error, KeyUnavailable)


def test_the_preferred_place_answers_and_no_other_is_asked():
    """Within its head start."""
    second = Place("b")
    outcome = first_answer([Place("a"), second], head_start=LONG)
    assert dict(outcome.answers) == {0: "a"}
    assert not second.asked.is_set()


def test_a_single_place_is_asked_on_the_calling_thread():
    """Nothing is hedged, so no thread is made."""
    outcome = first_answer([lambda: threading.current_thread().name])
    assert dict(outcome.answers) == {0: threading.current_thread().name}
    outcome = all_answers([lambda: threading.current_thread().name], patience=None)
    assert dict(outcome.answers) == {0: threading.current_thread().name}


def test_a_place_that_fails_is_followed_by_the_next_at_once():
    """Without waiting for the head start; the failure is told."""
    outcome = first_answer([Place(KeyUnavailable("away")), Place("b")], head_start=LONG)
    assert dict(outcome.answers) == {1: "b"}
    assert str(outcome.failures[0]) == "away"


def test_a_place_that_hangs_is_joined_by_the_next():
    """After its head start; its late answer is discarded."""
    late, discarded = Place(bytearray(b"late"), is_open=False), []
    seen = threading.Event()

    def discard(answer):
        discarded.append(answer)
        seen.set()

    outcome = first_answer([late, Place(bytearray(b"b"))], head_start=0, discard=discard)
    assert dict(outcome.answers) == {1: bytearray(b"b")}
    assert not outcome.failures
    late.gate.set()
    assert seen.wait(60)
    assert discarded == [bytearray(b"late")]


def test_an_answer_that_comes_second_is_discarded():
    """Also where it is there before anyone looked."""
    gate, discarded = threading.Barrier(2), []

    def both(answer):
        gate.wait(60)
        return answer

    outcome = first_answer([lambda: both("a"), lambda: both("b")], head_start=0, discard=discarded.append)
    (winner,) = outcome.answers.values()
    deadline = threading.Event()
    while len(discarded) < 1:
        assert not deadline.wait(0.01)
    assert sorted([winner, *discarded]) == ["a", "b"]


def test_an_error_that_does_not_go_on_ends_it():
    """A refusal is an answer: no other place is asked for a better one."""
    third = Place("c")
    outcome = first_answer(
        [Place(KeyUnavailable("away")), Place(KeyRefused("denied")), third], head_start=LONG, goes_on=is_unavailable
    )
    assert not outcome.answers
    assert {place: type(error) for place, error in outcome.failures.items()} == {0: KeyUnavailable, 1: KeyRefused}
    assert not third.asked.is_set()


def test_a_refusal_elsewhere_does_not_beat_the_preferred_place():
    """The slow place was asked first: its answer counts."""
    slow, refused = Place("a", is_open=False), Place(KeyRefused("denied"))

    def second():
        slow.gate.set()
        return refused()

    outcome = first_answer([slow, second], head_start=0, goes_on=is_unavailable)
    assert dict(outcome.answers) == {0: "a"}


def test_where_all_fail_every_failure_is_told():
    """In the place where it belongs."""
    outcome = first_answer([Place(KeyUnavailable("one")), Place(KeyRefused("two"))])
    assert not outcome.answers
    assert [str(outcome.failures[place]) for place in (0, 1)] == ["one", "two"]


def test_a_defect_is_raised_and_answers_at_hand_are_discarded():
    """A bug in an attempt is no failure of a place, and no key stays behind."""
    discarded = []
    with pytest.raises(ZeroDivisionError):
        first_answer([lambda: 1 // 0, Place("b")])
    answered = threading.Event()

    def second():
        answered.set()
        return "b"

    def first():
        assert answered.wait(60)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        all_answers([first, second], patience=None, discard=discarded.append)
    assert discarded in ([], ["b"])


def test_all_are_asked_at_once_and_a_slow_one_is_left_out():
    """Those that answered in time count; the late answer is discarded."""
    slow, seen, discarded = Place("slow", is_open=False), threading.Event(), []

    def discard(answer):
        discarded.append(answer)
        seen.set()

    places = [Place("a"), slow, Place(KeyRefused("denied")), Place("d")]
    outcome = all_answers(places, patience=0.3, discard=discard)
    while {0, 3} - set(outcome.answers) or 2 not in outcome.failures:
        # A loaded machine may have given the others no time: ask again with more.
        outcome = all_answers(places, patience=5, discard=discard)
    assert dict(outcome.answers) == {0: "a", 3: "d"}
    assert set(outcome.failures) == {2}
    slow.gate.set()
    assert seen.wait(60)
    assert set(discarded) == {"slow"}


def test_none_to_ask_gives_nothing():
    """No place, no answer, no wait."""
    assert not all_answers([], patience=LONG).answers


def test_an_error_is_a_fresh_one():
    """The one that was raised holds on to every frame that it passed."""
    error = KeyUnavailable("away", operation="Decrypt")
    for outcome in (first_answer([Place(error)]), first_answer([Place(error), Place(error)], head_start=LONG)):
        for failure in outcome.failures.values():
            assert failure is not error
            assert failure.__traceback__ is None
            assert failure.operation == "Decrypt"
