"""From rate, rotation and fleet to calls, quota, money and bytes. Pure: no clock, no call.

Where a figure cannot be exact, it errs upwards: a reader is taken to meet every data key.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from streamcrypt.cost.prices import Prices, request_quota
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy

__all__ = [
    "RECORD_OVERHEAD",
    "Calls",
    "Estimate",
    "Load",
    "Place",
    "Replay",
    "estimate",
    "lz4_overhead",
    "seconds_in_use",
]

DAY = 86_400.0
MONTH = 365.25 / 12 * DAY
SHORT_LIFE = 20.0
"""Below it the next data key is minted as soon as the current one begins (streamcrypt/keys/issuer.py)."""
_AHEAD_AGE = 0.8
_AHEAD_SHARE = 0.5
_STEPS = 64
_MOST_LOOKS = 1.0  # a second and process, over the KEKs of all tenants (streamcrypt/keys/aws_kms/changes.py)
_MOST_OF_QUOTA = 0.5
_LONG_REPLAY = 3600.0
_TTL_SPREAD = 0.95  # a cached data key is kept for 90 to 100 % of the ttl

RECORD_OVERHEAD = 42
"""Bytes a record besides the header's value: its name and lengths in Kafka (14), nonce (12), tag (16)."""


@dataclass(frozen=True, slots=True)
class Place:
    """One configured KEK.

    Attributes:
        region: Where its calls go first.
        keys: KMS keys that it consists of: itself, or all its replicas.
    """

    region: str
    keys: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What runs.

    Attributes:
        rate: Records a second, over all topics.
        size: Bytes of a value.
        topics: Topics sealed.
        writers: Processes that seal, each with data keys of its own.
        readers: Processes that open, each of which meets every data key.
        partitions: Of a topic: more writers than that do not write to it.
        keks: Each data key is wrapped under all of them; the first mints and opens.
        keys: KMS keys to be paid, replicas and all tenants' included; 0: those of ``keks``.
        rotation: When a data key is replaced.
        cache: How long an opened data key is kept.
        tenants: KEKs that one topic's records are spread over; 1 without a template.
        retention: Seconds that records are kept.
        header: Bytes of the envelope header.
        latency: Seconds that a call to KMS takes.
        looks: DescribeKey calls a second of one sealing process and KEK, for aliases and new key material; with
            tenants one a second at most.
    """

    rate: float
    size: int
    keks: Sequence[Place]
    rotation: RotationPolicy
    cache: CachePolicy
    keys: int = 0
    topics: int = 1
    writers: int = 1
    readers: int = 1
    partitions: int = 6
    tenants: int = 1
    retention: float = 7 * DAY
    header: int = 0
    latency: float = 0.02
    looks: float = 0.0


@dataclass(frozen=True, slots=True)
class Calls:
    """One operation in one region.

    Attributes:
        region: Where.
        operation: As KMS names it.
        per_second: On average.
    """

    region: str
    operation: str
    per_second: float

    @property
    def per_day(self) -> float:
        """Calls a day."""
        return self.per_second * DAY


@dataclass(frozen=True, slots=True)
class Replay:
    """Reading everything that retention kept, with empty caches.

    Attributes:
        records: On the topics.
        data_keys: Distinct ones among them.
        decrypts: Calls of all readers together.
        at_quota: Seconds that these take if nothing else uses the region's quota.
        one_by_one: Seconds that one reader waits for KMS if it opens one data key after another.
        money: US dollars.
    """

    records: float
    data_keys: float
    decrypts: float
    at_quota: float
    one_by_one: float
    money: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The answer.

    Attributes:
        seconds_in_use: How long a data key seals.
        records_per_key: Records that it seals in that time.
        data_keys: Minted a second, by all writers.
        calls: By region and operation.
        quotas: Region to the share of its request quota that is used, DescribeKey apart, which has its own.
        requests_month: Of all operations.
        requests_money: US dollars a month, beyond the free ones.
        keys_money: US dollars a month for the keys themselves.
        wire: Bytes a second that envelopes add, uncompressed.
        wire_lz4: The same in lz4 batches.
        replay: A cold replay.
        warnings: What to change, and to what.
    """

    seconds_in_use: float
    records_per_key: float
    data_keys: float
    calls: tuple[Calls, ...]
    quotas: dict[str, float]
    requests_month: float
    requests_money: float
    keys_money: float
    wire: float
    wire_lz4: float
    replay: Replay
    warnings: tuple[str, ...]


def seconds_in_use(rotation: RotationPolicy, rate: float, size: int) -> float:
    """Give how long a data key seals before the next one takes over; on average, for records at random times.

    The next one is minted ahead, when half of the records or bytes or about 80 % of the age are used up, and its age
    runs from there: with ``max_age`` alone a data key is in use for 80 % of it, and for half of it below 20 s.

    Args:
        rotation: When a data key is due.
        rate: Records a second under this data key.
        size: Bytes of a record.
    """
    if rate <= 0:
        return math.inf
    apart = 1 / rate
    filled = min(rotation.max_messages, max(1, rotation.max_bytes // max(1, size))) * apart
    lead, used, total = 0.0, 0.0, 0.0
    for step in range(2 * _STEPS):
        used = min(filled, max(0.0, rotation.max_age - lead))
        short = step > 0 and used < SHORT_LIFE
        ahead = 0.0 if short else min(filled * _AHEAD_SHARE, max(0.0, rotation.max_age * _AHEAD_AGE - lead))
        lead = max(0.0, used - ahead)
        total += used if step >= _STEPS else 0.0
    mean = total / _STEPS
    # A key that is due by age waits for the next record.
    return mean if mean >= filled else min(filled, mean + apart)


def lz4_overhead(header: int, size: int) -> float:
    """Give the bytes that an envelope adds to a record in lz4 batches of librdkafka.

    The header is written out once in each block of 64 KiB, and by a reference in every other record. Fitted to what
    librdkafka sent of random values, which is the worst case, with headers of 292 to 950 B: 23 to 46 B for values of
    100 B, 32 to 62 for 1 KiB, 163 to 280 for 10 KiB, and all of it for 64 KiB. It is at most 20 B above these.

    Args:
        header: Bytes of the envelope header.
        size: Bytes of a value.
    """
    return min(header + RECORD_OVERHEAD, 18 + header * (0.03 + size / 2**16) + size / 100)


def estimate(load: Load, prices: Prices, quota: int | None = None, rotations: int = 0) -> Estimate:
    """Estimate calls, quota, money and bytes.

    Args:
        load: What runs.
        prices: What AWS asks.
        quota: Requests a second that each region takes; None: the default quota of the region.
        rotations: How often each key was rotated.
    """
    writers = min(load.writers, load.partitions)
    streams = load.topics * writers * load.tenants
    per_stream = load.rate / streams
    in_use = seconds_in_use(load.rotation, per_stream, load.size)
    data_keys = streams / in_use if in_use < math.inf else 0.0
    per_key = max(1.0, per_stream * in_use) if data_keys else 0.0
    # A key in use for longer than the ttl is opened again.
    times = max(1, math.ceil(in_use / (load.cache.ttl * _TTL_SPREAD))) if data_keys else 0
    readers = min(load.readers, per_key)
    calls = _calls(load, data_keys, data_keys * readers * times)
    limits = {call.region: quota or request_quota(call.region) for call in calls}
    quotas = {region: _share(calls, region) / limit for region, limit in limits.items()}
    month = sum(call.per_second for call in calls) * MONTH
    replay = _replay(load, data_keys, readers, quota or request_quota(load.keks[0].region), prices)
    kept = load.keys or sum(place.keys for place in load.keks)
    return Estimate(
        seconds_in_use=in_use,
        records_per_key=per_key,
        data_keys=data_keys,
        calls=calls,
        quotas=quotas,
        requests_month=month,
        requests_money=max(0.0, month - prices.free_requests) / 10_000 * prices.per_10_000,
        keys_money=kept * (prices.key_month + min(rotations, 2) * prices.rotation_month),
        wire=load.rate * (load.header + RECORD_OVERHEAD),
        wire_lz4=load.rate * lz4_overhead(load.header, load.size),
        replay=replay,
        warnings=tuple(_warnings(load, streams, in_use, quotas, replay)),
    )


def _calls(load: Load, data_keys: float, decrypts: float) -> tuple[Calls, ...]:
    first, *others = load.keks
    found: dict[tuple[str, str], float] = {(first.region, "GenerateDataKey"): data_keys}
    for place in others:
        where = (place.region, "Encrypt")
        found[where] = found.get(where, 0.0) + data_keys
    found[first.region, "Decrypt"] = decrypts
    if load.looks:
        looks = max(load.looks, min(load.looks * load.tenants, _MOST_LOOKS))
        for place in load.keks:
            where = (place.region, "DescribeKey")
            found[where] = found.get(where, 0.0) + looks * load.writers
    return tuple(Calls(region, operation, rate) for (region, operation), rate in found.items())


def _share(calls: Sequence[Calls], region: str) -> float:
    return sum(call.per_second for call in calls if call.region == region and call.operation != "DescribeKey")


def _replay(load: Load, data_keys: float, readers: float, quota: int, prices: Prices) -> Replay:
    distinct = data_keys * load.retention
    decrypts = distinct * readers
    return Replay(
        records=load.rate * load.retention,
        data_keys=distinct,
        decrypts=decrypts,
        at_quota=decrypts / quota,
        one_by_one=distinct * load.latency,
        money=decrypts / 10_000 * prices.per_10_000,
    )


def _warnings(load: Load, streams: int, in_use: float, quotas: dict[str, float], replay: Replay) -> list[str]:
    found = []
    for region, share in quotas.items():
        if share > _MOST_OF_QUOTA:
            times = math.ceil(share / _MOST_OF_QUOTA)
            found.append(
                f"{share:.0%} of the KMS request quota of {region}, which all applications of the account share: let"
                f" data keys live {times} times as long (rotation: max_age, max_messages, max_bytes), or ask for more"
            )
    if streams > load.cache.max_entries:
        found.append(
            f"{streams:,} data keys are in use at a time, and a reader keeps {load.cache.max_entries:,}: raise"
            " cache.max_entries, or each one is opened again and again"
        )
    if in_use < SHORT_LIFE:
        found.append(
            f"a data key is in use for {in_use:.3g} s only: a slow KMS then holds up records; above 20 s is calm"
        )
    if max(replay.at_quota, replay.one_by_one) > _LONG_REPLAY:
        hours = max(replay.at_quota, replay.one_by_one) / 3600
        found.append(
            f"a cold replay waits {hours:.1f} h for KMS: let data keys live longer, or split the replay between readers"
        )
    return found
