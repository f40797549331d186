"""The status page: one HTML file that needs nothing else, and the policy that a browser holds it to.

Style and script stand in files of their own and are put into the page once; the policy allows these two by their
SHA-256 and nothing besides, so that no text from a topic or an error can ever run.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

__all__ = ["HEADERS", "page", "policy"]

HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
"""For every answer, whatever it holds."""


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def page() -> bytes:
    """Give the page."""
    html = _part("page.html").replace("/*style*/", _part("page.css")).replace("/*script*/", _part("page.js"))
    return html.encode()


@cache
def policy() -> str:
    """Give its Content-Security-Policy (https://www.w3.org/TR/CSP3/).

    Trusted types: where a browser knows them, markup can not even be made from text.
    """
    style, script = (_hash(_part(name)) for name in ("page.css", "page.js"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
