"""Prints what topics hold, side by side: the encrypted one and the decrypted one. Plain confluent-kafka."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from confluent_kafka import Consumer, KafkaException, Message

SHOWN = 60


def main() -> int:
    """Prints records until it is told to stop, or until ``--count`` records of every topic are shown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="+")
    parser.add_argument("--bootstrap", default=os.environ.get("BOOTSTRAP_SERVERS", "127.0.0.1:9092"))
    parser.add_argument("--group", default="sample-consumer")
    parser.add_argument("--count", type=int, default=0, help="stop after so many of each topic; 0 goes on for ever")
    options = parser.parse_args()

    stop = threading.Event()
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, lambda *_: stop.set())
    left = dict.fromkeys(options.topics, options.count or sys.maxsize)
    consumer = Consumer(
        {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
        }
    )
    try:
        consumer.subscribe(options.topics)
        while not stop.is_set() and any(remaining > 0 for remaining in left.values()):
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is not None:
                raise KafkaException(message.error())
            left[message.topic()] -= 1
            print(shown(message), flush=True)
    finally:
        consumer.close()
    return 0


def shown(message: Message) -> str:
    """One line about a record: where it stands, its headers by name and size, and its value as far as it is text."""
    headers = ", ".join(f"{name} ({len(value or b'')} B)" for name, value in message.headers() or [])
    value = message.value()
    text = "null" if value is None else value.decode() if printable(value) else f"{value[: SHOWN // 2].hex()}..."
    return f"{message.topic()} [{message.partition()}] @{message.offset()} | {headers} | {text}"


def printable(value: bytes) -> bool:
    """Whether the value is text that a terminal may show."""
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


if __name__ == "__main__":
    sys.exit(main())
