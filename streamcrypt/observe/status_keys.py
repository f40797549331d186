"""What the status page knows of data keys, KEKs and KMS regions, folded from their events. Public ids only."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from streamcrypt import events
from streamcrypt.errors import AuthenticationFailed, KeyUnavailable, StreamcryptError, UntrustedKey
from streamcrypt.keys.aws_kms.errors import CLIENT_ERRORS, SERVICE_ERRORS
from streamcrypt.keys.rotation import RotationPolicy

__all__ = ["ID_CHARACTERS", "KeyStates", "blamed"]

ID_CHARACTERS = 16
"""Of a commitment's 64 hexadecimal digits: 64 bits tell the data keys of a cluster apart, and a line holds them."""

_MOST_DATA_KEYS = 200
_MOST_OPENED = 50
_MOST_KEKS = 100
_MOST_REGIONS = 20
_MOST_ROTATIONS = 100
_OK = "ok"
# What an answer blames besides KMS and the KEK, which are well then.
_BLAMES_RECORD = (AuthenticationFailed, UntrustedKey)

_State = TypeVar("_State")


@dataclass(slots=True)
class _DataKey:
    topic: str
    key_ids: tuple[str, ...]
    minted: float
    messages: int | None = None
    size: int | None = None
    grace_until: float | None = None
    grace_reason: str = ""
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class _Answers:
    """How a region or a KEK has answered. ``failing_since``: the first of the failures in a row."""

    calls: int = 0
    failed: int = 0
    last_ok: float | None = None
    last_error: str = ""
    error_at: float | None = None
    failing_since: float | None = None
    seconds: float = 0.0
    breaker_since: float | None = None

    def take(self, outcome: str, seconds: float, now: float, *, well: bool) -> None:
        self.calls += 1
        self.seconds = seconds if self.calls == 1 else 0.8 * self.seconds + 0.2 * seconds
        if well:
            self.last_ok, self.failing_since = now, None
            return
        self.failed += 1
        self.last_error, self.error_at = outcome, now
        self.failing_since = self.failing_since or now

    def as_json(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "failed": self.failed,
            "last_ok": self.last_ok,
            "last_error": self.last_error,
            "error_at": self.error_at,
            "failing_since": self.failing_since,
            "seconds": round(self.seconds, 4),
        }


def blamed(outcome: str) -> type[StreamcryptError]:
    """Give the kind of error that an outcome of a call means; StreamcryptError itself where the call went well."""
    if outcome == _OK:
        return StreamcryptError
    failure = SERVICE_ERRORS.get(outcome) or CLIENT_ERRORS.get(outcome)
    # What is in no table is a class of botocore below one that is: a time-out, or a connection that broke.
    return failure.kind if failure else KeyUnavailable


class KeyStates:
    """Folds the events of keys. Bounded: the least recently told of go first. Its owner holds the lock.

    Args:
        rotation: The limits of a data key; None: what is left of it is not known.
    """

    def __init__(self, rotation: RotationPolicy | None) -> None:
        self._rotation = rotation
        self._data_keys: OrderedDict[str, _DataKey] = OrderedDict()
        self._opened: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._keks: OrderedDict[tuple[str, str], _Answers] = OrderedDict()
        self._regions: OrderedDict[str, _Answers] = OrderedDict()
        self.rotations: deque[dict[str, Any]] = deque(maxlen=_MOST_ROTATIONS)
        self.minted = self.retired = 0
        self.development = False

    def rotate_by(self, rotation: RotationPolicy | None) -> None:
        """Count what is left of data keys by another policy."""
        self._rotation = rotation

    def minted_key(self, event: events.DataKeyMinted, now: float) -> None:
        """Take in a new data key."""
        self.minted += 1
        _put(self._data_keys, event.data_key, _DataKey(event.topic, event.key_ids, now), _MOST_DATA_KEYS)
        self.rotations.append({"at": now, "what": "minted", "topic": event.topic, "id": _public(event.data_key)})

    def wrapped_for_fewer(self, event: events.DataKeyWrappedForFewer) -> None:
        """Note which KEKs a data key is not wrapped for."""
        if key := self._data_keys.get(event.data_key):
            key.missing = event.missing

    def retired_key(self, event: events.DataKeyRetired, now: float) -> None:
        """Let a data key go; what it sealed stays on the time line."""
        self.retired += 1
        self._data_keys.pop(event.data_key, None)
        self.rotations.append(
            {
                "at": now,
                "what": "retired",
                "topic": event.topic,
                "id": _public(event.data_key),
                "reason": event.reason,
                "messages": event.messages,
                "bytes": event.bytes,
                "age": round(event.age, 1),
            }
        )

    def used(self, data_key: str, messages: int, size: int) -> None:
        """Note how much a data key has sealed."""
        if key := self._data_keys.get(data_key):
            key.messages, key.size = messages, size

    def grace_began(self, event: events.DataKeyGraceBegan, now: float) -> None:
        """Note that a data key seals on past its limits, and until when at most."""
        if key := self._data_keys.get(event.data_key):
            key.grace_until, key.grace_reason = now + event.seconds, event.reason

    def grace_ended(self, event: events.DataKeyGraceEnded) -> None:
        """Note that it does so no more."""
        if key := self._data_keys.get(event.data_key):
            key.grace_until, key.grace_reason = None, ""

    def opened_key(self, event: events.DataKeyOpened, now: float) -> None:
        """Note the data key that a topic's records were read with last."""
        before = self._opened.get(event.topic, {"opened": 0})
        state = {"id": _public(event.data_key), "kek": event.key_id, "at": now, "opened": before["opened"] + 1}
        _put(self._opened, event.topic, state, _MOST_OPENED)

    def called(self, event: events.KeyServiceCalled, now: float) -> None:
        """Note how KMS answered."""
        outcome, kind = event.outcome, blamed(event.outcome)
        region = _touch(self._regions, event.region, _Answers, _MOST_REGIONS)
        region.take(outcome, event.seconds, now, well=not issubclass(kind, KeyUnavailable))
        if event.key_id:
            kek = _touch(self._keks, (event.key_id, event.region), _Answers, _MOST_KEKS)
            kek.take(outcome, event.seconds, now, well=outcome == _OK or issubclass(kind, _BLAMES_RECORD))

    def breaker(self, region: str, since: float | None, now: float) -> None:
        """Note that a region is called no more but for probes (``since``), or again (None)."""
        state = _touch(self._regions, region, _Answers, _MOST_REGIONS)
        state.breaker_since = since
        if since is None:
            state.last_ok, state.failing_since = now, None

    def as_json(self, now: float) -> dict[str, Any]:
        """Give everything as objects."""
        return {
            "data_keys": self._data_keys_json(now),
            "opened": [{"topic": topic, **state} for topic, state in self._opened.items()],
            "keks": [{"id": key_id, "region": region, **s.as_json()} for (key_id, region), s in self._keks.items()],
            "regions": [
                {"region": region, "breaker_since": s.breaker_since, **s.as_json()}
                for region, s in self._regions.items()
            ],
            "rotations": list(self.rotations),
            "keys": {"minted": self.minted, "retired": self.retired, "development": self.development},
        }

    def _data_keys_json(self, now: float) -> list[dict[str, Any]]:
        sealing: set[tuple[str, tuple[str, ...]]] = set()
        found = []
        for data_key, key in self._data_keys.items():
            place = key.topic, key.key_ids
            # It was minted ahead of time where an earlier one seals for the same topic and KEKs.
            found.append(self._key_json(data_key, key, now, "next" if place in sealing else "current"))
            sealing.add(place)
        return found

    def _key_json(self, data_key: str, key: _DataKey, now: float, role: str) -> dict[str, Any]:
        limits = self._rotation
        return {
            "topic": key.topic,
            "id": _public(data_key),
            "role": role,
            "minted": key.minted,
            "age": max(0.0, now - key.minted),
            "max_age": limits.max_age if limits else None,
            "messages": key.messages,
            "messages_left": _left(limits.max_messages if limits else None, key.messages),
            "max_messages": limits.max_messages if limits else None,
            "bytes": key.size,
            "bytes_left": _left(limits.max_bytes if limits else None, key.size),
            "keks": list(key.key_ids),
            "missing": list(key.missing),
            "grace_until": key.grace_until,
            "grace_reason": key.grace_reason,
        }


def _public(data_key: str) -> str:
    return data_key[:ID_CHARACTERS]


def _left(limit: int | None, used: int | None) -> int | None:
    return None if limit is None or used is None else max(0, limit - used)


_Name = TypeVar("_Name")


def _put(states: OrderedDict[_Name, _State], name: _Name, state: _State, most: int) -> None:
    states[name] = state
    states.move_to_end(name)
    if len(states) > most:
        states.popitem(last=False)


def _touch(states: OrderedDict[_Name, _State], name: _Name, make: Callable[[], _State], most: int) -> _State:
    state = states.get(name)
    if state is None:
        state = make()
    _put(states, name, state, most)
    return state
