"""``streamcrypt check``: try everything that a configuration names, and say line by line what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from streamcrypt.cli.compose import (
    build_decryptor,
    build_encryptor,
    build_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.compose_reencrypt import build_reencryption
from streamcrypt.cli.exits import Exit
from streamcrypt.clients.msk_iam import BrokerLoginFailed
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.diagnosis.cluster import BROKER_TIMEOUT, Unreachable, list_partitions
from streamcrypt.diagnosis.findings import Check, Finding, Level, fail, ok
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.observe.http import port_is_free
from streamcrypt.sidecar.link import remedy_of
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.topics import RouteProblem, Routes

__all__ = ["check", "exit_code", "key_findings", "port_findings", "quiet_libraries", "reach", "topic_findings"]

Partitions = Mapping[str, int]
"""Every topic that a login may see, and the number of its partitions."""


def check(path: Path) -> Exit:
    """Try a configuration and print what was found.

    Returns:
        DONE where everything is in place; FAILED where the world is at fault; USAGE where the configuration is.

    Raises:
        ConfigProblems: The configuration cannot be used at all.
    """
    settings = load(path)
    count = len(settings.pipelines)
    findings = [ok(Check.CONFIG, str(path), f"{count} {'pipeline' if count == 1 else 'pipelines'}")]
    print(findings[0])
    with quiet_libraries():
        for finding in _findings(settings):
            print(finding, flush=True)
            findings.append(finding)
    return exit_code(findings)


def exit_code(findings: Sequence[Finding]) -> Exit:
    """DONE where nothing failed; FAILED where the world is at fault; USAGE where the configuration is."""
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if not failed:
        return Exit.DONE
    return Exit.USAGE if any(finding.misconfigured for finding in failed) else Exit.FAILED


def _findings(settings: Settings) -> Iterator[Finding]:
    reached = yield from reach(settings)
    if reached is not None:
        for index, pipeline in enumerate(settings.pipelines):
            yield from topic_findings(settings, index, settings.spec(pipeline), *reached)
    yield from key_findings(settings)
    yield from port_findings(settings)


def reach(settings: Settings) -> Generator[Finding, None, tuple[Partitions, Partitions] | None]:
    """List the topics as consumers and as producers see them; the two may log in differently. None: no answer."""
    pipeline = settings.pipelines[0]
    seen: list[Partitions] = []
    for side, config in (("consumer", consumer_config), ("producer", producer_config)):
        try:
            partitions = list_partitions(config(settings, pipeline), side)
        except BrokerLoginFailed as error:
            yield fail(Check.BROKER, "", str(error), error.remedy, settings.where("kafka", "msk_iam"))
            return None
        except Unreachable as trouble:
            yield _unreachable(settings, side, str(trouble))
            return None
        except KafkaException as error:
            refused = unusable_client(settings, error)
            yield fail(Check.BROKER, "", str(refused), refused.remedy, misconfigured=True)
            return None
        answers = f"{settings.kafka.bootstrap_servers} answers the {side}"
        yield ok(Check.BROKER, answers, f"{len(partitions)} topics")
        seen.append(partitions)
    return seen[0], seen[1]


def _unreachable(settings: Settings, side: str, cause: str) -> Finding:
    return fail(
        Check.BROKER,
        "",
        f"{settings.kafka.bootstrap_servers} gives the {side} no answer within {BROKER_TIMEOUT:.0f} s: {cause}",
        remedy_of(cause),
        settings.where("kafka", "bootstrap.servers"),
    )


def topic_findings(
    settings: Settings, index: int, spec: PipelineSpec, sources: Partitions, targets: Partitions
) -> Iterator[Finding]:
    """Hold one pipeline's topics against the cluster.

    Args:
        settings: For the places in the file.
        index: The pipeline's index in the file.
        spec: The pipeline.
        sources: Topic to number of partitions, as the consumer sees them.
        targets: The same, as the producer sees them.
    """
    routes = Routes(spec, dict(targets))
    for source in spec.sources:
        if not source.startswith("^") and source not in sources:
            remedy = "Create it, correct 'from', or allow this user to describe it."
            where = settings.where("pipelines", index, "from")
            yield fail(Check.TOPICS, spec.name, f"the source topic {source!r} does not exist", remedy, where)
    read = [topic for topic in sorted(sources) if spec.reads(topic)]
    for source in read:
        try:
            target = routes.target_of(source, sources[source] - 1)
        except RouteProblem as problem:
            text = str(problem).removeprefix(f"pipeline {spec.name!r}: ")
            where = settings.where("pipelines", index, "to")
            yield fail(Check.TOPICS, spec.name, text, problem.remedy, where)
        else:
            text = f"{source} ({_partitions(sources[source])}) to {target} ({_partitions(targets[target])})"
            yield ok(Check.TOPICS, spec.name, text)
    if spec.dead_letter and spec.dead_letter not in targets:
        where = settings.where("pipelines", index, "dead_letter")
        text = f"the dead-letter topic {spec.dead_letter!r} does not exist"
        yield fail(Check.TOPICS, spec.name, text, "Create it, or correct 'dead_letter'.", where)
    if not read and any(source.startswith("^") for source in spec.sources):
        yield ok(Check.TOPICS, spec.name, "no topic matches yet; one that does is read within 30 s of its creation")


def _partitions(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"


def key_findings(settings: Settings) -> Iterator[Finding]:
    """Build what seals and opens, and look the configured KEKs up."""
    name = settings.keys.keyring or ", ".join(settings.keys.key_id or ())
    where = settings.where("keys", "keyring" if settings.keys.provider == "local" else "key_id")
    try:
        provider = build_provider(settings.keys)
        try:
            for pipeline in settings.pipelines:
                _build_cipher(settings, pipeline, provider)
            found = provider.check()
        finally:
            provider.close()
    except ConfigError as error:
        yield fail(Check.KEY, "", str(error), error.remedy or _remedy(settings), where, misconfigured=True)
    except KeyServiceError as error:
        yield fail(Check.KEY, name, str(error), error.remedy, where)
    else:
        means = ": the first in service is" if len(settings.keys.key_id or ()) > 1 else " is"
        yield ok(Check.KEY, "", name if found == name else f"{name}{means} {found}")
        if settings.keys.provider == "local":
            yield ok(Check.KEY, "", "the local provider is for development and tests only")


def _remedy(settings: Settings) -> str:
    if settings.keys.provider != "local":
        return ""
    make = f"streamcrypt.LocalKeyProvider.generate().save({settings.keys.keyring!r})"
    return f'Make one: python -c "import streamcrypt; {make}"'


def _build_cipher(settings: Settings, pipeline: PipelineSettings, provider: Any) -> None:
    if pipeline.mode == "reencrypt":
        build_reencryption(settings, pipeline, provider).close()
        return
    build = build_encryptor if pipeline.mode == "encrypt" else build_decryptor
    build(settings, pipeline, provider).close()


def port_findings(settings: Settings) -> Iterator[Finding]:
    """Try the port of metrics and health."""
    host, port = settings.http.host, settings.http.port
    if reason := port_is_free(host, port):
        remedy = "Stop what listens there (a running sidecar?), or choose another 'port' or 'host' under 'http'."
        where = settings.where("http", "port")
        yield fail(Check.PORT, "", f"{host}:{port} cannot be listened on: {reason}", remedy, where)
    else:
        yield ok(Check.PORT, "", f"{host}:{port} is free")
    try:
        settings.http.read_token()
    except ConfigError as error:
        yield fail(Check.PORT, "", str(error), error.remedy, settings.where("http", "token_file"))


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep foreign log lines off the screen: what they say is in the findings."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
