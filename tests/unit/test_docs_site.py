"""The documentation site: it builds without a warning, loads nothing from elsewhere, and its references are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import streamcrypt
from streamcrypt.cli import reference as cli_reference
from streamcrypt.config import load
from streamcrypt.config import reference as config_reference
from tests.documents import DOCS, ROOT

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
REMEDY = "run 'make reference'"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Assets(HTMLParser):
    """Collects what a browser fetches by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag in LOADING:
            self.urls.append(found.get(LOADING[tag]) or "")
        elif tag == "link" and LOADED_LINKS & set((found.get("rel") or "").split()):
            self.urls.append(found.get("href") or "")


def test_no_page_and_no_style_loads_anything_from_elsewhere(site):
    """The reader's browser talks to the site alone, which may be a folder."""
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Assets()
        parser.feed(page.read_text(encoding="utf-8"))
        foreign = [url for url in parser.urls if re.match(r"(?:[a-z]+:)?//", url)]
        assert foreign == [], page.name
    for style in site.rglob("*.css"):
        addresses = re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)|@import\s+[\"']([^\"']+)", style.read_text())
        assert addresses == [], style.name


def test_every_public_name_has_its_entry(site):
    """On the page of the Python API, by its own name."""
    page = (site / "api.html").read_text(encoding="utf-8")
    assert sorted(name for name in streamcrypt.__all__ if f'id="streamcrypt.{name}"' not in page) == []


def test_files_that_pages_link_to_are_in_the_site(site):
    """Examples of configurations can be read without the repository."""
    assert (site / "files" / "config" / "tls.yaml").read_bytes() == (ROOT / "config" / "tls.yaml").read_bytes()
    assert (site / "SECURITY.html").exists()


def test_every_page_is_in_the_navigation():
    """What is not there is not found; decisions are listed on a page of their own."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w./-]+\.md", text[text.index("\nnav:") :]))
    assert sorted(page.name for page in DOCS.glob("*.md") if page.name not in named) == []


def test_the_configuration_reference_is_what_the_models_give():
    """Names, types, defaults and texts."""
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == config_reference.page(), REMEDY


def test_the_command_line_reference_is_what_the_commands_give():
    """Arguments, options, defaults and texts."""
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == cli_reference.page(), REMEDY


def test_every_documented_default_is_accepted_from_its_variable(tmp_path):
    """The name of the variable is right, and the default is written as the process reads it."""
    path = tmp_path / "config.yaml"
    tree = {
        "kafka": {"bootstrap.servers": "localhost:9092"},
        "keys": {"key_id": "alias/payments", "region": "eu-west-1"},
        "pipelines": [{"name": "p", "mode": "encrypt", "from": "payments", "to": "payments.encrypted"}],
    }
    path.write_text(yaml.safe_dump(tree))
    plain = load(path, {})
    rows = [
        row for section in ("rotation", "cache", "http", "log", "pipelines[]") for row in config_reference.rows(section)
    ]
    defaults = {
        config_reference.variable(row.path): row.default.strip("`").replace("[key]", '["key"]')
        for row in rows
        if row.default.startswith("`") and not row.path.startswith("pipelines[].plaintext.")
    }
    assert len(defaults) > 20
    assert load(path, defaults).model_dump(mode="json") == plain.model_dump(mode="json")
