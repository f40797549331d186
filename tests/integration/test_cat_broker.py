"""``streamcrypt cat`` and ``run --dry-run`` against a real cluster: what they show, and that they leave no trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from streamcrypt import Encryptor, LocalKeyProvider
from streamcrypt.cli.app import app
from streamcrypt.testing import KMSServer
from tests.broker import Broker, unique_name
from tests.kms import REGION, use_fake_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

NOON = 1_750_000_000_000


@pytest.fixture
def keys(tmp_path: Path) -> LocalKeyProvider:
    """A keyring, which the configurations of a test name."""
    made = LocalKeyProvider.generate()
    made.save(tmp_path / "keyring.json")
    return made


def config_of(directory: Path, broker: Broker, *pipelines: dict[str, Any], keys: Any = None) -> Path:
    """A configuration of these pipelines."""
    tree = {
        "kafka": {"bootstrap.servers": broker.bootstrap},
        "keys": keys or {"provider": "local", "keyring": "keyring.json"},
        "pipelines": [{"name": unique_name("p"), **pipeline} for pipeline in pipelines],
    }
    path = directory / "streamcrypt.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(arguments))


def sealed(sealer: Encryptor, topic: str, value: bytes, number: int, **more: Any) -> dict[str, Any]:
    """A sealed record."""
    content, headers = sealer.encrypt(topic, value, b"k%d" % number)
    return {"value": content, "headers": headers, "key": b"k%d" % number, "timestamp": NOON + number, **more}


def test_each_record_of_a_mixed_topic_is_shown_for_what_it_is(
    broker: Broker, tmp_path: Path, keys: LocalKeyProvider
) -> None:
    """None stops another; what fails is told with its reason, and raw values are the bytes alone."""
    topic = broker.create_topic()
    config = config_of(tmp_path, broker, {"mode": "decrypt", "from": topic, "to": "plain"})
    with Encryptor(keys) as sealer, Encryptor(LocalKeyProvider.generate("foreign")) as foreign:
        broker.produce(
            topic,
            [
                sealed(sealer, topic, b"one\n", 0),
                {"value": b"never sealed", "key": b"k1", "timestamp": NOON + 1},
                {"value": None, "key": b"k2", "timestamp": NOON + 2},
                {"value": b"x", "headers": [("streamcrypt", b"junk")], "timestamp": NOON + 3},
                sealed(foreign, topic, b"foreign", 4),
                sealed(sealer, topic, b"\xff\x1b", 5),
            ],
        )
    shown = run("cat", str(config), topic, "--format", "json", "--envelope")
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    assert shown.exit_code == 1
    assert [(r["offset"], r["kind"], r["opened"], r["value"]) for r in records] == [
        (0, "sealed", True, "one\n"),
        (1, "plaintext", False, "never sealed"),
        (2, "tombstone", False, None),
        (3, "malformed", False, None),
        (4, "sealed", False, None),
        (5, "sealed", True, {"base64": "/xs="}),
    ]
    failures = [r["failure"]["error"] if "failure" in r else "" for r in records]
    assert failures == ["", "PlaintextRejected", "", "MalformedEnvelope", "UntrustedKey", ""]
    assert [r["envelope"] and r["envelope"]["sequence"] for r in records] == [1, None, None, None, 1, 2]
    raw = run("cat", str(config), topic, "--delimiter", r"\0")
    assert raw.stdout_bytes == b"one\n\0\0\xff\x1b\0"
    assert f"{topic}[0] offset 4: UntrustedKey: no trusted KEK among foreign" in raw.stderr
    facts = run("cat", str(config), topic, "--no-open", "--from", "4", "--to", "5")
    assert [json.loads(line)["envelope"]["keks"] for line in facts.stdout.splitlines()] == [
        [{"provider": "local", "key_id": "foreign"}]
    ]
    late = run("cat", str(config), topic, "--from", "2025-06-15T15:06:40.005Z")
    assert (late.exit_code, late.stdout_bytes) == (0, b"\xff\x1b\n")
    assert run("cat", str(config), topic, "--fail-fast").stdout_bytes == b"one\n\n"
    assert run("cat", str(config), "missing").exit_code == 1
    assert "missing" not in broker.admin.list_topics(timeout=30).topics
    assert run("cat", str(config), topic, "--partition", "7").exit_code == 2


def test_the_last_records_are_records_and_no_marks_of_transactions(
    broker: Broker, tmp_path: Path, keys: LocalKeyProvider
) -> None:
    """With a transaction for each record every second offset is none, and an aborted one is nothing at all."""
    topic = broker.create_topic(partitions=2)
    config = config_of(tmp_path, broker, {"mode": "encrypt", "from": "plain", "to": topic})
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("tx")})
    producer.init_transactions(30)
    with Encryptor(keys) as sealer:
        for number in range(6):
            producer.begin_transaction()
            producer.produce(topic, partition=0, **sealed(sealer, topic, b"%d" % number, number))
            (producer.abort_transaction if number == 4 else producer.commit_transaction)(30)
    assert run("cat", str(config), topic, "--from", "-3").stdout_bytes == b"2\n3\n5\n"
    assert run("cat", str(config), topic, "--from=-1").stdout_bytes == b"5\n"
    assert run("cat", str(config), topic, "--count", "1").stdout_bytes == b"0\n"
    assert run("cat", str(config), topic, "--from", "-9", "--partition", "1").stdout_bytes == b""


def test_following_ends_with_its_reader_or_with_ctrl_c(broker: Broker, tmp_path: Path, keys: LocalKeyProvider) -> None:
    """Records arrive as they are written; nobody joined a group."""
    topic = broker.create_topic()
    config = config_of(tmp_path, broker, {"mode": "decrypt", "from": topic, "to": "plain", "group": topic})
    command = [sys.executable, "-m", "streamcrypt", "cat", str(config), topic, "--follow", "--from", "earliest"]
    with Encryptor(keys) as sealer:
        broker.produce(topic, [sealed(sealer, topic, b"first", 0)])
        following = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in ("ctrl-c", "head")
        ]
        for one in following:
            assert one.stdout is not None
            assert one.stdout.readline() == b"first\n"
        following[1].stdout.close()
        broker.produce(topic, [sealed(sealer, topic, b"second", 1)])
        assert following[0].stdout.readline() == b"second\n"
    groups = broker.admin.list_consumer_groups(request_timeout=30).result().valid
    assert topic not in {group.group_id for group in groups}
    following[0].send_signal(signal.SIGINT)
    assert following[0].communicate(timeout=60) == (b"", b"streamcrypt: 2 records: 2 sealed, 2 opened\n")
    assert (following[1].stderr.read(), following[1].wait(60)) == (b"", 0)
    following[1].stderr.close()
    assert following[0].returncode == 0


def test_a_dry_run_says_what_would_happen_and_changes_nothing(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the committed offset on: sealed with a data key of KMS, refused where it is sealed already."""
    use_fake_credentials(monkeypatch)
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    letters, group = broker.create_topic(), unique_name("g")
    broker.produce(source, [{"value": b"v" * 100, "partition": 0, "key": b"%d" % n} for n in range(4)])
    broker.produce(source, [{"value": b"s" * 40, "partition": 1, "headers": [("streamcrypt", b"already")]}])
    commit(broker, group, TopicPartition(source, 0, 2))
    pipeline = {"mode": "encrypt", "from": source, "to": target, "group": group, "name": "seal"}
    with KMSServer(region=REGION) as kms:
        arn = kms.create_key("alias/payments")
        of_kms = {"key_id": "alias/payments", "region": REGION, "endpoint_url": kms.url}
        failing = {**pipeline, "on_failure": "dead_letter", "dead_letter": letters}
        config = config_of(tmp_path, broker, failing, keys=of_kms)
        done = run("run", str(config), "--dry-run", "--format", "json")
        assert done.exit_code == 1, done.output
        (found,) = json.loads(done.stdout)["pipelines"]
        assert sorted(
            (r["partition"], r["offset"], r["outcome"], r["target"], r["bytes_out"]) for r in found["records"]
        ) == [
            (0, 2, "pass", target, 128),
            (0, 3, "pass", target, 128),
            (1, 0, "dead_letter", letters, None),
        ]
        assert [r["keks"] for r in found["records"] if r["outcome"] == "pass"] == [[arn], [arn]]
        kms.call("DisableKey", KeyId=arn)
        away = json.loads(run("run", str(config), "--dry-run", "--format", "json").stdout)
        assert away["pipelines"][0]["problem"]["error"] == "KeyRefused"
    assert broker.read(target) == []
    assert broker.read(letters) == []
    reader = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    assert [p.offset for p in reader.committed([TopicPartition(source, n) for n in (0, 1)], timeout=30)] == [2, -1001]
    reader.close()


def commit(broker: Broker, group: str, *places: TopicPartition) -> None:
    """Commit offsets as a group that has gone since."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group, "enable.auto.commit": False})
    consumer.commit(offsets=list(places), asynchronous=False)
    consumer.close()
