"""Dead letters on their way back: those whose cause is mended, each once; the others stay."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import streamcrypt as sc
from streamcrypt.clients.headers import headers_of
from streamcrypt.testing import KMSServer
from tests.broker import unique_name, wait_until
from tests.log_scan import SCAN
from tests.odd_headers import send
from tests.sidecar import Sidecar, config_of, environment, keyring_at, kms_keys, marked

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "streamcrypt"
PREFIX = "streamcrypt-dlq-"


@pytest.fixture
def kms():
    with KMSServer() as server:
        server.create_key("alias/payments")
        yield server


def _start(directory: Path, config: dict[str, Any], *arguments: str) -> subprocess.Popen[str]:
    path = directory / f"{unique_name('config')}.yaml"
    path.write_text(json.dumps(config))
    letters = config["pipelines"][0]["dead_letter"]
    command = [sys.executable, "-m", "streamcrypt", "replay", str(path), letters, *arguments]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def _replay(directory: Path, config: dict[str, Any], *arguments: str, code: int = 0) -> tuple[int, dict[str, int], str]:
    """Replay; give how many went back, how many stay and why, and what stderr says."""
    process = _start(directory, config, *arguments)
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()[1][-2_000:]) from None
    SCAN.add(err)
    assert process.returncode == code, err
    back = re.search(r"^(\d+) records sent back", out)
    kept = {why: int(count) for count, why in re.findall(r"^(\d+) letters stay on \S+: (\S+)$", out, re.MULTILINE)}
    return int(back[1]) if back else 0, kept, err


def _pipeline(config) -> dict[str, Any]:
    return config["pipelines"][0]


def _facts(letter) -> dict[str, str]:
    found = [(n.removeprefix(PREFIX), v.decode()) for n, v in letter.headers() if n.startswith(PREFIX)]
    assert len({name for name, _ in found}) == len(found)
    return dict(found)


def _reader(broker, keys, source: str | None = None, **settings) -> dict[str, Any]:
    source = source or broker.create_topic(partitions=2)
    target, letters = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    pipeline = {"mode": "decrypt", "from": source, "to": target, "on_failure": "dead_letter", "dead_letter": letters}
    return config_of(broker.bootstrap, keys, {**pipeline, **settings})


def _sealed(sealer, topic: str, numbers, partition: int | None = None) -> list[dict[str, Any]]:
    records = []
    for n in numbers:
        value, headers = sealer.encrypt(topic, marked(n), b"%d" % n, [("h", b"v")])
        records.append(
            {
                "key": b"%d" % n,
                "value": value,
                "headers": headers,
                "partition": n % 2 if partition is None else partition,
                "timestamp": 1_700_000_000_000 + n,
            }
        )
    return records


def _settle(tmp_path, config, letters: int, broker) -> None:
    """Run the pipeline until this many letters stand on its dead-letter topic."""
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: len(broker.read(_pipeline(config)["dead_letter"])) >= letters, "the letters")
        assert sidecar.stop() == 0


def _numbers(broker, topic: str) -> list[int]:
    return sorted(int(m.key()) for m in broker.read(topic))


def _two_causes(broker, tmp_path) -> tuple[dict[str, Any], list[int], list[int]]:
    """Letters of two causes: another topic's context, mended by `topic_names`, and tampering, mended by nothing."""
    keys = keyring_at(tmp_path)
    config = _reader(broker, keys)
    source = _pipeline(config)["from"]
    with sc.Encryptor(sc.LocalKeyProvider.from_file(keys["keyring"])) as sealer:
        misnamed = _sealed(sealer, "payments", range(10))
        tampered = _sealed(sealer, "payments", range(10, 16))
    for record in tampered:
        record["value"] = bytes(len(record["value"]))
        record["headers"] = [("h", b"v"), (HEADER, b"\xc3\x01")]
    broker.produce(source, [*misnamed, *tampered])
    _settle(tmp_path, config, 16, broker)
    return config, list(range(10)), list(range(10, 16))


def test_exactly_the_letters_whose_cause_is_mended_come_back_and_once(broker, tmp_path):
    """In their partition, opened, without our headers; others stay, their facts replaced; a second run adds none."""
    config, mended, rest = _two_causes(broker, tmp_path)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    back, kept, _ = _replay(tmp_path, config)
    assert (back, kept) == (0, {"ContextMismatch": 10, "MalformedEnvelope": 6})
    config["topic_names"] = {source: "payments"}
    back, kept, _ = _replay(tmp_path, config)
    assert (back, kept) == (10, {"MalformedEnvelope": 6})
    found = broker.read(target)
    assert _numbers(broker, target) == mended
    for message in found:
        number = int(message.key())
        assert message.value() == marked(number)
        assert message.partition() == number % 2
        assert message.headers() == [("h", b"v")]
        assert message.timestamp()[1] == 1_700_000_000_000 + number
    assert _replay(tmp_path, config)[:2] == (0, {"MalformedEnvelope": 6})
    assert len(broker.read(target)) == 10
    stay = broker.read(letters)[-6:]
    every = broker.read(letters)
    assert {int(m.key()) for m in every} == {*mended, *rest}
    for letter in stay:
        facts = _facts(letter)
        assert facts["topic"] == source
        assert facts["pipeline"] == _pipeline(config)["name"]


def test_a_filter_by_reason_leaves_the_others_as_they_are(broker, tmp_path):
    """By the class or by a part of the text; filtered letters are looked at again by the next replay."""
    config, mended, _ = _two_causes(broker, tmp_path)
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    config["topic_names"] = {source: "payments"}
    assert _replay(tmp_path, config, "--reason", "MalformedEnvelope")[:2] == (
        0,
        {"filtered": 10, "MalformedEnvelope": 6},
    )
    assert broker.read(target) == []
    assert _replay(tmp_path, config, "--reason", "ContextMismatch")[:2] == (10, {"filtered": 6})
    assert _numbers(broker, target) == mended


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # kafka-python's own
def test_forged_origins_and_junk_stay_where_they_are(broker, tmp_path):
    """A letter goes only to where its pipeline writes, and one that cannot be from there holds nothing up."""
    config, mended, _ = _two_causes(broker, tmp_path)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    elsewhere = broker.create_topic()
    [sample] = [m for m in broker.read(letters) if m.key() == b"0"]

    def forged(**facts: str) -> dict[str, Any]:
        headers = [
            (n, facts.get(n.removeprefix(PREFIX), (v or b"").decode()).encode() if n.startswith(PREFIX) else v)
            for n, v in sample.headers()
        ]
        return {"key": b"forged", "value": sample.value(), "headers": headers}

    broker.produce(
        letters,
        [
            forged(topic=elsewhere),
            forged(topic=target),
            forged(topic=letters),
            forged(pipeline="another"),
            forged(partition="99"),
            forged(partition="-1"),
            {"key": b"junk", "value": b"junk"},
        ],
    )
    send(broker.bootstrap, letters, [(b"odd", b"odd", sample.headers(), True)])
    config["topic_names"] = {source: "payments"}
    back, kept, _ = _replay(tmp_path, config)
    assert (back, kept) == (10, {"MalformedEnvelope": 6, "foreign": 6, "malformed": 2})
    # What cannot be read is not kept, and nothing of ours stands in its place.
    assert [headers_of(m) for m in broker.read(letters) if m.key() == b"odd"][1:] == [None]
    assert _numbers(broker, target) == mended
    assert broker.read(elsewhere) == []


def test_a_key_trusted_since_brings_back_its_records(broker, tmp_path, kms, monkeypatch):
    """UntrustedKey, mended by an entry in `trusted_keys`. A key service that is slow, but answers, is waited for."""
    other = kms.create_key("alias/other")
    config = _reader(broker, kms_keys(kms))
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    provider = sc.AWSKMSKeyProvider(other, region=kms.region, endpoint_url=kms.url)
    with sc.Encryptor(provider) as sealer:
        broker.produce(source, _sealed(sealer, source, range(5)))
    provider.close()
    _settle(tmp_path, config, 5, broker)
    _pipeline(config)["trusted_keys"] = [other]
    kms.delay(0.8, "Decrypt")
    assert _replay(tmp_path, config)[:2] == (5, {})
    assert _numbers(broker, target) == list(range(5))


def test_while_kms_is_away_a_replay_fails_and_nothing_changes(broker, tmp_path, kms, monkeypatch):
    """Exit 1; afterwards all of it comes back, once."""
    other = kms.create_key("alias/other")
    config = _reader(broker, kms_keys(kms, kms.call("DescribeKey", KeyId="alias/payments")["KeyMetadata"]["Arn"]))
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    provider = sc.AWSKMSKeyProvider(other, region=kms.region, endpoint_url=kms.url)
    with sc.Encryptor(provider) as sealer:
        broker.produce(source, _sealed(sealer, source, range(5)))
    provider.close()
    _settle(tmp_path, config, 5, broker)
    _pipeline(config)["trusted_keys"] = [other]
    kms.drop()
    _, _, err = _replay(tmp_path, config, code=1)
    assert "streamcrypt: " in err
    assert broker.read(target) == []
    assert len(broker.read(letters)) == 5
    kms.heal()
    assert _replay(tmp_path, config)[:2] == (5, {})
    assert _numbers(broker, target) == list(range(5))


def test_letters_of_an_encrypting_pipeline_are_opened_and_sealed_for_their_target(broker, tmp_path, kms, monkeypatch):
    """Refused by the broker for its size; the limit is raised, one is still too large and stays, sealed."""
    source = broker.create_topic(partitions=2)
    target = broker.create_topic(partitions=2, config={"max.message.bytes": "20000"})
    letters = broker.create_topic()
    pipeline = {"mode": "encrypt", "from": source, "to": target, "on_failure": "dead_letter", "dead_letter": letters}
    config = config_of(broker.bootstrap, kms_keys(kms), pipeline)
    config["kafka"]["producer"] = {"compression.type": "none", "batch.size": 10_000}
    values = {b"0": marked(0), b"1": b"PLAINTEXT" * 3_000, b"2": marked(2), b"3": b"PLAINTEXT" * 6_000}
    broker.produce(source, [{"key": key, "value": value, "partition": 1} for key, value in values.items()])
    _settle(tmp_path, config, 2, broker)
    assert not [m for m in broker.read(letters) if b"PLAINTEXT" in m.value()]
    wide = broker.create_topic(partitions=2, config={"max.message.bytes": "40000"})
    _pipeline(config)["to"] = wide
    assert _replay(tmp_path, config)[:2] == (1, {"RecordTooLarge": 1})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    provider = sc.AWSKMSKeyProvider("alias/payments", region=kms.region, endpoint_url=kms.url)
    [back] = broker.read(wide)
    with sc.Decryptor(provider) as opener:
        value, headers = opener.decrypt(wide, back.value(), back.key(), back.headers())
    provider.close()
    assert (value, headers, back.key(), back.partition()) == (values[b"1"], [], b"1", 1)
    assert not [m for topic in (wide, letters) for m in broker.read(topic) if b"PLAINTEXT" in (m.value() or b"")]


def test_kill_9_in_the_middle_of_a_replay_doubles_and_loses_nothing(broker, tmp_path):
    """The next replay goes on where the last transaction ended."""
    keys = keyring_at(tmp_path)
    config = _reader(broker, keys)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    count = 4_000
    with sc.Encryptor(sc.LocalKeyProvider.from_file(keys["keyring"])) as sealer:
        broker.produce(source, _sealed(sealer, "payments", range(count)))
    _settle(tmp_path, config, count, broker)
    config["topic_names"] = {source: "payments"}
    for _ in range(2):
        before = len(broker.read(target))
        process = _start(tmp_path, config)
        try:
            wait_until(
                lambda b=before, p=process: len(broker.read(target)) > b or p.poll() is not None, "some to be back"
            )
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
    before = len(broker.read(target))
    back, kept, _ = _replay(tmp_path, config)
    assert (back, kept) == (count - before, {})
    assert _numbers(broker, target) == list(range(count))
    assert len(broker.read(letters)) == count


def test_two_replays_at_once_send_no_letter_twice(broker, tmp_path):
    """Wherever they run: the later one fences the earlier one, which fails."""
    keys = keyring_at(tmp_path)
    config = _reader(broker, keys)
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    count = 3_000
    with sc.Encryptor(sc.LocalKeyProvider.from_file(keys["keyring"])) as sealer:
        broker.produce(source, _sealed(sealer, "payments", range(count)))
    _settle(tmp_path, config, count, broker)
    config["topic_names"] = {source: "payments"}
    other = {**config, "pipelines": [{**_pipeline(config), "instance": unique_name("i")}]}
    both = [_start(tmp_path, config), _start(tmp_path, other)]
    for process in both:
        process.communicate(timeout=90)
    assert {process.returncode for process in both} <= {0, 1}
    _replay(tmp_path, config)
    assert _numbers(broker, target) == list(range(count))


def test_a_replay_stops_at_the_end_that_the_topic_had_at_its_start(broker, tmp_path):
    """Letters that it writes itself, and new ones, are for the next replay: it ends although all of them stay."""
    config, _, _ = _two_causes(broker, tmp_path)
    letters = _pipeline(config)["dead_letter"]
    for _ in range(2):
        assert _replay(tmp_path, config)[:2] == (0, {"ContextMismatch": 10, "MalformedEnvelope": 6})
    assert len(broker.read(letters)) == 3 * 16


def test_a_compacted_target_is_refused_unless_stale_values_are_allowed(broker, tmp_path):
    """Exit 2 and nothing changed; with the option they come back."""
    config, mended, _ = _two_causes(broker, tmp_path)
    source = _pipeline(config)["from"]
    config["topic_names"] = {source: "payments"}
    target = _pipeline(config)["to"] = broker.create_topic(partitions=2, config={"cleanup.policy": "compact"})
    _, _, err = _replay(tmp_path, config, code=2)
    assert "--allow-stale" in err
    assert broker.read(target) == []
    assert _replay(tmp_path, config, "--allow-stale")[:2] == (10, {"MalformedEnvelope": 6})
    assert _numbers(broker, target) == mended


def test_a_topic_that_is_no_dead_letter_topic_of_the_file_is_refused(broker, tmp_path):
    config = _reader(broker, keyring_at(tmp_path))
    letters = _pipeline(config)["dead_letter"]
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    ran = subprocess.run(
        [sys.executable, "-m", "streamcrypt", "replay", str(path), "another"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ran.returncode == 2
    assert letters in ran.stderr
