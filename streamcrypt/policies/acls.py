"""What each command asks of the brokers' authorizer: the least ACLs that its work takes. One table for everybody.

``streamcrypt policy --acls`` prints it, docs/broker-security.md shows it, and tests run the commands with exactly it.
Source: Apache Kafka documentation, "Protocol primitives and ACLs"; KIP-98, KIP-447. Read and Write imply Describe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

__all__ = ["ACL", "CLUSTER", "Feature", "Login", "Pipe", "Resource", "acls_of", "as_one_login"]

CLUSTER = "kafka-cluster"
"""What Kafka calls the only resource of its kind."""

Kind = Literal["topic", "group", "transactional_id", "cluster"]
Login = Literal["consumer", "producer"]
_IMPLIED = {"Describe": ("Read", "Write")}


class Feature(StrEnum):
    """What is done, and so which ACLs it takes. ``check`` takes none besides those of ``run``."""

    RUN = "run"
    DOCTOR = "doctor"
    REPLAY = "replay"
    READ = "read"
    """``audit``, ``cat`` and ``cutover``: reading topics without a group."""
    REENCRYPT = "reencrypt"
    """The job ``streamcrypt reencrypt``; a pipeline with ``mode: reencrypt`` runs."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that an ACL is about.

    Attributes:
        kind: What it is.
        name: Its name, or ``*`` for every one.
        pattern: Whether the name is the whole name, or how names begin.
    """

    kind: Kind
    name: str
    pattern: Literal["literal", "prefixed"] = "literal"


@dataclass(frozen=True, slots=True)
class ACL:
    """One ACL that allows.

    Attributes:
        operation: Kafka's word, such as ``Read`` or ``DescribeConfigs``.
        resource: On what.
        login: Whose it is, where consumers and producers of a pipeline log in as different principals.
        why: What it is for, in a few words.
        optional: Whether the work goes on without it, and knows less.
    """

    operation: str
    resource: Resource
    login: Login
    why: str = ""
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipeline, or a job like one, as the brokers see it.

    Attributes:
        sources: Topics that it reads.
        targets: Topics that it writes.
        group: Its consumer group.
        member: How its transactional ids begin: ``<group>.<instance>.<worker>``.
        letters: Its dead-letter topic.
        exactly_once: Whether it writes in transactions.
        asks_for_compaction: Whether it wants to know of its sources whether they are compacted: ``sequence``.
    """

    sources: Sequence[Resource]
    targets: Sequence[Resource]
    group: Resource
    member: Resource
    letters: Resource | None = None
    exactly_once: bool = True
    asks_for_compaction: bool = False


def acls_of(feature: Feature, pipe: Pipe) -> tuple[ACL, ...]:
    """Give the ACLs that a feature takes for one pipeline, each once.

    Args:
        feature: What is done.
        pipe: With which names.
    """
    table = {
        Feature.RUN: _running,
        Feature.DOCTOR: _diagnosing,
        Feature.REPLAY: _replaying,
        Feature.READ: _reading,
        Feature.REENCRYPT: _reencrypting,
    }
    return tuple(dict.fromkeys(table[feature](pipe)))


def as_one_login(acls: Iterable[ACL]) -> tuple[ACL, ...]:
    """Drop what is there twice, or implied, where consumers and producers are the same principal."""
    found: dict[tuple[str, Resource], ACL] = {}
    for acl in acls:
        known = found.get((acl.operation, acl.resource))
        if known is None or (known.optional and not acl.optional):
            found[acl.operation, acl.resource] = acl
    return tuple(
        replace(acl, login="consumer")
        for (operation, resource), acl in found.items()
        if not any((wider, resource) in found for wider in _IMPLIED.get(operation, ()))
    )


def _running(pipe: Pipe) -> Iterator[ACL]:
    letters = [pipe.letters] if pipe.letters else []
    for source in pipe.sources:
        yield ACL("Read", source, "consumer", "fetch records")
    yield ACL("Read", pipe.group, "consumer", "join the group, commit offsets")
    for source in pipe.sources:
        if pipe.exactly_once:
            yield ACL("Read", source, "producer", "commit offsets in the transaction")
        else:
            yield ACL("Describe", source, "producer", "find the topics to read")
    for target in pipe.targets:
        yield ACL("Write", target, "producer", "write records")
    for topic in letters:
        yield ACL("Write", topic, "producer", "write dead letters")
    if pipe.exactly_once:
        yield ACL("Read", pipe.group, "producer", "commit offsets in the transaction")
        yield ACL("Write", pipe.member, "producer", "write in transactions")
    for topic in letters:
        yield ACL("DescribeConfigs", topic, "consumer", "refuse a compacted dead-letter topic", optional=True)
    if pipe.asks_for_compaction:
        for source in pipe.sources:
            yield ACL("DescribeConfigs", source, "consumer", "gaps are no evidence on a compacted topic", optional=True)


def _diagnosing(pipe: Pipe) -> Iterator[ACL]:
    """What doctor reads besides what the pipelines may: without any of it, it says ``not known``."""
    for source in pipe.sources:
        yield ACL("DescribeConfigs", source, "consumer", "compare the settings of topics", optional=True)
    for topic in [*pipe.targets, *([pipe.letters] if pipe.letters else [])]:
        yield ACL("DescribeConfigs", topic, "producer", "compare the settings of topics", optional=True)
    cluster = Resource("cluster", CLUSTER)
    if pipe.exactly_once:
        yield ACL("DescribeConfigs", cluster, "producer", "the broker's transaction.max.timeout.ms", optional=True)
        yield ACL("Describe", cluster, "producer", "list the ACLs of transactional ids", optional=True)


def _replaying(pipe: Pipe) -> Iterator[ACL]:
    """``streamcrypt replay``, beside nothing else: exactly once, whatever the pipeline does."""
    if pipe.letters is None:
        return
    yield ACL("Read", pipe.letters, "consumer", "read dead letters")
    yield ACL("Read", pipe.letters, "producer", "commit offsets in the transaction")
    yield ACL("Read", pipe.group, "consumer", "know which letters were replayed")
    yield ACL("Read", pipe.group, "producer", "commit offsets in the transaction")
    for source in pipe.sources:
        yield ACL("Describe", source, "producer", "find the topics that letters come from")
    for target in pipe.targets:
        yield ACL("DescribeConfigs", target, "consumer", "refuse a compacted target; not with --allow-stale")
        yield ACL("Write", target, "producer", "write records")
    yield ACL("Write", pipe.letters, "producer", "write letters anew whose record fails again")
    yield ACL("Write", pipe.member, "producer", "write in transactions")


def _reading(pipe: Pipe) -> Iterator[ACL]:
    for topic in pipe.sources:
        yield ACL("Read", topic, "consumer", "read records")
        yield ACL("DescribeConfigs", topic, "consumer", "gaps are no evidence on a compacted topic", optional=True)


def _reencrypting(pipe: Pipe) -> Iterator[ACL]:
    """As a pipeline, and reading the target to compare it; notes of how far it is stand in a second group."""
    yield from _running(replace(pipe, exactly_once=True))
    verifying = replace(pipe.group, name=f"{pipe.group.name}-verify")
    for target in pipe.targets:
        yield ACL("Read", target, "consumer", "compare source and target")
    yield ACL("Read", verifying, "consumer", "note what is verified")
    for topic in [*pipe.sources, *pipe.targets]:
        yield ACL("DescribeConfigs", topic, "consumer", "know which topics are compacted", optional=True)
