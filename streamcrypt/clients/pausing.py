"""Which partitions wait for the key service, and when each is tried again.

Rule 1: this file knows no Kafka; the consumer pauses, seeks and resumes as it is told here.
Rule 2: a partition that its user paused stays the user's: it is never resumed from here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from streamcrypt.encryptor import HeaderList

__all__ = ["FIRST_DELAY", "LONGEST_DELAY", "PartitionKey", "Wait", "WaitingPartitions"]

PartitionKey = tuple[str, int]

FIRST_DELAY = 0.5
"""Seconds until the first new try; each further one waits twice as long."""
LONGEST_DELAY = 10.0
"""Seconds between tries at most: what a KMS outage costs after its end."""
_SPREAD = (0.8, 1.0)  # so that the consumers of a group do not ask together


@dataclass(slots=True)
class Wait:
    """A partition that waits at one record.

    Attributes:
        key: Topic and partition.
        offset: The record that could not be opened; nothing from it on was handed over.
        sealed: Its value, key and headers as they were read, so that trying again reads nothing from the broker.
        since: When the wait began, on the clock of the waits.
        due: When to try next.
        tries: How often it was tried in vain.
        sought: Whether the consumer's position is back at ``offset``.
    """

    key: PartitionKey
    offset: int
    sealed: tuple[bytes | None, bytes | None, HeaderList | None]
    since: float
    due: float
    tries: int = 1
    sought: bool = False


class WaitingPartitions:
    """The waits of one consumer, and the partitions that its user paused.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits: dict[PartitionKey, Wait] = {}
        self._paused_by_user: set[PartitionKey] = set()

    def __bool__(self) -> bool:
        return bool(self._waits)

    def __contains__(self, key: PartitionKey) -> bool:
        return key in self._waits

    def __iter__(self) -> Iterator[PartitionKey]:
        return iter(list(self._waits))

    def get(self, key: PartitionKey) -> Wait | None:
        """Give the wait of a partition, None where it does not wait."""
        return self._waits.get(key)

    def begin(
        self, key: PartitionKey, offset: int, sealed: tuple[bytes | None, bytes | None, HeaderList | None]
    ) -> Wait:
        """Let a partition wait at ``offset`` from now on."""
        now = self._clock()
        wait = self._waits[key] = Wait(key, offset, sealed, now, now + _delay(1))
        return wait

    def next_due(self) -> Wait | None:
        """Give the wait whose time has come longest ago, None where none has."""
        if not self._waits:
            return None
        first = min(self._waits.values(), key=lambda wait: wait.due)
        return first if self._clock() >= first.due else None

    def seconds_left(self) -> float:
        """Give the seconds until the next try; infinite where nothing waits."""
        return max(0.0, min((wait.due for wait in self._waits.values()), default=float("inf")) - self._clock())

    def postpone(self, wait: Wait) -> None:
        """Note a try in vain: the next one comes after twice the time."""
        wait.tries += 1
        wait.due = self._clock() + _delay(wait.tries)

    def end(self, key: PartitionKey) -> float | None:
        """Forget a wait; give the seconds it took, None where there was none."""
        wait = self._waits.pop(key, None)
        return None if wait is None else self._clock() - wait.since

    def user_paused(self, keys: Iterable[PartitionKey]) -> None:
        """Note that the user paused these partitions."""
        self._paused_by_user.update(keys)

    def user_resumed(self, keys: Iterable[PartitionKey]) -> None:
        """Note that the user lets these partitions go on."""
        self._paused_by_user.difference_update(keys)

    def is_users(self, key: PartitionKey) -> bool:
        """Tell whether the user paused this partition, so that it is not ours to resume."""
        return key in self._paused_by_user

    def clear(self) -> None:
        """Forget everything: the consumer is closed."""
        self._waits.clear()
        self._paused_by_user.clear()


def _delay(tries: int) -> float:
    # 2^tries would pass every float in a long outage.
    doubled = FIRST_DELAY * 2 ** min(tries - 1, 10)
    return float(min(LONGEST_DELAY, doubled)) * random.uniform(*_SPREAD)  # noqa: S311  spread, no secret
