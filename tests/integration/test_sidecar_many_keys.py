"""A decrypting sidecar over a topic whose data keys are new one after the other, while KMS takes its time."""

from __future__ import annotations

from itertools import pairwise

import streamcrypt as sc
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.sidecar import Sidecar, config_of, environment, kms_keys, marked, numbers

PARTITIONS = 3
COUNT = 3_000
PER_KEY = 25


def test_data_keys_looked_ahead_change_neither_order_nor_calls_across_a_restart(broker, tmp_path, monkeypatch):
    """Stopped in the middle, with records read ahead in hand: each arrives once and in order, one call a data key."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
    with KMSServer() as kms:
        kms.create_key("alias/payments")
        settings = kms_keys(kms)
        keys = sc.AWSKMSKeyProvider(settings["key_id"], region=kms.region, endpoint_url=kms.url)
        with sc.Encryptor(keys, sc.RotationPolicy(max_messages=PER_KEY)) as writer:
            records = []
            for number in range(COUNT):
                key, partition = b"%d" % number, number * PARTITIONS // COUNT
                value, headers = writer.encrypt(source, marked(number), key, partition=partition)
                records.append({"key": key, "value": value, "headers": headers, "partition": partition})
        keys.close()
        broker.produce(source, records)
        kms.forget_calls()
        kms.delay(0.1)
        config = config_of(broker.bootstrap, settings, {"mode": "decrypt", "from": source, "to": target})
        with Sidecar(tmp_path, config) as sidecar:
            wait_until(lambda: kms.count("Decrypt") > COUNT // PER_KEY // 4, "a quarter of the data keys")
            assert sidecar.stop() == 0
        first = kms.count("Decrypt")
        already = sum(map(len, numbers(broker, target, PARTITIONS)))
        assert already < COUNT
        kms.heal()
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.committed(COUNT - already)
            assert sidecar.stop() == 0
        # Those that were looked ahead before the end are asked for once more by the next process, and no others.
        assert kms.count("Decrypt") <= COUNT // PER_KEY + first
    found = numbers(broker, target, PARTITIONS)
    assert sum(map(len, found)) == COUNT
    assert all(later == earlier + 1 for lane in found for earlier, later in pairwise(lane))
