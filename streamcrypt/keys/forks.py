"""What a forked child must not take over from its parent: data keys for writing, locks, threads. spec: 4.4"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["forget_after_fork"]


class _Forgetful(Protocol):
    def after_fork(self) -> None: ...


_FORGETFUL: weakref.WeakSet[_Forgetful] = weakref.WeakSet()


def forget_after_fork(forgetful: _Forgetful) -> None:
    """Have ``forgetful.after_fork()`` called in every child that this process forks, as long as it lives."""
    _FORGETFUL.add(forgetful)


def _after_fork_in_child() -> None:
    for forgetful in list(_FORGETFUL):
        forgetful.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
