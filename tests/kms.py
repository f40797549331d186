"""What the tests of the KMS side share: credentials that open nothing, a local KMS, its clients and providers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from streamcrypt.keys.aws_kms import AWSKMSKeyProvider
from streamcrypt.testing import CollectingObserver, KMSServer, ManualClock

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


def make_client(url: str | None, region: str = REGION, access_key_id: str | None = None) -> Any:
    """A plain boto3 client that neither retries nor waits long. The caller closes it."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 1}, connect_timeout=1, read_timeout=5)
    signer = {"aws_access_key_id": access_key_id, "aws_secret_access_key": "test"} if access_key_id else {}
    return boto3.client("kms", region_name=region, endpoint_url=url, config=config, **signer)


def refusal(call: Callable[..., Any], **members: Any) -> str:
    """The error code with which a client's call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**members)
    return str(caught.value.response["Error"]["Code"])


@pytest.fixture
def fake_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """See :func:`use_fake_credentials`."""
    use_fake_credentials(monkeypatch)


@pytest.fixture
def server() -> Iterator[KMSServer]:
    """A KMS that lives as long as the test."""
    with KMSServer(region=REGION) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the providers."""
    return ManualClock()


@pytest.fixture
def observer() -> CollectingObserver:
    """The observer of the providers."""
    return CollectingObserver()


@pytest.fixture
def provider_of(
    fake_credentials: None,
    server: KMSServer,
    clock: ManualClock,
    observer: CollectingObserver,
) -> Iterator[Callable[..., AWSKMSKeyProvider]]:
    """Makes providers of ``server`` and closes them: ``provider_of(key_id, **settings)``."""
    made: list[AWSKMSKeyProvider] = []

    def make(key_id: Any, **settings: Any) -> AWSKMSKeyProvider:
        settings = {"region": REGION, "endpoint_url": server.url, "clock": clock, "observer": observer} | settings
        made.append(AWSKMSKeyProvider(key_id, **settings))
        return made[-1]

    yield make
    for provider in made:
        provider.close()
