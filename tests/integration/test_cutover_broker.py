"""A cut-over against a real cluster: ids, offsets by time, and a topic that was made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from confluent_kafka import Producer
from typer.testing import CliRunner

from streamcrypt import LocalKeyProvider
from streamcrypt.cli.app import app
from streamcrypt.errors import ConfigError
from streamcrypt.sidecar.cutover import Cutover, TopicCutover, check_topics, describe_topics
from tests.broker import Broker, unique_name

NOON = 1_900_000_000_000  # milliseconds: 2030-03-17T17:46:40Z


@pytest.fixture
def config(broker: Broker, tmp_path: Path):
    """Writes a configuration that opens a topic of the broker."""
    LocalKeyProvider.generate().save(tmp_path / "keyring.json")

    def write(topic: str) -> str:
        tree = {
            "kafka": {"bootstrap.servers": broker.bootstrap},
            "keys": {"provider": "local", "keyring": "keyring.json"},
            "pipelines": [
                {"name": "seal", "mode": "encrypt", "from": "plain", "to": topic},
                {"name": "open", "mode": "decrypt", "from": topic, "to": "opened"},
            ],
        }
        path = tmp_path / "streamcrypt.yaml"
        path.write_text(yaml.safe_dump(tree))
        return str(path)

    return write


def printed(*arguments: str) -> dict:
    """Run the command and read what it printed."""
    result = CliRunner().invoke(app, ["cutover", *arguments])
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout)["plaintext"]["pass_until"]


def test_the_command_prints_where_each_partition_ends_now(broker: Broker, config) -> None:
    """Empty ones at zero, and the records of an open transaction too: they are plaintext already on their way."""
    topic = broker.create_topic(partitions=3)
    broker.produce(topic, [{"value": b"x", "partition": 0}] * 5 + [{"value": b"x", "partition": 1}] * 2)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": unique_name("tx")})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"x", partition=1)
    producer.flush(30)
    found = printed(config(topic), topic)
    producer.abort_transaction(30)
    topic_id = describe_topics(broker.admin, [topic])[topic].topic_id
    assert found == {topic: {"id": topic_id, 0: 5, 1: 3, 2: 0}}


def test_the_command_resolves_an_instant_to_offsets(broker: Broker, config) -> None:
    """The first record at or after it, else the end."""
    topic = broker.create_topic(partitions=2, config={"message.timestamp.after.max.ms": str(2**62)})
    broker.produce(topic, [{"value": b"x", "partition": 0, "timestamp": NOON + 1000 * n} for n in range(-3, 3)])
    broker.produce(topic, [{"value": b"x", "partition": 1, "timestamp": NOON - 1000}])
    found = printed(config(topic), topic, "--at", "2030-03-17T17:46:40Z")
    assert {p: o for p, o in found[topic].items() if p != "id"} == {0: 3, 1: 1}


def test_the_command_refuses_what_it_cannot_answer(broker: Broker, config) -> None:
    """A topic that is not there, and one that no decrypting pipeline reads."""
    missing = unique_name("missing")
    result = CliRunner().invoke(app, ["cutover", config(missing), missing])
    assert (result.exit_code, "does not exist" in result.stderr) == (1, True)
    result = CliRunner().invoke(app, ["cutover", config(missing), "plain"])
    assert (result.exit_code, "no decrypting pipeline" in result.stderr) == (2, True)


def test_a_topic_that_was_made_anew_is_another_topic(broker: Broker) -> None:
    """Its name and its partitions are the same, and its id is not."""
    topic = broker.create_topic(partitions=2)
    topic_id = describe_topics(broker.admin, [topic])[topic].topic_id
    cut = Cutover({topic: TopicCutover(topic_id, {0: 5, 1: 7})})
    check_topics(cut, broker.admin)
    broker.delete_topic(topic)
    with pytest.raises(ConfigError, match="does not exist"):
        check_topics(cut, broker.admin)
    broker.create_topic(topic, partitions=2)
    with pytest.raises(ConfigError, match="made anew"):
        check_topics(cut, broker.admin)
    check_topics(Cutover(), broker.admin)
