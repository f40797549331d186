"""What AWS asks for KMS, and how many requests it takes: list values, each to be overridden by the command line."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRICES_SOURCE", "QUOTAS_SOURCE", "Prices", "request_quota"]

PRICES_SOURCE = "aws.amazon.com/kms/pricing, list prices in US dollars, March 2026"
QUOTAS_SOURCE = 'AWS KMS Developer Guide, "Request quotas", symmetric cryptographic operations, November 2026'

_LARGEST = frozenset({"us-east-1", "us-west-2", "eu-west-1"})
_LARGE = frozenset({"us-east-2", "ap-southeast-1", "ap-southeast-2", "ap-northeast-1", "eu-central-1", "eu-west-2"})


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in US dollars.

    Attributes:
        per_10_000: Of so many requests; default $0.03, the same for every symmetric operation.
        key_month: Of a key for a month; default $1. Every replica of a multi-region key is a key.
        rotation_month: What each of the first two rotations of a key adds to a month, for the material that is kept;
            default $1. Later ones are free.
        free_requests: Requests a month that cost nothing, over all regions of an account; default 20,000.
    """

    per_10_000: float = 0.03
    key_month: float = 1.0
    rotation_month: float = 1.0
    free_requests: int = 20_000


def request_quota(region: str) -> int:
    """Give how many symmetric operations a second a region takes from one account, all its applications together.

    It is the default quota; AWS raises it on request.
    """
    if region in _LARGEST:
        return 100_000
    return 20_000 if region in _LARGE else 10_000
