"""Two tenants on one topic of a real broker: each under its own KEK, and one whose KEK is disabled."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import streamcrypt as sc
from streamcrypt.envelope.codec import decode_header
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.kms import use_fake_credentials
from tests.sidecar import Sidecar, config_of, environment, kms_keys, marked
from tests.tenants import envelopes, of
from tests.wrapping import eventually, take, unique

PARTITIONS = 2
TENANTS = ("acme", "globex")


@pytest.fixture
def kms():
    """A KMS with a KEK for each tenant and one for dead letters."""
    with KMSServer() as server:
        for name in (*TENANTS, "letters"):
            server.create_key(f"alias/tenant-{name}")
        yield server


def tenant_section(kms):
    mapping = dict.fromkeys(TENANTS)
    return {**kms_keys(kms, "alias/tenant-{header:tenant}"), "mapping": mapping}


def arn_of(kms, tenant):
    return str(kms.call("DescribeKey", KeyId=f"alias/tenant-{tenant}")["KeyMetadata"]["Arn"])


def load(numbers, tenant):
    return [{"key": b"%d" % n, "value": marked(n), "partition": n % PARTITIONS, "headers": of(tenant)} for n in numbers]


def audit(directory, config, topic, *options):
    """What `streamcrypt audit` prints, as JSON."""
    path = directory / "audit.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "streamcrypt", "audit", str(path), topic, "--format", "json", *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def numbers_of(messages):
    return sorted(int(message.key()) for message in messages)


def test_a_tenant_whose_kek_is_disabled_is_refused_and_the_other_goes_on(broker, tmp_path, kms):
    """Sealed under their own KEKs; unknown senders set aside; after disabling one KEK only its records fail."""
    plain, sealed, opened, letters = (broker.create_topic(partitions=PARTITIONS) for _ in range(4))
    writer = {"mode": "encrypt", "from": plain, "to": sealed}
    writer |= {"on_failure": "dead_letter", "dead_letter": letters, "dead_letter_key": "alias/tenant-letters"}
    reader = {"mode": "decrypt", "from": sealed, "to": opened, "on_failure": "skip"}
    limits = {"rotation": {"max_age": "2s"}, "cache": {"ttl": "2s"}}
    config = config_of(broker.bootstrap, tenant_section(kms), writer, reader, **limits)
    broker.produce(plain, [*load(range(0, 40, 2), "acme"), *load(range(1, 40, 2), "globex"), *load([100], "evil")])
    broker.produce(plain, [{"key": b"101", "value": marked(101), "partition": 0}])
    arns = {name: arn_of(kms, name) for name in TENANTS}
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready(2)
        wait_until(lambda: numbers_of(broker.read(opened)) == list(range(40)), "all records of both tenants")
        wait_until(lambda: numbers_of(broker.read(letters)) == [100, 101], "the letters of unknown senders")
        for message in broker.read(sealed):
            header = decode_header(envelopes(message.headers())[0])
            tenant = dict(message.headers())["tenant"].decode()
            assert [key.key_id for key in header.keys] == [arns[tenant]]
            assert dict(header.context)["streamcrypt:header:tenant"] == tenant

        kms.call("DisableKey", KeyId=arns["acme"])
        sent = 200

        def acme_is_refused():
            nonlocal sent
            broker.produce(plain, [*load([sent], "acme"), *load([sent + 1], "globex")])
            sent += 2
            return any(event["error"] == "KeyDisabled" for event in sidecar.of("record.failed"))

        wait_until(acme_is_refused, "a record of the disabled KEK to fail")
        wanted = [n for n in range(200, sent) if n % 2]
        wait_until(lambda: set(wanted) <= set(numbers_of(broker.read(opened))), "the other tenant's records")
        # On a busy machine a data key may take longer than a record waits for it in the loop.
        assert {event["error"] for event in sidecar.of("partition.paused")} <= {"KeyUnavailable"}
        wait_until(lambda: sidecar.get("/readyz")[0] == 200, "nothing to wait")
        failures = sidecar.metric("streamcrypt_record_failures_total", error="KeyNotMapped", action="dead_letter")
        assert failures == 2
        assert sidecar.stop() == 0
    # The receipt: what went with the KEK, of this tenant and of no other.
    lost = [m for m in broker.read(sealed) if dict(m.headers())["tenant"] == b"acme"]
    receipt = audit(tmp_path, config, sealed, "--receipt", arns["acme"])["receipt"]
    assert (receipt["whole"], receipt["lost"], receipt["still_open"]) == (True, len(lost), 0)
    assert not [m for m in [*broker.read(sealed), *broker.read(letters)] if m.value() and b"PLAINTEXT" in m.value()]


def test_with_wait_a_tenant_holds_its_own_partitions_alone(broker, tmp_path, kms):
    """Another partition of the same topic is not shut for a KEK that its records do not need."""
    plain, sealed = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    kms.call("DisableKey", KeyId=arn_of(kms, "acme"))
    keys = {**tenant_section(kms), "disabled": "wait"}
    config = config_of(broker.bootstrap, keys, {"mode": "encrypt", "from": plain, "to": sealed})
    broker.produce(plain, load(range(0, 20, 2), "acme"))
    with Sidecar(tmp_path, config) as sidecar:
        paused = sidecar.wait_for("partition.paused")
        assert paused["partition"] == 0
        broker.produce(plain, load(range(1, 20, 2), "globex"))
        wait_until(lambda: numbers_of(broker.read(sealed)) == list(range(1, 20, 2)), "the other tenant's records")
        kms.call("EnableKey", KeyId=arn_of(kms, "acme"))
        wait_until(lambda: len(broker.read(sealed)) == 20, "the records that waited", 90)
        assert sidecar.stop() == 0


def test_the_wrappers_open_the_records_of_every_tenant_but_the_disabled_one(broker, monkeypatch, kms):
    """A consumer hands them over as errors, and moves on; producers refuse what leads nowhere before it is sent."""
    use_fake_credentials(monkeypatch)
    topic = broker.create_topic(partitions=1)
    family = sc.AWSKMSKeyProvider("alias/tenant-acme", region=kms.region, endpoint_url=kms.url)
    keys = sc.TenantKeys(family, "alias/tenant-{header:tenant}", dict.fromkeys(TENANTS))
    with sc.Encryptor(keys) as encryptor:
        quiet = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
        producer = sc.EncryptingProducer(quiet, encryptor=encryptor)
        for n in range(10):
            producer.produce(topic, marked(n), b"%d" % n, headers=of(TENANTS[n % 2]))
        with pytest.raises(sc.KeyNotMapped):
            producer.produce(topic, b"v", b"k", headers=of("evil"))
        batch = [{"value": marked(n), "headers": of(name)} for n, name in ((10, "evil"), (11, "globex"))]
        assert producer.produce_batch(topic, batch) == 1
        assert isinstance(sc.failure_of(batch[0]["_error"]), sc.KeyNotMapped)
        eventually(lambda: producer.flush(1) == 0, "delivery")
        producer.close()
    kms.call("DisableKey", KeyId=arn_of(kms, "acme"))
    group = {"group.id": unique("g"), "auto.offset.reset": "earliest"}
    with sc.Decryptor(keys) as decryptor:
        consumer = sc.DecryptingConsumer({**quiet, **group}, decryptor=decryptor)
        consumer.subscribe([topic])
        try:
            messages = take(consumer, 11)
        finally:
            consumer.close()
    failures = [type(sc.failure_of(message)) for message in messages]
    assert failures == [sc.KeyDisabled, type(None)] * 5 + [type(None)]
    assert [message.value() for message in messages[1::2]] == [marked(n) for n in range(1, 10, 2)]
    keys.close()
