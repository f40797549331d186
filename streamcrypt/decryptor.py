"""What opening a record means, and what a reader trusts. spec: 6.2, 6.3, 6.4, 8.2, 9.1, 9.2"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import compress, groupby, islice, pairwise
from operator import itemgetter, ne
from typing import Any, NoReturn, Self, cast

from streamcrypt.crypto.data_key import DataKey, InvalidTag
from streamcrypt.crypto.suites import NONCE_BYTES, OVERHEAD_BYTES
from streamcrypt.envelope.binding import KIND_TOMBSTONE, AADBuilder, aad_builder, block_aad_builder
from streamcrypt.envelope.codec import decode_header, derivation_info
from streamcrypt.envelope.framing import MAGIC, Framing, Tombstones, choose, split_frame
from streamcrypt.envelope.header import (
    HEADER_NAME,
    MAX_HEADER_BYTES,
    OUR_HEADERS,
    TOMBSTONE_HEADER_NAME,
    EncryptedDataKey,
    EnvelopeHeader,
    build_bound,
    build_context,
)
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    KeyDisabled,
    KeyRefused,
    KeyServiceError,
    MalformedEnvelope,
    PlaintextRejected,
    StreamcryptError,
    UntrustedKey,
    again,
)
from streamcrypt.events import DataKeyOpened, DataKeyRefused, Observer, ignore_events
from streamcrypt.keys.ahead import WorkAhead
from streamcrypt.keys.cache import CachedDataKey, DataKeyCache, MissBudget
from streamcrypt.keys.clock import Clock, boottime
from streamcrypt.keys.hedging import first_answer
from streamcrypt.keys.provider import KeyProvider
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.keys.waiting import BoundedWait
from streamcrypt.sealer import MAX_BLOCK_BYTES, HeaderList, HeadersArgument, header_list

__all__ = ["Decryptor"]

_MAX_CALLS_PER_MISS = 2
_TOKENS_AHEAD = 2
# Shorter runs of the same headers are quicker opened one by one.
_RUN = 8
# From this size on the copy of a value without its nonce costs more than a view of it.
_LARGE = 2**16
# Of what a refused record says of itself: two ARNs of KEKs, not eight times 2,048 characters.
_SHOWN = 200


_take_nonce = itemgetter(slice(NONCE_BYTES))
_drop_nonce = itemgetter(slice(NONCE_BYTES, None))
_block_aads = lru_cache(maxsize=64)(block_aad_builder)
# A header that this reader's policy refuses has no entry, and one writer's records all carry it. At most 1 MB.
_decode = lru_cache(maxsize=64)(decode_header)


class Decryptor:
    """Opens record values, trusting only the KEKs that its key service lists.

    Args:
        keys: The key service; it says which KEKs are trusted. With :class:`TenantKeys` that depends on what the
            record's topic, key and headers choose, which must be bound and in its context. spec: 9.3
        cache: How many opened data keys are kept and for how long; default :class:`CachePolicy` ().
        require_context: Pairs that the record's encryption context must hold, besides ``streamcrypt:topic``.
        topic_names: Physical topic to logical topic, for mirrored and renamed topics.
        require_bound: The record fields that must be bound to the value; default the key. A writer that binds nothing
            needs readers that require nothing: ``()``.
        framing: ``header`` (default) accepts the Kafka header only; ``self_contained`` accepts either, one at a time.
        tombstones: ``plain`` (default): a null value is taken as it is; one that is authenticated is verified all the
            same. ``authenticated``: a null value without proof is refused as PlaintextRejected.
        clock: Seconds on a clock that counts suspend; default CLOCK_BOOTTIME.
        observer: Told of data keys opened, refused and dropped.
        max_wait: Seconds for which a record waits for a data key, looking up an alias included, before KeyUnavailable
            is raised, while the work goes on; default None: as long as the key service's own timeouts allow.
        share_data_keys: Whether a header that differs from an opened one in ``keys`` alone opens without a call.
            Default True; a proof that every wrapped key is good sets False.

    Raises:
        ConfigError: A setting is wrong.

    Safe to use from several threads. See also docs/spec/envelope-v1.md.
    """

    def __init__(
        self,
        keys: KeyProvider,
        cache: CachePolicy | None = None,
        require_context: Mapping[str, str] | None = None,
        topic_names: Mapping[str, str] | None = None,
        *,
        require_bound: Iterable[str] = ("key",),
        framing: Framing | str = Framing.HEADER,
        tombstones: Tombstones | str = Tombstones.PLAIN,
        clock: Clock = boottime,
        observer: Observer = ignore_events,
        max_wait: float | None = None,
        share_data_keys: bool = True,
    ) -> None:
        self._keys = keys
        self._tenants = keys if isinstance(keys, TenantKeys) else None
        self._share = share_data_keys
        build_context(dict(require_context or {}), "any")
        self._require_context = frozenset((require_context or {}).items())
        self._topic_names = dict(topic_names or {})
        chosen_by = self._tenants.bound if self._tenants is not None else ()
        self._require_bound = frozenset((*build_bound(require_bound), *chosen_by))
        self._self_contained = choose(Framing, framing, "framing") is Framing.SELF_CONTAINED
        self._plain_tombstones = choose(Tombstones, tombstones, "tombstones") is Tombstones.PLAIN
        self._clock = clock
        self._observer = observer
        policy = cache or CachePolicy()
        self._cache = DataKeyCache(policy, clock, observer)
        self._bounded = None if max_wait is None else BoundedWait(max_wait)
        self._entries = self._cache.entries
        self._budget = MissBudget(policy.refused_misses_per_minute, clock)
        self._ahead: WorkAhead[tuple[bytes, str, int | None]] = WorkAhead(self._obtain_ahead)
        self.misses = 0
        """How often a record had to wait for its data key. A hint, not a count: threads may lose one."""
        self.waited = 0.0
        """Seconds for which records waited for their data keys. A hint as well."""

    @property
    def observer(self) -> Observer:
        """Who is told of what happens here; a consumer that opens with this decryptor tells the same one."""
        return self._observer

    def decrypt(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        headers: HeadersArgument = None,
        partition: int | None = None,
    ) -> tuple[bytes | None, HeaderList]:
        """Open one record's value.

        Args:
            topic: The topic that the record was read from.
            value: The value as it stands there; None, a tombstone, stays None, verified where it is authenticated.
            key: The record's key.
            headers: The record's headers.
            partition: Where it was read, for the budget of refused data keys.

        Returns:
            The plaintext and the headers without ours.

        Raises:
            PlaintextRejected, MalformedEnvelope, UnsupportedVersion: There is no usable envelope, or a null value has
                none where tombstones must be authenticated.
            UntrustedKey, ContextMismatch: This reader's policy refuses the envelope.
            AuthenticationFailed: Something was altered, or belongs elsewhere.
            KeyDisabled: The record's own KEK is disabled or gone, where :class:`TenantKeys` has such records fail.
            KeyUnavailable, KeyRefused: The key service; the record is not at fault.
        """
        if headers.__class__ is list and len(headers) == 1 and headers[0][1].__class__ is bytes:
            pairs = cast("HeaderList", headers)
        else:
            pairs = header_list(headers)
        plain, rest = self.open(topic, value, key, pairs, partition)
        return plain, rest or []

    def open(
        self, topic: str, value: bytes | None, key: bytes | None, headers: HeaderList | None, partition: int | None
    ) -> tuple[bytes | None, HeaderList | None]:
        """Do what :meth:`decrypt` does on headers as a consumer gives them; no headers are left as None."""
        if value is None:
            return None, self._open_tombstone(topic, key, headers, partition)
        if headers is not None and len(headers) == 1 and headers[0][0] == HEADER_NAME:
            header, rest = headers[0][1], None
        else:
            header, rest = _split(headers)
        if self._self_contained and value[:4] == MAGIC:
            header, value = _take_frame(headers, value)
        if header is None:
            raise self._no_envelope(value, headers)
        # As _entry does, without the call: most records pass here.
        entry = self._entries.get(header)
        now = self._clock()
        if entry is None or now >= entry.expires or entry.approved.get(topic) != self._keys.trust_generation:
            entry = self._admit(header, topic, partition)
        entry.used = now
        try:
            sealed: Any = value[12:] if len(value) < _LARGE else memoryview(value)[12:]
            return entry.open(value[:12], sealed, entry.aad(key, rest)), rest
        except (InvalidTag, ValueError):
            # ValueError: the value is shorter than a nonce.
            raise AuthenticationFailed("the record cannot be opened") from None

    def _open_tombstone(
        self, topic: str, key: bytes | None, headers: HeaderList | None, partition: int | None
    ) -> HeaderList | None:
        """Verify a null value by its two headers, or take it as it is where that is allowed. spec: 6.4"""
        if not any(name in OUR_HEADERS for name, _ in headers or ()):
            if self._plain_tombstones:
                return headers
            raise PlaintextRejected(
                "the null value carries no proof, where tombstones are authenticated",
                remedy="Set tombstones: authenticated on the writing side, or tombstones: plain here.",
            )
        header, rest = _split(headers)
        proofs = [value for name, value in headers or () if name == TOMBSTONE_HEADER_NAME]
        proof = proofs[0] if len(proofs) == 1 else None
        if header is None or proof is None or len(proof) != OVERHEAD_BYTES:
            raise MalformedEnvelope("a null value carries an envelope header, but not the two that prove a tombstone")
        entry = self._entry(header, topic, partition)
        aad = self._held_to(entry.header, _tombstone_aad(entry.header.bound))(key, rest)
        try:
            entry.open(proof[:NONCE_BYTES], proof[NONCE_BYTES:], aad)
        except InvalidTag:
            raise AuthenticationFailed("the record cannot be opened") from None
        return rest

    def open_block(
        self,
        topic: str,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[HeaderList | None],
        partition: int | None,
    ) -> tuple[list[bytes], list[HeaderList | None]] | None:
        """Open a block of records of one partition, or those of them that stand before the first that does not open.

        A block also ends before a data key that is not at hand, unless its first record needs it: what may be refused
        or cost a call is met when it stands first, once. A caller goes on with the rest until none is left.

        Returns:
            The plaintexts and the headers without ours, as many as opened; None or none of them where the first has to
            be opened by itself, so that :meth:`open` says why it fails.

        Raises:
            KeyServiceError: The first record's data key could not be had: asking once more would not help.
        """
        if self._tenants is None and not self._self_contained and None not in values:
            starts = _starts(headers)
            if len(starts) * _RUN <= len(headers) or len(starts) == 1:
                return self._open_runs(topic, cast("Sequence[bytes]", values), keys, headers, partition, starts)
        plain: list[bytes] = []
        rests: list[HeaderList | None] = []
        last: bytes | None = None
        open_: Callable[[bytes, bytes, bytes], bytes]
        aad_of: AADBuilder
        size = 0
        try:
            for value, key, pairs in zip(values, keys, headers, strict=True):
                if value is None or not pairs:
                    break
                size += len(value)
                if size > MAX_BLOCK_BYTES:
                    break
                rest: HeaderList | None = None
                if len(pairs) == 1 and pairs[0][0] == HEADER_NAME:
                    header = pairs[0][1]
                else:
                    header, rest = _split(pairs)
                # Records of one data key stand together: most are done with one comparison.
                if header is None or header != last:
                    if header is None or self._self_contained:
                        break
                    # Behind others, one that may be refused or cost a call waits until it is the first.
                    entry = (
                        self._at_hand(header, topic) if plain else self._entry(header, topic, partition, alone=False)
                    )
                    if entry is None:
                        break
                    last, open_, aad_of = header, entry.open, entry.aad
                plain.append(open_(value[:12], value[12:], aad_of(key, rest)))
                rests.append(rest)
        except KeyServiceError:
            raise
        except (InvalidTag, ValueError, StreamcryptError):
            # The record by itself says why.
            pass
        return plain, rests

    def _open_runs(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None],
        headers: Sequence[HeaderList | None],
        partition: int | None,
        starts: Sequence[int],
    ) -> tuple[list[bytes], list[HeaderList | None]] | None:
        """Open a block of long runs of records with the same headers: passes in C instead of one in Python."""
        if sum(map(len, values)) > MAX_BLOCK_BYTES:
            return None
        plain: list[bytes] = []
        rests: list[HeaderList | None] = []
        for start, end in pairwise((*starts, len(headers))):
            try:
                header, rest = _split(headers[start])
                if header is None:
                    break
                # As in open_block.
                entry = self._at_hand(header, topic) if plain else self._entry(header, topic, partition, alone=False)
                if entry is None:
                    break
                aads = _block_aads(entry.header.bound)(keys[start:end], [rest] * (end - start))
            except KeyServiceError:
                raise
            except StreamcryptError:
                break
            run = values[start:end]
            # A list keeps what it was extended by until the record that does not open, or is shorter than a nonce.
            with suppress(InvalidTag, ValueError):
                plain.extend(map(entry.open, map(_take_nonce, run), map(_drop_nonce, run), aads))
            rests.extend([list(rest) for _ in run] if rest else [None] * len(run))
            if len(plain) < end:
                break
        return plain, rests[: len(plain)]

    def _entry(self, header: bytes, topic: str, partition: int | None, *, alone: bool = True) -> CachedDataKey:
        entry = self._at_hand(header, topic)
        if entry is None:
            entry = self._admit(header, topic, partition, alone=alone)
            entry.used = self._clock()
        return entry

    def _at_hand(self, header: bytes, topic: str) -> CachedDataKey | None:
        """Give an opened data key that is in the cache and was approved for this topic."""
        entry = self._entries.get(header)
        now = self._clock()
        if entry is None or now >= entry.expires or entry.approved.get(topic) != self._keys.trust_generation:
            return None
        entry.used = now
        return entry

    def _no_envelope(self, value: bytes, headers: HeaderList | None) -> StreamcryptError:
        if headers and any(name == HEADER_NAME for name, _ in headers):
            return MalformedEnvelope("the envelope header is null")
        if value[:4] == MAGIC:
            return PlaintextRejected(
                "the record has no envelope header; its value looks self-contained, which is not configured here",
                remedy="Set framing: self_contained where such records are expected.",
            )
        return PlaintextRejected("the record has no envelope: it is not sealed, or its header was stripped")

    def _admit(self, header_bytes: bytes, topic: str, partition: int | None, *, alone: bool = True) -> CachedDataKey:
        """Check the policy for this topic and give the opened data key, unwrapping it where it is not at hand.

        In a block, not ``alone``, a fault of the record is not told of: it is when the record is met by itself.
        """
        began = time.perf_counter()
        known = self._entries.get(header_bytes)
        at_once = getattr(self._keys, "answers_at_once", False)
        try:
            header = known.header if known is not None else _decode(header_bytes)
            self._check_policy(header, topic)
            # To look ahead helps neither against headers that are refused nor where nothing is waited for.
            self.misses += not at_once
            if self._bounded is None or at_once:
                return self._obtain(header_bytes, header, topic, partition)
            return self._bounded.run(
                (header_bytes, topic), lambda: self._obtain(header_bytes, header, topic, partition)
            )
        except StreamcryptError as error:
            if self._fails_record(error):
                if alone:
                    self._observer(DataKeyRefused(topic, KeyDisabled.__name__, str(error), True, error.request_id))
                raise KeyDisabled(str(error)) from None
            record_fault = not isinstance(error, (KeyServiceError, ConfigError))
            if alone or isinstance(error, KeyServiceError):
                self._observer(DataKeyRefused(topic, type(error).__name__, str(error), record_fault, error.request_id))
            raise
        finally:
            self.waited += time.perf_counter() - began

    def look_ahead(
        self,
        topic: str,
        headers: Sequence[HeaderList | None],
        partition: int | None = None,
        values: Sequence[bytes | None] | None = None,
    ) -> int:
        """Begin to unwrap the data keys of records that will be opened soon, several at once; return without waiting.

        Worth it where one data key after the other is new: call it with all that was fetched before the first record
        is opened, when :attr:`misses` grew since the last time. Opening is as without it: a record whose data key is
        on its way waits for that same call. The same policy is checked before a call is made, the same budget counts
        refusals, and what fails here is no error: opening the record will say what is wrong.

        Args:
            topic: The topic that the records were read from.
            headers: Their headers, in the order in which they will be opened.
            partition: Where they were read, for the budget of refused data keys.
            values: Their values; only with ``framing="self_contained"`` does anything stand in them.

        Returns:
            How many data keys were put on their way by this call: 0 where all are at hand, asked for already, or known
            to be refused; where the key service answers at once; and for a second after it was away or refused.
        """
        if getattr(self._keys, "answers_at_once", False):
            return 0
        now, begun = self._clock(), 0
        for header in self._headers_in(headers, values):
            entry = self._entries.get(header)
            known = entry is not None and now < entry.expires
            # What waits is held in memory: nothing that is too long to be a header waits.
            if not (known or len(header) > MAX_HEADER_BYTES or self._cache.is_refused(header)):
                begun += self._ahead.add((header, topic, partition))
        return begun

    def _headers_in(
        self, headers: Sequence[HeaderList | None], values: Sequence[bytes | None] | None
    ) -> Iterable[bytes]:
        # Records of one data key stand together: all but the first are passed over in C.
        for pairs, _ in groupby(headers):
            # A record with two of them is refused without a call: it must not spend the partition's budget here.
            ours = [value for name, value in pairs or () if name == HEADER_NAME]
            if len(ours) == 1 and ours[0]:
                yield ours[0]
        if self._self_contained and values is not None:
            last: bytes | None = None
            for value in values:
                if value is not None and value[:4] == MAGIC:
                    with suppress(MalformedEnvelope):
                        header = split_frame(value)[0]
                        if header != last:
                            last = header
                            yield header

    def _obtain_ahead(self, item: tuple[bytes, str, int | None]) -> None:
        header_bytes, topic, partition = item
        # One token is left for the records themselves.
        if self._budget.left(topic, partition) >= _TOKENS_AHEAD:
            header = _decode(header_bytes)
            self._check_policy(header, topic)
            self._obtain(header_bytes, header, topic, partition)

    def _fails_record(self, error: StreamcryptError) -> bool:
        """Say whether the record's own KEK is disabled, which stops no other record.

        Found here, so that it is neither remembered of the header, since the KEK may be enabled again, nor at the cost
        of the partition's budget.
        """
        is_ours = self._tenants is not None and self._tenants.disabled_fails
        return is_ours and isinstance(error, KeyRefused) and error.kek_is_disabled

    def _trusted(
        self, keys: Sequence[EncryptedDataKey], header: EnvelopeHeader
    ) -> Sequence[tuple[EncryptedDataKey, str]]:
        if self._tenants is None:
            return self._keys.trusted(keys)
        return self._tenants.trusted_for(dict(header.context), keys)

    def _held_to(self, header: EnvelopeHeader, build: AADBuilder) -> AADBuilder:
        return build if self._tenants is None else self._tenants.holding_to(dict(header.context), build)

    def _obtain(self, header_bytes: bytes, header: EnvelopeHeader, topic: str, partition: int | None) -> CachedDataKey:
        """Do what may call the key service: look up who is trusted, and unwrap."""
        # Read before the check: where trust changes meanwhile, the next record is checked again.
        generation = self._keys.trust_generation
        if not self._trusted(header.keys, header):
            ids = ", ".join(key.key_id for key in header.keys)
            raise UntrustedKey(f"no trusted KEK among {ids[:_SHOWN]}{'…' if len(ids) > _SHOWN else ''}")
        entry = self._load(header_bytes, header, topic, partition)
        if not self._trusted((entry.proof,), header):
            # Another KEK of the header is trusted, but nothing shows that its encrypted data key is this one.
            self._cache.forget(header_bytes, "untrusted")
            entry = self._load(header_bytes, header, topic, partition)
        entry.approved[topic] = generation
        return entry

    def _load(self, header_bytes: bytes, header: EnvelopeHeader, topic: str, partition: int | None) -> CachedDataKey:
        return self._cache.load(header_bytes, lambda expires: self._unwrap(header, topic, partition, expires))

    def _check_policy(self, header: EnvelopeHeader, topic: str) -> None:
        logical = self._topic_names.get(topic, topic)
        if header.topic != logical:
            raise ContextMismatch(f"the envelope is bound to topic {_quoted(header.topic)}, not to {logical!r}")
        missing = self._require_context.difference(header.context)
        if missing:
            names = ", ".join(sorted(name for name, _ in missing))
            raise ContextMismatch(f"the encryption context lacks the required {names}", remedy="See require_context.")
        unbound = self._require_bound.difference(header.bound)
        if unbound:
            raise ContextMismatch(
                f"the envelope does not bind {', '.join(sorted(unbound))}", remedy="See bound and require_bound."
            )
        if self._tenants is not None:
            self._tenants.values_in(dict(header.context))

    def _unwrap(self, header: EnvelopeHeader, topic: str, partition: int | None, expires: float) -> CachedDataKey:
        info = derivation_info(header.suite, header.context, header.bound, header.content)
        identity = header.commitment + info
        same = self._cache.same_data_key(identity) if self._share else None
        if same is not None and self._trusted((same.proof,), header):
            self._observer(DataKeyOpened(topic, same.key.id, same.proof.key_id, 0.0, shared=True))
            return CachedDataKey(
                same.key, header, identity=identity, proof=same.proof, aad=same.aad, expires=same.expires, is_alias=True
            )
        with self._budget.claim(topic, partition):
            return self._unwrap_by_call(header, topic, partition, expires, identity, info)

    def _unwrap_by_call(
        self, header: EnvelopeHeader, topic: str, partition: int | None, expires: float, identity: bytes, info: bytes
    ) -> CachedDataKey:
        started = time.perf_counter()

        def open_one(encrypted: EncryptedDataKey, key_id: str) -> DataKey:
            dek = self._keys.decrypt_data_key(encrypted, key_id, dict(header.context))
            return DataKey(dek, header.suite, info, header.commitment)

        tried = self._trusted(header.keys, header)[:_MAX_CALLS_PER_MISS]
        if not tried:
            raise UntrustedKey("no trusted KEK among those of the record")
        outcome = first_answer([partial(open_one, *pair) for pair in tried], discard=DataKey.wipe)
        for place, key in outcome.answers.items():
            encrypted, key_id = tried[place]
            self._observer(DataKeyOpened(topic, key.id, key_id, time.perf_counter() - started, shared=False))
            aad = self._held_to(header, aad_builder(header.bound))
            return CachedDataKey(key, header, identity=identity, proof=encrypted, aad=aad, expires=expires)
        # Where one KEK is away and the other refuses, the record may yet open: say that a retry helps.
        failure = max(outcome.failures.values(), key=_hope)
        if not _hope(failure):
            self._budget.spend(topic, partition)
        raise again(failure)

    def examine(self, header_bytes: bytes, topic: str) -> EnvelopeHeader:
        """Decode a header and hold it to this reader's policy for a topic; the key service is not asked.

        Raises:
            MalformedEnvelope, UnsupportedVersion: It is none of this version.
            ContextMismatch: The policy refuses it.
        """
        header = decode_header(header_bytes)
        self._check_policy(header, topic)
        return header

    def candidates(self, header: EnvelopeHeader) -> Sequence[tuple[EncryptedDataKey, str]]:
        """Give the encrypted data keys of a header that may be tried; see :meth:`KeyProvider.trusted`.

        Raises:
            UntrustedKey, ContextMismatch: The context leads to no KEK.
            KeyServiceError: Trust is not known.
        """
        return self._trusted(header.keys, header)

    def ready(self) -> None:
        """Find out which KEKs are trusted, resolving an alias where one is configured.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: The key service.
        """
        if self._bounded is None:
            self._keys.trusted(())
        else:
            self._bounded.run("ready", lambda: self._keys.trusted(()))

    @property
    def held(self) -> int:
        """How many headers have their opened data key at hand."""
        return len(self._entries)

    def sweep(self) -> None:
        """Drop data keys past their TTL, and end idle threads. Call it now and then where records may stop coming."""
        self._ahead.sweep()
        self._cache.sweep()

    def close(self) -> None:
        """Drop every opened data key. The key service stays open."""
        self._ahead.close()
        if self._bounded is not None:
            self._bounded.close()
        self._cache.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a decryptor holds data keys of one process and cannot be pickled or copied")


def _starts(headers: Sequence[HeaderList | None]) -> list[int]:
    """Give where runs of the same headers begin; in C."""
    if not headers:
        return []
    return [0, *compress(range(1, len(headers)), map(ne, headers, islice(headers, 1, None)))]


def _hope(error: StreamcryptError) -> int:
    """Rank how much may be hoped for: a retry helps, an operator can help, or the record is at fault."""
    return 2 if error.retriable else int(isinstance(error, (KeyServiceError, ConfigError)))


def _split(headers: HeaderList | None) -> tuple[bytes | None, HeaderList | None]:
    """Take our header out of the others."""
    if not headers:
        return None, None
    ours = [value for name, value in headers if name == HEADER_NAME]
    if len(ours) > 1:
        raise MalformedEnvelope(f"the record has {len(ours)} envelope headers")
    rest = [pair for pair in headers if pair[0] not in OUR_HEADERS]
    return (ours[0] if ours else None), rest or None


@lru_cache(64)
def _tombstone_aad(bound: tuple[str, ...]) -> AADBuilder:
    return aad_builder(bound, KIND_TOMBSTONE)


def _quoted(text: str) -> str:
    """Quote what a refused record says of itself: as much as helps, whatever its length."""
    shown = repr(text[:_SHOWN])
    return shown if len(text) <= _SHOWN and len(shown) <= _SHOWN + 2 else f"{shown[:_SHOWN]}…"


def _take_frame(headers: HeaderList | None, value: bytes) -> tuple[bytes, bytes]:
    if any(name == HEADER_NAME for name, _ in headers or ()):
        raise MalformedEnvelope("the record has an envelope header and a self-contained value")
    return split_frame(value)
