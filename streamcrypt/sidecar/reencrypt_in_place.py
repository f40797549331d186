"""Re-encryption onto the topic that is read: compacted, and its writers stopped.

Of each key the newest record is written once more, behind all others, and compaction removes the old one. Older records
are not written: one that came for a moment behind a newer one would let compaction drop the newer one.

That the writers have stopped is held to. The producer learns the offset of each of its records; behind them stands the
mark of its transaction, and so it knows where its next record will stand. Where it stands elsewhere, what lies between
is read: one record of anybody else, and the transaction is aborted. So no update of a writer is ever covered by an
older value.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from streamcrypt.clients.lone import without_membership
from streamcrypt.sidecar.failures import ConnectionLost, PipelineHalted, StopAsked, UnitFailed, from_kafka
from streamcrypt.sidecar.ledger import Place, Progress
from streamcrypt.sidecar.reencrypt import NotedTransactions, newest_offsets
from streamcrypt.sidecar.spans import SpanReader

__all__ = ["InPlaceTransactions"]

_MARKER = 1
_TIMEOUT = 10.0
_FLUSH = 1.0
# A transaction that was cut off is aborted within this time of our start.
_SETTLE = 15.0
_PAUSE = 0.2
_FOREIGN_REMEDY = (
    "Stop every writer of the topic and begin again: what was rewritten so far stays good, and the new run takes the "
    "newest record of each key, theirs too."
)


class InPlaceTransactions(NotedTransactions):
    """Transactions on the source itself, which notice a record of anybody else.

    Args:
        arguments: As for :class:`NotedTransactions`.
    """

    def __init__(self, *arguments: Any) -> None:
        run, consumer_config, pipeline, config, *rest = arguments
        super().__init__(run, consumer_config, pipeline, {**config, "delivery.report.only.error": False}, *rest)
        # Where our records of the open transaction stand: the first and last offset, and how many there are.
        self._own: dict[Place, tuple[int, int, int]] = {}
        # Where the mark of our last transaction is what comes next.
        self._marked: set[Place] = set()

    def start(self) -> None:
        """Take over, find the newest records, and see that nobody else has written since the run began.

        Raises:
            PipelineHalted: Somebody has.
            ConnectionLost: The cluster.
        """
        super().start()
        self.look()
        with closing(SpanReader(self._consumer_config, self._run.stop)) as reader:
            for place, span in self._run.spans.items():
                start = max(self._run.committed.get(place, 0), span.start)
                self._run.wanted[place] = newest_offsets(reader, place, start, span.end)
                if self._run.stop.is_set():
                    raise StopAsked

    def look(self) -> None:
        """See that nobody else has written; call it while no transaction of ours is open.

        Raises:
            PipelineHalted: Somebody has, or has a transaction open.
            ConnectionLost: The cluster.
        """
        with closing(_Ends(self._consumer_config)) as ends:
            deadline = time.monotonic() + _SETTLE
            for place, span in self._run.spans.items():
                while (found := ends.of(place))[0] != found[1]:
                    if time.monotonic() > deadline:
                        raise PipelineHalted(
                            f"{place[0]}[{place[1]}]: somebody has a transaction open on it", remedy=_FOREIGN_REMEDY
                        )
                    self._alive()
                    time.sleep(_PAUSE)
                if found[1] != span.ours:
                    self._hold_to(place, span.ours, found[1])
                    self._run.expect(place, found[1])

    def commit(self, consumer: Consumer, progress: Progress, records: int, seconds: float, *, wait: bool) -> bool:
        """See :class:`streamcrypt.sidecar.transactions.Transactions`; a transaction among others' records is none."""
        before = {place: self._run.spans[place].ours for place in self._run.spans}
        deadline = time.monotonic() + self._patience
        while len(self.producer) and time.monotonic() < deadline:
            self.producer.flush(_FLUSH)
            self._alive()
        self.raise_failure()
        if len(self.producer):
            raise ConnectionLost(f"pipeline {self._pipeline!r}: the brokers did not take its records in time")
        for place, (first, last, count) in self._own.items():
            if last - first + 1 != count:
                raise _foreign(place)
            if first != before[place] + (_MARKER if place in self._marked else 0):
                self._hold_to(place, before[place], first)
            # Not behind the mark: what stands before it may be anybody's.
            self._run.expect(place, last + 1)
        try:
            done = super().commit(consumer, progress, records, seconds, wait=wait)
        except BaseException:
            for place, ours in before.items():
                self._run.expect(place, ours)
            raise
        self._marked.update(self._own)
        self._own.clear()
        return done

    def give_up(self, failure: UnitFailed) -> UnitFailed:
        """Abort; what was written of it is nobody's."""
        explained = super().give_up(failure)
        self._own.clear()
        return explained

    def _hold_to(self, place: Place, start: int, end: int) -> None:
        """Raise where a committed record stands between two offsets; what is left of aborted transactions is none."""
        reading = SpanReader(self._consumer_config, threading.Event())
        with closing(_Ends(self._consumer_config)) as ends, closing(reading) as reader:
            if ends.of(place)[0] < end:
                raise _foreign(place)
            if any(True for _ in reader.read(*place, start, end)):
                raise _foreign(place)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            super()._on_delivery(error, message)
            return
        offset, place = message.offset() or 0, (str(message.topic()), message.partition() or 0)
        if place in self._run.spans:  # a dead letter is not
            first, _, count = self._own.get(place, (offset, offset, 0))
            self._own[place] = (first, offset, count + 1)


class _Ends:
    """Asks where a partition ends: behind the last record that is decided, and behind all."""

    def __init__(self, consumer_config: Mapping[str, Any]) -> None:
        config = without_membership(consumer_config)
        levels = ("read_committed", "read_uncommitted")
        self._consumers = [Consumer({**config, "isolation.level": level}) for level in levels]

    def of(self, place: Place) -> tuple[int, int]:
        """Give the last stable offset and the high watermark.

        Raises:
            ConnectionLost, PipelineHalted: The broker did not answer.
        """
        ends = []
        for consumer in self._consumers:
            try:
                found = consumer.get_watermark_offsets(TopicPartition(*place), timeout=_TIMEOUT)
            except KafkaException as error:
                raise from_kafka(error, f"ask where {place[0]}[{place[1]}] ends") from None
            if found is None:
                raise ConnectionLost(f"{place[0]}[{place[1]}]: no answer where it ends")
            ends.append(int(found[1]))
        return ends[0], ends[1]

    def close(self) -> None:
        """Close the consumers."""
        for consumer in self._consumers:
            consumer.close()


def _foreign(place: Place) -> PipelineHalted:
    return PipelineHalted(f"{place[0]}[{place[1]}]: somebody else writes to it", remedy=_FOREIGN_REMEDY)
