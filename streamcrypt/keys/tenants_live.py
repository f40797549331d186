"""How many sealers may hold a data key where each record has a KEK of its own, and how many may come in a minute."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from streamcrypt.errors import KeyUnavailable
from streamcrypt.events import DataKeyBudgetSpent, Observer
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.forks import forget_after_fork
from streamcrypt.keys.issuer import DataKeyIssuer
from streamcrypt.keys.tenants_template import Raw

__all__ = ["Live", "LiveSealers"]

# A choice that sealed nothing for so long, and whose data key is gone, is forgotten.
_IDLE = 60.0
_TELL_EVERY = 60.0


class _Sealer(Protocol):
    @property
    def issuer(self) -> DataKeyIssuer: ...


S = TypeVar("S", bound=_Sealer)


class Live(Generic[S]):
    """A choice that has, or will have, a data key."""

    __slots__ = ("home", "raw", "sealer", "used")

    def __init__(self, sealer: S, home: dict[Raw, Live[S]], raw: Raw, used: float) -> None:
        self.sealer = sealer
        self.home = home
        self.raw = raw
        self.used = used


class LiveSealers(Generic[S]):
    """Bounds the data keys at hand, and the new ones of a minute, over all topics of one encryptor.

    Args:
        max_live: Data keys at hand.
        per_minute: Admissions in a minute; also how many may come at once.
        clock: Seconds.
        observer: Told where the budget is spent.
    """

    def __init__(self, max_live: int, per_minute: int, clock: Clock, observer: Observer) -> None:
        self._max_live = max_live
        self._per_minute = per_minute
        self._clock = clock
        self._observer = observer
        self._live: dict[Live[S], None] = {}
        self._tokens = float(per_minute)
        self._filled_at = clock()
        self._told_at = clock() - _TELL_EVERY
        self._untold = 0
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Make the lock anew: in a forked child, another thread's hold on it would never end."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, topic: str, home: dict[Raw, Live[S]], raw: Raw, make: Callable[[], S]) -> Live[S]:
        """Put a new choice into ``home``, making room where needed; another thread's, where it was quicker.

        Raises:
            KeyUnavailable: Too many came within a minute.
        """
        evicted: Live[S] | None = None
        with self._lock:
            live = home.get(raw)
            if live is not None:
                return live
            if self._take_token():
                if len(self._live) >= self._max_live:
                    evicted = min(self._live, key=lambda other: other.used)
                    self._remove(evicted)
                live = home[raw] = Live(make(), home, raw, self._clock())
                self._live[live] = None
            spent = None if live is not None else self._spent(topic)
        if evicted is not None:
            evicted.sealer.issuer.let_go("lru")
        if spent is not None:
            self._observer(spent)
        if live is None:
            raise KeyUnavailable(
                f"{self._per_minute} new data keys were minted within a minute; the record waits for the next",
                remedy="It goes on by itself. See keys.new_keys_per_minute and keys.max_live.",
            )
        return live

    def drop(self, live: Live[S], reason: str) -> None:
        """Forget a choice, and drop its data key."""
        with self._lock:
            self._remove(live)
        live.sealer.issuer.let_go(reason)

    def sweep(self) -> None:
        """Forget choices that seal nothing any more and whose data key is gone."""
        now = self._clock()
        for live in list(self._live):
            issuer = live.sealer.issuer
            if now - live.used >= _IDLE and issuer.is_empty:
                self.drop(live, "age")

    def _remove(self, live: Live[S]) -> None:
        self._live.pop(live, None)
        if live.home.get(live.raw) is live:
            del live.home[live.raw]

    def _take_token(self) -> bool:
        now = self._clock()
        earned = max(0.0, now - self._filled_at) * self._per_minute / 60
        self._tokens, self._filled_at = min(float(self._per_minute), self._tokens + earned), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _spent(self, topic: str) -> DataKeyBudgetSpent | None:
        self._untold += 1
        now = self._clock()
        if now - self._told_at < _TELL_EVERY:
            return None
        records, self._untold, self._told_at = self._untold, 0, now
        return DataKeyBudgetSpent(topic, self._per_minute, len(self._live), records)
