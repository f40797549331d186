"""Two regions, one goes dark under load: sealing and opening go on, or pause and resume, and no record is lost."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from streamcrypt import AWSKMSKeyProvider, Encryptor, RotationPolicy
from streamcrypt.envelope.codec import decode_header
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.kms import REGION, use_fake_credentials
from tests.sidecar import Sidecar, config_of, marked

NEAR, FAR = REGION, "eu-central-1"
PARTITIONS = 3
GOES_ON_WITHIN = 20.0
# No grace: what is sealed in the dark is sealed under data keys that were minted in the dark.
ROTATION = {"max_messages": 25, "max_age": "10m", "grace": 0}


@pytest.fixture
def kms():
    with KMSServer(region=NEAR) as server:
        yield server


@pytest.fixture
def topics(broker):
    return [broker.create_topic(partitions=PARTITIONS) for _ in range(3)]


class Load:
    """Records written to a topic at a steady rate until :meth:`stop`."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "acks": "all", "log_level": 0})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.05):
            for _ in range(10):
                n = self.sent
                self._producer.produce(self._topic, marked(n), b"%d" % n, partition=n % PARTITIONS)
                self.sent += 1
            self._producer.poll(0)

    def stop(self) -> int:
        """End it; give the number of records, all of them acknowledged."""
        self._over.set()
        self._thread.join(30)
        assert self._producer.flush(30) == 0
        return self.sent


@contextmanager
def running(broker, tmp_path, keys, topics):
    """Load on the source, and a sidecar that seals it and opens it again, well on its way."""
    source, sealed, opened = topics
    pipelines = [
        {"mode": "encrypt", "from": source, "to": sealed},
        {"mode": "decrypt", "from": sealed, "to": opened},
    ]
    config = config_of(broker.bootstrap, keys, *pipelines, rotation=ROTATION)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready(2)
        load = Load(broker.bootstrap, source)
        try:
            wait_until(lambda: done(sidecar, config, 1) > 200, "records through both pipelines")
            yield sidecar, load, config
        finally:
            load.stop()


def done(sidecar, config, which) -> int:
    """Records that a pipeline has committed."""
    name = config["pipelines"][which]["name"]
    return sum(event["records"] for event in sidecar.of("offsets.committed") if event["pipeline"] == name)


def headers_of(broker, topic):
    return {dict(message.headers())["streamcrypt"] for message in broker.read(topic)}


def assert_whole(broker, topic, count):
    """Every record once, in order, in clear."""
    for partition in range(PARTITIONS):
        messages = [message for message in broker.read(topic) if message.partition() == partition]
        assert [int(message.key()) for message in messages] == list(range(partition, count, PARTITIONS))
        assert all(message.value() == marked(int(message.key())) for message in messages)


def keys_section(kms, key_id, **settings):
    return {"provider": "aws-kms", "key_id": key_id, "endpoint_url": kms.url, **settings}


@pytest.mark.parametrize("kind", ["several KEKs", "a multi-region key"])
def test_sealing_and_opening_go_on_within_seconds_of_a_region_going_dark(broker, tmp_path, kms, topics, kind):
    """It hangs, which is the worst kind of dark; nothing is restarted and no record is lost, double or displaced."""
    if kind == "several KEKs":
        keks = [kms.create_key(), kms.create_key(region=FAR)]
        keys = keys_section(kms, keks, require="any")
    else:
        primary = kms.create_key(MultiRegion=True)
        keks = [primary, kms.replicate(primary, FAR)]
        keys = keys_section(kms, primary, regions=[FAR])
    with running(broker, tmp_path, keys, topics) as (sidecar, load, config):
        kms.darken(NEAR, how="hang")
        dark = load.sent
        wait_until(lambda: done(sidecar, config, 0) > dark + 100, "records sealed in the dark", GOES_ON_WITHIN)
        wait_until(lambda: done(sidecar, config, 1) > dark + 100, "records opened in the dark", GOES_ON_WITHIN)
        wait_until(lambda: load.sent > dark + 800, "a while in the dark", 60)
        kms.lighten(NEAR)
        light = len(sidecar.events)
        if kind == "several KEKs":
            # New data keys are wrapped for both again, at once and by themselves.
            sidecar.wait_for("data_key.retired", 60, lambda e: e["reason"] == "kek_changed", after=light)
            (fewer, *_) = sidecar.of("data_key.wrapped_for_fewer")
            assert (fewer["key_ids"], fewer["missing"]) == ([keks[1]], [keks[0]])
        count = load.stop()
        wait_until(lambda: done(sidecar, config, 1) >= count, "the rest", 60)
        assert sidecar.stop() == 0
        assert sidecar.of("pipeline.restarting") == []
        assert sidecar.of("record.failed") == []
    assert_whole(broker, topics[2], count)
    named = [tuple(key.key_id for key in decode_header(header).keys) for header in headers_of(broker, topics[1])]
    if kind == "several KEKs":
        assert {frozenset(names) for names in named} == {frozenset(keks), frozenset(keks[1:])}
    else:
        assert {keks[1]} <= {name for (name,) in named} <= set(keks)


def test_under_require_all_sealing_pauses_and_resumes_by_itself_and_opening_goes_on(
    broker, tmp_path, kms, topics, monkeypatch
):
    """Every data key is wrapped for both; what was sealed before opens by the region that is left."""
    use_fake_credentials(monkeypatch)
    keks = [kms.create_key(), kms.create_key(region=FAR)]
    keys = keys_section(kms, keks)
    source, sealed, _ = topics
    with running(broker, tmp_path, keys, topics) as (sidecar, load, config):
        before = _sealed_elsewhere(kms, keks, sealed)
        seen = len(sidecar.events)
        kms.darken(NEAR, how="hang")
        paused = sidecar.wait_for("partition.paused", where=lambda e: e["topic"] == source, after=seen)
        name = config["pipelines"][0]["name"]
        sidecar.wait_for("pipeline.turned", where=lambda e: e["pipeline"] == name, after=sidecar.events.index(paused))
        # What was sealed before may be committed later.
        passed = sum(event["records"] for event in sidecar.of("batch.done") if event["pipeline"] == name)
        opened_at = done(sidecar, config, 1)
        broker.produce(sealed, before)
        wait_until(lambda: done(sidecar, config, 1) > opened_at, "records opened in the dark")
        dark = load.sent
        wait_until(lambda: load.sent > dark + 200, "a while in the dark")
        assert done(sidecar, config, 0) <= passed + 2 * ROTATION["max_messages"] * PARTITIONS
        assert sidecar.get("/readyz")[0] == 503
        kms.lighten(NEAR)
        count = load.stop()
        wait_until(lambda: done(sidecar, config, 0) >= count, "sealing to resume", 60)
        wait_until(lambda: done(sidecar, config, 1) >= count + len(before), "the rest", 60)
        assert sidecar.stop() == 0
        assert sidecar.of("record.failed") == []
        assert sidecar.of("pipeline.restarting") == []
    ours = [message for message in broker.read(topics[2]) if message.key() != b"elsewhere"]
    assert sorted(int(message.key()) for message in ours) == list(range(count))
    for header in headers_of(broker, sealed):
        assert {key.key_id for key in decode_header(header).keys} == set(keks)


def _sealed_elsewhere(kms, keks, topic):
    """Records of another writer, each under a data key that no reader has met."""
    provider = AWSKMSKeyProvider(keks, endpoint_url=kms.url)
    records = []
    with Encryptor(provider, RotationPolicy(max_messages=1)) as writer:
        for n in range(6):
            value, headers = writer.encrypt(topic, b"v", b"elsewhere", partition=n % PARTITIONS)
            records.append({"key": b"elsewhere", "value": value, "headers": headers, "partition": n % PARTITIONS})
    provider.close()
    return records


def test_a_sidecar_that_starts_in_the_dark_works(broker, tmp_path, kms, topics):
    """An alias of a multi-region key, the first region gone: a restart in the middle of a disaster is no second one."""
    primary = kms.create_key("alias/payments", MultiRegion=True)
    kms.replicate(primary, FAR, "alias/payments")
    kms.darken(NEAR, how="hang")
    source, sealed, _ = topics
    broker.produce(source, [{"key": b"%d" % n, "value": marked(n), "partition": n % PARTITIONS} for n in range(60)])
    keys = keys_section(kms, "alias/payments", region=NEAR, regions=[FAR])
    config = config_of(broker.bootstrap, keys, {"mode": "encrypt", "from": source, "to": sealed})
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.committed(60)
        assert sidecar.stop() == 0
    (name,) = {key.key_id for header in headers_of(broker, sealed) for key in decode_header(header).keys}
    assert name == primary.replace(NEAR, FAR)
