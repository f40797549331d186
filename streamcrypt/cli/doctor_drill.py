"""The part of ``streamcrypt doctor --drill REGION`` that opens records with that region alone."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from streamcrypt.audit.plan import make_plan
from streamcrypt.cli.compose import admin_config, build_provider, consumer_config, unusable_client
from streamcrypt.cli.doctor_cluster import Leg
from streamcrypt.cli.doctor_keys import configured_keks, make_inspector
from streamcrypt.config import PipelineSettings, Settings
from streamcrypt.config.tenants import mapped_keks
from streamcrypt.crypto.data_key import wipe
from streamcrypt.decryptor import Decryptor
from streamcrypt.diagnosis.drill import Sampler, drill_partition, judge_partition
from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.encryptor import header_list
from streamcrypt.envelope.header import OUR_PREFIX, build_context
from streamcrypt.errors import ConfigError, KeyServiceError, KeyUnavailable
from streamcrypt.keys.aws_kms.names import check_region
from streamcrypt.keys.rotation import CachePolicy
from streamcrypt.keys.tenants_template import TOPIC_FIELD

__all__ = ["MOST_VALUES", "drill_findings"]

_NO_BUDGET = 10**9
MOST_VALUES = 20
"""Values of a template's mapping for which a data key is minted."""


def drill_findings(
    settings: Settings, legs: Sequence[Leg], region: str, most: int, there: Container[str]
) -> Iterator[Finding]:
    """Open a sample of every sealed topic with one region alone, and mint a data key there for every sealing pipeline.

    Args:
        settings: The configuration.
        legs: The pipelines with their topics.
        region: The region that is left.
        most: Records a partition.
        there: The topics that exist.

    Raises:
        ConfigError: There is no region to drill with, or the configuration cannot be used.
        KafkaException: The cluster does not answer.
    """
    if settings.keys.provider != "aws-kms":
        raise ConfigError("--drill goes with AWS KMS: a keyring knows no regions", remedy="Leave --drill out.")
    check_region(region, "--drill")
    silent = _silence(settings, region)
    if silent is not None:
        remedy = "Check the region's name, endpoint_url, and the network from here to it."
        yield fail(Check.DRILL_REGION, region, f"KMS does not answer there: {silent}", remedy)
        return
    yield ok(Check.DRILL_REGION, region, "KMS answers")
    seen: set[str] = set()
    for leg in sorted(legs, key=lambda one: one.pipeline.mode == "encrypt"):  # readers know what they trust
        topics = [topic for topic in leg.sealed if topic not in seen]
        seen.update(topics)
        for topic in [topic for topic in topics if topic not in there]:
            topics.remove(topic)
            yield fail(Check.DRILL_OPENS, topic, "does not exist", "Create it, or correct the configuration.")
        with ExitStack() as stack:
            provider = _confined(settings, leg.pipeline, region, stack)
            if topics:
                yield from _opening(settings, leg.pipeline, provider, topics, region, most)
            mints = leg.pipeline.mode == "encrypt" or leg.pipeline.how == "reseal"
            if mints and leg.ways:
                yield from _sealing(settings, leg, provider, region)


def _silence(settings: Settings, region: str) -> str | None:
    """Say why KMS in a region gives no answer; None where it gives one, be it a refusal."""
    name = next(iter(configured_keks(settings)))
    if name.startswith("arn:"):
        name = ":".join([*name.split(":")[:3], region, *name.split(":")[4:]])
    with closing(make_inspector(settings.keys.model_copy(update={"region": region}))) as inspector:
        try:
            inspector.describe(name)
        except KeyUnavailable as error:
            return str(error)
        except KeyServiceError:
            return None
    return None


def _confined(settings: Settings, pipeline: PipelineSettings, region: str, stack: ExitStack) -> Any:
    provider: Any = stack.enter_context(closing(build_provider(settings.keys, trusted_keys=pipeline.trusted_keys)))
    return stack.enter_context(closing(provider.confined_to(region)))


def _opening(
    settings: Settings, pipeline: PipelineSettings, provider: Any, topics: Sequence[str], region: str, most: int
) -> Iterator[Finding]:
    # As a reader of these pipelines, but patient, and with no budget for refusals: those are what is looked for.
    opener = Decryptor(
        provider,
        CachePolicy(settings.cache.max_entries, settings.cache.ttl, refused_misses_per_minute=_NO_BUDGET),
        settings.context,
        settings.topic_names,
        require_bound=pipeline.bound,
        framing=pipeline.framing,
        tombstones=pipeline.tombstones,
    )
    try:
        plan = make_plan(AdminClient(admin_config(settings, pipeline)), topics)
        sampler = Sampler(consumer_config(settings, pipeline))
    except KafkaException as error:
        raise unusable_client(settings, error) from None

    def opens(message: Any) -> object:
        return opener.decrypt(message.topic(), message.value(), message.key(), header_list(message.headers()))

    with closing(opener), closing(sampler):
        for what, why in plan.unreadable.items():
            yield fail(Check.DRILL_OPENS, what, f"could not be read: {why}", "Mend that and drill again.")
        for place in plan.places.values():
            yield judge_partition(region, drill_partition(sampler, place, most, opens))


def _sealing(settings: Settings, leg: Leg, provider: Any, region: str) -> Iterator[Finding]:
    check, name = Check.DRILL_SEALS, leg.pipeline.name
    target = next(iter(leg.ways.values()))
    for subject, context in _contexts(settings, settings.topic_names.get(target, target)):
        whose = f"{name}, {subject}" if subject else name
        try:
            minted = provider.generate_data_key(context)
        except (KeyServiceError, ConfigError) as error:
            remedy = "Add a KEK of that region, or a replica there, to the configuration."
            if settings.keys.require != "any" and len(settings.keys.key_id or ()) > 1:
                remedy = "That is what require: all means: sealing waits, and goes on by itself. 'any' does not wait."
            yield warn(check, whose, f"seals nothing with {region} alone: {error}", remedy)
            continue
        wipe(minted.plaintext)
        wrapped = ", ".join(key.key_id for key in minted.encrypted)
        yield ok(check, whose, f"a data key was minted with {region} alone, wrapped for {wrapped}")


def _contexts(settings: Settings, topic: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the encryption contexts to seal in: one, or one for each value of a template's mapping."""
    context, template = dict(build_context(settings.context, topic)), settings.keys.template
    if template is None:
        yield "", context
        return
    for values in list(mapped_keks(settings.keys))[:MOST_VALUES]:
        chosen = dict(zip(template.fields, values, strict=True))
        if chosen.get(TOPIC_FIELD, topic) == topic:
            pairs = {OUR_PREFIX + field: value for field, value in chosen.items()}
            yield "/".join(values), {**context, **pairs}
