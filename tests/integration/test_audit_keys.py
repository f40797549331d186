"""What an audit learns from the key service: the receipt of a KEK that goes, KEKs that records miss, key material."""

from __future__ import annotations

import base64
import json
import os
import resource
from pathlib import Path

import pytest

from streamcrypt import LocalKeyProvider
from streamcrypt.cli.compose import build_encryptor, build_provider
from streamcrypt.config import load
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.testing import KMSServer
from tests.audits import counts, record, run, write_config
from tests.broker import Broker
from tests.envelopes import envelope, wrap
from tests.kms import use_fake_credentials

KEYRING = {name: os.urandom(32) for name in ("old", "new")}


def sealed_under(kms: KMSServer, *arns: str) -> bytes:
    """An envelope whose data key is wrapped under each KEK by the KMS."""
    dek = os.urandom(32)
    plaintext, context = base64.b64encode(dek).decode(), {"streamcrypt:topic": "orders"}
    answers = [kms.call("Encrypt", KeyId=arn, Plaintext=plaintext, EncryptionContext=context) for arn in arns]
    wrapped = [EncryptedDataKey("aws-kms", a["KeyId"], base64.b64decode(a["CiphertextBlob"])) for a in answers]
    return envelope(*wrapped, dek=dek)


def test_the_receipt_of_a_kek_that_is_disabled(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost, what another key opens, on which cluster and topic; its exit code tells whether it is whole."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic(partitions=2)
    with KMSServer() as kms:
        tenant, shared, foreign = (kms.create_key() for _ in range(3))
        keys = {"provider": "aws-kms", "key_id": shared, "region": kms.region, "endpoint_url": kms.url}
        config = write_config(tmp_path, broker, keys)
        both, unknown = sealed_under(kms, tenant, shared), sealed_under(kms, tenant, foreign)
        broker.produce(topic, [record(sealed_under(kms, tenant), second=n) for n in range(3)])
        broker.produce(topic, [record(both, 1), record(both, 1), record(sealed_under(kms, shared), 1)])
        kms.call("DisableKey", KeyId=tenant)
        kms.forget_calls()
        done = run(config, topic, "--receipt", tenant, "--format", "json")
        assert done.exit_code == 0, done.output
        assert {call.key_arn for call in kms.calls if call.operation == "Decrypt"} == {shared}
        receipt = json.loads(done.stdout)["receipt"]
        assert (receipt["lost"], receipt["still_open"], receipt["unknown"], receipt["whole"]) == (3, 2, 0, True)
        assert receipt["cluster_id"] == broker.admin.list_topics(timeout=30).cluster_id
        assert "isabled" in receipt["state"]
        (described,) = receipt["topics"]
        assert described["topic_id"]
        assert [p["lost"] and p["lost"]["last_offset"] for p in described["partitions"]] == [2, None]
        text = run(config, topic, "--receipt", tenant).stdout
        for words in (
            "lost: 3 records",
            "still open: 2 records",
            "partition 0: offsets 0 to 2 were read",
            "Copies elsewhere",
        ):
            assert words in text
        broker.produce(topic, [record(unknown)])
        less = run(config, topic, "--receipt", tenant)
        assert (less.exit_code, "other KEKs of their envelope are not trusted here" in less.stdout) == (1, True)
        kms.call("EnableKey", KeyId=tenant)
        assert "the key service says of it: usable" in run(config, topic, "--receipt", tenant).stdout
    assert run(config, topic, "--receipt", "alias/tenant").exit_code == 1


def test_records_that_miss_a_kek_and_their_key_material(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured KEKs are looked up by their aliases; rotation on demand shows as another key material."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic()
    with KMSServer() as kms:
        first, second = kms.create_key("alias/first"), kms.create_key("alias/second")
        keys = {"key_id": ["alias/first", "alias/second"], "region": kms.region, "endpoint_url": kms.url}
        config = write_config(tmp_path, broker, {"provider": "aws-kms", **keys})
        broker.produce(topic, [record(sealed_under(kms, first, second)), record(sealed_under(kms, first))])
        kms.rotate(first)
        broker.produce(topic, [record(sealed_under(kms, first))] * 2)
        (partition,) = counts(config, topic, "--fewer", "--materials")
        assert [(f["missing"], f["records"], f["first_offset"], f["last_offset"]) for f in partition["fewer"]] == [
            ([second], 3, 1, 3)
        ]
        found = {key["key_id"]: key["materials"] for key in partition["keys"]}
        assert [m["records"] for m in found[first]] == [2, 2]
        assert len({m["key_material_id"] for m in found[first]} - {None}) == 2
        assert [(m["records"], bool(m["key_material_id"])) for m in found[second]] == [(1, True)]
        kms.call("DeleteAlias", AliasName="alias/second")
        assert run(config, topic, "--fewer").exit_code == 1


def test_a_substitute_has_to_open_for_the_pipelines_that_read_the_topic(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trusts its own list; a topic that none of them reads is judged by all lists together."""
    use_fake_credentials(monkeypatch)
    wide, narrow, other = (broker.create_topic() for _ in range(3))
    with KMSServer() as kms:
        old, new, main = (kms.create_key() for _ in range(3))
        keys = {"provider": "aws-kms", "key_id": main, "region": kms.region, "endpoint_url": kms.url}
        pipelines = [
            {"mode": "decrypt", "from": wide, "to": "a", "trusted_keys": [old, new]},
            {"mode": "decrypt", "from": narrow, "to": "b", "trusted_keys": [old], "name": "narrow"},
        ]
        config = write_config(tmp_path, broker, keys, *pipelines)
        for topic in (wide, narrow, other):
            broker.produce(topic, [record(sealed_under(kms, old, new))])
        assert run(config, wide, other, "--safe-to-disable", old).exit_code == 0
        no = run(config, wide, narrow, other, "--safe-to-disable", old)
        assert (no.exit_code, f"{narrow}[0]: 1 records" in no.stdout, "(pipeline narrow)" in no.stdout) == (
            1,
            True,
            True,
        )
        assert f"{wide}[0]" not in no.stdout.partition("safe to disable")[2]


def test_an_audit_leaves_no_core_file(broker: Broker, tmp_path: Path) -> None:
    """It unwraps data keys, so it forbids core files as the sidecar does."""
    LocalKeyProvider(KEYRING, "new").save(tmp_path / "keyring.json")
    config = write_config(tmp_path, broker, {"provider": "local", "keyring": "keyring.json"})
    topic, dek = broker.create_topic(), os.urandom(32)
    broker.produce(topic, [record(envelope(*(wrap(KEYRING, name, dek) for name in KEYRING), dek=dek))])
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    assert run(config, topic, "--safe-to-disable", "old").exit_code == 0
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--receipt", "a", "--safe-to-disable", "b"], "ask for --safe-to-disable or for --receipt"),
        (["--receipt", "arn:aws:s3:::bucket"], "is not a KMS key name"),
    ],
)
def test_questions_that_cannot_be_asked(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    """Told before anything is read."""
    use_fake_credentials(monkeypatch)
    config = write_config(tmp_path, broker, {"key_id": "alias/payments", "region": "eu-west-1"})
    result = run(config, "topic", *arguments)
    assert (result.exit_code, text in result.stderr) == (2, True), result.output


def test_the_receipt_of_a_tenant(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are lost, those with an escrow KEK in the mapping open still, and other tenants are not in it."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic()
    with KMSServer() as kms:
        tenants = {name: kms.create_key(f"alias/tenant-{name}") for name in ("acme", "globex", "escrow")}
        keys = {
            "key_id": "alias/tenant-{header:tenant}",
            "mapping": {"acme": None, "globex": ["alias/tenant-globex", "alias/tenant-escrow"]},
            "region": kms.region,
            "endpoint_url": kms.url,
        }
        config = write_config(tmp_path, broker, keys, {"mode": "encrypt", "from": "plain", "to": topic})
        settings = load(config)
        provider = build_provider(settings.keys)
        with build_encryptor(settings, settings.pipelines[0], provider, max_wait=None) as sealer:
            for n in range(6):
                headers = [("tenant", (b"acme", b"globex")[n % 2])]
                value, headers = sealer.encrypt(topic, b"v%d" % n, headers=headers, partition=0)
                broker.produce(topic, [{"value": value, "headers": headers, "partition": 0}])
        provider.close()
        fates = {}
        for name, arn in tenants.items():
            done = run(config, topic, "--receipt", arn, "--format", "json")
            receipt = json.loads(done.stdout)["receipt"]
            fates[name] = (done.exit_code, receipt["lost"], receipt["still_open"], receipt["unknown"])
        assert fates == {"acme": (0, 3, 0, 0), "globex": (0, 0, 3, 0), "escrow": (0, 0, 3, 0)}
        assert run(config, topic, "--safe-to-disable", tenants["acme"]).exit_code == 1
        assert run(config, topic, "--safe-to-disable", tenants["globex"]).exit_code == 0
        assert "--fewer does not go with a key_id template" in run(config, topic, "--fewer").stderr
