"""Partitions that wait: their fetched records stay in hand, in order, and are tried again after growing pauses."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from confluent_kafka import Message

from streamcrypt.errors import StreamcryptError
from streamcrypt.sidecar.failures import Backoff

__all__ = ["Hold"]


@dataclass(slots=True)
class Hold:
    """One partition that waits for a key or for its target.

    Attributes:
        messages: The records in hand, the failed one first. Bounded by the batch in which it failed, because the
            partition is paused at once.
        error: Why it waits.
        since: When it began, on the monotonic clock.
        backoff: The pauses so far.
        due: When to try again.
    """

    messages: deque[Message]
    error: StreamcryptError
    since: float = field(default_factory=time.monotonic)
    backoff: Backoff = field(init=False)
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.backoff = Backoff.for_error(self.error)
        self.due = self.since + self.backoff.next()

    def failed_again(self, error: StreamcryptError) -> None:
        """Note another failure; where its kind has changed, the pauses begin anew."""
        if type(error) is not type(self.error):
            self.backoff = Backoff.for_error(error)
        self.error = error
        self.due = time.monotonic() + self.backoff.next()
