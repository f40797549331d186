"""The proof that a re-encryption is complete: source and target are opened, and compared record by record.

Each side has a cache of its own that shares nothing between headers, so that every new wrapped key is unwrapped by a
destination KEK and held to its commitment. Differences are told by their coordinates, never by content.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from streamcrypt.sidecar.failures import from_kafka
from streamcrypt.sidecar.ledger import Place
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.reencrypt import Span
from streamcrypt.sidecar.spans import SpanReader
from streamcrypt.sidecar.topics import ask
from streamcrypt.sidecar.verify_opening import Opened, Opener
from streamcrypt.sidecar.verify_ways import Counts, EachRecord, NewestPerKey, digest_of

__all__ = ["Difference", "Verification", "Verified"]

_NOTE_EVERY = 5.0
_Readers = tuple[SpanReader, SpanReader]


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same on both sides.

    Attributes:
        place: The partition, of the source.
        offset: On the source; -1 where only the target has it.
        target_offset: On the target; -1 where only the source has it.
        what: What differs: missing, extra, twice, does not open (with the error's class), or the fields that differ.
    """

    place: Place
    offset: int
    target_offset: int
    what: str


@dataclass(frozen=True, slots=True)
class Verified:
    """How far one partition was verified; kept as metadata of the verifying group's committed offset.

    Attributes:
        run: The run that it is about.
        target: Where to go on in the target.
        counts: What was found so far.
        done: Whether the partition is finished, and as it should be.
    """

    run: str
    target: int
    counts: Mapping[str, int] = field(default_factory=dict)
    done: bool = False

    def note(self) -> str:
        """Give it as metadata."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def read(cls, note: str | None) -> Verified | None:
        """Read metadata; None where it is none of ours."""
        try:
            return cls(**json.loads(note or ""))
        except (ValueError, TypeError):
            return None


class Verification:
    """Compares the spans of a run with what stands on the target. Goes on where an earlier one was interrupted.

    Args:
        target: The topic written.
        spans: Place in the source to its span.
        ends: Partition of the target to the offset behind its last record.
        consumer_config: librdkafka properties of the verifying group.
        openers: Opens the source, and the target, trusting the destination KEKs alone.
        same_bytes: Whether the sealed bytes must be the same too: after rewrapping.
        newest: Whether only the newest record of each key counts: on compacted topics.
        in_place: Whether the target is the source itself.
        bear_unreadable: Whether records that open on neither side are no failure: where the policy skips them.
        tell: Told of every difference.
        each: Called with the number of offsets of the source that were covered since the last call.
        stop: Set it to end after the batch under way.
        rate: The most records of the source a second; None: as many as go.
        noted: Whether to note how far it came. Default: yes, so that an interrupted one goes on.
    """

    def __init__(
        self,
        target: str,
        spans: Mapping[Place, Span],
        ends: Mapping[int, int],
        consumer_config: Mapping[str, Any],
        openers: tuple[Opener, Opener],
        *,
        same_bytes: bool,
        newest: bool,
        in_place: bool,
        bear_unreadable: bool,
        tell: Callable[[Difference], None],
        each: Callable[[int], None],
        stop: threading.Event,
        rate: float | None = None,
        noted: bool = True,
    ) -> None:
        self._target = target
        self._spans = spans
        self._ends = ends
        self._config = consumer_config
        self._openers = openers
        self._same_bytes = same_bytes
        self._newest = newest
        self._in_place = in_place
        self._bear = bear_unreadable
        self._tell = tell
        self._each = each
        self._stop = stop
        self._noted = noted
        self._pace = None if rate is None else Pace(rate)
        self._next_note = 0.0
        self.differences = 0
        self.counts = Counts()

    def run(self, earlier: Mapping[Place, tuple[int, Verified | None]]) -> bool:
        """Compare everything; say whether all is as it should be. False as well where ``stop`` was set.

        Args:
            earlier: What the verifying group has committed.

        Raises:
            KeyRefused, ConfigError: The key service.
            ConnectionLost, PipelineHalted: The cluster.
        """
        good = True
        # A reader of its own for each side: both are in the middle of a partition at once.
        with (
            closing(SpanReader(self._config, self._stop, self._pace)) as source,
            closing(SpanReader(self._config, self._stop)) as target,
        ):
            for place, span in self._spans.items():
                offset, verified = earlier.get(place, (0, None))
                if verified is None or verified.run != span.run:
                    offset, verified = span.start, Verified(span.run, span.target)
                good &= self._partition(place, span, (source, target), offset, verified)
                if self._stop.is_set():
                    return False
        return good

    def _partition(self, place: Place, span: Span, readers: _Readers, offset: int, verified: Verified) -> bool:
        counts = Counts(**verified.counts)
        before = self.differences
        if verified.done:
            self._each(span.end - span.start)
        elif self._newest:
            # What was collected is not kept: an interrupted partition begins anew.
            counts = Counts()
            whole = (self._source(place, span.start, span.end, readers), self._at_target(place, span, readers))
            NewestPerKey(counts, partial(self._differs, place), in_place=self._in_place).run(
                *whole, partial(self._keys_since, place, span.end, readers[0])
            )
        else:
            self._each(offset - span.start)
            self._each_record(place, span, readers, offset, verified.target, counts)
        self.counts.add(counts)
        good = self.differences == before and (self._bear or not counts.unreadable)
        if good and not self._stop.is_set() and not verified.done:
            self._note(readers, place, span.end, Verified(span.run, 0, asdict(counts), done=True))
        return good

    def _each_record(
        self, place: Place, span: Span, readers: _Readers, offset: int, target: int, counts: Counts
    ) -> None:
        way = EachRecord(counts, partial(self._differs, place), same_bytes=self._same_bytes)
        self._next_note = time.monotonic() + _NOTE_EVERY

        def passed(offset: int) -> None:
            if time.monotonic() < self._next_note:
                return
            self._next_note = time.monotonic() + _NOTE_EVERY
            at = way.next_target
            if at is not None and not self._stop.is_set():
                self._note(readers, place, offset + 1, Verified(span.run, at, asdict(counts)))

        way.run(
            self._source(place, offset, span.end, readers),
            self._at_target(place, span, readers, target),
            overtaken=offset < readers[0].low(*place),
            passed=passed,
        )

    def _source(self, place: Place, start: int, end: int, readers: _Readers) -> Iterator[Opened]:
        covered = start
        for batch in readers[0].read(*place, start, end):
            yield from self._openers[0].open(*place, batch)
            last = (batch[-1].offset() or 0) + 1
            self._each(last - covered)
            covered = last
        self._each(end - covered)

    def _keys_since(self, place: Place, start: int, reader: SpanReader) -> set[bytes | None]:
        batches = reader.read(*place, start, reader.bounds(*place)[1])
        return {digest_of(message.key()) for batch in batches for message in batch}

    def _at_target(self, place: Place, span: Span, readers: _Readers, start: int | None = None) -> Iterator[Opened]:
        partition = place[1]
        end = span.ours if self._in_place else self._ends.get(partition, 0)
        for batch in readers[1].read(self._target, partition, span.target if start is None else start, end):
            yield from self._openers[1].open(self._target, partition, batch)

    def _note(self, readers: _Readers, place: Place, offset: int, verified: Verified) -> None:
        if not self._noted:
            return
        where = [TopicPartition(*place, offset, verified.note())]
        try:
            ask(lambda: readers[0].consumer.commit(offsets=where, asynchronous=False))
        except KafkaException as error:
            raise from_kafka(error, f"note how far {place[0]}[{place[1]}] is verified") from None

    def _differs(self, place: Place, offset: int, target_offset: int, what: str) -> None:
        # What was cut off by the end is no difference.
        if not self._stop.is_set():
            self.differences += 1
            self._tell(Difference(place, offset, target_offset, what))
