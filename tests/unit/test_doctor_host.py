"""What doctor makes of credentials, clock, memory and CloudTrail, and how findings are put."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from streamcrypt.cli.check import exit_code
from streamcrypt.cli.doctor import memory_facts
from streamcrypt.cli.exits import Exit
from streamcrypt.diagnosis.findings import Check, Finding, Level, as_tree, fail, ok, warn
from streamcrypt.diagnosis.host import (
    MemoryFacts,
    judge_clock,
    judge_credentials,
    judge_memory,
    judge_trails,
)
from streamcrypt.diagnosis.units import duration, size
from streamcrypt.keys.aws_kms.facts import CredentialFacts, TrailFacts
from streamcrypt.keys.aws_kms.trails import read_selectors

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")


def test_every_check_is_explained():
    """Each id that the output names stands in the table of docs/doctor.md, and no other does."""
    rows = [name for line in PAGE.splitlines() if line.startswith("| `") and "." in (name := line.split("`")[1])]
    assert sorted(rows) == sorted(check.value for check in Check)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (CredentialFacts(""), Level.FAIL, "there are none"),
        (CredentialFacts("env", "AKIA"), Level.WARN, "long-lived access key from env"),
        (CredentialFacts("env", "ASIA"), Level.WARN, "temporary ones from env, not renewed"),
        (
            CredentialFacts("iam-role", "ASIA", NOW + timedelta(hours=6), renews=True),
            Level.OK,
            "until 2030-01-01T06:00:00Z",
        ),
        (CredentialFacts("iam-role", "ASIA", NOW - timedelta(hours=1), renews=True), Level.FAIL, "expired"),
        (CredentialFacts("custom-process", "ASIA"), Level.OK, "custom-process"),
    ],
    ids=["none", "long-lived", "temporary", "role", "stale role", "other"],
)
def test_credentials_are_judged(facts, level, words):
    """A role renews itself; a key for ever and one that ends by itself are told."""
    finding = judge_credentials(facts, NOW)
    assert finding.level is level
    assert words in finding.seen


@pytest.mark.parametrize(
    ("skew", "level", "words"),
    [
        (0.4, Level.OK, "within 30 s"),
        (-31.0, Level.WARN, "31 s behind KMS"),
        (301.0, Level.FAIL, "301 s ahead of KMS"),
        (None, Level.WARN, "not known"),
    ],
)
def test_the_clock_is_held_to_that_of_kms(skew, level, words):
    """Over five minutes AWS refuses every signature."""
    finding = judge_clock(skew, "KMS")
    assert finding.level is level
    assert words in finding.seen


def test_memory_is_judged(tmp_path):
    """A handler that takes core dumps, and swap, are told; without them all is well."""
    pattern, swaps = tmp_path / "core_pattern", tmp_path / "swaps"
    pattern.write_text("|/usr/share/apport/apport %p\n")
    swaps.write_text("Filename Type Size Used Priority\n/dev/vda2 partition 1 0 -2\n")
    facts = memory_facts(pattern, swaps)
    assert facts == MemoryFacts("|/usr/share/apport/apport %p", ("/dev/vda2",))
    assert [finding.level for finding in judge_memory(facts)] == [Level.WARN, Level.WARN]
    assert "/usr/share/apport/apport," in next(judge_memory(facts)).seen
    nothing = memory_facts(tmp_path / "none", tmp_path / "none")
    assert [finding.level for finding in judge_memory(nothing)] == [Level.OK, Level.OK]


WHOLE = TrailFacts("all", True, True, True)


@pytest.mark.parametrize(
    ("trails", "level", "words"),
    [
        ([WHOLE], Level.OK, "all records every call"),
        ([TrailFacts("off", False, True, True), WHOLE], Level.OK, "all records every call"),
        ([], Level.WARN, "no trail covers it"),
        ([TrailFacts("off", False, True, True)], Level.WARN, "off is switched off"),
        ([TrailFacts("less", True, False, True)], Level.WARN, "leaves out the events of KMS"),
        ([TrailFacts("writes", True, True, False)], Level.WARN, "write events only"),
        ([TrailFacts("all", True, True, True, "AccessDenied")], Level.WARN, "could not deliver: AccessDenied"),
        (None, Level.WARN, "not known: denied"),
    ],
    ids=["whole", "one of two", "none", "off", "without KMS", "writes only", "cannot deliver", "not known"],
)
def test_trails_are_judged(trails, level, words):
    """Only a trail that is on, delivers, and takes read events of KMS, says who opened what."""
    finding = judge_trails("eu-west-1", trails, "denied")
    assert (finding.check, finding.level) == (Check.TRAIL, level)
    assert words in finding.seen


@pytest.mark.parametrize(
    ("basic", "advanced", "expected"),
    [
        ([{"ReadWriteType": "All", "IncludeManagementEvents": True}], [], (True, True)),
        ([{"ReadWriteType": "WriteOnly", "IncludeManagementEvents": True}], [], (True, False)),
        ([{"IncludeManagementEvents": False}], [], (False, False)),
        ([{"ExcludeManagementEventSources": ["kms.amazonaws.com"]}], [], (False, False)),
        ([], [{"FieldSelectors": [{"Field": "eventCategory", "Equals": ["Management"]}]}], (True, True)),
        (
            [],
            [
                {
                    "FieldSelectors": [
                        {"Field": "eventCategory", "Equals": ["Management"]},
                        {"Field": "eventSource", "NotEquals": ["kms.amazonaws.com"]},
                    ]
                }
            ],
            (False, False),
        ),
        (
            [],
            [
                {
                    "FieldSelectors": [
                        {"Field": "eventCategory", "Equals": ["Management"]},
                        {"Field": "readOnly", "Equals": ["false"]},
                    ]
                }
            ],
            (True, False),
        ),
        ([], [{"FieldSelectors": [{"Field": "eventCategory", "Equals": ["Data"]}]}], (False, False)),
        ([], [], (False, False)),
    ],
    ids=range(9),
)
def test_event_selectors_are_read(basic, advanced, expected):
    """Both kinds of selectors say whether events of KMS, and read events among them, are taken."""
    assert read_selectors(basic, advanced) == expected


def test_the_exit_code_is_that_of_the_worst():
    """Warnings end with 0, a failure with 1, a configuration at fault with 2."""
    fine, so_so = ok(Check.KEY, "", "fine"), warn(Check.KEY, "", "so so", "do")
    broken = fail(Check.KEY, "", "broken", "do")
    wrong = fail(Check.CONFIG, "", "wrong", "do", misconfigured=True)
    assert exit_code([fine, so_so]) == Exit.DONE
    assert exit_code([fine, broken, so_so]) == Exit.FAILED
    assert exit_code([broken, wrong]) == Exit.USAGE


def test_a_finding_as_json_has_every_name():
    """Names are there whether or not there is something to say."""
    tree = as_tree(Finding(Check.KEY, Level.WARN, "k", "seen"))
    assert tree == {
        "check": "key.usable",
        "level": "warn",
        "subject": "k",
        "seen": "seen",
        "remedy": None,
        "where": None,
    }


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(-1, "for ever"), (500, "0.5 s"), (90_000, "1.5 min"), (7_200_000, "2 h"), (604_800_000, "7 d")],
)
def test_durations_are_written_for_people(milliseconds, text):
    """The largest unit that keeps it short."""
    assert duration(milliseconds) == text


def test_sizes_are_written_for_people():
    """A negative size is Kafka's word for no limit."""
    assert (size(-1), size(1048588)) == ("without limit", "1,048,588 B")
