"""What a broker's authorizer refused, in words for operators: who may not do what, and the ACL that is missing.

Source: Apache Kafka documentation, "Authorization and ACLs"; streamcrypt/policies/acls.py has the whole table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, Producer

from streamcrypt.sidecar.failures import AccessRefused, from_kafka
from streamcrypt.sidecar.spec import PipelineSpec, template_pattern

__all__ = ["Logins", "explained", "principal_of", "raise_refused"]

_CLUSTER = "kafka-cluster"
_ALL = "'streamcrypt policy --acls CONFIG' prints every ACL that is needed. A running pipeline goes on by itself."
_OPTIONS = {"topic": "--topic", "group": "--group", "transactional_id": "--transactional-id"}
_WORDS = {"topic": "topic", "group": "group", "transactional_id": "transactional id", "cluster": "cluster"}
# As librdkafka writes partitions whose offsets a broker did not take: "orders((null))[0](Broker: Topic auth…".
_OFFSETS_OF = re.compile(r"([A-Za-z0-9._-]+)\(\S*\)\[\d+\]\(Broker: Topic authorization")
_NAMES_PASSWORD_USER = frozenset({"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"})


@dataclass(frozen=True, slots=True)
class Logins:
    """Who a pipeline is to the brokers.

    Attributes:
        consumer, producer: Principals, such as ``User:streamcrypt``; empty where only the brokers know.
        transactional_id: Of the producer; empty where it has none.
    """

    consumer: str
    producer: str
    transactional_id: str = ""

    @classmethod
    def of(cls, consumer: Mapping[str, Any], producer: Mapping[str, Any]) -> Logins:
        """Read them from librdkafka properties."""
        return cls(principal_of(consumer), principal_of(producer), str(producer.get("transactional.id", "")))


def principal_of(config: Mapping[str, Any]) -> str:
    """Give the principal of a client, empty where its properties do not tell: certificates and tokens are mapped there.

    Source: Kafka's DefaultKafkaPrincipalBuilder.
    """
    protocol = str(config.get("security.protocol", "plaintext")).lower()
    mechanism = str(config.get("sasl.mechanisms", config.get("sasl.mechanism", ""))).upper()
    if protocol.startswith("sasl") and mechanism in _NAMES_PASSWORD_USER and "sasl.username" in config:
        return f"User:{config['sasl.username']}"
    return "User:ANONYMOUS" if protocol == "plaintext" else ""


def raise_refused(client: Producer, pipeline: str, topics: Iterable[str], timeout: float) -> None:
    """Ask for topics that no listing shows: a broker leaves out what a login may not describe, and says so by name.

    Raises:
        AccessRefused: One of them may not be described; whether it exists the broker does not tell.
        KafkaException: No broker answered.
    """
    for topic in topics:
        error = client.list_topics(topic, timeout=timeout).topics[topic].error
        if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            refused = from_kafka(error, f"pipeline {pipeline!r}", topic)
            assert isinstance(refused, AccessRefused)
            refused.asked = True
            raise refused


def explained(refused: AccessRefused, spec: PipelineSpec, logins: Logins) -> AccessRefused:
    """Say who may not do what, on what, and how that is mended.

    Args:
        refused: As the client gave it.
        spec: The pipeline.
        logins: Who it is.
    """
    operation, resource, names = _needed(refused, spec, logins)
    who = logins.producer if _is_producers(refused, operation, resource) else logins.consumer
    name = " or ".join(names)
    of_what = _WORDS[resource] + (f" {' or '.join(map(repr, names))}" if resource != "cluster" else "")
    text = f"pipeline {spec.name!r}: {who or 'this login'} may not {operation} {of_what}"
    option = f"{_OPTIONS[resource]} {names[0]}" if resource in _OPTIONS else "--cluster"
    remedy = f"kafka-acls.sh --add --allow-principal {who or 'User:…'} --operation {operation} {option}. {_ALL}"
    told = AccessRefused(f"{text} ({refused.cause})", remedy=remedy)
    told.code, told.cause, told.topic = refused.code, refused.cause, refused.topic
    told.right, told.principal = (operation, resource, name), who
    return told


def _is_producers(refused: AccessRefused, operation: str, resource: str) -> bool:
    # The producer also lists topics, and commits the group's offsets in its transactions: librdkafka says that it did.
    of_producer = operation in {"Write", "IdempotentWrite"} or resource in {"transactional_id", "cluster"}
    return of_producer or refused.asked or "transaction" in refused.cause


def _needed(refused: AccessRefused, spec: PipelineSpec, logins: Logins) -> tuple[str, str, tuple[str, ...]]:
    if refused.code == KafkaError.GROUP_AUTHORIZATION_FAILED:
        return "Read", "group", (spec.group,)
    if refused.code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        return "Write", "transactional_id", (logins.transactional_id,)
    if refused.code == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return "IdempotentWrite", "cluster", (_CLUSTER,)
    named = _OFFSETS_OF.search(refused.cause)
    topic = named[1] if named else refused.topic
    if not topic:
        return "Write", "topic", tuple(dict.fromkeys(filter(None, (spec.target, spec.dead_letter))))
    is_target = topic == spec.dead_letter or re.fullmatch(template_pattern(spec.target), topic) is not None
    if is_target and not spec.reads(topic):
        # A transaction fails as a whole, and all its records with it, whichever topic was refused.
        other = spec.dead_letter if logins.transactional_id and not refused.asked else ""
        return "Write", "topic", tuple(dict.fromkeys(filter(None, (topic, other))))
    return ("Describe" if refused.asked and not logins.transactional_id else "Read"), "topic", (topic,)
