"""Re-encryption as a job: a pipeline that ends where its source ended when the job began, and that survives its end.

What has to survive stands in the metadata of the group's committed offsets, written in the same transactions as the
records: where each partition began and ends, and for a topic that is rewritten in place up to where it is ours.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from streamcrypt.clients.lone import without_membership
from streamcrypt.events import Observer
from streamcrypt.sidecar.delivery import Delivery
from streamcrypt.sidecar.failures import PipelineHalted, from_kafka
from streamcrypt.sidecar.ledger import Place, Progress
from streamcrypt.sidecar.loop import Pipeline
from streamcrypt.sidecar.membership import Membership
from streamcrypt.sidecar.pacing import Pace
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spans import SpanReader
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.topics import ask
from streamcrypt.sidecar.transactions import Transactions
from streamcrypt.sidecar.transform import Transform

__all__ = ["BoundedPipeline", "NotedTransactions", "Run", "Span", "newest_offsets", "read_notes"]

_VERSION = 1
_TIMEOUT = 10.0
_Note = TypeVar("_Note")


@dataclass(frozen=True, slots=True)
class Span:
    """What a run does of one partition.

    Attributes:
        run: The run's id.
        identity: The two topics and the KEKs it goes to, as a digest.
        start: The first offset of the source.
        end: The offset behind its last.
        target: Where the target ended when the run began.
        ours: In place: where the next record or mark of this job is expected, unless others write.
    """

    run: str
    identity: str
    start: int
    end: int
    target: int
    ours: int = 0

    def note(self) -> str:
        """Give the metadata for a committed offset; a broker takes 4 KiB."""
        return json.dumps({"v": _VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def read(cls, note: str | None) -> Span | None:
        """Read metadata; None where it is none of ours."""
        try:
            fields = json.loads(note or "")
            if fields.pop("v") != _VERSION:
                return None
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class Run:
    """One run over the partitions of a source; shared by the clients that a restart replaces.

    Args:
        spans: Place in the source to its span.
        committed: Where each stands.
        stop: Set by the run where every partition has come to its end, and by others to end it before.

    Attributes:
        wanted: Place to the offsets that are to be passed on; a place that is missing passes everything.
    """

    def __init__(self, spans: Mapping[Place, Span], committed: Progress, stop: threading.Event) -> None:
        self.spans = dict(spans)
        self.committed = dict(committed)
        self.stop = stop
        self.wanted: dict[Place, frozenset[int]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether everything up to the ends is committed."""
        return all(self.committed.get(place, 0) >= span.end for place, span in self.spans.items())

    @property
    def total(self) -> int:
        """How many offsets the spans cover."""
        return sum(span.end - span.start for span in self.spans.values())

    @property
    def done(self) -> int:
        """How many of them are committed."""
        spans = self.spans.items()
        return sum(max(0, min(self.committed.get(place, 0), span.end) - span.start) for place, span in spans)

    def reached(self, news: Progress) -> None:
        """Note what was committed, and end where that was all."""
        self.committed.update(news)
        if self.is_complete:
            self.stop.set()

    def note(self, place: Place) -> str:
        """Give the metadata to commit with an offset of a partition."""
        return self.spans[place].note()

    def reload(self, consumer_config: Mapping[str, Any]) -> None:
        """Learn again where the run stands: the outcome of an earlier client's last commit may not be known.

        Raises:
            ConnectionLost, PipelineHalted: The cluster.
            PipelineHalted: Another process has begun another run meanwhile.
        """
        for place, (offset, span) in read_notes(consumer_config, list(self.spans), Span.read).items():
            if span is None or span.run != self.spans[place].run:
                # Going on would set the other run back, and copy again what it has copied.
                raise PipelineHalted(
                    f"{place[0]}[{place[1]}]: another process of this job has begun another run, or set its offset",
                    remedy="Let one process do the job, and start it again.",
                )
            self.committed[place], self.spans[place] = offset, span
        if self.spans and self.is_complete:
            # The commit whose outcome was not known was the last one.
            self.stop.set()

    def expect(self, place: Place, ours: int) -> None:
        """Note where the next record of this job is expected."""
        self.spans[place] = replace(self.spans[place], ours=ours)


def read_notes(
    consumer_config: Mapping[str, Any], places: Sequence[Place], read: Callable[[str | None], _Note]
) -> dict[Place, tuple[int, _Note]]:
    """Read what a group has committed: the offset, and what its metadata say.

    Raises:
        ConnectionLost, PipelineHalted: The cluster.
    """
    if not places:
        return {}
    config = without_membership(consumer_config)
    doing = f"read the offsets of group {config['group.id']!r}"
    consumer = Consumer(config)
    try:
        found = ask(lambda: consumer.committed([TopicPartition(*place) for place in places], timeout=_TIMEOUT))
    except KafkaException as error:
        raise from_kafka(error, doing) from None
    finally:
        consumer.close()
    for place in found:
        if place.error is not None:
            raise from_kafka(place.error, doing)
    return {(p.topic, p.partition): (p.offset, read(p.metadata)) for p in found if p.offset >= 0}


def newest_offsets(reader: SpanReader, place: Place, start: int, end: int) -> frozenset[int]:
    """Give the offset of the newest record of each key in a span.

    It takes some 150 bytes of memory for each distinct key.
    """
    newest: dict[bytes | None, int] = {}
    for batch in reader.read(*place, start, end):
        for message in batch:
            key = message.key()
            newest[None if key is None else blake2b(key, digest_size=16).digest()] = message.offset() or 0
    return frozenset(newest.values())


class NotedTransactions(Transactions):
    """Transactions that write a run's notes with its offsets, and tell the run how far they came.

    Args:
        run: The run.
        consumer_config: librdkafka properties of the run's group.
        arguments: As for :class:`streamcrypt.sidecar.transactions.Transactions`.
    """

    def __init__(self, run: Run, consumer_config: Mapping[str, Any], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._run = run
        self._consumer_config = consumer_config

    def start(self) -> None:
        """Take over the transactional id, then learn where the run stands."""
        super().start()
        self._run.reload(self._consumer_config)

    def _offset(self, place: Place, offset: int) -> TopicPartition:
        return TopicPartition(*place, offset, self._run.note(place))

    def _note_committed(self, news: Progress, records: int, started: float, opened: float = 0.0) -> None:
        super()._note_committed(news, records, started, opened)
        self._run.reached(news)


class _BoundedMembership(Membership):
    """Fetches no record behind the end of its partition, nor one that is not wanted."""

    def __init__(self, run: Run, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._run = run
        self._ended: set[Place] = set()

    def fetch(self, seconds: float, arrived: Any) -> Sequence[Message]:
        """See :class:`Membership`."""
        messages = super().fetch(seconds, arrived)
        if not messages:
            return messages
        ends = {place: span.end for place, span in self._run.spans.items()}
        kept, beyond = [], set()
        wanted = self._run.wanted
        for message in messages:
            place = (str(message.topic()), int(message.partition() or 0))
            offset = message.offset() or 0
            if offset >= ends.get(place, 0):
                beyond.add(place)
            elif place not in wanted or offset in wanted[place]:
                kept.append(message)
        for place in beyond - self._ended:
            self.pause(place)
        self._ended |= beyond
        return kept

    def positions(self) -> Progress:
        """See :class:`Membership`: no further than the ends."""
        spans = self._run.spans
        return {p: min(offset, spans[p].end) for p, offset in super().positions().items() if p in spans}

    def seek(self, progress: Progress) -> None:
        """See :class:`Membership`."""
        super().seek(progress)
        self._again(progress)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        super()._on_assign(consumer, partitions)
        self._again([(p.topic, p.partition) for p in partitions])

    def _again(self, places: Any) -> None:
        for place in self._ended & set(places):
            # A pause outlives the assignment.
            self.resume(place)
            self._ended.discard(place)


class BoundedPipeline(Pipeline):
    """A pipeline that ends by itself: see :class:`Run`.

    Args:
        run: What to do.
        delivery: Makes the transactions, from the arguments of :class:`Transactions`.
        arguments: As for :class:`streamcrypt.sidecar.loop.Pipeline`.
    """

    def __init__(
        self,
        run: Run,
        delivery: type[NotedTransactions],
        spec: PipelineSpec,
        consumer_config: Mapping[str, Any],
        producer_config: Mapping[str, Any],
        transform: Transform,
        observer: Observer,
        safeguards: Safeguards | None = None,
    ) -> None:
        self._run = run
        self._kind = delivery
        self._group_config = consumer_config
        super().__init__(spec, consumer_config, producer_config, transform, observer, safeguards)

    def _make_delivery(self, config: Mapping[str, Any]) -> Delivery:
        clients = (self._spec.name, config, self._observer, self._while_full, self._turn)
        return self._kind(self._run, self._group_config, *clients)

    def _make_member(self, config: Mapping[str, Any]) -> Membership:
        pace = None if self._spec.rate is None else Pace(self._spec.rate)
        clients = (self._spec.name, config, self._delivery.on_commit, self._observer, self, pace)
        return _BoundedMembership(self._run, *clients)
