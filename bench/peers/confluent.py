"""Confluent's payload encryption: an Avro serializer whose schema carries an ``ENCRYPT_PAYLOAD`` encoding rule.

Registry and DEK registry are Confluent's own mocks, in this process, and the KMS is its local one: no network. The
schema is ``bytes``, so that Avro has nothing to do; the same serializer without the rule is measured beside it, and
what the rule adds is the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka.schema_registry import Rule, RuleKind, RuleMode, RuleParams, RuleSet, Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.rules.encryption.encrypt_executor import EncryptionExecutor
from confluent_kafka.schema_registry.rules.encryption.localkms.local_driver import LocalKmsDriver
from confluent_kafka.serialization import MessageField, SerializationContext

from bench.peers.way import Way

__all__ = ["ways"]

_TOPIC = "bench"
_SECRET = {"secret": "a key encryption key on this machine"}


def ways(keys: Mapping[str, Any]) -> list[Way]:
    """Give the serializer with and without the rule."""
    LocalKmsDriver.register()
    EncryptionExecutor.register()
    rule = Rule(
        "encrypt",
        "",
        RuleKind.TRANSFORM,
        RuleMode.WRITEREAD,
        "ENCRYPT_PAYLOAD",
        None,
        RuleParams({"encrypt.kek.name": "bench", "encrypt.kms.type": "local-kms", "encrypt.kms.key.id": "bench"}),
        None,
        None,
        "ERROR,NONE",
        False,
    )
    return [
        _way("Confluent without the rule", None),
        _way("Confluent payload encryption", RuleSet(None, None, [rule])),
    ]


def _way(name: str, rules: RuleSet | None) -> Way:
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    registry.register_schema(f"{_TOPIC}-value", Schema('"bytes"', "AVRO", [], None, rules))
    secret = _SECRET if rules else None
    found = {"auto.register.schemas": False, "use.latest.version": True}
    serialize = AvroSerializer(registry, None, conf=found, rule_conf=secret)
    deserialize = AvroDeserializer(registry, rule_conf=secret)
    context = SerializationContext(_TOPIC, MessageField.VALUE)
    return Way(name, lambda value: serialize(value, context), lambda sealed: deserialize(sealed, context))
