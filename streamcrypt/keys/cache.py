"""Opened data keys of a reader, by header bytes: LRU, absolute TTL, one unwrapping for many concurrent misses.

Every key in here passed its commitment check. What may be opened is the decryptor's affair; this file only keeps.
"""

from __future__ import annotations

import heapq
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.envelope.binding import AADBuilder
from streamcrypt.envelope.header import EnvelopeHeader
from streamcrypt.errors import KeyServiceError, KeyUnavailable, StreamcryptError, again
from streamcrypt.events import DataKeyDropped, Observer
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.rotation import CachePolicy

__all__ = ["CachedDataKey", "DataKeyCache", "MissBudget"]


class CachedDataKey:
    """An opened data key with what opening a record needs, worked out once.

    Attributes:
        open: The cipher's own method ``open(nonce, ciphertext_and_tag, aad)``.
        aad: Builds the AAD of one record.
        expires: When it must be unwrapped again, on the cache's clock.
        used: When it was last used; written by the hot path without a lock, read when room is needed.
        approved: Topic to the trust generation under which the policy was last checked for it.
        identity: What the DEK is bound to, without ``keys``.
        header: The header, for checking the policy again.
    """

    __slots__ = ("__weakref__", "aad", "approved", "expires", "header", "identity", "key", "open", "used")

    def __init__(self, key: DataKey, header: EnvelopeHeader, identity: bytes, aad: AADBuilder, expires: float) -> None:
        self.key = key
        self.open = key.open
        self.header = header
        self.identity = identity
        self.aad = aad
        self.expires = expires
        self.used = 0.0
        self.approved: dict[str, int] = {}


class DataKeyCache:
    """Header bytes to :class:`CachedDataKey`.

    Args:
        policy: Size and times.
        clock: Seconds on a clock that counts suspend.
        observer: Told of keys dropped.
        max_wait: Seconds for which a miss waits; None: as long as the key service may take.
    """

    def __init__(self, policy: CachePolicy, clock: Clock, observer: Observer, max_wait: float | None = None) -> None:
        self.policy = policy
        self._max_wait = max_wait
        self._clock = clock
        self._observer = observer
        self.entries: dict[bytes, CachedDataKey] = {}
        """For the hot path to look into; a look-up is atomic. It must compare ``expires`` and write ``used``."""
        self._shared: weakref.WeakValueDictionary[bytes, CachedDataKey] = weakref.WeakValueDictionary()
        self._refusals: dict[bytes, tuple[StreamcryptError, float]] = {}
        self.after_fork()
        _CACHES.add(self)

    def after_fork(self) -> None:
        """Start with fresh locks: at first, and in a forked child, where another thread may have held one."""
        self._lock = threading.Lock()
        self._pending: dict[bytes, Future[CachedDataKey]] = {}
        self._executor: ThreadPoolExecutor | None = None

    def load(self, header_bytes: bytes, unwrap: Callable[[float], CachedDataKey]) -> CachedDataKey:
        """Give the entry of a header, calling ``unwrap(expires)`` on a miss, once for all threads that miss together.

        Raises:
            StreamcryptError: What ``unwrap`` raised; a refusal of the record is repeated for a while without a call.
        """
        now = self._clock()
        with self._lock:
            entry = self.entries.get(header_bytes)
            if entry is not None and now < entry.expires:
                return entry
            refusal = self._refusals.get(header_bytes)
            if refusal is not None:
                error, until = refusal
                if now < until:
                    raise again(error)
                del self._refusals[header_bytes]
            waiting = self._pending.get(header_bytes)
            mine: Future[CachedDataKey] = Future()
            if waiting is None:
                self._pending[header_bytes] = mine
        if waiting is None and self._max_wait is None:
            return self._lead(header_bytes, unwrap, mine)
        if waiting is None:
            self._threads().submit(self._lead, header_bytes, unwrap, mine)
        try:
            return (waiting or mine).result(self._max_wait)
        except TimeoutError:
            raise KeyUnavailable("the data key is not unwrapped yet", operation="Decrypt") from None
        except StreamcryptError as error:
            raise again(error) from None

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=8, thread_name_prefix="streamcrypt-unwrap")
            return self._executor

    def _lead(
        self, header_bytes: bytes, unwrap: Callable[[float], CachedDataKey], mine: Future[CachedDataKey]
    ) -> CachedDataKey:
        try:
            entry = unwrap(self._clock() + self.policy.ttl)
        except BaseException as error:
            with self._lock:
                self._pending.pop(header_bytes, None)
                if isinstance(error, StreamcryptError) and not isinstance(error, KeyServiceError):
                    self._remember(header_bytes, error)
            mine.set_exception(error)
            raise
        entry.used = self._clock()
        with self._lock:
            self._pending.pop(header_bytes, None)
            self._make_room()
            self.entries[header_bytes] = entry
            self._shared[entry.identity] = entry
        mine.set_result(entry)
        return entry

    def same_data_key(self, identity: bytes) -> CachedDataKey | None:
        """Find a live entry for the same DEK under a header that differs in ``keys`` alone."""
        with self._lock:
            entry = self._shared.get(identity)
            return entry if entry is not None and self._clock() < entry.expires else None

    def sweep(self) -> None:
        """Drop every entry past its TTL, so that an idle reader does not keep keys."""
        with self._lock:
            self._drop_expired()

    def close(self) -> None:
        """Drop every entry."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
        with self._lock:
            for header_bytes in list(self.entries):
                self._drop(header_bytes, "closed")
            self._refusals.clear()

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
        # Entries stand in the order of loading and share one TTL, so the expired ones come first, save for those that
        # took over the expiry of an earlier entry; these are caught by the hot path's own comparison.
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
        self._observer(DataKeyDropped(entry.key.id, reason))

    def _remember(self, header_bytes: bytes, error: StreamcryptError) -> None:
        if len(self._refusals) >= self.policy.max_entries:
            self._refusals.pop(next(iter(self._refusals)))
        self._refusals[header_bytes] = (error, self._clock() + self.policy.refusal_ttl)


class MissBudget:
    """How many refusals by the key service one partition may still cause: a token bucket each, filled by time.

    Args:
        per_minute: Refusals in a minute; also the size of the bucket.
        clock: Seconds.
    """

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._size = float(per_minute)
        self._clock = clock
        self._buckets: dict[tuple[str, int | None], tuple[float, float]] = {}

    def left(self, topic: str, partition: int | None) -> float:
        """Give the tokens left; below 1 the partition has to wait."""
        bucket = self._buckets.get((topic, partition))
        if bucket is None:
            return self._size
        tokens, at = bucket
        return min(self._size, tokens + (self._clock() - at) * self._size / 60)

    def spend(self, topic: str, partition: int | None) -> None:
        """Take one token."""
        self._buckets[topic, partition] = (self.left(topic, partition) - 1, self._clock())


_CACHES: weakref.WeakSet[DataKeyCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in list(_CACHES):
        cache.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
