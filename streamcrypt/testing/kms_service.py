"""A KMS over HTTP: the AWS JSON 1.1 protocol, so that boto3 and every AWS SDK connect by ``endpoint_url``.

Keys, regions, states, rotation, aliases, contexts, policies, grants and errors behave as at AWS; data keys are really
encrypted. Signatures are not checked: never put a real secret under it.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from streamcrypt.testing.kms_call import Call, Members, read_context
from streamcrypt.testing.kms_faults import Faults, status_of
from streamcrypt.testing.kms_http import Listener
from streamcrypt.testing.kms_model import KMSKey, ServiceError
from streamcrypt.testing.kms_operations import OPERATIONS
from streamcrypt.testing.kms_region import World
from streamcrypt.testing.kms_seed import plant, read_seed
from streamcrypt.testing.kms_trail import CallLog, KMSCall, request_parameters

__all__ = ["KMSCall", "KMSServer"]

KeyState = Literal["Enabled", "Creating", "Updating", "PendingImport", "Unavailable"]

_TARGET_PREFIX = "TrentService."
_SCOPE = re.compile(r"Credential=([^/]+)/\d{8}/([a-z0-9-]+)/kms/aws4_request")
_KEY_MEMBERS = ("KeyId", "TargetKeyId", "DestinationKeyId")
_ARN_REGION = re.compile(r"arn:aws:kms:([a-z0-9-]+):")
_CLOSING_SECONDS = 5.0


class KMSServer(Faults, CallLog):
    """A KMS for tests and laptops. Use it as a context manager, or call :meth:`start` and :meth:`close`.

    Args:
        host: Where to listen. Loopback by default, since nothing is authenticated.
        port: 0 picks a free one.
        account: The account of all keys; a seed may name another.
        region: Of :meth:`create_key` and the like where neither a region nor an ARN is given.
        seed: Path of a JSON file with keys; see :mod:`streamcrypt.testing.kms_seed`.
        random_seed: Of the chance behind faults with a fraction; the same one gives the same run.
        clock: Returns seconds since 1970; decides when a key pending deletion is gone and a rotation is due.

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
        Faults.__init__(self, random_seed)
        CallLog.__init__(self, self._world.account)
        self.seeded = tuple(plant(self._world, planted))
        """ARNs of the keys from the seed file, in its order, without replicas."""
        self._closing = threading.Event()
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
        self._closing.set()
        self.heal()
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
        """Do an operation in process, with the members of the API, no entry in the call log and nobody judged.

        Blobs are base64 text, as on the wire. Without ``region`` it goes to the region of the ARN in ``KeyId``,
        ``TargetKeyId`` or ``DestinationKeyId``, if there is one, else to the server's own.

        Raises:
            ServiceError: The service's error, with its ``code``.
        """
        named = next((members[name] for name in _KEY_MEMBERS if name in members), "")
        match = _ARN_REGION.match(str(named))
        place = region or (match[1] if match else self.region)
        with self._lock:
            return OPERATIONS[operation](Call(self._world, self._world.region(place), members, operation)) or {}

    def create_key(self, *aliases: str, region: str | None = None, **members: Any) -> str:
        """Create a key and aliases for it; return its ARN. ``members``: those of CreateKey."""
        arn = str(self.call("CreateKey", region=region, **members)["KeyMetadata"]["Arn"])
        for alias in aliases:
            self.call("CreateAlias", region=region, AliasName=alias, TargetKeyId=arn)
        return arn

    def replicate(self, key_id: str, region: str, *aliases: str) -> str:
        """Replicate a multi-region primary key to a region, with aliases there; return the replica's ARN."""
        arn = str(self.call("ReplicateKey", KeyId=key_id, ReplicaRegion=region)["ReplicaKeyMetadata"]["Arn"])
        for alias in aliases:
            self.call("CreateAlias", region=region, AliasName=alias, TargetKeyId=arn)
        return arn

    def rotate(self, key_id: str) -> str:
        """Rotate the material of a key now, as an automatic rotation would; return the new material's id.

        It is not counted among the 25 on-demand rotations of a key. Of a replica, the whole key is rotated.
        """
        with self._lock:
            shared = self._find(key_id).shared
            material = shared.rotate("AUTOMATIC", self._clock())
            self._world.remember(shared)
            return material.id

    def set_state(self, key_id: str, state: KeyState) -> None:
        """Put a key, given by ARN, into a state that at AWS comes and goes by itself, or back to ``Enabled``.

        ``Creating`` is a fresh replica's, ``Updating`` that of keys whose primary moves, ``PendingImport`` that of keys
        without material, ``Unavailable`` that of keys whose store is away.
        """
        with self._lock:
            self._find(key_id).own_state = state

    def _find(self, key_id: str) -> KMSKey:
        match = _ARN_REGION.match(key_id)
        return self._world.region(match[1] if match else self.region).resolve(key_id)

    def disconnect_store(self, store_id: str) -> None:
        """Take a custom key store away: its keys are ``Unavailable`` until :meth:`connect_store`."""
        with self._lock:
            self._world.move_store(store_id, away=True)

    def connect_store(self, store_id: str) -> None:
        """Bring a custom key store back."""
        with self._lock:
            self._world.move_store(store_id, away=False)

    # ---- who may do what ----

    def allow(self, access_key_id: str, policy: Mapping[str, Any], name: str = "") -> None:
        """Attach an identity policy; from the first call on every request over HTTP is judged, deny by default.

        Args:
            access_key_id: Whose requests are meant.
            policy: The document, as IAM has it. Several policies of one identity add up.
            name: The identity is ``arn:aws:iam::<account>:role/<name>``; default its access key id.

        Raises:
            ConfigError: IAM would refuse the policy. The text says why.
        """
        with self._lock:
            self._world.access.allow(access_key_id, policy, name)

    def disallow(self, access_key_id: str) -> None:
        """Detach every policy of an identity; it stays judged."""
        with self._lock:
            self._world.access.disallow(access_key_id)

    # ---- one request ----

    def answer(self, target: str, authorization: str, body: bytes, request_id: str) -> tuple[int, bytes] | None:
        """Answer one request: status and body, or None to close the connection."""
        members = _read_members(body)
        entry = self._entry(target.removeprefix(_TARGET_PREFIX), authorization, members or {}, request_id)
        delays, fault = self._faults.draw(entry.operation, entry.region)
        for late in delays:
            if not self._closing.is_set():
                late.over.wait(late.seconds)
        if fault is None:
            answer, entry = self._operate(entry, target, members)
            self._log(entry)
            return answer
        if fault.trouble == "error":
            error = ServiceError(fault.code, "injected by the test", status_of(fault.code))
            self._log(replace(entry, outcome=fault.outcome, message=error.message))
            return _refusal(error)
        self._log(replace(entry, outcome=fault.outcome))
        if fault.trouble == "garbage":
            return 200, fault.body
        if fault.trouble == "drop":
            return None
        fault.over.wait()
        return self._operate(entry, target, members)[0]

    def _entry(self, operation: str, authorization: str, members: Members, request_id: str) -> KMSCall:
        scope = _SCOPE.search(authorization)
        access_key_id, region = (scope[1], scope[2]) if scope else ("", "")
        return KMSCall(
            operation,
            "",
            read_context(members, "EncryptionContext", "SourceEncryptionContext"),
            "ok",
            request_id,
            self._clock(),
            region,
            principal=self._world.access.principal(access_key_id) if scope else "",
            target_context=read_context(members, "DestinationEncryptionContext"),
            access_key_id=access_key_id,
            parameters=request_parameters(operation, members),
        )

    def _operate(self, entry: KMSCall, target: str, members: Members | None) -> tuple[tuple[int, bytes], KMSCall]:
        call = None
        try:
            call = self._admit(target, entry, members)
            with self._lock:
                answer = 200, _encode(OPERATIONS[entry.operation](call))
        except ServiceError as error:
            key_arn = error.key_arn or (call.key_arn if call else "")
            return _refusal(error), replace(entry, outcome=error.code, key_arn=key_arn, message=error.message)
        return answer, replace(
            entry,
            key_arn=call.key_arn,
            material_id=call.material_id,
            target_arn=call.target_arn,
            target_material_id=call.target_material_id,
            grants=call.grants,
        )

    def _admit(self, target: str, entry: KMSCall, members: Members | None) -> Call:
        if not entry.region:
            raise ServiceError("MissingAuthenticationTokenException", "Missing Authentication Token")
        if not target.startswith(_TARGET_PREFIX) or entry.operation not in OPERATIONS:
            raise ServiceError("UnknownOperationException")
        if members is None:
            raise ServiceError("SerializationException")
        with self._lock:
            region = self._world.region(entry.region)
        return Call(self._world, region, members, entry.operation, entry.access_key_id)


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
