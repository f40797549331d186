"""CloudTrail calls that look at trails: which ones record the calls to KMS in a region.

Source: AWS CloudTrail API reference, version 2013-11-01; AWS CloudTrail User Guide, "Logging management events": KMS
events may be left out of a trail, and Decrypt, Encrypt and GenerateDataKey are read events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamcrypt.errors import KeyRefused, StreamcryptError
from streamcrypt.keys.aws_kms.client import KMSClients, hush
from streamcrypt.keys.aws_kms.errors import map_failure
from streamcrypt.keys.aws_kms.facts import TrailFacts

__all__ = ["TrailInspector", "read_selectors"]

_KMS = "kms.amazonaws.com"
_PATIENCE = 5.0


class TrailInspector:
    """Asks CloudTrail. Its endpoint is AWS's own, or AWS_ENDPOINT_URL_CLOUDTRAIL. Close it when done.

    Args:
        insecure_endpoint: Accept http beyond loopback.
        session: A ``boto3.session.Session``; default boto's usual chain.
    """

    def __init__(self, *, insecure_endpoint: bool = False, session: Any = None) -> None:
        self._clients = KMSClients(
            session,
            None,
            insecure_endpoint=insecure_endpoint,
            service="cloudtrail",
            attempts=2,
            read_seconds=_PATIENCE,
        )

    def trails(self, region: str) -> list[TrailFacts]:
        """Give the trails that cover a region.

        Raises:
            ConfigError, KeyServiceError: They cannot be looked up.
        """
        client = self._clients.get(region)
        try:
            with hush():
                found = client.describe_trails(includeShadowTrails=True)["trailList"]
                return [_facts(self._clients.get(str(trail["HomeRegion"])), trail) for trail in found]
        except StreamcryptError:
            raise
        except Exception as error:  # noqa: BLE001 - botocore raises its own tree and plain Python errors
            mapped = map_failure(error, operation="DescribeTrails", key_id=region)
            text = str(mapped).replace("KMS DescribeTrails for", "CloudTrail in")
            raise KeyRefused(text, operation="DescribeTrails") from None

    def close(self) -> None:
        """Close the connections."""
        self._clients.close()


def _facts(client: Any, trail: Mapping[str, Any]) -> TrailFacts:
    arn = trail["TrailARN"]
    status, selectors = client.get_trail_status(Name=arn), client.get_event_selectors(TrailName=arn)
    takes_kms, takes_reads = read_selectors(
        selectors.get("EventSelectors") or (), selectors.get("AdvancedEventSelectors") or ()
    )
    trouble = str(status.get("LatestDeliveryError") or "")
    return TrailFacts(str(trail["Name"]), bool(status.get("IsLogging")), takes_kms, takes_reads, trouble)


def read_selectors(basic: Sequence[Mapping[str, Any]], advanced: Sequence[Mapping[str, Any]]) -> tuple[bool, bool]:
    """Say whether a trail takes calls to KMS, and whether it takes its read events.

    Args:
        basic: Its EventSelectors.
        advanced: Its AdvancedEventSelectors; a trail has one kind or the other.
    """
    found = [_read_basic(selector) for selector in basic] + [_read_advanced(selector) for selector in advanced]
    return any(kms for kms, _ in found), any(kms and reads for kms, reads in found)


def _read_basic(selector: Mapping[str, Any]) -> tuple[bool, bool]:
    kms = bool(selector.get("IncludeManagementEvents", True))
    kms = kms and _KMS not in (selector.get("ExcludeManagementEventSources") or ())
    return kms, selector.get("ReadWriteType", "All") in {"All", "ReadOnly"}


def _read_advanced(selector: Mapping[str, Any]) -> tuple[bool, bool]:
    fields = {field["Field"]: field for field in selector.get("FieldSelectors", ())}
    if "Management" not in fields.get("eventCategory", {}).get("Equals", ()):
        return False, False
    source = fields.get("eventSource", {})
    kms = _KMS not in source.get("NotEquals", ()) and _KMS in source.get("Equals", [_KMS])
    return kms, "true" in fields.get("readOnly", {}).get("Equals", ["true"])
