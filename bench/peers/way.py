"""One way to encrypt a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Way"]


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Way:
    """How a library encrypts and decrypts the value of one record.

    Attributes:
        name: As it stands in results.
        encrypt: Takes the value; gives whatever ``decrypt`` takes.
        decrypt: Gives the value back.
        size: Bytes that a record carries, before compression.
        close: Ends it.
    """

    name: str
    encrypt: Callable[[bytes], Any]
    decrypt: Callable[[Any], bytes | None]
    size: Callable[[Any], int] = len
    close: Callable[[], None] = _nothing
