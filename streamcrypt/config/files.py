"""Files that a configuration consists of, read so that none of them can keep a running process waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_regular"]

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def read_regular(path: str | Path, most: int) -> bytes:
    """Read the beginning of a regular file, also by way of links, as Kubernetes lays ConfigMaps and Secrets out.

    A named pipe is opened without waiting for who writes to it (O_NONBLOCK, open(2)), and refused.

    Args:
        path: The file.
        most: The most bytes that are read; a caller who must know whether there is more asks for one more.

    Raises:
        OSError: It is no regular file, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, and no regular file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)
