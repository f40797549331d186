"""SIGHUP before a process can read its configuration again: remembered, for its default is to end the process."""

from __future__ import annotations

import signal
from types import FrameType

__all__ = ["EarlyHangup", "remember_hangups"]


class EarlyHangup:
    """A signal handler that remembers.

    Attributes:
        came: Whether the signal came.
    """

    def __init__(self) -> None:
        self.came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Take the signal."""
        self.came = True


def remember_hangups() -> None:
    """Have SIGHUP remembered from now on, and do nothing else; call it first of all, on the main thread.

    :func:`streamcrypt.cli.reloading.reload_on_hangup` takes over what came. Once more, it changes nothing.
    """
    if not isinstance(signal.getsignal(signal.SIGHUP), EarlyHangup):
        signal.signal(signal.SIGHUP, EarlyHangup())
