"""Consumers that are no member of a group: partitions are taken by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

__all__ = ["PASSING", "without_membership"]

PASSING = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001  confluent-kafka's public codes begin so
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.GROUP_AUTHORIZATION_FAILED,  # no group is used
    }
)
"""Codes of errors after which such a consumer goes on by itself."""


def without_membership(consumer_config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a pipeline's consumer properties without its static place in the group, which the pipeline itself holds.

    Args:
        consumer_config: librdkafka properties of a pipeline's consumer.
    """
    return {name: value for name, value in consumer_config.items() if name != "group.instance.id"}
