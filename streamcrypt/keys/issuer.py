"""The current data key of one topic, and the next one, minted before the current one is due.

Rule 1: a number is taken and counted under :attr:`DataKeyIssuer.lock`, so that no key ever seals one record more
than the policy allows, whatever threads do.
Rule 2: a data key lives in one process. After a fork the child forgets every key and mints its own.
Rule 3: keys are dropped, not wiped, when they are replaced: a thread that still holds a number finishes with it, and
OpenSSL overwrites the key schedule when the last holder lets go.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.codec import derivation_info, encode_header
from streamcrypt.envelope.header import HEADER_NAME, Content, EnvelopeHeader
from streamcrypt.errors import ConfigError, KeyUnavailable, StreamcryptError, again
from streamcrypt.events import DataKeyMinted, DataKeyMintFailed, DataKeyRetired, Observer
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["DataKeyIssuer", "Lease", "Minter"]

_NEVER = float("inf")
# How often a key in use is looked at besides its limits: a jump of the wall clock is noticed within this time.
_LOOK_AGAIN = 1.0
# A wall clock that moved by more than this against the boot clock tells of a restored snapshot, or of a clock set.
_CLOCK_JUMP = 5.0
# A key that lived shorter than this leaves little time for a slow KMS: its successor's successor is minted at once.
_SHORT_LIFE = 20.0
# Elsewhere the next key is minted when half the messages or bytes, or about 80 % of the age, are used up. The spread
# keeps a fleet that started together from calling KMS together.
_AHEAD_SHARE = 0.5
_AHEAD_AGE = (0.75, 0.85)
_RETRY_AHEAD = (1.0, 3.0)


class Lease:
    """One data key in use: its constant header, and what it has sealed so far. Guarded by the issuer's lock."""

    __slots__ = (
        "bytes",
        "header_bytes",
        "headers_alone",
        "key",
        "lanes",
        "messages",
        "minted_at",
        "seal",
        "stop_bytes",
        "stop_messages",
        "stop_time",
        "wall_offset",
    )

    def __init__(self, key: DataKey | None, header_bytes: bytes, minted_at: float, wall_offset: float) -> None:
        self.key = key
        self.seal: Callable[[bytes, bytes, bytes], bytes] = key.seal if key else _no_key
        self.header_bytes = header_bytes
        self.headers_alone: list[tuple[str, bytes | None]] = [(HEADER_NAME, header_bytes)]
        self.lanes: dict[int, int] = {}
        self.messages = 0
        self.bytes = 0
        self.minted_at = minted_at
        self.wall_offset = wall_offset
        # Where the hot path has to stop and look: three comparisons a record.
        self.stop_messages = 0
        self.stop_bytes = -1
        self.stop_time = -_NEVER


def _no_key(_nonce: bytes, _data: bytes, _aad: bytes) -> bytes:
    raise KeyUnavailable("no data key at hand")  # pragma: no cover - the empty lease always stops first


class Minter:
    """What all issuers of one encryptor share: the key service, the envelope's constants, clocks and threads.

    Args:
        keys: The key service.
        suite: The algorithm suite.
        bound: The bound fields, canonical.
        rotation: When a key is due.
        clock: Seconds on a clock that counts suspend; ages are measured on it.
        wall_clock: Seconds of the wall clock; only its jumps are looked at.
        observer: Told of keys minted and retired.
        max_wait: Seconds for which a record waits for a key that is due; None: as long as the key service may take.
    """

    def __init__(
        self,
        keys: KeyProvider,
        suite: Suite,
        bound: tuple[str, ...],
        rotation: RotationPolicy,
        *,
        clock: Clock,
        wall_clock: Clock,
        observer: Observer,
        max_wait: float | None = None,
    ) -> None:
        self.keys = keys
        self.suite = suite
        self.bound = bound
        self.rotation = rotation
        self.clock = clock
        self.wall_clock = wall_clock
        self.observer = observer
        self.max_wait = max_wait
        self._executor: Executor | None = None
        self._executor_lock = threading.Lock()
        _FORGET_AFTER_FORK.add(self)

    def mint(self, topic: str, context: tuple[tuple[str, str], ...], *, ahead: bool) -> Lease:
        """Mint one data key: one GenerateDataKey.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: As the key service says.
        """
        started = time.perf_counter()
        minted_at = self.clock()
        wall_offset = self.wall_clock() - minted_at
        try:
            generated = self.keys.generate_data_key(dict(context))
            key = DataKey(generated.plaintext, self.suite, derivation_info(self.suite, context, self.bound))
            header = encode_header(
                EnvelopeHeader(self.suite, key.commitment, context, self.bound, Content.PAYLOAD, generated.encrypted)
            )
        except StreamcryptError as error:
            self.observer(
                DataKeyMintFailed(topic, type(error).__name__, str(error), retriable=error.retriable, ahead=ahead)
            )
            raise
        seconds = time.perf_counter() - started
        self.observer(DataKeyMinted(topic, key.id, tuple(k.key_id for k in generated.encrypted), seconds, ahead))
        return Lease(key, header, minted_at, wall_offset)

    def submit(self, work: Callable[[], None]) -> None:
        """Run ``work`` on a thread of ours."""
        with self._executor_lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=4, thread_name_prefix="streamcrypt-mint")
            self._executor.submit(work)

    def after_fork(self) -> None:
        """Forget the parent's threads: none of them runs in the child."""
        self._executor = None
        self._executor_lock = threading.Lock()

    def close(self) -> None:
        """End the threads once their calls are done."""
        with self._executor_lock:
            if self._executor is not None:
                self._executor.shutdown(wait=True)
                self._executor = None


class DataKeyIssuer:
    """The current data key of one topic.

    The hot path takes a number as :class:`streamcrypt.encryptor.TopicSealer` does: under :attr:`lock`, compare
    :attr:`lease` with its three stops, call :meth:`attend` where one is reached, then count.

    Args:
        minter: What is shared with the other topics.
        topic: The topic written, for events.
        context: The encryption context, canonical.
    """

    def __init__(self, minter: Minter, topic: str, context: tuple[tuple[str, str], ...]) -> None:
        self._minter = minter
        self._topic = topic
        self._context = context
        self._short_life = False
        self._closed = False
        self.after_fork()
        _FORGET_AFTER_FORK.add(self)

    def after_fork(self) -> None:
        """Start without any key: at first, and in a forked child."""
        self.lock = threading.Lock()
        self.lease = Lease(None, b"", 0.0, 0.0)
        self._next: Lease | None = None
        self._pending: Future[None] | None = None
        self._retry_ahead_at = -_NEVER
        self._ahead_time = _NEVER

    def attend(self, size: int) -> Lease:
        """Give a lease that may seal one more record of ``size`` bytes; :attr:`lock` is held by the caller.

        Blocks, with the lock let go, while a key has to be minted.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: No key could be minted. Nothing was counted.
        """
        while True:
            now = self._minter.clock()
            reason = self._due(self.lease, size, now)
            if reason is None:
                self._look_ahead(now)
                self._set_stops(now)
                return self.lease
            successor, self._next = self._next, None
            if successor is not None and self._due(successor, size, now) is None:
                self._activate(successor, reason, now)
                continue
            if successor is not None:
                self._announce_retired(successor, "age", now)
            self._mint_and_wait()

    def retire(self, reason: str) -> None:
        """Let the current key seal nothing more; the next record gets another."""
        with self.lock:
            self._announce_retired(self.lease, reason, self._minter.clock())
            self.lease = Lease(None, b"", 0.0, 0.0)

    def close(self) -> None:
        """Drop the current and the next key for good."""
        with self.lock:
            self._closed = True
            for lease in (self.lease, self._next):
                if lease is not None:
                    self._announce_retired(lease, "closed", self._minter.clock())
            self.lease = Lease(None, b"", 0.0, 0.0)
            self._next = None

    def _due(self, lease: Lease, size: int, now: float) -> str | None:
        if lease.key is None:
            return "start"
        if now < lease.minted_at or abs(self._minter.wall_clock() - now - lease.wall_offset) > _CLOCK_JUMP:
            return "clock"
        return self._minter.rotation.due(lease.messages, lease.bytes, now - lease.minted_at, size)

    def _activate(self, lease: Lease, reason: str, now: float) -> None:
        before = self.lease
        if before.key is not None:
            self._short_life = now - before.minted_at < _SHORT_LIFE
        self._announce_retired(before, reason, now)
        self.lease = lease
        max_age = self._minter.rotation.max_age
        self._ahead_time = lease.minted_at + max_age * random.uniform(*_AHEAD_AGE)  # noqa: S311  spread, no secret
        self._retry_ahead_at = -_NEVER

    def _look_ahead(self, now: float) -> None:
        lease, rotation = self.lease, self._minter.rotation
        wanted = (
            self._short_life
            or lease.messages >= rotation.max_messages * _AHEAD_SHARE
            or lease.bytes >= rotation.max_bytes * _AHEAD_SHARE
            or now >= self._ahead_time
        )
        if wanted and self._next is None and self._pending is None and now >= self._retry_ahead_at:
            self._start_minting(ahead=True)

    def _set_stops(self, now: float) -> None:
        lease, rotation = self.lease, self._minter.rotation
        waiting = self._next is None and self._pending is None
        half_messages = int(rotation.max_messages * _AHEAD_SHARE)
        half_bytes = int(rotation.max_bytes * _AHEAD_SHARE)
        ahead = waiting and lease.messages < half_messages
        lease.stop_messages = half_messages if ahead else rotation.max_messages
        ahead = waiting and lease.bytes < half_bytes
        # An empty key takes one record of any size.
        lease.stop_bytes = (half_bytes if ahead else rotation.max_bytes) if lease.messages else -1
        lease.stop_time = min(now + _LOOK_AGAIN, lease.minted_at + rotation.max_age)

    def _start_minting(self, *, ahead: bool) -> Future[None]:
        done: Future[None] = Future()
        self._minter.submit(lambda: self._mint(done, ahead=ahead))
        self._pending = done
        return done

    def _mint(self, done: Future[None], *, ahead: bool) -> None:
        lease: Lease | None = None
        failure: BaseException | None = None
        try:
            lease = self._minter.mint(self._topic, self._context, ahead=ahead)
        except BaseException as error:  # noqa: BLE001  the waiting thread raises it
            failure = error
        with self.lock:
            if self._pending is not done:
                return  # forgotten meanwhile
            self._pending = None
            if lease is not None and not self._closed:
                self._next = lease
            elif failure is not None:
                self._retry_ahead_at = self._minter.clock() + random.uniform(*_RETRY_AHEAD)  # noqa: S311
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)

    def _mint_and_wait(self) -> None:
        if self._closed:
            raise ConfigError("the encryptor is closed")
        done = self._pending or self._start_minting(ahead=False)
        self.lock.release()
        try:
            done.result(self._minter.max_wait)
        except TimeoutError:
            raise KeyUnavailable("the next data key is not here yet", operation="GenerateDataKey") from None
        except StreamcryptError as error:
            # Several threads may wait for one answer: each raises an error of its own.
            raise again(error) from None
        finally:
            self.lock.acquire()

    def _announce_retired(self, lease: Lease, reason: str, now: float) -> None:
        if lease.key is not None:
            self._minter.observer(
                DataKeyRetired(
                    self._topic, lease.key.id, reason, lease.messages, lease.bytes, max(0.0, now - lease.minted_at)
                )
            )


_FORGET_AFTER_FORK: weakref.WeakSet[Minter | DataKeyIssuer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for forgetful in list(_FORGET_AFTER_FORK):
        forgetful.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
