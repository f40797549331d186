"""What is wrong with a configuration: where, what and what to do, one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from streamcrypt.errors import ConfigError

__all__ = ["ConfigProblems", "Problem", "nearest"]

MAX_LINES = 20  # a listing fits one screen of 24 lines


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        location: ``file:line:column``, or the name of the environment variable.
        path: The setting, such as ``pipelines[0].mode``; empty where the whole file is meant.
        message: What is wrong. Never a value from below ``kafka``, where passwords stand.
        remedy: What to do, one sentence.
    """

    location: str
    path: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.location, self.path, f"{self.message}. {self.remedy}") if part)


class ConfigProblems(ConfigError):
    """A configuration that cannot be used. Its text is a listing, one line for each problem.

    Attributes:
        problems: All problems found, in the order of the file, those from the environment last.
    """

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{source}: {count} {'problem' if count == 1 else 'problems'}"]
        lines += [f"  {problem}" for problem in self.problems[:MAX_LINES]]
        if count > MAX_LINES:
            lines.append(f"  and {count - MAX_LINES} more; mend these first.")
        super().__init__("\n".join(lines))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Give the name that ``name`` was most likely meant to be, or None where nothing is near.

    The cutoff of 0.6 is difflib's default: one wrong letter in three still finds its name.
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
