"""The profile `monitoring` of docker-compose.yml: Prometheus and Grafana find what config/ gives them.

That every service is hardened, listens on loopback and mounts what exists is checked for all in test_compose.py, and
what promtool says of the files by `make deploy-check`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
MONITORING = sorted(name for name, service in SERVICES.items() if "profiles" in service)
PROMETHEUS = yaml.safe_load((ROOT / "config" / "prometheus" / "prometheus.yaml").read_text())


def mounted(name: str, path: str) -> Path:
    """The file or folder of this repository that a service sees at a path."""
    for volume in SERVICES[name]["volumes"]:
        source, target = volume.split(":")[:2]
        if PurePosixPath(path).is_relative_to(target) and source.startswith("."):
            return ROOT / source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{name} sees nothing of ours at {path}")


def provisioned(kind: str) -> dict[str, Any]:
    [file] = mounted("grafana", f"/etc/grafana/provisioning/{kind}").glob("*.yaml")
    return yaml.safe_load(file.read_text())


def test_it_starts_only_when_asked_for():
    assert MONITORING == ["grafana", "prometheus"]
    assert all(SERVICES[name]["profiles"] == ["monitoring"] for name in MONITORING)


@pytest.mark.parametrize("name", MONITORING)
def test_its_images_have_whole_versions(name):
    assert re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", MONITORING)
def test_it_runs_on_a_read_only_root_with_a_volume_for_its_data(name):
    assert SERVICES[name]["read_only"] is True
    data = {"prometheus": "/prometheus", "grafana": "/var/lib/grafana"}[name]
    assert f"{name}-data:{data}" in SERVICES[name]["volumes"]


def test_prometheus_reads_our_configuration_and_rules():
    [path] = [word.partition("=")[2] for word in SERVICES["prometheus"]["command"] if "config.file" in word]
    assert yaml.safe_load(mounted("prometheus", path).read_text()) == PROMETHEUS
    for pattern in PROMETHEUS["rule_files"]:
        folder, _, glob = pattern.rpartition("/")
        assert list(mounted("prometheus", folder).glob(glob))


def test_prometheus_scrapes_the_sidecars_of_the_stack_where_they_listen():
    [job] = PROMETHEUS["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    sidecars = {
        name for name, service in SERVICES.items() if "STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS" in json.dumps(service)
    }
    assert {target.partition(":")[0] for target in targets} == sidecars
    for target in targets:
        name, _, port = target.partition(":")
        config = yaml.safe_load(mounted(name, "/etc/streamcrypt/config.yaml").read_text())
        assert config["http"]["port"] == int(port)


def test_grafana_finds_prometheus_and_the_dashboards():
    [source] = provisioned("datasources")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = provisioned("dashboards")["providers"]
    found = mounted("grafana", provider["options"]["path"]).glob("*.json")
    assert {path.name for path in found} == {path.name for path in (ROOT / "config" / "grafana").glob("*.json")}


def test_grafana_knows_no_password_and_shows_without_letting_change():
    environment = SERVICES["grafana"]["environment"]
    assert not [name for name in environment if "PASSWORD" in name]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
