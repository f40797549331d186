"""Evidence in lanes and sequences: what is missing, repeated, out of order or moved. spec: 5.1, 10

A verifier is fed with the records of each partition in the order of their offsets. It claims something only where the
writer promises something: one that seals in order and delivers exactly once, read committed. Feed it with records that
opened, and no others: whatever else stands on a topic, anyone can have written there.

Never detected:

- the loss of a data key's first, last or all records;
- anything between two records of which one was not fed to this verifier: across its start, or after :meth:`forget`;
- a replay under a data key and lane that it has forgotten, because ``max_lanes`` others were used since;
- the loss, repeat or displacement of plain tombstones, and of records sealed without a known partition.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import repeat
from struct import Struct

from streamcrypt.crypto.data_key import COMMITMENT_BYTES
from streamcrypt.crypto.suites import NONCE_BYTES
from streamcrypt.envelope.binding import Headers
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import HEADER_NAME, TOMBSTONE_HEADER_NAME
from streamcrypt.errors import EnvelopeError, SequenceViolated
from streamcrypt.events import Observer, SequenceFound

__all__ = ["SequenceFinding", "SequenceKind", "SequenceMode", "SequenceVerifier", "numbered", "tell"]

_MAX_LANE = 0x7FFF_FFFF
# Behind marker, fingerprint and the one byte of the suite. A header that opened is canonical, so it stands there.
_COMMITMENT = slice(11, 11 + COMMITMENT_BYTES)
_nonce = Struct(">IQ")
# Gaps that are remembered per lane, to tell a number that comes late from one that comes again.
_MAX_GAPS = 64
_MAX_REMEMBERED = 10_000

_LaneKey = tuple[str, int, bytes, int]


class SequenceMode(StrEnum):
    """``off``: nothing is looked at. ``report``: findings are events. ``enforce``: the record also fails."""

    OFF = "off"
    REPORT = "report"
    ENFORCE = "enforce"


class SequenceKind(StrEnum):
    """What was found.

    ``gap``: numbers are left out before this record. ``repeat``: its number was seen. ``disorder``: its number is lower
    than the last, and was not seen as far as is remembered. ``moved``: it was sealed for another partition.
    """

    GAP = "gap"
    REPEAT = "repeat"
    DISORDER = "disorder"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class SequenceFinding:
    """Evidence at one record.

    Attributes:
        kind: What was found.
        topic: The topic read.
        partition: The partition read.
        offset: The record at which it shows; for a gap the one behind it.
        data_key: The data key's public id (the commitment, hex).
        lane: The lane that the record was sealed in.
        expected: The number that should have come; where ``moved``, the partition it was sealed for.
        found: The number that came; where ``moved``, the partition it was found in.
        known: Whether it was given before: the record was read again, after an abort or a pause.
    """

    kind: SequenceKind
    topic: str
    partition: int
    offset: int
    data_key: str
    lane: int
    expected: int
    found: int
    known: bool = False

    def error(self) -> SequenceViolated:
        """Give the error with which the record fails where sequences are enforced."""
        if self.kind is SequenceKind.MOVED:
            return SequenceViolated(f"moved: sealed for partition {self.expected}, found in {self.found}")
        return SequenceViolated(
            f"{self.kind}: record {self.found} of lane {self.lane} under data key {self.data_key[:16]}…, "
            f"where {self.expected} was expected"
        )


class SequenceVerifier:
    """Verifies the records of any number of partitions. Used by one thread.

    Args:
        compacted: Whether the topics are compacted, or which of them: there gaps are no evidence. Default False.
        max_lanes: Data keys times lanes remembered; the least recently used goes first. Default 10,000, about 4 MB: a
            data key serves for minutes.

    A record whose offset was passed already is not looked at again; what was found at it is given again, marked known.
    So the loop may read again from an earlier offset. A partition that goes away must be forgotten.
    """

    def __init__(self, *, compacted: bool | Collection[str] = False, max_lanes: int = 10_000) -> None:
        self._compacted = compacted
        self._max_lanes = max_lanes
        self._lanes: OrderedDict[_LaneKey, _Lane] = OrderedDict()
        self._places: dict[tuple[str, int], _Place] = {}

    def check_records(
        self,
        topic: str,
        partition: int,
        offsets: Sequence[int],
        values: Sequence[bytes | None],
        headers: Sequence[Headers | None],
    ) -> list[SequenceFinding]:
        """Verify records as they stood on the topic; those without a number, such as plain tombstones, are passed over.

        Args:
            topic: The topic read.
            partition: The partition read.
            offsets: Ascending.
            values: The sealed values.
            headers: All headers of each record.
        """
        found = [
            (offset, *at)
            for offset, value, pairs in zip(offsets, values, headers, strict=True)
            if (at := numbered(value, pairs))
        ]
        return self.check_block(topic, partition, *zip(*found, strict=True)) if found else []

    def check_block(
        self, topic: str, partition: int, offsets: Sequence[int], headers: Sequence[bytes], values: Sequence[bytes]
    ) -> list[SequenceFinding]:
        """Verify a block of records of one partition.

        Args:
            topic: The topic read.
            partition: The partition read.
            offsets: Ascending; the next block goes on behind them, or begins again before them.
            headers: The envelope header of each record, which has opened.
            values: What begins with the record's nonce: the sealed value, or the proof of a tombstone.
        """
        place = self._places.setdefault((topic, partition), _Place())
        fresh = next((i for i, offset in enumerate(offsets) if offset >= place.next_offset), len(offsets))
        findings = [again for offset in offsets[:fresh] if (again := place.findings.get(offset))]
        while fresh < len(offsets):
            end = _end_of_run(headers, fresh)
            run = slice(fresh, end)
            findings += self._check_run(topic, partition, headers[fresh][_COMMITMENT], offsets[run], values[run])
            fresh = end
        if offsets:
            place.next_offset = max(place.next_offset, offsets[-1] + 1)
        for finding in findings:
            place.remember(finding)
        return findings

    def forget(self, topic: str, partition: int) -> None:
        """Forget a partition that was revoked or lost: another reader goes on, and what it reads is not seen here."""
        self._places.pop((topic, partition), None)
        for key in [key for key in self._lanes if key[:2] == (topic, partition)]:
            del self._lanes[key]

    def _check_run(
        self, topic: str, partition: int, data_key: bytes, offsets: Sequence[int], values: Sequence[bytes]
    ) -> Iterator[SequenceFinding]:
        """Verify records under one data key: at once where they are consecutive, else one by one."""
        nonces = [value[:NONCE_BYTES] for value in values]
        lane, first = _nonce.unpack(nonces[0])
        known = self._lanes.get((topic, partition, data_key, lane)) if lane == partition else None
        if known is not None and first == known.last + 1:
            count = len(nonces)
            if b"".join(nonces) == b"".join(map(_nonce.pack, repeat(lane), range(first, first + count))):
                known.last += count
                self._lanes.move_to_end((topic, partition, data_key, lane))
                return
        for offset, nonce in zip(offsets, nonces, strict=True):
            lane, number = _nonce.unpack(nonce)
            if lane > _MAX_LANE:
                continue
            if lane != partition:
                kind, expected, number = SequenceKind.MOVED, lane, partition
            else:
                track = self._lane((topic, partition, data_key, lane), number)
                expected = track.last + 1
                late = track.take(number)
                if late is None or (late is SequenceKind.GAP and self._is_compacted(topic)):
                    continue
                kind = late
            yield SequenceFinding(kind, topic, partition, offset, data_key.hex(), lane, expected, number)

    def _lane(self, key: _LaneKey, number: int) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(number)
            if len(self._lanes) > self._max_lanes:
                self._lanes.popitem(last=False)
        else:
            self._lanes.move_to_end(key)
        return lane

    def _is_compacted(self, topic: str) -> bool:
        return self._compacted if isinstance(self._compacted, bool) else topic in self._compacted


class _Lane:
    """What was seen of one data key and lane: all from ``floor`` to ``last`` but what is in ``gaps``."""

    __slots__ = ("floor", "gaps", "last")

    def __init__(self, first: int) -> None:
        self.floor = first
        self.last = first - 1
        self.gaps: list[range] = []

    def take(self, number: int) -> SequenceKind | None:
        expected = self.last + 1
        if number >= expected:
            self.last = number
            if number == expected:
                return None
            self._set_gaps(len(self.gaps), len(self.gaps), range(expected, number))
            return SequenceKind.GAP
        if number < self.floor:
            between = range(number + 1, self.floor)
            self.floor = number
            self._set_gaps(0, 0, between)
            return SequenceKind.DISORDER
        for index, gap in enumerate(self.gaps):
            if number in gap:
                self._set_gaps(index, index + 1, range(gap.start, number), range(number + 1, gap.stop))
                return SequenceKind.DISORDER
        return SequenceKind.REPEAT

    def _set_gaps(self, start: int, end: int, *gaps: range) -> None:
        self.gaps[start:end] = [gap for gap in gaps if gap]
        if len(self.gaps) > _MAX_GAPS:
            self.floor = self.gaps.pop(0).stop


class _Place:
    """How far a partition was verified, and what was found there, the latest first forgotten last."""

    __slots__ = ("findings", "next_offset")

    def __init__(self) -> None:
        self.next_offset = 0
        self.findings: dict[int, SequenceFinding] = {}

    def remember(self, finding: SequenceFinding) -> None:
        if not finding.known:
            self.findings[finding.offset] = replace(finding, known=True)
            if len(self.findings) > _MAX_REMEMBERED:
                del self.findings[next(iter(self.findings))]


def numbered(value: bytes | None, headers: Headers | None) -> tuple[bytes, bytes] | None:
    """Find in a record that opened its envelope header and what begins with its nonce; None where it has no number."""
    if value is not None and headers and len(headers) == 1 and headers[0][0] == HEADER_NAME:
        header = headers[0][1]
        return None if header is None else (header, value)
    ours = [data for name, data in headers or () if name == HEADER_NAME]
    header = ours[0] if ours else None
    if value is None:
        proofs = [data for name, data in headers or () if name == TOMBSTONE_HEADER_NAME]
        value = proofs[0] if proofs else None
    elif header is None and value.startswith(MAGIC):
        try:
            return split_frame(value)
        except EnvelopeError:
            return None
    return None if header is None or value is None else (header, value)


def tell(findings: Sequence[SequenceFinding], pipeline: str, observer: Observer) -> None:
    """Report findings that are new: one event for each kind, data key and lane, with the first one's coordinates."""
    fresh = [finding for finding in findings if not finding.known]
    by_kind: dict[tuple[object, ...], list[SequenceFinding]] = {}
    for finding in fresh:
        by_kind.setdefault((finding.kind, finding.topic, finding.partition, finding.data_key, finding.lane), []).append(
            finding
        )
    for same in by_kind.values():
        f = same[0]
        observer(
            SequenceFound(
                f.kind, pipeline, f.topic, f.partition, f.offset, f.data_key, f.lane, f.expected, f.found, len(same)
            )
        )


def _end_of_run(headers: Sequence[bytes], start: int) -> int:
    """Give the end of the run of equal headers that begins at ``start``."""
    first = headers[start]
    if start == 0 and headers.count(first) == len(headers):
        return len(headers)
    return next((i for i in range(start, len(headers)) if headers[i] != first), len(headers))
