"""Partitions that wait: what they keep in hand, and how they share their pauses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from streamcrypt.errors import AuthenticationFailed, KeyRefused, KeyUnavailable
from streamcrypt.sidecar import holds
from streamcrypt.sidecar.holds import Hold
from streamcrypt.sidecar.topics import RouteProblem


@dataclass(frozen=True)
class _Message:
    number: int
    size: int = 10

    def offset(self) -> int:
        return self.number

    def value(self) -> bytes | None:
        return b"v" * self.size if self.size else None

    def key(self) -> bytes | None:
        return None


def _away(operation: str = "GenerateDataKey", key_id: str = "arn:1") -> KeyUnavailable:
    return KeyUnavailable("away", operation=operation, key_id=key_id)


def test_records_stay_in_order_and_the_oldest_is_known():
    hold = Hold(_away())
    hold.add([_Message(5), _Message(6)])
    hold.add([_Message(9)])
    assert [m.offset() for m in hold.messages] == [5, 6, 9]
    assert hold.oldest == 5
    assert hold.fetch_from is None


def test_what_is_kept_is_bounded_by_bytes_and_the_rest_is_fetched_again():
    """One record is kept whatever its size; past the bound the place to fetch from is remembered, once."""
    most = holds._MOST_BYTES
    hold = Hold(_away())
    hold.add([_Message(1, most + 1), _Message(2), _Message(3)])
    assert [m.offset() for m in hold.messages] == [1]
    assert hold.fetch_from == 2
    hold.add([_Message(4)])
    assert [m.offset() for m in hold.messages] == [1]
    assert hold.fetch_from == 2


def test_tombstones_are_kept_like_other_records():
    hold = Hold(_away())
    hold.add([_Message(1, 0), _Message(2, 0)])
    assert len(hold.messages) == 2


def test_a_hold_that_continues_another_knows_where_to_fetch_again():
    earlier, later = Hold(_away()), Hold(_away())
    earlier.fetch_from = 7
    later.take_over(earlier)
    assert later.fetch_from == 7
    later.take_over(Hold(_away()))
    assert later.fetch_from == 7


def test_those_that_wait_for_the_same_call_share_their_pauses():
    """A hundred partitions ask KMS no more often than one."""
    first, second, other = Hold(_away()), Hold(_away()), Hold(_away(key_id="arn:2"))
    first.due = 123.0
    second.join([first, second, other])
    other.join([first, second, other])
    assert second.due == 123.0
    assert second.backoff is first.backoff
    assert other.backoff is not first.backoff
    first.failed_again(_away(), moved=False, others=[first, second, other])
    assert second.due == first.due
    assert other.due != first.due


@pytest.mark.parametrize("error", [RouteProblem("gone"), AuthenticationFailed("x"), KeyUnavailable("no operation")])
def test_what_waits_for_itself_alone_shares_nothing(error):
    assert Hold(error).gate is None


def test_pauses_begin_anew_once_something_passed_or_the_kind_of_error_changed():
    hold = Hold(_away())
    backoff = hold.backoff
    hold.failed_again(_away(), moved=False, others=[hold])
    assert hold.backoff is backoff
    hold.failed_again(_away(), moved=True, others=[hold])
    assert hold.backoff is not backoff
    backoff = hold.backoff
    hold.failed_again(KeyRefused("denied"), moved=False, others=[hold])
    assert hold.backoff is not backoff
