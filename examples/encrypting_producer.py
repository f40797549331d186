"""A producer that encrypts. Beside its imports, two lines differ from plain confluent-kafka: the keys and the sealer.

With a keyring (``--keyring keyring.json``, made at first use) nothing else is needed; ``--key-id`` asks AWS KMS.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import streamcrypt as sc

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message


def main() -> int:
    """Sends the lines of standard input, encrypted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092")
    parser.add_argument("--keyring", type=Path, default=Path("keyring.json"))
    parser.add_argument("--key-id", help="AWS KMS key: ARN, alias ARN or alias")
    parser.add_argument("--region", default="eu-west-1")
    parser.add_argument("--endpoint-url", help="a local KMS")
    options = parser.parse_args()

    sealer = sc.Encryptor(
        keys_from(options),
        rotation=sc.RotationPolicy(max_messages=100_000, max_age="5m"),
        context={"app": "examples"},
    )
    producer = sc.EncryptingProducer({"bootstrap.servers": options.bootstrap}, encryptor=sealer)
    failures: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error.str())

    for line in sys.stdin:
        producer.produce(options.topic, line.rstrip("\n"), key="line", on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(30)
    sealer.close()
    if left or failures:
        print(f"{left + len(failures)} records were not acknowledged {failures[:1]}", file=sys.stderr)
        return 1
    return 0


def keys_from(options: argparse.Namespace) -> sc.KeyProvider:
    """Where the data keys come from: AWS KMS, or a file for development."""
    if options.key_id:
        return sc.AWSKMSKeyProvider(options.key_id, region=options.region, endpoint_url=options.endpoint_url)
    if not options.keyring.exists():
        sc.LocalKeyProvider.generate().save(options.keyring)
    return sc.LocalKeyProvider.from_file(options.keyring)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except sc.StreamcryptError as failure:
        sys.exit(f"{type(failure).__name__}: {failure}")
