"""An audit against a real cluster: what is counted, what is left out, and what it says of a KEK."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from streamcrypt import AWSKMSKeyProvider, EncryptingProducer, Encryptor, LocalKeyProvider
from streamcrypt.audit.plan import make_plan
from streamcrypt.audit.reading import Reader
from streamcrypt.audit.state import StateFile
from streamcrypt.audit.tally import Counter, HeaderBook
from streamcrypt.cli.compose import consumer_config
from streamcrypt.config import load
from streamcrypt.envelope.framing import frame_prefix
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing import KMSServer
from tests.audits import counts, record, run, write_config
from tests.broker import Broker, unique_name, wait_until
from tests.envelopes import envelope, sealed, wrap
from tests.kms import use_fake_credentials

KEYRING = {name: os.urandom(32) for name in ("old", "new", "third")}


@pytest.fixture
def config(broker: Broker, tmp_path: Path) -> Path:
    """A configuration with a keyring of two KEKs; the third is not trusted."""
    LocalKeyProvider({name: KEYRING[name] for name in ("old", "new")}, "new").save(tmp_path / "keyring.json")
    return write_config(tmp_path, broker, {"provider": "local", "keyring": "keyring.json"})


def key_of(key_id: str, records: int, data_keys: int, first: tuple[int, str], last: tuple[int, str]) -> dict[str, Any]:
    """A line of the document; seconds after NOON's minute."""
    return {
        "key_id": key_id,
        "records": records,
        "data_keys": data_keys,
        "first_offset": first[0],
        "last_offset": last[0],
        "first_time": f"2025-06-15T15:06:{first[1]}.000Z",
        "last_time": f"2025-06-15T15:06:{last[1]}.000Z",
    }


def test_the_counts_are_those_that_were_written(broker: Broker, config: Path) -> None:
    """Three KEKs over three partitions, with all that is no sealed record; printed is the document and nothing else."""
    topic = broker.create_topic(partitions=3)
    old, older, new, pair = envelope("old"), envelope("old"), envelope("new"), envelope("new", "third")
    broker.produce(
        topic,
        [
            *[record(old, 0, n) for n in range(3)],
            *[record(older, 0, n) for n in range(3, 5)],
            record(None, 0, 5, value=b"plain"),
            record(pair, 0, 6),
            record(b"junk", 0, 7),
            record(None, 0, 8, value=None),
            record(old, 0, 9),
            *[record(new, 2, n, headers=[("trace", b"%d" % n), ("streamcrypt", new)]) for n in range(4)],
            record(None, 2, 4, value=frame_prefix(new) + sealed()),
            record(old, 2, 5, value=None, headers=[("streamcrypt", old), ("streamcrypt-tombstone", bytes(28))]),
        ],
    )
    assert counts(config, topic) == [
        {
            "partition": 0,
            "records": 10,
            "plaintext": 1,
            "malformed": 1,
            "tombstones": 1,
            "keys": [
                key_of("old", 6, 2, (0, "40"), (9, "49")),
                key_of("new", 1, 1, (6, "46"), (6, "46")),
                key_of("third", 1, 1, (6, "46"), (6, "46")),
            ],
        },
        {"partition": 1, "records": 0, "plaintext": 0, "malformed": 0, "tombstones": 0, "keys": []},
        {
            "partition": 2,
            "records": 6,
            "plaintext": 0,
            "malformed": 0,
            "tombstones": 1,
            "keys": [key_of("new", 5, 1, (0, "40"), (4, "44")), key_of("old", 1, 1, (5, "45"), (5, "45"))],
        },
    ]


def test_what_our_own_producer_sealed_is_counted(broker: Broker, config: Path) -> None:
    """A data key for each ten records, and their sequence is sound."""
    topic = broker.create_topic(partitions=2)
    with Encryptor(LocalKeyProvider(KEYRING, "third"), RotationPolicy(max_messages=10)) as sealer:
        producer = EncryptingProducer({"bootstrap.servers": broker.bootstrap}, encryptor=sealer)
        for n in range(100):
            producer.produce(topic, b"secret %d" % n, partition=n % 2)
        assert producer.flush(30) == 0
    for partition in counts(config, topic, "--sequence"):
        assert partition["sequence"] == {"gaps": 0, "repeats": 0, "disorder": 0, "moved": 0}
        (key,) = partition["keys"]
        assert (key["key_id"], key["records"], key["first_offset"], key["last_offset"]) == ("third", 50, 0, 49)
        assert key["data_keys"] >= 10


def test_sequences_are_looked_at_where_asked(broker: Broker, config: Path) -> None:
    """A record left out and one written again."""
    topic, header = broker.create_topic(), envelope("old")
    broker.produce(topic, [record(header, number=n) for n in (1, 2, 4, 4)])
    (partition,) = counts(config, topic, "--sequence")
    assert partition["sequence"] == {"gaps": 1, "repeats": 1, "disorder": 0, "moved": 0}


def test_what_retention_deleted_is_not_counted(broker: Broker, config: Path) -> None:
    """The first offset is not 0 then."""
    topic = broker.create_topic()
    broker.produce(topic, [record(envelope("old"), second=n) for n in range(5)])
    broker.produce(topic, [record(envelope("new"), second=n) for n in range(5, 8)])
    truncate(broker, topic, 5)
    (partition,) = counts(config, topic)
    assert (partition["records"], [key["key_id"] for key in partition["keys"]]) == (3, ["new"])
    assert partition["keys"][0]["first_offset"] == 5
    assert run(config, topic, "--safe-to-disable", "old").exit_code == 0
    truncate(broker, topic, 8)
    (partition,) = counts(config, topic)
    assert (partition["records"], partition["keys"]) == (0, [])


def truncate(broker: Broker, topic: str, offset: int) -> None:
    """Delete what lies below an offset, as retention does."""
    [done] = broker.admin.delete_records([TopicPartition(topic, 0, offset)]).values()
    assert done.result(30).low_watermark == offset


def test_what_compaction_removed_is_not_counted(broker: Broker, config: Path) -> None:
    """Gaps are no records; the policy stands in the table."""
    settings = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "100",
        "delete.retention.ms": "0",
    }
    topic = broker.create_topic(config=settings)
    header = envelope("old")
    last = 0

    def is_compacted() -> bool:
        nonlocal last
        now = int(time.time() * 1000)
        broker.produce(topic, [record(header, key=b"k", timestamp=now) for _ in range(50)])
        last += 50
        found[:] = [message.offset() for message in broker.read(topic)]
        return len(found) < last

    found: list[int] = []
    wait_until(is_compacted, "the topic is compacted", 120)
    (partition,) = counts(config, topic)
    assert partition["records"] == partition["keys"][0]["records"] <= len(found)
    assert partition["keys"][0]["last_offset"] == last - 1
    assert "compact" in run(config, topic).stdout


def test_aborted_records_are_none_and_open_transactions_leave_it_open(broker: Broker, config: Path) -> None:
    """Nobody sees aborted records; what is not yet committed may need the KEK soon."""
    topic, old = broker.create_topic(), envelope("old")
    broker.produce(topic, [record(envelope("new"))])
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("tx"), "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, **record(old))
    producer.flush(30)
    open_ = run(config, topic, "--safe-to-disable", "old")
    producer.abort_transaction(30)
    producer.begin_transaction()
    producer.produce(topic, **record(envelope("new")))
    producer.commit_transaction(30)
    producer.flush(30)
    assert (open_.exit_code, "a transaction is open from offset 1 on" in open_.stdout) == (3, True)
    done = run(config, topic, "--safe-to-disable", "old", "--format", "json")
    (partition,) = json.loads(done.stdout)["topics"][0]["partitions"]
    assert (done.exit_code, partition["records"]) == (0, 2)
    assert (partition["keys"][0]["records"], partition["keys"][0]["last_offset"]) == (2, 3)


def test_the_answer_is_the_exit_code(broker: Broker, config: Path) -> None:
    """Yes, no, undetermined; a KEK that is not trusted does not stand in, one that opens does."""
    topic, dek = broker.create_topic(partitions=2), os.urandom(32)
    rewrapped = envelope(*(wrap(KEYRING, name, dek) for name in ("old", "new")), dek=dek)
    broker.produce(topic, [record(rewrapped), record(envelope("new"), 1)])
    yes = run(config, topic, "--safe-to-disable", "old")
    assert (yes.exit_code, "safe to disable old: yes" in yes.stdout) == (0, True)
    no = run(config, topic, "--safe-to-disable", "new")
    assert (no.exit_code, "safe to disable new: no" in no.stdout) == (1, True), no.output
    assert f"{topic}[1]: 1 records at offsets 0 to 0 need the KEK" in no.stdout
    strange = run(config, topic, "--safe-to-disable", "nobody", "--format", "json")
    assert strange.exit_code == 0
    assert "no record names this KEK at all" in json.loads(strange.stdout)["safe_to_disable"]["evidence"][-1]
    arn = "arn:aws:kms:eu-west-1:111122223333:key/mrk-" + "0" * 32
    broker.produce(topic, [record(envelope(arn))])
    assert run(config, topic, "--safe-to-disable", arn.replace("eu-west-1", "us-east-1")).exit_code == 1
    broker.produce(topic, [record(b"junk", 1)])
    assert run(config, topic, "--safe-to-disable", "old").exit_code == 3
    assert run(config, topic, "--safe-to-disable", "new").exit_code == 1


def test_the_answer_holds_over_all_topics_named(broker: Broker, config: Path) -> None:
    """One record in the last of them is enough."""
    topics = [broker.create_topic() for _ in range(3)]
    for topic in topics:
        broker.produce(topic, [record(envelope("new"))])
    assert run(config, *topics, "--safe-to-disable", "old").exit_code == 0
    broker.produce(topics[2], [record(envelope("old"))])
    assert run(config, *topics, "--safe-to-disable", "old").exit_code == 1
    tree = json.loads(run(config, *topics, "--format", "json").stdout)
    assert [found["topic"] for found in tree["topics"]] == topics


def test_all_means_all_but_kafkas_own(broker: Broker) -> None:
    """Topics that others made, too."""
    topic = broker.create_topic()
    plan = make_plan(broker.admin, None)
    assert topic in plan.topics
    assert not any(name.startswith("__") for name in plan.topics)


def test_replicas_and_aliases_are_one_kek(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up at the KMS; without one that answers, the answer is undetermined."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic()
    with KMSServer() as kms:
        mrk = kms.create_key("alias/payments", MultiRegion=True)
        other = kms.create_key("alias/other")
        replica = mrk.replace(f":{kms.region}:", ":us-east-1:")
        keys = {"provider": "aws-kms", "key_id": "alias/other", "region": kms.region, "endpoint_url": kms.url}
        config = write_config(tmp_path, broker, keys)
        broker.produce(topic, [record(envelope(mrk)), record(envelope(replica, mrk))])
        for name in (mrk, replica, "alias/payments", mrk.rpartition(":")[0] + ":alias/payments"):
            assert run(config, topic, "--safe-to-disable", name).exit_code == 1
        result = run(config, topic, "--safe-to-disable", other)
        assert (result.exit_code, "the configuration seals under this KEK still" in result.stdout) == (0, True)
        assert run(config, topic, "--safe-to-disable", "alias/missing").exit_code == 3
        kms.call("DisableKey", KeyId=mrk)
        assert run(config, topic, "--safe-to-disable", "alias/payments").exit_code == 1
    assert run(config, topic, "--safe-to-disable", "alias/payments").exit_code == 3
    assert run(config, topic, "--safe-to-disable", mrk).exit_code == 1


def test_a_substitute_is_unwrapped_at_the_kms(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Decrypt for an envelope of any number of records; while KMS is away nobody can tell."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic()
    with KMSServer() as kms:
        old, new = kms.create_key(), kms.create_key()
        keys = {"provider": "aws-kms", "key_id": new, "region": kms.region, "endpoint_url": kms.url}
        config = write_config(tmp_path, broker, keys)
        provider = AWSKMSKeyProvider(new, endpoint_url=kms.url)
        generated = provider.generate_data_key({"streamcrypt:topic": "orders"})
        provider.close()
        dek = bytes(generated.plaintext)
        from streamcrypt.envelope.header import EncryptedDataKey

        header = envelope(*generated.encrypted, EncryptedDataKey("aws-kms", old, b"x" * 60), dek=dek)
        broker.produce(topic, [record(header)] * 100)
        kms.forget_calls()
        assert run(config, topic, "--safe-to-disable", old).exit_code == 0
        assert kms.count("Decrypt") == 1
        kms.call("DisableKey", KeyId=new)
        assert run(config, topic, "--safe-to-disable", old).exit_code == 3
    assert run(config, topic, "--safe-to-disable", old).exit_code == 3


def test_retention_that_overtakes_the_reading_is_told(broker: Broker, config: Path) -> None:
    """What is left is read; whether something was missed is left open."""
    topic = broker.create_topic()
    broker.produce(topic, [record(envelope("new"), second=n) for n in range(6)])
    plan, book = make_plan(broker.admin, [topic]), HeaderBook()
    truncate(broker, topic, 4)
    read(config, plan, book)
    place = plan.places[topic, 0]
    assert (place.records, place.overtaken, place.position, place.unread) == (2, 0, 6, "")


def read(
    config: Path,
    plan: Any,
    book: HeaderBook,
    stop: threading.Event | None = None,
    each: Any = None,
    patience: float = 30.0,
) -> None:
    """Read a plan as the command does."""
    settings = load(config)
    counter = Counter(plan.places, book)
    reader = Reader(consumer_config(settings, settings.pipelines[0]), plan.places, counter, patience=patience)
    try:
        reader.read(stop or threading.Event(), each or (lambda: None))
    finally:
        reader.close()


def test_a_topic_that_goes_away_is_told(broker: Broker, config: Path) -> None:
    """It was there when the audit began."""
    topic, other = broker.create_topic(), broker.create_topic()
    broker.produce(topic, [record(envelope("new"))])
    broker.produce(other, [record(envelope("new"))])
    plan = make_plan(broker.admin, [topic, other])
    broker.delete_topic(topic)
    read(config, plan, HeaderBook(), patience=8)
    assert plan.places[topic, 0].unread
    assert (plan.places[other, 0].records, plan.places[other, 0].unread) == (1, "")


def test_an_interrupted_audit_goes_on(broker: Broker, config: Path, tmp_path: Path) -> None:
    """Together they count what one alone would have; records that came meanwhile stay out, the state goes away."""
    topic, state = broker.create_topic(partitions=2), tmp_path / "state.json"
    headers = [envelope(name) for name in ("old", "new", "third")]
    broker.produce(topic, [record(headers[n // 7 % 3], n % 2, number=n) for n in range(30_000)])
    alone = counts(config, topic)
    stop, plan, book = threading.Event(), make_plan(broker.admin, [topic]), HeaderBook()

    def end_after_the_first_records() -> None:
        if any(place.records for place in plan.places.values()):
            stop.set()

    read(config, plan, book, stop, end_after_the_first_records)
    assert any(not place.is_read for place in plan.places.values())
    StateFile(state).write(plan, book)
    broker.produce(topic, [record(headers[0])])
    assert counts(config, topic, "--state", str(state)) == alone
    assert not state.exists()
    assert sum(partition["records"] for partition in counts(config, topic)) == 30_001


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_signal_ends_it_and_the_state_is_kept(
    broker: Broker, config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As a process: 130, a message on standard error, nothing on standard output; killed, it goes on as well."""
    topic, state = broker.create_topic(partitions=2), tmp_path / "state.json"
    header = envelope("old")
    # Small batches, fetched one by one, so that reading takes seconds.
    producer = Producer({"bootstrap.servers": broker.bootstrap, "batch.num.messages": 20, "linger.ms": 100})
    for n in range(50_000):
        producer.produce(topic, **record(header, n % 2, number=n))
    assert producer.flush(60) == 0
    slow = {
        **os.environ,
        "STREAMCRYPT__KAFKA__CONSUMER": json.dumps({"fetch.message.max.bytes": "1000", "queued.min.messages": "1"}),
    }
    arguments = [str(config), topic, "--format", "json", "--state", str(state)]
    command = [sys.executable, "-m", "streamcrypt", "audit", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=slow)
    wait_until(lambda: state.exists() or process.poll() is not None, "a state, or the end", 60)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, state.exists()) == (130 if number == signal.SIGTERM else -9, b"", True), err
    assert (b"Run it again to go on" in err) is (number == signal.SIGTERM)
    assert 0 < sum(place["records"] for place in json.loads(state.read_text())["places"]) < 50_000
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    tree = json.loads(done.stdout)
    assert [partition["records"] for partition in tree["topics"][0]["partitions"]] == [25_000, 25_000]
    assert done.stderr == b""


def test_no_group_is_used(broker: Broker, config: Path) -> None:
    """The offsets of the pipelines stay as they are."""
    topic = broker.create_topic()
    broker.produce(topic, [record(envelope("old"))] * 10)
    counts(config, topic)
    groups = {group.group_id for group in broker.admin.list_consumer_groups().result(30).valid}
    assert load(config).pipelines[0].group not in groups


def test_the_page_and_the_table(broker: Broker, config: Path) -> None:
    """Both to standard output; the table keeps a key id whole."""
    topic = broker.create_topic()
    arn = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    broker.produce(topic, [record(envelope(arn)), record(None, value=b"plain")])
    page = run(config, topic, "--format", "html")
    assert (page.exit_code, page.stdout.startswith("<!doctype html>"), "http" in page.stdout) == (0, True, False)
    table = run(config, topic)
    assert (table.exit_code, arn in table.stdout, "1 plaintext" in table.stdout) == (0, True, True)
    assert table.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "name topics, or pass --all"),
        (["t", "--all"], 2, "name topics, or pass --all"),
        (["t", "--format", "xml"], 2, "--format is one of table, json, html"),
        (["t", "--sequence", "--state", "s"], 2, "does not go with --state"),
        (["missing-topic"], 1, "the topic 'missing-topic' does not exist"),
        (["missing-topic", "--safe-to-disable", "old"], 3, ""),
    ],
)
def test_what_cannot_be_asked(config: Path, arguments: list[str], code: int, text: str) -> None:
    """The arguments are told from the world; asked about a KEK, no failure reads as a no."""
    result = run(config, *arguments)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    if code == 3:
        assert "safe to disable old: undetermined" in result.stdout


def test_no_cluster_is_undetermined(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a no; without the question it is a failure. A name that is none is refused first."""
    LocalKeyProvider(KEYRING, "new").save(tmp_path / "keyring.json")
    config = write_config(tmp_path, broker, {"provider": "local", "keyring": "keyring.json"})
    monkeypatch.setenv("STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("streamcrypt.audit.plan._TIMEOUT", 1.0)
    assert run(config, "t", "--safe-to-disable", "old").exit_code == 3
    assert run(config, "t").exit_code == 1
    use_fake_credentials(monkeypatch)
    aws = write_config(tmp_path, broker, {"key_id": "alias/payments", "region": "eu-west-1"})
    assert run(aws, "t", "--safe-to-disable", "arn:aws:s3:::bucket").exit_code == 2


def test_ends_are_taken_when_it_begins(broker: Broker, config: Path) -> None:
    """A topic that is written to all the time ends, too."""
    topic, header = broker.create_topic(), envelope("old")
    broker.produce(topic, [record(header)] * 1000)
    plan, book = make_plan(broker.admin, [topic]), HeaderBook()
    broker.produce(topic, [record(header)] * 1000)
    read(config, plan, book)
    assert plan.places[topic, 0].records == 1000
    assert gc.isenabled(), "reading does without it, what comes after does not"
    asked = broker.admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()})
    assert [answer.result(30).offset for answer in asked.values()] == [2000]


def test_a_topic_that_may_not_be_read_leaves_it_open(broker_factory: Any, tmp_path: Path) -> None:
    """Named with the broker's reason; the others are read and printed. Without the right to describe, it is missing."""
    private = broker_factory(
        config={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    LocalKeyProvider(KEYRING, "new").save(tmp_path / "keyring.json")
    config = write_config(tmp_path, private, {"provider": "local", "keyring": "keyring.json"})
    topic, secret = private.create_topic(), private.create_topic()
    for name in (topic, secret):
        private.produce(name, [record(envelope("new"))])
    allow(private, secret, AclOperation.DESCRIBE)
    result = run(config, topic, secret, "--safe-to-disable", "old")
    assert result.exit_code == 3
    assert f"{secret}[0]: read up to offset 0 of 1 only" in result.stdout
    assert "uthorization" in result.stdout
    plain = run(config, topic, secret, "--format", "json", "--state", str(tmp_path / "state.json"))
    found = {t["topic"]: t["partitions"][0]["records"] for t in json.loads(plain.stdout)["topics"]}
    assert (plain.exit_code, found) == (1, {topic: 1, secret: 0})
    assert f"{secret}[0] was not read" in plain.stderr
    allow(private, secret, AclOperation.READ)
    again = counts(config, topic, "--state", str(tmp_path / "other.json"))
    assert [partition["records"] for partition in again] == [1]
    rest = run(config, topic, secret, "--format", "json", "--state", str(tmp_path / "state.json"))
    found = {t["topic"]: t["partitions"][0]["records"] for t in json.loads(rest.stdout)["topics"]}
    assert (rest.exit_code, found) == (0, {topic: 1, secret: 1})


def allow(broker: Broker, topic: str, operation: AclOperation) -> None:
    """Allow everyone one operation on a topic, and by that nothing that is not allowed."""
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
    [done] = broker.admin.create_acls([binding]).values()
    done.result(30)
    wanted = AclBindingFilter(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None, operation, AclPermissionType.ANY
    )
    wait_until(lambda: len(broker.admin.describe_acls(wanted).result(30)) == 1, "the rule is in force")
