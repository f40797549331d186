"""Sealing with data keys that are replaced in time: one sealer a topic, over one key service. spec: 4.4, 8.1"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import NoReturn, Self

from streamcrypt.crypto.data_key import check_suite
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.framing import Framing, Tombstones, choose
from streamcrypt.envelope.header import build_bound, build_context
from streamcrypt.errors import ConfigError
from streamcrypt.events import DataKeysInUse, Observer, ignore_events
from streamcrypt.keys.clock import Clock, boottime
from streamcrypt.keys.issuer import DataKeyIssuer
from streamcrypt.keys.minting import Minter
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.keys.tenants_live import LiveSealers
from streamcrypt.keys.use import in_use
from streamcrypt.sealer import (
    LANE_UNKNOWN,
    MAX_LANE,
    HeaderList,
    HeadersArgument,
    TopicSealer,
    header_list,
    refuse_ours,
)
from streamcrypt.tenant_sealer import TenantSealer

__all__ = [
    "LANE_UNKNOWN",
    "MAX_LANE",
    "Encryptor",
    "HeaderList",
    "HeadersArgument",
    "TopicSealer",
    "header_list",
    "refuse_ours",
]


class Encryptor:
    """Seals record values with data keys that a key service issues, and replaces the keys in time.

    Args:
        keys: The key service; with :class:`TenantKeys` each record has a KEK of its own, and what chooses it is bound.
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
        self._tenants = keys if isinstance(keys, TenantKeys) else None
        # A text is left for the check to refuse.
        chosen_by = self._tenants.bound if self._tenants is not None and not isinstance(bound, str) else ()
        self._bound = build_bound((*bound, *chosen_by) if chosen_by else bound)
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
        if self._tenants is not None:
            most, a_minute = self._tenants.max_live, self._tenants.new_keys_per_minute
            self._lives: LiveSealers[TopicSealer] = LiveSealers(most, a_minute, clock, observer)
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
        pairs = header_list(headers) if headers else None
        lane = LANE_UNKNOWN
        if partition is not None:
            if not 0 <= partition <= MAX_LANE:
                raise ConfigError(f"partition {partition} is not 0 to {MAX_LANE}")
            lane = partition
        # As topic() does, without the call.
        sealer = self._sealers.get(topic) or self.topic(topic)
        if value is None:
            return None, sealer.seal_tombstone(key, pairs, lane) or []
        sealed, sent = sealer.seal(value, key, pairs, lane)
        # A list of its own: what the sealer gives may be shared.
        return sealed, [*sent] if sent else []

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
        sealer = self._sealers.setdefault(topic, self._sealer_for(topic))
        if self._closed:
            for issuer in sealer.issuers():
                issuer.close()
        self._check_open()
        return sealer

    def _sealer_for(self, topic: str) -> TopicSealer:
        logical, tenants = self._topic_names.get(topic, topic), self._tenants
        if tenants is None:
            return self._sealer_with(topic, build_context(self._context, logical))
        # Said now, not at the first record: too many pairs, or names of headers that differ in case only.
        build_context(self._context, logical, dict.fromkeys(tenants.template.fields, "x"))

        def make(inputs: Mapping[str, str]) -> TopicSealer:
            self._check_open()
            return self._sealer_with(topic, build_context(self._context, logical, inputs))

        proves = self._tombstones is Tombstones.AUTHENTICATED
        return TenantSealer(topic, logical, tenants, self._lives, make, proves_tombstones=proves, clock=self._clock)

    def _sealer_with(self, topic: str, context: tuple[tuple[str, str], ...]) -> TopicSealer:
        issuer = DataKeyIssuer(self._minter, topic, context)
        return TopicSealer(issuer, self._bound, self._framing, self._tombstones, self._clock)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the encryptor is closed")

    def ready(self, topic: str) -> None:
        """Have a data key for ``topic`` at hand, minting one where there is none; with a KEK per record, do nothing.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: None could be minted.
        """
        self.topic(topic).ready()

    def retire(self, topic: str, reason: str, header: bytes | None = None) -> None:
        """Let the current data key of ``topic`` seal nothing more: after a failed delivery, a purge or an abort.

        Args:
            topic: The topic written.
            reason: For the event.
            header: The envelope header of the record that failed: the key is retired only where it is that record's,
                so that many reports about one key do not cost the keys after it. Default: whichever key it is.
        """
        sealer = self._sealers.get(topic)
        for issuer in sealer.issuers() if sealer is not None else ():
            issuer.retire(reason, header)

    def retire_all(self, reason: str) -> None:
        """Let the current data keys of all topics seal nothing more."""
        for issuer in self._issuers():
            issuer.retire(reason)

    def rotate(self) -> None:
        """Drop the data keys of all topics, those minted ahead or on their way among them.

        The next record gets one whose minting began after this.
        """
        for issuer in self._issuers():
            issuer.let_go("operator", on_their_way=True)

    def rotate_by(self, rotation: RotationPolicy) -> None:
        """Replace data keys by another policy from now on; one that is over a limit of it seals nothing more."""
        self._minter.rotation = rotation
        for issuer in self._issuers():
            issuer.follow_rotation()

    def sweep(self) -> None:
        """Drop data keys too old to seal. Call it now and then where no topic may be written for long."""
        for sealer in list(self._sealers.values()):
            sealer.sweep()

    def in_use(self, pipeline: str) -> list[DataKeysInUse]:
        """Say of each topic that was written how much its data keys have sealed.

        Args:
            pipeline: Who asks, for the events.
        """
        return [in_use(pipeline, topic, list(sealer.issuers())) for topic, sealer in list(self._sealers.items())]

    def _issuers(self) -> list[DataKeyIssuer]:
        return [issuer for sealer in list(self._sealers.values()) for issuer in sealer.issuers()]

    def close(self) -> None:
        """Drop every data key; sealing raises ConfigError from now on. The key service stays open.

        Raises:
            Exception: What an observer raised; every key is dropped nevertheless.
        """
        self._closed = True
        with ExitStack() as closing:
            closing.callback(self._minter.close)
            for issuer in self._issuers():
                closing.callback(issuer.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encryptor holds data keys of one process and cannot be pickled or copied")
