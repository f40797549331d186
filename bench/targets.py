"""What the figures have to reach, said once: the table on screen and docs/performance.md both come from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Spread, added, ratio, spread

__all__ = ["TARGETS", "Target", "Verdict", "judge"]

_Measured = Mapping[str, Sequence[float]]
_CALL = "client/1024/AESGCM/us"


@dataclass(frozen=True, slots=True)
class Target:
    """One claim.

    Attributes:
        claim: In words; 1 KB, 4 partitions and one worker where it names nothing else.
        limit: The value to reach.
        at_least: Whether the limit is a lower one.
        digits: Decimals to show.
        command: What measures it.
        measure: Gives its value in each round; empty where the run did not measure it.
    """

    claim: str
    limit: float
    at_least: bool
    digits: int
    command: str
    measure: Callable[[_Measured], list[float]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of a target.

    Attributes:
        target: The target.
        measured: Its value; None where the run did not measure it.
        met: Whether the median reaches the limit; None where nothing was measured.
    """

    target: Target
    measured: Spread | None
    met: bool | None


def _rates(this: str, that: str) -> Callable[[_Measured], list[float]]:
    return lambda s: ratio(s, f"loop/1024/{this}/records_per_s", f"loop/1024/{that}/records_per_s")


def _added_calls(act: str) -> Callable[[_Measured], list[float]]:
    return lambda s: added(s, f"client/1024/{act} wrapper/us", f"client/1024/{act} plain/us", _CALL)


def _of_confluent(act: str) -> Callable[[_Measured], list[float]]:
    def measure(s: _Measured) -> list[float]:
        theirs = added(s, f"peer/Confluent payload encryption/{act}_us", f"peer/Confluent without the rule/{act}_us")
        return [our / their for our, their in zip(s.get(f"peer/streamcrypt/{act}_us", ()), theirs, strict=False)]

    return measure


def _of_aws(act: str) -> Callable[[_Measured], list[float]]:
    return lambda s: ratio(s, f"peer/streamcrypt/{act}_us", f"peer/AWS Encryption SDK with cache/{act}_us")


def _wire(size: int) -> Callable[[_Measured], list[float]]:
    return lambda s: added(s, f"loop/{size}/encrypt/wire_bytes", f"loop/{size}/plain topic/wire_bytes")


def _overhead(s: _Measured) -> list[float]:
    # Of one and the same run: from run to run the thread's time differs by more than this.
    name = "loop/1024/encrypt, observed"
    shares = ratio(s, f"{name}/observers_us", f"{name}/main_us")
    return [100 * share / (1 - share) for share in shares]


def _one(name: str) -> Callable[[_Measured], list[float]]:
    return lambda s: list(s.get(name, ()))


_LOOPS, _CLIENTS, _PEERS = "python -m bench loops", "python -m bench clients", "python -m bench peers"
_SIDECAR = "python -m bench sidecar"

TARGETS = (
    Target("encrypt loop, share of the raw copy loop's records/s", 0.80, True, 2, _LOOPS, _rates("encrypt", "copy")),
    Target("decrypt loop, share of the raw copy loop's records/s", 0.75, True, 2, _LOOPS, _rates("decrypt", "copy")),
    Target("exactly once, share of at least once", 0.90, True, 2, _LOOPS, _rates("encrypt, exactly once", "encrypt")),
    Target(
        "EncryptingProducer: main thread added per record, in bare AESGCM calls",
        3.5,
        False,
        2,
        _CLIENTS,
        _added_calls("produce"),
    ),
    Target(
        "DecryptingConsumer: main thread added per record, in bare AESGCM calls",
        2.5,
        False,
        2,
        _CLIENTS,
        _added_calls("consume"),
    ),
    Target("Encryptor.encrypt, share of what Confluent's rule adds", 1 / 8, False, 3, _PEERS, _of_confluent("encrypt")),
    Target("Decryptor.decrypt, share of what Confluent's rule adds", 1 / 8, False, 3, _PEERS, _of_confluent("decrypt")),
    Target("Encryptor.encrypt, share of the AWS Encryption SDK's call", 1 / 40, False, 4, _PEERS, _of_aws("encrypt")),
    Target("Decryptor.decrypt, share of the AWS Encryption SDK's call", 1 / 40, False, 4, _PEERS, _of_aws("decrypt")),
    Target("wire bytes above plaintext with lz4, 100 B", 30, False, 1, _LOOPS, _wire(100)),
    Target("wire bytes above plaintext with lz4, 1 KB", 30, False, 1, _LOOPS, _wire(1024)),
    Target("start of the sidecar to the first sealed record, s", 1.5, False, 2, _SIDECAR, _one("sidecar/start_s")),
    Target("steady memory of the sidecar, MB", 200, False, 0, _SIDECAR, _one("sidecar/rss_steady_mb")),
    Target(
        "metrics, health, status and logs: main thread added to the encrypt loop, %", 2, False, 2, _LOOPS, _overhead
    ),
)


def judge(samples: _Measured) -> list[Verdict]:
    """Hold the medians of a run to the targets, in their order."""
    return [_verdict(target, target.measure(samples)) for target in TARGETS]


def _verdict(target: Target, values: Sequence[float]) -> Verdict:
    if not values:
        return Verdict(target, None, None)
    measured = spread(values)
    met = measured.median >= target.limit if target.at_least else measured.median <= target.limit
    return Verdict(target, measured, met)
