"""Claims about what imports load: the library is light, and so is the way to --help."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "boto3",
    "botocore",
    "confluent_kafka",
    "http.server",
    "prometheus_client",
    "pydantic",
    "structlog",
    "typer",
    "yaml",
)


def loaded_by(statement: str) -> set[str]:
    """Which heavy modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["streamcrypt", "streamcrypt.cli", "streamcrypt.observe", "streamcrypt.keys.aws_kms.names"]
)
def test_importing_loads_no_foreign_library(module):
    """Importing the library, or the command line's package, loads nothing that the core does without."""
    assert loaded_by(f"import {module}") == set()


def test_the_commands_load_typer_alone():
    """The table of commands needs typer and nothing that a command needs."""
    assert loaded_by("import streamcrypt.cli.app") == {"typer"}


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("streamcrypt.config", {"pydantic", "yaml"}),
        ("streamcrypt.observe.health", set()),
        ("streamcrypt.observe.logs", {"structlog"}),
    ],
)
def test_a_module_loads_its_own_library_only(module, needs):
    """Each foreign library has its module, which loads no other."""
    assert loaded_by(f"import {module}") == needs
