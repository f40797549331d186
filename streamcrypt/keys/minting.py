"""Minting a data key for writing: the key service's answer, derived, committed to, and put into a header."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from math import inf
from typing import NoReturn

from streamcrypt.crypto.data_key import DataKey
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.codec import derivation_info, encode_header
from streamcrypt.envelope.header import HEADER_NAME, Content, EnvelopeHeader
from streamcrypt.errors import AuthenticationFailed, ConfigError, EnvelopeError, KeyRefused, KeyUnavailable
from streamcrypt.events import DataKeyMinted, DataKeyWrappedForFewer, Observer
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.forks import forget_after_fork
from streamcrypt.keys.grace import Grace
from streamcrypt.keys.provider import GeneratedDataKey, KeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.keys.tickets import LANE_UNKNOWN, NO_TICKETS, Tickets, draws_are_atomic, how_many

__all__ = ["Lease", "Minter"]


class Lease:
    """One data key in use: its constant header, and what it has sealed so far. Guarded by the issuer's lock."""

    __slots__ = (
        "bytes",
        "generation",
        "grace",
        "header_bytes",
        "headers_alone",
        "key",
        "lanes",
        "looked_at",
        "messages",
        "minted_at",
        "seal",
        "stop_bytes",
        "stop_messages",
        "stop_time",
        "tickets",
        "wall_offset",
    )

    def __init__(
        self, key: DataKey | None, header_bytes: bytes, minted_at: float, wall_offset: float, grace: Grace
    ) -> None:
        self.key = key
        self.grace = grace
        self.seal: Callable[[bytes, bytes, bytes], bytes] = key.seal if key else _no_key
        self.header_bytes = header_bytes
        self.headers_alone: list[tuple[str, bytes | None]] = [(HEADER_NAME, header_bytes)]
        self.lanes: defaultdict[int, int] = defaultdict(int)
        self.messages = 0
        self.bytes = 0
        self.minted_at = minted_at
        self.looked_at = minted_at
        self.wall_offset = wall_offset
        # The key service's sealing_generation in which it was minted.
        self.generation = 0
        # Where the hot path has to stop and look, besides a clock that reads less than looked_at.
        self.stop_messages = 0
        self.stop_bytes = -1
        self.stop_time = -inf
        # Numbers that are counted above already, to be drawn without the lock.
        self.tickets = NO_TICKETS

    @classmethod
    def none(cls) -> Lease:
        """Make the lease of no key, which always stops."""
        return cls(None, b"", 0.0, 0.0, _NO_GRACE)

    def goes_on(self, size: int, now: float) -> bool:
        """Say whether one more record may be counted without a look at the policy; the issuer's lock is held."""
        return (
            self.messages < self.stop_messages
            and self.bytes + size <= self.stop_bytes
            and self.looked_at <= now < self.stop_time
        )

    def count(self, size: int, lane: int) -> int:
        """Count one record of ``size`` bytes and give its number in ``lane``; the issuer's lock is held."""
        self.messages += 1
        self.bytes += size
        number = self.lanes[lane] = self.lanes[lane] + 1
        return number

    def issue_tickets(self, size: int) -> None:
        """Count some more numbers, for records of about ``size`` bytes; the issuer's lock is held."""
        self.take_tickets_back()
        count, each = how_many(self.messages, self.stop_messages - self.messages, self.stop_bytes - self.bytes, size)
        if not count or not draws_are_atomic():
            return
        tickets = Tickets(self.lanes[LANE_UNKNOWN] + 1, count, each)
        self.lanes[LANE_UNKNOWN] = tickets.last
        self.messages += count
        self.bytes += tickets.charged_bytes
        self.tickets = tickets

    def take_tickets_back(self) -> None:
        """Make the counts exact: nobody draws a ticket from now on; the issuer's lock is held."""
        tickets, self.tickets = self.tickets, NO_TICKETS
        if tickets is NO_TICKETS:
            return
        messages, size, free = tickets.take_back()
        self.messages -= messages
        self.bytes -= size
        # Only numbers above all that were ever given: whatever goes wrong elsewhere, none is given twice.
        if self.lanes[LANE_UNKNOWN] == tickets.last:
            self.lanes[LANE_UNKNOWN] -= free

    def stop(self) -> None:
        """Have the next record stop and look, whichever way it comes; the issuer's lock is held."""
        self.take_tickets_back()
        self.stop_messages = 0

    def sealed(self) -> tuple[int, int]:
        """Give the messages and bytes sealed so far; without the lock a record more or less."""
        messages, size = self.tickets.overcharged()
        return self.messages - messages, self.bytes - size

    def __reduce__(self) -> NoReturn:
        raise TypeError("a copy would use the same nonces")


_NO_GRACE = Grace(RotationPolicy(grace=0.0), "")


def _no_key(_nonce: bytes, _data: bytes, _aad: bytes) -> bytes:
    raise KeyUnavailable("no data key at hand")  # pragma: no cover - the empty lease always stops first


# A topic that is written no more keeps its last key in memory no longer than this past the key's own time.
_SWEEP_EVERY = 60.0


def _sweep_nothing() -> None:
    pass


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
        self.sweep: Callable[[], None] = _sweep_nothing
        """Drops what is too old in all issuers; set by the encryptor, who knows them."""
        self._swept_at = clock()
        self._executor: ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()
        forget_after_fork(self)

    def generation_of(self, context: tuple[tuple[str, str], ...]) -> int:
        """Give the key service's sealing generation for data keys of this context."""
        if isinstance(self.keys, TenantKeys):
            return self.keys.sealing_generation_for(dict(context))
        return self.keys.sealing_generation

    def mint(self, topic: str, context: tuple[tuple[str, str], ...], *, ahead: bool) -> tuple[Lease, DataKeyMinted]:
        """Mint one data key: one GenerateDataKey, or two where the first took so long that its key is due on arrival.

        Returns:
            The key with the fact to tell.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: As the key service says; KeyUnavailable too where the second key,
                too, was due on arrival.
        """
        started = time.perf_counter()
        lease, generated = self._mint_once(topic, context)
        if self._is_late(lease):
            # The host slept, or one call hung. Asking on and on might ask for ever.
            lease, generated = self._mint_once(topic, context)
        if self._is_late(lease):
            raise KeyUnavailable("the data key was older than rotation.max_age before it arrived")
        assert lease.key is not None
        key_ids = tuple(key.key_id for key in generated.encrypted)
        if generated.missing:
            missing, errors = zip(*generated.missing, strict=True)
            self.observer(DataKeyWrappedForFewer(topic, lease.key.id, key_ids, missing, errors))
        return lease, DataKeyMinted(topic, lease.key.id, key_ids, time.perf_counter() - started, ahead)

    def _is_late(self, lease: Lease) -> bool:
        return self.clock() - lease.minted_at >= self.rotation.max_age

    def _mint_once(self, topic: str, context: tuple[tuple[str, str], ...]) -> tuple[Lease, GeneratedDataKey]:
        minted_at = self.clock()
        wall_offset = self.wall_clock() - minted_at
        generation = self.generation_of(context)
        generated = self.keys.generate_data_key(dict(context))
        try:
            key = DataKey(generated.plaintext, self.suite, derivation_info(self.suite, context, self.bound))
            header = encode_header(
                EnvelopeHeader(self.suite, key.commitment, context, self.bound, Content.PAYLOAD, generated.encrypted)
            )
        except AuthenticationFailed:
            raise KeyRefused("the key service returned a data key of a wrong size") from None
        except EnvelopeError as error:
            raise ConfigError(f"context, bound fields and KEKs make no envelope: {error}") from None
        lease = Lease(key, header, minted_at, wall_offset, Grace(self.rotation, topic))
        if generated.sealing_generation is not None:
            # Never one that the key service itself does not show: the key would be outdated at once, again and again.
            generation = min(max(generation, generated.sealing_generation), self.generation_of(context))
        lease.generation = generation
        return lease, generated

    def sweep_when_due(self) -> None:
        """Have the keys of topics that are written no more dropped, once a minute; called after each minting."""
        now = self.clock()
        if now - self._swept_at >= _SWEEP_EVERY:
            self._swept_at = now
            self.sweep()

    def submit(self, work: Callable[[], None]) -> Future[None] | None:
        """Run ``work`` on a thread of ours; None where there is none to be had, as when the interpreter ends."""
        with self._executor_lock:
            try:
                if self._executor is None:
                    self._executor = ThreadPoolExecutor(max_workers=16, thread_name_prefix="streamcrypt-mint")
                return self._executor.submit(work)
            except RuntimeError:
                return None

    def after_fork(self) -> None:
        """Forget the parent's threads: none of them runs in the child."""
        self._executor = None
        self._executor_lock = threading.Lock()

    def close(self) -> None:
        """End the threads once their calls under way are done."""
        with self._executor_lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)
