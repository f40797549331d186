"""Pages of the documentation, cut into their code blocks, for the tests that hold them to the program."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
_BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the page and line where it stands, its language and its text without indentation."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """Give the blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[2], textwrap.dedent(match[3]))
        for match in _BLOCK.finditer(text)
        if match[2] in languages
    ]


def commands(page: Path) -> Iterator[tuple[Block, str]]:
    """Give every command line of a page that a reader types, without its prompt; continued lines are joined."""
    for block in blocks(page, "console", "bash", "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            typed = line.removeprefix("$ ") if block.language == "console" else line
            if line.strip() and (block.language != "console" or line.startswith("$ ")):
                yield block, typed.strip()
