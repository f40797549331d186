"""Searches everything that a run logged for the plaintext and the keys that took part in it.

``tests/sidecar.py`` hands over what processes write to stderr, and the fixtures of ``tests/log_scan_fixtures.py`` what
:mod:`logging` says in the test's own process; they search at the end of every test, and ``tests/chaos`` searches after
each scenario. No test has to ask for it.

What is searched for: the canaries that stand in the tests' values, other values that the tests write to the broker,
and every 32 bytes drawn by ``os.urandom`` here (the test KMS makes data keys that way, and ids by ``secrets``) or in a
process that was started (``LocalKeyProvider`` does). In clear, escaped as in a ``repr`` or in JSON, in hex, base64 and
lists of numbers.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

__all__ = ["CANARIES", "SCAN", "Scan", "find"]

CANARIES = (b"PLAINTEXT-DE", b"PLAINTEXT-0", b"IBAN DE89")
"""Parts of the values that tests make, in tests/sidecar.py and tests/chaos/records.py; nothing else has them."""

KEY_BYTES = 32
DRAWS = "LOG_SCAN_DRAWS"
"""Variable that names the file to which a process writes what it draws. See tests/draws/sitecustomize.py."""
_HOOK = Path(__file__).parent / "draws"
# A piece is enough to give a secret away, and what is cut off in a log still holds one.
_PIECE = 12
_MOST_VALUES = 2_000

_HEX = re.compile(rb"[0-9a-fA-F]{%d,}" % (2 * _PIECE))
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{%d,}" % (4 * _PIECE // 3))
_NUMBERS = re.compile(rb"(?:\d{1,3}, ?){%d,}\d{1,3}" % (_PIECE - 1))
# repr has \xhh, JSON has \u00hh, and JSON of a repr \\xhh.
_ESCAPE = re.compile(rb"\\+(?:(?:x|u00)([0-9a-fA-F]{2})|([nrt0]))")
_CONTROLS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0"}


def find(text: bytes, secrets: Iterable[bytes]) -> list[str]:
    """Say in which forms secrets stand in a text.

    Args:
        text: What was logged.
        secrets: Keys and values. A piece of 12 bytes at either end, or in the middle, counts.
    """
    pieces = sorted({piece for secret in secrets for piece in _pieces(secret)})
    # Random bytes are not ASCII but for once in 4,000, so that a log of plain text is not searched for each of them.
    plain = [piece for piece in pieces if piece.isascii()]
    return [
        f"{form}: {piece!r}"
        for form, view in _views(text).items()
        for piece in (plain if view.isascii() else pieces)
        if piece in view
    ]


def _pieces(secret: bytes) -> set[bytes]:
    middle = max(0, (len(secret) - _PIECE) // 2)
    return {secret[:_PIECE], secret[middle : middle + _PIECE], secret[-_PIECE:]}


def _views(text: bytes) -> dict[str, bytes]:
    """Give a text as it is, and what stands in it in codings, each found piece once."""
    return {
        "in clear": text,
        "escaped": b"\n".join(_unescaped(line) for line in set(text.split(b"\n")) if b"\\" in line),
        "in hex": b"\n".join(_unhex(token) for token in _tokens(_HEX, text, 2)),
        "in base64": b"\n".join(_unbase64(token) for token in _tokens(_BASE64, text, 4)),
        "as numbers": b"\n".join(
            bytes(int(n) & 255 for n in found.split(b",")) for found in set(_NUMBERS.findall(text))
        ),
    }


def _unescaped(line: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: _CONTROLS[found[2]] if found[2] else bytes.fromhex(found[1].decode()), line)


def _tokens(pattern: re.Pattern[bytes], text: bytes, step: int) -> Iterator[bytes]:
    """Give every run of a coding from each place where one of its units may begin."""
    for token in set(pattern.findall(text)):
        yield from (token[start:] for start in range(step))


def _unhex(token: bytes) -> bytes:
    return bytes.fromhex(token[: len(token) // 2 * 2].decode())


def _unbase64(token: bytes) -> bytes:
    # A last unit of one character holds no byte; of two or three, one or two bytes.
    whole = token[:-1] if len(token) % 4 == 1 else token
    altchars = b"-_" if b"-" in whole or b"_" in whole else b"+/"
    return base64.b64decode(whole + b"=" * (-len(whole) % 4), altchars)


class Scan:
    """What was logged since the last look, and what must not be in it. Thread-safe.

    Attributes:
        scanned: Bytes looked through in all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: list[bytes] = []
        self._files: list[Path] = []
        self._secrets: set[bytes] = set()
        self._values: set[bytes] = set()
        self._directory: Path | None = None
        self.scanned = 0

    # ---- what was logged ----

    def add(self, text: bytes | str) -> None:
        """Take note of something logged."""
        with self._lock:
            self._texts.append(text.encode(errors="surrogateescape") if isinstance(text, str) else text)

    @contextlib.contextmanager
    def sink(self) -> Iterator[IO[bytes] | int]:
        """Give what is to be the stderr of a process that nobody else reads: a file, or nowhere."""
        if self._directory is None:
            yield subprocess.DEVNULL
            return
        descriptor, name = tempfile.mkstemp(dir=self._directory)
        self._files.append(Path(name))
        with os.fdopen(descriptor, "wb") as file:
            yield file

    # ---- what must not be in it ----

    def secret(self, value: bytes) -> None:
        """Search for this from now on."""
        with self._lock:
            self._secrets.add(value)

    def written(self, value: bytes | None) -> None:
        """Search for a value that a test wrote, unless it holds a canary, or is too short or too plain to be told."""
        if value is None or len(value) < _PIECE or len(set(value[:_PIECE])) < _PIECE // 2 or self._directory is None:
            return
        if not any(canary in value for canary in CANARIES):
            with self._lock:
                if len(self._values) < _MOST_VALUES:
                    self._values.add(value)

    def environment(self, env: dict[str, str]) -> dict[str, str]:
        """Add what makes a process tell of the keys that it draws."""
        if self._directory is None:
            return env
        path = os.pathsep.join(filter(None, (str(_HOOK), env.get("PYTHONPATH", ""))))
        return env | {"PYTHONPATH": path, DRAWS: str(self._directory / "draws")}

    # ---- the search ----

    @property
    def secrets(self) -> set[bytes]:
        """All that is searched for now."""
        drawn = b""
        if self._directory is not None:
            with contextlib.suppress(FileNotFoundError):
                drawn = (self._directory / "draws").read_bytes()
        keys = {drawn[at : at + KEY_BYTES] for at in range(0, len(drawn) - KEY_BYTES + 1, KEY_BYTES)}
        with self._lock:
            return self._secrets | self._values | keys

    def look(self) -> list[str]:
        """Search what was logged since the last look; give what was found."""
        with self._lock:
            texts, self._texts = self._texts, []
            files, self._files = self._files, []
        text = b"\n".join([*texts, *(path.read_bytes() for path in files)])
        self.scanned += len(text)
        return find(text, {*self.secrets, *CANARIES})

    @contextlib.contextmanager
    def open(self) -> Iterator[Scan]:
        """Listen: to draws of keys, to values written, to :mod:`logging` here, until the block ends."""
        before, self._directory = self._directory, Path(tempfile.mkdtemp(prefix="log-scan-"))
        draw, tap = os.urandom, _Tap(self)

        def telling(size: int, /) -> bytes:
            drawn = draw(size)
            if size == KEY_BYTES:
                self.secret(drawn)
            return drawn

        os.urandom = telling
        logging.getLogger().addHandler(tap)
        try:
            yield self
        finally:
            logging.getLogger().removeHandler(tap)
            os.urandom = draw
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = before
            with self._lock:
                self._texts, self._files, self._secrets, self._values = [], [], set(), set()


class _Tap(logging.Handler):
    """Hears what the test's own process logs; it changes no level, so DEBUG of botocore stays unsaid."""

    def __init__(self, scan: Scan) -> None:
        super().__init__()
        self._scan = scan

    def emit(self, record: logging.LogRecord) -> None:
        self._scan.add(f"{record.name} {record.getMessage()}")


SCAN = Scan()
"""The one of this process."""
