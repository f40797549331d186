"""One contract for every KMS: ours, moto over HTTP, and AWS where STREAMCRYPT_TEST_AWS_KEY names a key.

What an emulator does otherwise than AWS is written down in DEVIATIONS and held to, so that a mended emulator shows.
With AWS, only the cases that need no administration run: they call GenerateDataKey, Decrypt and DescribeKey.
"""

from __future__ import annotations

import contextlib
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

CONTEXT = {"streamcrypt:topic": "payments", "größe": "groß"}
AWS_KEY = os.environ.get("STREAMCRYPT_TEST_AWS_KEY", "")


@dataclass
class Service:
    """A KMS under test."""

    name: str
    kms: Any
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


@pytest.fixture(scope="module", params=["ours", "moto", *(["aws"] if AWS_KEY else [])])
def service(request):
    """Each KMS in turn, with a client of its own."""
    with contextlib.ExitStack() as stack:
        url, region, key = None, REGION, ""
        if request.param == "aws":
            region, key = AWS_KEY.split(":")[3], AWS_KEY
        else:
            use_fake_credentials(stack.enter_context(pytest.MonkeyPatch.context()))
            url = (
                stack.enter_context(KMSServer(region=REGION)).url
                if request.param == "ours"
                else stack.enter_context(_moto())
            )
        client = make_client(url, region)
        stack.callback(client.close)
        yield Service(request.param, client, url, region, key)


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
}

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
    },
}
"""By service and case: what it gives instead of what AWS gives. Of moto, version 5.2 was looked at."""


def _fact(case, service):
    try:
        return case(service)
    except ClientError as error:
        return error.response["Error"]["Code"]
    except KeyError as error:
        return f"no {error.args[0]}"


def _named(case):
    return case.__name__.replace("_", " ")


@pytest.mark.parametrize("case", WITHOUT_ADMINISTRATION, ids=_named)
def test_a_key_is_used_as_at_aws(service, case):
    """Each case gives what AWS gives, or the deviation that is written down."""
    assert _fact(case, service) == DEVIATIONS[service.name].get(case, WITHOUT_ADMINISTRATION[case])


@pytest.mark.parametrize("case", WITH_ADMINISTRATION, ids=_named)
def test_keys_are_administered_as_at_aws(service, case):
    """Each case gives what AWS gives, or the deviation that is written down."""
    if service.fixed_key:
        pytest.skip("makes and deletes keys, which costs money at AWS")
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


def test_the_provider_refuses_a_key_that_does_not_exist(service, provider_of):
    """A key that is not there, or not for us, needs an operator."""
    account = service.key().split(":")[4]
    absent = f"arn:aws:kms:{service.region}:{account}:key/00000000-12ab-34cd-56ef-1234567890ab"
    with pytest.raises(KeyRefused):
        provider_of(absent).generate_data_key(CONTEXT)


def test_the_provider_follows_an_alias(service, provider_of):
    """The envelope carries the ARN that the alias points to."""
    if service.fixed_key:
        pytest.skip("makes an alias")
    arn = service.key()
    assert provider_of(service.alias(arn)).generate_data_key(CONTEXT).encrypted[0].key_id == arn


def test_the_provider_does_not_open_under_another_kek(service, provider_of):
    """AWS says IncorrectKey, which is UntrustedKey; moto says AccessDenied, which is KeyRefused."""
    if service.fixed_key:
        pytest.skip("makes a second key")
    ours, theirs = service.key(), service.key()
    wrapped = provider_of(theirs).generate_data_key(CONTEXT).encrypted[0].ciphertext
    expected = KeyRefused if wrong_key_id in DEVIATIONS[service.name] else UntrustedKey
    with pytest.raises(expected):
        provider_of(ours).decrypt_data_key(EncryptedDataKey("aws-kms", ours, wrapped), ours, CONTEXT)
