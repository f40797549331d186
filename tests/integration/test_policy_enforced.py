"""The proof of the generated policies: loaded into a KMS that enforces them, each role does its work and nothing else.

Every role works through the real encryptor, decryptor and key provider, over HTTP, with an access key of its own. Then
every operation that the KMS knows is tried by every role, on every key, in every encryption context; what is allowed
is compared with a table written by hand.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any

import boto3
import pytest
import yaml
from typer.testing import CliRunner

from streamcrypt import AWSKMSKeyProvider, Decryptor, Encryptor
from streamcrypt.cli.app import app
from streamcrypt.cli.compose import build_decryptor, build_encryptor, build_letter_encryptor, build_letter_provider
from streamcrypt.cli.exits import Exit
from streamcrypt.config import Settings, load
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.errors import KeyRefused
from streamcrypt.policies.needs import Role
from streamcrypt.testing import KMSServer
from streamcrypt.testing.kms_operations import OPERATIONS
from tests.kms import REGION, use_fake_credentials
from tests.roles import access_key, patiently

ACCOUNT = "111122223333"
ADMINISTRATOR = "administrator"
EVERYBODY = [*Role, ADMINISTRATOR]
RECORD = b"a record"


def principal(role: str) -> str:
    """The ARN of a role."""
    return f"arn:aws:iam::{ACCOUNT}:role/{role}"


@dataclass(frozen=True)
class Stage:
    """A configuration, the KMS that it names, and the keys there by the names that the tables use."""

    server: KMSServer
    settings: Settings
    keys: dict[str, str]
    policies: dict[str, Any]


TOPICS = {
    "payments": "payments.sealed",
    "letters": "payments.dlq",
    "orders": "orders.sealed",
    "ledger": "ledger.sealed",
    "audit": "audit.sealed",
    "audit anew": "audit.new",
}
CONTEXTS: dict[str, dict[str, str]] = {
    "none": {},
    **{name: {"app": "billing", "streamcrypt:topic": topic} for name, topic in TOPICS.items()},
    "another topic": {"app": "billing", "streamcrypt:topic": "salaries"},
}
for _name, _topic in TOPICS.items():
    CONTEXTS |= {
        f"{_name}, another app": {"app": "payroll", "streamcrypt:topic": _topic},
        f"{_name}, no app": {"streamcrypt:topic": _topic},
        f"{_name}, one pair more": {"app": "billing", "streamcrypt:topic": _topic, "team": "x"},
    }
CONTEXTS["no topic"] = {"app": "billing"}


@pytest.fixture
def stage(tmp_path, monkeypatch) -> Iterator[Stage]:
    """One KEK by its alias, one of earlier data, one for dead letters, and one that nobody is to use."""
    use_fake_credentials(monkeypatch)
    with KMSServer(account=ACCOUNT) as server:
        keys = {
            "kek": server.create_key("alias/payments"),
            "old": server.create_key(),
            "letters": server.create_key(),
            "foreign": server.create_key(),
        }
        tree = {
            "kafka": {"bootstrap.servers": "localhost:9092"},
            "keys": {
                "key_id": "alias/payments",
                "region": REGION,
                "endpoint_url": server.url,
                "trusted_keys": [keys["old"]],
            },
            "context": {"app": "billing"},
            "topic_names": {"eu.orders.sealed": "orders.sealed", "ledger.new": "ledger.sealed"},
            "pipelines": [
                {
                    "name": "seal",
                    "mode": "encrypt",
                    "from": "payments",
                    "to": "payments.sealed",
                    "on_failure": "dead_letter",
                    "dead_letter": "payments.dlq",
                    "dead_letter_key": keys["letters"],
                },
                {"name": "open", "mode": "decrypt", "from": "eu.orders.sealed", "to": "orders"},
                {"name": "wrap", "mode": "reencrypt", "how": "rewrap", "from": "ledger.sealed", "to": "ledger.new"},
                {"name": "anew", "mode": "reencrypt", "how": "reseal", "from": "audit.sealed", "to": "audit.new"},
            ],
        }
        path = tmp_path / "streamcrypt.yaml"
        path.write_text(yaml.safe_dump(tree))
        yield Stage(server, load(path), keys, generate(path))


def generate(path) -> dict[str, Any]:
    """Run the command for all roles; the alias is resolved by asking the KMS."""
    roles = [part for role in EVERYBODY for part in ("--principal", f"{role}={principal(role)}")]
    result = CliRunner().invoke(app, ["policy", str(path), *roles])
    assert (result.exit_code, result.stderr) == (Exit.DONE, "")
    return json.loads(result.stdout)


def load_identity_policies(stage: Stage) -> None:
    """Give each role its identity policy; key policies stay those of AWS, which leave it to IAM."""
    for role, document in stage.policies["iam"].items():
        stage.server.allow(access_key(role), document, role)


def load_key_policies(stage: Stage) -> None:
    """Give each key its policy, and the roles nothing: the key policies alone decide."""
    for role in EVERYBODY:
        stage.server.allow(access_key(role), allow_everything(), role)
        stage.server.disallow(access_key(role))
    for key, document in stage.policies["keys"].items():
        stage.server.call("PutKeyPolicy", KeyId=key, Policy=json.dumps(document))


LOADERS: dict[str, Callable[[Stage], None]] = {
    "identity policies": load_identity_policies,
    "key policies": load_key_policies,
}


@pytest.fixture(params=list(LOADERS))
def enforced(request, stage: Stage) -> Stage:
    """The stage, with the generated policies in force."""
    LOADERS[request.param](stage)
    return stage


# -- each role does its work -------------------------------------------------------------------------------------------


@pytest.fixture
def acting(enforced: Stage):
    """Gives a key provider of the configuration that calls with a role's access key."""
    opened: list[AWSKMSKeyProvider] = []

    def provider(role: str) -> AWSKMSKeyProvider:
        keys = enforced.settings.keys
        session = boto3.Session(aws_access_key_id=access_key(role), aws_secret_access_key="x", region_name=REGION)
        opened.append(
            AWSKMSKeyProvider(
                keys.key_id,
                region=keys.region,
                endpoint_url=keys.endpoint_url,
                trusted_keys=keys.trusted_keys,
                session=session,
            )
        )
        return opened[-1]

    yield provider
    for item in opened:
        item.close()


def pipeline(stage: Stage, name: str) -> Any:
    """A pipeline of the configuration."""
    return next(item for item in stage.settings.pipelines if item.name == name)


def sealed_under(stage: Stage, key: str, topic: str) -> tuple[bytes | None, list[tuple[str, bytes | None]]]:
    """A record as somebody sealed it before, under one of the keys, with rights of its own."""
    stage.server.allow("AKIAWRITER", allow_everything(), "writer")
    policy = stage.server.call("GetKeyPolicy", KeyId=stage.keys[key])["Policy"]
    document = json.loads(policy)
    document["Statement"].append({**allow_everything()["Statement"][0], "Principal": {"AWS": principal("writer")}})
    stage.server.call("PutKeyPolicy", KeyId=stage.keys[key], Policy=json.dumps(document))
    session = boto3.Session(aws_access_key_id="AKIAWRITER", aws_secret_access_key="x", region_name=REGION)
    with (
        closing(
            AWSKMSKeyProvider(stage.keys[key], region=REGION, endpoint_url=stage.server.url, session=session)
        ) as keys,
        Encryptor(keys, context={"app": "billing"}) as sealer,
    ):
        return patiently(sealer.encrypt, topic, RECORD)


def allow_everything() -> dict[str, Any]:
    """The policy of somebody who may do all."""
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}


def test_the_encryptor_seals_records_and_dead_letters(enforced, acting, monkeypatch):
    """With GenerateDataKey on the KEK and on that of the letters."""
    seal = pipeline(enforced, "seal")
    provider = acting(Role.ENCRYPTOR)
    with build_encryptor(enforced.settings, seal, provider, max_wait=None) as sealer:
        sealed, headers = patiently(sealer.encrypt, "payments.sealed", RECORD)
    assert sealed != RECORD
    assert HEADER_NAME in dict(headers)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key(Role.ENCRYPTOR))
    with (
        closing(build_letter_provider(enforced.settings, seal, provider)) as letters,
        build_letter_encryptor(enforced.settings, seal, letters) as sealer,
    ):
        assert patiently(sealer.encrypt, "payments.dlq", RECORD)[0] != RECORD
    with build_encryptor(enforced.settings, seal, provider, max_wait=None) as sealer, pytest.raises(KeyRefused):
        patiently(sealer.encrypt, "salaries", RECORD)


@pytest.mark.parametrize("key", ["kek", "old"])
def test_the_decryptor_opens_what_it_reads_and_nothing_else(enforced, acting, key):
    """Records under the configured and the trusted KEK open; those of another topic are refused by KMS itself."""
    read, other = sealed_under(enforced, key, "orders.sealed"), sealed_under(enforced, key, "salaries")
    provider = acting(Role.DECRYPTOR)
    with build_decryptor(enforced.settings, pipeline(enforced, "open"), provider, max_wait=None) as opener:
        assert patiently(opener.decrypt, "eu.orders.sealed", read[0], None, read[1])[0] == RECORD
    with Decryptor(provider) as opener, pytest.raises(KeyRefused):
        patiently(opener.decrypt, "salaries", other[0], None, other[1])


def test_the_re_encryptor_rewraps_without_seeing_a_data_key(enforced, acting):
    """ReEncrypt from the trusted KEK to the configured one; Decrypt of the same data key is refused."""
    value, headers = sealed_under(enforced, "old", "ledger.sealed")
    provider = acting(Role.RE_ENCRYPTOR)
    header = decode_header(dict(headers)[HEADER_NAME])
    [wrapped] = patiently(provider.rewrap_data_key, header.keys, dict(header.context))
    assert wrapped.key_id == enforced.keys["kek"]
    with Decryptor(provider, topic_names={"ledger.new": "ledger.sealed"}) as opener, pytest.raises(KeyRefused):
        patiently(opener.decrypt, "ledger.new", value, None, headers)


def test_the_re_encryptor_reseals(enforced, acting):
    """Opens the source and seals for the target."""
    value, headers = sealed_under(enforced, "old", "audit.sealed")
    provider, anew = acting(Role.RE_ENCRYPTOR), pipeline(enforced, "anew")
    with (
        build_decryptor(enforced.settings, anew, provider, max_wait=None) as opener,
        build_encryptor(enforced.settings, anew, provider, max_wait=None) as sealer,
    ):
        plain, _ = patiently(opener.decrypt, "audit.sealed", value, None, headers)
        assert plain == RECORD
        assert patiently(sealer.encrypt, "audit.new", plain)[0] != RECORD


@pytest.mark.parametrize("topic", ["ledger.sealed", "ledger.new", "audit.sealed", "audit.new"])
def test_the_verifier_opens_sources_and_targets(enforced, acting, topic):
    """The verify pass reads both sides."""
    logical = enforced.settings.topic_names.get(topic, topic)
    value, headers = sealed_under(enforced, "kek", logical)
    with build_decryptor(enforced.settings, pipeline(enforced, "wrap"), acting(Role.VERIFIER), max_wait=None) as opener:
        assert patiently(opener.decrypt, topic, value, None, headers)[0] == RECORD


def test_the_replayer_opens_letters_and_seals_their_records(enforced, acting, monkeypatch):
    """A letter is opened under its own KEK, its record sealed under that of the target."""
    value, headers = sealed_under(enforced, "letters", "payments.dlq")
    seal = pipeline(enforced, "seal")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key(Role.REPLAYER))
    with (
        closing(build_letter_provider(enforced.settings, seal, acting(Role.REPLAYER))) as letters,
        Decryptor(letters) as opener,
    ):
        assert patiently(opener.decrypt, "payments.dlq", value, None, headers)[0] == RECORD
    with build_encryptor(enforced.settings, seal, acting(Role.REPLAYER), max_wait=None) as sealer:
        assert patiently(sealer.encrypt, "payments.sealed", RECORD)[0] != RECORD


def test_an_auditor_proves_that_another_kek_stands_in(enforced, acting):
    """Unwraps the data keys of every sealed topic."""
    for topic in ("payments.sealed", "orders.sealed", "ledger.sealed", "audit.new"):
        value, headers = sealed_under(enforced, "old", topic)
        with Decryptor(acting(Role.AUDITOR)) as opener:
            assert patiently(opener.decrypt, topic, value, None, headers)[0] == RECORD


# -- and nothing else --------------------------------------------------------------------------------------------------

Attempt = tuple[str, str, str]
"""Operation, key by name, encryption context by name; ReEncrypt joins two of each by ' to '."""

USING = ("Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext")
BY_ALIAS = "kek by alias"
RECORDS = ("payments", "orders", "ledger", "audit", "audit anew")

ALLOWED: dict[str, set[Attempt]] = {
    Role.ENCRYPTOR: {
        ("GenerateDataKey", "kek", "payments"),
        ("GenerateDataKey", "letters", "letters"),
        ("DescribeKey", BY_ALIAS, ""),
        ("DescribeKey", "letters", ""),
    },
    Role.DECRYPTOR: {
        ("Decrypt", "kek", "orders"),
        ("Decrypt", "old", "orders"),
        ("DescribeKey", BY_ALIAS, ""),
    },
    Role.RE_ENCRYPTOR: {
        ("ReEncrypt", "kek to kek", "ledger to ledger"),
        ("ReEncrypt", "old to kek", "ledger to ledger"),
        ("Decrypt", "kek", "audit"),
        ("Decrypt", "old", "audit"),
        ("GenerateDataKey", "kek", "audit anew"),
        ("DescribeKey", BY_ALIAS, ""),
    },
    Role.VERIFIER: {
        *product(["Decrypt"], ["kek", "old"], ["ledger", "audit", "audit anew"]),
        ("DescribeKey", BY_ALIAS, ""),
    },
    Role.REPLAYER: {
        ("Decrypt", "letters", "letters"),
        ("Decrypt", "old", "letters"),
        ("GenerateDataKey", "letters", "letters"),
        ("GenerateDataKey", "kek", "payments"),
        ("DescribeKey", BY_ALIAS, ""),
        ("DescribeKey", "letters", ""),
    },
    Role.AUDITOR: {
        *product(["Decrypt"], ["kek", "old"], RECORDS),
        ("Decrypt", "letters", "letters"),
        ("Decrypt", "old", "letters"),
        ("DescribeKey", BY_ALIAS, ""),
        ("DescribeKey", "letters", ""),
    },
    Role.DOCTOR: {
        *product(
            ["DescribeKey", "GetKeyRotationStatus", "ListKeyRotations"], ["kek", BY_ALIAS, "old", "letters"], [""]
        ),
    },
    Role.KEY_ROTATOR: {
        *product(
            ["DescribeKey", "EnableKeyRotation", "GetKeyRotationStatus", "ListKeyRotations", "RotateKeyOnDemand"],
            ["kek", BY_ALIAS, "letters"],
            [""],
        ),
    },
}
# An administrator is in key policies only.
MANAGING = {
    "CancelKeyDeletion",
    "CreateAlias",
    "DeleteAlias",
    "DescribeKey",
    "DisableKey",
    "DisableKeyRotation",
    "EnableKey",
    "EnableKeyRotation",
    "GetKeyPolicy",
    "GetKeyRotationStatus",
    "ListGrants",
    "ListKeyPolicies",
    "ListKeyRotations",
    "ListResourceTags",
    "PutKeyPolicy",
    "RevokeGrant",
    "RotateKeyOnDemand",
    "ScheduleKeyDeletion",
    "TagResource",
    "UntagResource",
    "UpdateAlias",
    "UpdateKeyDescription",
}


def encoded(data: bytes) -> str:
    """A blob as it is on the wire."""
    return base64.b64encode(data).decode()


def members_of(stage: Stage, operation: str, key: str, grant: str) -> dict[str, Any]:
    """A valid request for an operation that takes no encryption context."""
    given: dict[str, Any] = {
        "CreateAlias": {"AliasName": "alias/new", "TargetKeyId": key},
        "CreateGrant": {"KeyId": key, "GranteePrincipal": principal("writer"), "Operations": ["Decrypt"]},
        "CreateKey": {},
        "DeleteAlias": {"AliasName": "alias/payments"},
        "ListAliases": {},
        "ListKeys": {},
        "ListRetirableGrants": {"RetiringPrincipal": principal("writer")},
        "PutKeyPolicy": {"KeyId": key, "Policy": json.dumps(allow_everybody())},
        "ReplicateKey": {"KeyId": key, "ReplicaRegion": "eu-central-1"},
        "RetireGrant": {"KeyId": key, "GrantId": grant},
        "RevokeGrant": {"KeyId": key, "GrantId": grant},
        "TagResource": {"KeyId": key, "Tags": [{"TagKey": "a", "TagValue": "b"}]},
        "UntagResource": {"KeyId": key, "TagKeys": ["a"]},
        "UpdateAlias": {"AliasName": "alias/payments", "TargetKeyId": key},
        "UpdateKeyDescription": {"KeyId": key, "Description": "x"},
        "UpdatePrimaryRegion": {"KeyId": key, "PrimaryRegion": "eu-central-1"},
    }
    return given.get(operation, {"KeyId": key})


def allow_everybody() -> dict[str, Any]:
    """A key policy that would open the key to the whole account."""
    [statement] = allow_everything()["Statement"]
    return {"Version": "2012-10-17", "Statement": [{**statement, "Principal": {"AWS": principal("writer")}}]}


def attempts_on(stage: Stage) -> Iterator[tuple[Attempt, str, dict[str, Any]]]:
    """Every operation, on every key, in every context: its name, the operation, and a valid request."""
    blobs = {
        (name, label): stage.server.call("Encrypt", KeyId=key, Plaintext=encoded(bytes(32)), EncryptionContext=context)[
            "CiphertextBlob"
        ]
        for (name, key), (label, context) in product(stage.keys.items(), CONTEXTS.items())
    }
    for (name, key), (label, context) in product(stage.keys.items(), CONTEXTS.items()):
        extra = {
            "Decrypt": {"CiphertextBlob": blobs[name, label]},
            "Encrypt": {"Plaintext": encoded(b"x")},
            "GenerateDataKey": {"KeySpec": "AES_256"},
            "GenerateDataKeyWithoutPlaintext": {"KeySpec": "AES_256"},
        }
        for operation in USING:
            yield (operation, name, label), operation, {"KeyId": key, "EncryptionContext": context, **extra[operation]}
    mixed = [(label, label) for label in CONTEXTS] + [
        ("ledger", "payments"),
        ("payments", "ledger"),
        ("none", "ledger"),
    ]
    for (source, target), (before, after) in product(product(stage.keys, stage.keys), mixed):
        yield (
            ("ReEncrypt", f"{source} to {target}", f"{before} to {after}"),
            "ReEncrypt",
            {
                "CiphertextBlob": blobs[source, before],
                "SourceKeyId": stage.keys[source],
                "SourceEncryptionContext": CONTEXTS[before],
                "DestinationKeyId": stage.keys[target],
                "DestinationEncryptionContext": CONTEXTS[after],
            },
        )
    grants = {
        key: stage.server.call("CreateGrant", KeyId=key, GranteePrincipal=principal("writer"), Operations=["Decrypt"])
        for key in stage.keys.values()
    }
    for operation in sorted(set(OPERATIONS) - {*USING, "ReEncrypt"}):
        for name, key in stage.keys.items():
            request = members_of(stage, operation, key, grants[key]["GrantId"])
            yield (operation, name if key in request.values() else "", ""), operation, request
        if operation != "RetireGrant" and members_of(stage, operation, "x", "x") == {"KeyId": "x"}:
            yield (operation, BY_ALIAS, ""), operation, {"KeyId": "alias/payments"}


class Door:
    """Makes requests in a role's name. What is allowed is undone, so that the next request meets the same keys."""

    def __init__(self, stage: Stage) -> None:
        self._server = stage.server

    def lets_in(self, role: str, operation: str, members: dict[str, Any]) -> bool:
        """Say whether a request gets past the policies."""
        credential = f"AWS4-HMAC-SHA256 Credential={access_key(role)}/20300101/{REGION}/kms/aws4_request"
        answer = self._server.answer(f"TrentService.{operation}", credential, json.dumps(members).encode(), "request")
        assert answer is not None
        status, body = answer
        code = json.loads(body or b"{}").get("__type", "") if status != 200 else ""
        assert code in {"", "AccessDeniedException"} or role == ADMINISTRATOR or self._is_state(code), (operation, code)
        return code != "AccessDeniedException"

    @staticmethod
    def _is_state(code: str) -> bool:
        # A second rotation at once, or of a key that has none under way.
        return code in {"ConflictException", "LimitExceededException"}


@pytest.mark.parametrize("role", list(Role), ids=str)
def test_a_role_may_do_what_the_table_says_and_nothing_else(role, enforced):
    """Every operation of the KMS, on every key, in every context: allowed exactly where the table says so."""
    door = Door(enforced)
    tried, let_in = set(), set()
    for attempt, operation, members in attempts_on(enforced):
        tried.add(attempt)
        if door.lets_in(role, operation, members):
            let_in.add(attempt)
    assert let_in == ALLOWED[role]
    assert {operation for operation, _, _ in tried} == set(OPERATIONS)
    assert len(tried) > 1000


def test_the_requests_of_the_table_are_allowed_to_somebody(stage):
    """The same requests by one who may do all get past the policies: it is policies that stop them elsewhere."""
    stage.server.allow("AKIAEVERYTHING", allow_everything(), "everything")
    harmless = {*USING, "ReEncrypt", "DescribeKey", "GetKeyPolicy", "GetKeyRotationStatus", "ListGrants", "ListKeys"}
    door = Door(stage)
    for attempt, operation, members in list(attempts_on(stage)):
        if operation in harmless:
            assert door.lets_in("everything", operation, members), attempt


def test_an_administrator_manages_keys_and_never_uses_them(stage):
    """With key policies in force: no operation that uses a key, no grant, and everything that keeps it manageable."""
    load_key_policies(stage)
    door = Door(stage)
    key = stage.keys["kek"]
    for attempt, operation, members in list(attempts_on(stage)):
        if operation in {*USING, "ReEncrypt", "CreateGrant"}:
            assert not door.lets_in(ADMINISTRATOR, operation, members), attempt
    before = json.loads(stage.server.call("GetKeyPolicy", KeyId=key)["Policy"])
    assert set(before["Statement"][0]["Action"]) == {f"kms:{operation}" for operation in MANAGING}
    for operation in ("DisableKey", "EnableKey", "EnableKeyRotation", "ListGrants", "ListResourceTags"):
        assert door.lets_in(ADMINISTRATOR, operation, {"KeyId": key})
    assert door.lets_in(ADMINISTRATOR, "PutKeyPolicy", {"KeyId": key, "Policy": json.dumps(before)})
