"""Generated policies in force where a data key is wrapped for several KEKs, for replicas, or for one tenant's KEK."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from streamcrypt.cli.app import app
from streamcrypt.cli.compose import build_decryptor, build_encryptor, build_provider
from streamcrypt.cli.exits import Exit
from streamcrypt.config import Settings, load
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.errors import KeyRefused
from streamcrypt.policies.needs import Role
from streamcrypt.testing import KMSServer
from tests.kms import use_fake_credentials
from tests.roles import access_key, patiently

NEAR, FAR = "eu-west-1", "eu-central-1"
RECORD = b"a record"
PIPELINES = [
    {"name": "seal", "mode": "encrypt", "from": "payments", "to": "payments.sealed"},
    {"name": "open", "mode": "decrypt", "from": "payments.sealed", "to": "opened"},
]


@pytest.fixture
def server(monkeypatch) -> Iterator[KMSServer]:
    """A KMS with two regions."""
    use_fake_credentials(monkeypatch)
    with KMSServer() as server:
        yield server


@pytest.fixture
def enforce(server, tmp_path) -> Callable[..., Settings]:
    """Writes a configuration, generates its policies and puts them in force; each role has an access key."""

    def enforce(keys: dict[str, Any], pipelines: list[dict[str, Any]] = PIPELINES, **sections: Any) -> Settings:
        path = tmp_path / "streamcrypt.yaml"
        tree = {"kafka": {"bootstrap.servers": "localhost:9092"}, "keys": {"endpoint_url": server.url, **keys}}
        path.write_text(yaml.safe_dump({**tree, "context": {"app": "billing"}, "pipelines": pipelines, **sections}))
        result = CliRunner().invoke(app, ["policy", str(path), "--kind", "iam"])
        assert (result.exit_code, result.stderr) == (Exit.DONE, "")
        for role, document in json.loads(result.stdout)["iam"].items():
            server.allow(access_key(role), document, role)
        return load(path)

    return enforce


@pytest.fixture
def acting(monkeypatch):
    """Gives the key provider of a configuration, as a role."""

    @contextmanager
    def acting(settings: Settings, role: str) -> Iterator[Any]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key(role))
        provider = build_provider(settings.keys)
        try:
            yield provider
        finally:
            provider.close()

    return acting


def seal(settings, provider, headers=None):
    """Seal a record as the pipeline does."""
    with build_encryptor(settings, settings.pipelines[0], provider, max_wait=None) as sealer:
        return patiently(sealer.encrypt, "payments.sealed", RECORD, None, headers)


def unseal(settings, provider, value, headers):
    """Open a record as the pipeline does."""
    with build_decryptor(settings, settings.pipelines[1], provider, max_wait=None) as opener:
        return patiently(opener.decrypt, "payments.sealed", value, None, headers)[0]


def lets_in(server, role, operation, region, **members) -> bool:
    """Say whether a request in a role's name gets past the policies."""
    credential = f"AWS4-HMAC-SHA256 Credential={access_key(role)}/20300101/{region}/kms/aws4_request"
    status, body = server.answer(f"TrentService.{operation}", credential, json.dumps(members).encode(), "request")
    code = json.loads(body or b"{}").get("__type", "") if status != 200 else ""
    assert code in {"", "AccessDeniedException"}
    return not code


def used(server) -> dict[str, set[str]]:
    """Operation to the keys that it was done with."""
    found: dict[str, set[str]] = {}
    for call in server.calls:
        if call.outcome == "ok":
            found.setdefault(call.operation, set()).add(call.key_arn)
    return found


CONTEXT = {"app": "billing", "streamcrypt:topic": "payments.sealed"}


def test_with_all_keks_the_first_mints_and_the_others_encrypt(server, enforce, acting):
    """GenerateDataKey is allowed on the first only, Encrypt on the second only."""
    first, second = server.create_key(region=NEAR), server.create_key(region=FAR)
    settings = enforce({"key_id": [first, second]})
    with acting(settings, Role.ENCRYPTOR) as provider:
        value, headers = seal(settings, provider)
    assert [key.key_id for key in decode_header(dict(headers)[HEADER_NAME]).keys] == sorted([first, second])
    with acting(settings, Role.DECRYPTOR) as provider:
        assert unseal(settings, provider, value, headers) == RECORD
    plain = base64.b64encode(b"x").decode()
    given = {"EncryptionContext": CONTEXT}
    assert lets_in(server, Role.ENCRYPTOR, "GenerateDataKey", NEAR, KeyId=first, KeySpec="AES_256", **given)
    assert lets_in(server, Role.ENCRYPTOR, "Encrypt", FAR, KeyId=second, Plaintext=plain, **given)
    assert not lets_in(server, Role.ENCRYPTOR, "GenerateDataKey", FAR, KeyId=second, KeySpec="AES_256", **given)
    assert not lets_in(server, Role.ENCRYPTOR, "Encrypt", NEAR, KeyId=first, Plaintext=plain, **given)


def test_with_any_kek_sealing_and_opening_go_on_while_a_region_is_dark(server, enforce, acting):
    """What the first KEK may, the others may as well: the policies do not stand in the way of a failover."""
    first, second = server.create_key(region=NEAR), server.create_key(region=FAR)
    settings = enforce({"key_id": [first, second], "require": "any"})
    server.darken(NEAR, how="drop")
    with acting(settings, Role.ENCRYPTOR) as provider:
        value, headers = seal(settings, provider)
    assert [key.key_id for key in decode_header(dict(headers)[HEADER_NAME]).keys] == [second]
    with acting(settings, Role.DECRYPTOR) as provider:
        assert unseal(settings, provider, value, headers) == RECORD


def test_every_replica_of_a_multi_region_key_seals_and_opens(server, enforce, acting):
    """The nearest region mints; while it is dark the other one does; neither needs Encrypt."""
    near = server.create_key(region=NEAR, MultiRegion=True)
    far = server.replicate(near, FAR)
    settings = enforce({"key_id": near, "regions": [FAR]})
    sealed = []
    for dark in ("", NEAR):
        if dark:
            server.darken(dark, how="drop")
        with acting(settings, Role.ENCRYPTOR) as provider:
            sealed.append(seal(settings, provider))
    assert [decode_header(dict(headers)[HEADER_NAME]).keys[0].key_id for _, headers in sealed] == [near, far]
    with acting(settings, Role.DECRYPTOR) as provider:
        assert [unseal(settings, provider, *record) for record in sealed] == [RECORD, RECORD]
    assert set(used(server)) <= {"GenerateDataKey", "Decrypt", "DescribeKey"}


@pytest.mark.parametrize("place", [NEAR, FAR])
def test_rewrapping_works_within_a_region_and_across(server, enforce, acting, place):
    """ReEncrypt where old and new KEK share a region; Decrypt and Encrypt where they do not, and nowhere else."""
    old, new = server.create_key(region=NEAR), server.create_key(region=place)
    rewrap = {"name": "wrap", "mode": "reencrypt", "how": "rewrap", "from": "payments.sealed", "to": "again"}
    before = enforce({"key_id": old})
    with acting(before, Role.ENCRYPTOR) as provider:
        _, headers = seal(before, provider)
    after = enforce({"key_id": new, "trusted_keys": [old]}, [rewrap], topic_names={"again": "payments.sealed"})
    header = decode_header(dict(headers)[HEADER_NAME])
    server.forget_calls()
    with acting(after, Role.RE_ENCRYPTOR) as provider:
        [wrapped] = patiently(provider.rewrap_data_key, header.keys, dict(header.context))
    assert wrapped.key_id == new
    across = {"Decrypt", "Encrypt"}
    assert set(used(server)) & {"ReEncrypt", *across} == ({"ReEncrypt"} if place == NEAR else across)
    allowed = lets_in(
        server,
        Role.RE_ENCRYPTOR,
        "Decrypt",
        NEAR,
        KeyId=old,
        CiphertextBlob=base64.b64encode(header.keys[0].ciphertext).decode(),
        EncryptionContext=CONTEXT,
    )
    assert allowed == (place == FAR)


def test_a_role_reaches_a_tenants_kek_in_that_tenants_name_only(server, enforce, acting):
    """The KEK of one tenant is allowed with that tenant in the encryption context, never with another's."""
    acme, globex = server.create_key("alias/tenant-acme"), server.create_key("alias/tenant-globex")
    settings = enforce(
        {"key_id": "alias/tenant-{header:tenant}", "mapping": {"acme": None, "globex": None}, "region": NEAR}
    )
    for tenant in ("acme", "globex"):
        with acting(settings, Role.ENCRYPTOR) as provider:
            value, headers = seal(settings, provider, [("tenant", tenant.encode())])
        with acting(settings, Role.DECRYPTOR) as provider:
            assert unseal(settings, provider, value, headers) == RECORD
    for tenant, key in (("acme", globex), ("globex", acme)):
        context = {**CONTEXT, "streamcrypt:header:tenant": tenant}
        given = {"KeyId": key, "KeySpec": "AES_256", "EncryptionContext": context}
        assert not lets_in(server, Role.ENCRYPTOR, "GenerateDataKey", NEAR, **given)
    without = {"KeyId": acme, "KeySpec": "AES_256", "EncryptionContext": CONTEXT}
    assert not lets_in(server, Role.ENCRYPTOR, "GenerateDataKey", NEAR, **without)


def test_a_role_without_a_policy_does_nothing(server, enforce, acting):
    """Deny by default: the encryptor's rights are not the decryptor's."""
    settings = enforce({"key_id": server.create_key()})
    with acting(settings, Role.ENCRYPTOR) as provider:
        value, headers = seal(settings, provider)
        with pytest.raises(KeyRefused):
            unseal(settings, provider, value, headers)
    with acting(settings, Role.DECRYPTOR) as provider, pytest.raises(KeyRefused):
        seal(settings, provider)
