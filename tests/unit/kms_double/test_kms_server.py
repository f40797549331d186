"""The KMS that we ship for tests: its protocol, its keys, its faults and its call log."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from streamcrypt.errors import ConfigError
from streamcrypt.testing import KMSCall, KMSServer
from streamcrypt.testing.kms_model import ServiceError
from streamcrypt.testing.kms_operations import OPERATIONS
from streamcrypt.testing.kms_server import main
from tests.kms import REGION, make_client, refusal

CONTEXT = {"streamcrypt:topic": "payments", "app": "billing"}
DAY = 86_400.0
FIXED_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
MODEL = botocore.session.get_session().get_service_model("kms")


def post(server, operation: str, members: dict | bytes, *, region: str = REGION, signed: bool = True):
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    scope = f"AWS4-HMAC-SHA256 Credential=AKIATEST/20300101/{region}/kms/aws4_request, Signature=00"
    headers = {"X-Amz-Target": f"TrentService.{operation}", **({"Authorization": scope} if signed else {})}
    body = members if isinstance(members, bytes) else json.dumps(members)
    try:
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


# ---- data keys ----


def test_a_data_key_comes_back_under_its_context_and_carries_what_kms_shows(server, kms):
    """GenerateDataKey and Decrypt agree on key, material and bytes; the blob has the 184 bytes of AWS."""
    arn = server.create_key("alias/payments")
    made = kms.generate_data_key(KeyId="alias/payments", KeySpec="AES_256", EncryptionContext=CONTEXT)
    opened = kms.decrypt(KeyId=arn, CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == made["Plaintext"]
    assert len(made["Plaintext"]) == 32
    assert len(made["CiphertextBlob"]) == 184
    assert made["KeyId"] == opened["KeyId"] == arn
    assert made["KeyMaterialId"] == opened["KeyMaterialId"]
    assert re.fullmatch("[0-9a-f]{64}", made["KeyMaterialId"])
    assert made["ResponseMetadata"]["RequestId"] == server.calls[0].request_id


@pytest.mark.parametrize("context", [{}, {**CONTEXT, "more": "x"}, {"app": "billing"}, {**CONTEXT, "app": "Billing"}])
def test_another_context_does_not_open(server, kms, context):
    """The context matches exactly or not at all."""
    arn = server.create_key()
    blob = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)["CiphertextBlob"]
    assert (
        refusal(kms.decrypt, KeyId=arn, CiphertextBlob=blob, EncryptionContext=context) == "InvalidCiphertextException"
    )


def test_no_flipped_byte_of_a_blob_opens(server, kms):
    """Every byte of a blob is authenticated, its fill included."""
    arn = server.create_key()
    blob = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)["CiphertextBlob"]
    for place in range(len(blob)):
        altered = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        text = base64.b64encode(altered).decode()
        with pytest.raises(ServiceError) as caught:
            server.call("Decrypt", KeyId=arn, CiphertextBlob=text, EncryptionContext=CONTEXT)
        assert caught.value.code == "InvalidCiphertextException"


def test_the_key_named_must_be_the_one_that_sealed(server, kms):
    """A wrong KeyId is IncorrectKeyException; no KeyId finds the key by the blob."""
    right, wrong = server.create_key(), server.create_key()
    blob = kms.generate_data_key(KeyId=right, KeySpec="AES_256")["CiphertextBlob"]
    assert refusal(kms.decrypt, KeyId=wrong, CiphertextBlob=blob) == "IncorrectKeyException"
    assert kms.decrypt(CiphertextBlob=blob)["KeyId"] == right


def test_material_rotates_and_old_blobs_still_open(server, kms):
    """RotateKeyOnDemand gives a new material id; what the old one sealed opens and names it."""
    arn = server.create_key()
    before = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    kms.rotate_key_on_demand(KeyId=arn)
    after = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    assert before["KeyMaterialId"] != after["KeyMaterialId"]
    assert kms.decrypt(KeyId=arn, CiphertextBlob=before["CiphertextBlob"])["KeyMaterialId"] == before["KeyMaterialId"]
    assert kms.describe_key(KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"] == after["KeyMaterialId"]


def test_on_demand_rotations_are_limited_to_25(server):
    """As at AWS, a key cannot be rotated by hand for ever."""
    arn = server.create_key()
    for _ in range(25):
        server.call("RotateKeyOnDemand", KeyId=arn)
    with pytest.raises(ServiceError) as caught:
        server.call("RotateKeyOnDemand", KeyId=arn)
    assert caught.value.code == "LimitExceededException"


def test_re_encrypt_moves_a_data_key_to_another_kek_and_context(server, kms):
    """ReEncrypt opens under the source and seals under the destination, showing both materials."""
    source, target = server.create_key(), server.create_key()
    made = kms.generate_data_key(KeyId=source, KeySpec="AES_256", EncryptionContext=CONTEXT)
    moved = kms.re_encrypt(
        CiphertextBlob=made["CiphertextBlob"],
        SourceKeyId=source,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=target,
        DestinationEncryptionContext={"other": "context"},
    )
    assert (moved["SourceKeyId"], moved["KeyId"]) == (source, target)
    assert moved["SourceKeyMaterialId"] == made["KeyMaterialId"] != moved["DestinationKeyMaterialId"]
    opened = kms.decrypt(KeyId=target, CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"other": "context"})
    assert opened["Plaintext"] == made["Plaintext"]
    wrong = refusal(kms.re_encrypt, CiphertextBlob=made["CiphertextBlob"], SourceKeyId=target, DestinationKeyId=target)
    assert wrong == "IncorrectKeyException"


def test_encrypt_and_data_keys_without_plaintext_open_too(server, kms):
    """Encrypt wraps what it is given; GenerateDataKeyWithoutPlaintext shows no key."""
    arn = server.create_key()
    sealed = kms.encrypt(KeyId=arn, Plaintext=b"a" * 32, EncryptionContext=CONTEXT)
    assert kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=CONTEXT)["Plaintext"] == b"a" * 32
    blind = kms.generate_data_key_without_plaintext(KeyId=arn, KeySpec="AES_256")
    assert "Plaintext" not in blind
    assert len(kms.decrypt(CiphertextBlob=blind["CiphertextBlob"])["Plaintext"]) == 32


def test_a_dry_run_ends_in_its_own_error(server, kms):
    """DryRun tells that all would be well by DryRunOperationException, and that not by the real error."""
    arn = server.create_key()
    assert refusal(kms.generate_data_key, KeyId=arn, KeySpec="AES_256", DryRun=True) == "DryRunOperationException"
    kms.disable_key(KeyId=arn)
    assert refusal(kms.generate_data_key, KeyId=arn, KeySpec="AES_256", DryRun=True) == "DisabledException"


# ---- states, names and kinds of keys ----


def test_a_disabled_key_serves_nothing_until_enabled(server, kms):
    """Disabled is DisabledException for sealing and opening alike."""
    arn = server.create_key()
    blob = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")["CiphertextBlob"]
    kms.disable_key(KeyId=arn)
    assert refusal(kms.generate_data_key, KeyId=arn, KeySpec="AES_256") == "DisabledException"
    assert refusal(kms.decrypt, KeyId=arn, CiphertextBlob=blob) == "DisabledException"
    assert kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"] == "Disabled"
    kms.enable_key(KeyId=arn)
    assert kms.decrypt(KeyId=arn, CiphertextBlob=blob)["KeyId"] == arn


def test_a_key_pending_deletion_is_refused_can_be_saved_and_else_is_gone(server, kms, clock):
    """Pending deletion is KMSInvalidStateException; after its date the key is not found."""
    saved, lost = server.create_key(), server.create_key("alias/lost")
    for arn in (saved, lost):
        assert kms.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)["KeyState"] == "PendingDeletion"
    assert refusal(kms.generate_data_key, KeyId=saved, KeySpec="AES_256") == "KMSInvalidStateException"
    assert refusal(kms.enable_key, KeyId=saved) == "KMSInvalidStateException"
    kms.cancel_key_deletion(KeyId=saved)
    assert refusal(kms.cancel_key_deletion, KeyId=saved) == "KMSInvalidStateException"
    clock.advance(7 * DAY)
    assert kms.describe_key(KeyId=saved)["KeyMetadata"]["KeyState"] == "Disabled"
    assert refusal(kms.describe_key, KeyId=lost) == "NotFoundException"
    assert refusal(kms.describe_key, KeyId="alias/lost") == "NotFoundException"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("arn:aws:kms:eu-west-1:111122223333:nonsense", "InvalidArnException"),
        ("arn:aws:kms:eu-west-1:1:key/x", "InvalidArnException"),
        (f"arn:aws:kms:us-east-1:111122223333:key/{FIXED_ID}", "NotFoundException"),
        (f"arn:aws:kms:eu-west-1:111122223333:key/{FIXED_ID}", "NotFoundException"),
        (f"arn:aws:kms:eu-west-1:999999999999:key/{FIXED_ID}", "AccessDeniedException"),
        (FIXED_ID, "NotFoundException"),
        ("alias/none", "NotFoundException"),
        ("arn:aws:kms:eu-west-1:111122223333:alias/none", "NotFoundException"),
        ("not a key", "NotFoundException"),
    ],
)
def test_names_that_mean_no_key_are_refused_as_kms_does(kms, name, code):
    """Malformed, elsewhere, absent and foreign are four different answers."""
    assert refusal(kms.generate_data_key, KeyId=name, KeySpec="AES_256") == code


def test_every_form_of_a_name_means_the_same_key(server, kms):
    """Id, key ARN, alias and alias ARN."""
    arn = server.create_key("alias/team/payments")
    forms = [arn.split("/")[1], arn, "alias/team/payments", "arn:aws:kms:eu-west-1:111122223333:alias/team/payments"]
    assert {kms.describe_key(KeyId=form)["KeyMetadata"]["Arn"] for form in forms} == {arn}


def test_aliases_are_made_moved_listed_and_deleted(server, kms):
    """The alias calls behave as at AWS, with their errors."""
    first, second = server.create_key("alias/a"), server.create_key()
    assert refusal(kms.create_alias, AliasName="alias/a", TargetKeyId=second) == "AlreadyExistsException"
    assert refusal(kms.update_alias, AliasName="alias/b", TargetKeyId=second) == "NotFoundException"
    kms.update_alias(AliasName="alias/a", TargetKeyId=second)
    assert kms.describe_key(KeyId="alias/a")["KeyMetadata"]["Arn"] == second
    assert [alias["AliasName"] for alias in kms.list_aliases(KeyId=second)["Aliases"]] == ["alias/a"]
    assert kms.list_aliases(KeyId=first)["Aliases"] == []
    kms.delete_alias(AliasName="alias/a")
    assert refusal(kms.delete_alias, AliasName="alias/a") == "NotFoundException"


def test_lists_come_in_pages(server, kms):
    """The paginator of botocore walks our lists to their end."""
    made = {server.create_key() for _ in range(5)}
    pages = list(kms.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}))
    assert {key["KeyArn"] for page in pages for key in page["Keys"]} == made
    assert len(pages) == 3
    assert refusal(kms.list_keys, Marker="nonsense") == "InvalidMarkerException"


def test_an_aws_managed_key_exists_and_serves_only_its_service(kms):
    """alias/aws/s3 can be described, and neither used nor moved."""
    metadata = kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]
    assert metadata["KeyManager"] == "AWS"
    assert refusal(kms.generate_data_key, KeyId="alias/aws/s3", KeySpec="AES_256") == "AccessDeniedException"
    assert refusal(kms.delete_alias, AliasName="alias/aws/s3") == "NotAuthorizedException"


def test_a_custom_key_store_key_seals_and_does_not_rotate(server, kms):
    """Its origin shows in DescribeKey, and no material ids are shown."""
    arn = server.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-1234567890abcdef0")
    metadata = kms.describe_key(KeyId=arn)["KeyMetadata"]
    assert (metadata["Origin"], metadata["CustomKeyStoreId"]) == ("AWS_CLOUDHSM", "cks-1234567890abcdef0")
    made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256")
    assert kms.decrypt(KeyId=arn, CiphertextBlob=made["CiphertextBlob"])["Plaintext"] == made["Plaintext"]
    assert refusal(kms.rotate_key_on_demand, KeyId=arn) == "UnsupportedOperationException"


@pytest.mark.parametrize(("spec", "usage"), [("RSA_2048", "ENCRYPT_DECRYPT"), ("HMAC_256", "GENERATE_VERIFY_MAC")])
def test_a_key_of_another_kind_makes_no_data_key(server, kms, spec, usage):
    """Only symmetric encryption keys serve."""
    arn = server.create_key(KeySpec=spec, KeyUsage=usage)
    assert refusal(kms.generate_data_key, KeyId=arn, KeySpec="AES_256") == "InvalidKeyUsageException"


def test_regions_are_worlds_of_their_own(server, kms):
    """The region comes from the signature; keys and aliases of one are unknown in the other."""
    here = server.create_key("alias/payments")
    there = server.create_key("alias/payments", region="us-east-1")
    other = make_client(server.url, "us-east-1")
    try:
        assert kms.describe_key(KeyId="alias/payments")["KeyMetadata"]["Arn"] == here
        assert other.describe_key(KeyId="alias/payments")["KeyMetadata"]["Arn"] == there
        blob = kms.generate_data_key(KeyId=here, KeySpec="AES_256")["CiphertextBlob"]
        assert refusal(other.decrypt, CiphertextBlob=blob) == "AccessDeniedException"
        assert refusal(other.decrypt, KeyId=there, CiphertextBlob=blob) == "IncorrectKeyException"
        assert server.calls[-1].region == "us-east-1"
    finally:
        other.close()


# ---- protocol ----


def test_requests_that_are_not_kms_requests_get_typed_errors(server):
    """Unsigned, unknown, unreadable and incomplete requests are told apart."""
    expected = {
        ("MissingAuthenticationTokenException", 400): post(server, "ListKeys", {}, signed=False),
        ("UnknownOperationException", 400): post(server, "Sign", {}),
        ("SerializationException", 400): post(server, "ListKeys", b"{"),
        ("ValidationException", 400): post(server, "DescribeKey", {}),
    }
    for (code, status), (got, headers, body) in expected.items():
        assert (json.loads(body)["__type"], status) == (code, got)
        assert headers["x-amzn-RequestId"]
    assert json.loads(post(server, "DescribeKey", {"KeyId": 7})[2])["__type"] == "SerializationException"
    assert json.loads(post(server, "DescribeKey", {"KeyId": ""})[2])["__type"] == "ValidationException"


def test_several_requests_use_one_connection(server):
    """HTTP/1.1 keep-alive holds, through errors too."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.connect()
        kept = connection.sock
        for _ in range(3):
            connection.request("POST", "/", "{}", {"X-Amz-Target": "TrentService.ListKeys"})
            connection.getresponse().read()
            assert connection.sock is kept
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"{}"
    finally:
        connection.close()


def _check_shape(shape, value, path):
    kinds = {"string": str, "boolean": bool, "integer": int, "list": list, "structure": dict, "blob": str, "map": dict}
    if shape.type_name == "timestamp":
        assert isinstance(value, (int, float)), path
        return
    assert isinstance(value, kinds[shape.type_name]), path
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members), path
        assert set(shape.required_members) <= set(value), path
        for name, item in value.items():
            _check_shape(shape.members[name], item, f"{path}.{name}")
    elif shape.type_name == "list":
        for item in value:
            _check_shape(shape.member, item, f"{path}[]")
    else:
        if getattr(shape, "enum", None):
            assert value in shape.enum, path
        if shape.type_name == "blob":
            value = base64.b64decode(value, validate=True)
        if shape.type_name in {"string", "blob"}:
            assert shape.metadata.get("min", 0) <= len(value) <= shape.metadata.get("max", 1 << 20), path


def test_every_answer_has_the_shape_that_the_service_model_declares(server):
    """Each operation is called once over HTTP, and its answer held against botocore's model of KMS."""
    arn = server.create_key("alias/a", MultiRegion=True)
    seen = {}

    def ask(operation, **members):
        status, _, body = post(server, operation, members)
        assert status == 200, body
        shape = MODEL.operation_model(operation).output_shape
        answer = json.loads(body) if body else {}
        if shape is None:
            assert not body
        else:
            _check_shape(shape, answer, operation)
        seen[operation] = answer
        return answer

    for members in (
        {},
        {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        {"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1234567890abcdef0"},
    ):
        ask("CreateKey", **members)
    ask("CreateAlias", AliasName="alias/b", TargetKeyId=arn)
    ask("UpdateAlias", AliasName="alias/b", TargetKeyId=arn)
    ask("ListAliases", Limit=1)
    ask("ListKeys")
    ask("DeleteAlias", AliasName="alias/b")
    blob = ask("GenerateDataKey", KeyId=arn, KeySpec="AES_256")["CiphertextBlob"]
    ask("GenerateDataKeyWithoutPlaintext", KeyId=arn, NumberOfBytes=64)
    ask("Encrypt", KeyId=arn, Plaintext="YWJj")
    ask("Decrypt", KeyId=arn, CiphertextBlob=blob)
    ask("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=arn)
    ask("RotateKeyOnDemand", KeyId=arn)
    ask("EnableKeyRotation", KeyId=arn, RotationPeriodInDays=90)
    ask("GetKeyRotationStatus", KeyId=arn)
    ask("ListKeyRotations", KeyId=arn, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    ask("DisableKeyRotation", KeyId=arn)
    role = "arn:aws:iam::111122223333:role/reader"
    constraints = {"EncryptionContextSubset": {"app": "billing"}}
    for retire in (True, False):
        granted = ask(
            "CreateGrant",
            KeyId=arn,
            GranteePrincipal=role,
            RetiringPrincipal=role,
            Operations=["Decrypt"],
            Name="n",
            Constraints=constraints,
        )
        ask("ListGrants", KeyId=arn)
        ask("ListRetirableGrants", RetiringPrincipal=role)
        if retire:
            ask("RetireGrant", GrantToken=granted["GrantToken"])
    ask("RevokeGrant", KeyId=arn, GrantId=granted["GrantId"])
    ask("PutKeyPolicy", KeyId=arn, Policy=ask("GetKeyPolicy", KeyId=arn)["Policy"])
    ask("ListKeyPolicies", KeyId=arn)
    ask("TagResource", KeyId=arn, Tags=[{"TagKey": "team", "TagValue": "payments"}])
    ask("ListResourceTags", KeyId=arn)
    ask("UntagResource", KeyId=arn, TagKeys=["team"])
    ask("UpdateKeyDescription", KeyId=arn, Description="d")
    ask("ReplicateKey", KeyId=arn, ReplicaRegion="us-east-1", Tags=[{"TagKey": "team", "TagValue": "payments"}])
    ask("DisableKey", KeyId=arn)
    ask("EnableKey", KeyId=arn)
    ask("ScheduleKeyDeletion", KeyId=arn)
    ask("DescribeKey", KeyId=arn)
    ask("CancelKeyDeletion", KeyId=arn)
    ask("EnableKey", KeyId=arn)
    ask("UpdatePrimaryRegion", KeyId=arn, PrimaryRegion="us-east-1")
    assert set(seen) == set(OPERATIONS)


# ---- call log and faults ----


def test_the_call_log_shows_what_cloudtrail_would(server, kms, clock):
    """Operation, key, context, outcome, request id, time and region of every request."""
    arn = server.create_key()
    made = kms.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)
    refusal(kms.decrypt, KeyId=arn, CiphertextBlob=made["CiphertextBlob"])
    request_id = made["ResponseMetadata"]["RequestId"]
    first, second = server.calls
    assert first == KMSCall(
        "GenerateDataKey",
        arn,
        tuple(sorted(CONTEXT.items())),
        "ok",
        request_id,
        clock(),
        "eu-west-1",
        principal="arn:aws:iam::111122223333:role/AKIATEST",
        material_id=made["KeyMaterialId"],
        access_key_id="AKIATEST",
    )
    assert (second.operation, second.outcome, second.key_arn) == ("Decrypt", "InvalidCiphertextException", arn)
    assert (server.count("Decrypt"), server.count("Decrypt", "ok"), server.count("Encrypt")) == (1, 0, 0)
    server.forget_calls()
    assert server.calls == []


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", 400),
        ("AccessDeniedException", 400),
        ("ExpiredTokenException", 400),
        ("KMSInternalException", 500),
        ("KeyUnavailableException", 500),
        ("DependencyTimeoutException", 503),
    ],
)
def test_an_injected_error_hits_as_often_as_told(server, kms, code, status):
    """Two calls fail with the code and its HTTP status, the third goes through."""
    server.create_key("alias/a")
    server.fail(code, "DescribeKey", count=2)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            kms.describe_key(KeyId="alias/a")
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    kms.describe_key(KeyId="alias/a")
    assert server.count("DescribeKey", code) == 2


def test_a_fraction_is_drawn_from_a_seed(clock):
    """Two servers with one random seed fail the same requests, about the share that was asked for."""
    patterns = []
    for _ in range(2):
        with KMSServer(random_seed=7, clock=clock) as server:
            server.fail("ThrottlingException", fraction=0.5)
            patterns.append([post(server, "ListKeys", {})[0] for _ in range(60)])
    assert patterns[0] == patterns[1]
    assert 10 < patterns[0].count(400) < 50


def test_a_fault_keeps_to_its_operation_and_region(server):
    """One region goes dark, the other does not notice."""
    server.fail("KMSInternalException", "ListKeys", region="us-east-1")
    assert post(server, "ListKeys", {}, region="us-east-1")[0] == 500
    assert post(server, "ListAliases", {}, region="us-east-1")[0] == 200
    assert post(server, "ListKeys", {})[0] == 200


def test_a_hanging_request_answers_once_healed(server):
    """It stands in the call log at once, and goes on when the fault ends."""
    server.hang("ListKeys")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(post(server, "ListKeys", {})[0]))
    waiting.start()
    deadline = time.monotonic() + 30
    while not server.count("ListKeys", "hang") and time.monotonic() < deadline:
        time.sleep(0.005)
    assert answers == []
    server.heal()
    waiting.join(30)
    assert answers == [200]
    assert server.count("ListKeys") == 1


def test_a_client_gives_up_on_a_hanging_request(server):
    """A hang is a read timeout for whoever does not wait."""
    server.hang()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=0.2) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_dropped_delayed_and_garbled_answers(server, kms):
    """A connection that closes, an answer that comes late, and one that is no JSON."""
    server.create_key("alias/a")
    server.drop(count=1)
    with pytest.raises(ConnectionClosedError):
        kms.describe_key(KeyId="alias/a")
    server.garble(count=1)
    assert "KeyMetadata" not in kms.describe_key(KeyId="alias/a")
    server.delay(0.05, count=1)
    started = time.monotonic()
    kms.describe_key(KeyId="alias/a")
    assert time.monotonic() - started >= 0.05
    assert [call.outcome for call in server.calls] == ["drop", "garbage", "ok"]


def test_closing_ends_hanging_requests_and_idle_connections():
    """close() returns soon whatever clients do, and may be called twice."""
    server = KMSServer().start()
    server.hang()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        server.close()
        assert idle.recv(1) == b""
    server.close()


# ---- seeds and the command ----


@pytest.fixture
def seed(tmp_path):
    path = tmp_path / "seed.json"
    material = base64.b64encode(bytes(range(32))).decode()
    key = {"id": FIXED_ID, "region": REGION, "material": material, "aliases": ["alias/payments"]}
    path.write_text(json.dumps({"account": "000000000000", "keys": [key]}))
    return path


def test_what_a_seeded_key_sealed_opens_after_a_restart(seed):
    """Same id, material and material id, so that a laptop's topics stay readable."""
    with KMSServer(seed=seed) as first:
        made = first.call("GenerateDataKey", KeyId="alias/payments", KeySpec="AES_256")
    with KMSServer(seed=seed) as second:
        opened = second.call("Decrypt", KeyId=second.seeded[0], CiphertextBlob=made["CiphertextBlob"])
    assert opened["Plaintext"] == made["Plaintext"]
    assert opened["KeyMaterialId"] == made["KeyMaterialId"]
    assert opened["KeyId"] == f"arn:aws:kms:eu-west-1:000000000000:key/{FIXED_ID}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ('{"keys": [{"id": "x"}]}', "keys[0]"),
        ('{"keys": [{"id": "x", "region": "r", "material": "AA=="}]}', "keys[0].id"),
        (json.dumps({"keys": [{"id": FIXED_ID, "region": "r", "material": "c2VjcmV0"}]}), "keys[0].material"),
    ],
)
def test_a_bad_seed_names_its_place_and_shows_no_material(tmp_path, content, said):
    """The error leads to the line and not to the key."""
    path = tmp_path / "seed.json"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        KMSServer(seed=path)
    assert said in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_the_command_refuses_a_bad_seed_with_2(tmp_path, capsys):
    """One line on stderr, no traceback."""
    assert main(["--port", "0", "--seed", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_the_command_serves_a_seeded_key_until_sigterm(seed):
    """``python -m streamcrypt.testing.kms_server`` says where it listens, answers, and exits 0."""
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "streamcrypt.testing.kms_server",
        "--port",
        "0",
        "--seed",
        str(seed),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert FIXED_ID in process.stderr.readline()
            url = process.stderr.readline().split()[-1]
            client = make_client(url)
            assert len(client.generate_data_key(KeyId="alias/payments", KeySpec="AES_256")["Plaintext"]) == 32
            client.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
