"""What the site needs beyond docs/: pages and files of the repository that the pages link to.

On the repository's own pages a link such as ``../config/tls.yaml`` works as it stands. Here each file that such a link
names goes into the site, under ``files/``; SECURITY.md, CONTRIBUTING.md and CHANGELOG.md become pages of their own. A
link to what is not there stays as it is, and the strict build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"<code>[^<]*</code>")
_ROLE = re.compile(r":(?:class|func|meth|attr|data|exc|mod):(<code>)~?(?:streamcrypt\.(?:\w+\.)*)?")
_DECISIONS = "adr/README.md"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the top of the repository, and every file that a page links to."""
    for name in PAGES:
        _add(files, config, name)
    for page in files.documentation_pages():
        for target in _targets(page.content_string, f"docs/{page.src_uri}"):
            if not target.startswith("docs/"):
                _add(files, config, target)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links out of docs/ into links within the site; give the decisions their list."""
    if page.file.generated_by is None:
        markdown = _LINK.sub(lambda match: _within(match, f"docs/{page.file.src_uri}", page.file.src_uri), markdown)
    if page.file.src_uri == _DECISIONS:
        markdown += "\n" + "\n".join(_decision(path) for path in sorted((ROOT / "docs" / "adr").glob("0*.md")))
    return markdown


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Mend what the converters leave: the backslash before a pipe in a table's code, roles in docstrings."""
    html = _ROLE.sub(r"\1", html)
    # GitHub wants such a pipe escaped, and Python-Markdown keeps the backslash.
    return _CODE.sub(lambda match: match[0].replace("\\|", "|"), html)


def _add(files: Files, config: Any, path: str) -> None:
    """Put a file of the repository into the site; a page brings along what it links to."""
    place = _place(path)
    if not (ROOT / path).is_file() or files.get_file_from_path(place) is not None:
        return
    if not path.endswith(".md"):
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        return
    text = (ROOT / path).read_text(encoding="utf-8")
    files.append(File.generated(config, place, content=_LINK.sub(lambda match: _within(match, path, place), text)))
    for target in _targets(text, path):
        if not target.startswith("docs/"):
            _add(files, config, target)


def _targets(text: str, source: str) -> list[str]:
    """Give what the links of a page name, as paths in the repository."""
    return [_resolve(match[2], source) for match in _LINK.finditer(text)]


def _resolve(link: str, source: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _place(path: str) -> str:
    """Say where a file of the repository is in the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") or path in PAGES else f"files/{path}"


def _within(match: re.Match[str], source: str, place: str) -> str:
    """Give a link as it has to be in the site; a folder is named without a link."""
    text, link, anchor = match.groups()
    target = _resolve(link, source)
    if (ROOT / target).is_dir():
        return text
    if not (ROOT / target).exists():
        return match[0]
    return f"[{text}]({posixpath.relpath(_place(target), posixpath.dirname(place) or '.')}{anchor or ''})"


def _decision(path: Path) -> str:
    title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    return f"- [{title}]({path.name})"
