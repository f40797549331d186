"""What the tests of generated policies share: the access key of a role, and a pipeline's patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from streamcrypt.errors import KeyUnavailable

_P = ParamSpec("_P")
_T = TypeVar("_T")
PATIENCE_SECONDS = 60.0


def access_key(role: str) -> str:
    """The access key id of a role."""
    return "AKIA" + role.replace("-", "").upper()


def patiently(work: Callable[_P, _T], *arguments: _P.args, **members: _P.kwargs) -> _T:
    """Do what a pipeline does with a record whose data key is not there yet: try again.

    Raises:
        KeyUnavailable: It is not there after a minute either.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work(*arguments, **members)
        except KeyUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
