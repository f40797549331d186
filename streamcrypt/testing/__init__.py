"""Doubles that streamcrypt ships: a KMS over HTTP with faults, a manual clock, an observer that collects.

They implement the real interfaces, so that tests of streamcrypt and of applications need no patching.
No product module imports this package.
"""

from streamcrypt.testing.doubles import CollectingObserver, ManualClock
from streamcrypt.testing.kms_service import KMSCall, KMSServer

__all__ = ["CollectingObserver", "KMSCall", "KMSServer", "ManualClock"]
