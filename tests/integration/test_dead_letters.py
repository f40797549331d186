"""What a dead-letter topic holds: the record as it stood, why and whence, sealed where it has to be, each once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import streamcrypt as sc
from streamcrypt.testing import KMSServer
from tests.broker import wait_until
from tests.odd_headers import send
from tests.sidecar import COMPLAINT, Sidecar, config_of, keyring_at, kms_keys, marked, streamcrypt

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = "streamcrypt"
PREFIX = "streamcrypt-dlq-"
FACTS = {"reason", "class", "topic", "partition", "offset", "time", "timestamp", "pipeline"}
WHEN = 1_700_000_000_000


@pytest.fixture
def kms():
    with KMSServer() as server:
        server.create_key("alias/payments")
        yield server


def _facts(letter) -> dict[str, str]:
    """The seven headers of a letter; an assertion fails where one is missing or there twice."""
    found = [(n.removeprefix(PREFIX), v.decode()) for n, v in letter.headers() or () if n.startswith(PREFIX)]
    facts = {name: text for name, text in found if not name.startswith("original-")}
    assert set(facts) == FACTS
    assert len([name for name, _ in found if name in FACTS]) == len(FACTS)
    return facts


def _own(letter) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in letter.headers() or () if not name.startswith(PREFIX)]


def _pipeline(config) -> dict[str, Any]:
    return config["pipelines"][0]


def _decrypting(broker, tmp_path, keys: Mapping[str, Any] | None = None, **settings) -> tuple[dict[str, Any], Any]:
    """A decrypting pipeline with dead letters, and what seals for its source."""
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    letters = broker.create_topic(partitions=3)
    keys = keys or keyring_at(tmp_path)
    pipeline = {"mode": "decrypt", "from": source, "to": target, "on_failure": "dead_letter", "dead_letter": letters}
    config = config_of(broker.bootstrap, keys, {**pipeline, **settings})
    return config, sc.Encryptor(sc.LocalKeyProvider.from_file(keys["keyring"])) if "keyring" in keys else None


def _encrypting(broker, keys: Mapping[str, Any], **settings) -> dict[str, Any]:
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    letters = broker.create_topic(partitions=3)
    pipeline = {"mode": "encrypt", "from": source, "to": target, "on_failure": "dead_letter", "dead_letter": letters}
    return config_of(broker.bootstrap, keys, {**pipeline, **settings})


def _assert_outlives_retention(letter) -> None:
    """The letter of a record of 2023 is as old as its writing: the broker would delete it within minutes otherwise."""
    assert abs(time.time() * 1000 - letter.timestamp()[1]) < 3_600_000
    assert _facts(letter)["timestamp"] == str(WHEN)


def test_a_decrypting_pipeline_sets_records_aside_as_they_stood(broker, tmp_path):
    """Value, key and headers are the original's; forged letter headers are replaced; neighbours pass."""
    config, sealer = _decrypting(broker, tmp_path)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    with sealer:
        good = [sealer.encrypt(source, marked(n), b"%d" % n) for n in range(4)]
        value, headers = sealer.encrypt(source, marked(99), b"bad", [("trace", b"t"), ("trace", b"u")])
    tampered = bytes([value[0] ^ 1]) + value[1:]
    forged = [*headers, (f"{PREFIX}topic", b"elsewhere"), (f"{PREFIX}invented", b"x")]
    records = [{"key": b"%d" % n, "value": v, "headers": h, "partition": 1} for n, (v, h) in enumerate(good)]
    bad = {"key": b"bad", "value": tampered, "headers": forged, "partition": 1, "timestamp": WHEN}
    broker.produce(source, [*records[:2], bad, *records[2:]])
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: len(broker.read(target)) == 4, "the neighbours")
        assert sidecar.stop() == 0
    [letter] = broker.read(letters)
    assert (letter.value(), letter.key()) == (tampered, b"bad")
    _assert_outlives_retention(letter)
    assert _own(letter) == headers
    facts = _facts(letter)
    assert (facts["topic"], facts["partition"], facts["offset"]) == (source, "1", "2")
    assert (facts["class"], facts["pipeline"]) == ("AuthenticationFailed", _pipeline(config)["name"])
    assert facts["time"].endswith("Z")
    [failed] = sidecar.of("record.failed")
    assert (failed["offset"], failed["action"]) == (2, "dead_letter")
    assert [int(m.key()) for m in broker.read(target)] == list(range(4))


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # kafka-python's own
def test_a_header_name_that_is_no_text_costs_its_record_and_nothing_else(broker, tmp_path):
    """confluent-kafka cannot read such headers; the letter has the value and key, neighbours pass in order."""
    config, sealer = _decrypting(broker, tmp_path)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    with sealer:
        sealed = [sealer.encrypt(source, marked(n), b"%d" % n) for n in range(6)]
    send(broker.bootstrap, source, [(v, b"%d" % n, h, n in (2, 3)) for n, (v, h) in enumerate(sealed)])
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: (len(broker.read(letters)), len(broker.read(target))) == (2, 4), "two letters and the rest")
        assert sidecar.stop() == 0
    assert [int(m.key()) for m in broker.read(target)] == [0, 1, 4, 5]
    found = {int(letter.key()): _facts(letter) for letter in broker.read(letters)}
    assert {n: (facts["class"], facts["offset"]) for n, facts in found.items()} == {
        2: ("MalformedEnvelope", "2"),
        3: ("MalformedEnvelope", "3"),
    }


def test_what_was_refused_as_plaintext_leaves_its_coordinates_only(broker, tmp_path):
    """Key and headers stay, the value is null: the dead-letter topic holds no plaintext."""
    config, _ = _decrypting(broker, tmp_path)
    source, letters = _pipeline(config)["from"], _pipeline(config)["dead_letter"]
    records = [{"key": b"k%d" % n, "value": marked(n), "headers": [("h", b"v")], "partition": 0} for n in range(3)]
    broker.produce(source, records)
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: len(broker.read(letters)) == 3, "three letters")
        assert sidecar.stop() == 0
    found = broker.read(letters)
    assert {letter.value() for letter in found} == {None}
    assert {_facts(letter)["offset"] for letter in found} == {"0", "1", "2"}
    assert {_facts(letter)["class"] for letter in found} == {"PlaintextRejected"}
    assert sorted(letter.key() for letter in found) == [b"k0", b"k1", b"k2"]
    assert all(_own(letter) == [("h", b"v")] for letter in found)
    assert not [m for m in found if any(b"PLAINTEXT" in (v or b"") for _, v in m.headers())]


@pytest.mark.parametrize("own_key", [False, True])
def test_an_encrypting_pipeline_seals_its_letters_under_their_own_context(broker, tmp_path, kms, own_key):
    """What looked sealed and was not comes out whole: value and put-by headers; no plaintext byte is on the topic."""
    letter_key = kms.create_key("alias/letters")
    extra = {"dead_letter_key": "alias/letters"} if own_key else {}
    config = _encrypting(broker, kms_keys(kms), **extra)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    forged = [("h", b"v"), (HEADER, b"forged"), (f"{PREFIX}offset", b"7")]
    record = {"key": b"k", "value": marked(1), "headers": forged, "partition": 1, "timestamp": WHEN}
    null = {"key": b"n", "value": None, "headers": [(HEADER, b"forged")], "partition": 1}
    broker.produce(source, [record, null, {"key": b"fine", "value": marked(2), "partition": 1}])
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: len(broker.read(target)) == 1 and len(broker.read(letters)) == 2, "all three")
        assert sidecar.stop() == 0
    raw = {m.key(): m for m in broker.read(letters)}
    assert not [m for topic in (target, letters) for m in broker.read(topic) if b"PLAINTEXT" in (m.value() or b"")]
    letter = raw[b"k"]
    facts = _facts(letter)
    assert (facts["class"], facts["offset"], facts["partition"]) == ("AlreadySealed", "0", "1")
    _assert_outlives_retention(letter)
    used = letter_key if own_key else kms.call("DescribeKey", KeyId="alias/payments")["KeyMetadata"]["Arn"]
    provider = sc.AWSKMSKeyProvider(used, region=kms.region, endpoint_url=kms.url)
    with pytest.MonkeyPatch.context() as patch, sc.Decryptor(provider) as opener:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        value, headers = opener.decrypt(letters, letter.value(), b"k", letter.headers())
        with pytest.raises(sc.ContextMismatch):
            opener.decrypt(target, letter.value(), b"k", letter.headers())
        # Whose letter it is and where it came from is sealed as well.
        moved = [(n, b"elsewhere" if n == f"{PREFIX}topic" else v) for n, v in letter.headers()]
        with pytest.raises(sc.AuthenticationFailed):
            opener.decrypt(letters, letter.value(), b"k", moved)
    provider.close()
    assert value == marked(1)
    assert [pair for pair in headers if not pair[0].startswith(PREFIX)] == [("h", b"v")]
    assert (f"{PREFIX}original-{HEADER}", b"forged") in headers
    # A deletion carries its proof, or anybody could have one replayed.
    assert raw[b"n"].value() is None
    assert "streamcrypt-tombstone" in dict(raw[b"n"].headers())


def test_a_crash_yields_no_letter_twice_and_none_without_progress(broker, tmp_path):
    """Letters are written in the transaction of their neighbours: kill -9 at random instants, each stands once."""
    config, sealer = _decrypting(broker, tmp_path)
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    count = 3_000
    with sealer:
        sealed = [sealer.encrypt(source, b"v%d" % n, b"%d" % n) for n in range(count)]
    records = [{"key": b"%d" % n, "value": v, "headers": h, "partition": n % 2} for n, (v, h) in enumerate(sealed)]
    for record in records[::7]:
        record["value"] = bytes(len(record["value"]))
    broker.produce(source, records[:1_000])
    for rest in (records[1_000:2_000], records[2_000:]):
        with Sidecar(tmp_path, config) as sidecar:
            sidecar.wait_for("record.failed")
            seen = len(sidecar.events)
            broker.produce(source, rest)
            sidecar.wait_for("batch.done", after=seen)
            sidecar.kill()
    with Sidecar(tmp_path, config) as sidecar:
        wait_until(lambda: len(broker.read(target)) + len(broker.read(letters)) >= count, "every record", 120)
        assert sidecar.stop() == 0
    bad = set(range(0, count, 7))
    assert sorted(int(m.key()) for m in broker.read(letters)) == sorted(bad)
    for partition in range(2):
        passed = [int(m.key()) for m in broker.read(target) if m.partition() == partition]
        assert passed == [n for n in range(partition, count, 2) if n not in bad]


def test_a_letter_that_cannot_be_sealed_waits_for_its_key(broker, tmp_path, kms):
    """While KMS is away nothing is set aside in clear or lost; afterwards it goes on by itself."""
    config = _encrypting(broker, kms_keys(kms))
    source, target, letters = (_pipeline(config)[name] for name in ("from", "to", "dead_letter"))
    forged = {"key": b"bad", "value": marked(1), "headers": [(HEADER, b"forged")], "partition": 0}
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        kms.drop()
        broker.produce(source, [{"key": b"0", "value": marked(0), "partition": 0}, forged])
        sidecar.wait_for("partition.paused")
        assert broker.read(letters) == []
        kms.heal()
        wait_until(lambda: len(broker.read(letters)) == 1, "the letter")
        broker.produce(source, [{"key": b"1", "value": marked(2), "partition": 0}])
        wait_until(lambda: len(broker.read(target)) == 2, "the neighbours")
        assert sidecar.stop() == 0
    [letter] = broker.read(letters)
    assert _facts(letter)["class"] == "AlreadySealed"
    assert b"PLAINTEXT" not in letter.value()


def test_a_letter_that_does_not_fit_halts_the_pipeline(broker, tmp_path):
    """The place is named, neighbours before it are committed, and nothing of it is written."""
    config = _encrypting(broker, keyring_at(tmp_path))
    letters = broker.create_topic(config={"max.message.bytes": "20000"})
    _pipeline(config)["dead_letter"] = letters
    config["kafka"]["producer"] = {"compression.type": "none"}
    source, target = _pipeline(config)["from"], _pipeline(config)["to"]
    broker.produce(
        source,
        [
            {"key": b"0", "value": b"v", "partition": 0},
            {"key": b"bad", "value": b"x" * 30_000, "headers": [(HEADER, b"forged")], "partition": 0},
        ],
    )
    with Sidecar(tmp_path, config) as sidecar:
        assert sidecar.wait() == 1
    assert sidecar.complaint.startswith(COMPLAINT)
    assert f"{source}[0] offset 1" in sidecar.complaint
    assert "dead letter" in sidecar.complaint
    assert broker.read(letters) == []
    assert [m.key() for m in broker.read(target)] == [b"0"]


def test_a_missing_dead_letter_topic_is_refused_at_the_start(broker, tmp_path):
    config = _encrypting(broker, keyring_at(tmp_path))
    broker.delete_topic(_pipeline(config)["dead_letter"])
    ran = streamcrypt(tmp_path, "run", config)
    assert ran.returncode == 1
    assert _pipeline(config)["dead_letter"] in ran.stderr
    assert "does not exist" in ran.stderr


def test_a_compacted_dead_letter_topic_is_refused_at_the_start(broker, tmp_path):
    """Of several letters with one key all but the last would vanish."""
    config = _encrypting(broker, keyring_at(tmp_path))
    _pipeline(config)["dead_letter"] = broker.create_topic(config={"cleanup.policy": "compact,delete"})
    ran = streamcrypt(tmp_path, "run", config)
    assert ran.returncode == 2
    assert "compacted" in ran.stderr
    assert "cleanup.policy" in ran.stderr


def test_no_regex_of_the_file_reads_a_dead_letter_topic(broker, tmp_path):
    """Not its own pipeline's, nor another's."""
    config = _encrypting(broker, keyring_at(tmp_path))
    stem = broker.create_topic()
    letters = broker.create_topic(f"{stem}.dlq")
    source = broker.create_topic(f"{stem}.in")
    target = broker.create_topic(f"{stem}.in.out")
    _pipeline(config)["dead_letter"] = letters
    other = {
        "name": "other",
        "group": f"g-{stem}",
        "mode": "encrypt",
        "from": f"^{stem}\\.[a-z]+",
        "to": "{topic}.out",
    }
    config["pipelines"].append(other)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready(pipelines=2)
        changed = [e for e in sidecar.of("pipeline.sources_changed") if e["pipeline"] == "other"]
        assert [e["topics"] for e in changed] == [[source]]
        assert sidecar.stop() == 0
    assert broker.read(target) == []
