"""Fixtures for tests against the KMS double: ``pytest_plugins = ["streamcrypt.testing.pytest_plugin"]``.

``kms_server`` is a running :class:`~streamcrypt.testing.KMSServer` on a free port of the loopback, one per test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamcrypt.testing.kms_service import KMSServer

__all__ = ["kms_server"]


@pytest.fixture
def kms_server() -> Iterator[KMSServer]:
    """A running KMS with no keys; it ends with the test, and so does what hangs on it.

    Sets no AWS credentials: boto3 wants some, and any will do.
    """
    with KMSServer() as server:
        yield server
