"""The example programs do what they say, as processes on a real broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamcrypt.testing import KMSServer
from tests.broker import unique_name

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LINES = ["IBAN DE89370400440532013000", "", "Grüße, 100 €"]


def _run(name: str, *arguments: str, lines: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    credentials = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        input="".join(f"{line}\n" for line in lines or []),
        env=os.environ | credentials | {"PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def _without_librdkafka(text: str) -> str:
    """A young broker makes librdkafka log that a coordinator is still loading; its lines begin with %level."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("%"))


def _with_keyring(tmp_path: Path) -> list[str]:
    return ["--keyring", str(tmp_path / "keyring.json")]


@pytest.fixture(params=["keyring", "kms"])
def keys(request, tmp_path):
    """Arguments that name the keys: a keyring that does not exist yet, or a KMS with one key."""
    if request.param == "keyring":
        yield _with_keyring(tmp_path)
        return
    with KMSServer() as kms:
        yield ["--key-id", kms.create_key(), "--endpoint-url", kms.url]


def test_lines_sent_by_the_producer_come_out_of_the_consumer_and_the_topic_holds_none_of_them(broker, keys):
    topic = broker.create_topic()
    where = [topic, "--bootstrap", broker.bootstrap, *keys]
    sent = _run("encrypting_producer.py", *where, lines=LINES)
    assert (sent.returncode, _without_librdkafka(sent.stderr)) == (0, "")
    stored = b"".join(record.value() for record in broker.read(topic))
    assert not [line for line in LINES if line and line.encode() in stored]
    shown = _run("decrypting_consumer.py", *where, "--count", str(len(LINES)), "--group", unique_name("g"))
    assert (shown.returncode, _without_librdkafka(shown.stderr)) == (0, "")
    assert shown.stdout.splitlines() == LINES


def test_a_record_that_does_not_open_is_named_and_its_neighbours_are_shown(broker, tmp_path):
    topic = broker.create_topic()
    where = [topic, "--bootstrap", broker.bootstrap, *_with_keyring(tmp_path)]
    assert _run("encrypting_producer.py", *where, lines=["first"]).returncode == 0
    broker.produce(topic, [{"value": b"in clear", "key": b"line"}])
    assert _run("encrypting_producer.py", *where, lines=["third"]).returncode == 0
    shown = _run("decrypting_consumer.py", *where, "--count", "3", "--group", unique_name("g"))
    assert shown.stdout.splitlines() == ["first", "third"]
    assert "offset 1 was not opened: PlaintextRejected" in shown.stderr
    assert "in clear" not in shown.stderr


def test_topics_can_be_created_twice(broker):
    topic = unique_name("created")
    for said in (f"created {topic}\n", f"{topic} exists\n"):
        done = _run("create_topics.py", topic, "--partitions", "2", "--bootstrap", broker.bootstrap)
        assert (done.returncode, done.stdout) == (0, said)
    assert len(broker.describe(topic).partitions) == 2
    broker.delete_topic(topic)
