"""Every test of this folder has its logs searched for plaintext and keys at its end."""

from __future__ import annotations

from tests.log_scan_fixtures import log_scan, scanned_log

__all__ = ["log_scan", "scanned_log"]
