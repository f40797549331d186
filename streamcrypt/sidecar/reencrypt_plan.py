"""What a run of re-encryption has to do: begin, go on after an interruption, or only verify.

The notes of earlier runs are read after the transactional id was taken over, so that no other process of the same job
writes any more.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer

from streamcrypt.audit.plan import Plan, make_plan
from streamcrypt.clients.lone import without_membership
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.sidecar.failures import PipelineHalted
from streamcrypt.sidecar.ledger import Place, Progress
from streamcrypt.sidecar.reencrypt import NotedTransactions, Run, Span, read_notes
from streamcrypt.sidecar.spans import SpanReader
from streamcrypt.sidecar.verify import Verified

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = ["Job", "Phase", "Planned", "decide", "look", "plan_run", "rewritten", "target_ends", "whole_topics"]

_SETTLE = 15.0
_PAUSE = 0.2
_TIMEOUT = 10.0


class Phase(Enum):
    """What is left to do."""

    COPY = auto()
    VERIFY = auto()
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Attributes:
        source: The topic to read.
        target: The topic to write; the same one in place.
        keks: The destination KEKs.
    """

    source: str
    target: str
    keks: tuple[str, ...]

    @property
    def in_place(self) -> bool:
        """Whether the topic is rewritten onto itself."""
        return self.source == self.target


@dataclass(frozen=True, slots=True)
class Planned:
    """A run, and what is left of it.

    Attributes:
        run: The run.
        phase: What is left.
        newest: Whether only the newest record of each key counts, since one of the topics is compacted.
    """

    run: Run
    phase: Phase
    newest: bool


def look(admin: AdminClient, job: Job) -> Plan:
    """Ask the cluster for both topics, and hold them to what the job needs.

    Raises:
        StreamcryptError: A topic is missing or cannot be read, or the target has too few partitions.
        ConfigError: A topic that is not compacted is to be rewritten in place.
        PipelineHalted: In place: somebody has a transaction open.
        KafkaException: The cluster does not answer.
    """
    deadline = time.monotonic() + _SETTLE
    while True:
        plan = make_plan(admin, list(dict.fromkeys((job.source, job.target))))
        if plan.unreadable:
            what, why = next(iter(plan.unreadable.items()))
            raise StreamcryptError(f"{what} cannot be read: {why}", remedy="See the broker's ACLs.")
        _check_partitions(plan, job)
        if not job.in_place:
            return plan
        if "compact" not in plan.topics[job.source].cleanup_policy:
            raise ConfigError(
                f"{job.source!r} is not compacted: rewritten in place, its records would stand there twice",
                remedy="Re-encrypt onto another topic.",
            )
        # What an interrupted run of ours had begun is aborted by now, or within a moment.
        unsettled = [place for place, found in plan.places.items() if found.end != found.high]
        if not unsettled:
            return plan
        if time.monotonic() > deadline:
            topic, partition = unsettled[0]
            raise PipelineHalted(
                f"{topic}[{partition}]: somebody has a transaction open on it", remedy="Stop every writer of the topic."
            )
        time.sleep(_PAUSE)


def target_ends(admin: AdminClient, job: Job) -> dict[int, int]:
    """Give the offset behind the last committed record of each partition of the target, once all is decided.

    A commit is answered before its marks are written to the partitions: until then its records are not visible.

    Raises:
        As :func:`look`.
    """
    deadline = time.monotonic() + _SETTLE
    while True:
        places = [found for place, found in look(admin, job).places.items() if place[0] == job.target]
        # Whoever else writes to the target may have a transaction open for ever.
        if all(found.end == found.high for found in places) or time.monotonic() > deadline:
            return {found.partition: found.end for found in places}
        time.sleep(_PAUSE)


def _check_partitions(plan: Plan, job: Job) -> None:
    counts = {topic: sum(place[0] == topic for place in plan.places) for topic in plan.topics}
    if counts[job.target] < counts[job.source]:
        raise StreamcryptError(
            f"{job.target!r} has {counts[job.target]} partitions, too few to keep those of {job.source!r}",
            remedy=f"Give it {counts[job.source]}.",
        )


def plan_run(
    job: Job,
    look: Callable[[], Plan],
    consumer_config: Mapping[str, Any],
    verifying_config: Mapping[str, Any],
    transactions: Callable[[Run], NotedTransactions],
    stop: threading.Event,
) -> Planned:
    """Find out what is to be done, and note it in the group where a run begins.

    Args:
        job: What is asked for.
        look: Looks at the cluster; called once no other process of this job writes any more.
        consumer_config: librdkafka properties of the copying group.
        verifying_config: librdkafka properties of the verifying group.
        transactions: Makes the job's transactions.
        stop: Ends the run.

    Raises:
        ConfigError: An earlier run went to other KEKs.
        ConnectionLost, PipelineHalted, StreamcryptError: The cluster.
    """
    unplanned = Run({}, {}, threading.Event())
    delivery = transactions(unplanned)
    try:
        delivery.start()
        plan = look()
        places = [place for place in plan.places if place[0] == job.source]
        notes = read_notes(consumer_config, places, Span.read)
        verified = read_notes(verifying_config, places, Verified.read)
        run, phase = decide(job, plan, notes, verified, stop)
        if job.in_place and phase is Phase.COPY and _others_wrote(run, plan, consumer_config):
            # The new run takes the newest record of each key, theirs too.
            run, phase = _begin(job, plan, {}, stop)
        newest = any("compact" in plan.topics[topic].cleanup_policy for topic in plan.topics)
        _commit(delivery, unplanned, run, notes, plan, consumer_config)
    finally:
        delivery.close()
    return Planned(run, phase, newest)


def _others_wrote(run: Run, plan: Plan, consumer_config: Mapping[str, Any]) -> bool:
    with closing(SpanReader(consumer_config, threading.Event())) as reader:
        spans = run.spans.items()
        return any(True for place, span in spans for _ in reader.read(*place, span.ours, plan.places[place].end))


def _commit(
    delivery: NotedTransactions,
    unplanned: Run,
    run: Run,
    notes: Mapping[Place, tuple[int, Span | None]],
    plan: Plan,
    consumer_config: Mapping[str, Any],
) -> None:
    news: Progress = {}
    for place, span in run.spans.items():
        # What retention took meanwhile is gone for every reader.
        at = max(run.committed[place], min(plan.places[place].start, span.end))
        if notes.get(place) != (at, span):
            run.committed[place] = news[place] = at
    if not news:
        return
    unplanned.spans = run.spans
    config = without_membership(consumer_config)
    with closing(Consumer(config)) as consumer:
        delivery.commit(consumer, news, 0, _TIMEOUT, wait=True)


def decide(
    job: Job,
    plan: Plan,
    notes: Mapping[Place, tuple[int, Span | None]],
    verified: Mapping[Place, tuple[int, Verified | None]],
    stop: threading.Event,
) -> tuple[Run, Phase]:
    """Decide from what earlier runs have noted.

    Args:
        job: What is asked for.
        plan: The topics as they are now.
        notes: What the copying group has committed.
        verified: What the verifying group has committed.
        stop: Ends the run.

    Raises:
        ConfigError: An earlier run went to other KEKs.
        StreamcryptError: The target of a first run is not empty, or the notes of a partition are lost.
    """
    topics, keks = _identity(job, plan)
    known = {place: (at, span) for place, (at, span) in notes.items() if span is not None}
    if not known or any(not span.identity.startswith(topics) for _, span in known.values()):
        _refuse_strangers(job, plan)
        return _begin(job, plan, {}, stop)
    if lost := sorted(set(notes) - set(known)):
        topic, partition = lost[0]
        raise StreamcryptError(
            f"{topic}[{partition}]: somebody else has set the job's offset, and what is done is not known any more",
            remedy="Delete the target topic, make it anew and begin again; in place, delete the job's consumer group.",
        )
    run = Run(
        {place: span for place, (_, span) in known.items()}, {place: at for place, (at, _) in known.items()}, stop
    )
    if not job.in_place and any(not span.identity.endswith(keks) for span in run.spans.values()):
        raise ConfigError(
            f"an earlier run from {job.source!r} to {job.target!r} went to other KEKs, and its copies stay under them",
            remedy=f"Re-encrypt onto another topic, or delete {job.target!r}, make it anew and begin again.",
        )
    # A run that had nothing to do was never verified, and needs not be.
    if run.is_complete and (not run.total or _is_verified(run, verified)):
        return _begin(job, plan, {} if job.in_place else run.committed, stop)
    if any(not span.identity.endswith(keks) for span in run.spans.values()):
        return _begin(job, plan, {}, stop)
    return run, Phase.VERIFY if run.is_complete else Phase.COPY


def _refuse_strangers(job: Job, plan: Plan) -> None:
    """A first run knows nothing of what stands on the target: it may be a copy whose notes the brokers forgot."""
    for (topic, partition), found in plan.places.items():
        if topic == job.target and not job.in_place and found.end > found.start:
            raise StreamcryptError(
                f"{topic}[{partition}] holds records already, and no earlier run of this job is known",
                remedy="Name a target without records: delete this one and make it anew, or make another.",
            )


def _begin(job: Job, plan: Plan, behind: Progress, stop: threading.Event) -> tuple[Run, Phase]:
    run, identity = secrets.token_hex(8), "/".join(_identity(job, plan))
    spans: dict[Place, Span] = {}
    for place, found in plan.places.items():
        if place[0] != job.source:
            continue
        start = min(max(behind.get(place, 0), found.start), found.end)
        target = plan.places[job.target, place[1]].end
        spans[place] = Span(run, identity, start, found.end, target, found.end if job.in_place else 0)
    begun = Run(spans, {place: span.start for place, span in spans.items()}, stop)
    return begun, Phase.COPY if begun.total else Phase.NOTHING


def _identity(job: Job, plan: Plan) -> tuple[str, str]:
    ids = [plan.topics[topic].topic_id or topic for topic in (job.source, job.target)]
    parts = (ids, sorted(job.keks))
    topics, keks = (sha256(repr(part).encode()).hexdigest()[:16] for part in parts)
    return topics, keks


def _is_verified(run: Run, verified: Mapping[Place, tuple[int, Verified | None]]) -> bool:
    found = {place: note for place, (_, note) in verified.items()}
    notes = [(found.get(place), span) for place, span in run.spans.items()]
    return all(note is not None and note.done and note.run == span.run for note, span in notes)


def rewritten(job: Job, plan: Plan, consumer_config: Mapping[str, Any], stop: threading.Event) -> Planned:
    """Plan to verify once more what was rewritten in place.

    Raises:
        StreamcryptError: Nothing was, or not all of it.
        ConnectionLost, PipelineHalted: The cluster.
    """
    notes = read_notes(consumer_config, [place for place in plan.places if place[0] == job.source], Span.read)
    known = {place: (at, span) for place, (at, span) in notes.items() if span is not None}
    spans = {place: span for place, (_, span) in known.items()}
    run = Run(spans, {place: at for place, (at, _) in known.items()}, stop)
    if not spans or not run.is_complete:
        raise StreamcryptError(f"{job.source!r} was not rewritten in place, or not to the end")
    return Planned(run, Phase.VERIFY, newest=True)


def whole_topics(job: Job, plan: Plan, stop: threading.Event) -> Planned:
    """Plan to verify both topics as they are now, whoever has copied them."""
    run, identity = secrets.token_hex(8), "/".join(_identity(job, plan))
    spans = {
        place: Span(run, identity, found.start, found.end, plan.places[job.target, place[1]].start)
        for place, found in plan.places.items()
        if place[0] == job.source
    }
    newest = any("compact" in facts.cleanup_policy for facts in plan.topics.values())
    return Planned(Run(spans, {place: span.end for place, span in spans.items()}, stop), Phase.VERIFY, newest)
