"""Doubles that streamcrypt ships: a KMS over HTTP, a manual clock, an observer that collects. See docs/testing.md.

They implement the real interfaces, so that tests of streamcrypt and of applications need no patching.
No product module imports this package.
"""

from streamcrypt.testing.doubles import CollectingObserver, ManualClock
from streamcrypt.testing.kms_service import KMSServer
from streamcrypt.testing.kms_trail import KMSCall

__all__ = ["CollectingObserver", "KMSCall", "KMSServer", "ManualClock"]
