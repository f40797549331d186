"""By which names and protocols a pipeline joins its group and begins its transactions."""

from __future__ import annotations

import json

import pytest

from streamcrypt.cli.compose import consumer_config, producer_config
from streamcrypt.config import load
from tests.sidecar import config_of

KEYS = {"provider": "aws-kms", "key_id": "alias/a", "region": "eu-west-1"}


def _configs(tmp_path, kafka=None, **pipeline):
    config = config_of(
        "b:1", KEYS, {"mode": "encrypt", "from": "a", "to": "b", "group": "g", "instance": "i", **pipeline}
    )
    config["kafka"] = {"bootstrap.servers": "b:1", **(kafka or {})}
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(config))
    settings = load(path)
    [only] = settings.pipelines
    return consumer_config(settings, only), producer_config(settings, only)


def test_exactly_once_is_the_default_with_static_ids_and_ten_seconds(tmp_path):
    """A process that comes back within the session finds partitions and transactions again at once."""
    consumer, producer = _configs(tmp_path)
    assert consumer["group.instance.id"] == producer["transactional.id"] == "g.i.0"
    assert consumer["session.timeout.ms"] == producer["transaction.timeout.ms"] == "10000"
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert consumer["isolation.level"] == "read_committed"


def test_at_least_once_keeps_idempotence_and_has_no_transaction(tmp_path):
    _, producer = _configs(tmp_path, delivery="at_least_once")
    assert producer["enable.idempotence"] == "true"
    assert producer["acks"] == "all"
    assert not [name for name in producer if name.startswith("transaction")]


@pytest.mark.parametrize("spelling", ["consumer", "CONSUMER"])
def test_the_consumer_protocol_gets_no_classic_property_and_no_instance_id(tmp_path, spelling):
    """The broker refuses them (KIP-848); static ids end in UNRELEASED_INSTANCE_ID there."""
    consumer, producer = _configs(tmp_path, {"group.protocol": spelling})
    classic = {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy", "group.instance.id"}
    assert not classic & set(consumer)
    assert producer["transactional.id"] == "g.i.0"


def test_timeouts_of_the_file_win(tmp_path):
    kafka = {"consumer": {"session.timeout.ms": 7_000}, "producer": {"transaction.timeout.ms": 3_000}}
    consumer, producer = _configs(tmp_path, kafka)
    assert str(consumer["session.timeout.ms"]) == "7000"
    assert str(producer["transaction.timeout.ms"]) == "3000"
