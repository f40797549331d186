"""One operation of KMS in one region: retried, told of, its failure mapped to an error of ours, a refusal remembered.

Source: AWS KMS API reference, version 2014-11-01.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable, StreamcryptError
from streamcrypt.events import KeyServiceCalled, Observer
from streamcrypt.keys.aws_kms.client import KMSClients, forget_in_forked_child, hush
from streamcrypt.keys.aws_kms.errors import CREDENTIAL_CODES, map_failure, outcome_of, request_id_of
from streamcrypt.keys.aws_kms.refusals import Refusals, Request

if TYPE_CHECKING:
    from streamcrypt.keys.aws_kms.calls import RegionCalls

__all__ = ["KMSService"]

_METHODS = {
    "GenerateDataKey": "generate_data_key",
    "Decrypt": "decrypt",
    "DescribeKey": "describe_key",
    "Encrypt": "encrypt",
    "ReEncrypt": "re_encrypt",
}


class KMSService:
    """KMS in all regions. Safe to share between threads.

    Args:
        clients: The boto3 clients by region.
        observer: Told of every call.
        clock: Returns seconds and only goes forward.
        only: The one region that may be called; every other counts as away. Empty: all.
    """

    def __init__(self, clients: KMSClients, observer: Observer, clock: Callable[[], float], only: str = "") -> None:
        self._clients = clients
        self._observer = observer
        self._clock = clock
        self._only = only
        self._refusals = Refusals(clock)
        self.forget()
        forget_in_forked_child(self)

    def forget(self) -> None:
        """Start with breakers of its own: at first, and in a forked child, where a thread may have held a lock."""
        self._calls: dict[str, RegionCalls] = {}
        self._refusals.forget()

    def is_callable(self, region: str) -> bool:
        """Whether a call to ``region`` would go out now: its breaker is closed, or its next probe is due."""
        if self._only and region != self._only:
            return False
        calls = self._calls.get(region)
        return calls is None or calls.breaker.admits

    def was_refused(self, operation: str, key_id: str) -> bool:
        """Whether KMS lately refused this operation under this KEK, so that asking again makes no call yet."""
        return self._refusals.lately(operation, key_id)

    def prepare(self, regions: Iterable[str]) -> None:
        """Make the clients of regions that are to answer in time: the first one takes longer than a call may."""
        for region in regions:
            with suppress(StreamcryptError):  # the call itself says what is wrong
                if self.is_callable(region):
                    self._clients.get(region)

    def call(
        self,
        operation: str,
        region: str,
        key_id: str,
        context: Mapping[str, str],
        *,
        source_key_id: str = "",
        tolerate: str = "",
        **members: Any,
    ) -> Any:
        """Make one operation with its retries.

        Args:
            operation: As KMS names it.
            region: Where.
            key_id: The KEK by ARN or name; for ReEncrypt the one to wrap with.
            context: The encryption context, for the log and for what is remembered of a refusal; not sent by itself.
            source_key_id: For ReEncrypt, the KEK to unwrap with.
            tolerate: A code of refusal for which None is returned.
            members: What is sent besides the KEK.

        Raises:
            StreamcryptError: As the table of ``errors`` says.
        """
        if self._only and region != self._only:
            raise KeyUnavailable(
                f"KMS {operation} for {key_id}: {region} counts as away, calls are confined to {self._only}",
                operation=operation,
                key_id=key_id,
            )
        request = Request(operation, region, key_id, tuple(sorted(context.items())), source_key_id)
        self._refusals.repeat(request)
        # Loading boto3 takes a second now and then, which is not KMS's and must not use up the operation's budget.
        self.prepare([region])
        outcome = ""

        def attempt() -> Any:
            nonlocal outcome
            answer, outcome = self._attempt(request, members)
            if isinstance(answer, Exception):
                raise answer
            return answer

        try:
            answer = self._calls_in(region).run(attempt)
        except KeyRefused as error:
            if tolerate and outcome == tolerate:
                return None
            self._refusals.remember(request, outcome, error)
            if outcome in CREDENTIAL_CODES:
                self._clients.renew()
            raise
        self._refusals.clear(request)
        return answer

    def _attempt(self, request: Request, members: Mapping[str, Any]) -> tuple[Any, str]:
        """Make one call and tell of it; give the answer or the error to raise, and the outcome."""
        operation, key_id = request.operation, request.key_id
        named = {"KeyId": key_id}
        if operation == "ReEncrypt":
            named = {"SourceKeyId": request.source_key_id, "DestinationKeyId": key_id}
        client = self._clients.get(request.region)
        started, outcome, failure = self._clock(), "ok", None
        try:
            with hush():
                answer = getattr(client, _METHODS[operation])(**named, **members)
        except Exception as error:  # noqa: BLE001 - botocore raises its own tree and plain Python errors
            failure = map_failure(error, operation=operation, key_id=key_id)
            outcome, answer = outcome_of(error), getattr(error, "response", None) or {}
        self._observer(_called(request, answer, outcome, self._clock() - started))
        return failure or answer, outcome

    def _calls_in(self, region: str) -> RegionCalls:
        calls = self._calls.get(region)
        if calls is None:
            try:
                from streamcrypt.keys.aws_kms.calls import RegionCalls
            except ImportError:
                raise ConfigError(
                    "tenacity or pybreaker is not installed", remedy="pip install 'streamcrypt[aws]'"
                ) from None
            calls = self._calls.setdefault(region, RegionCalls(region, self._clock, self._observer))
        return calls


def _called(request: Request, answer: Mapping[str, Any], outcome: str, seconds: float) -> KeyServiceCalled:
    metadata = answer.get("KeyMetadata")
    described = metadata.get("CurrentKeyMaterialId", "") if isinstance(metadata, Mapping) else ""
    return KeyServiceCalled(
        request.operation,
        request.region,
        request.key_id,
        str(answer.get("KeyMaterialId") or answer.get("DestinationKeyMaterialId") or described),
        request.context,
        outcome,
        request_id_of(answer),
        seconds,
        request.source_key_id,
        str(answer.get("SourceKeyMaterialId") or ""),
    )
