"""A real Chromium for tests, driven by Playwright: the system's, or the one that Playwright downloads.

Where there is none the test is skipped, and says how to get one; continuous integration forbids that by
``STREAMCRYPT_REQUIRE_BROWSER``, once it has one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Playwright

__all__ = ["chromium"]

VARIABLE = "CHROMIUM"
REQUIRED = "STREAMCRYPT_REQUIRE_BROWSER"
_PATIENCE = 30_000.0  # milliseconds
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_REMEDY = (
    "no Chromium for the test of the status page. Install one (Debian: apt-get install chromium-headless-shell;"
    " elsewhere: python -m playwright install chromium-headless-shell), or name one in CHROMIUM"
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser without a window, and end it.

    Raises:
        AssertionError: There is none, none could be downloaded, and one is required.
        pytest.skip.Exception: The same, where none is required.
    """
    from playwright.sync_api import expect, sync_playwright

    # A busy machine takes longer than the 5 s that are the default.
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        # Without its sandbox: root has none, and it is shown our own page only.
        browser = playwright.chromium.launch(executable_path=_found(playwright), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def _found(playwright: Playwright) -> str | None:
    if given := os.environ.get(VARIABLE):
        return given
    if found := next(filter(None, map(shutil.which, _NAMES)), None):
        return found
    if not Path(playwright.chromium.executable_path).exists():
        command = [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode != 0 and REQUIRED not in os.environ:
            pytest.skip(_REMEDY)
        assert done.returncode == 0, _REMEDY
    return None
