"""The Helm chart, what it renders to, and the other manifests: where they are, and which were checked."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

__all__ = ["CHART", "CHECKED", "GOLDEN", "MANIFESTS", "ROOT", "VALUES", "documents", "hashes"]

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy" / "helm" / "streamcrypt"
VALUES = {path.stem.removesuffix("-values"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
"""Name of each value set to its file."""
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
GOLDEN = ROOT / "tests" / "golden" / "helm"
"""What the chart renders to for each value set, but for the alert rules: those stand in config/alerts."""
CHECKED = GOLDEN / "checked.sha256"
"""Hashes of the files that `make deploy-check` has accepted; `sha256sum --check` reads them too."""

_NOT_RENDERED = {"README.md", "alerts.yaml"}


def documents(text: str) -> list[dict[str, Any]]:
    """The objects of a file of manifests."""
    return [document for document in yaml.safe_load_all(text) if document]


def hashes() -> dict[str, str]:
    """Hash of each file that `make deploy-check` looks at, by its path from the root."""
    chart = (path for path in CHART.rglob("*") if path.is_file() and path.name not in _NOT_RENDERED)
    golden = (GOLDEN / f"{name}.yaml" for name in VALUES)
    return {
        path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((*chart, *MANIFESTS, *golden))
        if path.exists()
    }
