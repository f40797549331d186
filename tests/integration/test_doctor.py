"""``streamcrypt doctor`` against a real broker and a KMS over HTTP: what it finds, and that it leaves no trace."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from typer.testing import CliRunner

from streamcrypt import AWSKMSKeyProvider, Encryptor
from streamcrypt.cli.app import app
from streamcrypt.cli.exits import Exit
from streamcrypt.testing import KMSServer
from tests.broker import Broker, free_ports, unique_name, wait_until
from tests.kafka_process import ProcessBroker
from tests.kms import REGION, use_fake_credentials

OTHER = "eu-central-1"
ROOM = {"max.message.bytes": "1100000"}


@pytest.fixture
def kms(monkeypatch) -> Iterator[KMSServer]:
    """A KMS without keys."""
    use_fake_credentials(monkeypatch)
    with KMSServer(region=REGION) as server:
        yield server


@pytest.fixture
def doctor(tmp_path: Path, kms: KMSServer):
    """Runs ``streamcrypt doctor``; gives its exit code and findings."""

    def run(
        kafka: Mapping[str, Any], keys: Mapping[str, Any], pipelines: list[dict[str, Any]], *options: str
    ) -> tuple[int, list[dict[str, Any]]]:
        path = tmp_path / "streamcrypt.yaml"
        tree = {"kafka": kafka, "keys": {"endpoint_url": kms.url, **keys}, "pipelines": pipelines}
        path.write_text(json.dumps(tree))
        result = CliRunner().invoke(app, ["doctor", str(path), "--format", "json", *options])
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)["findings"]

    return run


def pair(source: str, target: str, **more: Any) -> dict[str, Any]:
    """An encrypting pipeline."""
    return {"name": "seal", "mode": "encrypt", "from": source, "to": target, "group": unique_name("g"), **more}


def of(findings: list[dict[str, Any]], check: str, level: str = "") -> list[str]:
    """What the findings of a check say, those of one level."""
    return [f"{f['subject']}: {f['seen']}" for f in findings if f["check"] == check and level in {"", f["level"]}]


def own_topics(broker: Broker) -> set[str]:
    """The topics that are not Kafka's own: asked about a group, a young cluster makes the one it keeps them on."""
    return {topic for topic in broker.admin.list_topics(timeout=30).topics if not topic.startswith("__")}


def test_a_sound_set_up_has_no_failure_and_is_left_alone(broker: Broker, kms, doctor) -> None:
    """Every part of it is looked at; no topic, no group, no key material and no record is there afterwards."""
    arn = kms.create_key("alias/payments")
    source, target, letters = (broker.create_topic(partitions=2, config=ROOM) for _ in range(3))
    pipeline = pair(source, target, on_failure="dead_letter", dead_letter=letters)
    topics = own_topics(broker)
    keys = {"key_id": "alias/payments", "region": REGION}
    code, findings = doctor({"bootstrap.servers": broker.bootstrap}, keys, [pipeline])
    assert [f for f in findings if f["level"] == "fail"] == []
    assert code == Exit.DONE
    checks = {f["check"] for f in findings}
    assert checks >= {
        "broker.reachable",
        "broker.transactions",
        "topics.exist",
        "topics.size",
        "topics.compression",
        "topics.retention",
        "topics.dead_letter",
        "access.topics",
        "access.group",
        "access.transactional_id",
        "group.state",
        "key.usable",
        "key.rotation",
        "key.on_demand",
        "key.permission",
        "aws.credentials",
        "host.clock",
        "host.memory",
    }
    assert of(findings, "key.permission", "ok") == [
        f"seal, kms:GenerateDataKey on {arn}: allowed in 2 encryption contexts"
    ]
    assert all(f["remedy"] for f in findings if f["level"] != "ok")
    assert own_topics(broker) == topics
    groups = broker.admin.list_consumer_groups().result(30).valid
    assert pipeline["group"] not in {group.group_id for group in groups}
    assert broker.read(target) == []
    assert {call.operation for call in kms.calls if call.outcome == "ok"} <= {
        "DescribeKey",
        "GetKeyRotationStatus",
        "ListKeyRotations",
    }


def test_a_shorter_retention_of_the_target_is_found(broker: Broker, kms, doctor) -> None:
    """The trap: the broker deletes what a pipeline has just written, since its time is that of the source."""
    kms.create_key("alias/payments")
    source = broker.create_topic(config={**ROOM, "retention.ms": "-1"})
    target = broker.create_topic(config={**ROOM, "retention.ms": "3600000"})
    keys = {"key_id": "alias/payments", "region": REGION}
    code, findings = doctor({"bootstrap.servers": broker.bootstrap}, keys, [pair(source, target)])
    assert code == Exit.DONE
    (seen,) = of(findings, "topics.retention", "warn")
    assert f"keeps records 1 h, {source} for ever" in seen


def test_what_a_policy_lacks_is_written_out(broker: Broker, kms, doctor) -> None:
    """A login that may mint for another topic only is told the statement; with it all is well."""
    kms.create_key("alias/payments")
    source, target = broker.create_topic(config=ROOM), broker.create_topic(config=ROOM)
    looking = {
        "Effect": "Allow",
        "Action": ["kms:DescribeKey", "kms:GetKeyRotationStatus", "kms:ListKeyRotations"],
        "Resource": "*",
    }
    kms.allow("AKIATEST", {"Version": "2012-10-17", "Statement": [looking]})
    arguments = (
        {"bootstrap.servers": broker.bootstrap},
        {"key_id": "alias/payments", "region": REGION},
        [pair(source, target)],
    )
    code, findings = doctor(*arguments)
    assert code == Exit.FAILED
    (denied,) = [f for f in findings if f["check"] == "key.permission"]
    statement = json.loads(denied["remedy"].removeprefix("Allow: "))
    assert statement["Action"] == ["kms:GenerateDataKey"]
    kms.allow("AKIATEST", {"Version": "2012-10-17", "Statement": [statement]}, "minting")
    code, findings = doctor(*arguments)
    assert (code, of(findings, "key.permission", "fail"), of(findings, "key.excess")) == (Exit.DONE, [], [])


def test_brokers_that_cannot_be_asked_leave_the_rest_looked_at(kms, doctor) -> None:
    """Keys and host are told all the same; the configuration is at fault, so the exit code is 2."""
    kms.create_key("alias/payments")
    kafka = {"bootstrap.servers": "x:1", "fetch.max.bytes": "many"}
    code, findings = doctor(kafka, {"key_id": "alias/payments", "region": REGION}, [pair("plain", "sealed")])
    assert code == Exit.USAGE
    assert of(findings, "broker.reachable", "fail")
    assert of(findings, "key.rotation")
    assert of(findings, "host.memory")


def test_a_topic_of_nobody_is_refused(broker: Broker, kms, doctor, tmp_path) -> None:
    """--topic names what a pipeline reads or writes."""
    kms.create_key("alias/payments")
    path = tmp_path / "streamcrypt.yaml"
    keys = {"key_id": "alias/payments", "region": REGION, "endpoint_url": kms.url}
    tree = {"kafka": {"bootstrap.servers": broker.bootstrap}, "keys": keys, "pipelines": [pair("plain", "sealed")]}
    path.write_text(json.dumps(tree))
    result = CliRunner().invoke(app, ["doctor", str(path), "--topic", "else"])
    assert result.exit_code == Exit.USAGE
    assert "--topic else: no pipeline" in result.stderr


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[tuple[Broker, dict[str, str]]]:
    """A broker with ACLs, and how a login without any gets in."""
    plain, controller, clients = free_ports(3)
    login = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_us="secret";'
    config = {
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,CLIENTS:SASL_PLAINTEXT",
        "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},CLIENTS://127.0.0.1:{clients}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},CLIENTS://127.0.0.1:{clients}",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.clients.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with contextlib.closing(ProcessBroker(config=config, port=plain)) as broker:
        yield (
            broker,
            {
                "bootstrap.servers": f"127.0.0.1:{clients}",
                "security.protocol": "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "us",
                "sasl.password": "secret",
            },
        )


def test_rights_are_told_apart(guarded, kms, doctor) -> None:
    """A login that may only read lacks WRITE; its transactional id is not known until ACLs may be listed."""
    broker, kafka = guarded
    kms.create_key("alias/payments")
    source, target = broker.create_topic(), broker.create_topic()
    keys = {"key_id": "alias/payments", "region": REGION}
    pipeline = {**pair(source, target), "instance": "i"}

    def allow(kind: ResourceType, name: str, *operations: AclOperation) -> None:
        bindings = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, "User:us", "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for made in broker.admin.create_acls(bindings).values():
            made.result(30)

    read, write, describe = AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE
    allow(ResourceType.TOPIC, source, read)
    allow(ResourceType.TOPIC, target, describe)
    allow(ResourceType.GROUP, pipeline["group"], describe)
    found: list[dict[str, Any]] = []

    def told(*wanted: tuple[str, str, str]) -> bool:
        """ACLs take a moment to be known."""
        found[:] = doctor(kafka, keys, [pipeline])[1]
        return all(any(words in seen for seen in of(found, check, level)) for check, level, words in wanted)

    wait_until(
        lambda: told(
            ("access.topics", "ok", f"{source}: allows DESCRIBE, READ"),
            ("access.topics", "fail", f"{target}: this login lacks WRITE on the target"),
            ("access.group", "fail", "lacks READ"),
            ("access.transactional_id", "warn", "not known"),
            ("topics.retention", "warn", "not known"),
            ("broker.transactions", "warn", "not known"),
        ),
        "what is missing",
    )
    member = f"{pipeline['group']}.i.0"
    allow(ResourceType.TOPIC, target, write)
    allow(ResourceType.GROUP, pipeline["group"], read)
    allow(ResourceType.BROKER, "kafka-cluster", describe)
    wait_until(lambda: told(("access.transactional_id", "warn", "no ACL allows WRITE")), "ACLs that may be listed")
    allow(ResourceType.TRANSACTIONAL_ID, member, write)
    wait_until(
        lambda: told(
            ("access.topics", "ok", f"{target}: allows DESCRIBE, WRITE"),
            ("access.group", "ok", "allows READ"),
            ("access.transactional_id", "ok", f"{member}: an ACL allows User:us WRITE"),
        ),
        "what was given",
    )


# -- the drill ---------------------------------------------------------------------------------------------------------


def seal(broker: Broker, topic: str, provider: AWSKMSKeyProvider, count: int) -> None:
    """Write records under a data key of their own."""
    records = []
    with contextlib.closing(Encryptor(provider)) as sealer:
        for number in range(count):
            value, headers = sealer.encrypt(topic, b"value", b"%d" % number)
            records.append({"value": value, "key": b"%d" % number, "headers": headers, "partition": 0})
    broker.produce(topic, records)


def test_the_drill_opens_what_one_region_can_and_names_the_keks_of_the_rest(broker: Broker, kms, doctor) -> None:
    """A topic under a replicated KEK opens with either region; one record under a KEK of one region alone fails it."""
    near = kms.create_key(MultiRegion=True)
    far = kms.replicate(near, OTHER)
    only = kms.create_key()
    topic, target = broker.create_topic(), broker.create_topic()
    where = {"region": REGION, "endpoint_url": kms.url}
    with contextlib.closing(AWSKMSKeyProvider(near, **where)) as provider:
        for _ in range(3):
            seal(broker, topic, provider, 20)
    kafka = {"bootstrap.servers": broker.bootstrap}
    keys = {"key_id": near, "region": REGION, "regions": [OTHER], "trusted_keys": [only]}
    opening = {"name": "open", "mode": "decrypt", "from": topic, "to": target, "group": unique_name("g")}
    kms.forget_calls()
    code, findings = doctor(kafka, keys, [opening], "--drill", OTHER, "--drill-records", "30")
    assert code == Exit.DONE, findings
    assert of(findings, "drill.opens") == [
        f"{topic}[0]: 3 data keys opened with {OTHER} alone; 30 records in the sample, 0 without an envelope"
    ]
    assert {call.region for call in kms.calls} == {OTHER}
    assert {call.key_arn for call in kms.calls} == {far}
    kms.darken(OTHER)
    code, findings = doctor(kafka, keys, [opening], "--drill", OTHER)
    assert (code, len(of(findings, "drill.region", "fail")), of(findings, "drill.opens")) == (Exit.FAILED, 1, [])
    kms.lighten(OTHER)
    with contextlib.closing(AWSKMSKeyProvider(only, **where)) as provider:
        seal(broker, topic, provider, 1)
    code, findings = doctor(kafka, keys, [opening], "--drill", OTHER)
    assert code == Exit.FAILED
    (seen,) = of(findings, "drill.opens", "fail")
    assert f"1 of 4 envelopes do not open with {OTHER} alone, the first at offset 60" in seen
    assert f"Needed: {only}" in seen
    assert doctor(kafka, keys, [opening], "--drill", REGION)[0] == Exit.DONE
    assert pairs_committed(broker, opening["group"]) == []


def pairs_committed(broker: Broker, group: str) -> list[str]:
    """Whether a group is known to the cluster."""
    return [g.group_id for g in broker.admin.list_consumer_groups().result(30).valid if g.group_id == group]


def test_the_drill_says_whether_sealing_goes_on(broker: Broker, kms, doctor) -> None:
    """With a replica a data key is minted there; with a KEK of another region only, that is told."""
    near = kms.create_key(MultiRegion=True)
    kms.replicate(near, OTHER)
    source, target = broker.create_topic(), broker.create_topic()
    kafka = {"bootstrap.servers": broker.bootstrap}
    keys = {"key_id": near, "region": REGION, "regions": [OTHER]}
    code, findings = doctor(kafka, keys, [pair(source, target)], "--drill", OTHER)
    assert (code, len(of(findings, "drill.seals", "ok"))) == (Exit.DONE, 1), findings
    only = kms.create_key()
    _, findings = doctor(kafka, {"key_id": only, "region": REGION}, [pair(source, target)], "--drill", OTHER)
    (seen,) = of(findings, "drill.seals", "warn")
    assert f"seals nothing with {OTHER} alone" in seen


def test_the_newest_record_is_found_before_aborted_ones(broker: Broker, kms, doctor) -> None:
    """A tail of aborted transactions hides neither the newest record nor its KEK."""
    near = kms.create_key(MultiRegion=True)
    kms.replicate(near, OTHER)
    only = kms.create_key()
    topic, target = broker.create_topic(), broker.create_topic()
    where = {"region": REGION, "endpoint_url": kms.url}
    writer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("tx"), "log_level": 0})
    writer.init_transactions(30)
    with (
        contextlib.closing(AWSKMSKeyProvider(near, **where)) as first,
        contextlib.closing(AWSKMSKeyProvider(only, **where)) as second,
        contextlib.closing(Encryptor(first)) as early,
        contextlib.closing(Encryptor(second)) as late,
    ):
        for number in range(20):
            writer.begin_transaction()
            value, headers = (early if number == 0 else late).encrypt(topic, b"value", b"key")
            writer.produce(topic, value, b"key", 0, headers=headers)
            if number < 2:
                writer.commit_transaction(30)
            else:
                writer.flush(30)
                writer.abort_transaction(30)
    keys = {"key_id": near, "region": REGION, "regions": [OTHER], "trusted_keys": [only]}
    opening = {"name": "open", "mode": "decrypt", "from": topic, "to": target, "group": unique_name("g")}
    options = ("--drill", OTHER, "--drill-records", "4")
    code, findings = doctor({"bootstrap.servers": broker.bootstrap}, keys, [opening], *options)
    assert code == Exit.FAILED
    (seen,) = of(findings, "drill.opens", "fail")
    assert "1 of 2 envelopes" in seen
    assert f"Needed: {only}" in seen
