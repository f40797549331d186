"""After KMS said no, it is asked again slowly: repeating a refused call mends nothing and fills CloudTrail."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamcrypt.errors import KeyRefused, StreamcryptError, again
from streamcrypt.keys.aws_kms.errors import ACCESS_DENIED

__all__ = ["PROBE_SECONDS", "Refusals", "Request"]

PROBE_SECONDS = 10.0
"""A refused request is made again no sooner than 10 to 12.5 s later, by who asks then."""
# A role, a policy or a grant just made is not known everywhere at once: these many seconds after the first call an
# AccessDenied is asked about again sooner, a few times. Source: IAM User Guide, "eventually consistent"; AWS KMS
# Developer Guide, "Grants": usually seconds, up to five minutes.
_SETTLING_SECONDS = 60.0
_SETTLING_PAUSES = (1.0, 2.0, 4.0)
_MANY = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What KMS was asked for: an operation under a key in an encryption context.

    Attributes:
        operation: Such as ``GenerateDataKey``.
        region: Where it was asked: an alias may be another key's in each region, or missing.
        key_id: The KEK; for ReEncrypt, the one to wrap with.
        context: The encryption context, ascending by name.
        source_key_id: For ReEncrypt, the KEK to unwrap with.
    """

    operation: str
    region: str
    key_id: str
    context: tuple[tuple[str, str], ...]
    source_key_id: str = ""

    def scope(self, code: str) -> Request:
        """Say what a refusal with this code is about: a policy may name the context, a key's state does not."""
        return self if code == ACCESS_DENIED else self.in_any_context()

    def in_any_context(self) -> Request:
        """Give the same request whatever its context."""
        return replace(self, context=())


@dataclass(frozen=True, slots=True)
class _Refusal:
    error: StreamcryptError
    until: float
    count: int


class Refusals:
    """Which requests were refused lately, and may not be made again yet. Safe to share between threads.

    Args:
        clock: Returns seconds and only goes forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: float | None = None
        self._refused: dict[Request, _Refusal] = {}
        self._lately: dict[tuple[str, str], float] = {}
        self.forget()

    def forget(self) -> None:
        """Make the lock anew: in a forked child, another thread's hold on it would never end."""
        self._lock = threading.Lock()

    def repeat(self, request: Request) -> None:
        """Repeat the last refusal of such a request without a call, until it may be made again.

        Raises:
            KeyRefused: It was refused lately.
        """
        with self._lock:
            if self._started is None:
                self._started = self._clock()
            for scope in dict.fromkeys((request, request.in_any_context())):
                refusal = self._refused.get(scope)
                if refusal is None:
                    continue
                if self._clock() < refusal.until:
                    raise again(refusal.error)
                # This caller asks, and nobody beside it.
                self._refused[scope] = replace(refusal, until=self._clock() + PROBE_SECONDS)

    def remember(self, request: Request, code: str, error: KeyRefused) -> None:
        """Note that KMS refused a request with ``code``."""
        with self._lock:
            now, scope = self._clock(), request.scope(code)
            before = self._refused.pop(scope, None)
            count = before.count if before is not None else 0
            if (
                code == ACCESS_DENIED
                and count < len(_SETTLING_PAUSES)
                and now - (self._started or now) < _SETTLING_SECONDS
            ):
                pause = _SETTLING_PAUSES[count]
            else:
                pause = PROBE_SECONDS
            # A context comes from a record: whoever writes records must not fill the memory.
            if len(self._refused) >= _MANY:
                self._refused.pop(next(iter(self._refused)))
            until = now + pause * random.uniform(1.0, 1.25)  # noqa: S311 - spread, no secret
            self._refused[scope] = _Refusal(again(error), until, count + 1)
            if len(self._lately) >= _MANY:
                self._lately.pop(next(iter(self._lately)))
            self._lately[request.operation, request.key_id] = until

    def clear(self, request: Request) -> None:
        """Note that KMS granted a request."""
        if self._refused:
            with self._lock:
                self._refused.pop(request, None)
                self._refused.pop(request.in_any_context(), None)
                self._lately.pop((request.operation, request.key_id), None)

    def lately(self, operation: str, key_id: str) -> bool:
        """Say whether such a request was refused and may not be made again yet, in some context at least."""
        until = self._lately.get((operation, key_id))
        return until is not None and self._clock() < until
