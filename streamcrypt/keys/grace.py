"""The grace of a data key: due, and yet in use, because the key service is away and gives no successor.

Without an outage no key passes its limits. A grace begins only where the last answer was KeyUnavailable and is fresh,
lasts no longer than the policy says, never passes the ceiling of the suites, and ends for good with any refusal.
"""

from __future__ import annotations

from streamcrypt.events import DataKeyGraceBegan, DataKeyGraceEnded
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["Grace"]


class Grace:
    """The grace of one data key. Guarded by the issuer's lock.

    Args:
        policy: How long and how far.
        topic: The topic written, for events.
    """

    __slots__ = ("_began", "_messages", "_policy", "_topic", "_until", "barred", "reason")

    def __init__(self, policy: RotationPolicy, topic: str) -> None:
        self._policy = policy
        self._topic = topic
        self._began: float | None = None
        self._until = 0.0
        self._messages = 0
        self.reason = ""
        """Why the key was due. It stays due: a smaller record would fit below a limit of bytes again."""
        self.barred = False
        """The key service said no, or the grace is over: there is no other for this key."""

    @property
    def is_on(self) -> bool:
        """Whether the key seals in grace now."""
        return self._began is not None

    @property
    def until(self) -> float:
        """When it ends at the latest, on the clock of data keys."""
        return self._until

    def follow(self, policy: RotationPolicy) -> None:
        """Allow from now on what another policy does; a grace that is on ends when it was to end."""
        self._policy = policy

    def allows(self, messages: int, used_bytes: int, minted_at: float, now: float, size: int) -> bool:
        """Say whether a due key may seal one more record of ``size`` bytes."""
        if self.barred or (self.is_on and now >= self._until):
            return False
        return self._policy.grace_allows(messages, used_bytes, now - minted_at, size)

    def begin(self, data_key: str, reason: str, messages: int, minted_at: float, now: float) -> DataKeyGraceBegan:
        """Let the key seal on; give the fact to tell."""
        policy = self._policy
        self._began, self._messages, self.reason = now, messages, reason
        self._until = min(now, minted_at + policy.max_age) + policy.grace
        return DataKeyGraceBegan(self._topic, data_key, reason, self._until - now, policy.grace_messages)

    def end(self, data_key: str, outcome: str, messages: int, now: float) -> DataKeyGraceEnded | None:
        """Allow no more of it; give the fact to tell, None where it was not on."""
        self.barred = True
        if self._began is None:
            return None
        seconds, self._began = max(0.0, now - self._began), None
        return DataKeyGraceEnded(self._topic, data_key, outcome, messages - self._messages, seconds)
