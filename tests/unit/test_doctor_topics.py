"""What doctor makes of topic settings: a table of facts to the level and the words of the finding."""

from __future__ import annotations

import pytest

from streamcrypt.diagnosis.facts import LegFacts, Route, TopicSettings
from streamcrypt.diagnosis.findings import Check, Finding, Level
from streamcrypt.diagnosis.topics import LETTER_HEADERS, judge_letters, judge_route

DAY = 86_400_000
ANY = str(2**63 - 1)
SOUND = {
    "max.message.bytes": "1048588",
    "compression.type": "producer",
    "cleanup.policy": "delete",
    "retention.ms": str(7 * DAY),
    "retention.bytes": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": ANY,
    "message.timestamp.after.max.ms": "3600000",
    "min.insync.replicas": "2",
    "unclean.leader.election.enable": "false",
}
LEG = LegFacts("seal", "encrypt", 400, 2_000_000, "lz4", 10_000)


def topic(name: str, replicas: int = 3, **settings: str) -> TopicSettings:
    """A topic with sound settings, some of them changed; underscores stand for dots."""
    changed = {setting.replace("_", "."): value for setting, value in settings.items()}
    return TopicSettings(name, 2, replicas, {**SOUND, **changed})


def judged(source: TopicSettings, target: TopicSettings, leg: LegFacts = LEG) -> dict[Check, Finding]:
    """The worst finding of each check."""
    found: dict[Check, Finding] = {}
    for finding in judge_route(leg, Route(source, target)):
        if finding.check not in found or finding.level > found[finding.check].level:
            found[finding.check] = finding
    return found


def leg(**changes: object) -> LegFacts:
    """The pipeline, with some facts changed."""
    facts = {name: getattr(LEG, name) for name in LEG.__slots__}
    return LegFacts(**{**facts, **changes})


def test_a_sound_pair_of_topics_gives_no_warning():
    """Topics that are alike, with room for the envelope, are fine in every respect."""
    found = judged(topic("plain"), topic("sealed", max_message_bytes="1100000"))
    assert {check: finding.level for check, finding in found.items()} == dict.fromkeys(found, Level.OK)
    assert {Check.SIZE, Check.COMPRESSION, Check.CLEANUP, Check.RETENTION, Check.TIMESTAMPS, Check.REPLICAS} == set(
        found
    )


@pytest.mark.parametrize(
    ("check", "source", "target", "changes", "level", "words"),
    [
        # size: the envelope must fit where the record did
        (Check.SIZE, {}, {}, {}, Level.WARN, "over 1,048,188 B of its 1,048,588 B do not fit"),
        (Check.SIZE, {}, {"max_message_bytes": "1048988"}, {}, Level.OK, "400 B of envelope included"),
        (
            Check.SIZE,
            {},
            {"max_message_bytes": "2000000"},
            {"max_message": 1_000_000},
            Level.WARN,
            "of the producer is",
        ),
        (Check.SIZE, {}, {}, {"mode": "decrypt", "growth": 0}, Level.OK, "fits"),
        # compression takes the repeated header away
        (Check.COMPRESSION, {}, {"compression_type": "uncompressed"}, {}, Level.WARN, "the topic does not compress"),
        (Check.COMPRESSION, {}, {}, {"compression": "none"}, Level.WARN, "the producer does not compress"),
        (Check.COMPRESSION, {}, {"compression_type": "zstd"}, {"compression": "none"}, Level.OK, "zstd"),
        # cleanup
        (Check.CLEANUP, {}, {"cleanup_policy": "compact"}, {}, Level.WARN, "only the last is kept"),
        (Check.CLEANUP, {"cleanup_policy": "compact"}, {}, {}, Level.WARN, "keeps old values"),
        (Check.CLEANUP, {"cleanup_policy": "compact"}, {"cleanup_policy": "compact"}, {}, Level.OK, "as the source"),
        (
            Check.CLEANUP,
            {"cleanup_policy": "compact"},
            {"cleanup_policy": "compact"},
            {"binds_key": False},
            Level.WARN,
            "key is not bound",
        ),
        # retention: timestamps are kept, so the target's counts from the source's times
        (Check.RETENTION, {"retention_ms": "-1"}, {}, {}, Level.WARN, "keeps records 7 d, plain for ever"),
        (Check.RETENTION, {"retention_ms": str(8 * DAY)}, {}, {}, Level.WARN, "as soon as they arrive"),
        (Check.RETENTION, {}, {"retention_ms": "-1"}, {}, Level.OK, "for ever, no shorter"),
        (Check.RETENTION, {"retention_bytes": "1000"}, {"retention_bytes": "999"}, {}, Level.WARN, "999 B a partition"),
        (Check.RETENTION, {"cleanup_policy": "compact"}, {}, {}, Level.WARN, "plain for ever"),
        (Check.RETENTION, {}, {"cleanup_policy": "compact"}, {}, Level.OK, "nothing is deleted by age"),
        # timestamps
        (Check.TIMESTAMPS, {}, {"message_timestamp_type": "LogAppendTime"}, {}, Level.WARN, "LogAppendTime"),
        (Check.TIMESTAMPS, {}, {"message_timestamp_before_max_ms": str(DAY)}, {}, Level.WARN, "older than 1 d"),
        (Check.TIMESTAMPS, {}, {"message_timestamp_before_max_ms": str(7 * DAY)}, {}, Level.OK, "every timestamp"),
        (
            Check.TIMESTAMPS,
            {"retention_ms": "-1"},
            {"message_timestamp_before_max_ms": str(7 * DAY)},
            {},
            Level.WARN,
            "keeps them for ever",
        ),
        (Check.TIMESTAMPS, {"message_timestamp_after_max_ms": ANY}, {}, {}, Level.WARN, "plain takes any"),
        # replicas
        (Check.REPLICAS, {}, {"min_insync_replicas": "4"}, {}, Level.FAIL, "nothing can be written"),
        (Check.REPLICAS, {}, {"min_insync_replicas": "1"}, {}, Level.WARN, "one copy alone may acknowledge"),
        (Check.REPLICAS, {}, {"unclean_leader_election_enable": "true"}, {}, Level.WARN, "missed records may lead"),
    ],
    ids=str,
)
def test_topic_settings_are_judged(check, source, target, changes, level, words):
    """Each trap has its level and says what was seen; whatever is not fine has a remedy."""
    finding = judged(topic("plain", **source), topic("sealed", **target), leg(**changes))[check]
    assert finding.level is level, finding
    assert words in finding.seen
    assert bool(finding.remedy) == (level is not Level.OK)


def test_one_copy_is_a_warning():
    """A topic without a second copy loses acknowledged records with its broker."""
    found = judged(topic("plain"), topic("sealed", replicas=1, min_insync_replicas="1"))[Check.REPLICAS]
    assert (found.level, found.seen) == (Level.WARN, "has one copy: a lost broker takes acknowledged records with it")


def test_a_decrypting_pipeline_needs_no_compression():
    """What is opened carries no envelope, so that compression is no matter of ours."""
    assert Check.COMPRESSION not in judged(topic("sealed"), topic("opened"), leg(mode="decrypt", growth=0))


def test_settings_that_may_not_be_read_are_not_known():
    """Without DescribeConfigs every check of settings says so, and none fails."""
    found = judged(topic("plain"), TopicSettings("sealed", 2, 3))
    assert all(found[check].level is Level.WARN for check in (Check.SIZE, Check.RETENTION, Check.TIMESTAMPS))
    assert "not known" in found[Check.SIZE].seen


def test_the_remedy_sets_what_the_source_has():
    """The command that is offered makes the target hold what the source holds."""
    found = judged(topic("plain", retention_ms=str(30 * DAY)), topic("sealed"))[Check.RETENTION]
    assert found.remedy.endswith(f"--entity-name sealed --add-config retention.ms={30 * DAY}")


@pytest.mark.parametrize(
    ("settings", "level", "words"),
    [
        ({"max_message_bytes": "2000000"}, Level.OK, "keeps letters of seal 7 d"),
        ({"max_message_bytes": "2000000", "cleanup_policy": "compact"}, Level.FAIL, "only the last is kept"),
        ({}, Level.WARN, f"may have up to {1048588 + 400 + LETTER_HEADERS:,} B"),
        ({"max_message_bytes": "2000000", "retention_ms": str(DAY)}, Level.WARN, "deleted after 1 d"),
        ({"max_message_bytes": "2000000", "retention_ms": "-1"}, Level.OK, "for ever"),
    ],
    ids=str,
)
def test_a_dead_letter_topic_keeps_what_is_put_there(settings, level, words):
    """Compaction loses letters, a small limit halts, a short retention loses what nobody looked at."""
    found = [f for f in judge_letters(LEG, [topic("plain")], topic("dlq", **settings)) if f.check is Check.DEAD_LETTERS]
    assert max(f.level for f in found) is level
    assert any(words in f.seen for f in found), found
