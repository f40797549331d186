"""Partitions that wait: their fetched records stay in hand, in order, and are tried again after growing pauses.

Partitions that wait for the same thing of the key service share their pauses, and one of them asks for all: a hundred
of them must neither call KMS a hundred times as often nor keep the loop from its consumer group.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamcrypt.errors import KeyServiceError, StreamcryptError
from streamcrypt.sidecar.failures import Backoff

__all__ = ["Gate", "Hold"]

# A hundred partitions may wait at once.
_MOST_BYTES = 4 * 2**20

Gate = tuple[type[StreamcryptError], str, str]
"""What several partitions wait for: the kind of error, the operation and the KEK."""


@dataclass(slots=True)
class Hold:
    """One partition that waits for a key or for its target.

    Attributes:
        messages: The records in hand, the failed one first; add more by :meth:`add`. Bounded by bytes.
        error: Why it waits.
        since: When it began, on the monotonic clock.
        backoff: The pauses so far.
        due: When to try again.
        fetch_from: Where to fetch again on going on, because not all that had been fetched is kept in hand.
        passed: How many of the records in hand have passed, while they are tried: a commit meanwhile covers them.
    """

    error: StreamcryptError
    messages: deque[Any] = field(default_factory=deque)
    since: float = field(default_factory=time.monotonic)
    backoff: Backoff = field(init=False)
    due: float = field(init=False)
    fetch_from: int | None = None
    passed: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        self.backoff = Backoff.for_error(self.error)
        self.due = self.since + self.backoff.next()

    def add(self, messages: Sequence[Any]) -> None:
        """Keep more records in hand, as far as there is room; the others will be fetched again."""
        for message in messages:
            if self.fetch_from is not None:
                return
            if self.messages and self._bytes > _MOST_BYTES:
                self.fetch_from = message.offset()
                return
            self.messages.append(message)
            self._bytes += len(message.value() or b"") + len(message.key() or b"")

    def take_over(self, earlier: Hold) -> None:
        """Continue a hold whose later records are still to be fetched again."""
        if self.fetch_from is None:
            self.fetch_from = earlier.fetch_from

    @property
    def oldest(self) -> int:
        """The offset of the oldest record in hand that has not passed."""
        if self.passed < len(self.messages):
            return int(self.messages[self.passed].offset() or 0)
        return int(self.messages[-1].offset() or 0) + 1

    def drop_passed(self) -> None:
        """Let go of the records that have passed."""
        for _ in range(self.passed):
            self.messages.popleft()
        self.passed = 0

    @property
    def gate(self) -> Gate | None:
        """What it shares its wait with; None where it waits for itself alone."""
        error = self.error
        if isinstance(error, KeyServiceError) and error.operation:
            return type(error), error.operation, error.key_id
        return None

    def join(self, others: Iterable[Hold]) -> None:
        """Wait as long as those at the same gate do."""
        gate = self.gate
        other = next((hold for hold in others if hold is not self and hold.gate == gate), None) if gate else None
        if other is not None:
            self.backoff, self.due = other.backoff, other.due

    def failed_again(self, error: StreamcryptError, *, moved: bool, others: Iterable[Hold]) -> None:
        """Note another failure, for all at the same gate.

        Args:
            error: The failure.
            moved: Whether some of the records passed; the pauses begin anew then, as where the kind has changed.
            others: All that wait.
        """
        if moved or type(error) is not type(self.error):
            self.backoff = Backoff.for_error(error)
        self.error = error
        self.due = time.monotonic() + self.backoff.next()
        gate = self.gate
        for hold in others if gate else ():
            if hold.gate == gate:
                hold.backoff, hold.due = self.backoff, self.due
