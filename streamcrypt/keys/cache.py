"""Opened data keys of a reader, by header bytes: LRU, absolute TTL, one unwrapping for many concurrent misses.

Every key in here passed its commitment check (spec: 8.2.2). What may be opened is the decryptor's affair; this file
only keeps.
"""

from __future__ import annotations

import heapq
import random
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from hashlib import sha256

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.envelope.binding import AADBuilder
from streamcrypt.envelope.header import EncryptedDataKey, EnvelopeHeader
from streamcrypt.errors import ConfigError, KeyServiceError, KeyUnavailable, StreamcryptError, again
from streamcrypt.events import DataKeyDropped, Observer
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.forks import forget_after_fork
from streamcrypt.keys.rotation import CachePolicy

__all__ = ["CachedDataKey", "DataKeyCache", "MissBudget"]


# Full buckets are thrown away once there are more; a full one and none are the same.
_MANY_BUCKETS = 1024
# An entry lives for 90 to 100 % of the TTL: readers that began together do not come back to KMS together.
_SPREAD = 0.1
# Headers that differ in ``keys`` alone cost no call, and anyone who can write records can make as many as he likes out
# of one: they have this share of the cache for themselves, and drop no other entry.
_ALIAS_SHARE = 16


class CachedDataKey:
    """An opened data key with what opening a record needs, worked out once.

    Attributes:
        open: The cipher's own method ``open(nonce, ciphertext_and_tag, aad)``.
        aad: Builds the AAD of one record.
        expires: When it must be unwrapped again, on the cache's clock.
        used: When it was last used; written by the hot path without a lock, read when room is needed.
        approved: Topic to the trust generation under which the policy was last checked for it.
        identity: What the DEK is bound to, without ``keys``.
        is_alias: Whether it shares the data key of an earlier entry under a header that differs in ``keys`` alone.
        header: The header, for checking the policy again.
        proof: The encrypted data key that the key service opened. Where its KEK is trusted no more, nor is this entry,
            whatever else stands in ``header.keys``.
    """

    __slots__ = (
        "__weakref__",
        "aad",
        "approved",
        "expires",
        "header",
        "identity",
        "is_alias",
        "key",
        "open",
        "proof",
        "used",
    )

    def __init__(
        self,
        key: DataKey,
        header: EnvelopeHeader,
        *,
        identity: bytes,
        proof: EncryptedDataKey,
        aad: AADBuilder,
        expires: float,
        is_alias: bool = False,
    ) -> None:
        self.key = key
        self.open = key.open
        self.header = header
        self.proof = proof
        self.identity = identity
        self.aad = aad
        self.expires = expires
        self.is_alias = is_alias
        self.used = 0.0
        self.approved: dict[str, int] = {}


class DataKeyCache:
    """Header bytes to :class:`CachedDataKey`.

    Args:
        policy: Size and times.
        clock: Seconds on a clock that counts suspend.
        observer: Told of keys dropped.
    """

    def __init__(self, policy: CachePolicy, clock: Clock, observer: Observer) -> None:
        self.policy = policy
        self._clock = clock
        self._observer = observer
        self.entries: dict[bytes, CachedDataKey] = {}
        """For the hot path to look into; a look-up is atomic. It must compare ``expires`` and write ``used``."""
        # The headers of aliases, oldest first.
        self._aliases: dict[bytes, None] = {}
        self._shared: weakref.WeakValueDictionary[bytes, CachedDataKey] = weakref.WeakValueDictionary()
        # By digest: a header may have 8 KiB, and whoever writes to the topic chooses how many there are.
        self._refusals: dict[bytes, tuple[StreamcryptError, float]] = {}
        self._dropped: deque[DataKeyDropped] = deque()
        self._closed = False
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Start with fresh locks: at first, and in a forked child, where another thread may have held one."""
        self._lock = threading.Lock()
        self._pending: dict[bytes, Future[CachedDataKey]] = {}

    def load(self, header_bytes: bytes, unwrap: Callable[[float], CachedDataKey]) -> CachedDataKey:
        """Give the entry of a header, calling ``unwrap(expires)`` on a miss, once for all threads that miss together.

        Raises:
            StreamcryptError: What ``unwrap`` raised; a refusal of the record is repeated for a while without a call.
        """
        while True:
            with self._lock:
                entry = self.entries.get(header_bytes)
                if entry is not None and self._clock() < entry.expires:
                    return entry
                self._repeat_refusal(header_bytes)
                waiting = self._pending.get(header_bytes)
                if waiting is None:
                    mine: Future[CachedDataKey] = Future()
                    self._pending[header_bytes] = mine
            if waiting is None:
                return self._lead(header_bytes, unwrap, mine)
            failure = waiting.exception()
            if failure is None:
                return waiting.result()
            if isinstance(failure, StreamcryptError):
                # Several threads may wait for one answer: each raises an error of its own.
                raise again(failure) from None
            # A defect or an interrupt in another thread is that thread's: this one tries for itself.

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the decryptor is closed")

    def _repeat_refusal(self, header_bytes: bytes) -> None:
        self._check_open()
        if not self._refusals:
            return
        digest = sha256(header_bytes).digest()
        refusal = self._refusals.get(digest)
        if refusal is None:
            return
        error, until = refusal
        if self._clock() < until:
            raise again(error)
        del self._refusals[digest]

    def _lead(
        self, header_bytes: bytes, unwrap: Callable[[float], CachedDataKey], mine: Future[CachedDataKey]
    ) -> CachedDataKey:
        try:
            self._check_open()
            ttl = self.policy.ttl * random.uniform(1.0 - _SPREAD, 1.0)  # noqa: S311 - spread, no secret
            entry = unwrap(self._clock() + ttl)
            entry.used = self._clock()
            with self._lock:
                self._keep(header_bytes, entry)
        except BaseException as error:
            with self._lock:
                if isinstance(error, StreamcryptError) and not isinstance(error, (KeyServiceError, ConfigError)):
                    self._remember(header_bytes, error)
                self._pending.pop(header_bytes, None)
            # Not the error itself: its traceback leads to this frame, and so back to itself.
            mine.set_exception(again(error) if isinstance(error, StreamcryptError) else error)
            raise
        with self._lock:
            self._pending.pop(header_bytes, None)
        mine.set_result(entry)
        self._tell()
        return entry

    def _keep(self, header_bytes: bytes, entry: CachedDataKey) -> None:
        self._check_open()
        # Taken out first: an entry that is replaced in its place would keep the place of the old one.
        if header_bytes in self.entries:
            self._drop(header_bytes, "ttl")
        if entry.is_alias:
            self._keep_alias(header_bytes, entry)
            return
        self._make_room()
        self.entries[header_bytes] = entry
        self._shared[entry.identity] = entry

    def _keep_alias(self, header_bytes: bytes, entry: CachedDataKey) -> None:
        # Found again by its data key, an alias costs no call; so where there is no room it is not kept.
        most = max(1, self.policy.max_entries // _ALIAS_SHARE)
        while self._aliases and (len(self._aliases) >= most or len(self.entries) >= self.policy.max_entries):
            self._drop(next(iter(self._aliases)), "lru")
        if len(self.entries) < self.policy.max_entries:
            self.entries[header_bytes] = entry
            self._aliases[header_bytes] = None

    def is_refused(self, header_bytes: bytes) -> bool:
        """Whether a refusal of this header is remembered, so that loading it would make no call."""
        refusal = self._refusals.get(sha256(header_bytes).digest()) if self._refusals else None
        return refusal is not None and self._clock() < refusal[1]

    def same_data_key(self, identity: bytes) -> CachedDataKey | None:
        """Find a live entry for the same DEK under a header that differs in ``keys`` alone."""
        with self._lock:
            entry = self._shared.get(identity)
            return entry if entry is not None and self._clock() < entry.expires else None

    def forget(self, header_bytes: bytes, reason: str) -> None:
        """Drop the entry of a header, where there is one."""
        with self._lock:
            if header_bytes in self.entries:
                self._drop(header_bytes, reason)
        self._tell()

    def sweep(self) -> None:
        """Drop every entry past its TTL, so that an idle reader does not keep keys; and refusals past theirs."""
        now = self._clock()
        with self._lock:
            for header_bytes in [h for h, entry in self.entries.items() if now >= entry.expires]:
                self._drop(header_bytes, "ttl")
            self._refusals = {d: (error, until) for d, (error, until) in self._refusals.items() if now < until}
        self._tell()

    def close(self) -> None:
        """Drop every entry, and keep none from now on."""
        with self._lock:
            self._closed = True
            for header_bytes in list(self.entries):
                self._drop(header_bytes, "closed")
            self._refusals.clear()
        self._tell()

    def _make_room(self) -> None:
        self._drop_expired()
        spare = self.policy.max_entries - len(self.entries)
        if spare > 0:
            return
        # A sixteenth at a time, so that the search costs little per miss even when every record misses.
        count = max(1, self.policy.max_entries // 16)
        for header_bytes, _ in heapq.nsmallest(count, self.entries.items(), key=lambda item: item[1].used):
            self._drop(header_bytes, "lru")

    def _drop_expired(self) -> None:
        # Entries stand in the order of loading and live about as long, so most of the expired ones come first: the
        # hot path's own comparison and the sweep catch the others.
        now = self._clock()
        expired = []
        for header_bytes, entry in self.entries.items():
            if now < entry.expires:
                break
            expired.append(header_bytes)
        for header_bytes in expired:
            self._drop(header_bytes, "ttl")

    def _drop(self, header_bytes: bytes, reason: str) -> None:
        entry = self.entries.pop(header_bytes)
        self._aliases.pop(header_bytes, None)
        self._dropped.append(DataKeyDropped(entry.key.id, reason))

    def _tell(self) -> None:
        # Without the lock: the observer may be slow, or call us.
        while self._dropped:
            try:
                event = self._dropped.popleft()
            except IndexError:
                return  # another thread tells it
            self._observer(event)

    def _remember(self, header_bytes: bytes, error: StreamcryptError) -> None:
        if len(self._refusals) >= self.policy.max_entries:
            self._refusals.pop(next(iter(self._refusals)))
        # A fresh error: the one that was raised holds on to every frame that it passed, records included.
        self._refusals[sha256(header_bytes).digest()] = (again(error), self._clock() + self.policy.refusal_ttl)


class MissBudget:
    """How many refusals by the key service one partition may still cause: a token bucket each, filled by time.

    Safe to share between threads: a call under way has its token claimed, so that calls made at once cannot be refused
    more often than calls made one after the other.

    Args:
        per_minute: Refusals in a minute; also the size of the bucket.
        clock: Seconds.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._size = float(per_minute)
        self._clock = clock
        self._buckets: dict[tuple[str, int | None], tuple[float, float]] = {}
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Start with a fresh lock and nothing claimed: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._claimed: Counter[tuple[str, int | None]] = Counter()

    def left(self, topic: str, partition: int | None) -> float:
        """Give the tokens left, those of calls under way taken off; below 1 the partition has to wait."""
        claimed = self._claimed.get((topic, partition), 0) if self._claimed else 0
        return self._tokens(topic, partition) - claimed

    def _tokens(self, topic: str, partition: int | None) -> float:
        bucket = self._buckets.get((topic, partition))
        if bucket is None:
            return self._size
        tokens, at = bucket
        return min(self._size, tokens + max(0.0, self._clock() - at) * self._size / 60)

    def require(self, topic: str, partition: int | None) -> None:
        """See that there is a token.

        Raises:
            KeyUnavailable: There is none; the partition has to wait.
        """
        if self.left(topic, partition) < 1:
            raise KeyUnavailable(
                "too many data keys of this partition were refused; it waits so that the KMS quota is spared",
                remedy="Find who writes records with foreign or altered envelopes to this topic.",
            )

    @contextmanager
    def claim(self, topic: str, partition: int | None) -> Iterator[None]:
        """Hold a token while a call is under way. It is given back, unless :meth:`spend` takes one meanwhile.

        Raises:
            KeyUnavailable: As :meth:`require`.
        """
        place = (topic, partition)
        with self._lock:
            self.require(topic, partition)
            self._claimed[place] += 1
        try:
            yield
        finally:
            with self._lock:
                self._claimed[place] -= 1
                if not self._claimed[place]:
                    del self._claimed[place]

    def spend(self, topic: str, partition: int | None) -> None:
        """Take one token."""
        with self._lock:
            self._buckets[topic, partition] = (self._tokens(topic, partition) - 1, self._clock())
            if len(self._buckets) > _MANY_BUCKETS:
                buckets = self._buckets.items()
                self._buckets = {at: bucket for at, bucket in buckets if self._tokens(*at) < self._size}
