"""What the tests of the KMS side share: credentials that open nothing, and clients of a local KMS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    import pytest

REGION = "eu-west-1"


def use_fake_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut boto off from this machine's AWS configuration and give it credentials that open nothing."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


def make_client(url: str | None, region: str = REGION) -> Any:
    """A plain boto3 client that neither retries nor waits long. The caller closes it."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
    return boto3.client("kms", region_name=region, endpoint_url=url, config=config)
