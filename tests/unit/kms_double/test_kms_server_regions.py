"""The KMS that we ship for tests: replicas, rotation by the clock, custom key stores, dark regions."""

from __future__ import annotations

import http.client
import json
import threading
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from streamcrypt.testing import KMSServer
from streamcrypt.testing.kms_model import ServiceError
from tests.broker import wait_until
from tests.kms import REGION, make_client, refusal

CONTEXT = {"streamcrypt:topic": "payments"}
DAY = 86_400.0
FAR = "us-east-1"
STORE = "cks-1234567890abcdef0"


@pytest.fixture
def near(kms):
    return kms


@pytest.fixture
def far(server):
    client = make_client(server.url, FAR)
    yield client
    client.close()


def code_of(call, *arguments, **members) -> str:
    with pytest.raises(ServiceError) as caught:
        call(*arguments, **members)
    return caught.value.code


def described(server, arn):
    return server.call("DescribeKey", KeyId=arn)["KeyMetadata"]


def sealed(client, arn):
    return client.generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)


# ---- replicas ----


def test_a_blob_opens_in_every_region_of_its_key_and_nowhere_else(server, near, far):
    """The replica has the material; a key of its own there does not, and without a replica nobody opens."""
    primary = server.create_key(MultiRegion=True)
    made = sealed(near, primary)
    members = {"CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": CONTEXT}
    assert refusal(far.decrypt, **members) == "AccessDeniedException"
    replica = server.replicate(primary, FAR)
    assert replica == primary.replace(REGION, FAR)
    for named in ({"KeyId": replica}, {}):
        opened = far.decrypt(**members, **named)
        assert (opened["Plaintext"], opened["KeyId"]) == (made["Plaintext"], replica)
        assert opened["KeyMaterialId"] == made["KeyMaterialId"]
    assert refusal(far.decrypt, **members, KeyId=server.create_key(region=FAR)) == "IncorrectKeyException"
    assert refusal(far.decrypt, **members, KeyId=primary) == "NotFoundException"


def test_primary_and_replicas_know_each_other(server):
    """DescribeKey shows the same family from either side, and which side it is."""
    primary = server.create_key(MultiRegion=True)
    replicas = [server.replicate(primary, region) for region in (FAR, "eu-central-1")]
    for arn in (primary, *replicas):
        family = described(server, arn)["MultiRegionConfiguration"]
        assert family["MultiRegionKeyType"] == ("PRIMARY" if arn == primary else "REPLICA")
        assert family["PrimaryKey"] == {"Arn": primary, "Region": REGION}
        assert [key["Arn"] for key in family["ReplicaKeys"]] == replicas
    assert "MultiRegionConfiguration" not in described(server, server.create_key())


def test_state_policy_alias_tags_and_description_are_the_replicas_own(server, near, far):
    """Nothing but id, material, kind and rotation is shared."""
    primary = server.create_key("alias/a", MultiRegion=True, Description="here", Tags=[{"TagKey": "a"}])
    replica = server.replicate(primary, FAR)
    near.disable_key(KeyId=primary)
    assert refusal(sealed, client=near, arn=primary) == "DisabledException"
    assert sealed(far, replica)["KeyId"] == replica
    assert refusal(far.describe_key, KeyId="alias/a") == "NotFoundException"
    assert far.list_resource_tags(KeyId=replica)["Tags"] == []
    assert described(server, replica)["Description"] == ""
    document = json.dumps({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}})
    near.put_key_policy(KeyId=primary, Policy=document)
    assert near.get_key_policy(KeyId=primary)["Policy"] == document
    assert far.get_key_policy(KeyId=replica)["Policy"] != document


@pytest.mark.parametrize(
    ("members", "place", "code"),
    [
        ({"MultiRegion": True}, REGION, "AlreadyExistsException"),
        ({"MultiRegion": True}, "nowhere", "ValidationException"),
        ({}, FAR, "UnsupportedOperationException"),
    ],
)
def test_a_replica_needs_a_primary_and_another_region(server, members, place, code):
    """Its own region, no region and a single-region key are three different refusals."""
    assert code_of(server.replicate, server.create_key(**members), place) == code


def test_a_replica_is_not_replicated_and_not_made_twice(server):
    """Only the primary is replicated, once per region, and only while it is enabled."""
    primary = server.create_key(MultiRegion=True)
    replica = server.replicate(primary, FAR)
    assert code_of(server.replicate, replica, "eu-central-1") == "UnsupportedOperationException"
    assert code_of(server.replicate, primary, FAR) == "AlreadyExistsException"
    server.call("DisableKey", KeyId=primary)
    assert code_of(server.replicate, primary, "eu-central-1") == "DisabledException"


def test_the_primary_moves_to_a_region_that_has_a_replica(server, near, far):
    """UpdatePrimaryRegion changes the roles on both sides; the old primary can no more be asked."""
    primary = server.create_key(MultiRegion=True)
    assert refusal(near.update_primary_region, KeyId=primary, PrimaryRegion=FAR) == "NotFoundException"
    replica = server.replicate(primary, FAR)
    near.update_primary_region(KeyId=primary, PrimaryRegion=FAR)
    kinds = [described(server, arn)["MultiRegionConfiguration"]["MultiRegionKeyType"] for arn in (primary, replica)]
    assert kinds == ["REPLICA", "PRIMARY"]
    assert refusal(near.rotate_key_on_demand, KeyId=primary) == "UnsupportedOperationException"
    far.rotate_key_on_demand(KeyId=replica)


def test_a_primary_waits_for_its_last_replica_before_it_is_deleted(server, clock):
    """PendingReplicaDeletion first; the waiting period begins when the last replica is gone."""
    primary = server.create_key(MultiRegion=True)
    replica = server.replicate(primary, FAR)
    answer = server.call("ScheduleKeyDeletion", KeyId=primary, PendingWindowInDays=10)
    assert (answer["KeyState"], "DeletionDate" in answer) == ("PendingReplicaDeletion", False)
    assert described(server, primary)["PendingDeletionWindowInDays"] == 10
    assert code_of(server.call, "GenerateDataKey", KeyId=primary, KeySpec="AES_256") == "KMSInvalidStateException"
    server.call("ScheduleKeyDeletion", KeyId=replica, PendingWindowInDays=7)
    clock.advance(7 * DAY)
    assert code_of(server.call, "DescribeKey", KeyId=replica) == "NotFoundException"
    metadata = described(server, primary)
    assert (metadata["KeyState"], metadata["DeletionDate"]) == ("PendingDeletion", clock() + 10 * DAY)
    clock.advance(10 * DAY)
    assert code_of(server.call, "DescribeKey", KeyId=primary) == "NotFoundException"


def test_a_deleted_replica_can_be_made_again_and_opens_what_was_sealed(server, clock, near, far):
    """A replica's deletion loses nothing: the material lives in the primary."""
    primary = server.create_key(MultiRegion=True)
    replica = server.replicate(primary, FAR)
    blob = sealed(far, replica)["CiphertextBlob"]
    server.call("ScheduleKeyDeletion", KeyId=replica, PendingWindowInDays=7)
    clock.advance(7 * DAY)
    assert refusal(far.decrypt, CiphertextBlob=blob, EncryptionContext=CONTEXT) == "AccessDeniedException"
    assert near.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyId"] == primary
    server.replicate(primary, FAR)
    assert far.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyId"] == replica


# ---- rotation ----


def test_rotation_happens_when_it_is_due_and_in_every_region_at_once(server, clock, near, far):
    """By the server's clock, as often as periods have passed, with old blobs still open."""
    primary = server.create_key(MultiRegion=True)
    replica = server.replicate(primary, FAR)
    made = sealed(near, primary)
    near.enable_key_rotation(KeyId=primary, RotationPeriodInDays=90)
    status = far.get_key_rotation_status(KeyId=replica)
    assert (status["KeyRotationEnabled"], status["RotationPeriodInDays"]) == (True, 90)
    assert status["NextRotationDate"].timestamp() == clock() + 90 * DAY
    clock.advance(90 * DAY - 1)
    assert described(server, primary)["CurrentKeyMaterialId"] == made["KeyMaterialId"]
    clock.advance(1 + 90 * DAY)
    rotations = far.list_key_rotations(KeyId=replica)["Rotations"]
    assert [rotation["RotationType"] for rotation in rotations] == ["AUTOMATIC"] * 2
    assert rotations[-1]["RotationDate"].timestamp() == clock()
    current = {described(server, arn)["CurrentKeyMaterialId"] for arn in (primary, replica)}
    assert current == {rotations[-1]["KeyMaterialId"]}
    opened = far.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (made["Plaintext"], made["KeyMaterialId"])


def test_a_blob_of_a_material_that_came_by_the_clock_opens_without_a_key_id(server, clock, near):
    """The server knows its new materials as soon as they seal."""
    arn = server.create_key()
    near.enable_key_rotation(KeyId=arn)
    clock.advance(365 * DAY)
    assert near.decrypt(CiphertextBlob=sealed(near, arn)["CiphertextBlob"], EncryptionContext=CONTEXT)["KeyId"] == arn


def test_a_disabled_key_rotates_once_it_is_enabled(server, clock):
    """What fell due in the meantime happens then, once."""
    arn = server.create_key()
    server.call("EnableKeyRotation", KeyId=arn, RotationPeriodInDays=90)
    server.call("DisableKey", KeyId=arn)
    clock.advance(200 * DAY)
    assert server.call("ListKeyRotations", KeyId=arn)["Rotations"] == []
    server.call("EnableKey", KeyId=arn)
    (rotation,) = server.call("ListKeyRotations", KeyId=arn)["Rotations"]
    assert rotation["RotationDate"] == clock()


@pytest.mark.parametrize("days", [89, 2561])
def test_a_period_out_of_bounds_is_refused(server, days):
    """90 to 2560 days."""
    assert code_of(server.call, "EnableKeyRotation", KeyId=server.create_key(), RotationPeriodInDays=days) == (
        "ValidationException"
    )


def test_the_first_material_is_listed_on_request(server):
    """ROTATIONS_ONLY leaves it out; ALL_KEY_MATERIAL shows it without date and kind."""
    arn = server.create_key()
    first = described(server, arn)["CurrentKeyMaterialId"]
    second = server.rotate(arn)
    (rotation,) = server.call("ListKeyRotations", KeyId=arn)["Rotations"]
    assert (rotation["KeyMaterialId"], rotation["KeyMaterialState"]) == (second, "CURRENT")
    listed = server.call("ListKeyRotations", KeyId=arn, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert listed[0] == {"KeyId": arn, "KeyMaterialId": first, "KeyMaterialState": "NON_CURRENT"}


def test_rotating_in_process_uses_up_no_on_demand_rotation(server):
    """rotate() plays the clock's part, so a test may call it as often as it likes, on a replica too."""
    primary = server.create_key(MultiRegion=True)
    replica = server.replicate(primary, FAR)
    ids = [server.rotate(replica) for _ in range(26)]
    assert described(server, primary)["CurrentKeyMaterialId"] == ids[-1]
    server.call("RotateKeyOnDemand", KeyId=primary)


def test_on_demand_rotation_keeps_away_from_an_automatic_one(server, clock):
    """Within twenty minutes of a scheduled rotation it is a conflict, and the schedule does not move otherwise."""
    arn = server.create_key()
    server.call("EnableKeyRotation", KeyId=arn, RotationPeriodInDays=90)
    planned = server.call("GetKeyRotationStatus", KeyId=arn)["NextRotationDate"]
    server.call("RotateKeyOnDemand", KeyId=arn)
    assert server.call("GetKeyRotationStatus", KeyId=arn)["NextRotationDate"] == planned
    clock.advance(90 * DAY - 19 * 60)
    assert code_of(server.call, "RotateKeyOnDemand", KeyId=arn) == "ConflictException"


@pytest.mark.parametrize("operation", ["EnableKeyRotation", "RotateKeyOnDemand", "ListKeyRotations"])
@pytest.mark.parametrize(
    "members",
    [{"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, {"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": STORE}],
    ids=["HMAC", "CloudHSM"],
)
def test_other_kinds_of_keys_do_not_rotate(server, operation, members):
    """UnsupportedOperationException, as the API reference has it."""
    assert code_of(server.call, operation, KeyId=server.create_key(**members)) == "UnsupportedOperationException"


def test_a_key_pending_deletion_shows_no_rotation_until_it_is_saved(server):
    """The status is false meanwhile and returns."""
    arn = server.create_key()
    server.call("EnableKeyRotation", KeyId=arn)
    server.call("ScheduleKeyDeletion", KeyId=arn)
    assert server.call("GetKeyRotationStatus", KeyId=arn) == {"KeyId": arn, "KeyRotationEnabled": False}
    server.call("CancelKeyDeletion", KeyId=arn)
    assert server.call("GetKeyRotationStatus", KeyId=arn)["KeyRotationEnabled"]
    server.call("EnableKey", KeyId=arn)
    server.call("DisableKeyRotation", KeyId=arn)
    assert not server.call("GetKeyRotationStatus", KeyId=arn)["KeyRotationEnabled"]


# ---- states that come and go ----


def test_the_keys_of_a_store_that_is_away_are_unavailable(server, near):
    """Nothing is sealed, opened or created there until the store is back; other keys do not notice."""
    arn, other = server.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=STORE), server.create_key()
    blob = sealed(near, arn)["CiphertextBlob"]
    server.disconnect_store(STORE)
    assert described(server, arn)["KeyState"] == "Unavailable"
    assert refusal(sealed, client=near, arn=arn) == "KMSInvalidStateException"
    assert refusal(near.decrypt, CiphertextBlob=blob, EncryptionContext=CONTEXT) == "KMSInvalidStateException"
    create = {"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": STORE}
    assert refusal(near.create_key, **create) == "CustomKeyStoreInvalidStateException"
    assert sealed(near, other)["KeyId"] == other
    server.connect_store(STORE)
    assert near.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyId"] == arn


@pytest.mark.parametrize(
    ("state", "text"),
    [("Creating", "is creating."), ("PendingImport", "is pending import."), ("Unavailable", "is unavailable.")],
)
def test_a_passing_state_refuses_until_it_has_passed(server, near, state, text):
    """KMSInvalidStateException names the state."""
    arn = server.create_key()
    server.set_state(arn, state)
    with pytest.raises(ClientError, match=text) as caught:
        sealed(near, arn)
    assert caught.value.response["Error"]["Code"] == "KMSInvalidStateException"
    server.set_state(arn, "Enabled")
    sealed(near, arn)


def test_a_key_whose_primary_moves_stays_usable(server, near):
    """Updating refuses no data key, says the developer guide."""
    arn = server.create_key(MultiRegion=True)
    server.set_state(arn, "Updating")
    assert sealed(near, arn)["KeyId"] == arn


# ---- dark regions ----


def test_a_dark_region_drops_what_comes_and_the_other_does_not_notice(server, near, far):
    """Until it is lightened; the call log says dark."""
    server.darken(REGION)
    with pytest.raises(ConnectionClosedError):
        near.list_keys()
    far.list_keys()
    server.lighten(REGION)
    near.list_keys()
    assert [call.outcome for call in server.calls] == ["dark", "ok", "ok"]


def test_a_dark_region_may_answer_503(server, near):
    """As behind a load balancer whose targets are gone."""
    server.darken(REGION, how="error")
    with pytest.raises(ClientError) as caught:
        near.list_keys()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503


def test_a_dark_region_may_hang_until_it_is_lightened(server):
    """The request goes on then, as if nothing had been."""
    server.darken(REGION, how="hang")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(_ask(server)))
    waiting.start()
    wait_until(lambda: server.count("ListKeys", "dark") == 1, "the request to arrive")
    server.lighten(FAR)
    assert answers == []
    server.lighten(REGION)
    waiting.join(30)
    assert answers == [200]


def test_healing_lightens_too(server, near):
    """heal() ends all trouble."""
    server.darken(REGION)
    server.fail("ThrottlingException")
    server.heal()
    near.list_keys()


def test_closing_releases_what_hangs_in_the_dark():
    """close() returns whatever is dark."""
    with KMSServer() as server:
        server.darken(REGION, how="hang")
        waiting = threading.Thread(target=_ask, args=(server,))
        waiting.start()
        wait_until(lambda: server.count("ListKeys", "dark") == 1, "the request to arrive")
    waiting.join(30)
    assert not waiting.is_alive()


def _ask(server) -> int:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    scope = f"AWS4-HMAC-SHA256 Credential=AKIATEST/20300101/{REGION}/kms/aws4_request, Signature=00"
    try:
        connection.request("POST", "/", "{}", {"X-Amz-Target": "TrentService.ListKeys", "Authorization": scope})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
