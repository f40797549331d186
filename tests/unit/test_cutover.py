"""Which records may pass without an envelope, and how a configuration says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Uuid

from streamcrypt.cli.cutover import as_yaml, instant
from streamcrypt.config import ConfigProblems, Settings, load
from streamcrypt.errors import ConfigError
from streamcrypt.sidecar.cutover import Cutover, TopicCutover, TopicIdentity, as_kafka_prints, is_bare

ID = "gX3vAAn-QmGk_2W0oT1v-A"
CUT = Cutover({"payments": TopicCutover(ID, {0: 1200, 1: 800, 2: 0})})


def write(path: Path, plaintext: Any, **pipeline: Any) -> Path:
    """A configuration with one decrypting pipeline."""
    base = {"name": "open", "mode": "decrypt", "from": "payments", "to": "payments.plain", "plaintext": plaintext}
    tree = {
        "kafka": {"bootstrap.servers": "localhost:9092"},
        "keys": {"key_id": "alias/payments", "region": "eu-west-1"},
        "pipelines": [{**base, **pipeline}],
    }
    file = path / "streamcrypt.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def loaded(path: Path, plaintext: Any, **pipeline: Any) -> Settings:
    """Write and load it."""
    return load(write(path, plaintext, **pipeline), {})


@pytest.mark.parametrize(
    ("topic", "partition", "offset", "passes"),
    [
        ("payments", 0, 0, True),
        ("payments", 0, 1199, True),
        ("payments", 0, 1200, False),
        ("payments", 1, 800, False),
        ("payments", 2, 0, False),
        ("payments", 3, 0, False),
        ("refunds", 0, 0, False),
    ],
)
def test_only_what_lies_below_the_cut_over_may_pass(topic: str, partition: int, offset: int, passes: bool) -> None:
    """A partition and a topic that are not named have no plaintext."""
    assert CUT.passes(topic, partition, offset) is passes
    assert CUT.admits(topic, partition, offset, b"hello", None) is passes


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"hello", [("streamcrypt", b"junk")]),
        (b"hello", [("streamcrypt", None)]),
        (b"hello", [("trace", b"1"), ("streamcrypt", b"")]),
        (b"hello", [("streamcrypt-tombstone", b"x")]),
        (None, [("streamcrypt", b"junk")]),
        (None, [("streamcrypt-tombstone", None)]),
        (b"\xc5SC\x01", None),
        (b"\xc5SC\x01 whatever", []),
    ],
)
def test_what_claims_an_envelope_never_passes(value: bytes | None, headers: Any) -> None:
    """A damaged envelope is a failure, wherever it stands."""
    assert not is_bare(value, headers)
    assert not CUT.admits("payments", 0, 0, value, headers)


def test_plain_records_and_tombstones_are_bare() -> None:
    """Other headers, and our name in capitals, are none of ours."""
    for value in (b"", b"hello", b"\xc5SC", None):
        for headers in (None, [], [("Streamcrypt", b"x"), ("trace", None)]):
            assert CUT.admits("payments", 0, 0, value, headers)


def test_no_cut_over_lets_nothing_pass() -> None:
    """The default."""
    assert not Cutover()
    assert CUT
    assert not Cutover().passes("payments", 0, 0)


def test_the_offsets_are_bound_to_the_topic_they_were_taken_from() -> None:
    """A topic made anew counts from zero again: its records would pass unsealed."""
    CUT.check({"payments": TopicIdentity(ID, 3), "other": TopicIdentity("x", 1)})
    with pytest.raises(ConfigError, match="made anew") as caught:
        CUT.check({"payments": TopicIdentity("A" * 21 + "B", 3)})
    assert "streamcrypt cutover CONFIG payments" in caught.value.remedy
    with pytest.raises(ConfigError, match="does not exist"):
        CUT.check({})
    with pytest.raises(ConfigError, match="names partition 2 of 'payments', which has 2"):
        CUT.check({"payments": TopicIdentity(ID, 2)})


def test_ids_are_written_as_kafkas_tools_write_them() -> None:
    """URL-safe base64; librdkafka writes the other alphabet."""
    assert as_kafka_prints(Uuid(-1, -5)) == "____________________-w"
    assert as_kafka_prints("ab+/") == "ab-_"


# -- the configuration -------------------------------------------------------------------------------------------------


def test_what_is_printed_is_what_is_read(tmp_path: Path) -> None:
    """The lines of ``streamcrypt cutover`` go below a pipeline as they are."""
    printed = yaml.safe_load(as_yaml(CUT.topics))["plaintext"]
    (pipeline,) = loaded(tmp_path, printed).pipelines
    assert pipeline.cutover.topics == CUT.topics
    assert pipeline.model_dump(mode="json")["plaintext"] == {
        "pass_until": {"payments": {"id": ID, "0": 1200, "1": 800, "2": 0}}
    }
    with pytest.raises(TypeError):
        pipeline.cutover.topics["payments"].offsets[0] = 5


def test_by_default_plaintext_is_rejected(tmp_path: Path) -> None:
    """Unless it is said otherwise."""
    (pipeline,) = loaded(tmp_path, "reject").pipelines
    assert not pipeline.cutover


def test_a_regex_source_may_be_cut_over(tmp_path: Path) -> None:
    """By the name of the topic, which the expression matches as a whole."""
    assert loaded(tmp_path, {"pass_until": {"pay": {"id": ID}}}, **{"from": "^pa.", "to": "{topic}.plain"})
    with pytest.raises(ConfigProblems, match="does not read"):
        loaded(tmp_path, {"pass_until": {"payments": {"id": ID}}}, **{"from": "^pa.", "to": "{topic}.plain"})


@pytest.mark.parametrize(
    ("plaintext", "path", "message"),
    [
        ("accept", "plaintext", "neither 'reject' nor"),
        (5, "plaintext", "neither 'reject' nor"),
        ({"pass_until": 5}, "plaintext.pass_until", "is no section"),
        ({"pass_unti": {}}, "plaintext.pass_unti", "not known"),
        ({"pass_until": {"payments": 5}}, "plaintext.pass_until.payments", "no section of an id and offsets"),
        ({"pass_until": {"payments": {0: 5}}}, "plaintext.pass_until.payments", "has no 'id'"),
        ({"pass_until": {"payments": {"id": "x", 0: 5}}}, "plaintext.pass_until.payments", "has no 'id'"),
        ({"pass_until": {"payments": {"id": "A" * 22}}}, "plaintext.pass_until.payments", "has no 'id'"),
        ({"pass_until": {"payments": {"id": ID, 0: -1}}}, "plaintext.pass_until.payments", "partition 0 is no whole"),
        ({"pass_until": {"payments": {"id": ID, 0: True}}}, "plaintext.pass_until.payments", "partition 0 is no whole"),
        ({"pass_until": {"payments": {"id": ID, 0: 1.5}}}, "plaintext.pass_until.payments", "partition 0 is no whole"),
        ({"pass_until": {"payments": {"id": ID, "p": 5}}}, "plaintext.pass_until.payments", "'p' is neither"),
        ({"pass_until": {"payments": {"id": ID, "0": 5, "00": 6}}}, "plaintext.pass_until.payments", "'00' is neither"),
        ({"pass_until": {"a b": {"id": ID}}}, "plaintext.pass_until.a b", "no topic name"),
        ({"pass_until": {"refunds": {"id": ID}}}, "plaintext.pass_until.refunds", "does not read"),
    ],
)  # fmt: skip
def test_a_mistake_in_pass_until_is_refused_by_name(tmp_path: Path, plaintext: Any, path: str, message: str) -> None:
    """At its place, once, with what to do."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(tmp_path, plaintext)
    found = [p for p in caught.value.problems if p.path == f"pipelines[0].{path}"]
    assert [message in problem.message for problem in found] == [True]
    assert found[0].remedy


def test_plaintext_never_passes_an_encrypting_pipeline(tmp_path: Path) -> None:
    """No configuration makes one emit plaintext."""
    with pytest.raises(ConfigProblems, match="does not count when encrypting"):
        loaded(tmp_path, {"pass_until": {"payments": {"id": ID, 0: 5}}}, mode="encrypt")


# -- the command -------------------------------------------------------------------------------------------------------


def test_an_instant_says_how_far_it_is_from_utc() -> None:
    """A local time would mean another offset on another machine."""
    assert instant("2030-01-31T22:00:00Z") == instant("2030-01-31T23:00:00+01:00")
    for text in ("2030-01-31T22:00:00", "yesterday", "", "1700000000"):
        with pytest.raises(ConfigError, match="no instant"):
            instant(text)
