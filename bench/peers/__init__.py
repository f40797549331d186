"""Other ways to encrypt a record, called as their own documentation says, and ours, in one process, in turn.

No broker: what is compared is the cost of a record's value on the application's thread. A peer that is not installed
is named as absent with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from bench.clients import per_call
from bench.peers.way import Way

__all__ = ["measure"]

_PEERS = ("streamcrypt", "aes", "confluent", "aws", "tink")
_VALUES = 20
_COUNT = 500
_REPEATS = 3


def measure(bootstrap: str, keys: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Measure one round; give ``samples``, and for ``absent`` peers the reason.

    Args:
        bootstrap: Not used.
        keys: The section ``keys`` of a configuration: the KMS and the KEK of those that can use it.
        size: Bytes of a value.
    """
    values = [os.urandom(size) for _ in range(_VALUES)]
    samples: dict[str, float] = {}
    absent: dict[str, str] = {}
    calls: dict[str, Callable[[int], object]] = {}
    nothing = Way("nothing", lambda value: value, lambda sealed: sealed)
    ways: list[Way] = []
    for peer in _PEERS:
        try:
            ways += import_module(f"bench.peers.{peer}").ways(keys)
        except ImportError as missing:
            absent[peer] = f"not installed: {missing}"
        except Exception as failure:
            absent[peer] = f"does not work here: {type(failure).__name__}: {failure}"
    for way in ways:
        samples[f"{way.name}/added_bytes"] = _add(way, values, calls)
    samples.update(
        per_call(calls, len(values), lambda number: nothing.encrypt(values[number]), count=_COUNT, repeats=_REPEATS)
    )
    for way in ways:
        way.close()
    return {"samples": samples, "absent": absent}


def _add(way: Way, values: list[bytes], calls: dict[str, Callable[[int], object]]) -> float:
    sealed = [way.encrypt(value) for value in values]
    opened = [way.decrypt(one) for one in sealed]
    if opened != values:
        raise RuntimeError(f"{way.name} does not give back what it was given")
    calls[f"{way.name}/encrypt_us"] = lambda number: way.encrypt(values[number])
    calls[f"{way.name}/decrypt_us"] = lambda number: way.decrypt(sealed[number])
    return float(way.size(sealed[0]) - len(values[0]))
