"""Writes payments in clear to a topic. Plain confluent-kafka: the sidecar beside it does the encryption."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import sys
import threading
import time

from confluent_kafka import KafkaError, Message, Producer

HEADERS: dict[str, str | bytes | None] = {"content-type": b"application/json"}


def main() -> int:
    """Writes until it is told to stop, or until ``--count`` payments are written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topic", default="payments")
    parser.add_argument("--bootstrap", default=os.environ.get("BOOTSTRAP_SERVERS", "127.0.0.1:9092"))
    parser.add_argument("--per-second", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=0, help="stop after so many; 0 goes on for ever")
    options = parser.parse_args()

    stop = threading.Event()
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, lambda *_: stop.set())
    failures: list[str] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error.str())

    producer = Producer({"bootstrap.servers": options.bootstrap, "enable.idempotence": True, "linger.ms": 5})
    for number in itertools.count(1):
        payment = {"id": number, "iban": f"DE89370400440532{number:06d}", "amount": 10 + number, "at": time.time()}
        value = json.dumps(payment).encode()
        producer.produce(options.topic, value, key=f"customer-{number % 10}", headers=HEADERS, on_delivery=delivered)
        producer.poll(0)
        print(f"{options.topic}: {value.decode()}", flush=True)
        if number == options.count or stop.wait(1 / options.per_second):
            break
    left = producer.flush(30)
    if left or failures:
        print(f"{left + len(failures)} payments were not acknowledged {failures[:1]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
