"""An encrypting sidecar as a process: what it writes, what it keeps of each record, and what KMS sees of it."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from math import ceil

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME

from streamcrypt.keys.stock import LARGEST
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.sidecar import COMPLAINT, READY, STOPPED, Sidecar, config_of, keyring_at, kms_keys, marked

HEADER = "streamcrypt"
PER_KEY = 100


@pytest.fixture(scope="module")
def kms():
    with KMSServer() as server:
        server.create_key("alias/payments")
        yield server


def test_the_sealed_topic_holds_ciphertext_only_and_kms_is_called_once_a_data_key(broker, tmp_path, kms):
    """No plaintext bytes, one envelope header a record, distinct headers = ceil(messages / N), as many mintings."""
    count = 1_050
    source, target = broker.create_topic(partitions=3), broker.create_topic(partitions=3)
    values = [marked(number) for number in range(count)]
    broker.produce(source, [{"key": b"%d" % n, "value": value} for n, value in enumerate(values)])
    kms.forget_calls()
    rotation = {"max_messages": PER_KEY, "max_age": "10m"}
    config = config_of(
        broker.bootstrap, kms_keys(kms), {"mode": "encrypt", "from": source, "to": target}, rotation=rotation
    )
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(count)
        wait_until(
            lambda: kms.count("GenerateDataKey") == len(sidecar.of("data_key.minted")), "as many data keys as calls"
        )
        minted = kms.count("GenerateDataKey")
        assert sidecar.stop() == 0
    sealed = broker.read(target)
    assert len(sealed) == count
    everything = b"\n".join((m.value() or b"") + b"".join(v or b"" for _, v in m.headers() or ()) for m in sealed)
    assert not [value for value in values if value in everything or value[:16] in everything]
    envelopes = [[value for name, value in m.headers() if name == HEADER] for m in sealed]
    assert all(len(found) == 1 for found in envelopes)
    distinct = len({found[0] for found in envelopes})
    assert distinct == ceil(count / PER_KEY)
    # On a busy machine keys are used up faster than KMS answers, and more of them are minted ahead.
    assert distinct <= minted <= distinct + LARGEST
    assert kms.count("Decrypt") == 0


def test_a_record_keeps_its_key_headers_timestamp_and_partition(broker, tmp_path):
    """Tombstones, null and empty keys, empty values and repeated or null headers included."""
    records = [
        {"key": b"k", "value": b"v", "headers": [("b", b"2"), ("a", b""), ("b", None), ("ü", b"\x00\xff")]},
        {"key": b"k", "value": None},
        {"key": b"h", "value": None, "headers": [("why", b"erasure")]},
        {"key": None, "value": b"keyless"},
        {"key": b"", "value": b"under an empty key"},
        {"key": b"empty", "value": b""},
        {"key": b"large", "value": bytes(range(256)) * 400},
    ]
    records = [r | {"partition": n % 3, "timestamp": 1_600_000_000_000 + n} for n, r in enumerate(records)]
    source, target = broker.create_topic(partitions=3), broker.create_topic(partitions=5)
    broker.produce(source, records)
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(len(records))
        assert sidecar.stop() == 0
    before, after = broker.read(source), broker.read(target)
    assert [m.key() for m in after] == [m.key() for m in before]
    assert [m.partition() for m in after] == [m.partition() for m in before]
    assert [m.timestamp() for m in after] == [m.timestamp() for m in before]
    assert {m.timestamp()[0] for m in after} == {TIMESTAMP_CREATE_TIME}
    for old, new in zip(before, after, strict=True):
        if old.value() is None:
            assert (new.value(), new.headers()) == (None, old.headers())
        else:
            assert len(new.value()) == len(old.value()) + 28
            assert new.headers()[:-1] == (old.headers() or [])
            assert new.headers()[-1][0] == HEADER


def test_the_log_is_json_from_first_to_last_and_stdout_stays_empty(broker, tmp_path):
    source, target = broker.create_topic(), broker.create_topic()
    broker.produce(source, [{"value": b"x"}])
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(1)
        assert sidecar.stop() == 0
    assert sidecar.stdout == b""
    assert sidecar.complaint == ""
    assert all(list(event)[:3] == ["timestamp", "level", "event"] for event in sidecar.events)
    times = [datetime.fromisoformat(event["timestamp"]) for event in sidecar.events]
    assert all(later >= earlier for earlier, later in pairwise(times))
    [ready] = sidecar.of(READY)
    assert ready["partitions"] == 1
    [stopped] = sidecar.of(STOPPED)
    assert sidecar.events[-1] is stopped
    assert (stopped["clean"], stopped["records"]) == (True, 1)


def test_metrics_and_health_are_served_from_the_start_and_match_the_records(broker, tmp_path):
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    records = [{"key": b"k%d" % n, "value": b"12345678"} for n in range(50)]
    broker.produce(source, [*records, {"key": b"k", "value": None}])
    rotation = {"max_messages": 20}
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    config = config_of(broker.bootstrap, keyring_at(tmp_path), pipeline, rotation=rotation)
    name = config["pipelines"][0]["name"]
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.wait_for("pipeline.starting")
        assert sidecar.get("/healthz")[0] == 200
        sidecar.committed(51)
        sidecar.ready()
        assert sidecar.get("/readyz")[0] == 200
        assert sidecar.get("/healthz")[0] == 200
        assert sidecar.metric("streamcrypt_records_total", pipeline=name, topic=source) == 51
        assert sidecar.metric("streamcrypt_tombstones_total", pipeline=name) == 1
        assert sidecar.metric("streamcrypt_value_bytes_total", pipeline=name, direction="in") == 50 * 8
        assert sidecar.metric("streamcrypt_value_bytes_total", pipeline=name, direction="out") == 50 * 36
        assert sidecar.metric("streamcrypt_committed_records_total", pipeline=name) == 51
        assert sidecar.metric("streamcrypt_pipeline_ready", pipeline=name) == 1
        assert 3 <= sidecar.metric("streamcrypt_data_keys_minted_total", topic=target) <= 3 + LARGEST
        wait_until(
            lambda: sidecar.metric("streamcrypt_partitions_assigned", pipeline=name) == 2, "the gauge of partitions"
        )
        assert sidecar.metric("streamcrypt_records_read_total", pipeline=name, topic=source) == 51
        assert sidecar.metric("streamcrypt_transaction_seconds_count", pipeline=name) >= 1

        def is_told_of_each_turn():
            lags = sidecar.get("/metrics")[1].count("streamcrypt_consumer_lag_records{")
            behind = sidecar.metric("streamcrypt_consumer_lag_records", pipeline=name)
            return (lags, behind, sidecar.metric("streamcrypt_data_keys_live", topic=target)) == (2, 0, 1)

        wait_until(is_told_of_each_turn, "no lag of two partitions, and a data key in use")
        assert 0 < sidecar.metric("streamcrypt_data_key_records", topic=target) <= 20
        assert sidecar.metric("streamcrypt_loop_turns_total", pipeline=name) >= 1
        assert sidecar.get("/nothing")[0] == 404


def test_a_single_record_is_not_held_back(broker, tmp_path):
    """A trickle passes at once, not when a batch is full."""
    source, target = broker.create_topic(), broker.create_topic()
    config = config_of(broker.bootstrap, keyring_at(tmp_path), {"mode": "encrypt", "from": source, "to": target})
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        for number in range(3):
            broker.produce(source, [{"value": b"%d" % number}])
            passed = sidecar.wait_for("batch.done", where=lambda e, n=number: sidecar.of("batch.done").index(e) == n)
            assert passed["records"] == 1


def test_a_pipeline_that_halts_ends_the_process_while_the_other_drains(broker, tmp_path, kms):
    """Exit code 1, the reason on stderr; what the neighbour had begun is delivered and committed."""
    good, good_target = broker.create_topic(), broker.create_topic()
    bad, bad_target = broker.create_topic(), broker.create_topic()
    broker.produce(good, [{"value": b"%d" % n} for n in range(500)])
    config = config_of(
        broker.bootstrap,
        kms_keys(kms),
        {"name": "good", "mode": "encrypt", "from": good, "to": good_target},
        {"name": "bad", "mode": "encrypt", "from": bad, "to": bad_target},
    )
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready(pipelines=2)
        sidecar.committed(500)
        broker.produce(bad, [{"value": b"fine"}, {"value": b"x", "headers": [(HEADER, b"forged")]}, {"value": b"late"}])
        assert sidecar.wait() == 1
    assert sidecar.complaint.startswith(COMPLAINT)
    assert f"{bad}[0] offset 1" in sidecar.complaint
    assert "AlreadySealed" in sidecar.complaint
    stopped = {event["pipeline"]: event for event in sidecar.of(STOPPED)}
    assert (stopped["good"]["clean"], stopped["bad"]["clean"]) == (True, False)
    assert len(broker.read(good_target)) == 500
    assert len(broker.read(bad_target)) == 1


def test_two_members_share_the_partitions_and_one_takes_over_what_the_other_leaves(broker, tmp_path):
    """Nothing is missing, nothing comes twice, and each partition is in order."""
    source, target = broker.create_topic(partitions=4), broker.create_topic(partitions=4)
    keys = keyring_at(tmp_path)
    pipeline = {"name": "shared", "group": f"g-{source}", "mode": "encrypt", "from": source, "to": target}
    sent = 0

    def produce(count: int) -> None:
        nonlocal sent
        broker.produce(
            source, [{"key": b"%d" % n, "value": b"v", "partition": n % 4} for n in range(sent, sent + count)]
        )
        sent += count

    produce(400)
    with Sidecar(tmp_path, config_of(broker.bootstrap, keys, pipeline)) as first:
        first.ready()
        with Sidecar(tmp_path, config_of(broker.bootstrap, keys, pipeline)) as second:
            second.wait_for("partitions.assigned", where=lambda e: e["partitions"])
            produce(400)
            second.wait_for("batch.done")
            produce(400)
            assert second.stop() == 0
        produce(400)
        wait_until(lambda: len({m.key() for m in broker.read(target)}) == sent, "every record", 120)
        assert first.stop() == 0
    for partition in range(4):
        keys_there = [int(m.key()) for m in broker.read(target) if m.partition() == partition]
        assert keys_there == list(range(partition, sent, 4))
