"""The part of ``streamcrypt doctor`` that asks the brokers: topics, rights, transactions, groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.cli.compose import admin_config, producer_config, unusable_client
from streamcrypt.config import PipelineSettings, Settings
from streamcrypt.crypto.suites import OVERHEAD_BYTES
from streamcrypt.diagnosis.access import (
    judge_group,
    judge_group_access,
    judge_topic_access,
    judge_transactional_id,
    judge_transactions,
)
from streamcrypt.diagnosis.cluster import ClusterProbe
from streamcrypt.diagnosis.facts import LegFacts, Route, TopicSettings
from streamcrypt.diagnosis.findings import Check, Finding, warn
from streamcrypt.diagnosis.topics import judge_letters, judge_route
from streamcrypt.envelope.codec import encode_header
from streamcrypt.envelope.header import (
    HEADER_NAME,
    MAX_KEYS,
    Content,
    EncryptedDataKey,
    EnvelopeHeader,
    build_context,
)

__all__ = ["Leg", "cluster_findings", "envelope_bytes", "legs_of"]

_WRAPPED_BYTES = 184
"""What KMS makes of a DEK; not contractual. Source: measured, see docs/doctor.md."""
_ARN_BYTES = 80
_RECORD_BYTES = 8
"""Lengths of a header and its name, as varints."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A pipeline and its ways.

    Attributes:
        pipeline: Its settings.
        ways: Source to target, for every topic that it reads; either may be missing.
    """

    pipeline: PipelineSettings
    ways: Mapping[str, str] = field(default_factory=dict)

    @property
    def sealed(self) -> tuple[str, ...]:
        """The topics that hold its ciphertext."""
        read = self.ways if self.pipeline.mode != "encrypt" else ()
        written = self.ways.values() if self.pipeline.mode != "decrypt" else ()
        return tuple(dict.fromkeys([*read, *written]))


def legs_of(settings: Settings, sources: Mapping[str, int], only: Sequence[str] = ()) -> list[Leg]:
    """Give every pipeline with the topics that it reads: those that it names, and those that its regexes match now.

    Args:
        settings: The configuration.
        sources: Topics as consumers see them.
        only: Look at these topics alone, sources or targets; empty for all.
    """
    legs = []
    for pipeline in settings.pipelines:
        spec = settings.spec(pipeline)
        named = [source for source in spec.sources if not source.startswith("^")]
        ways = {source: spec.target_of(source) for source in sorted({*named, *filter(spec.reads, sources)})}
        legs.append(Leg(pipeline, {s: t for s, t in ways.items() if not only or s in only or t in only}))
    return legs


def envelope_bytes(settings: Settings, topic: str, bound: Sequence[str]) -> int:
    """Estimate the bytes that an envelope adds to a record: header, nonce and tag.

    Args:
        settings: Says how many KEKs wrap each data key, and the context.
        topic: The longest logical topic.
        bound: The bound fields.
    """
    keks = min(MAX_KEYS, max(1, len(settings.keys.key_id or ())))
    keys = tuple(EncryptedDataKey("aws-kms", f"{n:0{_ARN_BYTES}}", bytes(_WRAPPED_BYTES)) for n in range(keks))
    suite = settings.pipelines[0].suite
    context = build_context(settings.context, topic)
    header = EnvelopeHeader(suite, bytes(32), context, tuple(bound), Content.PAYLOAD, keys)
    return len(encode_header(header)) + len(HEADER_NAME) + _RECORD_BYTES + OVERHEAD_BYTES


def cluster_findings(settings: Settings, legs: Sequence[Leg], brokers: Mapping[str, int]) -> Iterator[Finding]:
    """Ask the cluster about every pipeline.

    Args:
        settings: The configuration.
        legs: The pipelines with their topics.
        brokers: Topics as producers see them.

    Raises:
        ConfigError: librdkafka refuses a property.
    """
    for leg in legs:
        reader, writer = (_probe(settings, leg.pipeline, side) for side in ("consumer", "producer"))
        sources, targets = reader.topics(leg.ways), writer.topics(leg.ways.values())
        facts = _facts(settings, leg)
        for source, target in leg.ways.items():
            if source in sources and target in targets:
                yield from judge_route(facts, Route(sources[source], targets[target]))
        yield from _letters(facts, list(sources.values()), writer)
        for topic in sources.values():
            yield judge_topic_access(topic, "source")
        for topic in targets.values():
            yield judge_topic_access(topic, "target")
        yield from _delivery(settings, leg, facts, writer, brokers)
        yield from _group(leg, facts, reader, sources)


def _probe(settings: Settings, pipeline: PipelineSettings, side: str) -> ClusterProbe:
    try:
        config = admin_config(settings, pipeline, "consumer" if side == "consumer" else "producer")
        return ClusterProbe(AdminClient(config))
    except KafkaException as error:
        raise unusable_client(settings, error) from None


def _facts(settings: Settings, leg: Leg) -> LegFacts:
    pipeline, producer = leg.pipeline, producer_config(settings, leg.pipeline)
    longest = max((settings.topic_names.get(t, t) for t in leg.sealed), key=len, default=pipeline.to)
    seals = pipeline.mode != "decrypt"
    timeout = int(producer["transaction.timeout.ms"]) if pipeline.delivery == "exactly_once" else None
    return LegFacts(
        pipeline.name,
        pipeline.mode,
        envelope_bytes(settings, longest, pipeline.bound) if seals else 0,
        int(producer.get("message.max.bytes", producer.get("message.copy.max.bytes", 1_000_000))),
        str(producer.get("compression.type", producer.get("compression.codec", "none"))),
        timeout,
        "key" in pipeline.bound,
        pipeline.dead_letter or "",
    )


def _letters(facts: LegFacts, sources: list[TopicSettings], writer: ClusterProbe) -> Iterator[Finding]:
    if not facts.letters:
        return
    found = writer.topics([facts.letters]).get(facts.letters)
    if found is None:
        return  # that it is missing is told with the routes
    yield from judge_letters(facts, sources, found)
    yield judge_topic_access(found, "letters")


def _delivery(
    settings: Settings, leg: Leg, facts: LegFacts, writer: ClusterProbe, brokers: Mapping[str, int]
) -> Iterator[Finding]:
    if facts.transaction_timeout is None:
        return
    cluster = writer.cluster(settings.kafka.bootstrap_servers, brokers)
    yield from judge_transactions(facts, cluster)
    # The first worker's and the last one's: an ACL by prefix covers all, one by name a single one.
    for worker in sorted({0, settings.worker_count - 1}):
        name = leg.pipeline.member(worker)
        yield judge_transactional_id(writer.transactional_id(name, _principal(settings), cluster))


def _principal(settings: Settings) -> str:
    """Say who the producer is to the brokers, as far as its settings tell. Source: Kafka, "Authorization and ACLs"."""
    given = {**settings.kafka.properties, **settings.kafka.producer}
    protocol = str(given.get("security.protocol", "plaintext")).lower()
    if protocol == "plaintext":
        return "User:ANONYMOUS"
    name = given.get("sasl.username")
    return f"User:{name}" if name and protocol.startswith("sasl") else ""


def _group(leg: Leg, facts: LegFacts, reader: ClusterProbe, sources: Mapping[str, TopicSettings]) -> Iterator[Finding]:
    places = [(topic.name, number) for topic in sources.values() for number in range(topic.partitions)]
    group = reader.group(leg.pipeline.group, places)
    if group is None:
        remedy = f"kafka-acls --add --allow-principal User:… --operation Describe --group {leg.pipeline.group}"
        yield warn(Check.GROUP, leg.pipeline.group, "not known: this login may not describe the group", remedy)
        return
    yield judge_group_access(group)
    yield from judge_group(facts, group, starts_at_end=leg.pipeline.start == "latest")
