"""When a data key is too old: the rule, pure. It knows no clock and no key service; the caller passes readings in.

spec: 7.1, 7.2
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamcrypt.crypto.suites import MAX_BYTES_PER_DATA_KEY, MAX_RECORDS_PER_DATA_KEY
from streamcrypt.errors import ConfigError

__all__ = ["MAX_GRACE_FACTOR", "CachePolicy", "RotationPolicy", "parse_duration", "parse_size"]

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MAX_GRACE_FACTOR = 100
"""Above it a limit would mean nothing."""
_QUANTITY = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_duration(value: float | str) -> float:
    """Read a duration in seconds: ``300``, ``"300"``, ``"5m"``; units ms, s, m, h, d.

    Raises:
        ConfigError: It is neither a number nor a number with one of the units.
    """
    return _parse(value, _DURATION_UNITS, "s", "duration")


def parse_size(value: int | str) -> int:
    """Read a size in bytes: ``1024``, ``"1024"``, ``"1KiB"``; units B, KiB, MiB, GiB.

    Raises:
        ConfigError: It is neither a number nor a number with one of the units, or no whole number of bytes.
    """
    size = _parse(value, _SIZE_UNITS, "B", "size")
    if not math.isfinite(size) or size != int(size):
        raise ConfigError(f"{value!r} is no whole number of bytes")
    return int(size)


def _parse(value: float | str, units: dict[str, float] | dict[str, int], default: str, what: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    unit = (match[2] or default) if match else ""
    if match is None or unit not in units:
        raise ConfigError(f"{value!r} is no {what}: a number, or a number with one of {', '.join(units)}")
    number = float(match[1]) if "." in match[1] else int(match[1])
    return number * units[unit]


def _check_whole(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is no whole number")


@dataclass(frozen=True, slots=True)
class RotationPolicy:
    """A data key is replaced after so many messages, seconds or bytes, whichever comes first.

    Attributes:
        max_messages: Records sealed under one key, 1 to 2^32. Default 1,000,000: at 300,000 records/s one call to
            KMS every three seconds, and what one exposed key opens stays small.
        max_age: Seconds since the key was minted, or a string such as ``"5m"``. Default 5 minutes: a revoked
            permission stops sealing within that time, and 20 writers make 240 calls to KMS an hour.
        max_bytes: Plaintext and AAD sealed under one key, 1 to 64 GiB, or a string such as ``"16GiB"``. A record
            larger than this gets a key of its own. Default 16 GiB: a quarter of the ceiling (spec: 7.1).
        grace: Seconds for which a due key seals on where the key service is away (:class:`KeyUnavailable`) and gives
            no successor, or a string; 0: none. It is no longer than this past ``max_age`` either. Default 1 minute:
            most throttling and every failover inside a region is over by then, and a permission revoked during an
            outage stops sealing within ``max_age`` and this minute. A refusal ends a grace at once.
        grace_factor: How often over ``max_messages`` and ``max_bytes`` a key may be used in grace, 1 to 100, and never
            past the ceiling of the suites. Default 4: the default of ``max_bytes`` then ends at that ceiling.

    Raises:
        ConfigError: A limit is not positive, or above the ceiling of the suites.
    """

    max_messages: int = 1_000_000
    max_age: float = 300.0
    max_bytes: int = 16 * 2**30
    grace: float = 60.0
    grace_factor: float = 4.0

    if TYPE_CHECKING:
        # What may be passed is more than what is read: type checkers take this for the constructor.
        def __init__(
            self,
            max_messages: int = ...,
            max_age: float | str = ...,
            max_bytes: int | str = ...,
            grace: float | str = ...,
            grace_factor: float = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_age", parse_duration(self.max_age))
        object.__setattr__(self, "max_bytes", parse_size(self.max_bytes))
        object.__setattr__(self, "grace", parse_duration(self.grace))
        _check_whole(self.max_messages, "rotation.max_messages")
        if not 1 <= self.max_messages <= MAX_RECORDS_PER_DATA_KEY:
            raise ConfigError(
                f"rotation.max_messages is not 1 to {MAX_RECORDS_PER_DATA_KEY}, the ceiling of the suites"
            )
        if not 1 <= self.max_bytes <= MAX_BYTES_PER_DATA_KEY:
            raise ConfigError("rotation.max_bytes is not 1 B to 64GiB, the ceiling of the suites")
        if not self.max_age > 0:
            raise ConfigError("rotation.max_age is not above zero")
        if not 0 <= self.grace < math.inf:
            raise ConfigError("rotation.grace is not zero or above")
        if isinstance(self.grace_factor, bool) or not isinstance(self.grace_factor, (int, float)):
            raise ConfigError("rotation.grace_factor is no number")
        if not 1 <= self.grace_factor <= MAX_GRACE_FACTOR:
            raise ConfigError(f"rotation.grace_factor is not 1 to {MAX_GRACE_FACTOR}")

    def due(self, messages: int, used_bytes: int, age: float, record_bytes: int) -> str | None:
        """Say why a key may not seal one more record of ``record_bytes``: messages, bytes or age; None if it may."""
        if messages >= self.max_messages:
            return "messages"
        if messages and used_bytes + record_bytes > self.max_bytes:
            return "bytes"
        if age >= self.max_age:
            return "age"
        return None

    @property
    def grace_messages(self) -> int:
        """The most records under one key, grace included."""
        return min(int(self.max_messages * self.grace_factor), MAX_RECORDS_PER_DATA_KEY)

    @property
    def grace_bytes(self) -> int:
        """The most bytes under one key, grace included."""
        return min(int(self.max_bytes * self.grace_factor), MAX_BYTES_PER_DATA_KEY)

    def grace_allows(self, messages: int, used_bytes: int, age: float, record_bytes: int) -> bool:
        """Say whether a due key may seal one more record in grace, apart from how long that grace has lasted."""
        return (
            self.grace > 0
            and messages < self.grace_messages
            and used_bytes + record_bytes <= self.grace_bytes
            and age < self.max_age + self.grace
        )


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How many opened data keys a reader keeps, and for how long.

    Attributes:
        max_entries: Data keys kept, least recently used dropped first. Default 10,000, about 25 MB.
        ttl: Seconds from unwrapping until KMS is asked again, whatever the use; or a string such as ``"15m"``. It is
            the time within which a revoked permission stops reading: never stretched, not even while KMS is away. A
            key is in fact kept for 90 to 100 % of it, by chance, so that a fleet does not ask together. Default 15
            minutes.
        refusal_ttl: Seconds for which a refused header is refused without asking KMS again. Default 30 seconds.
            Only refusals of the record are kept, never "access denied" or "key disabled".
        refused_misses_per_minute: Refusals by KMS that one partition may cause in a minute before it has to wait, so
            that junk headers do not eat the KMS quota of the account. Default 600.

    Raises:
        ConfigError: A value is not positive.
    """

    max_entries: int = 10_000
    ttl: float = 900.0
    refusal_ttl: float = 30.0
    refused_misses_per_minute: int = 600

    if TYPE_CHECKING:
        # As in RotationPolicy.
        def __init__(
            self,
            max_entries: int = ...,
            ttl: float | str = ...,
            refusal_ttl: float | str = ...,
            refused_misses_per_minute: int = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "ttl", parse_duration(self.ttl))
        object.__setattr__(self, "refusal_ttl", parse_duration(self.refusal_ttl))
        _check_whole(self.max_entries, "cache.max_entries")
        _check_whole(self.refused_misses_per_minute, "cache.refused_misses_per_minute")
        for name in ("max_entries", "ttl", "refusal_ttl", "refused_misses_per_minute"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"cache.{name} is not above zero")
