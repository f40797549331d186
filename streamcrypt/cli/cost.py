"""``streamcrypt cost``: calls to KMS, money, quota and bytes that a configuration comes to."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from streamcrypt.cli.exits import Exit
from streamcrypt.cli.policy_needs import replicas
from streamcrypt.config import PipelineSettings, Settings, load
from streamcrypt.config.tenants import mapped_keks
from streamcrypt.cost.model import RECORD_OVERHEAD, Estimate, Load, Place, estimate, lz4_overhead
from streamcrypt.cost.prices import PRICES_SOURCE, QUOTAS_SOURCE, Prices
from streamcrypt.envelope.codec import encode_header
from streamcrypt.envelope.header import Content, EncryptedDataKey, EnvelopeHeader, build_bound, build_context
from streamcrypt.errors import ConfigError
from streamcrypt.keys.aws_kms.changes import LOOK_EVERY_SECONDS
from streamcrypt.keys.aws_kms.names import parse_key_name
from streamcrypt.keys.rotation import CachePolicy, RotationPolicy
from streamcrypt.policies.topics import topics_between

__all__ = ["CostRequest", "cost", "load_of", "settings_of"]

WRAPPED_BYTES = 184
"""A data key of 32 bytes as KMS wraps it under a symmetric key; measured, not contractual."""
_SAMPLE_KEY = "key/1234abcd-12ab-34cd-56ef-1234567890a"
_NO_REGION = "the region"


@dataclass(frozen=True, slots=True)
class CostRequest:
    """What the configuration does not say.

    Attributes:
        rate: Records a second, over all topics. Default 1,000.
        size: Bytes of a value. Default 1,024.
        topics: Topics sealed; None: as the pipelines name them, one for each expression.
        partitions: Of a topic. Default 6.
        instances: Containers that seal, each with the configuration's workers. Default 1.
        readers: Processes that open. Default 1.
        tenants: KEKs that one topic's records are spread over; None: as mapped, else 1.
        retention: Seconds that records are kept. Default 7 days, Kafka's own.
        latency: Seconds that a call to KMS takes. Default 20 ms; measure yours.
        prices: What AWS asks.
        quota: Requests a second that each region takes; None: the region's default.
        rotations: How often each key was rotated. Default 0.
        form: ``table`` or ``json``.
    """

    rate: float = 1000.0
    size: int = 1024
    topics: int | None = None
    partitions: int = 6
    instances: int = 1
    readers: int = 1
    tenants: int | None = None
    retention: float = 604_800.0
    latency: float = 0.02
    prices: Prices = field(default_factory=Prices)
    quota: int | None = None
    rotations: int = 0
    form: str = "table"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: A number is not positive, or the format is none.
        """
        if self.form not in {"table", "json"}:
            raise ConfigError(f"--format: {self.form!r} is neither 'table' nor 'json'")
        for name in ("rate", "size", "topics", "partitions", "instances", "readers", "tenants", "retention", "quota"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name}: {value} is not above zero")
        prices = self.prices
        for name, value in {
            "latency": self.latency,
            "rotations": self.rotations,
            "price": prices.per_10_000,
            "key-price": prices.key_month,
            "free": prices.free_requests,
        }.items():
            if value < 0:
                raise ConfigError(f"--{name}: {value} is below zero")


def cost(path: Path, request: CostRequest) -> int:
    """Print the estimate.

    Raises:
        ConfigError: The configuration or an argument is wrong, or the keys are no AWS KMS keys.
    """
    settings = settings_of(path, request)
    workload = load_of(settings, request)
    found = estimate(workload, request.prices, request.quota, request.rotations)
    if request.form == "json":
        sys.stdout.write(json.dumps(as_tree(workload, found), indent=2) + "\n")
    else:
        _show(workload, found)
    return Exit.DONE


def settings_of(path: Path, request: CostRequest) -> Settings:
    """Read a configuration whose cost can be told.

    Raises:
        ConfigError: The configuration or an argument is wrong, or the keys are no AWS KMS keys.
    """
    request.check()
    settings = load(path)
    if settings.keys.provider == "local":
        raise ConfigError(
            f"{settings.where('keys', 'provider')}: a local keyring makes no call and costs nothing",
            remedy="Ask for a configuration with 'provider: aws-kms'.",
        )
    return settings


def load_of(settings: Settings, request: CostRequest) -> Load:
    """Give the load that a configuration and a request describe."""
    chosen = settings.rotation
    names, tenants = settings.keys.key_id or (), 1
    if settings.keys.template is not None:
        mapped = list(mapped_keks(settings.keys).values())
        names, tenants = mapped[0].key_id, len(mapped)
    keks = [_place(settings, name) for name in names]
    return Load(
        rate=request.rate,
        size=request.size,
        keks=keks,
        keys=max(
            sum(_place(settings, name).keys for name in settings.keys.kek_names),
            sum(place.keys for place in keks) * (request.tenants or 1),
        ),
        rotation=RotationPolicy(chosen.max_messages, chosen.max_age, chosen.max_bytes),
        cache=CachePolicy(settings.cache.max_entries, settings.cache.ttl),
        topics=request.topics or _count_topics(settings),
        writers=settings.worker_count * request.instances,
        readers=request.readers,
        partitions=request.partitions,
        tenants=request.tenants or tenants,
        retention=request.retention,
        header=_header_bytes(settings, names),
        latency=request.latency,
        looks=1 / LOOK_EVERY_SECONDS,
    )


def _place(settings: Settings, name: str) -> Place:
    region = parse_key_name(name).region or settings.keys.region or _NO_REGION
    return Place(region, len(replicas(name, settings.keys, sealing=True)) if parse_key_name(name).is_key_arn else 1)


def _count_topics(settings: Settings) -> int:
    sealing = [p for p in settings.pipelines if p.mode != "decrypt"] or list(settings.pipelines)
    topics = [
        topics_between(p.source, "{topic}" if p.mode == "decrypt" else p.to, topic_names=settings.topic_names)
        for p in sealing
    ]
    return max(1, sum(len(found.values) for found in topics))


def _header_bytes(settings: Settings, names: Sequence[str]) -> int:
    pipeline = next((p for p in settings.pipelines if p.mode != "decrypt"), settings.pipelines[0])
    keys = sorted(_arn(settings, name, place) for place, name in enumerate(names))
    # Values of a template count as their longest: 64 characters.
    fields = settings.keys.template.bound if settings.keys.template else ()
    inputs = dict.fromkeys(fields, "x" * 64)
    header = EnvelopeHeader(
        pipeline.suite,
        bytes(32),
        build_context(settings.context, _topic(settings, pipeline), inputs),
        build_bound({*pipeline.bound, *fields}),
        Content.PAYLOAD,
        tuple(EncryptedDataKey("aws-kms", arn, bytes(WRAPPED_BYTES)) for arn in keys),
    )
    return len(encode_header(header))


def _arn(settings: Settings, name: str, place: int) -> str:
    parsed = parse_key_name(name)
    if parsed.is_key_arn:
        return name
    # As long as the ARN that it means.
    return f"arn:aws:kms:{parsed.region or settings.keys.region or 'eu-west-1'}:111122223333:{_SAMPLE_KEY}{place}"


def _topic(settings: Settings, pipeline: PipelineSettings) -> str:
    topics = topics_between(pipeline.source, pipeline.to, topic_names=settings.topic_names)
    return max(topics.values, key=len)


def as_tree(load: Load, found: Estimate) -> dict[str, Any]:
    """Give the estimate as JSON takes it, with what it was made from."""
    made_from = {f.name: getattr(load, f.name) for f in fields(load) if f.name not in {"keks", "rotation", "cache"}}
    tree = asdict(found)
    tree["calls"] = [
        {"region": c.region, "operation": c.operation, "per_second": c.per_second, "per_day": c.per_day}
        for c in found.calls
    ]
    tree["warnings"] = list(found.warnings)
    made_from["keks"] = [asdict(place) for place in load.keks]
    made_from["rotation"] = asdict(load.rotation)
    made_from["cache"] = asdict(load.cache)
    return {"from": made_from, **tree, "sources": {"prices": PRICES_SOURCE, "quotas": QUOTAS_SOURCE}}


def _show(load: Load, found: Estimate) -> None:
    console = Console(highlight=False)
    console.print(
        f"{load.rate:,.0f} records/s of {load.size:,} B on {_count(load.topics, 'topic')},"
        f" {_count(load.writers, 'writer')}, {_count(load.readers, 'reader')}, {_count(len(load.keks), 'KEK')}"
        + (f" for each of {load.tenants} tenants" if load.tenants > 1 else ""),
        soft_wrap=True,
    )
    calls = Table("region", "operation", "calls/s", "calls/day")
    for call in found.calls:
        calls.add_row(call.region, call.operation, _number(call.per_second), f"{call.per_day:,.0f}")
    console.print(calls)
    rows = Table("what", "how much", show_header=False)
    for what, how_much in _rows(load, found).items():
        rows.add_row(what, how_much)
    console.print(rows)
    for warning in found.warnings:
        console.print(f"[yellow]warning[/]: {warning}", soft_wrap=True)
    console.print(f"prices: {PRICES_SOURCE}\nquotas: {QUOTAS_SOURCE}", style="dim", soft_wrap=True)


def _rows(load: Load, found: Estimate) -> Mapping[str, str]:
    replay, overhead = found.replay, load.header + RECORD_OVERHEAD
    quotas = ", ".join(f"{share:.3%} in {region}" for region, share in found.quotas.items())
    return {
        "a data key seals for": f"{_span(found.seconds_in_use)}, {found.records_per_key:,.0f} records",
        "request quota": quotas,
        "requests a month": f"{found.requests_month:,.0f}, ${found.requests_money:,.2f}",
        "keys a month": f"${found.keys_money:,.2f}",
        "envelope a record": f"{overhead} B uncompressed, header {load.header} B of it;"
        f" {lz4_overhead(load.header, load.size):.0f} B with lz4",
        "envelopes on the wire": f"{_bytes(found.wire)}/s uncompressed, {_bytes(found.wire_lz4)}/s with lz4",
        f"cold replay of {_span(load.retention)}": f"{replay.records:,.0f} records, {replay.data_keys:,.0f} data keys,"
        f" {replay.decrypts:,.0f} Decrypt calls, ${replay.money:,.2f}",
        "which waits for KMS": f"{_span(replay.at_quota)} at the quota, {_span(replay.one_by_one)} one by one",
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"  # noqa: PLR2004


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1000:,.1f} ms"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"
