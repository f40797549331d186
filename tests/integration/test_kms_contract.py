"""One contract for every KMS: ours, moto over HTTP, local-kms, and AWS where STREAMCRYPT_TEST_AWS_KEY names a key.

What an emulator does otherwise than AWS is written down in DEVIATIONS and held to, so that a mended emulator shows.
With AWS, only the cases that need no administration run: they call GenerateDataKey, Decrypt and DescribeKey.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import AuthenticationFailed, KeyRefused, UntrustedKey
from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.testing import KMSServer
from tests.kms import REGION, make_client, use_fake_credentials
from tests.local_kms import local_kms

CONTEXT = {"streamcrypt:topic": "payments", "größe": "groß"}
FAR = "us-east-1"
AWS_KEY = os.environ.get("STREAMCRYPT_TEST_AWS_KEY", "")
EMULATORS = ["ours", "moto", "local-kms"]
SERVICES = EMULATORS + ["aws"] * bool(AWS_KEY)


@dataclass
class Service:
    """A KMS under test."""

    name: str
    kms: Any
    far: Any
    url: str | None
    region: str
    fixed_key: str = ""

    def key(self, **members) -> str:
        """A key to use: a fresh one, or the one that AWS tests were given."""
        return self.fixed_key or self.kms.create_key(**members)["KeyMetadata"]["Arn"]

    def data_key(self, arn: str, **members) -> dict[str, Any]:
        """A data key under CONTEXT."""
        return self.kms.generate_data_key(
            **{"KeyId": arn, "KeySpec": "AES_256", "EncryptionContext": CONTEXT} | members
        )

    def alias(self, target: str) -> str:
        """A fresh alias."""
        name = f"alias/contract-{uuid.uuid4().hex}"
        self.kms.create_alias(AliasName=name, TargetKeyId=target)
        return name


@contextlib.contextmanager
def _moto():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def _ours():
    with KMSServer(region=REGION) as server:
        yield server.url


@pytest.fixture(scope="module")
def service(request, tmp_path_factory):
    """Each KMS in turn, with clients of two of its regions."""
    starts = {
        "ours": _ours,
        "moto": _moto,
        "local-kms": lambda: local_kms(REGION, tmp_path_factory.mktemp("local-kms")),
    }
    with contextlib.ExitStack() as stack:
        url, region, key = None, REGION, ""
        if request.param == "aws":
            region, key = AWS_KEY.split(":")[3], AWS_KEY
        else:
            use_fake_credentials(stack.enter_context(pytest.MonkeyPatch.context()))
            url = stack.enter_context(starts[request.param]())
        clients = [make_client(url, place) for place in (region, FAR)]
        for client in clients:
            stack.callback(client.close)
        yield Service(request.param, *clients, url, region, key)


# ---- the cases: each gives a fact, or raises what botocore raises ----


def opens(s, arn, blob, **members):
    return s.kms.decrypt(**{"KeyId": arn, "CiphertextBlob": blob, "EncryptionContext": CONTEXT} | members)


def round_trip(s):
    arn = s.key()
    made = s.data_key(arn)
    opened = opens(s, arn, made["CiphertextBlob"])
    return made["Plaintext"] == opened["Plaintext"] and made["KeyId"] == opened["KeyId"] == arn


def round_trip_without_key_id(s):
    arn = s.key()
    return s.kms.decrypt(CiphertextBlob=s.data_key(arn)["CiphertextBlob"], EncryptionContext=CONTEXT)["KeyId"] == arn


def another_context(s):
    arn = s.key()
    return opens(s, arn, s.data_key(arn)["CiphertextBlob"], EncryptionContext={**CONTEXT, "größe": "klein"})


def no_context(s):
    arn = s.key()
    return opens(s, arn, s.data_key(arn)["CiphertextBlob"], EncryptionContext={})


def more_context(s):
    arn = s.key()
    return opens(s, arn, s.data_key(arn)["CiphertextBlob"], EncryptionContext={**CONTEXT, "more": "x"})


def context_in_other_case(s):
    arn = s.key()
    return opens(s, arn, s.data_key(arn)["CiphertextBlob"], EncryptionContext={**CONTEXT, "größe": "GROSS"})


def context_in_other_order(s):
    arn = s.key()
    opened = opens(s, arn, s.data_key(arn)["CiphertextBlob"], EncryptionContext=dict(reversed(CONTEXT.items())))
    return len(opened["Plaintext"])


def last_byte_flipped(s):
    arn = s.key()
    blob = s.data_key(arn)["CiphertextBlob"]
    return opens(s, arn, blob[:-1] + bytes([blob[-1] ^ 1]))


def blob_truncated(s):
    arn = s.key()
    return opens(s, arn, s.data_key(arn)["CiphertextBlob"][:-1])


def blob_of_junk(s):
    return opens(s, s.key(), b"junk" * 46)


def size_of_blob(s):
    return len(s.data_key(s.key())["CiphertextBlob"])


def material_ids(s):
    arn = s.key()
    made = s.data_key(arn)
    opened = opens(s, arn, made["CiphertextBlob"])
    return len(made["KeyMaterialId"]) == 64 and made["KeyMaterialId"] == opened["KeyMaterialId"]


def request_id(s):
    return bool(s.data_key(s.key())["ResponseMetadata"]["RequestId"])


def dry_run(s):
    return len(s.data_key(s.key(), DryRun=True)["Plaintext"])


def size_and_spec(s):
    return s.data_key(s.key(), NumberOfBytes=32)


def describe(s):
    arn = s.key()
    metadata = s.kms.describe_key(KeyId=arn)["KeyMetadata"]
    shown = metadata["Arn"] == arn
    return shown, metadata["KeyManager"], metadata["KeySpec"], metadata["KeyState"]


def key_usage(s):
    return s.kms.describe_key(KeyId=s.key())["KeyMetadata"]["KeyUsage"]


def unknown_key_id(s):
    return s.data_key("00000000-12ab-34cd-56ef-1234567890ab")


def unknown_alias(s):
    return s.data_key("alias/streamcrypt-contract-none")


def malformed_arn(s):
    return s.kms.describe_key(KeyId=f"arn:aws:kms:{s.region}:nonsense")


def aws_managed(s):
    return s.kms.describe_key(KeyId="alias/aws/s3")["KeyMetadata"]["KeyManager"]


def decrypt_dry_run_without_a_blob(s):
    return s.kms.decrypt(KeyId=s.key(), EncryptionContext=CONTEXT, DryRun=True, DryRunModifiers=["IGNORE_CIPHERTEXT"])


def dry_run_of_what_would_fail(s):
    return s.data_key("alias/streamcrypt-contract-none", DryRun=True)


def unknown_grant_token(s):
    return len(s.data_key(s.key(), GrantTokens=["none"])["Plaintext"])


def current_material(s):
    arn = s.key()
    return s.kms.describe_key(KeyId=arn)["KeyMetadata"]["CurrentKeyMaterialId"] == s.data_key(arn)["KeyMaterialId"]


WITHOUT_ADMINISTRATION = {
    round_trip: True,
    round_trip_without_key_id: True,
    another_context: "InvalidCiphertextException",
    no_context: "InvalidCiphertextException",
    more_context: "InvalidCiphertextException",
    context_in_other_case: "InvalidCiphertextException",
    context_in_other_order: 32,
    last_byte_flipped: "InvalidCiphertextException",
    blob_truncated: "InvalidCiphertextException",
    blob_of_junk: "InvalidCiphertextException",
    size_of_blob: 184,
    material_ids: True,
    request_id: True,
    dry_run: "DryRunOperationException",
    size_and_spec: "ValidationException",
    describe: (True, "CUSTOMER", "SYMMETRIC_DEFAULT", "Enabled"),
    key_usage: "ENCRYPT_DECRYPT",
    unknown_key_id: "NotFoundException",
    unknown_alias: "NotFoundException",
    malformed_arn: "InvalidArnException",
    aws_managed: "AWS",
    decrypt_dry_run_without_a_blob: "DryRunOperationException",
    dry_run_of_what_would_fail: "NotFoundException",
    unknown_grant_token: "InvalidGrantTokenException",
    current_material: True,
}


def bare(arn):
    return arn.split("/")[1]


def wrong_key_id(s):
    right, wrong = s.key(), s.key()
    return opens(s, wrong, s.data_key(right)["CiphertextBlob"])["KeyId"] == wrong


def alias_resolves(s):
    arn = s.key()
    return s.kms.describe_key(KeyId=s.alias(arn))["KeyMetadata"]["Arn"] == arn


def alias_moves(s):
    alias, new = s.alias(s.key()), s.key()
    s.kms.update_alias(AliasName=alias, TargetKeyId=new)
    return s.kms.describe_key(KeyId=alias)["KeyMetadata"]["Arn"] == new


def alias_twice(s):
    arn = s.key()
    return s.kms.create_alias(AliasName=s.alias(arn), TargetKeyId=arn)


def disabled_by_arn(s):
    arn = s.key()
    s.kms.disable_key(KeyId=arn)
    return s.kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"]


def disabled_seals(s):
    arn = s.key()
    s.kms.disable_key(KeyId=bare(arn))
    return len(s.data_key(arn)["Plaintext"])


def disabled_opens(s):
    arn = s.key()
    blob = s.data_key(arn)["CiphertextBlob"]
    s.kms.disable_key(KeyId=bare(arn))
    return len(opens(s, arn, blob)["Plaintext"])


def pending_deletion_seals(s):
    arn = s.key()
    s.kms.schedule_key_deletion(KeyId=bare(arn), PendingWindowInDays=7)
    return len(s.data_key(arn)["Plaintext"])


def pending_deletion_opens(s):
    arn = s.key()
    blob = s.data_key(arn)["CiphertextBlob"]
    s.kms.schedule_key_deletion(KeyId=bare(arn), PendingWindowInDays=7)
    return len(opens(s, arn, blob)["Plaintext"])


def deletion_cancelled(s):
    arn = s.key()
    s.kms.schedule_key_deletion(KeyId=bare(arn), PendingWindowInDays=7)
    s.kms.cancel_key_deletion(KeyId=bare(arn))
    return s.kms.describe_key(KeyId=arn)["KeyMetadata"]["KeyState"]


def rsa_makes_no_data_key(s):
    return len(s.data_key(s.key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"))["Plaintext"])


def multi_region_round_trip(s):
    arn = s.key(MultiRegion=True)
    return len(opens(s, arn, s.data_key(arn)["CiphertextBlob"])["Plaintext"])


def multi_region_id(s):
    return len(s.key(MultiRegion=True).split("/")[1])


def rotated_on_demand(s):
    arn = s.key()
    before = s.data_key(arn)
    s.kms.rotate_key_on_demand(KeyId=bare(arn))
    after = s.data_key(arn)
    opened = opens(s, arn, before["CiphertextBlob"])
    return before["KeyMaterialId"] == opened["KeyMaterialId"] != after["KeyMaterialId"]


def re_encrypt(s):
    source, target = s.key(), s.key()
    moved = s.kms.re_encrypt(
        CiphertextBlob=s.data_key(source)["CiphertextBlob"],
        SourceKeyId=source,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=target,
        DestinationEncryptionContext=CONTEXT,
    )
    return len(opens(s, target, moved["CiphertextBlob"])["Plaintext"])


def re_encrypt_from_wrong_source(s):
    source, target = s.key(), s.key()
    moved = s.kms.re_encrypt(
        CiphertextBlob=s.data_key(source)["CiphertextBlob"],
        SourceKeyId=target,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=target,
        DestinationEncryptionContext=CONTEXT,
    )
    return len(opens(s, target, moved["CiphertextBlob"])["Plaintext"])


def re_encrypted(s, source, target, **members):
    return s.kms.re_encrypt(
        **{
            "CiphertextBlob": s.data_key(source)["CiphertextBlob"],
            "SourceKeyId": source,
            "SourceEncryptionContext": CONTEXT,
            "DestinationKeyId": target,
            "DestinationEncryptionContext": CONTEXT,
        }
        | members
    )


def re_encrypt_shows_both_materials(s):
    moved = re_encrypted(s, s.key(), s.key())
    return len({moved["SourceKeyMaterialId"], moved["DestinationKeyMaterialId"]})


def re_encrypt_shows_both_keys(s):
    source, target = s.key(), s.key()
    moved = re_encrypted(s, source, target)
    return moved["SourceKeyId"] == source and moved["KeyId"] == target


def re_encrypt_without_source_key(s):
    source, target = s.key(), s.key()
    blob = s.data_key(source)["CiphertextBlob"]
    moved = s.kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext=CONTEXT, DestinationKeyId=target)
    return moved["SourceKeyId"] == source


def re_encrypt_under_another_context(s):
    return len(re_encrypted(s, s.key(), s.key(), SourceEncryptionContext={"a": "b"})["CiphertextBlob"])


def re_encrypt_changes_the_context(s):
    target = s.key()
    moved = re_encrypted(s, s.key(), target, DestinationEncryptionContext={"a": "b"})
    return len(opens(s, target, moved["CiphertextBlob"], EncryptionContext={"a": "b"})["Plaintext"])


def re_encrypt_dry_run(s):
    return len(re_encrypted(s, s.key(), s.key(), DryRun=True)["CiphertextBlob"])


def re_encrypt_from_a_disabled_key(s):
    source, target = s.key(), s.key()
    blob = s.data_key(source)["CiphertextBlob"]
    s.kms.disable_key(KeyId=bare(source))
    members = {"CiphertextBlob": blob, "SourceKeyId": source, "SourceEncryptionContext": CONTEXT}
    return len(s.kms.re_encrypt(**members, DestinationKeyId=target)["CiphertextBlob"])


def re_encrypt_to_a_disabled_key(s):
    target = s.key()
    s.kms.disable_key(KeyId=bare(target))
    return len(re_encrypted(s, s.key(), target)["CiphertextBlob"])


def replica(s):
    primary = s.key(MultiRegion=True)
    return primary, s.kms.replicate_key(KeyId=bare(primary), ReplicaRegion=FAR)["ReplicaKeyMetadata"]["Arn"]


def replica_has_the_same_id(s):
    primary, copy = replica(s)
    return copy == primary.replace(REGION, FAR)


def replica_opens(s):
    primary, copy = replica(s)
    blob = s.data_key(primary)["CiphertextBlob"]
    return s.far.decrypt(KeyId=copy, CiphertextBlob=blob, EncryptionContext=CONTEXT)["KeyId"] == copy


def replica_kind(s):
    copy = replica(s)[1]
    return s.far.describe_key(KeyId=copy)["KeyMetadata"]["MultiRegionConfiguration"]["MultiRegionKeyType"]


def replica_state_is_its_own(s):
    primary, copy = replica(s)
    s.kms.disable_key(KeyId=bare(primary))
    return s.far.describe_key(KeyId=copy)["KeyMetadata"]["KeyState"]


def replica_made_twice(s):
    primary, _ = replica(s)
    return s.kms.replicate_key(KeyId=bare(primary), ReplicaRegion=FAR)["ReplicaKeyMetadata"]["KeyState"]


def replica_of_a_single_region_key(s):
    return s.kms.replicate_key(KeyId=bare(s.key()), ReplicaRegion=FAR)["ReplicaKeyMetadata"]["KeyState"]


def primary_moves(s):
    primary, copy = replica(s)
    s.kms.update_primary_region(KeyId=bare(primary), PrimaryRegion=FAR)
    return s.far.describe_key(KeyId=copy)["KeyMetadata"]["MultiRegionConfiguration"]["MultiRegionKeyType"]


def primary_waits_for_its_replicas(s):
    primary, _ = replica(s)
    return s.kms.schedule_key_deletion(KeyId=bare(primary), PendingWindowInDays=7)["KeyState"]


def rotates_with_its_primary(s):
    primary, copy = replica(s)
    s.kms.rotate_key_on_demand(KeyId=bare(primary))
    return s.far.list_key_rotations(KeyId=copy)["Rotations"][0]["RotationType"]


def rotation_is_off_at_first(s):
    return s.kms.get_key_rotation_status(KeyId=bare(s.key()))["KeyRotationEnabled"]


def rotation_period(s):
    arn = s.key()
    s.kms.enable_key_rotation(KeyId=bare(arn), RotationPeriodInDays=90)
    status = s.kms.get_key_rotation_status(KeyId=bare(arn))
    return status["KeyRotationEnabled"], status["RotationPeriodInDays"], "NextRotationDate" in status


def rotation_period_too_long(s):
    return s.kms.enable_key_rotation(KeyId=bare(s.key()), RotationPeriodInDays=2561)["ResponseMetadata"][
        "HTTPStatusCode"
    ]


def rotation_of_a_disabled_key(s):
    arn = s.key()
    s.kms.disable_key(KeyId=bare(arn))
    return s.kms.enable_key_rotation(KeyId=bare(arn))["ResponseMetadata"]["HTTPStatusCode"]


def rotation_of_an_hmac_key(s):
    arn = s.key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")
    return s.kms.rotate_key_on_demand(KeyId=bare(arn))["ResponseMetadata"]["HTTPStatusCode"]


def rotations_are_listed(s):
    arn = s.key()
    s.kms.rotate_key_on_demand(KeyId=bare(arn))
    listed = s.kms.list_key_rotations(KeyId=bare(arn), IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    return sorted(rotation.get("RotationType", "first") for rotation in listed)


def on_demand_rotations_end(s):
    arn = s.key()
    for _ in range(26):
        s.kms.rotate_key_on_demand(KeyId=bare(arn))
    return "no end"


def granted(s, arn, **members):
    role = "arn:aws:iam::111122223333:role/streamcrypt-contract"
    return s.kms.create_grant(**{"KeyId": bare(arn), "GranteePrincipal": role, "Operations": ["Decrypt"]} | members)


def grants_are_listed(s):
    arn = s.key()
    subset = {"EncryptionContextSubset": {"app": "billing"}}
    made = granted(s, arn, Constraints=subset)
    (listed,) = s.kms.list_grants(KeyId=bare(arn))["Grants"]
    return listed["GrantId"] == made["GrantId"] and listed["Operations"], listed["Constraints"] == subset


def grant_named_twice(s):
    arn = s.key()
    return len({granted(s, arn, Name="one")["GrantId"] for _ in range(2)})


def grant_of_a_foreign_operation(s):
    return bool(granted(s, s.key(), Operations=["Sign"])["GrantId"])


def grant_dry_run(s):
    return bool(granted(s, s.key(), DryRun=True)["GrantId"])


def grant_revoked(s):
    arn = s.key()
    s.kms.revoke_grant(KeyId=bare(arn), GrantId=granted(s, arn)["GrantId"])
    return s.kms.list_grants(KeyId=bare(arn))["Grants"]


def grant_retired_by_token(s):
    arn = s.key()
    s.kms.retire_grant(GrantToken=granted(s, arn)["GrantToken"])
    return s.kms.list_grants(KeyId=bare(arn))["Grants"]


def grant_unknown(s):
    return s.kms.revoke_grant(KeyId=bare(s.key()), GrantId="0" * 64)["ResponseMetadata"]["HTTPStatusCode"]


def policy_by_default(s):
    policy = json.loads(s.kms.get_key_policy(KeyId=bare(s.key()), PolicyName="default")["Policy"])
    (statement,) = policy["Statement"]
    return statement["Effect"], statement["Action"], statement["Principal"]["AWS"].endswith(":root")


def policy_is_kept(s):
    arn = s.key()
    document = json.dumps({"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}]})
    s.kms.put_key_policy(KeyId=bare(arn), PolicyName="default", Policy=document)
    return s.kms.get_key_policy(KeyId=bare(arn), PolicyName="default")["Policy"] == document


def policy_malformed(s):
    answer = s.kms.put_key_policy(KeyId=bare(s.key()), PolicyName="default", Policy='{"Statement": "none"}')
    return answer["ResponseMetadata"]["HTTPStatusCode"]


def tags_are_kept(s):
    arn = s.key(Tags=[{"TagKey": "team", "TagValue": "payments"}])
    s.kms.tag_resource(KeyId=bare(arn), Tags=[{"TagKey": "more", "TagValue": ""}])
    s.kms.untag_resource(KeyId=bare(arn), TagKeys=["team"])
    return s.kms.list_resource_tags(KeyId=bare(arn))["Tags"]


def deletion_window_too_long(s):
    return s.kms.schedule_key_deletion(KeyId=bare(s.key()), PendingWindowInDays=31)["KeyState"]


WITH_ADMINISTRATION = {
    wrong_key_id: "IncorrectKeyException",
    alias_resolves: True,
    alias_moves: True,
    alias_twice: "AlreadyExistsException",
    disabled_by_arn: "Disabled",
    disabled_seals: "DisabledException",
    disabled_opens: "DisabledException",
    pending_deletion_seals: "KMSInvalidStateException",
    pending_deletion_opens: "KMSInvalidStateException",
    deletion_cancelled: "Disabled",
    rsa_makes_no_data_key: "InvalidKeyUsageException",
    multi_region_round_trip: 32,
    multi_region_id: 36,
    rotated_on_demand: True,
    re_encrypt: 32,
    re_encrypt_from_wrong_source: "IncorrectKeyException",
    re_encrypt_shows_both_materials: 2,
    re_encrypt_shows_both_keys: True,
    re_encrypt_without_source_key: True,
    re_encrypt_under_another_context: "InvalidCiphertextException",
    re_encrypt_changes_the_context: 32,
    re_encrypt_dry_run: "DryRunOperationException",
    re_encrypt_from_a_disabled_key: "DisabledException",
    re_encrypt_to_a_disabled_key: "DisabledException",
    replica_has_the_same_id: True,
    replica_opens: True,
    replica_kind: "REPLICA",
    replica_state_is_its_own: "Enabled",
    replica_made_twice: "AlreadyExistsException",
    replica_of_a_single_region_key: "UnsupportedOperationException",
    primary_moves: "PRIMARY",
    primary_waits_for_its_replicas: "PendingReplicaDeletion",
    rotates_with_its_primary: "ON_DEMAND",
    rotation_is_off_at_first: False,
    rotation_period: (True, 90, True),
    rotation_period_too_long: "ValidationException",
    rotation_of_a_disabled_key: "DisabledException",
    rotation_of_an_hmac_key: "UnsupportedOperationException",
    rotations_are_listed: ["ON_DEMAND", "first"],
    on_demand_rotations_end: "LimitExceededException",
    grants_are_listed: (["Decrypt"], True),
    grant_named_twice: 1,
    grant_of_a_foreign_operation: "ValidationException",
    grant_dry_run: "DryRunOperationException",
    grant_revoked: [],
    grant_retired_by_token: [],
    grant_unknown: "NotFoundException",
    policy_by_default: ("Allow", "kms:*", True),
    policy_is_kept: True,
    policy_malformed: "MalformedPolicyDocumentException",
    tags_are_kept: [{"TagKey": "more", "TagValue": ""}],
    deletion_window_too_long: "ValidationException",
}

UNKNOWN_TO_LOCAL_KMS = [
    rotated_on_demand,
    replica_has_the_same_id,
    replica_opens,
    replica_kind,
    replica_state_is_its_own,
    replica_made_twice,
    replica_of_a_single_region_key,
    primary_moves,
    primary_waits_for_its_replicas,
    rotates_with_its_primary,
    rotation_of_an_hmac_key,
    rotations_are_listed,
    on_demand_rotations_end,
    grants_are_listed,
    grant_named_twice,
    grant_of_a_foreign_operation,
    grant_dry_run,
    grant_revoked,
    grant_retired_by_token,
    grant_unknown,
]
"""Cases with an operation that local-kms does not have: replicas, grants, rotation on demand."""

DEVIATIONS: dict[str, dict[Callable[[Any], Any], Any]] = {
    "ours": {},
    "aws": {},
    "moto": {
        blob_of_junk: "AccessDeniedException",
        size_of_blob: 96,
        material_ids: "no KeyMaterialId",
        dry_run: 32,
        key_usage: "no KeyUsage",
        malformed_arn: "NotFoundException",
        aws_managed: "CUSTOMER",
        decrypt_dry_run_without_a_blob: "InvalidCiphertextException",
        unknown_grant_token: 32,
        current_material: "no CurrentKeyMaterialId",
        wrong_key_id: "AccessDeniedException",
        disabled_by_arn: "500",
        disabled_seals: 32,
        disabled_opens: 32,
        pending_deletion_seals: 32,
        pending_deletion_opens: 32,
        rsa_makes_no_data_key: 32,
        multi_region_round_trip: "AccessDeniedException",
        multi_region_id: 40,
        rotated_on_demand: "no KeyMaterialId",
        re_encrypt_from_wrong_source: 32,
        re_encrypt_shows_both_materials: "no SourceKeyMaterialId",
        re_encrypt_dry_run: 96,
        re_encrypt_from_a_disabled_key: 96,
        re_encrypt_to_a_disabled_key: 96,
        replica_opens: "AccessDeniedException",
        replica_made_twice: "Enabled",
        replica_of_a_single_region_key: "500",
        primary_moves: "500",
        primary_waits_for_its_replicas: "no KeyState",
        rotation_period: "no RotationPeriodInDays",
        rotation_period_too_long: 200,
        rotation_of_a_disabled_key: 200,
        rotation_of_an_hmac_key: 200,
        rotations_are_listed: ["ON_DEMAND"],
        on_demand_rotations_end: "no end",
        grant_named_twice: 2,
        grant_of_a_foreign_operation: True,
        grant_dry_run: True,
        policy_malformed: 200,
        deletion_window_too_long: "no KeyState",
    },
    "local-kms": {
        **dict.fromkeys(UNKNOWN_TO_LOCAL_KMS, "501"),
        size_of_blob: 140,
        material_ids: "no KeyMaterialId",
        request_id: "no RequestId",
        dry_run: 32,
        malformed_arn: "NotFoundException",
        aws_managed: "NotFoundException",
        decrypt_dry_run_without_a_blob: "ValidationException",
        unknown_grant_token: 32,
        current_material: "no CurrentKeyMaterialId",
        wrong_key_id: "InvalidCiphertextException",
        deletion_cancelled: "Enabled",
        rsa_makes_no_data_key: "InternalFailureException",
        re_encrypt_from_wrong_source: 32,
        re_encrypt_shows_both_materials: "no SourceKeyMaterialId",
        re_encrypt_dry_run: 140,
        rotation_period: "no RotationPeriodInDays",
        rotation_period_too_long: 200,
        policy_malformed: 200,
    },
}
"""By service and case: what it gives instead of what AWS gives.

Of moto, version 5.2 was looked at; of local-kms, the version in tests/local_kms.py.
"""


def _fact(case, service):
    try:
        return case(service)
    except ClientError as error:
        return error.response["Error"]["Code"]
    except KeyError as error:
        return f"no {error.args[0]}"


def _named(case):
    return case.__name__.replace("_", " ")


@pytest.mark.parametrize("service", SERVICES, indirect=True)
@pytest.mark.parametrize("case", WITHOUT_ADMINISTRATION, ids=_named)
def test_a_key_is_used_as_at_aws(service, case):
    """Each case gives what AWS gives, or the deviation that is written down."""
    assert _fact(case, service) == DEVIATIONS[service.name].get(case, WITHOUT_ADMINISTRATION[case])


@pytest.mark.parametrize("service", EMULATORS, indirect=True)
@pytest.mark.parametrize("case", WITH_ADMINISTRATION, ids=_named)
def test_keys_are_administered_as_at_aws(service, case):
    """Each case gives what AWS gives, or the deviation that is written down."""
    assert _fact(case, service) == DEVIATIONS[service.name].get(case, WITH_ADMINISTRATION[case])


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_is_one(name):
    """What is written down differs from AWS and belongs to a case."""
    cases = WITHOUT_ADMINISTRATION | WITH_ADMINISTRATION
    assert all(cases[case] != given for case, given in DEVIATIONS[name].items())


# ---- our provider over each service ----


@pytest.fixture
def provider_of(service):
    """Builds providers of the service under test."""
    with contextlib.ExitStack() as stack:

        def make(key_id, **settings):
            provider = AWSKMSKeyProvider(key_id, region=service.region, endpoint_url=service.url, **settings)
            stack.callback(provider.close)
            return provider

        yield make


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_the_provider_mints_and_opens(service, provider_of):
    """A data key minted under the ARN opens under it, and under no other context."""
    arn = service.key()
    provider = provider_of(arn)
    assert provider.check() == arn
    made = provider.generate_data_key(CONTEXT)
    ((encrypted, key_id),) = provider.trusted(made.encrypted)
    assert key_id == arn
    assert provider.decrypt_data_key(encrypted, key_id, CONTEXT) == made.plaintext
    with pytest.raises(AuthenticationFailed):
        provider.decrypt_data_key(encrypted, key_id, {**CONTEXT, "streamcrypt:topic": "other"})


@pytest.mark.parametrize("service", SERVICES, indirect=True)
def test_the_provider_refuses_a_key_that_does_not_exist(service, provider_of):
    """A key that is not there, or not for us, needs an operator."""
    account = service.key().split(":")[4]
    absent = f"arn:aws:kms:{service.region}:{account}:key/00000000-12ab-34cd-56ef-1234567890ab"
    with pytest.raises(KeyRefused):
        provider_of(absent).generate_data_key(CONTEXT)


@pytest.mark.parametrize("service", EMULATORS, indirect=True)
def test_the_provider_follows_an_alias(service, provider_of):
    """The envelope carries the ARN that the alias points to."""
    arn = service.key()
    assert provider_of(service.alias(arn)).generate_data_key(CONTEXT).encrypted[0].key_id == arn


REFUSALS = {
    "IncorrectKeyException": UntrustedKey,
    "AccessDeniedException": KeyRefused,
    "InvalidCiphertextException": AuthenticationFailed,
}


@pytest.mark.parametrize("service", EMULATORS, indirect=True)
def test_the_provider_does_not_open_under_another_kek(service, provider_of):
    """AWS says IncorrectKey, which is UntrustedKey; the emulators say other things, which become other refusals."""
    ours, theirs = service.key(), service.key()
    wrapped = provider_of(theirs).generate_data_key(CONTEXT).encrypted[0].ciphertext
    said = DEVIATIONS[service.name].get(wrong_key_id, "IncorrectKeyException")
    with pytest.raises(REFUSALS[said]):
        provider_of(ours).decrypt_data_key(EncryptedDataKey("aws-kms", ours, wrapped), ours, CONTEXT)
