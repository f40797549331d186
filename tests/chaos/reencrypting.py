"""``python -m tests.chaos.reencrypting``: a million records under three KEKs go under a fourth, killed twice meanwhile.

It prints what it measured, and fails where a record is missing, double or changed, where a call too many was made, or
where the audit does not turn from no to yes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

import streamcrypt as sc
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.testing import KMSServer
from tests.broker import Broker, private_broker, wait_until
from tests.log_scan import SCAN
from tests.sidecar import config_of, environment, kms_keys

PARTITIONS = 6
PER_DATA_KEY = 5_000


def seal(broker: Broker, kms: KMSServer, keks: list[str], topic: str, records: int) -> None:
    """Write the records: a third under each KEK, in turn, so that the KEKs interleave in every partition."""
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 20, "compression.type": "lz4"})
    now = int(time.time() * 1000) - records
    with contextlib.ExitStack() as stack:
        sealers = []
        for kek in keks:
            provider = stack.enter_context(contextlib.closing(sc.AWSKMSKeyProvider(kek, endpoint_url=kms.url)))
            policy = sc.RotationPolicy(max_messages=PER_DATA_KEY)
            sealers.append(stack.enter_context(sc.Encryptor(provider, policy)).topic(topic))
        for n in range(records):
            key, partition = b"%d" % n, n % PARTITIONS
            value, headers = sealers[n // PER_DATA_KEY % len(sealers)].seal(b"%0100d" % n, key, [("n", key)], partition)
            while True:
                try:
                    producer.produce(topic, value, key, partition, timestamp=now + n, headers=headers)
                    break
                except BufferError:
                    producer.poll(0.1)
    if producer.flush(60):
        sys.exit("not every record was written")


def digest(broker: Broker, topic: str) -> tuple[list[str], int, set[bytes]]:
    """Each partition's digest of everything but our header, the number of records, and the envelopes."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "digest", "isolation.level": "read_committed",
         "enable.partition.eof": True, "fetch.queue.backoff.ms": 5}
    )  # fmt: skip
    found, count, envelopes = [], 0, set()
    for partition in range(PARTITIONS):
        consumer.assign([TopicPartition(topic, partition, 0)])
        sum_, ended = hashlib.sha256(), False
        while not ended:
            for message in consumer.consume(5_000, 1.0):
                if message.error() is not None:
                    ended = True
                    continue
                rest = [(n, v) for n, v in message.headers() or [] if n != HEADER_NAME]
                envelopes.update(v for n, v in message.headers() or [] if n == HEADER_NAME)
                sum_.update(repr((message.key(), message.value(), message.timestamp()[1], rest)).encode())
                count += 1
        found.append(sum_.hexdigest())
    consumer.close()
    return found, count, envelopes


def high(broker: Broker, topic: str) -> int:
    """Roughly how many records stand on a topic."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "high"})
    ends = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in range(PARTITIONS)]
    consumer.close()
    return sum(end[1] for end in ends)


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command with the configuration."""
    command = [sys.executable, "-m", "streamcrypt", arguments[0], str(path), *arguments[1:]]
    with SCAN.sink() as log:
        return subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )


def run(path: Path, *arguments: str) -> tuple[int, str, float]:
    """Run a command to its end: exit code, output, seconds."""
    began = time.monotonic()
    process = start(path, *arguments)
    out, _ = process.communicate(timeout=1_800)
    return process.returncode, out, time.monotonic() - began


def check(claim: str, *, holds: bool) -> None:
    """Say whether a claim holds, and end where it does not."""
    print(f"{'ok  ' if holds else 'FAIL'} {claim}", flush=True)
    if not holds:
        sys.exit(1)


def main() -> None:
    """Run the scenario."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--how", choices=["rewrap", "reseal"], default="rewrap")
    given = options.parse_args()
    with (
        contextlib.closing(private_broker()) as broker,
        KMSServer() as kms,
        tempfile.TemporaryDirectory() as directory,
    ):
        os.environ |= {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "test"}
        with SCAN.open() as scan:
            scenario(broker, kms, Path(directory), given.records, given.how)
            check("no log holds plaintext or a key", holds=not scan.look())


def scenario(broker: Broker, kms: KMSServer, directory: Path, records: int, how: str) -> None:
    """Seal, audit, re-encrypt with two kills, verify, audit."""
    old = [kms.create_key(f"alias/old{n}") for n in range(3)]
    kms.create_key("alias/new")
    source, target = broker.create_topic(partitions=PARTITIONS), broker.create_topic(partitions=PARTITIONS)
    began = time.monotonic()
    seal(broker, kms, old, source, records)
    print(f"     {records:,} records sealed in {time.monotonic() - began:.0f} s", flush=True)
    keys: dict[str, Any] = {**kms_keys(kms, "alias/new"), "trusted_keys": old}
    names = {target: source} if how == "rewrap" else {}
    reading = {"mode": "decrypt", "from": source, "to": "unused"}
    config = config_of(broker.bootstrap, keys, reading, topic_names=names, log={"level": "warning"})
    path = directory / "config.yaml"
    path.write_text(json.dumps(config))
    code, _, _ = run(path, "audit", source, target, "--safe-to-disable", old[1])
    check("the audit says no before", holds=code == 1)
    here, count, envelopes = digest(broker, source)
    check(f"{count:,} records stand on the source under {len(envelopes)} data keys", holds=count == records)
    job = ("reencrypt", "--from", source, "--to", target, f"--{how}", "--no-progress")
    for share in sorted(random.sample(range(15, 85), 2)):
        process = start(path, *job)
        wait_until(lambda share=share: high(broker, target) > records * share / 100, f"{share} %", 600)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        print(f"     killed at about {100 * high(broker, target) / records:.0f} %", flush=True)
    calls = Counter(call.operation for call in kms.calls)
    if how == "rewrap":
        check("no Decrypt before the verification", holds=calls["Decrypt"] == 0)
        check(
            f"at most one ReEncrypt a header and run: {calls['ReEncrypt']}",
            holds=calls["ReEncrypt"] <= 2 * len(envelopes),
        )
    code, out, seconds = run(path, *job)
    print("     " + out.strip().replace("\n", "\n     "))
    check(f"the third run verified everything, after {seconds:.0f} s", holds=code == 0)
    there, count, renewed = digest(broker, target)
    check(f"{count:,} records stand on the target: none missing, none double", holds=count == records)
    if how == "rewrap":
        last = Counter(call.operation for call in kms.calls) - calls
        check(f"{last['ReEncrypt']} ReEncrypt in the last run", holds=last["ReEncrypt"] <= len(envelopes))
        check("every value, key, header and timestamp is the same, in order", holds=here == there)
    check("no envelope is an old one", holds=not renewed & envelopes)
    for kek in old:
        code, _, _ = run(path, "audit", target, "--safe-to-disable", kek)
        check(f"the audit says yes of the target for {kek[-8:]}", holds=code == 0)
    code, out, seconds = run(path, *job, "--verify-only")
    check(f"verified again in {seconds:.0f} s: {2 * records / seconds:,.0f} records/s opened", holds=code == 0)
    fresh = broker.create_topic(partitions=PARTITIONS)
    config["topic_names"][fresh] = source
    path.write_text(json.dumps(config))
    code, _, seconds = run(path, "reencrypt", "--from", source, "--to", fresh, f"--{how}", "--no-progress")
    check(
        f"copied and verified without a pause in {seconds:.0f} s: {records / seconds:,.0f} records/s", holds=code == 0
    )


if __name__ == "__main__":
    main()
