"""Data keys from minting to retirement, data keys opened, and the key service behind both."""

from __future__ import annotations

from collections.abc import Mapping

from streamcrypt import events
from streamcrypt.events import Event
from streamcrypt.observe.metrics.families import Families, Handler

__all__ = ["KeyMetrics"]

# From a call inside one rack to the read timeout of 1.5 s; each attempt is a call of its own.
_KEY_SERVICE_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class KeyMetrics:
    """Counts data keys and calls to the key service.

    Args:
        families: Makes the families.
    """

    def __init__(self, families: Families) -> None:
        self._families = families
        self._define_sealing(families)
        self._define_opening(families)
        self._define_service(families)
        self._topics: set[tuple[str, str]] = set()
        self.handlers: Mapping[type[Event], Handler] = {
            events.DataKeyMinted: lambda e: self._minted.labels(e.topic, str(e.ahead).lower()).inc(),
            events.DataKeyWrappedForFewer: lambda e: self._fewer.labels(e.topic).inc(),
            events.DataKeyRetired: lambda e: self._retired.labels(e.topic, e.reason).inc(),
            events.DataKeyMintFailed: lambda e: self._mint_failed.labels(e.topic, e.error).inc(),
            events.DataKeysInUse: self._in_use,
            events.DataKeyGraceBegan: lambda e: self._in_grace.labels(e.topic).inc(),
            events.DataKeyGraceEnded: self._grace_ended,
            events.DataKeyBudgetSpent: lambda e: self._over_budget.labels(e.topic).inc(e.records),
            events.DataKeyOpened: lambda e: self._misses.labels("shared" if e.shared else "unwrapped").inc(),
            events.DataKeysHeld: lambda e: self._held.labels(e.pipeline).set(e.entries),
            events.DataKeyRefused: self._key_refused,
            events.DataKeyDropped: lambda e: self._dropped.labels(e.reason).inc(),
            events.DataKeyRewrapped: lambda e: self._rewrapped.labels(e.topic).inc(),
            events.KeyServiceCalled: self._called,
            events.BreakerOpened: self._breaker_opened,
            events.BreakerClosed: lambda e: self._breaker_open.labels(e.region).set(0),
            events.KeyAliasMoved: lambda _: self._alias_moved.inc(),
            events.DevelopmentKeyInUse: lambda _: self._development_key.set(1),
            events.PipelineStopped: self._stopped,
        }

    def _define_sealing(self, make: Families) -> None:
        self._minted = make.counter("data_keys_minted", "Data keys minted.", "topic", "ahead")
        self._fewer = make.counter(
            "data_keys_wrapped_for_fewer", "Data keys wrapped for some of the configured KEKs only.", "topic"
        )
        self._retired = make.counter("data_keys_retired", "Data keys that seal nothing more.", "topic", "reason")
        self._mint_failed = make.counter("data_key_mint_failures", "Data keys not minted.", "topic", "error")
        where = ("pipeline", "topic")
        self._live = make.gauge("data_keys_live", "Data keys at hand that seal.", *where)
        self._age = make.gauge(
            "data_key_age_seconds", "Age of the current data key.", *where, unit="seconds", merge="livemax"
        )
        self._used_records = make.gauge(
            "data_key_records", "Records sealed under the current data key.", *where, unit="records", merge="livemax"
        )
        self._used_bytes = make.gauge(
            "data_key_sealed_bytes", "Bytes sealed under the current data key.", *where, unit="bytes", merge="livemax"
        )
        self._used_ratio = make.gauge(
            "data_key_used_ratio",
            "How much of a limit of rotation the current data key has used, of the limit that is nearest.",
            *where,
            unit="ratio",
            merge="livemax",
        )
        self._in_grace = make.gauge("data_keys_in_grace", "Data keys that are due and seal on: KMS is away.", "topic")
        self._graces = make.counter("data_key_graces", "Graces of data keys that ended.", "topic", "outcome")
        self._grace_records = make.counter("data_key_grace_records", "Records sealed in grace.", "topic")
        self._over_budget = make.counter(
            "data_key_budget_refusals", "Records that waited for keys.new_keys_per_minute.", "topic"
        )

    def _define_opening(self, make: Families) -> None:
        self._held = make.gauge("decrypt_cache_entries", "Opened data keys at hand, by header.", "pipeline")
        self._misses = make.counter("decrypt_cache_misses", "Data keys that were not in the cache.", "how")
        self._refused = make.counter("data_keys_refused", "Data keys that could not be had.", "error", "fault")
        self._dropped = make.counter("data_keys_dropped", "Data keys dropped from the cache.", "reason")
        self._rewrapped = make.counter("data_keys_rewrapped", "Data keys wrapped under another KEK.", "topic")

    def _define_service(self, make: Families) -> None:
        self._calls = make.counter("key_service_calls", "Calls to KMS.", "operation", "region", "outcome")
        self._call_seconds = make.histogram(
            "key_service_seconds", "Time of a call to KMS.", _KEY_SERVICE_BUCKETS, "operation", "region"
        )
        self._breaker_open = make.gauge(
            "key_service_breaker_open",
            "1 from when KMS went away until a call is answered: without calls it stays.",
            "region",
            merge="livemax",
        )
        self._breaker_openings = make.counter("key_service_breaker_openings", "Breakers opened.", "region")
        self._alias_moved = make.counter("key_alias_moves", "Aliases found to point to another KEK.")
        self._development_key = make.gauge(
            "development_key_in_use", "1 where the local provider is in use.", merge="livemax"
        )

    def _in_use(self, event: events.DataKeysInUse) -> None:
        where = (event.pipeline, event.topic)
        self._topics.add(where)
        self._live.labels(*where).set(event.live)
        self._age.labels(*where).set(event.age)
        self._used_records.labels(*where).set(event.messages)
        self._used_bytes.labels(*where).set(event.bytes)
        self._used_ratio.labels(*where).set(event.used)

    def _stopped(self, event: events.PipelineStopped) -> None:
        self._families.drop(self._held, event.pipeline)
        for where in [where for where in self._topics if where[0] == event.pipeline]:
            self._topics.discard(where)
            for gauge in (self._live, self._age, self._used_records, self._used_bytes, self._used_ratio):
                self._families.drop(gauge, *where)

    def _grace_ended(self, event: events.DataKeyGraceEnded) -> None:
        self._in_grace.labels(event.topic).dec()
        self._graces.labels(event.topic, event.outcome).inc()
        self._grace_records.labels(event.topic).inc(event.messages)

    def _key_refused(self, event: events.DataKeyRefused) -> None:
        self._refused.labels(event.error, "record" if event.record_fault else "key_service").inc()

    def _called(self, event: events.KeyServiceCalled) -> None:
        self._calls.labels(event.operation, event.region, event.outcome).inc()
        self._call_seconds.labels(event.operation, event.region).observe(event.seconds)
        # Here from the first call on: 0 says more than a missing series.
        self._breaker_open.labels(event.region)
        self._breaker_openings.labels(event.region)

    def _breaker_opened(self, event: events.BreakerOpened) -> None:
        self._breaker_open.labels(event.region).set(1)
        self._breaker_openings.labels(event.region).inc()
