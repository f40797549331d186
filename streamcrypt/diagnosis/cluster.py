"""Asks the cluster, as one login. No topic is created by asking, no group is joined, nothing is written.

Source: KIP-430 (authorized operations); the protocol's AclOperation and ResourceType.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the stubs forget some
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from streamcrypt.audit.plan import ends_now, starts_now
from streamcrypt.diagnosis.access import Grant, TransactionalGrants
from streamcrypt.diagnosis.facts import Cluster, GroupFacts, TopicSettings

__all__ = ["BROKER_TIMEOUT", "ClusterProbe", "Unreachable", "list_partitions"]

BROKER_TIMEOUT = 5.0  # seconds; a reachable cluster answers within one
_ASK_AGAIN = 0.2
# A coordinator that has just moved or begun, as on a young cluster.
_ON_ITS_WAY = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
# Without annotations in the library.
_ACL: Any = AclBindingFilter


class Unreachable(Exception):
    """No broker answered. The text is librdkafka's, of what went wrong underneath where it said so."""


def list_partitions(config: Mapping[str, Any], side: str) -> Mapping[str, int]:
    """List the topics as a pipeline's consumer or producer sees them, with the number of their partitions.

    Args:
        config: Its librdkafka properties.
        side: ``consumer`` or ``producer``.

    Raises:
        Unreachable: No broker answered.
        KafkaException: librdkafka refuses a property.
    """
    troubles: list[str] = []
    callbacks = {"error_cb": lambda error: troubles.append(str(error.str()))}
    client: Consumer | Producer
    client = Consumer({**config, **callbacks}) if side == "consumer" else Producer({**config, **callbacks})
    try:
        listing = client.list_topics(timeout=BROKER_TIMEOUT)
    except KafkaException as error:
        client.poll(0)  # hands over what went wrong underneath
        raise Unreachable(troubles[0] if troubles else str(error.args[0].str())) from None
    finally:
        if isinstance(client, Consumer):
            client.close()
    return {name: len(topic.partitions) for name, topic in listing.topics.items() if topic.error is None}


class ClusterProbe:
    """Asks through an admin client.

    Args:
        admin: The client; it logs in as the consumer or the producer of a pipeline does.
    """

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin

    def cluster(self, name: str, partitions: Mapping[str, int]) -> Cluster:
        """Describe the brokers.

        Args:
            name: The bootstrap servers.
            partitions: The topics that were listed.
        """
        found = _answer(
            self._admin.describe_cluster(include_authorized_operations=True, request_timeout=BROKER_TIMEOUT)
        )
        nodes = list(found.nodes) if found is not None else []
        settings = None
        if nodes:
            resource = ConfigResource(ConfigResource.Type.BROKER, str(nodes[0].id))
            settings = self._settings([resource]).get(resource.name)
        operations = _operations(found.authorized_operations) if found is not None else None
        return Cluster(name, len(nodes), partitions, settings, operations)

    def topics(self, names: Iterable[str]) -> dict[str, TopicSettings]:
        """Describe topics; one that does not exist, or may not be seen, is left out."""
        wanted = sorted(set(names))
        if not wanted:
            return {}
        settings = self._settings([ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted])
        described: Any = self._admin.describe_topics(
            TopicCollection(wanted), include_authorized_operations=True, request_timeout=BROKER_TIMEOUT
        )
        found = {}
        for name, asked in described.items():
            topic = _answer(asked)
            if topic is not None:
                copies = min((len(p.replicas) for p in topic.partitions), default=1)
                operations = _operations(topic.authorized_operations)
                found[name] = TopicSettings(name, len(topic.partitions), copies, settings.get(name), operations)
        return found

    def group(self, name: str, places: Sequence[tuple[str, int]]) -> GroupFacts | None:
        """Describe a consumer group; None where this login may not.

        Args:
            name: Its id.
            places: The partitions that its pipeline reads.
        """
        try:
            found = self._described_group(name)
        except KafkaException as error:
            # Since Kafka 4.0 a group that was never used is an error, not a dead group.
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                return None
            return GroupFacts(name, "DEAD", 0)
        committed = self._committed(name, places)
        with_offsets = sorted(committed)
        return GroupFacts(
            name,
            str(found.state.name),
            len(found.members),
            committed,
            starts_now(self._admin, with_offsets),
            ends_now(self._admin, with_offsets),
            _operations(found.authorized_operations),
        )

    def _described_group(self, name: str) -> Any:
        deadline = time.monotonic() + BROKER_TIMEOUT
        while True:
            asked: Any = self._admin.describe_consumer_groups(
                [name], include_authorized_operations=True, request_timeout=BROKER_TIMEOUT
            )
            try:
                return asked[name].result(2 * BROKER_TIMEOUT)
            except KafkaException as error:
                if error.args[0].code() not in _ON_ITS_WAY or time.monotonic() > deadline:
                    raise
                time.sleep(_ASK_AGAIN)

    def _committed(self, group: str, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        asked: Any = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group)], request_timeout=BROKER_TIMEOUT
        )
        found = _answer(asked[group])
        wanted = set(places)
        return {
            (p.topic, p.partition): p.offset
            for p in (found.topic_partitions if found is not None else ())
            if p.offset >= 0 and (p.topic, p.partition) in wanted
        }

    def transactional_id(self, name: str, principal: str, cluster: Cluster) -> TransactionalGrants:
        """List the ACLs that match a transactional id.

        Args:
            name: The id.
            principal: Who this login is, as far as its settings tell.
            cluster: As this login sees it. It says whether ACLs count and may be listed: librdkafka gives an empty
                list where listing is refused.
        """
        if cluster.judges_nobody:
            return TransactionalGrants(name, None, principal, "the cluster judges nobody")
        if principal and cluster.trusts(principal):
            return TransactionalGrants(name, None, principal, f"{principal} is a super user")
        if "DESCRIBE" not in (cluster.operations or ()):
            return TransactionalGrants(name, None, principal)
        wanted = _ACL(
            ResourceType.TRANSACTIONAL_ID,
            name,
            ResourcePatternType.MATCH,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        found = _answer(self._admin.describe_acls(wanted, request_timeout=BROKER_TIMEOUT))
        if found is None:
            return TransactionalGrants(name, None, principal)
        allow = AclPermissionType.ALLOW
        grants = [Grant(str(a.principal), str(a.operation.name), a.permission_type == allow) for a in found]
        return TransactionalGrants(name, grants, principal)

    def _settings(self, resources: Sequence[ConfigResource]) -> dict[str, Mapping[str, str]]:
        """Give the configurations that this login may read; values that are secret are left out."""
        found: dict[str, Mapping[str, str]] = {}
        for resource, asked in self._admin.describe_configs(list(resources), request_timeout=BROKER_TIMEOUT).items():
            entries = _answer(asked)
            if entries is not None:
                found[resource.name] = {
                    name: str(entry.value) for name, entry in entries.items() if entry.value is not None
                }
        return found


def _operations(found: Any) -> frozenset[str] | None:
    return None if found is None else frozenset(operation.name for operation in found)


def _answer(asked: Any) -> Any:
    try:
        return asked.result(2 * BROKER_TIMEOUT)
    except KafkaException:
        return None
