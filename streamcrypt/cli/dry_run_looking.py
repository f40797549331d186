"""One pipeline without its loop: what it would do to its next records, by the loop's own routes, transform and policy.

Records are really sealed and opened, and thrown away. Nothing is produced or committed, and no group is joined.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, TopicPartition

from streamcrypt.audit.tally import Place
from streamcrypt.cli.cat_envelope import EnvelopeFacts, facts_of
from streamcrypt.cli.cat_reading import Stretch, StretchReader
from streamcrypt.clients.headers import headers_of
from streamcrypt.encryptor import HeaderList
from streamcrypt.errors import EnvelopeError, KeyServiceError, KeyUnavailable, RecordTooLarge, StreamcryptError
from streamcrypt.events import ignore_events
from streamcrypt.sidecar.failures import Verdict, from_kafka, verdict
from streamcrypt.sidecar.safeguards import Safeguards
from streamcrypt.sidecar.spec import OnFailure, PipelineSpec
from streamcrypt.sidecar.topics import Routes, begins_at_latest, start_where_uncommitted
from streamcrypt.sidecar.transform import AS_IT_IS, Transform

__all__ = ["Foreseen", "Outcome", "Rehearsal", "Rehearsed"]

# As the loop does for its first key: a cold key service takes longer than a record waits.
_PATIENCE = 5.0
_AGAIN = 0.2
_T = TypeVar("_T")


class Outcome(StrEnum):
    """What would become of a record."""

    ARRIVE = "pass"
    """It goes to its target."""
    ARRIVE_AS_IT_IS = "pass_as_it_is"
    """It goes there unchanged: it has no envelope, and ``pass_until`` lets it through."""
    WAIT = "wait"
    """Its partition waits, others go on."""
    DEAD_LETTER = "dead_letter"
    SKIP = "skip"
    HALT = "halt"
    """The pipeline ends here; what follows would not be read."""

    @property
    def passes(self) -> bool:
        """Whether the record arrives."""
        return self in {Outcome.ARRIVE, Outcome.ARRIVE_AS_IT_IS}


_OUTCOMES = {
    Verdict.WAIT: Outcome.WAIT,
    Verdict.DEAD_LETTER: Outcome.DEAD_LETTER,
    Verdict.SKIP: Outcome.SKIP,
    Verdict.HALT: Outcome.HALT,
}


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What would become of one record. No content.

    Attributes:
        topic, partition, offset: Where it stands.
        outcome: What would become of it.
        target: The topic that it would go to: its target, or that of dead letters; empty where it would not go.
        target_partition: The partition there; None where the key decides.
        bytes_in, bytes_out: Size of the value before and after; None for a null value, or where there is none after.
        envelope: What the envelope says that it has when it arrives, or that it had when it was opened.
        failure: Why it would not pass.
    """

    topic: str
    partition: int
    offset: int
    outcome: Outcome
    target: str = ""
    target_partition: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    envelope: EnvelopeFacts | None = None
    failure: StreamcryptError | None = None


@dataclass(slots=True)
class Rehearsed:
    """What would become of a pipeline.

    Attributes:
        name: The pipeline.
        mode: What it does.
        records: Of the first ones, in the order in which they came.
        problem: Why it would not start, or could not be looked at; None where it would.
    """

    name: str
    mode: str
    records: list[Foreseen] = field(default_factory=list)
    problem: StreamcryptError | None = None

    @property
    def passes(self) -> bool:
        """Whether it would start, and every record would pass."""
        return self.problem is None and all(record.outcome.passes for record in self.records)


class Rehearsal:
    """Looks at what one pipeline would do.

    Args:
        spec: The pipeline.
        transform: Its own; its owner closes it.
        safeguards: Its own.
        routes: The cluster as its producer sees it.
        consumer: Of the pipeline's group, which it does not join; its owner closes it.
        places: Partition to where it begins and ends now.
        max_record: Bytes above which the producer would refuse a record.
        stop: Set it to end early.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        transform: Transform,
        safeguards: Safeguards,
        routes: Routes,
        consumer: Consumer,
        places: Sequence[Place],
        max_record: int,
        stop: threading.Event,
    ) -> None:
        self._spec = spec
        self._transform = transform
        self._safeguards = safeguards
        self._routes = routes
        self._consumer = consumer
        self._places = places
        self._max_record = max_record
        self._stop = stop
        self._waiting: dict[tuple[str, int], int] = {}
        self._patient_until: float | None = None

    def look(self, most: int) -> list[Foreseen]:
        """Look at the next records, at most so many, from where the group would go on.

        Raises:
            StreamcryptError: The pipeline would not start.
            KafkaException: The cluster does not answer.
        """
        self._routes.check()
        if self._routes.sources:
            target = self._spec.target_of(self._routes.sources[0])
            self._patiently(lambda: self._transform.ready(target))
        self._safeguards.begin(self._spec.name, self._routes.sources, ignore_events)
        found: list[Foreseen] = []
        for batch in StretchReader(self._consumer, self._stop).read(self._stretches()):
            for message in batch:
                found.append(self._foresee(message))
                if len(found) == most or found[-1].outcome is Outcome.HALT:
                    return found
        return found

    def _stretches(self) -> list[Stretch]:
        partitions = [TopicPartition(place.topic, place.partition) for place in self._places]
        if not partitions or begins_at_latest(self._spec, self._consumer, partitions):
            return []
        starts = {(p.topic, p.partition): p.offset for p in start_where_uncommitted(self._consumer, partitions)}
        stretches = []
        for place in self._places:
            start = starts[place.topic, place.partition]
            if start < 0:
                start = place.start  # the place of a group without a commit
            elif not place.start <= start <= place.high:
                gone = KafkaError(KafkaError._AUTO_OFFSET_RESET, f"offset {start} is not there")  # noqa: SLF001
                raise from_kafka(gone, f"pipeline {self._spec.name!r}: read {place.name}")
            stretches.append(Stretch(place.topic, place.partition, start, place.end))
        return stretches

    def _foresee(self, message: Any) -> Foreseen:
        place = (message.topic(), message.partition())
        at = (*place, message.offset())
        size = _size(message.value())
        if place in self._waiting:
            behind = KeyUnavailable(f"it stands behind offset {self._waiting[place]}, which waits", remedy="")
            return Foreseen(*at, Outcome.WAIT, bytes_in=size, failure=behind)
        try:
            return self._passed(message)
        except StreamcryptError as error:
            outcome, target, failure = self._judged(message, error)
        if outcome is Outcome.WAIT:
            self._waiting[place] = message.offset()
        return Foreseen(*at, outcome, target, None, size, None, _claims(message), failure)

    def _passed(self, message: Any) -> Foreseen:
        topic, partition = place = (message.topic(), message.partition())
        value, key, headers = message.value(), message.key(), headers_of(message)
        target = self._routes.target_of(topic, partition)
        lane = partition if self._spec.keep_partition else None
        bare = bool(self._safeguards.bare_ahead(*place, [message]))
        work = AS_IT_IS if bare else self._transform.work(*place, target, lane)
        sent, pairs = self._patiently(lambda: work.one(value, key, headers))
        if not bare and self._safeguards.evidence is not None:
            violated = self._safeguards.evidence.look(*place, [message], [value], [headers])
            if violated is not None:
                raise violated
        if _record_size(sent, key, pairs) > self._max_record:
            raise RecordTooLarge("the record is over the producer's message.max.bytes")
        outcome = Outcome.ARRIVE_AS_IT_IS if bare else Outcome.ARRIVE
        envelope = facts_of(sent, pairs) or facts_of(value, headers)
        sizes = (_size(value), _size(sent))
        return Foreseen(*place, message.offset(), outcome, target, lane, *sizes, envelope)

    def _judged(self, message: Any, error: StreamcryptError) -> tuple[Outcome, str, StreamcryptError]:
        """Say what the failure policy does about a record: outcome, topic of its dead letter, and why."""
        decision = verdict(error, self._spec.on_failure)
        letters = self._safeguards.letters
        if decision is not Verdict.DEAD_LETTER or letters is None:
            return _OUTCOMES[decision], "", error
        record = (message.value(), message.key(), headers_of(message))
        place = (message.topic(), message.partition())
        try:
            self._patiently(lambda: letters.letter(place, message.offset(), record, 0, error))
        except KeyServiceError as away:
            return Outcome.WAIT, "", away
        except StreamcryptError as cause:
            # No policy is left for a record whose letter cannot be written.
            return _OUTCOMES[verdict(cause, OnFailure.HALT)], "", cause
        return Outcome.DEAD_LETTER, letters.topic, error

    def _patiently(self, work: Callable[[], _T]) -> _T:
        """Do something again while the key service is not ready, for 5 s in all."""
        while True:
            try:
                return work()
            except KeyUnavailable:
                if self._patient_until is None:
                    self._patient_until = time.monotonic() + _PATIENCE
                if time.monotonic() > self._patient_until or self._stop.wait(_AGAIN):
                    raise


def _size(value: bytes | None) -> int | None:
    return None if value is None else len(value)


def _record_size(value: bytes | None, key: bytes | None, headers: HeaderList | None) -> int:
    return sum(len(part or b"") for part in (value, key)) + sum(len(n) + len(v or b"") for n, v in headers or ())


def _claims(message: Any) -> EnvelopeFacts | None:
    try:
        return facts_of(message.value(), headers_of(message))
    except EnvelopeError:
        return None
