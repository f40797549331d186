"""Sealing where topic, key and headers of each record choose its KEK: one data key for each topic and choice. spec: 9.3

Rule 1: a record whose choice is known costs one look into a dict more than one of a topic with a single KEK.
Rule 2: whatever records say, the number of data keys at hand and of those minted in a minute is bounded.
Rule 3: a number is taken for no record before those in front of it are sealed, so that a block that ends early leaves
no gap behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import ne
from typing import Any, NoReturn

from streamcrypt.errors import KeyDisabled, KeyRefused, KeyServiceError, StreamcryptError, again
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.issuer import DataKeyIssuer
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.keys.tenants_live import Live, LiveSealers
from streamcrypt.keys.tenants_template import Raw
from streamcrypt.sealer import MAX_BLOCK_BYTES, HeaderList, TopicSealer, refuse_ours

__all__ = ["TenantSealer"]

# A KEK found disabled is asked about again no sooner; the provider's own pause after a refusal is as long.
_ASK_AGAIN = 10.0
# Shorter runs of one choice are quicker sealed one by one.
_RUN = 8
# A block ends early where it took longer: each of its records may have waited for a data key of its own.
_PATIENCE = 0.25


class TenantSealer(TopicSealer):
    """Seals the values of one topic, each record under the KEK that it leads to. See :class:`TopicSealer`.

    Args:
        topic: The topic written, for events.
        logical: Its logical name, the value of ``{topic}``.
        keys: Says which values lead to a KEK.
        lives: Shared by the topics of one encryptor.
        make: Makes the sealer for values by field.
        proves_tombstones: Whether a null value needs a data key.
        clock: Seconds.

    Besides what :class:`TopicSealer` raises, every method that seals raises KeyNotMapped where a record leads to no
    KEK, and KeyDisabled where it leads to one that is disabled and ``keys`` says that such records fail.
    """

    __slots__ = ("_keys", "_lives", "_logical", "_make", "_mine", "_proves", "_refusals", "_take", "_topic")

    def __init__(
        self,
        topic: str,
        logical: str,
        keys: TenantKeys,
        lives: LiveSealers[TopicSealer],
        make: Callable[[Mapping[str, str]], TopicSealer],
        *,
        proves_tombstones: bool,
        clock: Clock,
    ) -> None:
        self._topic = topic
        self._logical = logical
        self._keys = keys
        self._lives = lives
        self._make = make
        self._proves = proves_tombstones
        self._clock = clock
        self._take = keys.template.take
        self._mine: dict[Raw, Live[TopicSealer]] = {}
        # Of mapped values only, so that records cannot make it grow.
        self._refusals: dict[Raw, tuple[KeyDisabled, float]] = {}

    def issuers(self) -> Iterable[DataKeyIssuer]:
        """See :class:`TopicSealer`."""
        return [live.sealer.issuer for live in list(self._mine.values())]

    def ready(self) -> None:
        """Do nothing: which data key is needed is known once a record comes."""

    def sweep(self) -> None:
        """See :class:`TopicSealer`."""
        for issuer in self.issuers():
            issuer.sweep()
        self._lives.sweep()

    def seal(
        self, value: bytes, key: bytes | None, headers: HeaderList | None, lane: int
    ) -> tuple[bytes, HeaderList | None]:
        """See :class:`TopicSealer`."""
        live = self._mine.get(self._take(key, headers))
        if live is None:
            live = self._admit(key, headers)
        live.used = self._clock()
        try:
            return live.sealer.seal(value, key, headers, lane)
        except KeyRefused as error:
            raise self._told(live, error) from None

    def seal_anything(
        self, value: bytes, key: bytes | None, headers: HeaderList, lane: int
    ) -> tuple[bytes, HeaderList]:
        """See :class:`TopicSealer`."""
        live = self._find(key, headers)
        try:
            return live.sealer.seal_anything(value, key, headers, lane)
        except KeyRefused as error:
            raise self._told(live, error) from None

    def seal_tombstone(self, key: bytes | None, headers: HeaderList | None, lane: int) -> HeaderList | None:
        """See :class:`TopicSealer`. A plain tombstone holds nothing to seal, and passes whatever it leads to."""
        if headers:
            refuse_ours(headers)
        if not self._proves:
            return headers
        live = self._find(key, headers)
        try:
            return live.sealer.seal_tombstone(key, headers, lane)
        except KeyRefused as error:
            raise self._told(live, error) from None

    def seal_block(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[HeaderList | None],
        lane: int,
    ) -> tuple[list[bytes], list[HeaderList]] | None:
        """Seal a block of records of one lane, or as many of the first as can be sealed at once, tombstones included.

        Returns:
            The sealed values and the headers to send; None where the first has to be sealed by itself.

        Raises:
            KeyServiceError: The first has no data key to be sealed with.
        """
        raws = list(map(self._take, keys, headers))
        sealed: list[Any] = []
        sent: list[Any] = []
        # In C: where records of one choice stand together, blocks of them are sealed as wholes.
        runs = 1 + sum(map(ne, raws, raws[1:]))
        if runs * _RUN > len(raws):
            self._seal_each(zip(values, keys, headers, raws, strict=True), lane, sealed, sent)
            return (sealed, sent) if sealed else None
        start = 0
        for raw, run in groupby(raws):
            end = start + len(list(run))
            cut = slice(start, end)
            live = self._mine.get(raw)
            block = live.sealer.seal_block(values[cut], keys[cut], headers[cut], lane) if live is not None else None
            if block is None or live is None:
                records = zip(values[cut], keys[cut], headers[cut], raws[cut], strict=True)
                self._seal_each(records, lane, sealed, sent)
                if len(sealed) < end:
                    break
            else:
                live.used = self._clock()
                sealed += block[0]
                sent += block[1]
            start = end
        return (sealed, sent) if sealed else None

    def _seal_each(
        self,
        records: Iterable[tuple[bytes | None, bytes | None, HeaderList | None, Raw]],
        lane: int,
        sealed: list[bytes | None],
        sent: list[HeaderList | None],
    ) -> None:
        """Seal records in order onto the two lists, up to the first that does not seal or where the block is full."""
        size, clock = 0, self._clock
        find, end = self._mine.get, clock() + _PATIENCE
        try:
            for value, key, pairs, raw in records:
                now = clock()
                if size > MAX_BLOCK_BYTES or (now > end and sealed):
                    return
                if value is None:
                    sent.append(self.seal_tombstone(key, pairs, lane))
                    sealed.append(None)
                    continue
                size += len(value)
                live = find(raw)
                if live is None:
                    one, its = self.seal(value, key, pairs, lane)
                else:
                    live.used = now
                    try:
                        one, its = live.sealer.seal(value, key, pairs, lane)
                    except KeyRefused as error:
                        raise self._told(live, error) from None
                sealed.append(one)
                sent.append(its)
        except KeyServiceError:
            if not sealed:
                raise
        except StreamcryptError:
            # The record by itself says why.
            pass

    def _find(self, key: bytes | None, headers: HeaderList | None) -> Live[TopicSealer]:
        live = self._mine.get(self._take(key, headers)) or self._admit(key, headers)
        live.used = self._clock()
        return live

    def _admit(self, key: bytes | None, headers: HeaderList | None) -> Live[TopicSealer]:
        """Find out where a record leads that none at hand leads to.

        Raises:
            AlreadySealed, KeyNotMapped, KeyDisabled, KeyUnavailable.
        """
        if headers:
            refuse_ours(headers)
        raw = self._take(key, headers)
        known = self._refusals.get(raw)
        if known is not None:
            if self._clock() < known[1]:
                raise again(known[0])
            self._refusals.pop(raw, None)
        inputs = self._keys.inputs_of(self._logical, raw)
        return self._lives.admit(self._topic, self._mine, raw, lambda: self._make(inputs))

    def _told(self, live: Live[TopicSealer], error: KeyRefused) -> StreamcryptError:
        """Give the error to raise for what the key service refused."""
        if not self._keys.disabled_fails or not error.kek_is_disabled:
            return error
        failure = KeyDisabled(str(error))
        self._refusals[live.raw] = (failure, self._clock() + _ASK_AGAIN)
        self._lives.drop(live, "disabled")
        return again(failure)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealer holds data keys of one process and cannot be pickled or copied")
