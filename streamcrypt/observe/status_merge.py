"""Snapshots of several worker processes as that of one: the page shows a sidecar, however many processes it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from streamcrypt.observe.status_series import added

__all__ = ["merge"]

# Worst first: what one worker suffers is what an operator must hear of the pipeline.
_STATES = ("halted", "stalled", "waiting", "restarting", "starting", "not_started", "stopped", "paused", "running")
_MOST = {"failures": 30, "history": 60, "rotations": 100, "data_keys": 400}
_SUMS = ("assigned", "held", "records", "bytes_in", "rate", "dead_letters", "skipped", "plaintext", "restarts")


def merge(snapshots: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Make one snapshot of several.

    Counts and series are added, lists joined in order of time and cut to their bounds. A pipeline has the worst state
    that it has anywhere, since the earliest time; a region or KEK is failing where it fails for one process.

    Args:
        snapshots: As :meth:`streamcrypt.observe.status.Status.snapshot` gives them.

    Raises:
        ValueError: There is none.
    """
    parts = list(snapshots)
    if not parts:
        raise ValueError("no snapshot to merge")
    return {
        "now": max(part["now"] for part in parts),
        "processes": [process for part in parts for process in part["processes"]],
        "pipelines": [_pipeline(same) for same in _grouped(parts, "pipelines", ("name",))],
        "workers": [worker for part in parts for worker in part["workers"]],
        "failures": _in_time(parts, "failures"),
        "history": _in_time(parts, "history"),
        "rotations": _in_time(parts, "rotations"),
        # Only the supervisor reads the file.
        "reload": max((r for part in parts if (r := part.get("reload"))), key=lambda r: r["at"], default=None),
        "data_keys": [key for part in parts for key in part["data_keys"]][: _MOST["data_keys"]],
        "opened": [_opened(same) for same in _grouped(parts, "opened", ("topic",))],
        "keks": [_answers(same) for same in _grouped(parts, "keks", ("id", "region"))],
        "regions": [_answers(same) for same in _grouped(parts, "regions", ("region",))],
        "keys": {
            "minted": sum(part["keys"]["minted"] for part in parts),
            "retired": sum(part["keys"]["retired"] for part in parts),
            "development": any(part["keys"]["development"] for part in parts),
        },
    }


def _grouped(
    parts: Sequence[Mapping[str, Any]], name: str, key: tuple[str, ...]
) -> Iterable[Sequence[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for entry in chain.from_iterable(part[name] for part in parts):
        groups.setdefault(tuple(entry[field] for field in key), []).append(entry)
    return groups.values()


def _in_time(parts: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    entries = sorted(chain.from_iterable(part[name] for part in parts), key=lambda entry: entry["at"])
    return entries[-_MOST[name] :]


def _pipeline(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    worst = min(same, key=lambda one: (_STATES.index(one["state"]), one["since"]))
    series = [one["series"] for one in same]
    return {
        **worst,
        **{name: sum(one[name] for one in same) for name in _SUMS},
        "lag": _total(one["lag"] for one in same),
        "opened_held": _total(one["opened_held"] for one in same),
        "brokers_away_since": _earliest(one["brokers_away_since"] for one in same),
        "committed_at": _latest(one["committed_at"] for one in same),
        "waiting": sorted(chain.from_iterable(one["waiting"] for one in same), key=lambda entry: entry["since"])[:50],
        "topics": _added(one["topics"] for one in same),
        "sequence": _added(one["sequence"] for one in same),
        "series": {
            "until": max(one["until"] for one in series),
            "records": added(series, "records"),
            "lag": added(series, "lag"),
        },
    }


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, count in chain.from_iterable(one.items() for one in counts):
        total[name] = total.get(name, 0) + count
    return total


def _opened(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**max(same, key=lambda one: one["at"]), "opened": sum(one["opened"] for one in same)}


def _answers(same: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    latest = max(same, key=lambda one: one["error_at"] or 0)
    calls = sum(one["calls"] for one in same)
    found = {
        **latest,
        "calls": calls,
        "failed": sum(one["failed"] for one in same),
        "last_ok": _latest(one["last_ok"] for one in same),
        "failing_since": _earliest(one["failing_since"] for one in same),
        "seconds": round(sum(one["seconds"] * one["calls"] for one in same) / calls, 4) if calls else 0.0,
    }
    if "breaker_since" in latest:
        found["breaker_since"] = _earliest(one["breaker_since"] for one in same)
    return found


def _latest(times: Iterable[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)


def _earliest(times: Iterable[float | None]) -> float | None:
    return min((time for time in times if time is not None), default=None)
