"""``streamcrypt check``: try everything that a configuration names, and say line by line what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from streamcrypt.cli.compose import (
    build_decryptor,
    build_encryptor,
    build_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.exits import Exit
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.errors import ConfigError, KeyServiceError
from streamcrypt.observe.http import port_is_free
from streamcrypt.sidecar.spec import PipelineSpec
from streamcrypt.sidecar.topics import RouteProblem, Routes

__all__ = ["Finding", "check", "topic_findings"]

BROKER_TIMEOUT = 5.0  # seconds; a reachable cluster answers within one


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer.

    Attributes:
        subject: config, broker, topics, key or http.
        text: What was found.
        code: DONE where it is well, else how the command will end.
        remedy: What to do.
        where: The place of the setting that is at fault; empty where none is.
    """

    subject: str
    text: str
    code: Exit = Exit.DONE
    remedy: str = ""
    where: str = ""

    def __str__(self) -> str:
        line = f"{'fail' if self.code else 'ok':<6}{self.subject:<8}{self.text}"
        notes = [f"{'':14}{note}" for note in (self.remedy, self.where and f"set at {self.where}") if note]
        return "\n".join([line, *notes])


def check(path: Path) -> Exit:
    """Try a configuration and print what was found.

    Returns:
        DONE where everything is in place; FAILED where the world is at fault; USAGE where the configuration is.

    Raises:
        ConfigProblems: The configuration cannot be used at all.
    """
    settings = load(path)
    count = len(settings.pipelines)
    findings = [Finding("config", f"{path}: {count} {'pipeline' if count == 1 else 'pipelines'}")]
    print(findings[0])
    with _quiet_libraries():
        for finding in _findings(settings):
            print(finding, flush=True)
            findings.append(finding)
    return max(finding.code for finding in findings)


def _findings(settings: Settings) -> Iterator[Finding]:
    try:
        sources = yield from _topics(settings, "consumer")
        targets = None
        if sources is not None:
            targets = yield from _topics(settings, "producer")
        for index, pipeline in enumerate(settings.pipelines):
            if sources is not None and targets is not None:
                yield from topic_findings(settings, index, settings.spec(pipeline), sources, targets)
    except ConfigError as error:
        yield Finding("broker", str(error), Exit.USAGE, error.remedy)
    yield from _key_findings(settings)
    yield from _http_findings(settings)


def _topics(settings: Settings, kind: str) -> Generator[Finding, None, dict[str, int] | None]:
    """List the topics as the consumer or the producer sees them; the two may log in differently."""
    pipeline = settings.pipelines[0]
    troubles: list[str] = []
    callbacks = {"error_cb": lambda error: troubles.append(_text(error))}
    client: Consumer | Producer
    try:
        if kind == "consumer":
            client = Consumer({**consumer_config(settings, pipeline), **callbacks})
        else:
            client = Producer({**producer_config(settings, pipeline), **callbacks})
    except KafkaException as error:
        raise unusable_client(settings, error) from None
    try:
        listing = client.list_topics(timeout=BROKER_TIMEOUT)
    except KafkaException as error:
        client.poll(0)  # hands over what went wrong underneath
        yield _unreachable(settings, kind, error.args[0], troubles)
        return None
    finally:
        if isinstance(client, Consumer):
            client.close()
    partitions = {name: len(topic.partitions) for name, topic in listing.topics.items() if topic.error is None}
    yield Finding("broker", f"{settings.kafka.bootstrap_servers} answers the {kind}: {len(partitions)} topics")
    return partitions


def _unreachable(settings: Settings, kind: str, error: KafkaError, troubles: list[str]) -> Finding:
    cause = troubles[0] if troubles else _text(error)
    return Finding(
        "broker",
        f"{settings.kafka.bootstrap_servers} gives the {kind} no answer within {BROKER_TIMEOUT:.0f} s: {cause}",
        Exit.FAILED,
        "Is the broker up, the name right, the port open, and security.protocol what that listener speaks?",
        settings.where("kafka", "bootstrap.servers"),
    )


def _text(error: KafkaError) -> str:
    return str(error.str())


def topic_findings(
    settings: Settings, index: int, spec: PipelineSpec, sources: dict[str, int], targets: dict[str, int]
) -> Iterator[Finding]:
    """Hold one pipeline's topics against the cluster.

    Args:
        settings: For the places in the file.
        index: The pipeline's index in the file.
        spec: The pipeline.
        sources: Topic to number of partitions, as the consumer sees them.
        targets: The same, as the producer sees them.
    """
    routes = Routes(spec, targets)
    for source in spec.sources:
        if not source.startswith("^") and source not in sources:
            remedy = "Create it, correct 'from', or allow this user to describe it."
            where = settings.where("pipelines", index, "from")
            text = f"{spec.name}: the source topic {source!r} does not exist"
            yield Finding("topics", text, Exit.FAILED, remedy, where)
    read = [topic for topic in sorted(sources) if spec.reads(topic)]
    for source in read:
        try:
            target = routes.target_of(source, sources[source] - 1)
        except RouteProblem as problem:
            text = str(problem).removeprefix(f"pipeline {spec.name!r}: ")
            where = settings.where("pipelines", index, "to")
            yield Finding("topics", f"{spec.name}: {text}", Exit.FAILED, problem.remedy, where)
        else:
            text = f"{source} ({_partitions(sources[source])}) to {target} ({_partitions(targets[target])})"
            yield Finding("topics", f"{spec.name}: {text}")
    if not read and any(source.startswith("^") for source in spec.sources):
        yield Finding("topics", f"{spec.name}: no topic matches yet; one that does is read within 30 s of its creation")


def _partitions(count: int) -> str:
    return f"{count} partition{'' if count == 1 else 's'}"


def _key_findings(settings: Settings) -> Iterator[Finding]:
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
        yield Finding("key", str(error), Exit.USAGE, error.remedy or _remedy(settings), where)
    except KeyServiceError as error:
        yield Finding("key", f"{name}: {error}", Exit.FAILED, error.remedy, where)
    else:
        yield Finding("key", name if found == name else f"{name} is {found}")
        if settings.keys.provider == "local":
            yield Finding("key", "the local provider is for development and tests only")


def _remedy(settings: Settings) -> str:
    if settings.keys.provider != "local":
        return ""
    make = f"streamcrypt.LocalKeyProvider.generate().save({settings.keys.keyring!r})"
    return f'Make one: python -c "import streamcrypt; {make}"'


def _build_cipher(settings: Settings, pipeline: PipelineSettings, provider: Any) -> None:
    build = build_encryptor if pipeline.mode == "encrypt" else build_decryptor
    build(settings, pipeline, provider).close()


def _http_findings(settings: Settings) -> Iterator[Finding]:
    host, port = settings.http.host, settings.http.port
    if reason := port_is_free(host, port):
        remedy = "Stop what listens there (a running sidecar?), or choose another 'port' or 'host' under 'http'."
        where = settings.where("http", "port")
        yield Finding("http", f"{host}:{port} cannot be listened on: {reason}", Exit.FAILED, remedy, where)
    else:
        yield Finding("http", f"{host}:{port} is free")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep foreign log lines off the screen: what they say is in the findings."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
