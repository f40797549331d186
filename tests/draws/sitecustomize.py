"""Loaded by the interpreter of a process under test at its start: tells of the keys that it draws.

``LOG_SCAN_DRAWS`` names a file; every 32 bytes that ``os.urandom`` gives are appended to it. See tests/log_scan.py.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder


def _tell(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    draw = os.urandom

    def telling(size: int, /) -> bytes:
        """As ever, and the file is told."""
        drawn = draw(size)
        if size == 32:
            # After a fork the file is the child's as well, and appending is atomic.
            os.write(file, drawn)
        return drawn

    os.urandom = telling


if path := os.environ.get("LOG_SCAN_DRAWS"):
    _tell(path)
# There is one module of this name: the next one on the path, such as that of the chaos suite, is to have its say.
here = os.path.dirname(__file__)  # noqa: PTH120 - nothing else is to be imported this early
if (
    following := PathFinder.find_spec("sitecustomize", [entry for entry in sys.path if entry != here])
) and following.loader:
    with open(following.origin or "") as source:  # noqa: PTH123
        exec(compile(source.read(), following.origin or "", "exec"))
