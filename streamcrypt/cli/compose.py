"""From settings to the objects that do the work: key provider, encryptor, decryptor, librdkafka properties."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.errors import ConfigError
from streamcrypt.events import Observer, ignore_events
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

if TYPE_CHECKING:
    from confluent_kafka import KafkaException

    from streamcrypt.config import KeysSettings, PipelineSettings, Settings
    from streamcrypt.keys.provider import KeyProvider

__all__ = [
    "CLIENT_LOGGER",
    "build_decryptor",
    "build_encryptor",
    "build_provider",
    "consumer_config",
    "producer_config",
    "unusable_client",
]

CLIENT_LOGGER = "librdkafka"
"""Name of the logger that librdkafka writes to."""

# A loop also serves its consumer group and its end: past this a record waits in hand instead, its partition paused.
_MAX_WAIT = 0.5
_CONSUMER_DEFAULTS = {
    # Once the prefetch queue is full librdkafka sleeps this long; its default of 1000 ms makes a fast loop three
    # times slower (115,000 to 390,000 records/s of 1 KB).
    "fetch.queue.backoff.ms": "5",
    # 64 MiB is librdkafka's default, written down because it is most of a pipeline's memory.
    "queued.max.messages.kbytes": "65536",
    # Partitions that stay are not interrupted when a member comes or goes.
    "partition.assignment.strategy": "cooperative-sticky",
    # A topic that does not exist is an operator's mistake, not a wish.
    "allow.auto.create.topics": "false",
    # New topics and partitions appear within 30 s; librdkafka's default is five minutes.
    "topic.metadata.refresh.interval.ms": "10000",
    "statistics.interval.ms": "0",
}
# Refused in the file, see streamcrypt/config/librdkafka.py: each keeps a guarantee.
_CONSUMER_FIXED = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    # A committed offset that is gone stops the pipeline instead of silently skipping or repeating records.
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
}
_PRODUCER_DEFAULTS = {
    # Long enough to fill a batch at rate, short enough not to be seen at a trickle.
    "linger.ms": "5",
    "queue.buffering.max.messages": "100000",
    # 128 MiB: the other large part of a pipeline's memory; when it is full, reading waits.
    "queue.buffering.max.kbytes": "131072",
    # What Kafka's brokers take by default, so that every record of a source fits where nobody changed either.
    "message.max.bytes": "1048588",
    "topic.metadata.refresh.interval.ms": "10000",
    "statistics.interval.ms": "0",
}
# The envelope header repeats in every record: lz4 takes 448 bytes on the wire to 134, at no loss of speed.
_SEALING_DEFAULTS = {"compression.type": "lz4"}
_PRODUCER_FIXED: Mapping[str, Any] = {
    "enable.idempotence": "true",
    "acks": "all",
    # With one on_delivery for the client, Python is called for failures only. confluent-kafka wants a bool here.
    "delivery.report.only.error": True,
}
# KIP-848 assigns on the broker; librdkafka refuses these properties then.
_CLASSIC_PROTOCOL_ONLY = ("partition.assignment.strategy",)


def build_provider(
    keys: KeysSettings, observer: Observer = ignore_events, *, trusted_keys: tuple[str, ...] | None = None
) -> KeyProvider:
    """Build the key service. No call is made.

    Args:
        keys: Its settings.
        observer: Told of calls.
        trusted_keys: A pipeline's own list, instead of that of ``keys``.

    Raises:
        ConfigError: A keyring cannot be read, or the settings contradict each other.
    """
    if keys.provider == "local":
        from streamcrypt.keys.local import LocalKeyProvider

        return LocalKeyProvider.from_file(keys.keyring or "", observer=observer)
    from streamcrypt.keys.aws_kms import AWSKMSKeyProvider

    return AWSKMSKeyProvider(
        keys.key_id or (),
        region=keys.region,
        endpoint_url=keys.endpoint_url,
        insecure_endpoint=keys.insecure_endpoint,
        trusted_keys=keys.trusted_keys if trusted_keys is None else trusted_keys,
        observer=observer,
    )


def build_encryptor(
    settings: Settings, pipeline: PipelineSettings, provider: KeyProvider, observer: Observer = ignore_events
) -> Encryptor:
    """Build what an encrypting pipeline seals with.

    Raises:
        ConfigError: The installed cryptography library cannot do the suite.
    """
    rotation = settings.rotation
    return Encryptor(
        provider,
        RotationPolicy(rotation.max_messages, rotation.max_age, rotation.max_bytes),
        settings.context,
        suite=pipeline.suite,
        bound=pipeline.bound,
        framing=pipeline.framing,
        topic_names=settings.topic_names,
        observer=observer,
        max_wait=_MAX_WAIT,
    )


def build_decryptor(
    settings: Settings, pipeline: PipelineSettings, provider: KeyProvider, observer: Observer = ignore_events
) -> Decryptor:
    """Build what a decrypting pipeline opens with."""
    return Decryptor(
        provider,
        CachePolicy(settings.cache.max_entries, settings.cache.ttl),
        settings.context,
        settings.topic_names,
        require_bound=pipeline.bound,
        framing=pipeline.framing,
        observer=observer,
        max_wait=_MAX_WAIT,
    )


def consumer_config(settings: Settings, pipeline: PipelineSettings) -> dict[str, Any]:
    """Give the librdkafka properties of a pipeline's consumer: our defaults, then the file's, then what is fixed."""
    config: dict[str, Any] = {
        **_CONSUMER_DEFAULTS,
        "client.id": f"streamcrypt-{pipeline.name}-{pipeline.instance}",
        **settings.kafka.properties,
        **settings.kafka.consumer,
        **_CONSUMER_FIXED,
        "group.id": pipeline.group,
        "logger": logging.getLogger(CLIENT_LOGGER),
    }
    if config.get("group.protocol") == "consumer":
        for name in _CLASSIC_PROTOCOL_ONLY:
            if name not in settings.kafka.properties and name not in settings.kafka.consumer:
                del config[name]
    return config


def producer_config(settings: Settings, pipeline: PipelineSettings) -> dict[str, Any]:
    """Give the librdkafka properties of a pipeline's producer: our defaults, then the file's, then what is fixed."""
    return {
        **_PRODUCER_DEFAULTS,
        **(_SEALING_DEFAULTS if pipeline.mode == "encrypt" else {}),
        "client.id": f"streamcrypt-{pipeline.name}-{pipeline.instance}",
        **settings.kafka.properties,
        **settings.kafka.producer,
        **_PRODUCER_FIXED,
        "logger": logging.getLogger(CLIENT_LOGGER),
    }


def unusable_client(settings: Settings, error: KafkaException) -> ConfigError:
    """Say which property librdkafka refused when a client was made, and where it was set.

    librdkafka's texts name the property and never quote its value.
    """
    text = str(error.args[0].str())
    named = re.search(r'property "([^"]+)"|`([a-z.]+)`|\b(sasl\.[a-z.]+)', text)
    name = next((group for group in named.groups() if group), "") if named else ""
    where = settings.where("kafka", name) if name else settings.where("kafka")
    for overlay in ("consumer", "producer"):
        if name in getattr(settings.kafka, overlay):
            where = settings.where("kafka", overlay, name)
    return ConfigError(f"{where}: kafka: {text}", remedy="See CONFIGURATION.md of librdkafka for what it accepts.")
