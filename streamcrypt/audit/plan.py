"""What there is to read: topics, their settings, and for each partition where it begins and ends now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec  # type: ignore[attr-defined]

from streamcrypt.audit.tally import Place
from streamcrypt.errors import StreamcryptError

__all__ = ["Plan", "TopicFacts", "ends_now", "make_plan", "starts_now"]

_TIMEOUT = 10.0
_INTERNAL = "__"
UNKNOWN = ""
# Without annotations in the library.
_SPEC: Any = OffsetSpec


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic as the cluster describes it.

    Attributes:
        topic: Its name.
        topic_id: Its id, which another topic of the same name does not have; empty where it could not be learnt.
        cleanup_policy: ``delete``, ``compact`` or both; empty where it could not be learnt.
    """

    topic: str
    topic_id: str = UNKNOWN
    cleanup_policy: str = UNKNOWN

    @property
    def compacted(self) -> bool:
        """Whether gaps in its sequences are no evidence: it keeps the last value of a key only, or may do so."""
        return not self.cleanup_policy or "compact" in self.cleanup_policy


@dataclass(slots=True)
class Plan:
    """What an audit reads.

    Attributes:
        topics: In order of name.
        places: Every partition of them, in order.
        unreadable: Topic or partition to why it cannot be read.
        cluster_id: The cluster's id; empty where it does not tell.
    """

    topics: dict[str, TopicFacts] = field(default_factory=dict)
    places: dict[tuple[str, int], Place] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    cluster_id: str = UNKNOWN


def make_plan(admin: AdminClient, topics: Sequence[str] | None) -> Plan:
    """Ask the cluster what there is.

    A partition ends behind its last committed record (the last stable offset): what a transaction holds that is
    still open or was aborted is no record yet or never was one.

    Args:
        admin: Asks; no topic is created by asking.
        topics: Their names; None for all that the login may see, without Kafka's own.

    Raises:
        KafkaException: The cluster does not answer.
        StreamcryptError: A topic that was named does not exist.
    """
    cluster = admin.list_topics(timeout=_TIMEOUT)
    plan, found = Plan(cluster_id=cluster.cluster_id or UNKNOWN), cluster.topics
    names = sorted(n for n in found if not n.startswith(_INTERNAL)) if topics is None else list(dict.fromkeys(topics))
    partitions: list[TopicPartition] = []
    for name in names:
        if name not in found:
            raise StreamcryptError(
                f"the topic {name!r} does not exist", remedy="Check its name, and that this login may describe it."
            )
        error = found[name].error
        if error is not None:
            plan.unreadable[name] = str(error.str())
            continue
        plan.topics[name] = TopicFacts(name)
        partitions += [TopicPartition(name, number) for number in sorted(found[name].partitions)]
    policies, ids = _policies(admin, list(plan.topics)), _topic_ids(admin, list(plan.topics))
    for name in plan.topics:
        plan.topics[name] = TopicFacts(name, ids.get(name, UNKNOWN), policies.get(name, UNKNOWN))
    _place(admin, plan, partitions)
    return plan


def _place(admin: AdminClient, plan: Plan, partitions: Sequence[TopicPartition]) -> None:
    # The high watermarks first: a stable offset taken later is below them only where a transaction is open.
    highs = _offsets(admin, partitions, _SPEC.latest(), plan.unreadable)
    ends = _offsets(admin, partitions, _SPEC.latest(), plan.unreadable, committed=True)
    lows = _offsets(admin, partitions, _SPEC.earliest(), plan.unreadable)
    for place in partitions:
        key = (place.topic, place.partition)
        if key in highs and key in ends and key in lows:
            low = lows[key]
            plan.places[key] = Place(*key, low, max(low, min(ends[key], highs[key])), highs[key])


def ends_now(admin: AdminClient, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Give the high watermark of each partition that answers."""
    return _offsets(admin, [TopicPartition(*place) for place in places], _SPEC.latest(), {})


def starts_now(admin: AdminClient, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Give the first offset that retention has left of each partition that answers."""
    return _offsets(admin, [TopicPartition(*place) for place in places], _SPEC.earliest(), {})


def _offsets(
    admin: AdminClient,
    partitions: Sequence[TopicPartition],
    which: Any,
    unreadable: dict[str, str],
    *,
    committed: bool = False,
) -> dict[tuple[str, int], int]:
    if not partitions:
        return {}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    asked = admin.list_offsets(dict.fromkeys(partitions, which), isolation_level=level, request_timeout=_TIMEOUT)
    found: dict[tuple[str, int], int] = {}
    for place, answer in asked.items():
        try:
            found[place.topic, place.partition] = answer.result(2 * _TIMEOUT).offset
        except KafkaException as error:
            unreadable[f"{place.topic}[{place.partition}]"] = str(error.args[0].str())
    return found


def _policies(admin: AdminClient, topics: Sequence[str]) -> dict[str, str]:
    """Give the cleanup policies that this login may learn."""
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    found: dict[str, str] = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=_TIMEOUT).items():
        settings = _result(answer)
        if settings is not None and "cleanup.policy" in settings:
            found[resource.name] = str(settings["cleanup.policy"].value)
    return found


def _topic_ids(admin: AdminClient, topics: Sequence[str]) -> dict[str, str]:
    if not topics:
        return {}
    asked: Mapping[str, Any] = admin.describe_topics(TopicCollection(list(topics)), request_timeout=_TIMEOUT)
    described = {topic: _result(answer) for topic, answer in asked.items()}
    return {topic: str(found.topic_id) for topic, found in described.items() if found is not None}


def _result(answer: Any) -> Any:
    try:
        return answer.result(2 * _TIMEOUT)
    except KafkaException:
        return None
