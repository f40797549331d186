"""The KMS that we ship for tests: its call log as CloudTrail would show it, its seeds with identities, its fixture."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from streamcrypt.errors import ConfigError
from streamcrypt.testing import KMSServer
from tests.kms import REGION, make_client, refusal

CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
MRK = "mrk-1234abcd12ab34cd56ef1234567890ab"
MATERIAL = base64.b64encode(bytes(range(32))).decode()


def test_an_event_of_cloudtrail_says_what_ours_says(server, kms):
    """Request id, key, material, context and principal, in the places where CloudTrail has them."""
    arn = server.create_key("alias/payments")
    made = kms.generate_data_key(KeyId="alias/payments", KeySpec="AES_256", EncryptionContext=CONTEXT)
    (event,) = server.cloudtrail()
    assert (event["eventName"], event["awsRegion"], event["eventTime"]) == (
        "GenerateDataKey",
        REGION,
        "2023-11-14T22:13:20Z",
    )
    assert event["requestID"] == made["ResponseMetadata"]["RequestId"]
    assert event["requestParameters"] == {
        "keyId": "alias/payments",
        "keySpec": "AES_256",
        "encryptionContext": CONTEXT,
    }
    assert event["additionalEventData"] == {"keyMaterialId": made["KeyMaterialId"]}
    assert [resource["ARN"] for resource in event["resources"]] == [arn]
    assert event["userIdentity"]["arn"] == "arn:aws:iam::111122223333:role/AKIATEST"
    assert event["readOnly"]
    assert "errorCode" not in event


def test_a_re_encryption_shows_both_keys_materials_and_contexts(server, kms):
    """The source first."""
    source, target = server.create_key(), server.create_key()
    blob = server.call("GenerateDataKey", KeyId=source, KeySpec="AES_256", EncryptionContext=CONTEXT)["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=base64.b64decode(blob),
        SourceKeyId=source,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=target,
        DestinationEncryptionContext={"app": "other"},
    )
    (event,) = server.cloudtrail()
    assert [resource["ARN"] for resource in event["resources"]] == [source, target]
    assert event["additionalEventData"] == {
        "sourceKeyMaterialId": moved["SourceKeyMaterialId"],
        "destinationKeyMaterialId": moved["DestinationKeyMaterialId"],
    }
    assert event["requestParameters"]["sourceEncryptionContext"] == CONTEXT
    (call,) = server.calls
    assert (call.key_arn, call.target_arn, call.context) == (source, target, tuple(sorted(CONTEXT.items())))
    assert call.target_context == (("app", "other"),)


def test_no_event_shows_ciphertext_plaintext_or_tokens(server, kms):
    """Neither the requests' nor the answers'."""
    arn = server.create_key()
    sealed = kms.encrypt(KeyId=arn, Plaintext=b"a secret of thirty-two bytes....")
    opened = kms.decrypt(KeyId=arn, CiphertextBlob=sealed["CiphertextBlob"])
    role = "arn:aws:iam::111122223333:role/reader"
    token = kms.create_grant(KeyId=arn, GranteePrincipal=role, Operations=["Decrypt"])["GrantToken"]
    kms.retire_grant(GrantToken=token)
    shown = json.dumps(server.cloudtrail()) + repr(server.calls)
    for secret in (sealed["CiphertextBlob"], opened["Plaintext"]):
        assert base64.b64encode(secret).decode() not in shown
    assert token not in shown


def test_an_error_is_recorded_with_its_code_and_text(server, kms):
    """AccessDenied is the one code that CloudTrail shortens."""
    arn = server.create_key()
    kms.disable_key(KeyId=arn)
    assert refusal(kms.generate_data_key, KeyId=arn, KeySpec="AES_256") == "DisabledException"
    server.allow("AKIAOTHER", {"Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}})
    with pytest.raises(ClientError) as caught:
        kms.describe_key(KeyId=arn)
    disabled, denied = server.cloudtrail()[1:]
    assert (disabled["errorCode"], disabled["errorMessage"]) == ("DisabledException", f"{arn} is disabled.")
    assert (denied["errorCode"], denied["errorMessage"]) == (
        "AccessDenied",
        caught.value.response["Error"]["Message"],
    )
    assert disabled["resources"] == denied["resources"] != []


def test_what_never_reached_the_service_is_no_event(server, kms):
    """Dropped and dark requests are in the call log only; a throttled one did arrive."""
    server.drop(count=1)
    with pytest.raises(ConnectionClosedError):
        kms.list_keys()
    server.darken(REGION)
    with pytest.raises(ConnectionClosedError):
        kms.list_keys()
    server.heal()
    server.fail("ThrottlingException", count=1)
    assert refusal(kms.list_keys) == "ThrottlingException"
    assert [call.outcome for call in server.calls] == ["drop", "dark", "ThrottlingException"]
    assert [event["errorCode"] for event in server.cloudtrail()] == ["ThrottlingException"]


# ---- seeds ----


def seed_file(tmp_path, **entry):
    path = tmp_path / "seed.json"
    key = {"id": MRK, "region": REGION, "material": MATERIAL, "aliases": ["alias/payments"], "replicas": ["us-east-1"]}
    identity = {
        "access_key_id": "AKIATEST",
        "name": "sealer",
        "policies": [{"Statement": {"Effect": "Allow", "Action": "kms:GenerateDataKey", "Resource": "*"}}],
    }
    path.write_text(json.dumps({"keys": [key | entry.pop("key", {})], "identities": [identity]} | entry))
    return path


def test_a_seed_brings_replicas_and_identities(tmp_path):
    """Aliases in every region, and requests judged from the start."""
    with KMSServer(seed=seed_file(tmp_path)) as server:
        assert server.seeded == (f"arn:aws:kms:{REGION}:111122223333:key/{MRK}",)
        clients = [make_client(server.url, region) for region in (REGION, "us-east-1")]
        made = [client.generate_data_key(KeyId="alias/payments", KeySpec="AES_256") for client in clients]
        assert made[0]["KeyMaterialId"] == made[1]["KeyMaterialId"]
        assert refusal(clients[0].describe_key, KeyId="alias/payments") == "AccessDeniedException"
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"key": {"id": "1234abcd-12ab-34cd-56ef-1234567890ab"}}, "keys[0].replicas"),
        ({"key": {"policy": {"Statement": []}}}, "keys[0].policy"),
        ({"key": {"polices": {}}}, "keys[0]: needs"),
        ({"identities": [{"name": "x"}]}, "identities[0]"),
        ({"identities": [{"access_key_id": "AKIA", "policies": [{}]}]}, "identity policy of AKIA"),
        ({"identity": []}, "not an object"),
    ],
    ids=["replica of a single-region key", "key policy", "unknown field", "no key id", "policy", "unknown member"],
)
def test_a_bad_seed_says_where(tmp_path, entry, said):
    """By place, before anything listens."""
    with pytest.raises(ConfigError) as caught:
        KMSServer(seed=seed_file(tmp_path, **entry))
    assert said in str(caught.value)


# ---- the fixture ----

PLUGIN_TEST = """
import boto3

def test_seals(kms_server):
    arn = kms_server.create_key()
    client = boto3.client("kms", region_name=kms_server.region, endpoint_url=kms_server.url)
    assert client.generate_data_key(KeyId=arn, KeySpec="AES_256")["KeyId"] == arn
    client.close()

def test_starts_empty(kms_server):
    assert kms_server.call("ListKeys")["Keys"] == []
"""


def test_the_fixture_gives_each_test_a_kms_of_its_own(tmp_path):
    """As docs/testing.md tells users to enable it."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["streamcrypt.testing.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
