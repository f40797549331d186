"""What was learnt of the cluster, as plain values. None always means: this login may not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Cluster", "GroupFacts", "LegFacts", "Route", "TopicSettings"]


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic as the cluster describes it to one login.

    Attributes:
        name: Its name.
        partitions: How many.
        replicas: Copies of its least copied partition.
        settings: Its configuration by Kafka's names, defaults included.
        operations: What this login may do with it, by Kafka's names such as ``READ``.
    """

    name: str
    partitions: int
    replicas: int = 1
    settings: Mapping[str, str] | None = None
    operations: frozenset[str] | None = None

    def number(self, setting: str) -> int | None:
        """Give a setting that is a whole number; None where it is not known."""
        text = (self.settings or {}).get(setting, "")
        try:
            return int(text)
        except ValueError:
            return None

    def text(self, setting: str) -> str | None:
        """Give a setting; None where it is not known."""
        return (self.settings or {}).get(setting)


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as one login sees it.

    Attributes:
        name: The bootstrap servers.
        brokers: How many answered for.
        partitions: Every topic that the login may see, and its number of partitions.
        broker_settings: The configuration of one broker.
        operations: What the login may do with the cluster.
    """

    name: str
    brokers: int
    partitions: Mapping[str, int]
    broker_settings: Mapping[str, str] | None = None
    operations: frozenset[str] | None = None

    @property
    def judges_nobody(self) -> bool:
        """Whether it is known that the cluster has no authorizer."""
        return (self.broker_settings or {}).get("authorizer.class.name") == ""

    def trusts(self, principal: str) -> bool:
        """Say whether a principal is known to be a super user, for whom every right is given."""
        return principal in (self.broker_settings or {}).get("super.users", "").split(";")


@dataclass(frozen=True, slots=True)
class LegFacts:
    """What one pipeline brings along, for the judgement of its topics.

    Attributes:
        name: The pipeline's.
        mode: ``encrypt``, ``decrypt`` or ``reencrypt``.
        growth: Bytes that a record grows by when it is sealed; 0 where it does not.
        max_message: The producer's message.max.bytes.
        compression: The producer's compression.type.
        transaction_timeout: In milliseconds; None where records go at least once.
        binds_key: Whether the record key is bound to the value.
        letters: The dead-letter topic; empty where there is none.
    """

    name: str
    mode: str
    growth: int
    max_message: int
    compression: str
    transaction_timeout: int | None
    binds_key: bool = True
    letters: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One way of records: from a topic, as the consumer sees it, to a topic, as the producer does."""

    source: TopicSettings
    target: TopicSettings


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A consumer group.

    Attributes:
        name: Its id.
        state: Kafka's word, such as ``STABLE``.
        members: How many.
        committed: Topic and partition to the committed offset.
        starts, ends: The same places to their first and next offsets.
        operations: What this login may do with it.
    """

    name: str
    state: str
    members: int
    committed: Mapping[tuple[str, int], int] = field(default_factory=dict)
    starts: Mapping[tuple[str, int], int] = field(default_factory=dict)
    ends: Mapping[tuple[str, int], int] = field(default_factory=dict)
    operations: frozenset[str] | None = None
