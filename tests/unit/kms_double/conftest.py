"""Fixtures of the tests of the KMS double: one server by a clock that stands, and a plain client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from streamcrypt.testing import KMSServer, ManualClock
from tests.kms import make_client, use_fake_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_credentials(monkeypatch)


@pytest.fixture
def clock() -> ManualClock:
    """The server's clock, in November 2023."""
    return ManualClock(1_700_000_000.0)


@pytest.fixture
def server(clock: ManualClock) -> Iterator[KMSServer]:
    """A KMS that lives as long as the test."""
    with KMSServer(clock=clock) as running:
        yield running


@pytest.fixture
def kms(server: KMSServer) -> Iterator[Any]:
    """A client of the server."""
    client = make_client(server.url)
    yield client
    client.close()
