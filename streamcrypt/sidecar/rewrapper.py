"""Headers to the headers that replace them: the same data key, wrapped under other KEKs, one call for each. spec: 4.3

Nothing is unwrapped here: whether the new wrapped key opens the record is for :mod:`streamcrypt.sidecar.verify` to say.
"""

from __future__ import annotations

import time
from dataclasses import replace

from streamcrypt.decryptor import Decryptor
from streamcrypt.envelope.codec import encode_header
from streamcrypt.errors import ConfigError, KeyServiceError, StreamcryptError
from streamcrypt.events import DataKeyRewrapped, Observer, ignore_events
from streamcrypt.keys.cache import MissBudget
from streamcrypt.keys.clock import Clock, boottime
from streamcrypt.keys.provider import RewrappingKeyProvider
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.keys.waiting import BoundedWait

__all__ = ["Rewrapper"]

# Often enough to be at once for people, seldom enough for the way of every record.
_LOOK_EVERY = 0.2


class Rewrapper:
    """Header bytes to the header bytes that replace them; each distinct header is rewrapped once while it is kept.

    Args:
        keys: The key service, configured for the KEKs to go to; the KEKs to come from are among its trusted ones.
        policy: Holds headers to the reader's policy before a call is made for them. It opens nothing here.
        cache: How many headers are remembered (default 10,000, some 10 MB), for how long, and how many refusals one
            partition may cause in a minute.
        clock: Seconds on a clock that counts suspend.
        observer: Told of every data key rewrapped.
        max_wait: Seconds for which a record waits for its header before KeyUnavailable is raised, while the work goes
            on; None: as long as the key service takes.

    Safe to use from several threads; those that miss the same header meanwhile share one call where ``max_wait`` is
    given.
    """

    def __init__(
        self,
        keys: RewrappingKeyProvider,
        policy: Decryptor,
        cache: CachePolicy | None = None,
        *,
        clock: Clock = boottime,
        observer: Observer = ignore_events,
        max_wait: float | None = None,
    ) -> None:
        self._keys = keys
        self._policy = policy
        self._limits = cache or CachePolicy()
        self._clock = clock
        self._observer = observer
        self._bounded = None if max_wait is None else BoundedWait(max_wait, "ReEncrypt")
        self._budget = MissBudget(self._limits.refused_misses_per_minute, clock)
        # Oldest use first. By topic as well: the policy was checked for that one.
        self._known: dict[tuple[bytes, str], tuple[bytes, float]] = {}
        self._generations = self._current()
        self._look_at = clock() + _LOOK_EVERY

    def _current(self) -> tuple[int, int]:
        return self._keys.sealing_generation, self._keys.trust_generation

    def rewrap(self, header_bytes: bytes, topic: str, partition: int | None) -> bytes:
        """Give the header that wraps the same data key under the configured KEKs.

        Args:
            header_bytes: The record's header.
            topic: The topic that the record was read from.
            partition: Where it was read, for the budget of refusals.

        Raises:
            EnvelopeError, UntrustedKey, ContextMismatch, AuthenticationFailed: The record's header is to blame.
            KeyUnavailable, KeyRefused: The key service; the record is not at fault.
        """
        what = (header_bytes, topic)
        known = self._known.pop(what, None)
        if known is not None and self._clock() < known[1]:
            self._known[what] = known
            return known[0]
        header = self._policy.examine(header_bytes, topic)
        self._budget.require(topic, partition)

        def work() -> bytes:
            started = time.perf_counter()
            keys = self._keys.rewrap_data_key(header.keys, dict(header.context))
            rewrapped = encode_header(replace(header, keys=tuple(keys)))
            seconds = time.perf_counter() - started
            ids = (tuple(k.key_id for k in header.keys), tuple(k.key_id for k in keys))
            self._observer(DataKeyRewrapped(topic, header.commitment.hex(), *ids, seconds))
            return rewrapped

        generations = self._generations
        try:
            if self._bounded is None or getattr(self._keys, "answers_at_once", False):
                made = work()
            else:
                made = self._bounded.run(what, work)
        except StreamcryptError as error:
            if not isinstance(error, (KeyServiceError, ConfigError)):
                self._budget.spend(topic, partition)
            raise
        if generations == self._generations:
            self._keep(what, made)
        return made

    def _keep(self, what: tuple[bytes, str], made: bytes) -> None:
        while len(self._known) >= self._limits.max_entries:
            self._known.pop(next(iter(self._known)), None)
        self._known[what] = (made, self._clock() + self._limits.ttl)

    def generations(self) -> tuple[int, int]:
        """Give what changes where KEKs, their key material or trust do; every header is forgotten then."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            current = self._current()
            if current != self._generations:
                self._generations = current
                self._known.clear()
        return self._generations

    def ready(self) -> None:
        """Find out which KEKs are trusted.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: The key service.
        """
        self._policy.ready()

    def close(self) -> None:
        """Forget everything. The key service stays open."""
        if self._bounded is not None:
            self._bounded.close()
        self._known.clear()
        self._policy.close()
