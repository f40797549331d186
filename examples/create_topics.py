"""Creates topics and waits until they can be used; what already exists is left alone. Plain confluent-kafka."""

from __future__ import annotations

import argparse
import os
import sys

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic


def main() -> int:
    """Creates the topics named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topics", nargs="+")
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--bootstrap", default=os.environ.get("BOOTSTRAP_SERVERS", "127.0.0.1:9092"))
    options = parser.parse_args()
    admin = AdminClient({"bootstrap.servers": options.bootstrap})
    # lz4 takes the header that repeats in every record out of the batches; ciphertext itself does not shrink.
    wanted = [NewTopic(t, options.partitions, 1, config={"compression.type": "lz4"}) for t in options.topics]
    for topic, made in admin.create_topics(wanted, request_timeout=30).items():
        try:
            made.result()
            print(f"created {topic}")
        except KafkaException as failure:
            if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                print(f"{topic}: {failure.args[0].str()}", file=sys.stderr)
                return 1
            print(f"{topic} exists")
    return 0


if __name__ == "__main__":
    sys.exit(main())
