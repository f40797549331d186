"""KMS calls that look at a KEK or change its rotation, and never at data: for ``doctor`` and ``keys``.

Source: AWS KMS API reference, version 2014-11-01; AWS KMS Developer Guide, "Testing your permissions" (DryRun).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from streamcrypt.errors import KeyUnavailable, StreamcryptError
from streamcrypt.keys.aws_kms.client import KMSClients, hush
from streamcrypt.keys.aws_kms.errors import ACCESS_DENIED, map_failure, outcome_of, request_id_of
from streamcrypt.keys.aws_kms.facts import Allowed, CredentialFacts, KeyFacts, RotationFacts
from streamcrypt.keys.aws_kms.names import check_region, parse_key_name

__all__ = ["ATTEMPTS", "PERIOD_DAYS", "KeyInspector"]

ATTEMPTS = 3
"""Of each call that only looks: nobody's record waits for it."""
_PATIENCE = 10.0
PERIOD_DAYS = (90, 2560)
"""The shortest and longest period of automatic rotation. Source: EnableKeyRotation, RotationPeriodInDays."""
_DRY_RUN = "DryRunOperationException"
_NO_CIPHERTEXT = {"CiphertextBlob": b"\x01" * 184, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
_PAGE = 1000
_CHANGING = frozenset({"EnableKeyRotation", "RotateKeyOnDemand"})


class KeyInspector:
    """Asks KMS about KEKs. boto3 is loaded at the first call. Close it when done.

    Args:
        region: Of names that are no ARN; default that of the AWS environment.
        endpoint_url: As for :class:`streamcrypt.AWSKMSKeyProvider`.
        insecure_endpoint: Accept http beyond loopback.
        session: A ``boto3.session.Session``; default boto's usual chain.
        now: Returns the time of this host in seconds since 1970.
    """

    def __init__(
        self,
        *,
        region: str | None = None,
        endpoint_url: str | Mapping[str, str] | None = None,
        insecure_endpoint: bool = False,
        session: Any = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._region = check_region(region) if region else ""
        endpoints = dict(endpoint_url) if isinstance(endpoint_url, Mapping) else endpoint_url
        self._clients = KMSClients(session, endpoints, insecure_endpoint=insecure_endpoint, attempts=ATTEMPTS)
        # Made once: a rotation on demand that timed out may have been done, and there are 25 in a key's life.
        self._changing = KMSClients(session, endpoints, insecure_endpoint=insecure_endpoint, read_seconds=_PATIENCE)
        self._now = now
        # A dark region costs seconds a call: dry runs, of which there are many, ask it once.
        self._silent: set[str] = set()
        self.skew: float | None = None
        """Seconds that this host's clock is ahead of KMS's, by its last answer; None before the first."""

    def region_of(self, name: str) -> str:
        """Give the region in which a KEK is called.

        Raises:
            ConfigError: It is no key name, or there is no region.
        """
        named = parse_key_name(name).region
        if not named and not self._region:
            self._region = self._clients.default_region()
        return named or self._region

    def describe(self, name: str) -> KeyFacts:
        """Look a KEK up by DescribeKey.

        Raises:
            ConfigError, KeyServiceError: It cannot be looked up.
        """
        metadata = self._call("DescribeKey", name)["KeyMetadata"]
        return KeyFacts.read(name, metadata)

    def rotation(self, arn: str) -> RotationFacts | None:
        """Say how a KEK rotates; None where this login may not ask.

        Raises:
            ConfigError, KeyServiceError: The answer is another refusal, or there is none.
        """
        status = self._unless_denied("GetKeyRotationStatus", arn)
        if status is None:
            return None
        rotations = self._rotations(arn)
        times = [entry["RotationDate"] for entry in rotations or () if "RotationDate" in entry]
        on_demand = sum(entry.get("RotationType") == "ON_DEMAND" for entry in rotations or ())
        return RotationFacts(
            bool(status.get("KeyRotationEnabled")),
            status.get("RotationPeriodInDays"),
            status.get("NextRotationDate"),
            max(times, default=None),
            None if rotations is None else on_demand,
            status.get("OnDemandRotationStartDate") is not None,
        )

    def _rotations(self, arn: str) -> list[dict[str, Any]] | None:
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = self._unless_denied("ListKeyRotations", arn, Limit=_PAGE, **more)
            if page is None:
                return None
            found += page.get("Rotations", ())
            if not page.get("Truncated"):
                return found
            more = {"Marker": page["NextMarker"]}

    def dry_run(self, operation: str, arn: str, context: Mapping[str, str], *, source: str = "") -> tuple[Allowed, str]:
        """Ask whether an operation would be allowed, without doing it; give the answer and KMS's words.

        Args:
            operation: ``GenerateDataKey``, ``Encrypt``, ``Decrypt`` or ``ReEncrypt``.
            arn: The KEK; of ReEncrypt the destination.
            context: The encryption context.
            source: The KEK that ReEncrypt reads under.
        """
        pairs = dict(context)
        asked: dict[str, dict[str, Any]] = {
            "GenerateDataKey": {"KeySpec": "AES_256", "EncryptionContext": pairs},
            "Encrypt": {"Plaintext": bytes(32), "EncryptionContext": pairs},
            "Decrypt": {**_NO_CIPHERTEXT, "EncryptionContext": pairs},
            "ReEncrypt": {
                **_NO_CIPHERTEXT,
                "SourceKeyId": source,
                "DestinationKeyId": arn,
                "SourceEncryptionContext": pairs,
                "DestinationEncryptionContext": pairs,
            },
        }
        region = self.region_of(arn)
        if region in self._silent:
            return Allowed.UNKNOWN, f"KMS in {region} does not answer"
        named = operation != "ReEncrypt"
        _, code, error = self._ask(operation, arn, named=named, DryRun=True, **asked[operation])
        if error is None:
            return Allowed.UNKNOWN, "the endpoint did the operation instead of a dry run"
        if code == _DRY_RUN:
            return Allowed.YES, ""
        if code == ACCESS_DENIED:
            return Allowed.NO, str(error)
        if code == "ParamValidationError":
            return Allowed.UNKNOWN, "the installed boto3 knows no DryRunModifiers: upgrade it"
        return Allowed.UNKNOWN, f"KMS answered {code}"

    def rotate_by_itself(self, arn: str, period_days: int) -> str:
        """Switch automatic rotation on, or set its period; give the request id.

        Raises:
            ConfigError, KeyServiceError: KMS refused.
        """
        return request_id_of(self._call("EnableKeyRotation", arn, RotationPeriodInDays=period_days))

    def rotate_now(self, arn: str) -> str:
        """Rotate the key material on demand; give the request id.

        Raises:
            ConfigError, KeyServiceError: KMS refused.
        """
        return request_id_of(self._call("RotateKeyOnDemand", arn))

    def credentials(self) -> CredentialFacts:
        """Say where the credentials come from. Roles are asked for theirs."""
        found = self._clients.credentials()
        if found is None:
            return CredentialFacts("")
        frozen, expires = found.get_frozen_credentials(), getattr(found, "_expiry_time", None)
        return CredentialFacts(
            str(found.method),
            str(frozen.access_key or "")[:4],
            expires.astimezone(UTC) if isinstance(expires, datetime) else None,
            renews=isinstance(expires, datetime),
        )

    def close(self) -> None:
        """Close the connections."""
        self._clients.close()
        self._changing.close()

    def _unless_denied(self, operation: str, arn: str, **members: Any) -> Any:
        answer, code, error = self._ask(operation, arn, **members)
        if error is not None and code != ACCESS_DENIED:
            raise error
        return answer

    def _call(self, operation: str, name: str, **members: Any) -> Any:
        answer, _, error = self._ask(operation, name, **members)
        if error is not None:
            raise error
        return answer

    def _ask(
        self, operation: str, name: str, *, named: bool = True, **members: Any
    ) -> tuple[Any, str, StreamcryptError | None]:
        """Make a call; give the answer, or None with the code and the error."""
        clients = self._changing if operation in _CHANGING else self._clients
        method = getattr(clients.get(self.region_of(name)), _METHODS[operation])
        try:
            with hush():
                answer = method(**({"KeyId": name} if named else {}), **members)
        except Exception as error:  # noqa: BLE001 - botocore raises its own tree and plain Python errors
            self._note_time(getattr(error, "response", None) or {})
            failure = map_failure(error, operation=operation, key_id=name)
            if isinstance(failure, KeyUnavailable):
                self._silent.add(self.region_of(name))
            return None, outcome_of(error), failure
        self._note_time(answer)
        return answer, "", None

    def _note_time(self, answer: Mapping[str, Any]) -> None:
        text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            self.skew = self._now() - parsedate_to_datetime(text).timestamp()
        except (TypeError, ValueError):
            return


_METHODS = {
    "DescribeKey": "describe_key",
    "GetKeyRotationStatus": "get_key_rotation_status",
    "ListKeyRotations": "list_key_rotations",
    "EnableKeyRotation": "enable_key_rotation",
    "RotateKeyOnDemand": "rotate_key_on_demand",
    "GenerateDataKey": "generate_data_key",
    "Encrypt": "encrypt",
    "Decrypt": "decrypt",
    "ReEncrypt": "re_encrypt",
}
