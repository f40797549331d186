"""Rules between settings: which key service takes which fields, and where records would run in a circle."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamcrypt.config.fields import TOPIC_PLACEHOLDER, is_topic_name
from streamcrypt.config.model import Settings
from streamcrypt.config.pipelines import PipelineSettings
from streamcrypt.config.sections import KeysSettings
from streamcrypt.config.source import SettingPath
from streamcrypt.config.tenants import mapping_findings
from streamcrypt.crypto.suites import Suite
from streamcrypt.errors import ConfigError
from streamcrypt.keys.aws_kms.names import MAX_KEKS, check_endpoint, parse_key_arn, parse_key_name

__all__ = ["Finding", "key_findings", "naming_findings", "pipeline_findings", "tenant_findings"]

Finding = tuple[SettingPath, str, str]
"""Path, what is wrong, what to do."""

Indexed = Mapping[int, PipelineSettings]

_AWS_ONLY = ("key_id", "require", "region", "regions", "endpoint_url", "insecure_endpoint", "trusted_keys")


def key_findings(keys: KeysSettings) -> Iterator[Finding]:
    """Hold the key service's fields against each other."""
    if keys.provider == "local":
        yield from _local_findings(keys)
        return
    if keys.keyring is not None:
        yield ("keys", "keyring"), "goes with 'provider: local' only", "Remove it, or write 'provider: local'."
    if keys.key_id is None:
        yield ("keys", "key_id"), "is missing", "Add 'key_id: alias/NAME', an alias ARN or a key ARN."
    yield from mapping_findings(keys)
    yield from _region_findings(keys)
    yield from _endpoint_findings(keys)


def _region_findings(keys: KeysSettings) -> Iterator[Finding]:
    # A template stands for names that are not known yet.
    names = [parse_key_name(key_id) for key_id in keys.key_id or () if "{" not in key_id]
    elsewhere = [name.region for name in names if not name.may_be_in(keys.region or name.region)]
    if names and len(elsewhere) == len(names):
        message = f"is {keys.region}, but the key is in {elsewhere[0]}"
        yield ("keys", "region"), message, f"Write 'region: {elsewhere[0]}', or remove the line."
    several = [*names, *(parse_key_arn(arn, "trusted_keys") for arn in keys.trusted_keys)]
    if keys.regions and names and not any(name.may_be_multi_region for name in several):
        message = "goes with multi-region keys, and the keys configured are none"
        yield ("keys", "regions"), message, "Remove it, or name multi-region keys: their ids begin with mrk-."
    if keys.require == "any" and len(names) == 1:
        yield ("keys", "require"), "'any' goes with several key ids", "Remove it, or name several keys in 'key_id'."
    if len(names) > MAX_KEKS:
        yield ("keys", "key_id"), f"has {len(names)} keys; an envelope holds {MAX_KEKS}", f"Name at most {MAX_KEKS}."


def _local_findings(keys: KeysSettings) -> Iterator[Finding]:
    if keys.keyring is None:
        yield ("keys", "keyring"), "is missing", "Add 'keyring: PATH', the path of a keyring file."
    yield from mapping_findings(keys)
    for name in _AWS_ONLY:
        if name == "key_id" and keys.template is not None:
            continue
        if name in keys.model_fields_set and getattr(keys, name):
            yield ("keys", name), "goes with 'provider: aws-kms' only", "Remove it; the keyring holds the keys."


def _endpoint_findings(keys: KeysSettings) -> Iterator[Finding]:
    if isinstance(keys.endpoint_url, Mapping):
        names = [parse_key_name(key_id) for key_id in keys.key_id or () if "{" not in key_id]
        trusted = [parse_key_arn(arn, "trusted_keys") for arn in keys.trusted_keys]
        needed = dict.fromkeys((keys.region, *keys.regions, *(name.region for name in [*names, *trusted])))
        regions = [region for region in needed if region]
        for region in keys.endpoint_url:
            if region not in regions:
                message = f"has a URL for {region}, which is not the region of any key here"
                yield ("keys", "endpoint_url", region), message, "Remove it, or add the region to 'regions'."
        for region in regions:
            if region not in keys.endpoint_url:
                message = f"has no URL for {region}"
                yield ("keys", "endpoint_url"), message, f"Add '{region}: URL', or leave endpoint_url out: AWS's own."
    for url in keys.endpoint_urls:
        try:
            check_endpoint(url, insecure=keys.insecure_endpoint)
        except ConfigError as error:
            yield ("keys", "endpoint_url"), str(error).removeprefix("endpoint_url: "), error.remedy


def pipeline_findings(pipelines: Indexed) -> Iterator[Finding]:
    """Hold pipelines against each other.

    Args:
        pipelines: Index in the file to pipeline; those that are not sound by themselves are missing.
    """
    yield from _repeats(pipelines, "name", lambda p: p.name)
    yield from _repeats(pipelines, "group", lambda p: p.group)
    yield from _repeats(
        {i: p for i, p in pipelines.items() if p.dead_letter}, "dead_letter", lambda p: str(p.dead_letter)
    )
    for index, pipeline in pipelines.items():
        path = ("pipelines", index)
        if pipeline.mode == "decrypt" and pipeline.suite is not Suite.AES_256_GCM:
            message = "does not count when decrypting: each envelope names its own suite"
            yield (*path, "suite"), message, "Remove it."
        if pipeline.mode == "encrypt" and pipeline.trusted_keys is not None:
            yield (*path, "trusted_keys"), "does not count when encrypting", "Remove it."
        if pipeline.mode == "encrypt" and pipeline.sequence != "off":
            message = "does not count when encrypting: the reader looks for evidence"
            yield (*path, "sequence"), message, "Remove it, or set it on the decrypting pipeline."
        yield from _reencryption_findings(path, pipeline)
        yield from _cutover_findings(path, pipeline)
        yield from _dead_letter_findings(path, pipeline, pipelines)
        yield from _own_input(path, pipeline)
    sound = {
        index: p
        for index, p in pipelines.items()
        if not any(_own_input((), p)) and not any(_dead_letter_findings((), p, pipelines))
    }
    edges = _edges(sound)
    yield from _mixed_targets(pipelines, edges)
    yield from _chains(pipelines, edges)


def _reencryption_findings(path: SettingPath, pipeline: PipelineSettings) -> Iterator[Finding]:
    if pipeline.mode == "reencrypt":
        if pipeline.how is None:
            message = "is missing: mode reencrypt has two ways"
            yield (*path, "how"), message, "Write 'how: rewrap' (values stay as they are) or 'how: reseal'."
        if pipeline.how == "rewrap" and pipeline.suite is not Suite.AES_256_GCM:
            message = "does not count when rewrapping: values stay under the suite of their data key"
            yield (*path, "suite"), message, "Remove it, or write 'how: reseal'."
        return
    for name in ("how", "rate"):
        if getattr(pipeline, name) is not None:
            yield (*path, name), "goes with 'mode: reencrypt' only", "Remove it."


def tenant_findings(settings: Settings) -> Iterator[Finding]:
    """Hold pipelines to what goes with a KEK for each record."""
    if settings.keys.template is None:
        return
    for index, pipeline in enumerate(settings.pipelines):
        path = ("pipelines", index)
        if pipeline.trusted_keys is not None and (pipeline.mode == "decrypt" or pipeline.how == "rewrap"):
            message = "would be trusted for every tenant"
            remedy = "Put each under its tenant: VALUE: {trusted_keys: [ARN]} in mapping."
            yield (*path, "trusted_keys"), message, remedy
        needs_key = pipeline.mode == "encrypt" and pipeline.dead_letter and settings.keys.provider == "aws-kms"
        if needs_key and pipeline.dead_letter_key is None:
            message = "is missing: a record that leads to no KEK leaves a letter that needs one"
            yield (*path, "dead_letter_key"), message, "Name a KEK for the dead letters of all tenants."


def naming_findings(settings: Settings) -> Iterator[Finding]:
    """Hold the topics of rewrapping pipelines to one logical name: their envelopes keep the one they have."""
    logical = settings.topic_names
    for index, pipeline in enumerate(settings.pipelines):
        if pipeline.how != "rewrap" or TOPIC_PLACEHOLDER in pipeline.to:
            continue
        for topic in pipeline.topics:
            name = logical.get(topic, topic)
            if logical.get(pipeline.to, pipeline.to) != name:
                message = f"{pipeline.to!r}: rewrapped records stay bound to {name!r}, under which it has to be read"
                yield ("pipelines", index, "to"), message, f"Add '{pipeline.to}: {name}' under topic_names."


def _cutover_findings(path: SettingPath, pipeline: PipelineSettings) -> Iterator[Finding]:
    topics = pipeline.cutover.topics
    if topics and pipeline.mode == "encrypt":
        yield (*path, "plaintext"), "pass_until does not count when encrypting", "Remove it."
        return
    for topic in topics:
        if not any(source == topic or (source[0] == "^" and re.fullmatch(source, topic)) for source in pipeline.source):
            message = f"names {topic!r}, which this pipeline does not read"
            yield (*path, "plaintext", "pass_until", topic), message, "Name the topic as in 'from', or remove it."


def _dead_letter_findings(path: SettingPath, pipeline: PipelineSettings, pipelines: Indexed) -> Iterator[Finding]:
    topic = pipeline.dead_letter
    if pipeline.on_failure == "dead_letter" and topic is None:
        yield (*path, "on_failure"), "needs a topic", "Add 'dead_letter: TOPIC', or write 'on_failure: halt'."
    if pipeline.on_failure != "dead_letter" and topic is not None:
        yield (*path, "dead_letter"), "goes with 'on_failure: dead_letter'", "Write both, or neither."
    if pipeline.dead_letter_key is not None and (topic is None or pipeline.mode != "encrypt"):
        message = "seals the dead letters of an encrypting pipeline, and there are none"
        yield (*path, "dead_letter_key"), message, "Remove it."
    if topic is None:
        return
    for index, other in pipelines.items():
        if topic in other.topics or topic == other.to:
            what = "reads" if topic in other.topics else "writes"
            message = f"is {topic!r}, which pipelines[{index}] {what}"
            yield (
                (*path, "dead_letter"),
                message,
                "Keep dead letters on a topic of their own.",
            )


def _repeats(pipelines: Indexed, field: str, of: Callable[[PipelineSettings], str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, pipeline in pipelines.items():
        value = of(pipeline)
        if value in first:
            message = f"{value!r} is also that of pipelines[{first[value]}]"
            yield ("pipelines", index, field), message, "Give each pipeline its own."
        first.setdefault(value, index)


def _own_input(path: SettingPath, pipeline: PipelineSettings) -> Iterator[Finding]:
    if pipeline.to == TOPIC_PLACEHOLDER:
        message = f"{pipeline.to!r} writes every record back onto its own topic"
        yield (*path, "to"), message, 'Write another topic, such as "{topic}.encrypted".'
        return
    for topic in pipeline.topics:
        target = pipeline.to.replace(TOPIC_PLACEHOLDER, topic)
        if target in pipeline.topics:
            message = f"writes to {target!r}, which this pipeline reads"
            yield (*path, "to"), message, "Write to a topic that no 'from' names."
        elif not is_topic_name(target):
            message = f"{target!r}, made from {topic!r}, is longer than 249 characters"
            yield (*path, "to"), message, "Shorten the template."


Edge = tuple[int, str, str]
"""Index of a pipeline, a topic that it reads, the topic that it then writes."""


def _edges(pipelines: Indexed) -> Sequence[Edge]:
    """Follow every topic that the file names through the pipelines, regexes included."""
    together = Settings.model_construct(pipelines=tuple(pipelines.values()))
    specs = {index: together.spec(pipeline) for index, pipeline in pipelines.items()}
    topics = {topic for p in pipelines.values() for topic in p.topics}
    topics |= {p.to for p in pipelines.values() if TOPIC_PLACEHOLDER not in p.to}
    edges: list[Edge] = []
    # A chain longer than the pipelines passes one of them twice, which is a circle already.
    for _ in range(len(pipelines) + 1):
        edges = [
            (index, topic, spec.target_of(topic))
            for index, spec in specs.items()
            for topic in sorted(topics)
            if spec.reads(topic)
        ]
        topics |= {target for _, _, target in edges}
    return edges


def _mixed_targets(pipelines: Indexed, edges: Sequence[Edge]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    reported: set[int] = set()
    for index, _, target in edges:
        before = first.setdefault(target, index)
        if (pipelines[before].mode == "decrypt") != (pipelines[index].mode == "decrypt") and index not in reported:
            reported.add(index)
            message = f"writes to {target!r}, as pipelines[{before}] does in mode {pipelines[before].mode}"
            yield ("pipelines", index, "to"), message, "A topic holds plaintext or ciphertext, never both."


# What becomes of a record by the modes of the pipeline that writes it and the one that reads it then.
_DONE_TWICE = {
    ("encrypt", "encrypt"): "encrypted twice",
    ("reencrypt", "encrypt"): "encrypted twice",
    ("decrypt", "decrypt"): "decrypted twice",
    ("decrypt", "reencrypt"): "refused as plaintext",
    ("reencrypt", "reencrypt"): "re-encrypted twice",
}


def _chains(pipelines: Indexed, edges: Sequence[Edge]) -> Iterator[Finding]:
    reported: set[int] = set()
    for index, topic, target in edges:
        for reader, read, _ in edges:
            if read != target or reader in reported:
                continue
            if reader != index and (done := _DONE_TWICE.get((pipelines[index].mode, pipelines[reader].mode))):
                reported.add(reader)
                message = f"reads {target!r}, which pipelines[{index}] writes: records would be {done}"
                yield ("pipelines", reader, "from"), message, "Let one of the two pipelines go, or read another topic."
            elif topic in _reachable(target, edges):
                reported |= {index, reader}
                message = f"reads {target!r}, which pipelines[{index}] writes, and so feeds its own input: a circle"
                yield ("pipelines", reader, "from"), message, "Break the circle: write to a topic that is not read."


def _reachable(start: str, edges: Sequence[Edge]) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        topic = todo.pop()
        for _, read, target in edges:
            if read == topic and target not in seen:
                seen.add(target)
                todo.append(target)
    return seen
