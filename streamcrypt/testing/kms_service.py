"""A KMS over HTTP: the AWS JSON 1.1 protocol, so that boto3 and every AWS SDK connect by ``endpoint_url``.

Keys, states, aliases, contexts and errors behave as at AWS; data keys are really encrypted. Signatures and key
policies are not checked: never put a real secret under it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamcrypt.testing.kms_call import Call, Members, World, read_context
from streamcrypt.testing.kms_faults import Fault, FaultPlan, status_of
from streamcrypt.testing.kms_http import Listener
from streamcrypt.testing.kms_model import ServiceError
from streamcrypt.testing.kms_operations import OPERATIONS
from streamcrypt.testing.kms_seed import plant, read_seed

__all__ = ["KMSCall", "KMSServer"]

_TARGET_PREFIX = "TrentService."
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([a-z0-9-]+)/kms/aws4_request")
_CLOSING_SECONDS = 5.0
_KEPT_CALLS = 100_000  # a laptop stack runs for weeks


@dataclass(frozen=True, slots=True)
class KMSCall:
    """One request that reached the server, as CloudTrail would show it.

    Attributes:
        operation: Such as ``GenerateDataKey``.
        key_arn: The key's ARN; empty where none was found or the fault came first.
        context: The encryption context, ascending by name.
        outcome: ``ok``, an error code, or the fault: ``hang``, ``drop``, ``garbage``.
        request_id: As in the answer's ``x-amzn-RequestId``.
        time: Seconds since 1970, by the server's clock.
        region: From the request's signature.
    """

    operation: str
    key_arn: str
    context: tuple[tuple[str, str], ...]
    outcome: str
    request_id: str
    time: float
    region: str


class KMSServer:
    """A KMS for tests and laptops. Use it as a context manager, or call :meth:`start` and :meth:`close`.

    Args:
        host: Where to listen. Loopback by default, since nothing is authenticated.
        port: 0 picks a free one.
        account: The account of all keys; a seed may name another.
        region: Of :meth:`create_key` where none is given, and of :attr:`default_key`.
        seed: Path of a JSON file with keys; see :mod:`streamcrypt.testing.kms_seed`.
        random_seed: Of the chance behind faults with a fraction; the same one gives the same run.
        clock: Returns seconds since 1970; decides when a key pending deletion is gone.

    Raises:
        ConfigError: The seed file is not usable.
        OSError: The port is taken.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        account: str = "111122223333",
        region: str = "eu-west-1",
        seed: str | Path | None = None,
        random_seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        planted: dict[str, Any] = read_seed(seed) if seed is not None else {"keys": []}
        self.region = region
        self._clock = clock
        self._lock = threading.RLock()
        self._world = World(str(planted.get("account", account)), clock)
        self.seeded = tuple(plant(self._world, planted))
        """ARNs of the keys from the seed file, in its order."""
        self._faults = FaultPlan(random_seed)
        self._calls: deque[KMSCall] = deque(maxlen=_KEPT_CALLS)
        self._released = threading.Event()
        self._http = Listener((host, port), self)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The endpoint URL for clients on this machine."""
        host, port = self._http.server_address[:2]
        name = str(host)
        return f"http://{'127.0.0.1' if name == '0.0.0.0' else name}:{port}"  # noqa: S104 - compared, not bound

    def start(self) -> Self:
        """Serve on a background thread."""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="kms", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Release what hangs, end every connection and stop. May be called twice."""
        self.heal()
        self._released.set()
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()
        self._http.end_connections(_CLOSING_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- keys, without a client ----

    def call(self, operation: str, *, region: str | None = None, **members: Any) -> Members:
        """Do an operation in process, with the members of the API and no entry in the call log.

        Blobs are base64 text, as on the wire.

        Raises:
            ServiceError: The service's error, with its ``code``.
        """
        with self._lock:
            return OPERATIONS[operation](Call(self._world, self._world.region(region or self.region), members)) or {}

    def create_key(self, *aliases: str, region: str | None = None, **members: Any) -> str:
        """Create a key and aliases for it; return its ARN. ``members``: those of CreateKey."""
        arn = str(self.call("CreateKey", region=region, **members)["KeyMetadata"]["Arn"])
        for alias in aliases:
            self.call("CreateAlias", region=region, AliasName=alias, TargetKeyId=arn)
        return arn

    # ---- the call log ----

    @property
    def calls(self) -> list[KMSCall]:
        """A copy of the call log, oldest first; the last 100,000 calls are kept."""
        with self._lock:
            return list(self._calls)

    def count(self, operation: str, outcome: str | None = None) -> int:
        """Count the requests of an operation, whatever came of them, or those with one outcome."""
        return sum(call.operation == operation and outcome in {None, call.outcome} for call in self.calls)

    def forget_calls(self) -> None:
        """Empty the call log."""
        with self._lock:
            self._calls.clear()

    # ---- faults: each hits `count` requests (None: no end), or a `fraction` of them, until `heal` ----

    def fail(
        self, code: str, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*"
    ) -> None:
        """Answer with an error: ThrottlingException, AccessDeniedException, KMSInternalException, or any code."""
        self._faults.add(Fault("error", operation, region, code=code, count=count, fraction=fraction))

    def delay(
        self,
        seconds: float,
        operation: str = "*",
        *,
        count: int | None = None,
        fraction: float = 1.0,
        region: str = "*",
    ) -> None:
        """Answer late by ``seconds``. Delays add up."""
        self._faults.add(Fault("delay", operation, region, seconds=seconds, count=count, fraction=fraction))

    def hang(self, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*") -> None:
        """Take requests and answer nothing until :meth:`heal`, which lets them go on as if nothing had been."""
        self._faults.add(Fault("hang", operation, region, count=count, fraction=fraction))

    def drop(self, operation: str = "*", *, count: int | None = None, fraction: float = 1.0, region: str = "*") -> None:
        """Take requests and close the connection."""
        self._faults.add(Fault("drop", operation, region, count=count, fraction=fraction))

    def garble(
        self,
        operation: str = "*",
        *,
        body: bytes = b"\x00<html>not JSON",
        count: int | None = None,
        fraction: float = 1.0,
        region: str = "*",
    ) -> None:
        """Answer status 200 with ``body``, as a broken proxy would."""
        self._faults.add(Fault("garbage", operation, region, body=body, count=count, fraction=fraction))

    def heal(self) -> None:
        """End every fault and let hanging requests go on."""
        self._faults.clear()
        with self._lock:
            self._released.set()
            self._released = threading.Event()

    # ---- one request ----

    def answer(self, target: str, authorization: str, body: bytes, request_id: str) -> tuple[int, bytes] | None:
        """Answer one request: status and body, or None to close the connection."""
        operation = target.removeprefix(_TARGET_PREFIX)
        scope = _SCOPE.search(authorization)
        region = scope[1] if scope else ""
        members = _read_members(body)
        entry = KMSCall(operation, "", read_context(members or {}), "ok", request_id, self._clock(), region)
        released = self._released
        delay, fault = self._faults.draw(operation, region)
        if delay:
            released.wait(delay)
        if fault is None:
            answer, entry = self._operate(entry, target, members)
            self._log(entry)
            return answer
        if fault.trouble == "error":
            self._log(replace(entry, outcome=fault.code))
            return _refusal(ServiceError(fault.code, "injected by the test", status_of(fault.code)))
        self._log(replace(entry, outcome=fault.trouble))
        if fault.trouble == "garbage":
            return 200, fault.body
        if fault.trouble == "drop":
            return None
        released.wait()
        return self._operate(entry, target, members)[0]

    def _operate(self, entry: KMSCall, target: str, members: Members | None) -> tuple[tuple[int, bytes], KMSCall]:
        call = None
        try:
            call = self._admit(target, entry.region, members)
            with self._lock:
                answer = 200, _encode(OPERATIONS[entry.operation](call))
        except ServiceError as error:
            key_arn = error.key_arn or (call.key_arn if call else "")
            return _refusal(error), replace(entry, outcome=error.code, key_arn=key_arn)
        return answer, replace(entry, key_arn=call.key_arn)

    def _admit(self, target: str, region: str, members: Members | None) -> Call:
        if not region:
            raise ServiceError("MissingAuthenticationTokenException", "Missing Authentication Token")
        if not target.startswith(_TARGET_PREFIX) or target.removeprefix(_TARGET_PREFIX) not in OPERATIONS:
            raise ServiceError("UnknownOperationException")
        if members is None:
            raise ServiceError("SerializationException")
        with self._lock:
            return Call(self._world, self._world.region(region), members)

    def _log(self, entry: KMSCall) -> None:
        with self._lock:
            self._calls.append(entry)


def _refusal(error: ServiceError) -> tuple[int, bytes]:
    return error.status, _encode({"__type": error.code, "message": error.message})


def _read_members(body: bytes) -> Members | None:
    try:
        members = json.loads(body)
    except ValueError:
        return None
    return members if isinstance(members, dict) else None


def _encode(members: Members | None) -> bytes:
    return b"" if members is None else json.dumps(members).encode()
