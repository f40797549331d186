"""How commands for people and for programs print what they found."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Form"]


class Form(StrEnum):
    """A table to read, or JSON."""

    TABLE = "table"
    JSON = "json"
