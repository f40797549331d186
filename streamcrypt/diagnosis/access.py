"""Judgement of what the brokers allow, and of the consumer group: rights, transactions, state, offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamcrypt.diagnosis.facts import Cluster, GroupFacts, LegFacts, TopicSettings
from streamcrypt.diagnosis.findings import Check, Finding, fail, ok, warn
from streamcrypt.diagnosis.units import duration

__all__ = [
    "Grant",
    "TransactionalGrants",
    "judge_group",
    "judge_group_access",
    "judge_topic_access",
    "judge_transactional_id",
    "judge_transactions",
]

_READER = frozenset({"READ", "DESCRIBE"})
_WRITER = frozenset({"WRITE", "DESCRIBE"})
_NOT_KNOWN = "not known: the broker does not say what this login may do"
_NOT_KNOWN_REMEDY = "Ask who runs the cluster; kafka-acls --list shows it."
_SETTLED = frozenset({"STABLE", "EMPTY"})
_MODES_READ = {"source": _READER, "target": _WRITER, "letters": _WRITER}


def judge_topic_access(topic: TopicSettings, role: str) -> Finding:
    """Hold the rights on a topic to what a pipeline needs.

    Args:
        topic: As the login sees it that will use it.
        role: ``source``, ``target`` or ``letters``.
    """
    needed = _MODES_READ[role]
    if topic.operations is None:
        return warn(Check.TOPIC_ACCESS, topic.name, _NOT_KNOWN, _NOT_KNOWN_REMEDY)
    missing = sorted(needed - topic.operations)
    if missing:
        option = " ".join(f"--operation {name.title()}" for name in missing)
        remedy = f"kafka-acls --add --allow-principal User:… {option} --topic {topic.name}"
        seen = f"this login lacks {', '.join(missing)} on the {role if role != 'letters' else 'dead-letter topic'}"
        return fail(Check.TOPIC_ACCESS, topic.name, seen, remedy)
    return ok(Check.TOPIC_ACCESS, topic.name, f"allows {', '.join(sorted(needed))}")


def judge_group_access(group: GroupFacts) -> Finding:
    """Hold the rights on a consumer group to what its members need."""
    if group.operations is None:
        return warn(Check.GROUP_ACCESS, group.name, _NOT_KNOWN, _NOT_KNOWN_REMEDY)
    if "READ" not in group.operations:
        remedy = f"kafka-acls --add --allow-principal User:… --operation Read --group {group.name}"
        return fail(Check.GROUP_ACCESS, group.name, "this login lacks READ: it can neither join nor commit", remedy)
    return ok(Check.GROUP_ACCESS, group.name, "allows READ")


@dataclass(frozen=True, slots=True)
class Grant:
    """One ACL on a transactional id, as far as it counts here.

    Attributes:
        principal: Such as ``User:streamcrypt``, or ``User:*``.
        operation: Such as ``WRITE`` or ``ALL``.
        allows: Whether it allows; else it denies.
    """

    principal: str
    operation: str
    allows: bool


@dataclass(frozen=True, slots=True)
class TransactionalGrants:
    """What the ACLs say of a transactional id.

    Attributes:
        name: The transactional id.
        grants: The ACLs that match it; None where this login may not list them.
        principal: Who this login is, as far as its settings tell; empty where they do not.
        free: Why no ACL is needed: ``the cluster judges nobody``, or a super user; empty where one is.
    """

    name: str
    grants: Sequence[Grant] | None
    principal: str = ""
    free: str = ""


def judge_transactional_id(facts: TransactionalGrants) -> Finding:
    """Hold the ACLs of a transactional id to what exactly-once needs.

    Nothing is tried: an init_transactions would fence the sidecar that runs under this id.
    """
    check, name = Check.TRANSACTIONAL_ID, facts.name
    remedy = (
        f"kafka-acls --add --allow-principal User:… --operation Write --operation Describe --transactional-id {name}"
    )
    if facts.free:
        return ok(check, name, facts.free)
    if facts.grants is None:
        seen = "not known: this login may not list ACLs, and trying would fence a sidecar that runs"
        return warn(check, name, seen, f"Check that this login has them: {remedy}")
    writes = [grant for grant in facts.grants if grant.operation in {"WRITE", "ALL"}]
    ours = [grant for grant in writes if grant.principal in {facts.principal, "User:*"}]
    if facts.principal and any(not grant.allows for grant in ours):
        return fail(check, name, f"an ACL denies {facts.principal} WRITE", remedy)
    if facts.principal and any(grant.allows for grant in ours):
        return ok(check, name, f"an ACL allows {facts.principal} WRITE")
    allowed = sorted({grant.principal for grant in writes if grant.allows})
    if "User:*" in allowed:
        return ok(check, name, "an ACL allows everyone WRITE")
    if allowed:
        seen = f"WRITE is allowed to {', '.join(allowed)}; whether that is this login is not known"
        return warn(check, name, seen, f"Check that this login is among them, or: {remedy}")
    seen = "no ACL allows WRITE; that is enough only for a super user, or where everything without an ACL is allowed"
    return warn(check, name, seen, remedy)


def judge_transactions(leg: LegFacts, cluster: Cluster) -> Iterator[Finding]:
    """Hold the pipeline's transaction timeout to the broker's limit."""
    if leg.transaction_timeout is None:
        return
    check, asked = Check.TRANSACTIONS, leg.transaction_timeout
    text = (cluster.broker_settings or {}).get("transaction.max.timeout.ms", "")
    if not text.isdecimal():
        seen = "not known: this login may not read the broker's settings"
        yield warn(check, leg.name, seen, f"Check that transaction.max.timeout.ms is {asked} or more.")
    elif asked > int(text):
        seen = f"transaction.timeout.ms {duration(asked)} is over the broker's limit of {duration(int(text))}"
        yield fail(check, leg.name, seen, "Lower transaction.timeout.ms under kafka.producer.")
    else:
        yield ok(check, leg.name, f"transactions of {duration(asked)} are within the limit of {duration(int(text))}")


def judge_group(leg: LegFacts, group: GroupFacts, *, starts_at_end: bool) -> Iterator[Finding]:
    """Say in which state a group is, and whether what it committed can still be read.

    Args:
        leg: Its pipeline.
        group: The group.
        starts_at_end: Whether the pipeline begins at the end where nothing is committed.
    """
    subject = f"{leg.name} ({group.name})"
    lag = sum(max(0, group.ends[place] - offset) for place, offset in group.committed.items() if place in group.ends)
    if group.state in {"DEAD", "UNKNOWN", "UNKOWN"} and not group.committed:
        where = "at the ends of the topics" if starts_at_end else "at the first records"
        yield ok(Check.GROUP, subject, f"does not exist yet and begins {where}")
    elif group.state not in _SETTLED and group.members:
        seen = (
            f"is {group.state.lower().replace('_', ' ')} with {group.members} members: it rebalances, or cannot settle"
        )
        yield warn(Check.GROUP, subject, seen, "Run doctor again in a minute; see the log for membership changes.")
    else:
        who = f"{group.members} running" if group.members else "nobody runs"
        yield ok(Check.GROUP, subject, f"{who}; {lag:,} records to go")
    yield from _offsets(subject, group)


def _offsets(subject: str, group: GroupFacts) -> Iterator[Finding]:
    gone = [
        f"{topic}[{partition}]"
        for (topic, partition), offset in sorted(group.committed.items())
        if offset < group.starts.get((topic, partition), 0)
    ]
    ahead = [
        f"{topic}[{partition}]"
        for (topic, partition), offset in sorted(group.committed.items())
        if offset > group.ends.get((topic, partition), offset)
    ]
    if gone:
        seen = f"retention has deleted what was to be read next on {_few(gone)}: the pipeline halts there"
        remedy = "Lost records stay lost: kafka-consumer-groups --reset-offsets --to-earliest says so on purpose."
        yield fail(Check.OFFSETS, subject, seen, remedy)
    if ahead:
        seen = f"the committed offset is beyond the end of {_few(ahead)}: was the topic made anew?"
        yield fail(Check.OFFSETS, subject, seen, "kafka-consumer-groups --reset-offsets --to-earliest for this topic.")
    if group.committed and not gone and not ahead:
        yield ok(Check.OFFSETS, subject, f"{len(group.committed)} committed offsets are still there")


def _few(places: Sequence[str]) -> str:
    shown = ", ".join(places[:3])
    return shown if len(places) <= 3 else f"{shown} and {len(places) - 3} more"  # noqa: PLR2004 - three are shown
