"""Fixtures of the KMS side, for tests that name them."""

from __future__ import annotations

from tests.kms import clock, fake_credentials, observer, provider_of, server

__all__ = ["clock", "fake_credentials", "observer", "provider_of", "server"]
