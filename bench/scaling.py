"""``python -m bench.scaling``: the scaling model's predictions beside what this machine shows; under two minutes.

CPU at 100 B and 10 KiB is what the model was fitted to, so 1 KiB, two workers, calls and bytes are the test of it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from rich.console import Console
from rich.table import Table

from bench import sidecar
from bench.stage import Stage
from streamcrypt import AWSKMSKeyProvider, Decryptor, Encryptor
from streamcrypt.cost.measured import BROKER_US, CPU
from streamcrypt.cost.model import RECORD_OVERHEAD, Load, Place, estimate, lz4_overhead
from streamcrypt.cost.prices import Prices
from streamcrypt.cost.scaling import Fleet
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

__all__ = ["Row", "kms_rows", "main"]

PARTITIONS = 4
_RECORDS = {100: 250_000, 1024: 200_000, 10_240: 40_000}
_ROUNDS = 3
_READERS = 3
_SEALED = 20_000
_PER_KEY = (100, 1_000, 5_000)
_TOPICS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        what: Of what.
        predicted: By the model.
        measured: Here.
    """

    what: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """The prediction's, as a share of what was measured."""
        return self.predicted / self.measured - 1 if self.measured else 0.0


def main() -> None:
    """Measure, and print predicted, measured and error."""
    began, table = time.monotonic(), Table("what", "predicted", "measured", "error")
    with Stage() as stage:
        for row in chain(kms_rows(stage), _cpu_rows(stage), _worker_rows(stage)):
            print(f"{row.what}: predicted {row.predicted:,.1f}, measured {row.measured:,.1f}", flush=True)
            table.add_row(row.what, f"{row.predicted:,.1f}", f"{row.measured:,.1f}", f"{row.error:+.0%}")
    Console(width=120).print(table)
    print(f"{time.monotonic() - began:.0f} s")


def kms_rows(stage: Stage) -> Iterator[Row]:
    """Compare calls to KMS, counted where they arrive, at several lives of a data key."""
    os.environ.update(AWS_ACCESS_KEY_ID="AKIATEST", AWS_SECRET_ACCESS_KEY="test")
    for per_key in _PER_KEY:
        policy = RotationPolicy(max_messages=per_key, max_age="30d", max_bytes="64GiB")
        load = Load(_SEALED, 100, (Place("eu-west-1"),), policy, CachePolicy(), topics=_TOPICS, readers=_READERS)
        found = {call.operation: call.per_second for call in estimate(load, Prices()).calls}
        # The last data key of each topic has a successor already, which the model meets in the next second.
        found["GenerateDataKey"] += _TOPICS
        before = len(stage.kms.calls)
        _seal_and_open(stage, policy)
        counted = Counter(call.operation for call in stage.kms.calls[before:])
        for operation in ("GenerateDataKey", "Decrypt"):
            yield Row(
                f"KMS {operation}, {_SEALED:,} records on {_TOPICS} topics, {per_key:,} a data key, {_READERS} readers",
                found[operation],
                counted[operation],
            )


def _seal_and_open(stage: Stage, policy: RotationPolicy) -> None:
    with closing(_keys(stage)) as provider:
        readers = [Decryptor(provider) for _ in range(_READERS)]
        with closing(Encryptor(provider, rotation=policy)) as sealer:
            for number in range(_SEALED):
                topic = f"t{number % _TOPICS}"
                value, headers = sealer.encrypt(topic, b"x" * 100)
                for reader in readers:
                    reader.decrypt(topic, value, headers=headers)
        for reader in readers:
            reader.close()


def _keys(stage: Stage) -> AWSKMSKeyProvider:
    return AWSKMSKeyProvider(stage.key_id, region="eu-west-1", endpoint_url=stage.kms.url)


def _cpu_rows(stage: Stage) -> Iterator[Row]:
    for size, records in _RECORDS.items():
        plain, sealed = stage.filled(size, records, PARTITIONS), stage.topic(PARTITIONS)
        common = {"keys": stage.keys, "records": records}
        stage.run("pipeline", mode="encrypt", source=plain, target=sealed, group=f"seal-{sealed}", **common)
        added = (stage.settled_log_bytes(sealed, 0) - stage.settled_log_bytes(plain, 0)) / records
        yield Row(f"{size:,} B: bytes added with lz4", lz4_overhead(Fleet().header, size), added)
        for mode, delivery in CPU:
            source = plain if mode == "encrypt" else sealed
            found, broker = _passed(stage, mode, delivery, source, common)
            yield Row(f"{size:,} B: {mode}, {delivery}, CPU us a record", CPU[mode, delivery].at(size), found)
            if (mode, delivery) == ("encrypt", "exactly_once"):
                yield Row(f"{size:,} B: {mode}, {delivery}, broker CPU us a record", BROKER_US.at(size), broker)
        for topic in (plain, sealed):
            stage.broker.delete_topic(topic)
    yield Row("header and record overhead, uncompressed", Fleet().header + RECORD_OVERHEAD, _uncompressed(stage))


def _passed(stage: Stage, mode: str, delivery: str, source: str, common: dict[str, object]) -> tuple[float, float]:
    took, brokers = [], []
    for _ in range(_ROUNDS):
        target, broker = stage.topic(PARTITIONS), stage.broker_cpu() or 0.0
        found = stage.run(
            "pipeline", mode=mode, delivery=delivery, source=source, target=target, group=f"g-{target}", **common
        )
        took.append(found["cpu_us"])
        brokers.append(((stage.broker_cpu() or 0.0) - broker) / int(str(common["records"])) * 1e6)
        stage.broker.delete_topic(target)
    return statistics.median(took), statistics.median(brokers)


def _uncompressed(stage: Stage) -> float:
    with closing(_keys(stage)) as provider, closing(Encryptor(provider)) as sealer:
        value, headers = sealer.encrypt("t" * 20, b"x" * 100, b"key")
        # Kafka's own framing of a header: its lengths, each a varint (KIP-82).
        return len(value or b"") - 100 + sum(len(name) + 3 + len(header or b"") for name, header in headers)


def _worker_rows(stage: Stage) -> Iterator[Row]:
    records = 2 * _RECORDS[1024]
    source = stage.filled(1024, records, PARTITIONS)
    one, two = (sidecar.measure(stage, source, records, PARTITIONS, workers=count) for count in (1, 2))
    # Two cores for workers and broker: what both take for a record bounds the rate.
    most = 2e6 / (CPU["encrypt", "exactly_once"].at(1024) + BROKER_US.at(1024))
    yield Row("records/s of two workers, from cores and the broker's share", most, two["records_per_s"])
    alone = Fleet().headroom * 1e6 / CPU["encrypt", "exactly_once"].at(1024)
    yield Row("records/s of one worker, as planned: 60 % of a core", alone, one["records_per_s"])


if __name__ == "__main__":
    main()
