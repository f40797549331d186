"""How far a loop looks ahead for data keys: not at all, until records wait for them one after the other.

Rule: where data keys are at hand nothing is done here but to compare two numbers a batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import Message

from streamcrypt.clients.headers import read_headers
from streamcrypt.decryptor import Decryptor
from streamcrypt.sidecar.membership import Membership, runs

__all__ = ["Foresight"]

# Records of one data key stand together: where they do not, every few of them show most data keys all the same.
_EVERY = 8
# A batch whose records waited for more than this share of its time was read too late.
_TOO_LATE = 0.1
# So many batches are kept in hand at most: 80 ms of 200,000 records/s, and Membership bounds their bytes.
_FARTHEST = 16
# After so many batches in which no data key was new, it is over.
_CALM = 40


class Foresight:
    """Looks data keys ahead while they are new one after the other, and reads as far ahead as that takes.

    Args:
        opener: What opens the records; None where nothing is opened.
        member: Reads ahead.
    """

    def __init__(self, opener: Decryptor | None, member: Membership) -> None:
        self._opener = opener
        self._member = member
        self._misses = opener.misses if opener is not None else 0
        self._waited = 0.0
        self._calm = _CALM
        self._looked = 0
        self._settling = 0
        self._learned_at = 0.0

    @property
    def is_needed(self) -> bool:
        """Whether data keys are new one after the other."""
        return self._calm < _CALM

    def look(self, messages: Sequence[Message]) -> None:
        """Have the data keys of these records unwrapped, as far as they are not at hand."""
        opener = self._opener
        if opener is None:
            return
        for (topic, partition), run in runs(messages[::_EVERY], self._member.only_topic):
            self._looked += opener.look_ahead(topic, read_headers(run), partition, list(map(Message.value, run)))

    def learn(self) -> None:
        """Note how a batch went: read farther where records waited, and no more ahead once data keys are at hand."""
        opener = self._opener
        if opener is None or (self._calm == _CALM and opener.misses == self._misses):
            return
        now, waited = time.perf_counter(), opener.waited - self._waited
        if opener.misses == self._misses and not self._looked:
            self._calm += 1
            if self._calm == _CALM:
                self._member.reach = 1
        else:
            # What was read before the last change says nothing of it.
            if self._calm == _CALM:
                self._settling = self._member.ahead + 1
            elif self._settling:
                self._settling -= 1
            elif waited > _TOO_LATE * (now - self._learned_at):
                self._member.reach = min(2 * self._member.reach, _FARTHEST)
                self._settling = self._member.ahead + 1
            self._calm = 0
        self._misses, self._waited, self._looked, self._learned_at = opener.misses, opener.waited, 0, now
