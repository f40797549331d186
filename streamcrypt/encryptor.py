"""What sealing a record means. spec: 4.4, 5.1, 6.1, 6.4, 8.1"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from operator import add, itemgetter
from struct import Struct
from typing import NoReturn, Self, cast

from streamcrypt.crypto.data_key import check_suite
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.binding import KIND_TOMBSTONE, aad_builder, block_aad_builder
from streamcrypt.envelope.framing import MAGIC, Framing, Tombstones, carries_envelope, choose, frame_prefix
from streamcrypt.envelope.header import HEADER_NAME, TOMBSTONE_HEADER_NAME, build_bound, build_context
from streamcrypt.errors import AlreadySealed, ConfigError
from streamcrypt.events import Observer, ignore_events
from streamcrypt.keys.clock import Clock, boottime
from streamcrypt.keys.issuer import DataKeyIssuer
from streamcrypt.keys.minting import Minter
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["LANE_UNKNOWN", "MAX_LANE", "Encryptor", "HeadersArgument", "TopicSealer", "header_list", "refuse_ours"]

MAX_LANE = 0x7FFF_FFFF
LANE_UNKNOWN = 0xFFFF_FFFF
_OURS = frozenset({HEADER_NAME, TOMBSTONE_HEADER_NAME})
_nonce = Struct(">IQ").pack
_first_four = itemgetter(slice(len(MAGIC)))
# A block is sealed as a whole before the first record of it is sent: this bounds what is held twice.
_MAX_BLOCK_BYTES = 4 * 2**20

HeaderList = list[tuple[str, bytes | None]]
HeadersArgument = Sequence[tuple[str, str | bytes | None]] | Mapping[str, str | bytes | None] | None
"""Headers as confluent-kafka takes them: a list of pairs, or a dict; text values are sent as UTF-8."""


def header_list(headers: HeadersArgument) -> HeaderList:
    """Give headers as a fresh list of (name, bytes or None), the form in which Kafka carries them."""
    if not headers:
        return []
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def refuse_ours(headers: Sequence[tuple[str, bytes | None]]) -> None:
    """Refuse a record that is to be sealed and carries an envelope header already, a tombstone included.

    Raises:
        AlreadySealed: It does.
    """
    for pair in headers:
        if pair[0] in _OURS:
            raise AlreadySealed(f"the record carries a {pair[0]!r} header already")


def _any_ours(headers: Sequence[HeaderList | None]) -> bool:
    return any(name in _OURS for pairs in headers if pairs for name, _ in pairs)


class TopicSealer:
    """Seals values for one topic. Get one from :meth:`Encryptor.topic`; safe to use from several threads."""

    __slots__ = ("_aad", "_block_aads", "_clock", "_self_contained", "_tombstone_aad", "issuer")

    def __init__(
        self, issuer: DataKeyIssuer, bound: tuple[str, ...], framing: Framing, tombstones: Tombstones, clock: Clock
    ) -> None:
        self.issuer = issuer
        self._tombstone_aad = aad_builder(bound, KIND_TOMBSTONE) if tombstones is Tombstones.AUTHENTICATED else None
        self._aad = aad_builder(bound)
        self._block_aads = block_aad_builder(bound)
        self._self_contained = framing is Framing.SELF_CONTAINED
        self._clock = clock

    def seal(
        self, value: bytes, key: bytes | None, headers: HeaderList | None, lane: int
    ) -> tuple[bytes, HeaderList | None]:
        """Seal one value; return it with the headers to send, ours last.

        Args:
            value: The plaintext; never None, for which there is :meth:`seal_tombstone`.
            key: The record's key.
            headers: The record's headers. The list returned may be shared between records: send it, do not change it.
            lane: The target partition where it is known, else ``LANE_UNKNOWN``. spec: 5.1

        Raises:
            AlreadySealed: The record carries an envelope.
            KeyUnavailable, KeyRefused, ConfigError: A key is due and none could be minted.
        """
        if headers:
            refuse_ours(headers)
        if value[:4] == MAGIC and carries_envelope(value):
            raise AlreadySealed("the value is a self-contained envelope already")
        aad = self._aad(key, headers)
        size = len(value) + len(aad)
        issuer = self.issuer
        sequence = 0
        with issuer.lock:
            lease = issuer.lease
            total = lease.bytes + size
            if (
                lease.messages < lease.stop_messages
                and total <= lease.stop_bytes
                and lease.looked_at <= self._clock() < lease.stop_time
            ):
                lease.messages += 1
                lease.bytes = total
                lanes = lease.lanes
                sequence = lanes[lane] = lanes.get(lane, 0) + 1
        if not sequence:
            lease, sequence = issuer.take(size, lane)
        nonce = _nonce(lane, sequence)
        sealed = nonce + lease.seal(nonce, value, aad)
        if self._self_contained:
            return frame_prefix(lease.header_bytes) + sealed, headers
        return sealed, [*headers, lease.headers_alone[0]] if headers else lease.headers_alone

    def seal_anything(
        self, value: bytes, key: bytes | None, headers: HeaderList, lane: int
    ) -> tuple[bytes, HeaderList]:
        """Seal a value whatever it looks like, with the envelope in a header: for dead letters, which keep evidence.

        Args:
            value: Any bytes; an envelope among them is sealed like everything else.
            key: The record's key.
            headers: The record's headers, none of them ours.
            lane: As for :meth:`seal`.

        Raises:
            AlreadySealed: A header is ours.
            KeyUnavailable, KeyRefused, ConfigError: As for :meth:`seal`.
        """
        refuse_ours(headers)
        aad = self._aad(key, headers)
        lease, sequence = self.issuer.take(len(value) + len(aad), lane)
        nonce = _nonce(lane, sequence)
        return nonce + lease.seal(nonce, value, aad), [*headers, lease.headers_alone[0]]

    def seal_tombstone(self, key: bytes | None, headers: HeaderList | None, lane: int) -> HeaderList | None:
        """Give the headers to send with a null value, which stays null so that compaction works. spec: 6.4

        Plain tombstones go as they are. Authenticated ones take a number of their lane, as a value does, and carry
        two headers of ours, in either framing: the value must stay null, so there is nowhere else to put them.

        Args:
            key: The record's key.
            headers: The record's headers.
            lane: As for :meth:`seal`.

        Raises:
            AlreadySealed: The record carries an envelope.
            KeyUnavailable, KeyRefused, ConfigError: A key is due and none could be minted.
        """
        if headers:
            refuse_ours(headers)
        if self._tombstone_aad is None:
            return headers
        aad = self._tombstone_aad(key, headers)
        lease, sequence = self.issuer.take(len(aad), lane)
        nonce = _nonce(lane, sequence)
        proof = nonce + lease.seal(nonce, b"", aad)
        return [*(headers or ()), lease.headers_alone[0], (TOMBSTONE_HEADER_NAME, proof)]

    def seal_block(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[HeaderList | None],
        lane: int,
    ) -> tuple[list[bytes], list[HeaderList]] | None:
        """Seal a block of records of one lane under one data key, all or none: the same bytes as :meth:`seal`.

        Returns:
            The sealed values and the headers to send, or None where the block has to be sealed record by record: it
            holds a tombstone or an envelope, is large, crosses a limit of the data key, or framing is self-contained.
            Nothing was counted then.
        """
        if self._self_contained or None in values or (any(headers) and _any_ours(headers)):
            return None
        plain = cast("Sequence[bytes]", values)
        if MAGIC in map(_first_four, plain):
            return None
        aads = self._block_aads(keys, headers)
        size = sum(map(len, plain)) + sum(map(len, aads))
        count = len(plain)
        if size > _MAX_BLOCK_BYTES:
            return None
        issuer = self.issuer
        with issuer.lock:
            lease = issuer.lease
            if (
                lease.messages + count > lease.stop_messages
                or lease.bytes + size > lease.stop_bytes
                or not lease.looked_at <= self._clock() < lease.stop_time
            ):
                return None
            lease.messages += count
            lease.bytes += size
            first = lease.lanes.get(lane, 0) + 1
            lease.lanes[lane] = first + count - 1
        seal, alone = lease.seal, lease.headers_alone
        # Two passes in C beat one in Python.
        nonces = list(map(_nonce, repeat(lane), range(first, first + count)))
        sealed = list(map(add, nonces, map(seal, nonces, plain, aads)))
        return sealed, [[*pairs, alone[0]] if pairs else alone for pairs in headers]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealer holds data keys of one process and cannot be pickled or copied")


class Encryptor:
    """Seals record values with data keys that a key service issues, and replaces the keys in time.

    Args:
        keys: The key service.
        rotation: When a data key is replaced; default :class:`RotationPolicy` ().
        context: Pairs for the KMS encryption context, besides ``streamcrypt:topic``, which is ours. They are in
            CloudTrail and in every record in clear: never personal data.
        suite: The algorithm suite; default AES-256-GCM.
        bound: The record fields bound to the value: ``key`` and ``header:<name>``; default the key, so that a value
            cannot be moved to another key.
        framing: ``header`` (default) or ``self_contained``.
        tombstones: ``plain`` (default): a null value goes as it is, and every reader takes it. ``authenticated``: it
            carries two headers that prove it; readers older than this option refuse it.
        topic_names: Physical topic to logical topic, where they differ.
        clock: Seconds on a clock that counts suspend; default CLOCK_BOOTTIME.
        wall_clock: Seconds of the wall clock, whose jumps retire keys; default ``time.time``.
        observer: Told of data keys minted, retired and refused.
        max_wait: Seconds for which a record waits for a data key that is due before KeyUnavailable is raised, while
            minting goes on; default None: as long as the key service's own timeouts allow. A loop that must also
            serve its consumer group sets it low.

    Raises:
        ConfigError: A setting is wrong, or the installed library cannot do the suite.

    Safe to use from several threads. After a fork the child starts with keys of its own. See also
    docs/spec/envelope-v1.md.
    """

    def __init__(
        self,
        keys: KeyProvider,
        rotation: RotationPolicy | None = None,
        context: Mapping[str, str] | None = None,
        *,
        suite: Suite | str = Suite.AES_256_GCM,
        bound: Iterable[str] = ("key",),
        framing: Framing | str = Framing.HEADER,
        tombstones: Tombstones | str = Tombstones.PLAIN,
        topic_names: Mapping[str, str] | None = None,
        clock: Clock = boottime,
        wall_clock: Clock | None = None,
        observer: Observer = ignore_events,
        max_wait: float | None = None,
    ) -> None:
        self._context = dict(context or {})
        build_context(self._context, "any")
        self._bound = build_bound(bound)
        self._framing = choose(Framing, framing, "framing")
        self._tombstones = choose(Tombstones, tombstones, "tombstones")
        suite = choose(Suite, suite, "suite")
        check_suite(suite)
        self._topic_names = dict(topic_names or {})
        self._clock = clock
        self._minter = Minter(
            keys,
            suite,
            self._bound,
            rotation or RotationPolicy(),
            clock=clock,
            wall_clock=wall_clock or (time.time if clock is boottime else clock),
            observer=observer,
            max_wait=max_wait,
        )
        self._sealers: dict[str, TopicSealer] = {}
        self._minter.sweep = self.sweep
        self._closed = False

    def encrypt(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: HeadersArgument = None,
        partition: int | None = None,
    ) -> tuple[bytes | None, HeaderList]:
        """Seal one record's value.

        Args:
            topic: The topic that the record will be written to.
            value: The plaintext; None, a tombstone, stays None so that compaction works. Where tombstones are
                authenticated the headers prove it.
            key: The record's key, bound to the value by default.
            headers: The record's headers.
            partition: The target partition where it is known.

        Returns:
            The sealed value and the headers to send: the caller's first, ours last.

        Raises:
            AlreadySealed: The record carries an envelope.
            KeyUnavailable: A data key is due and KMS is away; the same call may succeed later.
            KeyRefused: A data key is due and KMS says no.
            ConfigError: The partition is not 0 to 2^31 - 1, or the encryptor is closed.
        """
        pairs = header_list(headers)
        lane = LANE_UNKNOWN if partition is None else partition
        if not 0 <= lane <= MAX_LANE and partition is not None:
            raise ConfigError(f"partition {partition} is not 0 to {MAX_LANE}")
        if value is None:
            return None, self.topic(topic).seal_tombstone(key, pairs, lane) or []
        sealed, sent = self.topic(topic).seal(value, key, pairs, lane)
        return sealed, list(sent or ())

    def topic(self, topic: str) -> TopicSealer:
        """Give the sealer of one topic: the same one for every call, so keep it where speed matters.

        Raises:
            ConfigError: The encryptor is closed, or the topic makes no valid context.
        """
        sealer = self._sealers.get(topic)
        if sealer is not None:
            return sealer
        # No lock: a fork could catch it held by a thread that the child does not have. So close() may come between.
        self._check_open()
        context = build_context(self._context, self._topic_names.get(topic, topic))
        issuer = DataKeyIssuer(self._minter, topic, context)
        sealer = TopicSealer(issuer, self._bound, self._framing, self._tombstones, self._clock)
        sealer = self._sealers.setdefault(topic, sealer)
        if self._closed:
            sealer.issuer.close()
        self._check_open()
        return sealer

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the encryptor is closed")

    def ready(self, topic: str) -> None:
        """Have a data key for ``topic`` at hand, minting one where there is none.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: None could be minted.
        """
        self.topic(topic).issuer.ready()

    def retire(self, topic: str, reason: str, header: bytes | None = None) -> None:
        """Let the current data key of ``topic`` seal nothing more: after a failed delivery, a purge or an abort.

        Args:
            topic: The topic written.
            reason: For the event.
            header: The envelope header of the record that failed: the key is retired only where it is that record's,
                so that many reports about one key do not cost the keys after it. Default: whichever key it is.
        """
        sealer = self._sealers.get(topic)
        if sealer is not None:
            sealer.issuer.retire(reason, header)

    def retire_all(self, reason: str) -> None:
        """Let the current data keys of all topics seal nothing more."""
        for sealer in list(self._sealers.values()):
            sealer.issuer.retire(reason)

    def sweep(self) -> None:
        """Drop data keys too old to seal. Call it now and then where no topic may be written for long."""
        for sealer in list(self._sealers.values()):
            sealer.issuer.sweep()

    def close(self) -> None:
        """Drop every data key; sealing raises ConfigError from now on. The key service stays open.

        Raises:
            Exception: What an observer raised; every key is dropped nevertheless.
        """
        self._closed = True
        with ExitStack() as closing:
            closing.callback(self._minter.close)
            for sealer in list(self._sealers.values()):
                closing.callback(sealer.issuer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encryptor holds data keys of one process and cannot be pickled or copied")
