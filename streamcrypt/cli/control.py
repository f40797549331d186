"""The control socket: what ``streamcrypt ctl`` and a running process say to each other, and where they meet.

A local stream socket of mode 0600. One line of JSON each way, then the connection ends. Besides the mode, both ends ask
the kernel who the peer is (SO_PEERCRED, unix(7)): the same user, or root. Nothing here is a secret, and nothing a key.
The place itself, as a file: ``control_place.py``.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamcrypt.config import ConfigProblems, Settings
from streamcrypt.config.sections import CONTROL_DEFAULT
from streamcrypt.config.source import read_source

__all__ = [
    "COMMANDS",
    "MOST_ANSWER",
    "MOST_REQUEST",
    "VERSION",
    "BadRequest",
    "Peer",
    "Request",
    "answer_line",
    "candidates",
    "default_directories",
    "peer_of",
    "read_line",
    "socket_path",
]

VERSION = 1
"""Of the protocol: a process refuses requests of another."""

COMMANDS = ("pause", "resume", "rotate", "status", "reload")

MOST_REQUEST = 64 * 1024
"""Bytes: names of a few thousand pipelines."""

MOST_ANSWER = 8 * 2**20
"""Bytes: a snapshot of the status is bounded far below."""

_CREDENTIALS = struct.Struct("3i")


class BadRequest(Exception):
    """What came is no request, or none that this version knows."""


@dataclass(frozen=True, slots=True)
class Request:
    """A command, and the pipelines that it is for; none: all."""

    command: str
    pipelines: tuple[str, ...] = ()

    def line(self) -> bytes:
        """Write it as it goes over the socket."""
        return _line({"version": VERSION, "command": self.command, "pipelines": list(self.pipelines)})

    @classmethod
    def read(cls, line: bytes) -> Request:
        """Read it from its line.

        Raises:
            BadRequest: It is none.
        """
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise BadRequest("that is no JSON") from None
        if not isinstance(fields, dict) or fields.get("version") != VERSION:
            raise BadRequest(f"this process speaks version {VERSION} of the control protocol")
        command, names = fields.get("command"), fields.get("pipelines", [])
        if command not in COMMANDS:
            raise BadRequest(f"there is no such command; there are {', '.join(COMMANDS)}")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadRequest("pipelines is a list of names")
        return cls(command, tuple(dict.fromkeys(names)))


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int

    @property
    def may_command(self) -> bool:
        """Whether it is the user of this process, or root."""
        return self.uid in {0, os.geteuid()}


def peer_of(connection: socket.socket) -> Peer:
    """Ask the kernel who is at the other end."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(found)
    return Peer(pid, uid)


def answer_line(answer: Mapping[str, Any]) -> bytes:
    """Write an answer as it goes over the socket."""
    return _line({"version": VERSION, **answer})


def read_line(connection: socket.socket, most: int, seconds: float) -> bytes:
    """Read up to the first line break; empty where the other end says nothing.

    Args:
        connection: The connection.
        most: The most bytes.
        seconds: For all of it, so that who drips holds nobody up.

    Raises:
        BadRequest: It is longer.
        OSError: It does not come in time, or the other end is gone.
    """
    parts: list[bytes] = []
    size, deadline = 0, time.monotonic() + seconds
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        part = connection.recv(64 * 1024)
        if not part:
            break
        head, found, _ = part.partition(b"\n")
        size += len(head)
        if size > most:
            raise BadRequest(f"a line has {most} bytes at most")
        parts.append(head)
        if found:
            break
    return b"".join(parts)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


# -- where -------------------------------------------------------------------------------------------------------------


def socket_path(path: Path, settings: Settings) -> Path | None:
    """Give the place of the socket of a process that runs by this file; None where it has none."""
    return _placed(path, settings.control.socket)


def candidates(path: Path, environ: Mapping[str, str] = os.environ) -> Sequence[Path]:
    """Give the places where a process that runs by this file may listen, best first.

    The file may be broken just now: then as much of it as can be read decides. The variables of that process may be
    others than ours, and so its default directory.
    """
    try:
        control = read_source(path, environ).tree.get("control")
    except ConfigProblems:
        control = None
    chosen = control.get("socket", CONTROL_DEFAULT) if isinstance(control, dict) else CONTROL_DEFAULT
    if chosen != CONTROL_DEFAULT:
        placed = _placed(path, chosen if isinstance(chosen, str) else None)
        return [placed] if placed else []
    return [directory / _name(path) for directory in dict.fromkeys(default_directories())]


def _placed(path: Path, chosen: str | None) -> Path | None:
    if chosen is None:
        return None
    if chosen == CONTROL_DEFAULT:
        return default_directories()[0] / _name(path)
    return path.parent / chosen


def _name(path: Path) -> str:
    # As it was given, links and all: a ConfigMap puts another file behind the same name.
    return f"{hashlib.sha256(os.fsencode(Path.cwd() / path)).hexdigest()[:16]}.sock"


def default_directories() -> Sequence[Path]:
    """Give the directories where sockets of this user are that nobody named a place for, best first."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    roots = [given] if given and Path(given).is_dir() else []
    return [_directory(root) for root in (*roots, tempfile.gettempdir())]


def _directory(root: str) -> Path:
    # /tmp is everybody's: each user has a directory there that no other may look into.
    return Path(root) / f"streamcrypt-{os.geteuid()}"
