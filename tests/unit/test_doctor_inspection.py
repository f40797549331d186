"""How doctor asks KMS and CloudTrail, over HTTP: our double, and moto for trails."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import boto3
import pytest
from moto.server import ThreadedMotoServer

from streamcrypt.diagnosis.host import judge_trails
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable
from streamcrypt.keys.aws_kms.facts import Allowed
from streamcrypt.keys.aws_kms.inspection import KeyInspector
from streamcrypt.keys.aws_kms.trails import TrailInspector
from streamcrypt.testing import KMSServer
from tests.kms import REGION, use_fake_credentials

OTHER = "eu-central-1"
CONTEXT = {"app": "billing", "streamcrypt:topic": "payments"}


@pytest.fixture
def kms(monkeypatch):
    """A KMS without keys."""
    use_fake_credentials(monkeypatch)
    with KMSServer(region=REGION) as server:
        yield server


@pytest.fixture
def inspector(kms):
    """Asks it."""
    made = KeyInspector(region=REGION, endpoint_url=kms.url)
    yield made
    made.close()


def let(kms: KMSServer, *actions: str, **condition: object) -> None:
    """Allow the tests' identity these actions, and nothing else."""
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    if condition:
        statement["Condition"] = condition
    kms.allow("AKIATEST", {"Version": "2012-10-17", "Statement": [statement]})


def test_a_key_is_described(kms, inspector):
    """What DescribeKey says of alias, state and replicas arrives whole."""
    arn = kms.create_key("alias/payments", MultiRegion=True)
    replica = kms.replicate(arn, OTHER)
    facts = inspector.describe("alias/payments")
    assert (facts.arn, facts.state, facts.primary, facts.replicas) == (arn, "Enabled", arn, (replica,))
    assert facts.why_not_rotatable() == ""
    assert inspector.describe(replica).primary == arn


def test_a_key_pending_deletion_says_when(kms, inspector):
    """The day is known, so that doctor can name it."""
    arn = kms.create_key()
    kms.call("ScheduleKeyDeletion", KeyId=arn, PendingWindowInDays=7)
    facts = inspector.describe(arn)
    assert facts.state == "PendingDeletion"
    assert facts.deletion is not None
    assert facts.deletion > datetime.now(UTC)


def test_rotation_is_read(kms, inspector):
    """Off at first; then the period, the next time, and how often it was done on demand."""
    arn = kms.create_key()
    before = inspector.rotation(arn)
    assert before is not None
    assert (before.automatic, before.on_demand, before.last_time) == (False, 0, None)
    assert inspector.rotate_by_itself(arn, 90)
    assert inspector.rotate_now(arn)
    after = inspector.rotation(arn)
    assert after is not None
    assert (after.automatic, after.period_days, after.on_demand) == (True, 90, 1)
    assert after.next_time is not None
    assert after.last_time is not None


def test_rotation_that_may_not_be_asked_for_is_not_known(kms, inspector):
    """Denied is no error here: the finding says that it is not known."""
    arn = kms.create_key()
    let(kms, "kms:DescribeKey")
    assert inspector.rotation(arn) is None
    let(kms, "kms:GetKeyRotationStatus")
    known = inspector.rotation(arn)
    assert known is not None
    assert known.on_demand is None


@pytest.mark.parametrize("operation", ["GenerateDataKey", "Encrypt", "Decrypt"])
def test_a_permission_is_tried_without_being_used(kms, inspector, operation):
    """Allowed in the context that the policy names, denied in another one; nothing is made either way."""
    arn = kms.create_key()
    let(kms, f"kms:{operation}", StringEquals={"kms:EncryptionContext:app": "billing"})
    assert inspector.dry_run(operation, arn, CONTEXT) == (Allowed.YES, "")
    allowed, said = inspector.dry_run(operation, arn, {"app": "other"})
    assert (allowed, "AccessDenied" in said) == (Allowed.NO, True)
    assert kms.count(operation, "ok") == 0


def test_re_encryption_is_tried_without_being_done(kms, inspector):
    """One call needs both permissions."""
    source, target = kms.create_key(), kms.create_key()
    let(kms, "kms:ReEncryptFrom", "kms:ReEncryptTo")
    assert inspector.dry_run("ReEncrypt", target, CONTEXT, source=source)[0] is Allowed.YES
    assert kms.count("ReEncrypt", "ok") == 0


def test_re_encryption_with_half_of_its_permissions_is_denied(kms, inspector):
    """ReEncryptFrom alone is not enough."""
    source, target = kms.create_key(), kms.create_key()
    let(kms, "kms:ReEncryptFrom")
    assert inspector.dry_run("ReEncrypt", target, CONTEXT, source=source)[0] is Allowed.NO


def test_a_permission_on_a_disabled_key_is_not_known(kms, inspector):
    """A dry run of a key that cannot be used says nothing about the policy."""
    arn = kms.create_key()
    kms.call("DisableKey", KeyId=arn)
    allowed, said = inspector.dry_run("GenerateDataKey", arn, CONTEXT)
    assert (allowed, said) == (Allowed.UNKNOWN, "KMS answered DisabledException")


def test_a_rotation_that_was_not_answered_is_not_repeated(kms, inspector):
    """It may have been done, and there are 25 in a key's life."""
    arn = kms.create_key()
    kms.drop("RotateKeyOnDemand")
    with pytest.raises(KeyUnavailable):
        inspector.rotate_now(arn)
    assert kms.count("RotateKeyOnDemand") == 1


def test_what_only_looks_is_repeated(kms, inspector):
    """A passing fault of a read call is not seen."""
    arn = kms.create_key()
    kms.fail("ThrottlingException", "DescribeKey", count=1)
    assert inspector.describe(arn).arn == arn


def test_a_silent_region_is_asked_once(kms, inspector):
    """Dry runs are many: after the first that nobody answered, the others in that region are not known at once."""
    arn = kms.create_key()
    kms.drop()
    assert inspector.dry_run("GenerateDataKey", arn, CONTEXT)[0] is Allowed.UNKNOWN
    kms.forget_calls()
    assert inspector.dry_run("Encrypt", arn, CONTEXT) == (Allowed.UNKNOWN, f"KMS in {REGION} does not answer")
    assert kms.calls == []


def test_the_clock_is_compared_with_every_answer(kms):
    """An answer carries KMS's time, an error's too."""
    inspector = KeyInspector(region=REGION, endpoint_url=kms.url, now=lambda: datetime.now(UTC).timestamp() + 400)
    with pytest.raises(KeyRefused):
        inspector.describe("alias/missing")
    assert inspector.skew is not None
    assert 300 < inspector.skew < 500
    inspector.close()


def test_credentials_are_named_and_never_shown(inspector):
    """Their source and kind, four characters of the id, and nothing else."""
    facts = inspector.credentials()
    assert (facts.source, facts.prefix, facts.renews) == ("env", "AKIA", False)
    assert "AKIATEST" not in repr(facts)


def test_a_closed_inspector_refuses(kms):
    """After close nothing is called."""
    inspector = KeyInspector(region=REGION, endpoint_url=kms.url)
    inspector.close()
    with pytest.raises(ConfigError):
        inspector.describe("alias/payments")


@pytest.fixture
def moto(monkeypatch):
    """CloudTrail and S3 of moto, at the endpoint that the environment names."""
    use_fake_credentials(monkeypatch)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDTRAIL", url)
    with contextlib.closing(boto3.client("s3", region_name="us-east-1", endpoint_url=url)) as store:
        store.create_bucket(Bucket="trail")
    client = boto3.client("cloudtrail", region_name=REGION, endpoint_url=url)
    yield client
    # moto's state belongs to the process, not to the server.
    for trail in client.describe_trails()["trailList"]:
        client.delete_trail(Name=trail["Name"])
    client.close()
    server.stop()


def test_trails_are_looked_up(moto):
    """From no trail, over one that is off and one that leaves KMS out, to one that has it all."""
    inspector = TrailInspector()
    assert "no trail" in judge_trails(REGION, inspector.trails(REGION)).seen
    moto.create_trail(Name="all", S3BucketName="trail", IsMultiRegionTrail=True)
    assert "switched off" in judge_trails(REGION, inspector.trails(REGION)).seen
    moto.start_logging(Name="all")
    # What AWS gives a new trail by itself, and moto does not.
    selector = {"IncludeManagementEvents": True, "ReadWriteType": "All"}
    moto.put_event_selectors(TrailName="all", EventSelectors=[selector])
    assert "records every call" in judge_trails(REGION, inspector.trails(REGION)).seen
    without = {**selector, "ExcludeManagementEventSources": ["kms.amazonaws.com"]}
    moto.put_event_selectors(TrailName="all", EventSelectors=[without])
    assert "leaves out" in judge_trails(REGION, inspector.trails(REGION)).seen
    moto.put_event_selectors(TrailName="all", EventSelectors=[{**selector, "ReadWriteType": "WriteOnly"}])
    assert "write events only" in judge_trails(REGION, inspector.trails(REGION)).seen
    inspector.close()


def test_a_cloudtrail_that_does_not_answer_is_told(monkeypatch, free_port):
    """An error of CloudTrail is no traceback; it says that it is CloudTrail's."""
    use_fake_credentials(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDTRAIL", f"http://127.0.0.1:{free_port}")
    inspector = TrailInspector()
    with pytest.raises(KeyRefused, match="CloudTrail in eu-west-1"):
        inspector.trails(REGION)
    inspector.close()


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    from tests.broker import free_ports

    return free_ports(1)[0]
