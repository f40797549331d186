"""Records counted by partition and envelope header, without opening a value.

Records under one data key carry equal headers, and mostly stand together: they are counted in runs. A record costs a
few comparisons (0.2 µs; having its headers made into Python objects costs 0.5 µs and more, and cannot be had for
less); a dictionary is asked, and a tally touched, where a run ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamcrypt.clients.headers import read_headers
from streamcrypt.crypto.suites import OVERHEAD_BYTES
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME, OUR_HEADERS, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import EnvelopeError, MalformedEnvelope, StreamcryptError

__all__ = ["Counter", "Envelope", "HeaderBook", "Place", "Tally"]

MAX_ENVELOPES = 500_000
_NO_RUN = object()


@dataclass(frozen=True, slots=True)
class Envelope:
    """What distinct header bytes say.

    Attributes:
        index: Its number in the book, from 0.
        data: The header bytes.
        key_ids: The KEKs for which the data key is wrapped, each once.
        commitment: The data key's public id.
    """

    index: int
    data: bytes
    key_ids: tuple[str, ...]
    commitment: bytes


class HeaderBook:
    """Every distinct envelope header met, parsed once. Malformed ones are not kept: anyone can write those.

    Args:
        limit: The most that are kept. Default 500,000, at about 1 KB each: data keys of years.
    """

    def __init__(self, limit: int = MAX_ENVELOPES) -> None:
        self._limit = limit
        self._by_data: dict[bytes, Envelope] = {}
        self.envelopes: list[Envelope] = []

    def look_up(self, data: bytes) -> Envelope:
        """Give what header bytes say.

        Raises:
            EnvelopeError: They are no header of this version.
            StreamcryptError: The book is full.
        """
        known = self._by_data.get(data)
        if known is not None:
            return known
        header = decode_header(data)
        if len(self.envelopes) >= self._limit:
            raise StreamcryptError(
                f"there are more than {self._limit} distinct envelope headers",
                remedy="Audit fewer topics at once. Does somebody write a data key per record?",
            )
        key_ids = tuple(dict.fromkeys(key.key_id for key in header.keys))
        envelope = Envelope(len(self.envelopes), data, key_ids, header.commitment)
        self._by_data[data] = envelope
        self.envelopes.append(envelope)
        return envelope

    def knows(self, data: bytes) -> bool:
        """Say whether header bytes were met and are well-formed."""
        return data in self._by_data


@dataclass(slots=True)
class Tally:
    """Records under one envelope header in one partition. Times are milliseconds since 1970, None where unknown."""

    records: int
    first_offset: int
    first_time: int | None
    last_offset: int
    last_time: int | None


@dataclass(slots=True)
class Place:
    """One partition, and what was counted in it.

    Attributes:
        topic: The topic.
        partition: The partition.
        start: Where reading began: the first offset that retention had left.
        end: Where it ends: behind the last record that was committed when the audit began.
        high: The high watermark then; above ``end`` while transactions were open.
        position: The next offset to count.
        records: All, with plaintext, malformed ones and tombstones.
        plaintext: Without an envelope.
        malformed: With an envelope that cannot be used; not looked into further.
        tombstones: Null values; those that carry a proof count under their KEKs, too.
        faults: Class of error to how many records and the first's offset.
        tallies: Index of the envelope to its count.
        unread: Why the partition was not read to its end; empty where it was.
        overtaken: Offset at which retention deleted records that were still to be read; -1 where it did not.
        sequence: Kind of finding to how many; None where sequences were not looked at.
    """

    topic: str
    partition: int
    start: int
    end: int
    high: int
    position: int = -1
    records: int = 0
    plaintext: int = 0
    malformed: int = 0
    tombstones: int = 0
    faults: dict[str, list[int]] = field(default_factory=dict)
    tallies: dict[int, Tally] = field(default_factory=dict)
    unread: str = ""
    overtaken: int = -1
    sequence: dict[str, int] | None = None

    def __post_init__(self) -> None:
        self.position = max(self.position, self.start)

    @property
    def name(self) -> str:
        """The partition as people write it: ``topic[0]``."""
        return f"{self.topic}[{self.partition}]"

    @property
    def is_read(self) -> bool:
        """Whether nothing is left to read."""
        return self.position >= self.end

    def add(self, envelope: Envelope | None, records: int, first: Any, last: Any) -> None:
        """Count records from message ``first`` to ``last`` under an envelope; None: plaintext."""
        last_offset = last.offset()
        self.records += records
        self.position = last_offset + 1
        if envelope is None:
            self.plaintext += records
            return
        tally = self.tallies.get(envelope.index)
        if tally is None:
            self.tallies[envelope.index] = Tally(records, first.offset(), _time(first), last_offset, _time(last))
        else:
            tally.records += records
            tally.last_offset = last_offset
            tally.last_time = _time(last)

    def add_malformed(self, error: EnvelopeError, message: Any) -> None:
        """Count a record that cannot be used."""
        self.records += 1
        self.malformed += 1
        self.position = message.offset() + 1
        self.faults.setdefault(type(error).__name__, [0, message.offset()])[0] += 1

    def add_tombstone(self, envelope: Envelope | None, message: Any) -> None:
        """Count a null value, which an envelope may prove."""
        self.tombstones += 1
        if envelope is None:
            self.records += 1
            self.position = message.offset() + 1
        else:
            self.add(envelope, 1, message, message)


def _time(message: Any) -> int | None:
    kind, milliseconds = message.timestamp()
    return milliseconds if kind else None


def _no_other_envelope(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Say whether none but the last header is an envelope."""
    if len(headers) == 2:  # noqa: PLR2004  the common case
        return headers[0][0] != HEADER_NAME
    return all(name != HEADER_NAME for name, _ in headers[:-1])


class Counter:
    """Counts messages into their places.

    Args:
        places: (topic, partition) to its place; messages of others, and those behind a place's end, are passed over.
        book: Keeps the envelopes.
    """

    def __init__(self, places: Mapping[tuple[str, int], Place], book: HeaderBook) -> None:
        self._places = places
        self._book = book

    def take(self, messages: Sequence[Any]) -> list[Any]:
        """Count messages as a consumer gives them; return those that are errors.

        Raises:
            StreamcryptError: The book is full.
        """
        errors: list[Any] = []
        same: Any = _NO_RUN
        # The run's envelope where it stands last, as our writers send it: what stands before may vary.
        ours: Any = _NO_RUN
        envelope: Envelope | None = None
        place: Place | None = None
        first = last = None
        topic, partition, end, length = "", -1, 0, 0
        for message, headers in zip(messages, read_headers(messages), strict=True):
            value = message.value()
            if (
                (headers == same or (headers and headers[-1] == ours and _no_other_envelope(headers)))
                and message.partition() == partition
                and value is not None
                and not value.startswith(MAGIC)
                and message.offset() < end
                and message.error() is None
                and message.topic() == topic
            ):
                length += 1
                last = message
                continue
            if message.error() is not None:
                errors.append(message)
                continue
            if message.partition() != partition or message.topic() != topic:
                if place is not None and length:
                    place.add(envelope, length, first, last)
                topic, partition, length = message.topic(), message.partition(), 0
                same = ours = _NO_RUN
                place = self._places.get((topic, partition))
                end = -1 if place is None else place.end
            if place is None or not place.position <= message.offset() < end:
                continue
            try:
                found: Envelope | EnvelopeError | None = self._look(headers, value)
            except EnvelopeError as error:
                found = error
            if length and (value is None or found is not envelope):
                place.add(envelope, length, first, last)
                same, ours, length = _NO_RUN, _NO_RUN, 0
            if isinstance(found, EnvelopeError):
                place.add_malformed(found, message)
            elif value is None:
                place.add_tombstone(found, message)
            else:
                # Equal envelopes make a run, whatever else their headers hold.
                if not length:
                    envelope, first = found, message
                length += 1
                last = message
                if not value.startswith(MAGIC):
                    same = headers
                    ours = headers[-1] if headers and headers[-1][0] == HEADER_NAME else _NO_RUN
        if place is not None and length:
            place.add(envelope, length, first, last)
        return errors

    def _look(self, headers: Sequence[tuple[str, bytes | None]] | None, value: bytes | None) -> Envelope | None:
        """Find a record's envelope; None where it has none.

        Raises:
            EnvelopeError: It has one that cannot be used.
        """
        if value is None:
            return self._proof(headers)
        framed = value.startswith(MAGIC)
        if headers:
            ours = [data for name, data in headers if name == HEADER_NAME]
            if ours:
                if len(ours) > 1 or framed:
                    raise MalformedEnvelope("more than one envelope")
                if ours[0] is None:
                    raise MalformedEnvelope("the envelope header is null")
                return self._book.look_up(ours[0])
        return self._book.look_up(split_frame(value)[0]) if framed else None

    def _proof(self, headers: Sequence[tuple[str, bytes | None]] | None) -> Envelope | None:
        claims = [(name, data) for name, data in headers or () if name in OUR_HEADERS]
        if not claims:
            return None
        ours = dict(claims)
        header, proof = ours.get(HEADER_NAME), ours.get(TOMBSTONE_HEADER_NAME)
        if len(claims) != len(OUR_HEADERS) or header is None or proof is None or len(proof) != OVERHEAD_BYTES:
            raise MalformedEnvelope("a null value carries not the two headers that prove a tombstone")
        return self._book.look_up(header)
