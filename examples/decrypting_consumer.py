"""A consumer that decrypts. Records that cannot be opened arrive as messages with an error; the others go on."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from confluent_kafka import KafkaException

import streamcrypt as sc


def main() -> int:
    """Prints opened values until it is told to stop, or until ``--count`` records came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--group", default="decrypting-consumer")
    parser.add_argument("--count", type=int, default=0, help="stop after so many; 0 goes on for ever")
    parser.add_argument("--keyring", type=Path, default=Path("keyring.json"))
    parser.add_argument("--key-id", help="AWS KMS key: ARN, alias ARN or alias")
    parser.add_argument("--region", default="eu-west-1")
    parser.add_argument("--endpoint-url", help="a local KMS")
    options = parser.parse_args()

    stop = threading.Event()
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, lambda *_: stop.set())
    opener = sc.Decryptor(
        keys_from(options),
        cache=sc.CachePolicy(max_entries=1_000, ttl="15m"),
        require_context={"app": "examples"},
    )
    consumer = sc.DecryptingConsumer(
        {"bootstrap.servers": options.bootstrap, "group.id": options.group, "auto.offset.reset": "earliest"},
        decryptor=opener,
    )
    left = options.count or sys.maxsize
    try:
        consumer.subscribe([options.topic])
        while left and not stop.is_set():
            message = consumer.poll(0.2)
            if message is None:
                continue
            if (why := sc.failure_of(message)) is not None:
                print(f"offset {message.offset()} was not opened: {type(why).__name__}: {why}", file=sys.stderr)
            elif message.error() is not None:
                raise KafkaException(message.error())
            else:
                value = message.value()
                print("null" if value is None else value.decode(errors="replace"), flush=True)
            left -= 1
    finally:
        consumer.close()
        opener.close()
    return 0


def keys_from(options: argparse.Namespace) -> sc.KeyProvider:
    """Where the data keys are opened: AWS KMS, or the keyring that the producer made."""
    if options.key_id:
        return sc.AWSKMSKeyProvider(options.key_id, region=options.region, endpoint_url=options.endpoint_url)
    return sc.LocalKeyProvider.from_file(options.keyring)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except sc.StreamcryptError as failure:
        sys.exit(f"{type(failure).__name__}: {failure}")
