"""From settings to the objects that do the work: key provider, encryptor, decryptor, librdkafka properties."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.framing import Tombstones
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import Observer, ignore_events
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

if TYPE_CHECKING:
    from confluent_kafka import KafkaException

    from streamcrypt.config import KeysSettings, PipelineSettings, Settings
    from streamcrypt.keys.provider import KeyProvider
    from streamcrypt.keys.tenants import KEKFamily, TenantKeys

__all__ = [
    "CLIENT_LOGGER",
    "MAX_WAIT",
    "admin_config",
    "build_decryptor",
    "build_encryptor",
    "build_letter_encryptor",
    "build_letter_provider",
    "build_provider",
    "build_rotation",
    "consumer_config",
    "producer_config",
    "unusable_client",
]

CLIENT_LOGGER = "librdkafka"
"""Name of the logger that librdkafka writes to."""

# A loop also serves its consumer group and its end: past this a record waits in hand instead, its partition paused.
MAX_WAIT = 0.5
_CONSUMER_DEFAULTS = {
    # Once the prefetch queue is full librdkafka sleeps this long; its default of 1000 ms makes a fast loop three
    # times slower (115,000 to 390,000 records/s of 1 KB).
    "fetch.queue.backoff.ms": "5",
    # Of all partitions together, and a large part of a pipeline's memory. With 16 MiB instead of 64, and 32 instead of
    # 128 for writing, the peak is 40 MB lower and 1 KB records pass no slower: what waits stays in the caches.
    "queued.max.messages.kbytes": "16384",
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
_CONSUMERS_ONLY = (
    "check.crcs",
    "enable.partition.eof",
    "fetch.",
    "group.",
    "heartbeat.",
    "max.partition.fetch.",
    "max.poll.",
    "partition.",
    "queued.",
    "session.",
)
_PRODUCER_DEFAULTS = {
    # A producer, too, asks for its topics again and again, and so makes a target anew that somebody deleted.
    "allow.auto.create.topics": "false",
    # Long enough to fill a batch at rate, short enough not to be seen at a trickle.
    "linger.ms": "5",
    "queue.buffering.max.messages": "100000",
    # 32 MiB: the other large part of a pipeline's memory; when it is full, reading waits.
    "queue.buffering.max.kbytes": "32768",
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
# A crashed process is missed after this long; with static ids it is back in its place before.
_SESSION_TIMEOUT = "10000"
# An open transaction of a crashed process keeps readers waiting for this long.
_TRANSACTION_TIMEOUT = "10000"
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
    if keys.template is not None:
        return _tenant_keys(keys, observer)
    if keys.provider == "local":
        from streamcrypt.keys.local import LocalKeyProvider

        # A file cannot set key_id here; --to-key does.
        primary = next(iter(keys.key_id or ()), None)
        return LocalKeyProvider.from_file(keys.keyring or "", primary=primary, observer=observer)
    from streamcrypt.keys.aws_kms import AWSKMSKeyProvider

    return AWSKMSKeyProvider(
        keys.key_id or (),
        region=keys.region,
        regions=keys.regions,
        require=keys.require or "all",
        endpoint_url=keys.endpoint_url,
        insecure_endpoint=keys.insecure_endpoint,
        trusted_keys=keys.trusted_keys if trusted_keys is None else trusted_keys,
        observer=observer,
    )


def _tenant_keys(keys: KeysSettings, observer: Observer) -> TenantKeys:
    """Build the key service of a template: the connections are those of its first KEK."""
    from streamcrypt.keys.tenants import DEFAULT_MAX_LIVE, DEFAULT_NEW_KEYS_PER_MINUTE, TenantKeys

    # A keyring's own primary is what seals dead letters.
    names = None if keys.provider == "local" else keys.kek_names[:1]
    family = build_provider(keys.model_copy(update={"key_id": names}), observer, trusted_keys=())
    return TenantKeys(
        cast("KEKFamily", family),
        keys.key_id or (),
        keys.mapping or {},
        max_live=keys.max_live or DEFAULT_MAX_LIVE,
        new_keys_per_minute=keys.new_keys_per_minute or DEFAULT_NEW_KEYS_PER_MINUTE,
        disabled=keys.disabled or "fail",
    )


def build_encryptor(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer = ignore_events,
    *,
    max_wait: float | None = MAX_WAIT,
) -> Encryptor:
    """Build what an encrypting pipeline seals with.

    Args:
        settings: The configuration.
        pipeline: The pipeline.
        provider: The key service.
        observer: Told of data keys.
        max_wait: Seconds for which a record waits for its data key; None, for a job that has nothing else to do: as
            long as the key service may take.

    Raises:
        ConfigError: The installed cryptography library cannot do the suite.
    """
    return Encryptor(
        provider,
        build_rotation(settings),
        settings.context,
        suite=pipeline.suite,
        bound=pipeline.bound,
        framing=pipeline.framing,
        tombstones=pipeline.tombstones,
        topic_names=settings.topic_names,
        observer=observer,
        max_wait=max_wait,
    )


def build_rotation(settings: Settings) -> RotationPolicy:
    """Make the policy by which data keys are replaced."""
    chosen = settings.rotation
    return RotationPolicy(chosen.max_messages, chosen.max_age, chosen.max_bytes, chosen.grace, chosen.grace_factor)


def build_decryptor(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer = ignore_events,
    *,
    max_wait: float | None = MAX_WAIT,
    cache: CachePolicy | None = None,
    share_data_keys: bool = True,
) -> Decryptor:
    """Build what a decrypting pipeline opens with.

    Arguments as for :func:`build_encryptor`, then as for :class:`streamcrypt.Decryptor`; the cache is by default that
    of the configuration.
    """
    return Decryptor(
        provider,
        cache or CachePolicy(settings.cache.max_entries, settings.cache.ttl),
        settings.context,
        settings.topic_names,
        require_bound=pipeline.bound,
        framing=pipeline.framing,
        tombstones=pipeline.tombstones,
        observer=observer,
        max_wait=max_wait,
        share_data_keys=share_data_keys,
    )


def _login(settings: Settings, pipeline: PipelineSettings, observer: Observer | None) -> dict[str, Any]:
    """Give what a client logs in with at Amazon MSK; nothing where properties of librdkafka say it all."""
    chosen = settings.kafka.msk_iam
    if chosen is None:
        return {}
    from streamcrypt.clients.msk_iam import MSKTokens

    tokens = MSKTokens(chosen.region, chosen.role_arn, chosen.profile, client=pipeline.name, observer=observer)
    tokens.begin()
    return {"security.protocol": "SASL_SSL", "sasl.mechanisms": "OAUTHBEARER", "oauth_cb": tokens}


def consumer_config(
    settings: Settings, pipeline: PipelineSettings, worker: int = 0, observer: Observer | None = None
) -> dict[str, Any]:
    """Give the librdkafka properties of a pipeline's consumer: our defaults, then the file's, then what is fixed.

    Args:
        settings: The configuration.
        pipeline: The pipeline.
        worker: Number of this process among the workers.
        observer: Told where a login token could not be made; by default that is logged.

    Raises:
        ConfigError, BrokerLoginFailed: With ``msk_iam``: the extra is missing, or AWS credentials are.
    """
    config: dict[str, Any] = {
        **_CONSUMER_DEFAULTS,
        "client.id": f"streamcrypt-{pipeline.name}-{pipeline.instance}",
        **settings.kafka.properties,
        **settings.kafka.consumer,
        **_CONSUMER_FIXED,
        **_login(settings, pipeline, observer),
        "group.id": pipeline.group,
        "logger": logging.getLogger(CLIENT_LOGGER),
    }
    if str(config.get("group.protocol")).lower() != "consumer":
        config.setdefault("session.timeout.ms", _SESSION_TIMEOUT)
        if pipeline.delivery == "exactly_once":
            # Static membership: a process that comes back within the session finds its partitions again at once.
            config["group.instance.id"] = pipeline.member(worker)
    else:
        for name in _CLASSIC_PROTOCOL_ONLY:
            if name not in settings.kafka.properties and name not in settings.kafka.consumer:
                del config[name]
    return config


def producer_config(
    settings: Settings, pipeline: PipelineSettings, worker: int = 0, observer: Observer | None = None
) -> dict[str, Any]:
    """Give the librdkafka properties of a pipeline's producer: our defaults, then the file's, then what is fixed.

    Arguments and errors as for :func:`consumer_config`.
    """
    exactly_once = {
        "transactional.id": pipeline.member(worker),
        "transaction.timeout.ms": _TRANSACTION_TIMEOUT,
        **{name: v for name, v in settings.kafka.producer.items() if name == "transaction.timeout.ms"},
    }
    return {
        **_PRODUCER_DEFAULTS,
        **(_SEALING_DEFAULTS if pipeline.mode != "decrypt" else {}),
        "client.id": f"streamcrypt-{pipeline.name}-{pipeline.instance}",
        **settings.kafka.properties,
        **settings.kafka.producer,
        **_PRODUCER_FIXED,
        **(exactly_once if pipeline.delivery == "exactly_once" else {}),
        **_login(settings, pipeline, observer),
        "logger": logging.getLogger(CLIENT_LOGGER),
    }


def build_letter_provider(
    settings: Settings, pipeline: PipelineSettings, provider: KeyProvider, observer: Observer = ignore_events
) -> KeyProvider:
    """Build the key service for a pipeline's dead letters: that of its records, or one with ``dead_letter_key``."""
    if pipeline.dead_letter_key is None:
        # A letter leads to no KEK by itself: the primary of a keyring takes it.
        is_nobodys = settings.keys.template is None or not pipeline.dead_letter
        return provider if is_nobodys else build_provider(settings.keys.model_copy(update={"key_id": None}), observer)
    # One KEK of any kind: what goes with several, or with replicas, does not hold for it.
    alone = {"key_id": (pipeline.dead_letter_key,), "require": None, "regions": ()}
    return build_provider(settings.keys.model_copy(update=alone), observer)


def build_letter_encryptor(
    settings: Settings,
    pipeline: PipelineSettings,
    provider: KeyProvider,
    observer: Observer = ignore_events,
    *,
    max_wait: float | None = MAX_WAIT,
) -> Encryptor | None:
    """Build what an encrypting pipeline seals its dead letters with; None where it writes none.

    The envelope of a letter always rides in a header, and a null value carries its proof: the topic is ours, and no
    sink reads it. It binds key and origin.
    """
    from streamcrypt.sidecar.dead_letters import LETTER_BOUND

    if pipeline.mode != "encrypt" or not pipeline.dead_letter:
        return None
    return Encryptor(
        provider,
        build_rotation(settings),
        settings.context,
        suite=pipeline.suite,
        bound=LETTER_BOUND,
        tombstones=Tombstones.AUTHENTICATED,
        topic_names=settings.topic_names,
        observer=observer,
        max_wait=max_wait,
    )


def admin_config(
    settings: Settings, pipeline: PipelineSettings, side: Literal["consumer", "producer"] = "consumer"
) -> dict[str, Any]:
    """Give the librdkafka properties of an admin client that logs in as a pipeline's consumer, or producer, does."""
    own = settings.kafka.consumer if side == "consumer" else settings.kafka.producer
    given = {**settings.kafka.properties, **own}
    return {
        "client.id": f"streamcrypt-{pipeline.name}-{pipeline.instance}",
        # An admin client warns of every property of a consumer.
        **{name: value for name, value in given.items() if not name.startswith(_CONSUMERS_ONLY)},
        **_login(settings, pipeline, None),
        "logger": logging.getLogger(CLIENT_LOGGER),
    }


def unusable_client(settings: Settings, error: KafkaException) -> StreamcryptError:
    """Say which property librdkafka refused when a client was made, and where it was set.

    librdkafka's texts name the property and never quote its value. A client that got no login token in its first 10 s
    is not misconfigured: a running pipeline tries again.
    """
    from confluent_kafka import KafkaError

    text = str(error.args[0].str())
    if error.args[0].code() == KafkaError.SASL_AUTHENTICATION_FAILED:
        from streamcrypt.sidecar.failures import ConnectionLost

        return ConnectionLost(f"{settings.kafka.bootstrap_servers}: no login token: {text}")
    named = re.search(r'property "([^"]+)"|`([a-z.]+)`|\b(sasl\.[a-z.]+)', text)
    name = next((group for group in named.groups() if group), "") if named else ""
    where = settings.where("kafka", name) if name else settings.where("kafka")
    for overlay in ("consumer", "producer"):
        if name in getattr(settings.kafka, overlay):
            where = settings.where("kafka", overlay, name)
    return ConfigError(f"{where}: kafka: {text}", remedy="See CONFIGURATION.md of librdkafka for what it accepts.")
