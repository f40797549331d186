"""What doctor makes of KEKs, their rotation, replicas and permissions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from streamcrypt.diagnosis.findings import Check, Level
from streamcrypt.diagnosis.keys import (
    Permission,
    judge_key,
    judge_permissions,
    judge_replicas,
    judge_rotation,
)
from streamcrypt.keys.aws_kms.facts import MAX_ON_DEMAND_ROTATIONS, Allowed, KeyFacts, RotationFacts

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MRK = "arn:aws:kms:{}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
DUBLIN, FRANKFURT = MRK.format("eu-west-1"), MRK.format("eu-central-1")


def key(**changes: object) -> KeyFacts:
    """A sound KEK, with some facts changed."""
    return KeyFacts(**{"name": ARN, "arn": ARN, "state": "Enabled", **changes})


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        ({}, Check.KEY, Level.OK, "enabled"),
        ({"state": "Disabled"}, Check.KEY, Level.FAIL, "its state is Disabled"),
        ({"state": "PendingDeletion", "deletion": NOW}, Check.KEY, Level.FAIL, "is deleted on 2030-01-01"),
        ({}, Check.KEY_KIND, Level.OK, "symmetric"),
        ({"manager": "AWS"}, Check.KEY_KIND, Level.FAIL, "AWS managed"),
        ({"spec": "RSA_2048"}, Check.KEY_KIND, Level.FAIL, "spec RSA_2048"),
        ({"usage": "SIGN_VERIFY"}, Check.KEY_KIND, Level.FAIL, "SIGN_VERIFY"),
        ({"origin": "EXTERNAL"}, Check.KEY_KIND, Level.WARN, "was imported"),
        ({"origin": "EXTERNAL", "valid_to": NOW}, Check.KEY_KIND, Level.WARN, "expires on 2030-01-01"),
        ({"origin": "AWS_CLOUDHSM"}, Check.KEY_KIND, Level.WARN, "custom key store"),
        ({"name": "alias/payments"}, Check.ALIAS, Level.OK, ARN),
    ],
    ids=str,
)
def test_a_kek_is_judged(changes, check, level, words):
    """State and kind each have one finding; what is not fine has a remedy."""
    (finding,) = [f for f in judge_key(key(**changes)) if f.check is check]
    assert finding.level is level
    assert words in finding.seen
    assert bool(finding.remedy) == (level is not Level.OK)


def test_a_kek_that_is_an_arn_has_no_alias_to_judge():
    """Only a name that may be pointed elsewhere is told."""
    assert Check.ALIAS not in {finding.check for finding in judge_key(key())}


YEARLY = RotationFacts(True, 365, NOW + timedelta(days=10), NOW - timedelta(days=355), 0)


@pytest.mark.parametrize(
    ("changes", "rotation", "check", "level", "words"),
    [
        ({}, YEARLY, Check.ROTATION, Level.OK, "every 365 days, next on 2030-01-11; last: 2029-01-11"),
        ({}, RotationFacts(False, on_demand=0), Check.ROTATION, Level.WARN, "last rotation: never"),
        (
            {},
            RotationFacts(True, 90, NOW - timedelta(days=2), None, 0),
            Check.ROTATION,
            Level.WARN,
            "was due on 2029-12-30",
        ),
        ({}, None, Check.ROTATION, Level.WARN, "not known"),
        ({"origin": "EXTERNAL"}, None, Check.ROTATION, Level.WARN, "its material was imported"),
        ({"origin": "EXTERNAL_KEY_STORE"}, None, Check.ROTATION, Level.WARN, "custom key store"),
        ({}, YEARLY, Check.ON_DEMAND, Level.OK, f"0 of {MAX_ON_DEMAND_ROTATIONS}"),
        ({}, RotationFacts(True, 365, None, None, 20), Check.ON_DEMAND, Level.OK, "20 of 25"),
        ({}, RotationFacts(True, 365, None, None, 21), Check.ON_DEMAND, Level.WARN, "21 of 25"),
        ({}, RotationFacts(True, 365, None, None, 25), Check.ON_DEMAND, Level.WARN, "25 of 25"),
        ({}, RotationFacts(True, 365, None, None, None), Check.ON_DEMAND, Level.WARN, "not known"),
        ({}, RotationFacts(True, 365, None, None, 1, under_way=True), Check.ON_DEMAND, Level.OK, "one is under way"),
    ],
    ids=range(12),
)
def test_rotation_is_judged(changes, rotation, check, level, words):
    """Automatic rotation is wanted; rotations on demand run out."""
    (finding,) = [f for f in judge_rotation(key(**changes), rotation, NOW) if f.check is check]
    assert finding.level is level
    assert words in finding.seen


@pytest.mark.parametrize(
    ("regions", "replicas", "states", "levels"),
    [
        (["eu-west-1"], (), {"eu-west-1": "Enabled"}, [Level.OK]),
        (
            ["eu-west-1", "eu-central-1"],
            (FRANKFURT,),
            dict.fromkeys(["eu-west-1", "eu-central-1"], "Enabled"),
            [Level.OK] * 2,
        ),
        (["eu-west-1", "eu-central-1"], (), {"eu-west-1": "Enabled"}, [Level.OK, Level.FAIL]),
        (["eu-central-1"], (FRANKFURT,), {"eu-central-1": "Disabled"}, [Level.FAIL]),
        (["eu-central-1"], (FRANKFURT,), {"eu-central-1": None}, [Level.WARN]),
    ],
    ids=["primary alone", "both", "missing", "disabled", "silent"],
)
def test_replicas_are_held_against_the_regions(regions, replicas, states, levels):
    """A region that the configuration counts on must have an enabled replica."""
    facts = key(name=DUBLIN, arn=DUBLIN, primary=DUBLIN, replicas=replicas)
    assert [finding.level for finding in judge_replicas(facts, regions, states)] == levels


def test_a_single_region_kek_cannot_stand_in_elsewhere():
    """Further regions with a key of one region are told; without them there is nothing to say."""
    (finding,) = judge_replicas(key(), ["eu-west-1", "eu-central-1"], {})
    assert (finding.level, "eu-central-1 cannot stand in" in finding.seen) == (Level.WARN, True)
    assert list(judge_replicas(key(), ["eu-west-1"], {})) == []


CONTEXT = {"app": "billing", "streamcrypt:topic": "payments"}


def tried(operation: str, allowed: Allowed, needed: bool = True, pipeline: str = "seal") -> Permission:
    """One dry run."""
    return Permission(pipeline, operation, ARN, CONTEXT, needed, allowed, "no policy allows it")


def test_a_missing_permission_is_named_with_its_statement():
    """The remedy is a policy statement for that action, key and encryption context, and nothing wider."""
    (finding,) = judge_permissions([tried("GenerateDataKey", Allowed.NO)])
    assert (finding.check, finding.level) == (Check.PERMISSION, Level.FAIL)
    statement = json.loads(finding.remedy.removeprefix("Allow: "))
    assert statement == {
        "Effect": "Allow",
        "Action": ["kms:GenerateDataKey"],
        "Resource": [ARN],
        "Condition": {
            "StringEquals": {
                "kms:EncryptionContext:app": ["billing"],
                "kms:EncryptionContext:streamcrypt:topic": ["payments"],
            }
        },
    }


@pytest.mark.parametrize(("allowed", "level"), [(Allowed.YES, Level.OK), (Allowed.UNKNOWN, Level.WARN)])
def test_a_permission_that_is_there_or_not_known(allowed, level):
    """Allowed is fine; what KMS did not say is not known, and never fine."""
    assert [finding.level for finding in judge_permissions([tried("Decrypt", allowed)])] == [level]


def test_more_than_needed_is_told_once():
    """An operation that no pipeline needs and KMS allows is a warning; one that another pipeline needs is none."""
    twice = [tried("Decrypt", Allowed.YES, needed=False)] * 2
    assert [finding.check for finding in judge_permissions(twice)] == [Check.EXCESS]
    both = [tried("Decrypt", Allowed.YES, needed=False), tried("Decrypt", Allowed.YES, pipeline="open")]
    assert [finding.check for finding in judge_permissions(both)] == [Check.PERMISSION]
    assert list(judge_permissions([tried("Decrypt", Allowed.NO, needed=False)])) == []
