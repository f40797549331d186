"""``streamcrypt keys``: what it shows, what it rotates, and what it refuses before anything is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamcrypt import AWSKMSKeyProvider, LocalKeyProvider
from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.testing import KMSServer
from tests.kms import REGION, use_fake_credentials

OTHER = "eu-central-1"
PIPELINES = [{"name": "seal", "mode": "encrypt", "from": "plain", "to": "sealed"}]


@pytest.fixture
def kms(monkeypatch):
    """A KMS with one key."""
    use_fake_credentials(monkeypatch)
    with KMSServer(region=REGION) as server:
        server.arn = server.create_key("alias/payments")
        yield server


@pytest.fixture
def run(tmp_path: Path, kms: KMSServer):
    """Runs ``streamcrypt keys …`` with a configuration for that KMS."""

    def run(command: str, *options: str, answer: str = "", **keys: Any) -> Any:
        section = {"key_id": "alias/payments", "region": REGION, "endpoint_url": kms.url, **keys}
        path = tmp_path / "streamcrypt.yaml"
        tree = {"kafka": {"bootstrap.servers": "x:1"}, "keys": section, "pipelines": PIPELINES}
        path.write_text(json.dumps(tree))
        return CliRunner().invoke(app, ["keys", command, str(path), *options], input=answer)

    return run


def materials(kms: KMSServer, arn: str, region: str = REGION) -> str:
    """The current key material."""
    return kms.call("DescribeKey", region=region, KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"]


def test_rotation_on_demand_changes_the_material(kms, run):
    """New material, the request id of KMS's log, what is left, and what happens to pipelines and records."""
    before = materials(kms, kms.arn)
    done = run("rotate", "--now", "--yes")
    assert done.exit_code == Exit.DONE, done.output
    assert materials(kms, kms.arn) != before
    (call,) = [call for call in kms.calls if call.operation == "RotateKeyOnDemand"]
    assert f"a rotation on demand has begun (request {call.request_id})" in done.stdout
    assert "0 of 25 rotations on demand are used; 24 will be left" in done.stdout
    assert "within a minute" in done.stdout
    assert "still opens" in done.stdout


def test_what_was_sealed_before_still_opens(kms, run):
    """A data key wrapped under the old material unwraps after a rotation."""
    provider = AWSKMSKeyProvider("alias/payments", region=REGION, endpoint_url=kms.url)
    minted = provider.generate_data_key({"app": "billing"})
    assert run("rotate", "--now", "--yes").exit_code == Exit.DONE
    opened = provider.decrypt_data_key(minted.encrypted[0], kms.arn, {"app": "billing"})
    assert opened == minted.plaintext
    provider.close()


@pytest.mark.parametrize(("options", "days"), [([], 365), (["--period", "90"], 90), (["--period", "2560"], 2560)])
def test_automatic_rotation_is_switched_on(kms, run, options, days):
    """With KMS's own period unless another is given."""
    done = run("rotate", "--automatic", "--yes", *options)
    assert done.exit_code == Exit.DONE, done.output
    status = kms.call("GetKeyRotationStatus", KeyId=kms.arn)
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, days)
    assert f"every {days} days" in done.stdout


@pytest.mark.parametrize(("answer", "code"), [("y\n", Exit.DONE), ("n\n", Exit.FAILED), ("", Exit.FAILED)])
def test_nothing_is_done_unasked(kms, run, answer, code):
    """Without --yes a person says yes; no answer is no."""
    assert run("rotate", "--now", answer=answer).exit_code == code
    assert kms.count("RotateKeyOnDemand") == (1 if code == Exit.DONE else 0)


def test_the_twenty_sixth_rotation_is_refused(kms, run):
    """Refused before it is tried, with what to do instead; automatic rotation does not count."""
    for _ in range(25):
        kms.call("RotateKeyOnDemand", KeyId=kms.arn)
    done = run("rotate", "--now", "--yes")
    assert done.exit_code == Exit.FAILED
    assert "all 25 rotations on demand of its life are used" in done.stderr
    assert "Use --automatic, which does not count" in done.stderr
    assert kms.count("RotateKeyOnDemand") == 0
    assert run("rotate", "--automatic", "--yes").exit_code == Exit.DONE


def test_of_a_multi_region_key_the_primary_is_rotated(kms, run):
    """The replica that the configuration names takes the new material over."""
    primary = kms.create_key(MultiRegion=True)
    replica = kms.replicate(primary, OTHER)
    before = materials(kms, replica, OTHER)
    done = run("rotate", "--now", "--yes", key_id=replica, region=OTHER)
    assert done.exit_code == Exit.DONE, done.output
    assert f"{primary} ({replica}): rotate its key material now, and with it 1 replica" in done.stdout
    assert materials(kms, replica, OTHER) == materials(kms, primary) != before


def test_a_custom_key_store_does_not_rotate(kms, run):
    """KMS cannot, so nothing is tried."""
    arn = kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-1234567890abcdef0")
    for how in ("--now", "--automatic"):
        done = run("rotate", how, "--yes", key_id=arn)
        assert done.exit_code == Exit.FAILED
        assert "it lives in a custom key store" in done.stderr
        assert "reencrypt --rewrap" in done.stderr


def test_none_is_rotated_unless_all_can_be(kms, run):
    """One disabled KEK of two keeps the other as it is."""
    other = kms.create_key()
    kms.call("DisableKey", KeyId=other)
    done = run("rotate", "--now", "--yes", key_id=[kms.arn, other])
    assert done.exit_code == Exit.FAILED
    assert f"{other} cannot be rotated: its state is Disabled" in done.stderr
    assert kms.count("RotateKeyOnDemand") == 0


def test_one_of_several_keks_may_be_chosen(kms, run):
    """--key takes a name of the configuration, and no other."""
    other = kms.create_key()
    done = run("rotate", "--now", "--yes", "--key", other, key_id=[kms.arn, other])
    assert done.exit_code == Exit.DONE, done.output
    assert [call.key_arn for call in kms.calls if call.operation == "RotateKeyOnDemand"] == [other]
    assert run("rotate", "--now", "--yes", "--key", "alias/else").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "pass either --automatic or --now"),
        (["--automatic", "--now"], "pass either --automatic or --now"),
        (["--now", "--period", "90"], "--period goes with --automatic"),
        (["--automatic", "--period", "89"], "90 to 2560 days, not 89"),
        (["--automatic", "--period", "2561"], "90 to 2560 days, not 2561"),
    ],
    ids=["neither", "both", "period", "short", "long"],
)
def test_options_that_do_not_go_together(run, options, words):
    """Exit code 2, and nothing is asked of KMS."""
    done = run("rotate", *options)
    assert done.exit_code == Exit.USAGE
    assert words in done.stderr


def test_a_login_that_may_not_see_the_count_does_not_rotate(kms, run):
    """Spending one of 25 unseen is refused."""
    actions = ["kms:DescribeKey", "kms:RotateKeyOnDemand", "kms:GetKeyRotationStatus"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
    kms.allow("AKIATEST", {"Version": "2012-10-17", "Statement": [statement]})
    done = run("rotate", "--now", "--yes")
    assert done.exit_code == Exit.FAILED
    assert "may not see how many" in done.stderr
    assert kms.count("RotateKeyOnDemand") == 0


def test_a_keyring_is_not_rotated(tmp_path):
    """The local provider has no material to rotate: exit code 2 with what to do."""
    LocalKeyProvider.generate().save(tmp_path / "keyring.json")
    path = tmp_path / "streamcrypt.yaml"
    keys = {"provider": "local", "keyring": "keyring.json"}
    path.write_text(json.dumps({"kafka": {"bootstrap.servers": "x:1"}, "keys": keys, "pipelines": PIPELINES}))
    done = CliRunner().invoke(app, ["keys", "rotate", str(path), "--now"])
    assert done.exit_code == Exit.USAGE
    assert '"primary"' in done.stderr


def test_keys_are_listed(kms, run):
    """State, rotation, rotations used and replicas, as a table and as JSON."""
    mrk = kms.create_key(MultiRegion=True)
    replica = kms.replicate(mrk, OTHER)
    kms.call("RotateKeyOnDemand", KeyId=kms.arn)
    shown = run("list", key_id=["alias/payments", mrk])
    assert shown.exit_code == Exit.DONE, shown.output
    assert "on demand 1 of 25" in " ".join(shown.stdout.split())
    tree = json.loads(run("list", "--format", "json", key_id=["alias/payments", mrk]).stdout)
    first, second = tree["keys"]
    assert (first["name"], first["arn"], first["state"]) == ("alias/payments", kms.arn, "Enabled")
    assert first["rotation"]["on_demand"] == 1
    assert second["replicas"] == [replica]
    assert run("list", "--format", "xml").exit_code == Exit.USAGE
    assert run("list", key_id="alias/missing").exit_code == Exit.FAILED
