"""What doctor makes of rights, transactions, groups and offsets."""

from __future__ import annotations

import pytest

from streamcrypt.diagnosis.access import (
    Grant,
    TransactionalGrants,
    judge_group,
    judge_group_access,
    judge_topic_access,
    judge_transactional_id,
    judge_transactions,
)
from streamcrypt.diagnosis.facts import Cluster, GroupFacts, LegFacts, TopicSettings
from streamcrypt.diagnosis.findings import Check, Level

LEG = LegFacts("seal", "encrypt", 400, 1_048_588, "lz4", 10_000)
AT = ("plain", 0)


@pytest.mark.parametrize(
    ("operations", "role", "level", "words"),
    [
        ({"READ", "DESCRIBE", "WRITE"}, "source", Level.OK, "DESCRIBE, READ"),
        ({"DESCRIBE"}, "source", Level.FAIL, "lacks READ on the source"),
        ({"READ", "DESCRIBE"}, "target", Level.FAIL, "lacks WRITE on the target"),
        ({"WRITE", "DESCRIBE"}, "letters", Level.OK, "WRITE"),
        ({"DESCRIBE"}, "letters", Level.FAIL, "lacks WRITE on the dead-letter topic"),
        (None, "target", Level.WARN, "not known"),
    ],
    ids=["all", "cannot read", "cannot write", "letters", "no letters", "old broker"],
)
def test_rights_on_a_topic(operations, role, level, words):
    """A reader reads, a writer writes; what the broker does not tell is not known."""
    known = None if operations is None else frozenset(operations)
    finding = judge_topic_access(TopicSettings("t", 1, operations=known), role)
    assert (finding.check, finding.level) == (Check.TOPIC_ACCESS, level)
    assert words in finding.seen


@pytest.mark.parametrize(
    ("operations", "level"), [({"READ"}, Level.OK), ({"DESCRIBE"}, Level.FAIL), (None, Level.WARN)]
)
def test_rights_on_a_group(operations, level):
    """Without READ a member neither joins nor commits."""
    known = None if operations is None else frozenset(operations)
    assert judge_group_access(GroupFacts("g", "EMPTY", 0, operations=known)).level is level


US, THEM = "User:us", "User:them"


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (TransactionalGrants("id", None, US, "the cluster judges nobody"), Level.OK, "judges nobody"),
        (TransactionalGrants("id", None, US), Level.WARN, "may not list ACLs"),
        (TransactionalGrants("id", [Grant(US, "WRITE", True)], US), Level.OK, "allows User:us WRITE"),
        (TransactionalGrants("id", [Grant(US, "ALL", True)], US), Level.OK, "allows User:us WRITE"),
        (TransactionalGrants("id", [Grant("User:*", "WRITE", True)], ""), Level.OK, "everyone"),
        (
            TransactionalGrants("id", [Grant("User:*", "WRITE", True), Grant(US, "ALL", False)], US),
            Level.FAIL,
            "denies User:us",
        ),
        (TransactionalGrants("id", [Grant(THEM, "WRITE", True)], US), Level.WARN, "allowed to User:them"),
        (TransactionalGrants("id", [Grant(US, "WRITE", True)], ""), Level.WARN, "allowed to User:us"),
        (TransactionalGrants("id", [Grant(US, "DESCRIBE", True)], US), Level.WARN, "no ACL allows WRITE"),
        (TransactionalGrants("id", [], US), Level.WARN, "super user"),
    ],
    ids=["nobody judges", "not told", "ours", "all", "everyone", "denied", "theirs", "who are we", "reads", "none"],
)
def test_rights_on_a_transactional_id(facts, level, words):
    """Only an ACL proves it; nothing is tried, since trying fences a sidecar that runs."""
    finding = judge_transactional_id(facts)
    assert finding.level is level
    assert words in finding.seen


@pytest.mark.parametrize(
    ("settings", "timeout", "levels"),
    [
        ({"transaction.max.timeout.ms": "900000"}, 10_000, [Level.OK]),
        ({"transaction.max.timeout.ms": "9000"}, 10_000, [Level.FAIL]),
        (None, 10_000, [Level.WARN]),
        ({"transaction.max.timeout.ms": "9000"}, None, []),
    ],
)
def test_a_transaction_timeout_is_held_to_the_brokers(settings, timeout, levels):
    """Over the broker's limit no transaction begins; at least once there is none."""
    leg = LegFacts("seal", "encrypt", 400, 1_048_588, "lz4", timeout)
    found = judge_transactions(leg, Cluster("b:9092", 1, {}, settings))
    assert [finding.level for finding in found] == levels


@pytest.mark.parametrize(
    ("group", "check", "level", "words"),
    [
        (GroupFacts("g", "DEAD", 0), Check.GROUP, Level.OK, "begins at the first records"),
        (GroupFacts("g", "STABLE", 2, {AT: 5}, {AT: 0}, {AT: 9}), Check.GROUP, Level.OK, "2 running; 4 records to go"),
        (GroupFacts("g", "EMPTY", 0, {AT: 9}, {AT: 0}, {AT: 9}), Check.GROUP, Level.OK, "nobody runs; 0 records"),
        (GroupFacts("g", "PREPARING_REBALANCING", 3), Check.GROUP, Level.WARN, "preparing rebalancing with 3 members"),
        (GroupFacts("g", "EMPTY", 0, {AT: 5}, {AT: 6}, {AT: 9}), Check.OFFSETS, Level.FAIL, "retention has deleted"),
        (GroupFacts("g", "EMPTY", 0, {AT: 10}, {AT: 0}, {AT: 9}), Check.OFFSETS, Level.FAIL, "made anew"),
        (GroupFacts("g", "EMPTY", 0, {AT: 9}, {AT: 0}, {AT: 9}), Check.OFFSETS, Level.OK, "still there"),
    ],
    ids=["never used", "running", "stopped", "rebalancing", "gone", "beyond", "sound"],
)
def test_a_group_and_its_offsets(group, check, level, words):
    """A committed offset that cannot be read any more halts the pipeline, so that doctor fails first."""
    found = [f for f in judge_group(LEG, group, starts_at_end=False) if f.check is check]
    assert [f.level for f in found] == [level]
    assert words in found[0].seen
