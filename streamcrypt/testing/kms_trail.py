"""The call log of the test KMS: one entry per request, and the same as events in the form of CloudTrail."""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CallLog", "KMSCall", "request_parameters"]

_READ_ONLY = ("Decrypt", "Describe", "Encrypt", "GenerateDataKey", "Get", "List", "ReEncrypt")
_NEVER_SHOWN = {"CiphertextBlob", "Plaintext", "GrantTokens", "GrantToken"}
_KEPT_CALLS = 100_000  # a laptop stack runs for weeks
_LOST = {"dark", "drop", "hang"}
_EVENT_IDS = uuid.UUID("4f1c6f3e-6f0e-4d0e-9d5e-0c5f0f7f9a11")


@dataclass(frozen=True, slots=True)
class KMSCall:
    """One request that reached the server.

    Attributes:
        operation: Such as ``GenerateDataKey``.
        key_arn: The key's ARN, of a ReEncrypt the source's; empty where none was found or the fault came first.
        context: The encryption context, ascending by name; of a ReEncrypt the source's.
        outcome: ``ok``, an error code, or the fault: ``dark``, ``hang``, ``drop``, ``garbage``.
        request_id: As in the answer's ``x-amzn-RequestId``.
        time: Seconds since 1970, by the server's clock.
        region: From the request's signature.
        principal: ARN of the identity whose access key signed.
        material_id: The key material that was used; empty where none was, or its key store shows none.
        target_arn: The destination key of a ReEncrypt.
        target_context: The destination context of a ReEncrypt.
        target_material_id: The destination key material of a ReEncrypt.
        grants: Ids of the grants that allowed the call; empty where policies did.
        access_key_id: From the request's signature.
        message: The error's text; empty for ``ok``.
        parameters: The request's members as CloudTrail shows them: no blobs, no plaintext. Not compared.
    """

    operation: str
    key_arn: str
    context: tuple[tuple[str, str], ...]
    outcome: str
    request_id: str
    time: float
    region: str
    principal: str = ""
    material_id: str = ""
    target_arn: str = ""
    target_context: tuple[tuple[str, str], ...] = ()
    target_material_id: str = ""
    grants: tuple[str, ...] = ()
    access_key_id: str = ""
    message: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def request_parameters(operation: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """Return what CloudTrail shows of a request: member names in camel case, without blobs and plaintext."""
    shown = {name[0].lower() + name[1:]: value for name, value in members.items() if name not in _NEVER_SHOWN}
    if operation in {"Decrypt", "Encrypt"}:
        shown.setdefault("encryptionAlgorithm", "SYMMETRIC_DEFAULT")
    if operation == "ReEncrypt":
        shown.setdefault("sourceEncryptionAlgorithm", "SYMMETRIC_DEFAULT")
        shown.setdefault("destinationEncryptionAlgorithm", "SYMMETRIC_DEFAULT")
    return shown


class CallLog:
    """The calls that reached the test KMS. Safe to share between threads.

    Args:
        account: Twelve digits, for CloudTrail.
    """

    def __init__(self, account: str) -> None:
        self._account = account
        self._writing = threading.Lock()
        self._calls: deque[KMSCall] = deque(maxlen=_KEPT_CALLS)

    @property
    def calls(self) -> list[KMSCall]:
        """A copy of the call log, oldest first; the last 100,000 calls are kept."""
        with self._writing:
            return list(self._calls)

    def count(self, operation: str, outcome: str | None = None) -> int:
        """Count the requests of an operation, whatever came of them, or those with one outcome."""
        return sum(call.operation == operation and outcome in {None, call.outcome} for call in self.calls)

    def cloudtrail(self) -> list[dict[str, Any]]:
        """The call log as CloudTrail events, oldest first; requests that never reached the service are not there.

        Source: KMS developer guide, "Logging AWS KMS API calls with AWS CloudTrail".
        """
        return [_event(call, self._account) for call in self.calls if call.outcome not in _LOST]

    def forget_calls(self) -> None:
        """Empty the call log."""
        with self._writing:
            self._calls.clear()

    def _log(self, entry: KMSCall) -> None:
        with self._writing:
            self._calls.append(entry)


def _event(call: KMSCall, account: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": call.access_key_id,
            "arn": call.principal,
            "accountId": account,
            "accessKeyId": call.access_key_id,
        },
        "eventTime": dt.datetime.fromtimestamp(call.time, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "kms.amazonaws.com",
        "eventName": call.operation,
        "awsRegion": call.region,
        "sourceIPAddress": "127.0.0.1",
        "userAgent": "AWS Internal",
        "requestParameters": dict(call.parameters) or None,
        "responseElements": None,
        "requestID": call.request_id,
        "eventID": str(uuid.uuid5(_EVENT_IDS, call.request_id)),
        "readOnly": call.operation.startswith(_READ_ONLY),
        "resources": [
            {"accountId": account, "type": "AWS::KMS::Key", "ARN": arn}
            for arn in (call.key_arn, call.target_arn)
            if arn
        ],
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account,
        "eventCategory": "Management",
    }
    if call.outcome not in {"ok", "garbage"}:
        # CloudTrail shortens this one code.
        event["errorCode"] = "AccessDenied" if call.outcome == "AccessDeniedException" else call.outcome
        event["errorMessage"] = call.message
    if materials := _materials(call):
        event["additionalEventData"] = materials
    return event


def _materials(call: KMSCall) -> dict[str, str]:
    named = {"keyMaterialId": call.material_id}
    if call.operation == "ReEncrypt":
        named = {
            "sourceKeyMaterialId": call.material_id,
            "destinationKeyMaterialId": call.target_material_id,
        }
    return {name: value for name, value in named.items() if value}
