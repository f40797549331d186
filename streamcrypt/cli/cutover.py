"""``streamcrypt cutover``: turn a point in time into offsets, once, for ``pass_until``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from streamcrypt.cli.compose import admin_config, consumer_config, unusable_client
from streamcrypt.cli.exits import Exit
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.sidecar.cutover import NO_TOPIC_ID, TopicCutover, describe_topics

__all__ = ["as_yaml", "cutover", "instant", "offsets_at"]

_TIMEOUT = 10.0


def cutover(path: Path, topic: str, at: str | None) -> Exit:
    """Print the cut-over of a topic as YAML: its id, and for each partition the first offset that must be sealed.

    Args:
        path: The configuration; its brokers are asked, as the decrypting pipeline that reads the topic would.
        topic: A topic that a decrypting pipeline reads.
        at: The first record at or after this instant, RFC 3339 with an offset from UTC, begins what must be sealed; by
            default the end of each partition as it is now. Timestamps are the producers' word: look at the offsets.

    Raises:
        ConfigError: The configuration or the instant is wrong, or no decrypting pipeline reads the topic.
        StreamcryptError: The topic does not exist, or the cluster gives topics no ids.
        KafkaException: The cluster does not answer.
    """
    milliseconds = None if at is None else int(instant(at).timestamp() * 1000)
    settings = load(path)
    pipeline = _pipeline(settings, topic)
    try:
        admin = AdminClient(admin_config(settings, pipeline))
        # Plaintext of a transaction that is still open must pass, too: below the end of all, not of what is committed.
        consumer = Consumer({**consumer_config(settings, pipeline), "isolation.level": "read_uncommitted"})
    except KafkaException as error:
        raise unusable_client(settings, error) from None
    try:
        found = describe_topics(admin, [topic], _TIMEOUT).get(topic)
        if found is None:
            raise StreamcryptError(f"the topic {topic!r} does not exist")
        if found.topic_id == NO_TOPIC_ID:
            raise StreamcryptError("this cluster gives topics no ids (Kafka before 2.8): nothing binds offsets to them")
        offsets = offsets_at(consumer, topic, found.partitions, milliseconds)
    finally:
        consumer.close()
    print(as_yaml({topic: TopicCutover(found.topic_id, offsets)}), end="")
    return Exit.DONE


def instant(text: str) -> datetime:
    """Read an RFC 3339 instant.

    Raises:
        ConfigError: It is none, or does not say how far from UTC it is.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(
            f"--at {text!r} is no instant of RFC 3339", remedy="Write one such as 2030-01-31T22:00:00Z or …+01:00."
        )
    return moment


def offsets_at(consumer: Consumer, topic: str, partitions: int, milliseconds: int | None) -> dict[int, int]:
    """Give for each partition the offset of its first record at or after an instant, else its end.

    Args:
        consumer: A client; it need be no member of a group.
        topic: The topic.
        partitions: How many it has.
        milliseconds: Since the epoch; None for the end.

    Raises:
        KafkaException: The cluster does not answer.
    """
    places = [TopicPartition(topic, p, -1 if milliseconds is None else milliseconds) for p in range(partitions)]
    if milliseconds is not None:
        places = consumer.offsets_for_times(places, timeout=_TIMEOUT)
    offsets: dict[int, int] = {}
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)
        offset = place.offset
        if offset < 0:
            # No record is that young: what comes from now on must be sealed.
            watermarks = consumer.get_watermark_offsets(place, timeout=_TIMEOUT)
            offset = watermarks[1]
        offsets[place.partition] = offset
    return offsets


def as_yaml(topics: Mapping[str, TopicCutover]) -> str:
    """Write cut-overs as the lines that go below a pipeline of the configuration."""
    lines = ["plaintext:", "  pass_until:"]
    for topic, cut in topics.items():
        # Quoted: a name or an id may look like a number.
        lines += [f'    "{topic}":', f'      id: "{cut.topic_id}"']
        lines += [f"      {partition}: {offset}" for partition, offset in sorted(cut.offsets.items())]
    return "\n".join(lines) + "\n"


def _pipeline(settings: Settings, topic: str) -> PipelineSettings:
    for pipeline in settings.pipelines:
        if pipeline.mode != "encrypt" and settings.spec(pipeline).reads(topic):
            return pipeline
    raise ConfigError(
        f"no decrypting pipeline reads {topic!r}", remedy="Plaintext can pass on its way out of encryption only."
    )
