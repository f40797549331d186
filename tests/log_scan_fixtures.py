"""Fixtures that search the logs of every test of a folder; its conftest imports them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.log_scan import SCAN, Scan

__all__ = ["log_scan", "scanned_log"]


@pytest.fixture(scope="module", autouse=True)
def log_scan() -> Iterator[Scan]:
    """Listens while the tests of a module run. Imported by the conftest of each folder whose logs are scanned."""
    with SCAN.open() as scan:
        yield scan
        _look(scan)


@pytest.fixture(autouse=True)
def scanned_log(log_scan: Scan) -> Iterator[None]:
    """Fails a test whose log holds plaintext or a key."""
    yield
    _look(log_scan)


def _look(scan: Scan) -> None:
    found = scan.look()
    assert not found, f"a log holds plaintext or a key: {found[:5]}"
