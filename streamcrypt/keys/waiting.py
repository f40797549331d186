"""Work of an unknown length with a bounded wait: on threads of ours, one run for all who ask for the same meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from streamcrypt.errors import ConfigError, KeyUnavailable, StreamcryptError, again
from streamcrypt.keys.forks import forget_after_fork

__all__ = ["BoundedWait"]

_T = TypeVar("_T")
# Each may hang for as long as one operation on KMS takes; past them, work waits in the queue.
_THREADS = 8


class BoundedWait:
    """Runs what may call the key service. Safe to share between threads.

    Args:
        max_wait: Seconds that a caller waits; the work goes on after that, and serves the next caller.
        operation: What the key service is asked for, for the error. Default Decrypt.
    """

    def __init__(self, max_wait: float, operation: str = "Decrypt") -> None:
        self._max_wait = max_wait
        self._operation = operation
        self._closed = False
        self.after_fork()
        forget_after_fork(self)

    def after_fork(self) -> None:
        """Start with fresh locks and without threads: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._pending: dict[Hashable, Future[Any]] = {}
        self._executor: ThreadPoolExecutor | None = None

    def run(self, what: Hashable, work: Callable[[], _T]) -> _T:
        """Give what ``work`` gives, run once for all threads that ask for the same ``what`` meanwhile.

        Raises:
            KeyUnavailable: It is not done yet.
            ConfigError: The decryptor is closed.
            StreamcryptError: What ``work`` raised.
        """
        with self._lock:
            if self._closed:
                raise ConfigError("the decryptor is closed")
            pending = self._pending.get(what) or self._begin(what, work)
        if pending is None:
            return work()
        failure: BaseException | None
        try:
            failure = pending.exception(self._max_wait)
        except TimeoutError:
            what_for = "unwrapped" if self._operation == "Decrypt" else "rewrapped"
            # Raised below: in here its context would lead to the answer, and keep that key for as long as it is held.
            failure = KeyUnavailable(f"the data key is not {what_for} yet", operation=self._operation)
        if failure is None:
            done: _T = pending.result()
            return done
        # Several threads may wait for one answer: each raises an error of its own.
        raise again(failure) if isinstance(failure, StreamcryptError) else failure from None

    def _begin(self, what: Hashable, work: Callable[[], Any]) -> Future[Any] | None:
        """Have it run on a thread of ours; None where there is none to be had, as when the interpreter ends."""
        mine: Future[Any] = Future()
        try:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="streamcrypt-unwrap")
            # What the caller is doing, for a span around it, is known on that thread as well.
            self._executor.submit(copy_context().run, self._do, what, work, mine)
        except RuntimeError:
            return None
        self._pending[what] = mine
        return mine

    def _do(self, what: Hashable, work: Callable[[], Any], mine: Future[Any]) -> None:
        try:
            done = work()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self._forget(what)
            # Not the error itself: its traceback leads to this frame, and so back to itself.
            mine.set_exception(again(error) if isinstance(error, StreamcryptError) else error)
        else:
            self._forget(what)
            mine.set_result(done)

    def _forget(self, what: Hashable) -> None:
        with self._lock:
            self._pending.pop(what, None)

    def close(self) -> None:
        """Take no more work, and end the threads once what is under way is done."""
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True)
