"""The control socket as a file: made so that nobody else gets in, and held to be that before anybody trusts it.

Rule 1: a socket is made, and one that was left behind is taken away, under a lock: of two processes that start at a
time with one file one listens, and the other is told. What listens is never taken away.
Rule 2: who asks trusts a place only where no other user can have put it there, and the kernel's word on the peer
agrees: in /tmp anybody may make any name first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from streamcrypt.errors import StreamcryptError

__all__ = ["Unsafe", "UntrustedSocket", "private", "require_trusted"]

_LONGEST_PATH = 107  # sun_path of unix(7), less the zero at its end
_PRIVATE = 0o700
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Whoever holds the lock asks who listens there, for a second at most.
_LOCK_SECONDS = 5.0
_LOOK = 0.02


class Unsafe(Exception):
    """A socket may not be made there; the text says why."""


class UntrustedSocket(StreamcryptError):
    """Another user may have put this socket there: nothing is asked of it, and nothing it says is shown."""


@contextlib.contextmanager
def _as_unsafe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unsafe(error.strerror or type(error).__name__) from None


def private(path: Path, *, ours: bool) -> socket.socket:
    """Make the socket, mode 0600, and listen.

    Args:
        path: Where. What a process that is no more has left there is taken away.
        ours: Whether the directory is our default one: made where it is missing, and held to be nobody else's.

    Raises:
        Unsafe: It cannot be made there, or another process listens.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise Unsafe(f"a path of a socket has {_LONGEST_PATH} bytes at most")
    if ours:
        _make_directory(path.parent)
    with _as_unsafe(), _alone(path):
        _clear(path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before it has a name: so it never has another mode there, whatever the umask. Linux takes it over.
            os.fchmod(made.fileno(), 0o600)
            made.bind(str(path))
            path.chmod(0o600)
            made.listen(16)
        except BaseException:
            made.close()
            raise
    return made


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from making or taking away a socket at this place meanwhile."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + _LOCK_SECONDS
    while (held := _locked(lock)) is None:
        if time.monotonic() > deadline:
            raise Unsafe("another process is about to listen there")
        time.sleep(_LOOK)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _locked(lock: Path) -> int | None:
    """Take the lock; None where it is another's just now, or was taken away by who held it."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    found = os.fstat(held)
    if found.st_uid == os.geteuid():
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(found, lock.lstat()):
                return held
    os.close(held)
    if found.st_uid != os.geteuid():
        raise Unsafe(f"{lock} is another user's")
    return None


def _make_directory(directory: Path) -> None:
    with _as_unsafe():
        directory.mkdir(mode=_PRIVATE, exist_ok=True)
        found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Unsafe(f"{directory} is not a directory of this user alone (mode 0700)")


def _clear(path: Path) -> None:
    """Take away what a process left behind that was killed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Unsafe("something else than a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise Unsafe("another process listens there")


# -- who asks ----------------------------------------------------------------------------------------------------------


def require_trusted(place: Path, *, named: bool) -> frozenset[int]:
    """Hold a socket and its directory to be ours, or root's, and writable to nobody else; give whose it may be.

    Args:
        place: The socket.
        named: Whether somebody named it. Then it may lie in a directory of everybody's where each user's files are
            safe from the others (the sticky bit), and root may name another user's, in a directory that is that
            user's or root's alone.

    Returns:
        The users of whom one has to be at the other end.

    Raises:
        UntrustedSocket: Another user may have put it there.
        OSError: There is none.
    """
    directory = place.parent.stat() if named else place.parent.lstat()
    found = place.lstat()
    owners = {0, os.geteuid()}
    shared = bool(directory.st_mode & _OTHERS_MAY_WRITE)
    if named and os.geteuid() == 0 and not shared:
        owners.add(found.st_uid)
    if not stat.S_ISDIR(directory.st_mode) or directory.st_uid not in owners:
        raise _untrusted(place, f"its directory {place.parent} belongs to uid {directory.st_uid}, or is none")
    if shared and not (named and directory.st_mode & stat.S_ISVTX):
        raise _untrusted(place, f"others may write to its directory {place.parent}")
    if not stat.S_ISSOCK(found.st_mode):
        raise _untrusted(place, "it is no socket")
    if found.st_uid not in owners:
        raise _untrusted(place, f"it belongs to uid {found.st_uid}")
    if found.st_mode & _OTHERS_MAY_WRITE:
        raise _untrusted(place, "others may write to it")
    return frozenset(owners)


def _untrusted(place: Path, why: str) -> UntrustedSocket:
    return UntrustedSocket(
        f"{place} is not trusted: {why}",
        remedy="Another user may have put it there. Run it as the user of that process; what is not that user's, remove"
        " it and restart the process.",
    )
