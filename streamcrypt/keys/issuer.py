"""The current data key of one topic, and those that come next, minted before they are needed.

Rule 1: a number is counted under :attr:`DataKeyIssuer.lock`, alone or with others as tickets that are drawn later, so
that no key ever seals one record more than the policy allows, whatever threads do. The lock is never let go within its
own ``with`` block: an interrupt there would release it while another thread holds it. spec: 5.1, 7.2
Rule 2: a data key lives in one process. After a fork the child forgets every key and mints its own. spec: 4.4
Rule 3: keys are dropped, not wiped, when they are replaced: a thread that still holds a number finishes with it, and
OpenSSL overwrites the key schedule when the last holder lets go.
Rule 4: the observer and the key service are called without the lock.
Rule 5: while the key service is away, a due key seals on within its grace, and no record waits for the next one.
Rule 6: keys in stock age from their own minting, and are held to the same rules as the current one when they come into
use; no more are minted than are used, but for the stock at the end.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from concurrent.futures import Future
from math import inf
from typing import NoReturn

from streamcrypt.errors import ConfigError, KeyUnavailable, StreamcryptError, again
from streamcrypt.events import DataKeyMintFailed, DataKeyRetired, Event
from streamcrypt.keys.forks import forget_after_fork
from streamcrypt.keys.minting import Lease, Minter
from streamcrypt.keys.stock import StockSize
from streamcrypt.keys.tickets import LANE_UNKNOWN

__all__ = ["DataKeyIssuer"]

# How often a key in use is looked at besides its limits: a jump of the wall clock is noticed within this time.
_LOOK_AGAIN = 1.0
# A wall clock that moved by more than this against the boot clock tells of a restored snapshot, or of a clock set.
_CLOCK_JUMP = 5.0
# Elsewhere the next key is minted when half the messages or bytes, or about 80 % of the age, are used up. The spread
# keeps a fleet that started together from calling KMS together.
_AHEAD_SHARE = 0.5
_AHEAD_AGE = (0.75, 0.85)
_RETRY_AHEAD = (1.0, 3.0)


class _Minting(Future[None]):
    """One minting under way, and its place in the queue for a thread, where it has one.

    ``rounds``: how often such keys had been let go when it began.
    """

    job: Future[None] | None = None
    rounds: int = 0


class DataKeyIssuer:
    """The current data key of one topic.

    The hot path takes a number as :class:`streamcrypt.encryptor.TopicSealer` does: it draws a ticket of :attr:`lease`,
    or compares the lease with its stops and counts, under :attr:`lock`. Where tickets are spent or a stop is reached it
    calls :meth:`take`, without the lock.

    Args:
        minter: What is shared with the other topics.
        topic: The topic written, for events.
        context: The encryption context, canonical.
    """

    def __init__(self, minter: Minter, topic: str, context: tuple[tuple[str, str], ...]) -> None:
        self._minter = minter
        self._topic = topic
        self._context = context
        self._closed = False
        self.lease = Lease.none()
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Start without any key: at first, and in a forked child."""
        self.lock = threading.Lock()
        # A fork in the middle of sealing, as by a signal handler: what was not drawn before it is the parent's.
        self.lease.take_tickets_back()
        self.lease = Lease.none()
        self._stock: deque[Lease] = deque()
        # Mintings under way, oldest first; an ordered set, so that one can leave it without the lock.
        self._mintings: dict[_Minting, None] = {}
        self._untold: deque[Event] = deque()
        self._size = StockSize()
        # How often keys on their way were let go, and why last: one whose minting began before is dropped on arrival.
        self._rounds = 0
        self._let_go_for = ""
        self._activated_at = 0.0
        self._ahead_time = inf
        self._retry_ahead_at = -inf
        # Whether the last minting ended with KeyUnavailable.
        self._away = False
        self._failed_at = -inf

    def take(self, size: int, lane: int) -> tuple[Lease, int]:
        """Give a key for one more record of ``size`` bytes, and the record's number in ``lane``.

        Blocks while a key has to be minted; of many threads one mints.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: No key could be minted. Nothing was counted.
        """
        while True:
            with self.lock:
                lease = self._going_on(size) or self._attend(size)
                if lease is not None:
                    number = lease.count(size, lane)
                    if lane == LANE_UNKNOWN:
                        lease.issue_tickets(size)
                    break
                minting, mine = self._join_minting()
            self._await(minting, size, mine=mine)
        self._tell()
        return lease, number

    def ready(self) -> None:
        """Have a key at hand, minting one where there is none.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: As :meth:`take`.
        """
        while True:
            with self.lock:
                if self._attend(0) is not None:
                    break
                minting, mine = self._join_minting()
            self._await(minting, 0, mine=mine)
        self._tell()

    def retire(self, reason: str, header: bytes | None = None) -> None:
        """Let the current key seal nothing more, or only where ``header`` is its own; the next record gets another."""
        with self.lock:
            if header is not None and header != self.lease.header_bytes:
                return
            self._drop(self.lease, reason, self._minter.clock())
            self.lease = Lease.none()
        self._tell()

    def follow_rotation(self) -> None:
        """Hold the keys at hand to the minter's rotation, which has changed: one that is over a limit now is due."""
        rotation = self._minter.rotation
        with self.lock:
            for lease in (self.lease, *self._stock):
                if lease.key is not None:
                    lease.grace.follow(rotation)
            self.lease.stop()
            self._ahead_time = self.lease.minted_at + rotation.max_age * random.uniform(*_AHEAD_AGE)  # noqa: S311  spread

    def let_go(self, reason: str, *, on_their_way: bool = False) -> None:
        """Drop the current key and those in stock; the next record, where one comes after all, gets another.

        Args:
            reason: For the events.
            on_their_way: Whether keys whose minting has begun are dropped as well, once they come.
        """
        with self.lock:
            if on_their_way:
                self._rounds += 1
                self._let_go_for = reason
            self._drop_all(reason)
        self._tell()

    def _drop_all(self, reason: str) -> None:
        now = self._minter.clock()
        self._drop(self.lease, reason, now)
        self.lease = Lease.none()
        self._drop_stock(reason, now)

    def _drop_stock(self, reason: str, now: float) -> None:
        while self._stock:
            self._drop(self._stock.popleft(), reason, now)

    @property
    def is_empty(self) -> bool:
        """Whether it has no key and none is on its way."""
        return self.lease.key is None and not self._stock and not self._mintings

    def use_of(self, lease: Lease) -> tuple[float, float]:
        """Give a key's age in seconds, and how much it has used of the limit of rotation that is nearest."""
        rotation = self._minter.rotation
        age = max(0.0, self._minter.clock() - lease.minted_at)
        messages, size = lease.sealed()
        return age, max(messages / rotation.max_messages, size / rotation.max_bytes, age / rotation.max_age)

    def sweep(self) -> None:
        """Drop keys that can seal nothing more, though no record came to find out; have one replaced that is outdated.

        Outdated is a key where a new one would be wrapped otherwise: see :attr:`KeyProvider.sealing_generation`.
        """
        rotation = self._minter.rotation
        generation = self._minter.generation_of(self._context)
        with self.lock:
            now = self._minter.clock()
            if self.lease.generation != generation:
                # Due, and no more: where the key service is away just now, it seals on in grace.
                self.lease.stop()
            if self.lease.key is not None and now - self.lease.minted_at >= rotation.max_age + rotation.grace:
                self._drop(self.lease, "age", now)
                self.lease = Lease.none()
            for lease in list(self._stock):
                outdated = lease.generation != generation
                if outdated or now - lease.minted_at >= rotation.max_age:
                    self._stock.remove(lease)
                    self._drop(lease, "kek_changed" if outdated else "age", now)
        self._tell()

    def close(self) -> None:
        """Drop the current key and those in stock for good."""
        with self.lock:
            self._closed = True
            self._drop_all("closed")
        self._tell()

    def __reduce__(self) -> NoReturn:
        raise TypeError("data keys of one process cannot be pickled or copied")

    def _going_on(self, size: int) -> Lease | None:
        """Give the current lease where no stop is reached; its tickets are taken back."""
        lease = self.lease
        lease.take_tickets_back()
        return lease if lease.goes_on(size, self._minter.clock()) else None

    def _attend(self, size: int) -> Lease | None:
        """Give the lease that may seal one more record; None where one has to be minted first."""
        now = self._minter.clock()
        self.lease.take_tickets_back()
        reason = self._due(self.lease, size, now)
        if reason == "clock":
            # For good, even while KMS is away: the clock may come back to where the key seemed young.
            self._drop(self.lease, reason, now)
            self.lease = Lease.none()
            self._drop_stock(reason, now)
        if reason is not None:
            successor = self._successor(size, now)
            if successor is not None:
                self._activate(successor, reason, now)
            elif not self._seals_on(reason, size, now):
                return None
        self._look_ahead(size, now)
        self._set_stops(now)
        return self.lease

    def _successor(self, size: int, now: float) -> Lease | None:
        """Take the oldest key in stock that may seal a record; those that may not are dropped."""
        while self._stock:
            lease = self._stock.popleft()
            stale = self._due(lease, size, now)
            if stale is None:
                return lease
            self._drop(lease, stale, now)
        return None

    def _due(self, lease: Lease, size: int, now: float) -> str | None:
        if lease.key is None:
            return "start"
        if now < lease.looked_at or abs(self._minter.wall_clock() - now - lease.wall_offset) > _CLOCK_JUMP:
            return "clock"
        if lease.grace.is_on:
            return lease.grace.reason
        if lease.generation != self._minter.generation_of(self._context):
            return "kek_changed"
        return self._minter.rotation.due(lease.messages, lease.bytes, now - lease.minted_at, size)

    def _seals_on(self, reason: str, size: int, now: float) -> bool:
        """Say whether the key that is due may seal one more record in grace, and begin or end that grace."""
        lease = self.lease
        if lease.key is None:
            return False
        if not lease.grace.is_on:
            if not self._grace_may_begin(size, now):
                return False
            self._untold.append(lease.grace.begin(lease.key.id, reason, lease.messages, lease.minted_at, now))
        elif not lease.grace.allows(lease.messages, lease.bytes, lease.minted_at, now, size):
            self._end_grace(lease, "spent", now)
            return False
        return True

    def _grace_may_begin(self, size: int, now: float) -> bool:
        # Only on a fresh answer, or while the call after it gets none: where KMS answers, limits are exact.
        fresh = self._away and (bool(self._mintings) or now < self._retry_ahead_at)
        lease = self.lease
        may = lease.key is not None and lease.grace.allows(lease.messages, lease.bytes, lease.minted_at, now, size)
        return fresh and may

    def _end_grace(self, lease: Lease, outcome: str, now: float) -> None:
        if lease.key is None:
            return
        lease.take_tickets_back()
        if event := lease.grace.end(lease.key.id, outcome, lease.messages, now):
            self._untold.append(event)
            lease.stop_messages = 0

    def _activate(self, lease: Lease, reason: str, now: float) -> None:
        before, self.lease = self.lease, lease
        if before.key is not None:
            self._size.lived(now - self._activated_at)
        self._end_grace(before, "minted", now)
        self._drop(before, reason, now)
        self._activated_at = now
        self._ahead_time = lease.minted_at + self._minter.rotation.max_age * random.uniform(*_AHEAD_AGE)  # noqa: S311  spread, no secret
        self._retry_ahead_at = -inf

    def _look_ahead(self, size: int, now: float) -> None:
        """Have keys minted in the background, where this record brings the current one near its end."""
        lease, rotation = self.lease, self._minter.rotation
        wanted = (
            self._size.is_short
            or lease.messages + 1 >= rotation.max_messages * _AHEAD_SHARE
            or lease.bytes + size >= rotation.max_bytes * _AHEAD_SHARE
            or now >= self._ahead_time
        )
        if not wanted or now < self._retry_ahead_at:
            return
        # The first key has come about half its way; one that has sealed nothing yet says nothing.
        expected = (now - self._activated_at) / _AHEAD_SHARE if lease.messages else None
        for _ in range(self._size.wanted(expected) - len(self._stock) - len(self._under_way())):
            if self._mint_elsewhere(ahead=True) is None:
                self._retry_ahead_at = now + _RETRY_AHEAD[0]
                return

    def _set_stops(self, now: float) -> None:
        lease, rotation = self.lease, self._minter.rotation
        lease.looked_at = now
        lease.stop_time = now + _LOOK_AGAIN
        if lease.grace.is_on:
            lease.stop_messages, lease.stop_bytes = rotation.grace_messages, rotation.grace_bytes
            lease.stop_time = min(lease.stop_time, lease.grace.until)
            return
        waiting = not self._stock and not self._under_way()
        half_messages = int(rotation.max_messages * _AHEAD_SHARE)
        half_bytes = int(rotation.max_bytes * _AHEAD_SHARE)
        ahead = waiting and lease.messages < half_messages
        lease.stop_messages = half_messages if ahead else rotation.max_messages
        ahead = waiting and lease.bytes < half_bytes
        # An empty key takes one record of any size.
        lease.stop_bytes = (half_bytes if ahead else rotation.max_bytes) if lease.messages else -1
        lease.stop_time = min(lease.stop_time, lease.minted_at + rotation.max_age)
        if now < self._ahead_time < lease.stop_time:
            lease.stop_time = self._ahead_time

    def _join_minting(self) -> tuple[_Minting, bool]:
        """Give the minting under way, and whether the caller has to do it on its own thread."""
        if self._closed:
            raise ConfigError("the encryptor is closed")
        oldest = next(iter(self._under_way()), None)
        if oldest is None:
            if self._minter.max_wait is not None and (minting := self._mint_elsewhere(ahead=False)) is not None:
                return minting, False
            oldest = self._begin_minting()
            return oldest, True
        # One that still stands in the queue, behind those of other topics, is not waited for.
        mine = self._minter.max_wait is None and oldest.job is not None and oldest.job.cancel()
        if mine:
            oldest.job = None
        return oldest, mine

    def _under_way(self) -> list[_Minting]:
        """Give the mintings whose keys will be used, oldest first."""
        return [minting for minting in list(self._mintings) if minting.rounds == self._rounds]

    def _begin_minting(self) -> _Minting:
        minting = _Minting()
        minting.rounds = self._rounds
        self._mintings[minting] = None
        return minting

    def _mint_elsewhere(self, *, ahead: bool) -> _Minting | None:
        minting = self._begin_minting()
        minting.job = self._minter.submit(lambda: self._mint(minting, ahead=ahead))
        if minting.job is None:
            self._mintings.pop(minting, None)
            return None
        return minting

    def _await(self, minting: _Minting, size: int, *, mine: bool) -> None:
        """Wait for the next key; return, too, where the current one may now seal on in grace."""
        if mine:
            self._mint(minting, ahead=False)
        self._tell()
        failure: BaseException | None
        try:
            failure = minting.exception(self._minter.max_wait)
        except TimeoutError:
            failure = KeyUnavailable("the next data key is not here yet", operation="GenerateDataKey")
        if isinstance(failure, KeyUnavailable):
            with self.lock:
                # Of several mintings one may fail and another give a key.
                if self._stock or self._grace_may_begin(size, self._minter.clock()):
                    return
        if isinstance(failure, StreamcryptError):
            # Several threads may wait for one answer: each raises an error of its own.
            raise again(failure) from None
        if failure is not None and (mine or self._minter.max_wait is not None):
            raise failure
        # A defect or an interrupt in another thread is that thread's: this one tries for itself.

    def _mint(self, minting: _Minting, *, ahead: bool) -> None:
        """Mint the next key and let go those who wait, whatever happens."""
        if minting not in self._mintings:
            return  # given up: the executor kept the work though it had no thread for it
        failure: BaseException | None = None
        began = self._minter.clock()
        # Before the key service is called, so that no earlier key can count as a later one.
        minting.rounds = rounds = self._rounds
        try:
            lease, minted = self._minter.mint(self._topic, self._context, ahead=ahead)
            with self.lock:
                self._untold.append(minted)
                # One that was under way while others failed tells of the outage.
                if began > self._failed_at:
                    self._size.took(self._minter.clock() - began)
                self._take_in(lease, rounds)
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            # Ours without the traceback, which leads to this frame and so back to the error.
            failure = again(error) if isinstance(error, StreamcryptError) else error
            self._note_failure(error, ahead=ahead)
        finally:
            self._mintings.pop(minting, None)
            if failure is None:
                minting.set_result(None)
            else:
                minting.set_exception(failure)
            failure = None
        self._tell()
        self._minter.sweep_when_due()

    def _take_in(self, lease: Lease, rounds: int) -> None:
        self._away = False
        if self._closed or rounds != self._rounds:
            self._drop(lease, "closed" if self._closed else self._let_go_for, self._minter.clock())
            return
        self._stock.append(lease)
        if self.lease.grace.is_on:
            self.lease.stop()  # the next record takes the new key

    def _note_failure(self, error: BaseException, *, ahead: bool) -> None:
        now = self._minter.clock()
        with self.lock:
            self._untold.append(_failed(self._topic, error, ahead=ahead))
            self._away = isinstance(error, KeyUnavailable)
            self._failed_at = now
            # By chance, so that the topics and processes that lost KMS together do not come back together.
            self._retry_ahead_at = now + random.uniform(*_RETRY_AHEAD)  # noqa: S311
            if isinstance(error, StreamcryptError) and not self._away:
                # The key service answered, and said no: a revoked permission must bite.
                for lease in (self.lease, *self._stock):
                    lease.grace.barred = lease.key is not None
                self._end_grace(self.lease, "refused", now)

    def _drop(self, lease: Lease | None, reason: str, now: float) -> None:
        if lease is None or lease.key is None:
            return
        self._end_grace(lease, reason, now)
        age = max(0.0, now - lease.minted_at)
        self._untold.append(DataKeyRetired(self._topic, lease.key.id, reason, lease.messages, lease.bytes, age))

    def _tell(self) -> None:
        while self._untold:
            try:
                event = self._untold.popleft()
            except IndexError:
                return  # another thread tells it
            self._minter.observer(event)


def _failed(topic: str, error: BaseException, *, ahead: bool) -> DataKeyMintFailed:
    name = type(error).__name__
    if isinstance(error, StreamcryptError):
        return DataKeyMintFailed(topic, name, str(error), error.retriable, ahead, error.request_id)
    # The text of a foreign exception may hold anything.
    return DataKeyMintFailed(topic, name, "", retriable=False, ahead=ahead)
