"""What a sidecar does while KMS or the broker is away, and what it says where it cannot start."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamcrypt.testing import KMSServer
from tests.broker import free_ports, wait_until
from tests.sidecar import COMPLAINT, STOPPED, Sidecar, config_of, keyring_at, kms_keys, marked, streamcrypt

PARTITIONS = 3
KEY = "alias/payments"


@pytest.fixture
def kms():
    with KMSServer() as server:
        server.create_key(KEY)
        yield server


@pytest.fixture
def topics(broker):
    return tuple(broker.create_topic(partitions=PARTITIONS) for _ in range(3))


def _load(numbers) -> list[dict]:
    return [{"key": b"%d" % n, "value": marked(n), "partition": n % PARTITIONS} for n in numbers]


def _assert_complete_and_in_order(broker, topic, count):
    for partition in range(PARTITIONS):
        numbers = [int(m.key()) for m in broker.read(topic) if m.partition() == partition]
        assert numbers == list(range(partition, count, PARTITIONS))


def _assert_no_plaintext(broker, topic):
    assert not [m for m in broker.read(topic) if b"PLAINTEXT" in m.value()]


OUTAGES = {
    "dropped": (lambda kms: kms.drop(), "KeyUnavailable"),
    "throttled": (lambda kms: kms.fail("ThrottlingException"), "KeyUnavailable"),
    "5xx": (lambda kms: kms.fail("KMSInternalException"), "KeyUnavailable"),
    "hanging": (lambda kms: kms.hang(), "KeyUnavailable"),
    "denied": (lambda kms: kms.fail("AccessDeniedException"), "KeyRefused"),
    "disabled": (lambda kms: kms.call("DisableKey", KeyId=_key_of(kms)), "KeyRefused"),
}


def _key_of(kms):
    return kms.call("DescribeKey", KeyId=KEY)["KeyMetadata"]["Arn"]


def _heal(kms):
    kms.heal()
    kms.call("EnableKey", KeyId=_key_of(kms))


def test_while_kms_is_away_an_encrypting_pipeline_waits_and_goes_on_by_itself(broker, tmp_path, kms, topics):
    """Partitions pause, not ready but alive, nothing passes in clear or past its order, nothing is lost.

    A disabled key is asked for slowly, so that one has a KMS and a pipeline of its own beside the others.
    """
    slow = broker.create_topic(partitions=PARTITIONS), broker.create_topic(partitions=PARTITIONS)
    with KMSServer() as other, ThreadPoolExecutor(1) as beside:
        other.create_key(KEY)
        waiting = beside.submit(_go_through, broker, tmp_path, other, slow, ["disabled"])
        _go_through(broker, tmp_path, kms, topics, [outage for outage in OUTAGES if outage != "disabled"])
        waiting.result()


def _go_through(broker, tmp_path, kms, topics, outages):
    source, target, *_ = topics
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    config = config_of(broker.bootstrap, kms_keys(kms), pipeline, rotation={"max_messages": 50, "max_age": "10m"})
    sent = 0
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        for outage in outages:
            begin, error = OUTAGES[outage]
            begin(kms)
            seen = len(sidecar.events)
            broker.produce(source, _load(range(sent, sent + 240)))
            sent += 240
            # A KMS too busy to refuse within the wait of a record counts as away at first; what it says is told then.
            paused = sidecar.wait_for("partition.paused", where=lambda e, error=error: e["error"] == error, after=seen)
            assert paused["topic"] == source, outage
            status, answer = sidecar.get("/readyz")
            assert status == 503, outage
            reasons = json.loads(answer)["reasons"]
            assert {reason["pipeline"] for reason in reasons} == {config["pipelines"][0]["name"]}, outage
            assert any(error in reason["reason"] for reason in reasons), outage
            for reason in reasons:
                assert (reason["since"][-1], list(reason["partitions"])) == ("Z", [source]), outage
            assert sidecar.get("/healthz")[0] == 200, outage
            assert len(broker.read(target)) < sent, outage
            _heal(kms)
            sidecar.committed(sent)
            wait_until(lambda: sidecar.get("/readyz")[0] == 200, f"all well after {outage}")
        assert sidecar.stop() == 0
    # One that waits for something else than before is told of again, and goes on once.
    paused, resumed = ({e["partition"] for e in sidecar.of(f"partition.{name}")} for name in ("paused", "resumed"))
    assert paused == resumed
    _assert_complete_and_in_order(broker, target, sent)
    _assert_no_plaintext(broker, target)


def test_a_partition_that_waited_for_kms_and_is_now_refused_says_so(broker, tmp_path, kms, topics):
    """Who is asked for help is another: the log and /readyz must not go on blaming the network."""
    source, target, _ = topics
    rotation = {"max_messages": 1, "max_age": "10m", "grace": "0s"}
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    config = config_of(broker.bootstrap, kms_keys(kms), pipeline, rotation=rotation)
    # More than data keys can be in stock.
    count = 20 * PARTITIONS
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        kms.drop()
        broker.produce(source, _load(range(count)))
        sidecar.wait_for("partition.paused", where=lambda e: e["error"] == "KeyUnavailable")
        kms.heal()
        kms.fail("AccessDeniedException")
        told = sidecar.wait_for("partition.paused", where=lambda e: e["error"] == "KeyRefused")
        assert (told["level"], bool(told["request_id"])) == ("error", True)
        wait_until(lambda: "KeyRefused" in sidecar.get("/readyz")[1], "the reason to follow")
        kms.heal()
        sidecar.committed(count)
        assert sidecar.stop() == 0


@pytest.mark.parametrize("outage", ["hanging", "denied"])
def test_while_kms_is_away_a_decrypting_pipeline_waits_and_goes_on_by_itself(broker, tmp_path, kms, topics, outage):
    """It is no fault of the records: with `on_failure: skip` none is left behind."""
    source, sealed, opened = topics
    broker.produce(source, _load(range(300)))
    writer = {"mode": "encrypt", "from": source, "to": sealed}
    with Sidecar(
        tmp_path, config_of(broker.bootstrap, kms_keys(kms), writer, rotation={"max_messages": 50})
    ) as sidecar:
        sidecar.committed(300)
        assert sidecar.stop() == 0
    begin, error = OUTAGES[outage]
    reader = {"mode": "decrypt", "from": sealed, "to": opened, "on_failure": "skip"}
    kms.create_key("alias/another")
    # Trust is known from the alias at the start; only Decrypt goes wrong.
    config = config_of(broker.bootstrap, kms_keys(kms, _key_of(kms)), reader)
    begin(kms)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.wait_for("partition.paused", where=lambda e: e["error"] == error)
        assert sidecar.get("/readyz")[0] == 503
        assert sidecar.get("/healthz")[0] == 200
        assert broker.read(opened) == []
        # Of paused partitions nothing is fetched, and still it is seen how many records wait.
        wait_until(lambda: sidecar.metric("streamcrypt_consumer_lag_records") >= 300, "the lag")
        _heal(kms)
        sidecar.committed(300)
        assert sidecar.of("record.failed") == []
        assert sidecar.stop() == 0
    _assert_complete_and_in_order(broker, opened, 300)


def test_many_partitions_that_wait_neither_stall_the_loop_nor_multiply_the_calls(broker, tmp_path, kms):
    """The loop turns every second or two with 30 partitions held, and SIGTERM still ends it in time."""
    count = 30
    source, target = broker.create_topic(partitions=count), broker.create_topic(partitions=count)
    config = config_of(
        broker.bootstrap,
        kms_keys(kms),
        {"mode": "encrypt", "from": source, "to": target},
        rotation={"max_messages": 10, "max_age": "10m"},
    )
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        kms.hang()
        broker.produce(source, [{"value": b"v", "partition": n % count} for n in range(20 * count)])
        wait_until(lambda: len(sidecar.of("partition.paused")) == count, "all partitions to pause")
        turns = len(sidecar.of("pipeline.turned"))
        wait_until(lambda: len(sidecar.of("pipeline.turned")) >= turns + 3, "three turns", 30)
        assert kms.count("GenerateDataKey") < count
        assert sidecar.stop(seconds=10) == 0


def test_a_broker_that_restarts_under_load_costs_nothing(broker_factory, tmp_path):
    """The sidecar goes on by itself; no record is missing, none comes twice, and each partition is in order."""
    broker = broker_factory()
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    broker.produce(source, _load(range(3_000)))
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.wait_for("batch.done")
        broker.restart()
        broker.produce(source, _load(range(3_000, 6_000)))
        wait_until(lambda: len({m.key() for m in broker.read(target)}) == 6_000, "every record", 150)
        assert sidecar.get("/healthz")[0] == 200
        assert sidecar.stop() == 0
    for partition in range(PARTITIONS):
        seen = [int(m.key()) for m in broker.read(target) if m.partition() == partition]
        assert seen == list(range(partition, 6_000, PARTITIONS))


@pytest.mark.parametrize("limit", ["topic", "producer"])
def test_a_record_too_large_for_the_target_halts_and_nothing_is_lost(broker, tmp_path, limit):
    """Broker or producer refuses it: exit 1 with place and remedy; once the limit is raised, all of it arrives."""
    small = {"max.message.bytes": "100000"} if limit == "topic" else {}
    source, target = broker.create_topic(), broker.create_topic(config=small)
    values = [b"a", b"b", b"x" * 150_000, b"c"]
    broker.produce(source, [{"key": b"%d" % n, "value": value} for n, value in enumerate(values)])
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    # Random-looking or not, a value must not slip through because the batch compresses.
    config["kafka"]["producer"] = {"compression.type": "none", "batch.size": 1_000}
    if limit == "producer":
        config["kafka"]["producer"]["message.max.bytes"] = 100_000
    with Sidecar(tmp_path, config) as sidecar:
        assert sidecar.wait() == 1
    assert sidecar.complaint.startswith(COMPLAINT)
    assert f"{source}[0] offset 2" in sidecar.complaint or f"{target}[0]" in sidecar.complaint
    assert "max.message.bytes" in sidecar.complaint or "message.max.bytes" in sidecar.complaint
    wide = broker.create_topic()
    config["pipelines"][0]["to"] = wide
    config["kafka"]["producer"] = {}
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.wait_for("offsets.committed")
        wait_until(lambda: b"3" in [m.key() for m in broker.read(wide)], "the last record")
        assert sidecar.stop() == 0
    arrived = {m.key() for topic in (target, wide) for m in broker.read(topic)}
    assert {b"0", b"1", b"2", b"3"} <= arrived
    assert b"2" in [m.key() for m in broker.read(wide)]


# ---- what cannot start: one screen on stderr, no traceback, the exit code of its kind ----


def _refused(directory, config, code, *words, env=None):
    """`run` and `check` both refuse with ``code``, and both say all of ``words``."""
    with ThreadPoolExecutor(2) as both:
        running = both.submit(streamcrypt, directory, "run", config, env)
        # Otherwise it would find the port of the other one in use.
        elsewhere = config if "in use" in words else config | {"http": {"port": free_ports(1)[0]}}
        checking = both.submit(streamcrypt, directory, "check", elsewhere, env)
    ran, checked = running.result(), checking.result()
    said = "\n".join(line for line in ran.stderr.splitlines() if not line.startswith("{"))
    answer = checked.stdout + checked.stderr
    assert (ran.returncode, checked.returncode) == (code, code), said + answer
    assert ran.stdout == ""
    assert said.startswith(COMPLAINT), ran.stderr
    assert len(said.splitlines()) <= 8, said
    assert "fail" in answer or answer.startswith(COMPLAINT)
    for text in (said, answer):
        assert "Traceback" not in text
        for word in words:
            assert word.lower() in text.lower(), text


def _pipeline(topics):
    return {"mode": "encrypt", "from": topics[0], "to": topics[1]}


def test_an_unreachable_broker_is_named(tmp_path):
    config = config_of("127.0.0.1:1", keyring_at(tmp_path), {"mode": "encrypt", "from": "a", "to": "b"})
    _refused(tmp_path, config, 1, "127.0.0.1:1")


REFUSALS = {
    "unknown": ("alias/nobody", lambda kms: None, ["alias/nobody", "NotFoundException", "exists"]),
    "disabled": (KEY, lambda kms: kms.call("DisableKey", KeyId=_key_of(kms)), ["disabled", "enable-key"]),
    "denied": (KEY, lambda kms: kms.fail("AccessDeniedException"), ["AccessDeniedException", "allow kms:"]),
    "expired": (KEY, lambda kms: kms.fail("ExpiredTokenException"), ["ExpiredTokenException", "credentials"]),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_kms_that_says_no_is_quoted_with_the_remedy(broker, tmp_path, kms, topics, reason):
    key_id, begin, words = REFUSALS[reason]
    begin(kms)
    _refused(tmp_path, config_of(broker.bootstrap, kms_keys(kms, key_id), _pipeline(topics)), 1, *words)


def test_an_unreachable_kms_is_said_to_be_away(broker, tmp_path, topics):
    keys = {"provider": "aws-kms", "key_id": KEY, "region": "eu-west-1", "endpoint_url": "http://127.0.0.1:1"}
    _refused(tmp_path, config_of(broker.bootstrap, keys, _pipeline(topics)), 1, "away")


def test_missing_credentials_are_named(broker, tmp_path, kms, topics):
    config = config_of(broker.bootstrap, kms_keys(kms), _pipeline(topics))
    _refused(tmp_path, config, 1, "credentials", env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})


@pytest.mark.parametrize("content", [None, "not json", json.dumps({"primary": "a", "keys": {"a": "c2hvcnQ="}})])
def test_a_keyring_that_cannot_be_used_is_named(broker, tmp_path, topics, content):
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
        path.chmod(0o600)
    config = config_of(broker.bootstrap, {"provider": "local", "keyring": str(path)}, _pipeline(topics))
    _refused(tmp_path, config, 2, str(path))


def test_a_port_in_use_is_named(broker, tmp_path, topics):
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _pipeline(topics))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config["http"]["port"] = taken.getsockname()[1]
        _refused(tmp_path, config, 1, f"127.0.0.1:{config['http']['port']}", "in use")


def test_a_property_that_librdkafka_refuses_is_a_wrong_configuration(broker, tmp_path, topics):
    config = config_of(broker.bootstrap, keyring_at(tmp_path), _pipeline(topics))
    config["kafka"]["security.protocol"] = "telepathy"
    _refused(tmp_path, config, 2, "security.protocol")


def test_a_configuration_that_writes_onto_its_own_input_is_refused(broker, tmp_path, topics):
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": topics[0], "to": topics[0]})
    _refused(tmp_path, config, 2, topics[0])


def test_a_kms_slower_than_a_record_waits_does_not_keep_a_pipeline_from_starting(broker, tmp_path, kms, topics):
    """A cold KMS answers in a second; only a loop that runs may not wait for so long."""
    kms.delay(0.9)
    with Sidecar(tmp_path, config_of(broker.bootstrap, kms_keys(kms), _pipeline(topics))) as sidecar:
        sidecar.ready()
        broker.produce(topics[0], _load(range(10)))
        sidecar.committed(10)
        assert sidecar.stop() == 0
    assert sidecar.of(STOPPED)[0]["clean"] is True


def test_nothing_listens_where_the_tests_say_nothing_does():
    """The unreachable addresses above are unreachable."""
    for port in (1, *free_ports(1)):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
