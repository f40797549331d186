"""Checks what is deployed with the tools that deploy it: Helm, kubeconform and promtool, built from source by Go.

``python -m tests.deploy_check`` lints and renders the chart for each value set, validates what comes out, compares it
with tests/golden/helm, and has promtool read what Prometheus reads. ``--write`` writes the golden files instead. The
first run builds for about two minutes; the tests themselves need no Go, they check the golden files and their hashes.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.charts import CHART, CHECKED, GOLDEN, MANIFESTS, ROOT, VALUES, hashes
from tests.kubernetes_schemas import KUBERNETES, schemas

_TOOLS = ROOT / "tests" / "deploy_tools"
_CACHE = ROOT / ".cache" / "deploy-tools"
_PACKAGES = (
    "helm.sh/helm/v3/cmd/helm",
    "github.com/yannh/kubeconform/cmd/kubeconform",
    "github.com/prometheus/prometheus/cmd/promtool",
)
# One for each source of schemas: a name that is none, or a value of the wrong kind.
_FAULTS = {
    "serviceAccountName:": "serviceAccount_Name:",
    "containerPort: 9464": "containerPort: x",
    "scrapeTimeout:": "scrape_Timeout:",
    "- alert: StreamcryptDown": "- alarm: StreamcryptDown",
    "pollingInterval: 30": "pollingInterval: often",
}
_SECRETS = {
    "ssl.key.pem": "ssl.key.pem.file",
    "sasl.oauthbearer.assertion.private.key.pem": "sasl.oauthbearer.assertion.private.key.file",
}
_SERIES = ROOT / "tests" / "deploy_tools" / "alerts.test.yaml"
_RULES = ROOT / "config" / "alerts" / "streamcrypt.yaml"
_PROMETHEUS = ROOT / "config" / "prometheus" / "prometheus.yaml"


def main(arguments: list[str]) -> int:
    """Check everything, or with ``--write`` accept what the chart renders to now."""
    write = "--write" in arguments
    _build()
    for name, values in VALUES.items():
        _run("helm", "lint", "--strict", "--quiet", f"--kube-version={KUBERNETES}", f"--values={values}", CHART)
        rendered = _render(values)
        _conform(rendered)
        _compare(GOLDEN / f"{name}.yaml", _without_alerts(rendered), write=write)
    for manifest in MANIFESTS:
        _conform(manifest.read_text())
    _refuses_faults(_render(VALUES["production"]))
    _refuses_secrets()
    _prometheus()
    listing = "".join(f"{digest}  {path}\n" for path, digest in hashes().items())
    _compare(CHECKED, listing, write=write)
    print(f"deploy-check: {len(VALUES)} value sets and {len(MANIFESTS)} manifests against Kubernetes {KUBERNETES}: ok")
    return 0


def _build() -> None:
    go = shutil.which("go")
    if go is None:
        sys.exit(
            "deploy-check: Helm, kubeconform and promtool are built with Go 1.26.7 or newer; there is no `go` here"
        )
    # Without the tag, promtool holds the clients of every cloud, for service discovery that we do not use.
    command = [go, "build", "-tags", "remove_all_sd", "-o", f"{_CACHE}{os.sep}", *_PACKAGES]
    subprocess.run(command, cwd=_TOOLS, env=os.environ | {"CGO_ENABLED": "0"}, check=True)


def _run(
    tool: str, *arguments: str | Path, given: str = "", may_fail: bool = False
) -> subprocess.CompletedProcess[str]:
    command = [str(_CACHE / tool), *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def _render(values: Path) -> str:
    options = ("--namespace=payments", f"--kube-version={KUBERNETES}", f"--values={values}")
    return _run("helm", "template", "streamcrypt", CHART, *options).stdout


def _conform(manifests: str, *, may_fail: bool = False) -> subprocess.CompletedProcess[str]:
    location = f"{schemas(_CACHE)}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    options = ("-strict", "-summary", "-kubernetes-version", KUBERNETES, "-schema-location", location)
    return _run("kubeconform", *options, "-", given=manifests, may_fail=may_fail)


def _refuses_faults(rendered: str) -> None:
    """Without this, schemas that say nothing would pass for a check."""
    for sound, faulty in _FAULTS.items():
        assert sound in rendered
        if not _conform(rendered.replace(sound, faulty), may_fail=True).returncode:
            sys.exit(f"deploy-check: kubeconform does not see that {faulty!r} is wrong")


def _refuses_secrets() -> None:
    """A secret in the configuration is refused, in words that name a setting which exists."""
    for name, file in _SECRETS.items():
        option = f"--set-string=config.kafka.{name.replace('.', chr(92) + '.')}=x"
        options = (f"--kube-version={KUBERNETES}", f"--values={VALUES['minimal']}", option)
        done = _run("helm", "template", "streamcrypt", CHART, *options, may_fail=True)
        if not done.returncode or f"or as {file} from" not in done.stderr:
            sys.exit(f"deploy-check: {name} in the configuration: {done.stderr or 'not refused'}")


def _without_alerts(rendered: str) -> str:
    parts = re.split(r"^---\n", rendered, flags=re.MULTILINE)
    return "---\n".join(part for part in parts if not re.search(r"^kind: PrometheusRule$", part, re.MULTILINE))


def _compare(path: Path, text: str, *, write: bool) -> None:
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    kept = path.read_text() if path.exists() else ""
    if kept != text:
        lines = difflib.unified_diff(kept.splitlines(True), text.splitlines(True), str(path), "now")
        sys.exit("".join(lines) + "deploy-check: this is new. If it is as it should be: make deploy-golden")


def _prometheus() -> None:
    """The rules, and the scrape configuration with the paths of a container put where they are here."""
    _run("promtool", "check", "rules", "--lint=all", "--lint-fatal", _RULES)
    _run("promtool", "test", "rules", _SERIES)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "prometheus.yaml"
        here.write_text(_PROMETHEUS.read_text().replace("/etc/streamcrypt/alerts", str(_RULES.parent)))
        said = _run("promtool", "check", "config", "--lint=all", here).stdout
    if "1 rule files found" not in said:
        sys.exit(f"promtool found no rules:\n{said}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
