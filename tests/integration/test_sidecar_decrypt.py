"""A decrypting sidecar as a process: what comes back, and what it refuses to pass."""

from __future__ import annotations

import base64

import pytest
from confluent_kafka import Consumer, TopicPartition

import streamcrypt as sc
from streamcrypt.testing import KMSServer
from tests.broker import unique_name, wait_until
from tests.sidecar import COMPLAINT, STOPPED, Sidecar, config_of, keyring_at, kms_keys, marked

HEADER = "streamcrypt"


@pytest.fixture(scope="module")
def kms():
    with KMSServer() as server:
        server.create_key("alias/payments")
        server.create_key("alias/other")
        yield server


def _identity(message):
    return message.partition(), message.key(), message.value(), message.headers(), message.timestamp()


def test_encrypting_and_decrypting_bring_back_byte_identical_records(broker, tmp_path, kms):
    """Both pipelines in one process; KMS decrypts each data key once, however many records it sealed."""
    count = 1_000
    source, sealed, opened = (broker.create_topic(partitions=3) for _ in range(3))
    special = [
        {"key": b"gone", "value": None, "headers": [("why", b"erasure")]},
        {"key": None, "value": b"keyless"},
        {"key": b"", "value": b""},
        {"key": b"many", "value": bytes(range(256)) * 100, "headers": [("b", b"2"), ("a", None), ("b", b"")]},
    ]
    plain = [{"key": b"%d" % n, "value": marked(n)} for n in range(count)]
    records = [r | {"timestamp": 1_600_000_000_000 + n, "partition": n % 3} for n, r in enumerate(plain + special)]
    broker.produce(source, records)
    kms.forget_calls()
    config = config_of(
        broker.bootstrap,
        kms_keys(kms),
        {"mode": "encrypt", "from": source, "to": sealed},
        {"mode": "decrypt", "from": sealed, "to": opened},
        rotation={"max_messages": 100},
        context={"app": "billing"},
    )
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(2 * len(records))
        misses = sidecar.metric("streamcrypt_decrypt_cache_misses_total", how="unwrapped")
        hits = sidecar.metric("streamcrypt_decrypt_cache_hits_total")
        assert (misses, hits) == (11, len(records) - 1 - 11)
        assert sidecar.metric("streamcrypt_transform_seconds_count", mode="decrypt") >= 1
        wait_until(lambda: sidecar.metric("streamcrypt_decrypt_cache_entries") == 11, "the gauge of the cache")
        assert sidecar.stop() == 0
    distinct = {v for m in broker.read(sealed) for name, v in m.headers() or () if name == HEADER}
    assert len(distinct) == 11
    assert kms.count("Decrypt") == len(distinct)
    assert [_identity(m) for m in broker.read(opened)] == [_identity(m) for m in broker.read(source)]


# ---- records that cannot be opened ----


def _sealed(keys: sc.LocalKeyProvider, topic: str, count: int) -> list[dict]:
    with sc.Encryptor(keys) as encryptor:
        records = []
        for number in range(count):
            key = b"%d" % number
            value, headers = encryptor.encrypt(topic, marked(number), key, partition=0)
            records.append({"key": key, "value": value, "headers": headers})
        return records


def _plaintext(record, _keys, _topic):
    return {"key": record["key"], "value": b"SECRET-IN-CLEAR"}


def _tampered(record, _keys, _topic):
    return record | {"value": record["value"][:-1] + bytes([record["value"][-1] ^ 1])}


def _untrusted(_record, _keys, topic):
    return _sealed(sc.LocalKeyProvider.generate("stranger"), topic, 1)[0]


def _moved_key(record, _keys, _topic):
    return record | {"key": b"somebody else's"}


def _moved_topic(_record, keys, topic):
    return _sealed(keys, f"{topic}.other", 1)[0]


def _two_headers(record, _keys, _topic):
    return record | {"headers": record["headers"] * 2}


def _mangled(record, _keys, _topic):
    return record | {"headers": [(HEADER, base64.b64encode(record["headers"][0][1]))]}


def _sealed_tombstone(record, _keys, _topic):
    return record | {"value": None}


BAD = {
    "PlaintextRejected": _plaintext,
    "AuthenticationFailed": _tampered,
    "UntrustedKey": _untrusted,
    "AuthenticationFailed: key": _moved_key,
    "ContextMismatch": _moved_topic,
    "MalformedEnvelope": _two_headers,
    "MangledEnvelope": _mangled,
    "MalformedEnvelope: tombstone": _sealed_tombstone,
}


def _committed(broker, group: str, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        [place] = consumer.committed([TopicPartition(topic, 0)], timeout=30)
        return place.offset
    finally:
        consumer.close()


@pytest.mark.parametrize("name", ["PlaintextRejected", "AuthenticationFailed", "ContextMismatch"])
def test_a_record_that_cannot_be_opened_halts_with_its_place_and_reason(broker, tmp_path, name):
    """Exit 1; what came before it is delivered and committed, itself and what follows are not; nor does a restart."""
    source, target, group = broker.create_topic(), broker.create_topic(), unique_name("g")
    section = keyring_at(tmp_path)
    keys = sc.LocalKeyProvider.from_file(section["keyring"])
    records = _sealed(keys, source, 600)
    records[300] = BAD[name](records[300], keys, source)
    broker.produce(source, records)
    config = config_of(
        broker.bootstrap, section, {"mode": "decrypt", "from": source, "to": target, "group": group, "name": "reader"}
    )
    for _ in range(2):
        with Sidecar(tmp_path, config) as sidecar:
            assert sidecar.wait() == 1
        assert sidecar.complaint.startswith(COMPLAINT)
        assert f"{source}[0] offset 300: {name}" in sidecar.complaint
        assert "Traceback" not in sidecar.complaint
        assert len(sidecar.complaint.splitlines()) <= 4
        [failed] = sidecar.of("record.failed")
        assert (failed["topic"], failed["partition"], failed["offset"]) == (source, 0, 300)
        assert (failed["error"], failed["action"]) == (name, "halt")
        assert sidecar.of(STOPPED)[0]["clean"] is False
        assert _committed(broker, group, source) == 300
        log = "\n".join(sidecar.lines)
        assert "PLAINTEXT" not in log
        assert "SECRET" not in log
        assert [m.value() for m in broker.read(target)] == [marked(n) for n in range(300)]


def test_with_skip_the_bad_records_are_left_behind_and_their_neighbours_pass_in_order(broker, tmp_path):
    """One of every way to be refused, between good ones; each is told of once, with its class and place."""
    source, target = broker.create_topic(), broker.create_topic()
    section = keyring_at(tmp_path)
    keys = sc.LocalKeyProvider.from_file(section["keyring"])
    records = _sealed(keys, source, 10 * (len(BAD) + 1))
    bad = {10 * n: name for n, name in enumerate(BAD, start=1)}
    for offset, name in bad.items():
        records[offset] = BAD[name](records[offset], keys, source)
    broker.produce(source, records)
    config = config_of(
        broker.bootstrap, section, {"mode": "decrypt", "from": source, "to": target, "on_failure": "skip"}
    )
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(len(records) - len(bad))
        assert sidecar.stop() == 0
    failed = {event["offset"]: event["error"] for event in sidecar.of("record.failed")}
    assert failed == {offset: name.split(":")[0] for offset, name in bad.items()}
    assert len(sidecar.of("record.failed")) == len(bad)
    assert {event["action"] for event in sidecar.of("record.failed")} == {"skip"}
    assert [m.value() for m in broker.read(target)] == [marked(n) for n in range(len(records)) if n not in bad]
    assert _committed(broker, config["pipelines"][0]["group"], source) == len(records)


def test_only_trusted_keks_are_asked(broker, tmp_path, kms):
    """A record under another key of the same KMS is refused without a call to it."""
    source, target = broker.create_topic(), broker.create_topic()
    other = {"mode": "encrypt", "from": broker.create_topic(), "to": source}
    broker.produce(other["from"], [{"value": b"x"}])
    with Sidecar(tmp_path, config_of(broker.bootstrap, kms_keys(kms, "alias/other"), other)) as sidecar:
        sidecar.committed(1)
        assert sidecar.stop() == 0
    kms.forget_calls()
    reader = {"mode": "decrypt", "from": source, "to": target}
    with Sidecar(tmp_path, config_of(broker.bootstrap, kms_keys(kms), reader)) as sidecar:
        assert sidecar.wait() == 1
    assert "UntrustedKey" in sidecar.complaint
    assert kms.count("Decrypt") == 0


def test_an_encrypting_pipeline_refuses_what_is_sealed_already(broker, tmp_path):
    """Value or tombstone, halted or skipped: nothing is sealed twice, nothing is passed unsealed."""
    source, target, section = broker.create_topic(), broker.create_topic(), keyring_at(tmp_path)
    [sealed] = _sealed(sc.LocalKeyProvider.from_file(section["keyring"]), source, 1)
    broker.produce(source, [{"value": b"a"}, sealed, {"value": b"b"}, sealed | {"value": None}, {"value": b"c"}])
    pipeline = {"mode": "encrypt", "from": source, "to": target}
    with Sidecar(tmp_path, config_of(broker.bootstrap, section, pipeline)) as sidecar:
        assert sidecar.wait() == 1
    assert f"{source}[0] offset 1: AlreadySealed" in sidecar.complaint
    assert len(broker.read(target)) == 1
    skipping = broker.create_topic()
    pipeline |= {"to": skipping, "on_failure": "skip"}
    with Sidecar(tmp_path, config_of(broker.bootstrap, section, pipeline)) as sidecar:
        sidecar.committed(3)
        assert sidecar.stop() == 0
    assert [(e["offset"], e["error"]) for e in sidecar.of("record.failed")] == [
        (1, "AlreadySealed"),
        (3, "AlreadySealed"),
    ]
    assert [len(m.value()) for m in broker.read(skipping)] == [29, 29, 29]
