"""Numbers of a data key that any thread may draw without a lock: counted before, paid by size afterwards. spec: 5.1

Of what sealing one record costs besides the cipher, a lock, a count and a nonce were a third (docs/profile.md). Here an
issuer counts a few numbers at once, under its lock, and hands them out as an iterator of finished nonces.

Why no number is drawn twice: ``next`` of a ``map`` over a ``range`` runs in C from begin to end. CPython switches
threads between bytecodes only, and nothing in that call runs bytecode: ``Struct.pack`` and integers alone. It is what
the standard library itself relies on where it draws from ``itertools.count``. Without the global lock it does not
hold, so there no ticket is ever issued and every number is taken under the issuer's lock.

Why none is left out: what nobody drew is drawn by the issuer, all in one such step, and counted back before any other
number of the lane is given; only where these are the highest numbers that were ever given, which is looked at. ADR 28.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import repeat
from struct import Struct

__all__ = ["LANE_UNKNOWN", "NO_TICKETS", "Tickets", "draws_are_atomic", "how_many", "nonce_of"]

LANE_UNKNOWN = 0xFFFF_FFFF
"""The lane of records whose partition is not known when they are sealed. spec: 5.1.2"""

nonce_of = Struct(">IQ").pack
"""``nonce_of(lane, number)`` gives the 12 bytes of a nonce."""

# Few enough that taking back what is left costs some 10 us, many enough that counting them is lost in the noise.
_MOST = 256
# A smaller record is charged as this much until its size is known, so that few of them go another way.
_LEAST_BYTES = 4096
# Of what a data key may still seal; so towards its end fewer and fewer are issued, and then none.
_SHARE = 4


class Tickets:
    """Some numbers of one data key in :data:`LANE_UNKNOWN`, counted already.

    Args:
        first: The first number; all before it are taken.
        count: How many numbers.
        each: The most bytes that a record may have that draws one. So many are charged for each until it is known.

    Attributes:
        nonces: Draw one by iterating once: ``for nonce in tickets.nonces: …; break``.
        sizes: Whoever drew one appends its record's bytes.
        each: As given.
        last: The last number.
    """

    __slots__ = ("_count", "each", "last", "nonces", "sizes")

    def __init__(self, first: int, count: int, each: int) -> None:
        self._count = count
        self.last = first + count - 1
        self.each = each
        self.nonces: Iterator[bytes] = map(nonce_of, repeat(LANE_UNKNOWN), range(first, first + count))
        self.sizes: list[int] = []

    @property
    def charged_bytes(self) -> int:
        """What is charged for all of them in advance."""
        return self._count * self.each

    def overcharged(self) -> tuple[int, int]:
        """Give the messages and bytes that were charged and not used so far."""
        sizes = self.sizes[:]
        return self._count - len(sizes), self.charged_bytes - sum(sizes)

    def take_back(self) -> tuple[int, int, int]:
        """Draw all that is left; nobody draws one from now on.

        A ticket that a thread has just drawn, and not paid yet, stays charged in full.

        Returns:
            How many were left; the bytes charged too much, for them and for those drawn; and how many of the highest
            numbers are free to be given again: those that were left, unless they are not the highest.
        """
        # In one step, as a draw is: another thread that drew in between would have a number above some of these.
        left = list(self.nonces)
        free = len(left) if left and left[0] == nonce_of(LANE_UNKNOWN, self.last - len(left) + 1) else 0
        sizes = self.sizes[:]
        return len(left), (len(left) + len(sizes)) * self.each - sum(sizes), free


NO_TICKETS = Tickets(0, 0, -1)
"""None are issued, which is not the same as all drawn: then others are, by whoever comes next."""


def draws_are_atomic() -> bool:
    """Say whether this interpreter draws from an iterator in one step: CPython with its global lock."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and bool(is_gil_enabled())


def how_many(messages: int, messages_left: int, bytes_left: int, size: int) -> tuple[int, int]:
    """Give how many tickets to issue, and the bytes to charge for each.

    Args:
        messages: What the data key has sealed: one that has sealed little is given little, as many may be live.
        messages_left: What it may still seal before the issuer wants to look.
        bytes_left: As ``messages_left``.
        size: The bytes of the record that asks.
    """
    each = max(2 * size, _LEAST_BYTES)
    return max(0, min(_MOST, messages, messages_left // _SHARE, bytes_left // _SHARE // each)), each
