"""docs/testing.md names what the double has, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamcrypt.testing import KMSServer
from streamcrypt.testing.kms_operations import OPERATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
INTERNAL = {"answer", "close", "seeded", "start", "url"}


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_every_operation_is_named(operation):
    """In the table of what it does."""
    assert f"`{operation}`" in PAGE


@pytest.mark.parametrize("name", sorted(name for name in dir(KMSServer) if not name.startswith("_")))
def test_every_control_is_named(name):
    """What a test can call stands on the page."""
    assert name in INTERNAL or re.search(rf"`{name}[`(]", PAGE)


def test_the_examples_run(tmp_path):
    """The first is the conftest, the others are tests."""
    conftest, *tests = EXAMPLES
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_page.py").write_text("\n\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(tests)} passed" in done.stdout


def test_the_seed_of_the_page_is_one(tmp_path):
    """It plants a key with a replica."""
    (seed,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "seed.json"
    path.write_text(seed)
    server = KMSServer(seed=path)
    try:
        assert server.call("DescribeKey", region="eu-central-1", KeyId="alias/payments")["KeyMetadata"]["MultiRegion"]
    finally:
        server.close()
