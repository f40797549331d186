"""What is wrong, in plain words and since when: the sentence on top of the status page. Pure: JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from streamcrypt.errors import KeyRefused
from streamcrypt.observe.status_keys import blamed

__all__ = ["clock", "lasting", "sentences"]

_RECENT = 900.0  # a failed record stays in the head line for so many seconds
_MOST_NAMES = 3
_UNITS = ((1, "s", 120), (60, "min", 120), (3600, "h", 48))
# In the sentence as in its colour: worst first.
_LEVELS = ("bad", "warn", "busy", "ok")
_THROTTLES = frozenset({"ThrottlingException", "LimitExceededException", "RequestLimitExceeded"})
_NOTHING_LOST = "Records wait in Kafka; nothing is lost while the topics keep them."

Sentence = dict[str, Any]


def sentences(status: Mapping[str, Any]) -> list[Sentence]:
    """Say what an operator must know of a process, worst and oldest first; one sentence where all is well.

    Args:
        status: A snapshot, or several merged.

    Returns:
        Objects with ``level`` (bad, warn, busy, ok), ``text``, ``lasting`` (how long, in words; it changes while the
        text does not), ``then`` (what it means), ``remedy`` and ``since``.
    """
    found = [
        *_pipelines(status),
        *_waiting(status),
        *_workers(status),
        *_regions(status),
        *_refusing_keks(status),
        *_graces(status),
        *_fewer(status),
        *_failures(status),
        *_development(status),
    ]
    if not found:
        found = [_well(status)]
    found.sort(key=lambda one: (_LEVELS.index(one["level"]), one["since"] or status["now"]))
    for one in found:
        one["lasting"] = lasting(status["now"] - one["since"]) if one["since"] is not None else ""
    return found


def clock(time: float, now: float) -> str:
    """Write a time of the Unix clock in UTC, with the day where it is not that of ``now``."""
    when, today = datetime.fromtimestamp(time, UTC), datetime.fromtimestamp(now, UTC)
    return when.strftime("%H:%M:%S UTC" if when.date() == today.date() else "%Y-%m-%d %H:%M:%S UTC")


def lasting(seconds: float) -> str:
    """Write how long something lasts, as precise as a person wants it."""
    whole = max(0, int(seconds))
    for unit, name, enough in _UNITS:
        if whole < enough * unit:
            return f"{whole // unit} {name}"
    return f"{whole // 86400} days"


def _say(level: str, text: str, since: float | None, then: str = "", remedy: str = "") -> Sentence:
    return {"level": level, "text": text, "since": since, "then": then, "remedy": remedy}


def _names(names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    more = len(known) - _MOST_NAMES
    return " and ".join(known) if more <= 0 else f"{', '.join(known[:_MOST_NAMES])} and {more} more"


# -- pipelines ---------------------------------------------------------------------------------------------------------


def _pipelines(status: Mapping[str, Any]) -> Iterator[Sentence]:
    now = status["now"]
    for pipeline in status["pipelines"]:
        if pipeline["brokers_away_since"] is not None:
            yield _brokers_away(pipeline, now)
        name, since, why = pipeline["name"], pipeline["since"], pipeline["why"] or {}
        at, cause, remedy = clock(since, now), _cause(why), why.get("remedy", "")
        match pipeline["state"]:
            case "halted":
                text = f"{name} has halted at {at}: {cause}"
                yield _say("bad", text, since, "Nothing more passes until somebody acts; nothing is lost.", remedy)
            case "stalled":
                text = f"{name} stands still: its loop has not turned since {at}."
                yield _say("bad", text, since, "The liveness probe fails, so an orchestrator starts it again.")
            case "restarting":
                text = f"{name} starts again, and has been out of work since {at}: {cause}"
                yield _say("bad", text, since, _NOTHING_LOST, remedy)
            case "starting" if why:
                text = f"{name} joins its consumer group again, and has been out of work since {at}: {cause}"
                yield _say("warn", text, since, _NOTHING_LOST, remedy)
            case "starting":
                yield _say("busy", f"{name} joins its consumer group since {at}.", since)
            case "not_started":
                yield _say("busy", f"{name} has not started yet.", since)
            case "paused":
                yield _say("warn", f"{name} was paused by an operator at {at}.", since, _NOTHING_LOST)
            case "stopped":
                yield _say("warn", f"{name} has stopped at {at}.", since, "It does so when it is told to end.")
            case _:
                pass


def _brokers_away(pipeline: Mapping[str, Any], now: float) -> Sentence:
    since = pipeline["brokers_away_since"]
    text = f"{pipeline['name']} reaches no Kafka broker since {clock(since, now)}."
    return _say("bad", text, since, "It goes on by itself; nothing is lost.", "Look at the brokers and the network.")


def _workers(status: Mapping[str, Any]) -> Iterator[Sentence]:
    for worker in status["workers"]:
        if worker["restart_at"] is not None:
            at = clock(worker["since"], status["now"])
            text = f"Worker {worker['worker']} ended at {at} ({worker['reason']}); another takes its place."
            yield _say("warn", text, worker["since"], "Its partitions go to the others meanwhile; nothing is lost.")


def _cause(why: Mapping[str, Any]) -> str:
    return f"{why['error']}: {_full_stop(why['detail'])}" if why else ""


def _full_stop(text: str) -> str:
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def _waiting(status: Mapping[str, Any]) -> Iterator[Sentence]:
    """Say who waits; pipelines that wait for the same thing in one sentence."""
    alike: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for pipeline in status["pipelines"]:
        if pipeline["state"] == "waiting":
            alike.setdefault(_wait(status, pipeline["why"]), []).append(pipeline)
    for (cause, remedy), same in alike.items():
        since = min(pipeline["since"] for pipeline in same)
        held, assigned = (sum(pipeline[name] for pipeline in same) for name in ("held", "assigned"))
        part = "" if held >= assigned else f" with {held} of {assigned} partitions"
        who = f"{_names(p['name'] for p in same)} {'waits' if len(same) == 1 else 'wait'}"
        then = _NOTHING_LOST if not part else f"{_NOTHING_LOST} The other partitions go on."
        if same[0]["why"]["error"] == "KeyUnavailable":
            then += _last_errors(status)
        yield _say("bad", f"{who}{part} since {clock(since, status['now'])}: {cause}", since, then, remedy)


def _wait(status: Mapping[str, Any], why: Mapping[str, Any]) -> tuple[str, str]:
    """Give in words what a pipeline waits for, and what to do."""
    if why["error"] == "KeyUnavailable" and (away := _away(status)):
        return away, "It goes on by itself once KMS answers. Look at the network to KMS and at AWS's health page."
    if why["error"] == "KeyRefused":
        return f"KMS refuses: {_full_stop(why['detail'])}", why["remedy"]
    return _cause(why), why["remedy"]


# -- keys --------------------------------------------------------------------------------------------------------------


def _away(status: Mapping[str, Any]) -> str:
    """Say which regions give no answer, where that is known from their calls."""
    away = [r for r in status["regions"] if r["breaker_since"] is not None]
    away = away or [r for r in status["regions"] if r["failing_since"] is not None]
    throttled = [r["region"] for r in away if r["last_error"] in _THROTTLES]
    silent = [r["region"] for r in away if r["last_error"] not in _THROTTLES]
    parts = [f"AWS KMS in {_names(silent)} does not answer."] if silent else []
    parts += [f"AWS KMS in {_names(throttled)} throttles this account."] if throttled else []
    return " ".join(parts)


def _last_errors(status: Mapping[str, Any]) -> str:
    errors = [r["last_error"] for r in status["regions"] if r["failing_since"] is not None]
    return f" Last error: {_names(errors)}." if errors else ""


def _regions(status: Mapping[str, Any]) -> Iterator[Sentence]:
    waiting = any(p["state"] == "waiting" for p in status["pipelines"])
    away = [r for r in status["regions"] if r["breaker_since"] is not None]
    if not away or waiting:
        return
    since = min(r["failing_since"] or r["breaker_since"] for r in away)
    text = f"AWS KMS in {_names(r['region'] for r in away)} does not answer since {clock(since, status['now'])}."
    then = "Records still pass, under data keys at hand or by way of another region."
    yield _say(
        "warn", text, since, then, "It is probed by itself. Look at the network to KMS and at AWS's health page."
    )


def _refusing_keks(status: Mapping[str, Any]) -> Iterator[Sentence]:
    away = {r["region"] for r in status["regions"] if r["breaker_since"] is not None}
    for kek in status["keks"]:
        if (
            kek["failing_since"] is None
            or kek["region"] in away
            or not issubclass(blamed(kek["last_error"]), KeyRefused)
        ):
            continue
        text = f"KMS refuses {kek['id']} since {clock(kek['failing_since'], status['now'])}: {kek['last_error']}."
        yield _say("warn", text, kek["failing_since"], "", "Look at the key's state, its policy and the role.")


def _graces(status: Mapping[str, Any]) -> Iterator[Sentence]:
    for key in status["data_keys"]:
        if key["grace_until"] is not None:
            until = clock(key["grace_until"], status["now"])
            text = f"{key['topic']} is sealed on under a data key that is due ({key['grace_reason']}), until {until}."
            then = "KMS gives no successor; from then on records wait in Kafka. Nothing is lost."
            yield _say("warn", text, None, then)


def _fewer(status: Mapping[str, Any]) -> Iterator[Sentence]:
    short = [key for key in status["data_keys"] if key["missing"] and key["role"] == "current"]
    if short:
        missing = _names(kek for key in short for kek in key["missing"])
        text = f"{_names(key['topic'] for key in short)} is sealed without {missing}, which did not answer."
        remedy = "When it is back, rewrap these records: docs/regions.md."
        yield _say("warn", text, min(key["minted"] for key in short), "", remedy)


def _development(status: Mapping[str, Any]) -> Iterator[Sentence]:
    if status["keys"]["development"]:
        text = "The local keyring is in use: fit for development and tests only."
        yield _say("busy", text, None, "", "In production: whoever reads the keyring reads every record.")


# -- records -----------------------------------------------------------------------------------------------------------


def _failures(status: Mapping[str, Any]) -> Iterator[Sentence]:
    now = status["now"]
    recent = [f for f in status["failures"] if now - f["at"] < _RECENT and f["action"] != "halt"]
    if recent:
        last = recent[-1]
        where = f"{last['topic']}[{last['partition']}] at offset {last['offset']}"
        done = _names(
            {"dead_letter": "set aside as dead letters", "skip": "left behind"}.get(a, a) for a in _actions(recent)
        )
        count = "1 record" if len(recent) == 1 else f"{len(recent)} records"
        text = f"{count} of {_names(f['pipeline'] for f in recent)}: {done} in the last 15 minutes."
        at = clock(last["at"], now)
        then = f"Such a record can never pass, outage or not. The last one at {at}: {last['error']}, {where}."
        yield _say("warn", text, None, then, "See the failures below.")
    for pipeline in status["pipelines"]:
        if pipeline["sequence"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(pipeline["sequence"].items()))
            text = f"{pipeline['name']} found evidence in the sequence of its records: {kinds}."
            yield _say("warn", text, None, "", "Loss, replay or tampering: see sequence.found in docs/operations.md.")


def _actions(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(failure["action"] for failure in failures))


def _well(status: Mapping[str, Any]) -> Sentence:
    pipelines = status["pipelines"]
    if not pipelines:
        return _say("busy", "No pipeline has started yet.", None)
    rate = sum(p["rate"] for p in pipelines)
    lags = [p["lag"] for p in pipelines if p["lag"] is not None]
    behind = f", {sum(lags):,} behind" if lags else ""
    every = f"{pipelines[0]['name']} runs" if len(pipelines) == 1 else f"All {len(pipelines)} pipelines run"
    if not sum(p["assigned"] for p in pipelines):
        return _say("ok", f"{every}, without partitions: other members of the group have them.", None)
    return _say("ok", f"{every}: {rate:,.0f} records a second{behind}.", None)
