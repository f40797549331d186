"""What sealing one record means, for a topic whose records share a data key. spec: 4.4, 5.1, 6.1, 6.4, 8.1"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import add, itemgetter
from typing import NoReturn, cast

from streamcrypt.envelope.binding import KIND_TOMBSTONE, KIND_VALUE, KeyPrefixes, aad_builder, block_aad_builder
from streamcrypt.envelope.framing import MAGIC, Framing, Tombstones, carries_envelope, frame_prefix
from streamcrypt.envelope.header import BOUND_KEY, OUR_HEADERS, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import AlreadySealed
from streamcrypt.keys.clock import Clock
from streamcrypt.keys.issuer import DataKeyIssuer
from streamcrypt.keys.tickets import LANE_UNKNOWN, NO_TICKETS, nonce_of

__all__ = [
    "LANE_UNKNOWN",
    "MAX_BLOCK_BYTES",
    "MAX_LANE",
    "HeaderList",
    "HeadersArgument",
    "TopicSealer",
    "header_list",
    "refuse_ours",
]

MAX_LANE = 0x7FFF_FFFF
_FIRST = MAGIC[0]
_first_four = itemgetter(slice(len(MAGIC)))
# A block is sealed or opened as a whole before its first record is passed on: this bounds what is held twice.
MAX_BLOCK_BYTES = 4 * 2**20

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
        if pair[0] in OUR_HEADERS:
            raise AlreadySealed(f"the record carries a {pair[0]!r} header already")


def _any_ours(headers: Sequence[HeaderList | None]) -> bool:
    return any(name in OUR_HEADERS for pairs in headers if pairs for name, _ in pairs)


class TopicSealer:
    """Seals values for one topic. Get one from :meth:`Encryptor.topic`; safe to use from several threads."""

    __slots__ = ("_aad", "_block_aads", "_clock", "_prefixes", "_self_contained", "_tombstone_aad", "issuer")

    def __init__(
        self, issuer: DataKeyIssuer, bound: tuple[str, ...], framing: Framing, tombstones: Tombstones, clock: Clock
    ) -> None:
        self.issuer = issuer
        self._tombstone_aad = aad_builder(bound, KIND_TOMBSTONE) if tombstones is Tombstones.AUTHENTICATED else None
        self._aad = aad_builder(bound)
        self._prefixes = KeyPrefixes(KIND_VALUE) if bound == (BOUND_KEY,) else None
        self._block_aads = block_aad_builder(bound)
        self._self_contained = framing is Framing.SELF_CONTAINED
        self._clock = clock

    def issuers(self) -> Iterable[DataKeyIssuer]:
        """Give all that hold a data key for this topic: one."""
        return (self.issuer,)

    def ready(self) -> None:
        """Have a data key at hand, minting one where there is none.

        Raises:
            KeyUnavailable, KeyRefused, ConfigError: None could be minted.
        """
        self.issuer.ready()

    def sweep(self) -> None:
        """Drop data keys that are too old to seal."""
        self.issuer.sweep()

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
        if value and value[0] == _FIRST and value.startswith(MAGIC) and carries_envelope(value):
            raise AlreadySealed("the value is a self-contained envelope already")
        prefixes = self._prefixes
        # As the builder does, without the call: most records bind their key alone, and have one.
        aad = prefixes[len(key)] + key if prefixes is not None and key is not None else self._aad(key, headers)
        size = len(value) + len(aad)
        issuer = self.issuer
        lease = issuer.lease
        tickets, nonce = lease.tickets, None
        if lane == LANE_UNKNOWN and tickets is not NO_TICKETS:
            if size <= tickets.each and lease.looked_at <= self._clock() < lease.stop_time:
                # Draws one number, in one step and without the lock.
                for nonce in tickets.nonces:  # noqa: B007
                    tickets.sizes.append(size)
                    break
        else:
            with issuer.lock:
                lease = issuer.lease
                total = lease.bytes + size
                if (
                    lease.messages < lease.stop_messages
                    and total <= lease.stop_bytes
                    and lease.looked_at <= self._clock() < lease.stop_time
                    and (lane != LANE_UNKNOWN or lease.tickets is NO_TICKETS)
                ):
                    lease.messages += 1
                    lease.bytes = total
                    lanes = lease.lanes
                    sequence = lanes[lane] = lanes[lane] + 1
                    nonce = nonce_of(lane, sequence)
        if nonce is None:
            lease, sequence = issuer.take(size, lane)
            nonce = nonce_of(lane, sequence)
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
        nonce = nonce_of(lane, sequence)
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
        nonce = nonce_of(lane, sequence)
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
        if size > MAX_BLOCK_BYTES:
            return None
        issuer = self.issuer
        with issuer.lock:
            lease = issuer.lease
            if lane == LANE_UNKNOWN:
                lease.take_tickets_back()
            if (
                lease.messages + count > lease.stop_messages
                or lease.bytes + size > lease.stop_bytes
                or not lease.looked_at <= self._clock() < lease.stop_time
            ):
                return None
            lease.messages += count
            lease.bytes += size
            first = lease.lanes[lane] + 1
            lease.lanes[lane] = first + count - 1
        seal, alone = lease.seal, lease.headers_alone
        # Two passes in C beat one in Python.
        nonces = list(map(nonce_of, repeat(lane), range(first, first + count)))
        sealed = list(map(add, nonces, map(seal, nonces, plain, aads)))
        return sealed, [[*pairs, alone[0]] if pairs else alone for pairs in headers]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sealer holds data keys of one process and cannot be pickled or copied")
