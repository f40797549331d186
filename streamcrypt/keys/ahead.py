"""Work that is begun before anybody asks for it: bounded threads, a bounded queue, and failures that are nobody's.

Rule: a failure here is never an error. Whoever needs the result asks for it himself, and meets the failure then.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

from streamcrypt.errors import KeyServiceError
from streamcrypt.keys.forks import forget_after_fork

__all__ = ["QUEUE", "THREADS", "WorkAhead"]

_T = TypeVar("_T", bound=Hashable)

THREADS = 16
"""At 20 ms of latency 800 data keys a second; what a record waits for runs on other threads, never behind these."""
QUEUE = 256
"""Data keys that wait for a thread. Past them nothing is looked ahead: it would come late in any case."""
# An answer that the service is away or refuses holds for those that would follow: records ask when they need it.
_PAUSE = 1.0
# Idle threads are ended after this long.
_IDLE = 10.0


class WorkAhead(Generic[_T]):
    """Does ``work`` for items, in the order in which they came, on at most :data:`THREADS` threads.

    Args:
        work: What to do for an item. What it raises is dropped; a :class:`KeyServiceError` also drops the items that
            wait, and refuses new ones for a second.

    Safe to share between threads. A forked child starts without threads and items.
    """

    def __init__(self, work: Callable[[_T], object]) -> None:
        self._work = work
        self._closed = False
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Start with a fresh lock, without threads and without items: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._waiting: deque[_T] = deque()
        self._known: set[_T] = set()
        self._active = 0
        self._executor: ThreadPoolExecutor | None = None
        self._used_at = 0.0
        self._paused_until = 0.0

    def add(self, item: _T) -> bool:
        """Have ``item`` done soon; False where it is under way already, or there is no room, or not now."""
        with self._lock:
            now = monotonic()
            if self._closed or item in self._known or len(self._waiting) >= QUEUE or now < self._paused_until:
                return False
            self._used_at = now
            self._waiting.append(item)
            self._known.add(item)
            if self._active < THREADS and not self._start():
                self._waiting.pop()
                self._known.discard(item)
                return False
        return True

    def _start(self) -> bool:
        try:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="streamcrypt-ahead")
            self._executor.submit(self._drain)
        except RuntimeError:  # the interpreter ends
            return False
        self._active += 1
        return True

    def _drain(self) -> None:
        while (item := self._next()) is not None:
            # Whoever needs the result meets what is wrong.
            with suppress(Exception):
                self._do(item)
            with self._lock:
                self._known.discard(item)

    def _do(self, item: _T) -> None:
        try:
            self._work(item)
        except KeyServiceError:
            self._pause()

    def _next(self) -> _T | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._active -= 1
            return None

    def _pause(self) -> None:
        with self._lock:
            self._paused_until = monotonic() + _PAUSE
            self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._known.difference_update(self._waiting)
        self._waiting.clear()

    def sweep(self) -> None:
        """End the threads where nothing was to do for some seconds."""
        with self._lock:
            if self._executor is None or self._active or monotonic() - self._used_at < _IDLE:
                return
            executor, self._executor = self._executor, None
        executor.shutdown(wait=False)

    def close(self) -> None:
        """Take nothing more, forget what waits, and end the threads once their work under way is done."""
        with self._lock:
            self._closed = True
            self._forget_waiting()
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
