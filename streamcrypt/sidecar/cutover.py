"""Up to which offsets plaintext passes a decrypting pipeline: for the day on which a topic began to be encrypted.

Offsets decide, never timestamps, which are the producer's word. They are bound to the topic's id, since a topic that is
deleted and made anew counts from zero again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from streamcrypt.envelope.binding import Headers
from streamcrypt.envelope.framing import MAGIC
from streamcrypt.envelope.header import OUR_HEADERS
from streamcrypt.errors import ConfigError

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

__all__ = [
    "NO_TOPIC_ID",
    "Cutover",
    "TopicCutover",
    "TopicIdentity",
    "as_kafka_prints",
    "check_topics",
    "describe_topics",
    "is_bare",
]

NO_TOPIC_ID = "A" * 22
"""The id of all zeros, which clusters before Kafka 2.8 give for every topic."""

_URL_SAFE = str.maketrans("+/", "-_")
_TIMEOUT = 5.0  # seconds; a reachable cluster answers within one


@dataclass(frozen=True, slots=True)
class TopicCutover:
    """Where one topic begins to be encrypted.

    Attributes:
        topic_id: The topic's id, as Kafka's tools print it.
        offsets: Partition to the first offset at which every record must be sealed.
    """

    topic_id: str
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """What the cluster says of a topic: its id, and how many partitions it has."""

    topic_id: str
    partitions: int


class Cutover:
    """The policy: which records may pass without an envelope.

    Args:
        topics: Physical topic to its cut-over; what is not named must be sealed from the first record on.
    """

    def __init__(self, topics: Mapping[str, TopicCutover] = MappingProxyType({})) -> None:
        self.topics = MappingProxyType(dict(topics))

    def __bool__(self) -> bool:
        return bool(self.topics)

    def passes(self, topic: str, partition: int, offset: int) -> bool:
        """Say whether a record at this place may be without an envelope. Whether it is, :func:`is_bare` says."""
        known = self.topics.get(topic)
        return known is not None and offset < known.offsets.get(partition, 0)

    def admits(self, topic: str, partition: int, offset: int, value: bytes | None, headers: Headers | None) -> bool:
        """Say whether this record passes unchanged: it has no envelope, and stands where it needs none.

        A record that has an envelope is opened wherever it stands.
        """
        return self.passes(topic, partition, offset) and is_bare(value, headers)

    def check(self, cluster: Mapping[str, TopicIdentity]) -> None:
        """Hold the policy to the topics that are there.

        Args:
            cluster: The topics that exist, of those that are named here.

        Raises:
            ConfigError: A topic is missing, is not the one that the offsets were taken from, or has no such partition.
        """
        for topic, cutover in self.topics.items():
            found = cluster.get(topic)
            again = f"Take the offsets anew: streamcrypt cutover CONFIG {topic}."
            if found is None:
                raise ConfigError(f"pass_until names the topic {topic!r}, which does not exist", remedy=again)
            if found.topic_id != cutover.topic_id:
                raise ConfigError(
                    f"the topic {topic!r} was made anew since the offsets in pass_until were taken: its id is "
                    f"{found.topic_id}, not {cutover.topic_id}",
                    remedy=f"If all of its records are sealed, remove it from pass_until. {again}",
                )
            if (last := max(cutover.offsets, default=-1)) >= found.partitions:
                raise ConfigError(
                    f"pass_until names partition {last} of {topic!r}, which has {found.partitions}", remedy=again
                )


def is_bare(value: bytes | None, headers: Headers | None) -> bool:
    """Say whether a record has no envelope at all: no header of ours, whatever it holds, nor a self-contained value."""
    return (value is None or value[:4] != MAGIC) and not any(name in OUR_HEADERS for name, _ in headers or ())


def describe_topics(admin: AdminClient, topics: Iterable[str], timeout: float = _TIMEOUT) -> dict[str, TopicIdentity]:
    """Ask the cluster for ids and numbers of partitions; a topic that does not exist is left out.

    Args:
        admin: An admin client.
        topics: Names.
        timeout: Seconds.

    Raises:
        KafkaException: The cluster did not answer, or may not be asked about a topic (ACL ``Describe``).
    """
    # Late: the configuration reads the policy from here, and loads no Kafka client for it.
    from confluent_kafka import KafkaError, KafkaException, TopicCollection

    names = list(topics)
    if not names:
        return {}
    found: dict[str, TopicIdentity] = {}
    for name, asked in admin.describe_topics(TopicCollection(names), request_timeout=timeout).items():
        try:
            description = asked.result(timeout + 1.0)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise
        found[name] = TopicIdentity(as_kafka_prints(description.topic_id), len(description.partitions))
    return found


def as_kafka_prints(topic_id: object) -> str:
    """Write a topic id in the URL-safe base64 of Kafka's own tools; librdkafka writes the other alphabet."""
    return str(topic_id).translate(_URL_SAFE)


def check_topics(cutover: Cutover, admin: AdminClient, timeout: float = _TIMEOUT) -> None:
    """Hold a cut-over to the cluster, before the first record passes; see :meth:`Cutover.check`.

    Raises:
        ConfigError: As :meth:`Cutover.check`. KafkaException: As :func:`describe_topics`.
    """
    cutover.check(describe_topics(admin, cutover.topics, timeout))
