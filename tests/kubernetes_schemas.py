"""JSON schemas of Kubernetes' kinds, strict, as kubeconform wants them: from its own OpenAPI, and from CRDs.

The documents come as Go modules, pinned by the hashes that Go computes over them; nothing of them is built.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

__all__ = ["KUBERNETES", "schemas"]

Schema = dict[str, Any]

KUBERNETES = "1.37.2"
_API = ("k8s.io/kubernetes@v1.37.2", "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE=")
_OPENAPI = "api/openapi-spec/swagger.json"
_CRDS = {
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0", "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="): (
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    ("github.com/kedacore/keda/v2@v2.21.0", "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="): (
        "config/crd/bases/keda.sh_scaledobjects.yaml",
    ),
}
_REFERENCE = "#/definitions/"
# What the API server takes as either, and OpenAPI calls a string.
_STRING_OR_NUMBER = {"oneOf": [{"type": "string"}, {"type": "number"}]}


def schemas(cache: Path) -> Path:
    """Give the folder with ``<kind>-<group>-<version>.json`` of every kind, made in ``cache`` once for these pins."""
    modules = {_API: (_OPENAPI,), **_CRDS}
    made = cache / f"schemas-{hashlib.sha256(repr(modules).encode()).hexdigest()[:12]}"
    if made.exists():
        return made
    unfinished = made.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    for module, files in modules.items():
        folder = _download(*module)
        for file in files:
            kinds = _of_openapi if file == _OPENAPI else _of_crd
            for name, schema in kinds((folder / file).read_text(encoding="utf-8")):
                (unfinished / f"{name}.json").write_text(json.dumps(schema), encoding="utf-8")
    return unfinished.rename(made)


def _download(module: str, expected: str) -> Path:
    done = subprocess.run(["go", "mod", "download", "-json", module], capture_output=True, text=True, check=False)
    said = json.loads(done.stdout or "{}")
    assert done.returncode == 0, said.get("Error") or done.stderr
    assert said["Sum"] == expected, f"{module} has the hash {said['Sum']}"
    return Path(said["Dir"])


def _name(group: str, version: str, kind: str) -> str:
    """As kubeconform names a file: of the group its first part only."""
    return "-".join(filter(None, (kind, group.partition(".")[0], version))).lower()


def _of_openapi(text: str) -> Iterator[tuple[str, Schema]]:
    definitions = json.loads(text)["definitions"]
    strict = {name: _strict(definition) for name, definition in definitions.items()}
    strict["io.k8s.apimachinery.pkg.api.resource.Quantity"] = _STRING_OR_NUMBER
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            needed = {part: strict[part] for part in _reachable(strict, name)}
            yield (
                _name(kind["group"], kind["version"], kind["kind"]),
                {"$ref": _REFERENCE + name, "definitions": needed},
            )


def _of_crd(text: str) -> Iterator[tuple[str, Schema]]:
    spec = yaml.safe_load(text)["spec"]
    for version in spec["versions"]:
        name = _name(spec["group"], version["name"], spec["names"]["kind"])
        yield name, _strict(version["schema"]["openAPIV3Schema"])


def _reachable(definitions: dict[str, Schema], name: str) -> list[str]:
    found = [name]
    for part in found:
        found += [other for other in dict.fromkeys(_references(definitions[part])) if other not in found]
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference.removeprefix(_REFERENCE)
        for inner in node.values():
            yield from _references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _references(inner)


def _strict(node: Any) -> Any:
    """Refuse names that a schema does not know, where it knows any."""
    if isinstance(node, list):
        return [_strict(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string" or node.get("x-kubernetes-int-or-string"):
        return {"oneOf": [{"type": "string"}, {"type": "integer"}]}
    schema = {name: _strict(inner) for name, inner in node.items() if not name.startswith("x-kubernetes-")}
    if isinstance(node.get("properties"), dict) and "type" in node and "additionalProperties" not in node:
        schema["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return schema
