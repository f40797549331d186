"""The part of ``streamcrypt doctor`` that asks AWS: KEKs, rotation, replicas, permissions, CloudTrail, credentials."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

from streamcrypt.cli.doctor_cluster import Leg
from streamcrypt.cli.policy_needs import KeyFinder, needs_of
from streamcrypt.config import KeysSettings, Settings
from streamcrypt.config.tenants import mapped_keks
from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.diagnosis.host import judge_clock, judge_credentials, judge_trails
from streamcrypt.diagnosis.keys import (
    Permission,
    judge_key,
    judge_permissions,
    judge_replicas,
    judge_rotation,
)
from streamcrypt.envelope.header import TOPIC_CONTEXT
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.keys.aws_kms.facts import Allowed, KeyFacts
from streamcrypt.keys.aws_kms.inspection import KeyInspector
from streamcrypt.keys.aws_kms.trails import TrailInspector
from streamcrypt.policies.needs import Need, Role

__all__ = ["MOST_TOPICS", "aws_findings", "configured_keks", "make_inspector", "regions_of"]

MOST_TOPICS = 20
"""Topics a pipeline whose encryption contexts are tried: a policy that names patterns answers alike for the others."""
_WORKING = frozenset({Role.ENCRYPTOR, Role.DECRYPTOR, Role.RE_ENCRYPTOR})
_NEVER_NEEDED = {"encrypt": ("Decrypt",), "decrypt": ("GenerateDataKey", "Encrypt"), "reencrypt": ()}
_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_CLOUDTRAIL = "AWS_ENDPOINT_URL_CLOUDTRAIL"


def make_inspector(keys: KeysSettings) -> KeyInspector:
    """Make what asks KMS, with the endpoints of a configuration. No call is made."""
    return KeyInspector(region=keys.region, endpoint_url=keys.endpoint_url, insecure_endpoint=keys.insecure_endpoint)


def configured_keks(settings: Settings) -> tuple[str, ...]:
    """Give the names of the KEKs under which the configuration seals, most preferred first."""
    letters = [p.dead_letter_key for p in settings.pipelines if p.dead_letter_key]
    return tuple(dict.fromkeys([*settings.keys.kek_names, *letters]))


def regions_of(keys: KeysSettings) -> tuple[str, ...]:
    """Give every region that the configuration counts on, in order of preference."""
    return tuple(dict.fromkeys([*([keys.region] if keys.region else []), *keys.regions]))


def aws_findings(
    settings: Settings, legs: Sequence[Leg], environ: Mapping[str, str], now: datetime
) -> Iterator[Finding]:
    """Ask AWS about everything that the configuration names.

    Args:
        settings: The configuration, with AWS KMS as key service.
        legs: The pipelines with their topics; without topics no permission is tried.
        environ: Says whether CloudTrail has an endpoint of its own.
        now: The time.
    """
    inspector = make_inspector(settings.keys)
    try:
        yield from _credentials(inspector, now)
        found: dict[str, KeyFacts] = {}
        ours, trusted = configured_keks(settings), _trusted(settings)
        for name in dict.fromkeys([*ours, *trusted]):
            facts = yield from _one(settings, inspector, name, name in ours, now)
            if facts is not None:
                found[name] = facts
        yield from judge_permissions(list(_permissions(settings, inspector, legs, found)))
        yield judge_clock(inspector.skew, "KMS")
    finally:
        inspector.close()
    yield from _trails(settings.keys, sorted({facts.region for facts in found.values()}), environ)


def _credentials(inspector: KeyInspector, now: datetime) -> Iterator[Finding]:
    try:
        yield judge_credentials(inspector.credentials(), now.astimezone(UTC))
    except (ConfigError, KeyServiceError) as error:
        yield fail(Check.CREDENTIALS, "", str(error), error.remedy)


def _trusted(settings: Settings) -> tuple[str, ...]:
    named = [arn for p in settings.pipelines for arn in p.trusted_keys or ()]
    if settings.keys.template is not None:
        named += [arn for kek in mapped_keks(settings.keys).values() for arn in kek.trusted_keys]
    return tuple(dict.fromkeys([*settings.keys.trusted_keys, *named]))


def _one(
    settings: Settings, inspector: KeyInspector, name: str, seals: bool, now: datetime
) -> Generator[Finding, None, KeyFacts | None]:
    """Ask about one KEK; return what DescribeKey said, None where it said nothing."""
    try:
        facts = inspector.describe(name)
    except (ConfigError, KeyServiceError) as error:
        denied = f"not known: {error}"
        remedy = error.remedy or f"Allow kms:DescribeKey on {name} to this login."
        yield warn(Check.KEY_KIND, name, denied, remedy)
        return None
    yield from judge_key(facts)
    regions = regions_of(settings.keys)
    states = {region: _state(inspector, facts, region) for region in regions if facts.primary}
    yield from judge_replicas(facts, regions, states)
    if seals:
        try:
            rotation = None if facts.why_not_rotatable() else inspector.rotation(facts.arn)
        except (ConfigError, KeyServiceError) as error:
            yield warn(Check.ROTATION, facts.arn, f"not known: {error}", error.remedy or "Mend that, and try again.")
        else:
            yield from judge_rotation(facts, rotation, now)
    return facts


def _state(inspector: KeyInspector, key: KeyFacts, region: str) -> str | None:
    arns = {arn.split(":")[3]: arn for arn in (key.primary, *key.replicas, key.arn)}
    if region not in arns:
        return None
    try:
        return inspector.describe(arns[region]).state
    except (ConfigError, KeyServiceError):
        return None


def _permissions(
    settings: Settings, inspector: KeyInspector, legs: Sequence[Leg], found: Mapping[str, KeyFacts]
) -> Iterator[Permission]:
    finder = KeyFinder({name: facts.arn for name, facts in found.items()}, offline=True)
    for leg in legs:
        alone = settings.model_copy(update={"pipelines": (leg.pipeline,)})
        needs = [need for need in needs_of(alone, finder) if need.role in _WORKING and need.context is not None]
        topics = [settings.topic_names.get(topic, topic) for topic in leg.sealed]
        topics += [leg.pipeline.dead_letter] if leg.pipeline.dead_letter and leg.pipeline.mode == "encrypt" else []
        for need in needs:
            for context in list(_contexts(need, topics))[:MOST_TOPICS]:
                yield from _tried(inspector, leg.pipeline.name, need, needs, context)
        for operation in _NEVER_NEEDED[leg.pipeline.mode]:
            yield from _excess(inspector, leg, operation, needs, topics)


def _contexts(need: Need, topics: Sequence[str]) -> Iterator[dict[str, str]]:
    assert need.context is not None
    for topic in dict.fromkeys(topics):
        if need.context.topics.holds(topic):
            yield {**dict(need.context.pairs), TOPIC_CONTEXT: topic}


def _tried(
    inspector: KeyInspector, pipeline: str, need: Need, needs: Sequence[Need], context: Mapping[str, str]
) -> Iterator[Permission]:
    operation = need.action.removeprefix("kms:")
    for arn in need.keys:
        if not arn.startswith("arn:"):
            detail = "which key this is could not be learnt"
            yield Permission(pipeline, operation, arn, context, True, Allowed.UNKNOWN, detail)
        elif operation == "ReEncryptFrom":
            yield from _re_encrypt(inspector, pipeline, arn, needs, context)
        elif operation != "ReEncryptTo":  # tried together with ReEncryptFrom
            allowed, detail = inspector.dry_run(operation, arn, context)
            yield Permission(pipeline, operation, arn, context, True, allowed, detail)


def _re_encrypt(
    inspector: KeyInspector, pipeline: str, source: str, needs: Sequence[Need], context: Mapping[str, str]
) -> Iterator[Permission]:
    """One call needs both permissions: a refusal does not say by its code which of them is missing."""
    region = source.split(":")[3]
    targets = dict.fromkeys(arn for need in needs if need.action == "kms:ReEncryptTo" for arn in need.keys)
    for target in targets:
        if target.split(":")[3] == region:
            allowed, detail = inspector.dry_run("ReEncrypt", target, context, source=source)
            yield Permission(pipeline, "ReEncryptFrom", source, context, True, allowed, detail)
            yield Permission(pipeline, "ReEncryptTo", target, context, True, allowed, detail)


def _excess(
    inspector: KeyInspector, leg: Leg, operation: str, needs: Sequence[Need], topics: Sequence[str]
) -> Iterator[Permission]:
    contexts = [context for need in needs for context in _contexts(need, topics)]
    for arn in dict.fromkeys(arn for need in needs for arn in need.keys if arn.startswith("arn:")):
        for context in contexts[:1]:
            allowed, detail = inspector.dry_run(operation, arn, context)
            yield Permission(leg.pipeline.name, operation, arn, context, False, allowed, detail)


def _trails(keys: KeysSettings, regions: Sequence[str], environ: Mapping[str, str]) -> Iterator[Finding]:
    foreign = sorted({host for url in keys.endpoint_urls if not (host := str(urlsplit(url).hostname)).endswith(_AWS)})
    if foreign and not environ.get(_CLOUDTRAIL):
        yield ok(Check.TRAIL, ", ".join(foreign), "is no endpoint of AWS: there is no CloudTrail to look at")
        return
    inspector = TrailInspector(insecure_endpoint=keys.insecure_endpoint)
    try:
        for region in regions:
            try:
                yield judge_trails(region, inspector.trails(region))
            except (ConfigError, KeyServiceError) as error:
                yield judge_trails(region, None, str(error))
    finally:
        inspector.close()
