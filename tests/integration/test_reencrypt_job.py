"""Topics under other KEKs: rewrapped or sealed anew, exactly once, and compared before anybody says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, TopicPartition

import streamcrypt as sc
from streamcrypt.cli.reencrypt import _Stop, _Task
from streamcrypt.cli.reencrypt_request import ReencryptRequest
from streamcrypt.config import load
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.events import PartitionPaused, ReencryptionProgress
from streamcrypt.sidecar.failures import PipelineHalted
from streamcrypt.sidecar.reencrypt import Run, Span
from streamcrypt.sidecar.reencrypt_in_place import InPlaceTransactions
from streamcrypt.sidecar.topics import ask
from streamcrypt.sidecar.verify import Verification, Verified
from streamcrypt.sidecar.verify_opening import Opener
from streamcrypt.testing import KMSServer
from tests.broker import unique_name, wait_until
from tests.kms import use_fake_credentials
from tests.sidecar import Sidecar, config_of, environment, kms_keys, marked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.broker import Broker

PARTITIONS = 6
# Neither in the future, which brokers refuse, nor old enough for retention.
START = int(time.time() - 3_600) * 1_000


@pytest.fixture
def kms() -> Iterator[KMSServer]:
    with KMSServer() as server:
        yield server


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    use_fake_credentials(monkeypatch)


def _two_keks(kms: KMSServer) -> tuple[str, str]:
    return kms.create_key("alias/old"), kms.create_key("alias/new")


def _write(config: dict[str, Any], directory: Path) -> Path:
    path = directory / f"{unique_name('config')}.yaml"
    path.write_text(json.dumps(config))
    return path


def _start(path: Path, command: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "streamcrypt", command, str(path), *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _run(path: Path, command: str, *arguments: str, code: int = 0, seconds: float = 90) -> tuple[str, str]:
    process = _start(path, command, *arguments)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(process.communicate()[1][-3_000:]) from None
    assert process.returncode == code, f"{out}\n{err[-3_000:]}"
    return out, err


def _job(source: str, target: str, how: str = "--rewrap", *more: str) -> tuple[str, ...]:
    return ("--from", source, "--to", target, how, *more)


def _pairs(number: int) -> list[tuple[str, bytes | None]]:
    return [("first", b"%d" % number), ("none", None), ("first", b"again")]


def _seal(
    kms: KMSServer, kek: str, topic: str, numbers: Sequence[int], partitions: int = PARTITIONS, **options: Any
) -> list[dict[str, Any]]:
    """Records under one KEK, a data key for every hundred; every seventeenth is a tombstone."""
    provider = sc.AWSKMSKeyProvider(kek, region=kms.region, endpoint_url=kms.url)
    records = []
    with contextlib.closing(provider), sc.Encryptor(provider, sc.RotationPolicy(max_messages=100), **options) as sealer:
        for n in numbers:
            plain = None if n % 17 == 16 else marked(n)
            value, headers = sealer.encrypt(topic, plain, b"%d" % n, _pairs(n), n % partitions)
            # Ours in the middle: others may have written it so.
            ours = [pair for pair in headers if pair[0].startswith(HEADER_NAME)]
            headers = [headers[0], *ours, *[pair for pair in headers[1:] if pair not in ours]]
            records.append(
                {
                    "key": b"%d" % n,
                    "value": value,
                    "headers": headers,
                    "partition": n % partitions,
                    "timestamp": START + n,
                }
            )
    return records


def _config(
    broker: Broker,
    keys: dict[str, Any],
    source: str,
    target: str,
    *,
    names: dict[str, str] | None = None,
    **pipeline: Any,
) -> dict[str, Any]:
    reading = {"mode": "decrypt", "from": source, "to": unique_name("plain"), **pipeline}
    topic_names = {target: source} if names is None else names
    return config_of(broker.bootstrap, keys, reading, topic_names=topic_names, log={"level": "info"})


def _seen(message, *, ours: bool = False) -> tuple[Any, ...]:
    headers = [(n, v) for n, v in message.headers() or [] if ours or n != HEADER_NAME]
    return message.partition(), message.key(), message.timestamp()[1], headers


def _headers_of(messages) -> set[bytes]:
    return {v for m in messages for n, v in m.headers() or [] if n == HEADER_NAME}


def _calls(kms: KMSServer, operation: str) -> int:
    return sum(call.operation == operation and call.outcome == "ok" for call in kms.calls)


def test_three_keks_become_one_and_the_old_ones_may_go(broker, tmp_path, kms):
    """Killed twice on the way: nothing missing, nothing double, every value as it was; one ReEncrypt a header and run,
    no Decrypt before it verifies; the audit says no before and yes after.
    """
    keks = [kms.create_key(f"alias/old{n}") for n in range(3)]
    new = kms.create_key("alias/new")
    source, target = broker.create_topic(partitions=PARTITIONS), broker.create_topic(partitions=PARTITIONS)
    for index, kek in enumerate(keks):
        numbers = range(index * 1_000, (index + 1) * 1_000)
        broker.produce(source, _seal(kms, kek, source, numbers, tombstones="authenticated"))
    keys = {**kms_keys(kms, "alias/old0"), "trusted_keys": [*keks, new]}
    config = _config(broker, keys, source, target, tombstones="authenticated")
    path = _write(config, tmp_path)
    _run(path, "audit", target, source, "--safe-to-disable", keks[1], code=1)
    before = kms.calls[:]
    job = _job(source, target, "--rewrap", "--to-key", new)
    for share in (0.2, 0.6):
        slow = _start(path, "reencrypt", *job, "--rate", "600/s", "--no-progress")
        try:
            wait_until(lambda share=share: len(broker.read(target)) >= share * 3_000, "some records rewrapped")
        finally:
            os.killpg(slow.pid, signal.SIGKILL)
            slow.communicate()
    runs_before = _calls(kms, "ReEncrypt")
    out, _ = _run(path, "reencrypt", *job, "--no-progress")
    assert "3000 records" in out
    assert out.endswith("verified\n")
    here, there = broker.read(source), broker.read(target)
    assert [_seen(m) for m in there] == [_seen(m) for m in here]
    assert [m.value() for m in there] == [m.value() for m in here]
    places = [[n for n, _ in m.headers()].index(HEADER_NAME) for m in (*here, *there)]
    assert set(places) == {1}
    headers = _headers_of(here)
    assert runs_before <= 2 * len(headers)
    assert _calls(kms, "ReEncrypt") - runs_before <= len(headers)
    assert Counter(_header_ids(there)) == {new: len(there)}
    operations = [call.operation for call in kms.calls[len(before) :]]
    assert "Decrypt" not in operations[: _last(operations, "ReEncrypt")]
    for kek in keks:
        broker_says, _ = _run(path, "audit", target, "--safe-to-disable", kek)
        assert "yes" in broker_says
    out, _ = _run(path, "reencrypt", *job, "--no-progress")
    assert "nothing has come since" in out


def _last(operations: list[str], name: str) -> int:
    return len(operations) - operations[::-1].index(name)


def _header_ids(messages) -> list[str]:
    return [decode_header(v).keys[0].key_id for m in messages for n, v in m.headers() if n == HEADER_NAME]


def test_one_run_rewraps_every_header_once_and_a_second_run_only_what_is_new(broker, tmp_path, kms):
    """Calls are counted; records that came later are copied by the next run, from the destinations of the file."""
    old, _ = _two_keks(kms)
    source, target = broker.create_topic(partitions=2), broker.create_topic(partitions=2)
    broker.produce(source, _seal(kms, old, source, range(500), 2))
    config = _config(broker, {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}, source, target)
    path = _write(config, tmp_path)
    _run(path, "reencrypt", *_job(source, target))
    assert _calls(kms, "ReEncrypt") == len(_headers_of(broker.read(source)))
    assert _calls(kms, "Decrypt") == 2 * len(_headers_of(broker.read(source)))
    more = _seal(kms, old, source, range(500, 700), 2)
    broker.produce(source, more)
    calls = _calls(kms, "ReEncrypt")
    out, _ = _run(path, "reencrypt", *_job(source, target))
    assert _calls(kms, "ReEncrypt") - calls == 2
    assert "200 records" in out
    assert sorted(int(m.key()) for m in broker.read(target)) == list(range(700))
    out, _ = _run(path, "reencrypt", *_job(source, target, "--rewrap", "--verify-only"))
    assert "700 records" in out
    # Neither hides what comes later from the run after it.
    assert "nothing has come" in _run(path, "reencrypt", *_job(source, target))[0]
    broker.produce(source, _seal(kms, old, source, range(700, 720), 2))
    assert "20 records" in _run(path, "reencrypt", *_job(source, target))[0]
    assert sorted(int(m.key()) for m in broker.read(target)) == list(range(720))


def test_reseal_loses_no_header_and_keeps_every_timestamp(broker, tmp_path, kms):
    """Other data keys, the target's own context, proofs of tombstones made anew; plain ones stay plain."""
    old, new = _two_keks(kms)
    source, target = broker.create_topic(partitions=3), broker.create_topic(partitions=3)
    broker.produce(source, _seal(kms, old, source, range(400), 3, tombstones="authenticated"))
    broker.produce(source, [{"key": b"gone", "value": None, "partition": 0, "timestamp": START}])
    config = _config(broker, {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}, source, target, names={})
    path = _write(config, tmp_path)
    slow = _start(path, "reencrypt", *_job(source, target, "--reseal", "--rate", "50/s"))
    try:
        wait_until(lambda: len(broker.read(target)) > 0, "some records resealed")
        slow.send_signal(signal.SIGTERM)
        _, err = slow.communicate(timeout=60)
    finally:
        slow.kill()
    assert slow.returncode == 130
    assert "Run it again with the same arguments to go on" in err
    out, _ = _run(path, "reencrypt", *_job(source, target, "--reseal"))
    assert "401 records" in out
    here, there = broker.read(source), broker.read(target)
    ours = ("streamcrypt", "streamcrypt-tombstone")

    def seen(messages):
        return [
            (m.partition(), m.key(), m.timestamp()[1], [p for p in m.headers() or [] if p[0] not in ours])
            for m in messages
        ]

    assert seen(there) == seen(here)
    assert not _headers_of(here) & _headers_of(there)
    assert all(decode_header(h).topic == target for h in _headers_of(there))
    keys = sc.AWSKMSKeyProvider(new, endpoint_url=kms.url)
    with contextlib.closing(keys), sc.Decryptor(keys) as opener:
        for message in there:
            plain, _ = opener.decrypt(target, message.value(), message.key(), message.headers(), message.partition())
            number = None if message.key() == b"gone" else int(message.key())
            assert plain == (None if number is None or number % 17 == 16 else marked(number))
    assert sum(n == "streamcrypt-tombstone" for m in there for n, _ in m.headers() or []) == 23


def _paired(kms: KMSServer, evil: bytes, wrapped_in: bytes) -> bytes:
    """One key's commitment with another's ciphertext."""
    return encode_header(replace(decode_header(evil), keys=decode_header(wrapped_in).keys))


def test_a_commitment_paired_with_anothers_ciphertext_is_found_and_harms_no_genuine_record(broker, tmp_path, kms):
    """Rewrapping cannot tell; verification does, by coordinates, though the genuine header came first."""
    old, _ = _two_keks(kms)
    source, target = broker.create_topic(), broker.create_topic()
    records = _seal(kms, old, source, range(200), 1)
    first, second = (dict(records[n]["headers"])[HEADER_NAME] for n in (0, 199))
    evil = {**records[0], "headers": [(HEADER_NAME, _paired(kms, first, second))]}
    broker.produce(source, [*records[:100], evil, *records[100:]])
    config = _config(broker, {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}, source, target)
    out, _ = _run(_write(config, tmp_path), "reencrypt", *_job(source, target), code=1)
    assert "200 records" in out
    assert "1 records open on neither side" in out
    assert "NOT verified" in out
    # Two wrapped keys: one that opens, and one of another data key that only rewrapping would choose.
    assert len(broker.read(target)) == 201
    skipping = {"on_failure": "skip"}
    config = _config(broker, {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}, source, target, **skipping)
    out, _ = _run(_write(config, tmp_path), "reencrypt", *_job(source, target))
    assert out.endswith("\nverified\n")


def test_a_record_whose_second_wrapped_key_opens_is_told_by_its_coordinates(broker, tmp_path, kms):
    """The preferred entry wraps another data key: the source opens, the copy would not, and the job is not done."""
    (old, _), other = _two_keks(kms), kms.create_key("alias/other")
    source, target = broker.create_topic(), broker.create_topic()
    good = _seal(kms, old, source, range(10), 1)
    foreign = _seal(kms, other, source, range(1), 1)
    header = decode_header(dict(good[0]["headers"])[HEADER_NAME])
    stranger = decode_header(dict(foreign[0]["headers"])[HEADER_NAME])
    both = tuple(sorted([*header.keys, *stranger.keys], key=lambda k: k.key_id))
    mixed = {**good[3], "headers": [(HEADER_NAME, encode_header(replace(header, keys=both)))]}
    broker.produce(source, [*good[:3], mixed, *good[4:]])
    keys = {**kms_keys(kms, "alias/new"), "trusted_keys": [other, old]}
    out, err = _run(_write(_config(broker, keys, source, target), tmp_path), "reencrypt", *_job(source, target), code=1)
    assert f"{source}[0] offset 3 and {target}[0] offset 3: does not open on the target: AuthenticationFailed" in out
    assert "9 records" in out
    assert marked(3)[:20].decode() not in out + err


def _verification(broker: Broker, source: str, target: str, spans, keys, stop, each, **more: Any) -> Verification:
    openers = tuple(Opener(sc.Decryptor(keys, topic_names={target: source}, share_data_keys=False), keys) for _ in "st")
    ends = {place[1]: span.end for place, span in spans.items()}
    group = {"bootstrap.servers": broker.bootstrap, "group.id": unique_name("verify"), "fetch.queue.backoff.ms": 5}
    found: list[Any] = []
    ways: dict[str, Any] = {"same_bytes": True, "newest": False, "in_place": False, "bear_unreadable": False} | more
    return Verification(target, spans, ends, group, openers, **ways, tell=found.append, each=each, stop=stop)


def test_a_verification_goes_on_where_it_was_interrupted(broker):
    """Partitions that passed are not read again, and within one the next record on both sides is known."""
    keys = sc.LocalKeyProvider.generate()
    source, target = (broker.create_topic(partitions=2) for _ in range(2))
    records = []
    with sc.Encryptor(keys) as sealer:
        for n in range(100):
            value, headers = sealer.encrypt(source, b"%d" % n, b"%d" % n, None, n % 2)
            records.append(
                {"key": b"%d" % n, "value": value, "headers": headers, "partition": n % 2, "timestamp": START}
            )
    for topic in (source, target):
        broker.produce(topic, records)
    spans = {(source, p): Span("run", "x/y", 0, 50, 0) for p in range(2)}
    stop, read = threading.Event(), []

    def each(count: int) -> None:
        read.append(count)
        if sum(read) >= 50:
            stop.set()

    first = _verification(broker, source, target, spans, keys, stop, each)
    assert first.run({}) is False
    again = _verification(broker, source, target, spans, keys, threading.Event(), lambda _: None)
    half = {
        (source, 0): (50, Verified("run", 0, {"compared": 50}, done=True)),
        (source, 1): (30, Verified("run", 30, {"compared": 30})),
    }
    assert again.run(half) is True
    assert again.counts.compared == 100
    stale = {place: (at, replace(note, run="another")) for place, (at, note) in half.items()}
    anew = _verification(broker, source, target, spans, keys, threading.Event(), lambda _: None)
    assert (anew.run(stale), anew.counts.compared) == (True, 100)


@pytest.mark.parametrize("how", ["--rewrap", "--reseal"])
def test_a_compacted_topic_is_rewritten_in_place(broker, tmp_path, kms, how):
    """The newest record of each key once, behind the others; killed on the way; readers see no older value again."""
    old, new = _two_keks(kms)
    topic = broker.create_topic(partitions=2, config={"cleanup.policy": "compact"})
    for version in range(3):
        records = _seal(kms, old, topic, range(600), 2)
        for record in records:
            record["timestamp"] += version * 10_000
        broker.produce(topic, records)
    keys = {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}
    path = _write(_config(broker, keys, topic, topic, names={}), tmp_path)
    before = broker.read(topic)
    job = _job(topic, topic, how, "--in-place", "--no-progress")
    slow = _start(path, "reencrypt", *job, "--rate", "500/s")
    try:
        wait_until(lambda: len(broker.read(topic)) > len(before) + 50, "some records rewritten")
    finally:
        os.killpg(slow.pid, signal.SIGKILL)
        slow.communicate()
    out, _ = _run(path, "reencrypt", *job)
    assert "600 records" in out
    rewritten = [m for m in broker.read(topic) if m.offset() >= _ends(before)[m.partition()]]
    assert sorted(int(m.key()) for m in rewritten) == list(range(600))
    assert {m.timestamp()[1] for m in rewritten} == {START + n + 20_000 for n in range(600)}
    assert set(_header_ids([m for m in rewritten if m.value() is not None])) == {new}
    out, _ = _run(path, "reencrypt", *job, "--verify-only")
    assert "600 records" in out


def _ends(messages) -> dict[int, int]:
    ends: dict[int, int] = {}
    for message in messages:
        ends[message.partition()] = message.offset() + 1
    return ends


def test_a_writer_that_did_not_stop_ends_a_rewriting_in_place(broker, tmp_path, kms):
    """Its update is never covered by an older value; exit code 1."""
    old, _ = _two_keks(kms)
    topic = broker.create_topic(config={"cleanup.policy": "compact"})
    broker.produce(topic, _seal(kms, old, topic, range(2_000), 1))
    keys = {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}
    path = _write(_config(broker, keys, topic, topic, names={}), tmp_path)
    job = _job(topic, topic, "--rewrap", "--in-place", "--no-progress", "--rate", "400/s")
    update = _seal(kms, old, topic, [1_999], 1)
    process = _start(path, "reencrypt", *job)
    try:
        wait_until(lambda: len(broker.read(topic)) > 2_100, "some records rewritten")
        broker.produce(topic, update)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "somebody else writes to it" in err
    newest = [m for m in broker.read(topic) if m.key() == b"1999"][-1]
    assert newest.value() == update[0]["value"]
    out, _ = _run(path, "reencrypt", *_job(topic, topic, "--rewrap", "--in-place", "--no-progress"))
    assert "2000 records" in out


def test_an_update_between_our_last_record_and_the_mark_of_its_transaction_is_noticed(broker):
    """Where the mark is known to stand, somebody else's record may stand too."""
    topic = broker.create_topic(config={"cleanup.policy": "compact"})
    broker.produce(topic, [{"key": key, "value": b"1"} for key in (b"a", b"b", b"c")])
    group = {"bootstrap.servers": broker.bootstrap, "group.id": unique_name("group")}
    producer = {"transactional.id": unique_name("job"), "transaction.timeout.ms": 10_000}
    producer["bootstrap.servers"] = broker.bootstrap
    place = (topic, 0)
    run = Run({place: Span("run", "x/y", 0, 3, 3, 3)}, {place: 0}, threading.Event())
    client = InPlaceTransactions(run, group, "job", producer, lambda _: None, lambda: None, lambda: None)
    with contextlib.closing(client), contextlib.closing(Consumer(group)) as consumer:
        client.start()

        def rewrite(key: bytes, offset: int, update: list[dict[str, bytes]]) -> None:
            client.begin()
            client.producer.produce(topic, b"1", key, 0)
            client.producer.flush()
            broker.produce(topic, update)
            client.commit(consumer, {place: offset}, 1, 10, wait=True)

        rewrite(b"a", 1, [])
        rewrite(b"b", 2, [{"key": b"c", "value": b"2"}])
        with pytest.raises(PipelineHalted, match="somebody else writes to it"):
            rewrite(b"c", 3, [])
    assert [m.value() for m in broker.read(topic) if m.key() == b"c"] == [b"1", b"2"]


def test_a_run_whose_last_commit_was_done_all_the_same_ends(broker):
    """The commit's outcome was unknown to the client that made it; the next one learns it from the notes."""
    place = (broker.create_topic(), 0)
    group = {"bootstrap.servers": broker.bootstrap, "group.id": unique_name("group")}
    span = Span("run", "x/y", 0, 3, 3)
    with contextlib.closing(Consumer(group)) as consumer:
        ask(lambda: consumer.commit(offsets=[TopicPartition(*place, 3, span.note())], asynchronous=False))
    run = Run({place: span}, {place: 2}, threading.Event())
    run.reload(group)
    assert run.stop.is_set()
    earlier = Run({place: replace(span, run="earlier")}, {place: 2}, threading.Event())
    with pytest.raises(PipelineHalted, match="another process of this job"):
        earlier.reload(group)


def test_a_source_that_retention_emptied_meanwhile_does_not_stop_the_verification(broker):
    """What was copied of it stands on the target alone, and is counted."""
    keys = sc.LocalKeyProvider.generate()
    source, target = broker.create_topic(), broker.create_topic()
    broker.produce(target, [{"key": b"%d" % n, "value": b"v"} for n in range(3)])
    broker.produce(source, [{"key": b"%d" % n, "value": b"v"} for n in range(3)])
    for gone in broker.admin.delete_records([TopicPartition(source, 0, 3)]).values():
        gone.result(30)
    spans = {(source, 0): Span("run", "x/y", 0, 3, 0)}
    verification = _verification(broker, source, target, spans, keys, threading.Event(), lambda _: None)
    assert verification.run({}) is True
    assert verification.counts.expired == 3


def test_a_compacted_source_that_is_written_to_is_verified_nevertheless(broker):
    """What a newer record beyond the end has replaced on the source is on the target alone, and is counted."""
    keys = sc.LocalKeyProvider.generate()
    source, target = broker.create_topic(), broker.create_topic()
    copied, later = [{"key": b"%d" % n, "value": b"v", "timestamp": START} for n in range(3)], {"key": b"0"}
    broker.produce(target, copied)
    broker.produce(source, [*copied, later])
    # As compaction leaves it.
    for gone in broker.admin.delete_records([TopicPartition(source, 0, 1)]).values():
        gone.result(30)
    spans, stop = {(source, 0): Span("run", "x/y", 0, 3, 0)}, threading.Event()
    verification = _verification(broker, source, target, spans, keys, stop, lambda _: None, newest=True)
    assert verification.run({}) is True
    assert (verification.counts.compared, verification.counts.replaced) == (2, 1)


def test_a_signal_is_heeded_while_the_job_is_planned_and_while_the_verification_waits(broker, tmp_path, kms):
    """Exit code 130 both times, and nothing is copied after the signal."""
    old, _ = _two_keks(kms)
    source, target = broker.create_topic(), broker.create_topic()
    broker.produce(source, _seal(kms, old, source, range(20), 1))
    settings = load(_write(_config(broker, {**kms_keys(kms, old), "trusted_keys": []}, source, target), tmp_path))
    stop, dark = _Stop(), threading.Event()

    def observe(event: Any) -> None:
        if isinstance(event, ReencryptionProgress) and event.phase == "copy" and event.done == event.total:
            kms.darken(kms.region)
            dark.set()
        # A key service that is slow makes partitions of the copy wait, too.
        if isinstance(event, PartitionPaused) and dark.is_set():
            stop.set()

    def run(ended: _Stop) -> int:
        with contextlib.closing(_Task(settings, ReencryptRequest(source, target, "rewrap"), observe, ended)) as task:
            return task.run()

    early = _Stop()
    early.set()
    assert run(early) == 130
    assert broker.read(target) == []
    assert run(stop) == 130
    assert dark.is_set()
    assert len(broker.read(target)) == 20


def test_in_place_asks_for_a_compacted_topic_and_for_the_word_that_writers_are_stopped(broker, tmp_path, kms):
    """Nothing is written otherwise; exit code 2."""
    kms.create_key("alias/new")
    topic = broker.create_topic()
    path = _write(_config(broker, kms_keys(kms, "alias/new"), topic, topic, names={}), tmp_path)
    _, err = _run(path, "reencrypt", *_job(topic, topic), code=2)
    assert "--in-place" in err
    _, err = _run(path, "reencrypt", *_job(topic, topic, "--rewrap", "--in-place"), code=2)
    assert "not compacted" in err


def test_a_target_under_another_logical_name_is_refused_at_once(broker, tmp_path, kms):
    """Its readers could open nothing."""
    kms.create_key("alias/new")
    source, target = broker.create_topic(), broker.create_topic()
    path = _write(_config(broker, kms_keys(kms, "alias/new"), source, target, names={}), tmp_path)
    _, err = _run(path, "reencrypt", *_job(source, target), code=2)
    assert f"Add '{target}: {source}' under topic_names" in err


def test_a_running_pipeline_rewraps_as_records_come(broker, tmp_path, kms):
    """`mode: reencrypt`: no Decrypt at all, plain tombstones pass, a rate is held, what is no envelope halts it."""
    old, new = _two_keks(kms)
    source, target = broker.create_topic(), broker.create_topic()
    pipeline = {"mode": "reencrypt", "how": "rewrap", "from": source, "to": target, "rate": "100/s"}
    keys = {**kms_keys(kms, "alias/new"), "trusted_keys": [old]}
    config = config_of(broker.bootstrap, keys, pipeline, topic_names={target: source})
    records = _seal(kms, old, source, range(40), 1)
    with Sidecar(tmp_path, config) as sidecar:
        sidecar.ready()
        broker.produce(source, records)
        wait_until(lambda: len(broker.read(target)) == 40, "rewrapped records")
        assert set(_header_ids([m for m in broker.read(target) if m.value()])) == {new}
        assert sidecar.metric("streamcrypt_data_keys_rewrapped_total", topic=source) == 1
        assert sidecar.metric("streamcrypt_key_service_calls_total", operation="ReEncrypt", outcome="ok") == 1
        assert sidecar.metric("streamcrypt_records_total", topic=source) == 40
        broker.produce(source, [{"key": b"x", "value": b"plain", "partition": 0}])
        assert sidecar.wait() == 1
    assert "PlaintextRejected" in sidecar.complaint
    assert _calls(kms, "Decrypt") == 0
