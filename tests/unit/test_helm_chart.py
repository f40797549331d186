"""The Helm chart and the other manifests, by what Helm made of them when `make deploy-check` last accepted them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from streamcrypt.config import Settings, load
from streamcrypt.config.secrets import SECRETS
from tests.charts import CHART, CHECKED, GOLDEN, MANIFESTS, ROOT, VALUES, documents, hashes

Document = dict[str, Any]

RENDERED = {name: documents((GOLDEN / f"{name}.yaml").read_text()) for name in VALUES}
EVERYTHING = RENDERED | {path.stem: documents(path.read_text()) for path in MANIFESTS}
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DRAIN_SECONDS = 10

each_set = pytest.mark.parametrize("name", sorted(RENDERED))
each = pytest.mark.parametrize("name", sorted(EVERYTHING))


def the(kind: str, name: str) -> Document:
    [found] = [document for document in EVERYTHING[name] if document["kind"] == kind]
    return found


def workload(name: str) -> Document:
    [found] = [document for document in EVERYTHING[name] if document["kind"] in {"StatefulSet", "Deployment"}]
    return found


def pod(name: str) -> Document:
    return workload(name)["spec"]["template"]


def containers(name: str) -> Iterator[Document]:
    yield from pod(name)["spec"].get("initContainers", [])
    yield from pod(name)["spec"]["containers"]


def sidecar(name: str) -> Document:
    [found] = [container for container in containers(name) if container["name"] == "streamcrypt"]
    return found


def settings(name: str, tmp_path: Path) -> Settings:
    """The configuration as the container loads it: its file, its variables, its mounted secrets."""
    config = tmp_path / "config.yaml"
    secrets = tmp_path / "secret"
    secrets.write_text("a-password-of-some-length\n")
    config.write_text(re.sub(r"(\.file: )\S+", rf"\g<1>{secrets}", the("ConfigMap", name)["data"]["config.yaml"]))
    environ = {"POD_NAME": f"{name}-0"}
    for variable in sidecar(name).get("env", []):
        environ.setdefault(variable["name"], variable.get("value", "a-password-of-some-length"))
    return load(config, environ)


def test_what_is_here_was_checked_by_helm_and_kubeconform():
    """Else the golden files are of another chart: run make deploy-check, and make deploy-golden if that is right."""
    accepted = dict(reversed(line.split("  ")) for line in CHECKED.read_text().splitlines())
    assert hashes() == accepted


def test_the_rules_in_the_chart_are_those_of_the_repository():
    assert (CHART / "files" / "alerts.yaml").resolve() == ROOT / "config" / "alerts" / "streamcrypt.yaml"
    text = (CHART / "templates" / "prometheusrule.yaml").read_text()
    assert '"files/alerts.yaml"' in text
    # What the chart rewrites is what the file has.
    assert '"runbook_url: docs/operations.md"' in text
    assert "runbook_url: docs/operations.md#" in (CHART / "files" / "alerts.yaml").read_text()


@each
def test_streamcrypt_accepts_the_configuration(name, tmp_path, monkeypatch):
    """The loader that the container runs takes it whole, and each pod is an instance of its own."""
    monkeypatch.setenv("POD_NAME", f"{name}-0")
    loaded = settings(name, tmp_path)
    assert {pipeline.instance for pipeline in loaded.pipelines} == {f"{name}-0"}
    assert loaded.http.host == "0.0.0.0"
    [port] = sidecar(name)["ports"]
    assert loaded.http.port == port["containerPort"]


@each
def test_no_secret_stands_in_a_config_map(name):
    for document in EVERYTHING[name]:
        if document["kind"] == "ConfigMap":
            assert not re.search(r"(password|secret|token|key\.pem):", document["data"]["config.yaml"])


def test_the_chart_refuses_each_secret_that_may_stand_in_a_file():
    refused = (CHART / "templates" / "_helpers.tpl").read_text()
    assert [name for name in sorted(SECRETS - {"sasl.username"}) if f'"{name}"' not in refused] == []
    # Of any other the refusal must not name a setting that is none; `make deploy-check` reads the message itself.
    listed = set(re.findall(r'"((?:sasl|ssl)\.[a-z.]+)"', refused))
    assert listed - SECRETS == {"sasl.oauthbearer.assertion.private.key.pem", "sasl.oauthbearer.assertion.private.key"}


def test_numbers_come_out_of_helm_as_they_went_in(tmp_path):
    """Helm reads every number as a float; a million must not become 1e+06."""
    assert settings("production", tmp_path).rotation.max_messages == 1_000_000
    assert "max_messages: 1000000\n" in the("ConfigMap", "production")["data"]["config.yaml"]


@each
def test_no_container_has_a_privilege_or_a_root_that_it_can_write(name):
    spec = pod(name)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in containers(name):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {**spec["securityContext"], **context}["runAsUser"] > 0


@each
def test_the_user_is_that_of_the_image_and_reads_mounted_secrets(name):
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    of_pod = pod(name)["spec"]["securityContext"]
    context = {**of_pod, **sidecar(name)["securityContext"]}
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert of_pod["fsGroup"] == int(user[2])


@each
def test_only_tmp_can_be_written(name):
    volumes = {volume["name"]: volume for volume in pod(name)["spec"]["volumes"]}
    for mount in sidecar(name)["volumeMounts"]:
        if mount["mountPath"] == "/tmp":
            assert volumes[mount["name"]]["emptyDir"]["medium"] == "Memory"
            assert volumes[mount["name"]]["emptyDir"]["sizeLimit"]
        else:
            assert mount["readOnly"] is True
    assert "/tmp" in {mount["mountPath"] for mount in sidecar(name)["volumeMounts"]}


@each
def test_the_container_runs_what_is_mounted(name):
    command, path = sidecar(name)["args"]
    assert command == "run"
    [config] = [v for v in pod(name)["spec"]["volumes"] if v["name"] == "config"]
    assert config["configMap"]["name"] == the("ConfigMap", name)["metadata"]["name"]
    [mount] = [m for m in sidecar(name)["volumeMounts"] if m["name"] == "config"]
    assert path == f"{mount['mountPath']}/config.yaml"
    assert list(the("ConfigMap", name)["data"]) == ["config.yaml"]


@each
def test_probes_ask_what_the_process_answers(name):
    """Startup and liveness ask whether a restart helps. Readiness of a sidecar would be that of the whole pod."""
    container = sidecar(name)
    port = container["ports"][0]["name"]
    assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": port}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port}
    if container.get("restartPolicy") == "Always":
        assert "readinessProbe" not in container
    else:
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


@each
def test_a_drain_fits_into_the_time_to_end(name):
    assert pod(name)["spec"]["terminationGracePeriodSeconds"] > DRAIN_SECONDS
    assert SCHEMA["properties"]["terminationGracePeriodSeconds"]["minimum"] > DRAIN_SECONDS


@each
def test_memory_is_bounded_and_requested(name):
    resources = sidecar(name)["resources"]
    assert resources["limits"]["memory"]
    assert resources["requests"].keys() >= {"cpu", "memory"}


@each_set
def test_a_change_of_the_configuration_starts_the_pods_again(name):
    text = the("ConfigMap", name)["data"]["config.yaml"].strip()
    assert pod(name)["metadata"]["annotations"]["checksum/config"] == hashlib.sha256(text.encode()).hexdigest()


@each_set
def test_what_selects_pods_selects_ours(name):
    labels = pod(name)["metadata"]["labels"]
    selectors = [
        the("Service", name)["spec"]["selector"],
        the("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        the("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"],
        workload(name)["spec"]["selector"]["matchLabels"],
        *(c["labelSelector"]["matchLabels"] for c in pod(name)["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()


@each_set
def test_every_object_bears_the_labels_of_the_release(name):
    for document in RENDERED[name]:
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "streamcrypt"
        assert document["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


@each_set
def test_pods_that_wait_for_kms_do_not_keep_a_node_from_being_drained(name):
    budget = the("PodDisruptionBudget", name)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@each_set
def test_the_network_is_closed_but_for_dns_brokers_and_aws(name, tmp_path):
    policy = the("NetworkPolicy", name)["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    dns, brokers, aws, *rest = policy["egress"]
    assert {(p["port"], p["protocol"]) for p in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    servers = settings(name, tmp_path).kafka.bootstrap_servers.split(",")
    assert {p["port"] for p in brokers["ports"]} == {int(server.rpartition(":")[2]) for server in servers}
    assert aws["ports"] == [{"port": 443, "protocol": "TCP"}]
    assert [rule["ports"] for rule in rest] == ([[{"port": 80, "protocol": "TCP"}]] if name == "msk" else [])
    assert all(rule["from"] and rule["ports"] == [{"port": "http", "protocol": "TCP"}] for rule in policy["ingress"])


def test_a_stateful_set_is_the_default_because_its_pods_keep_their_names():
    assert DEFAULTS["kind"] == "StatefulSet"
    spec = the("StatefulSet", "minimal")["spec"]
    assert spec["serviceName"] == the("Service", "minimal")["metadata"]["name"]
    assert the("Service", "minimal")["spec"]["clusterIP"] == "None"
    assert spec["podManagementPolicy"] == "Parallel"


def test_scaling_by_lag_asks_for_the_groups_and_topics_of_the_pipelines(tmp_path):
    """And leaves the number of pods to the autoscaler alone, so that an upgrade does not set it back."""
    scaled = the("ScaledObject", "production")["spec"]
    assert "replicas" not in workload("production")["spec"]
    target = {"apiVersion": "apps/v1", "kind": workload("production")["kind"]}
    assert scaled["scaleTargetRef"] == target | {"name": workload("production")["metadata"]["name"]}
    loaded = settings("production", tmp_path)
    asked = {(t["metadata"]["consumerGroup"], t["metadata"].get("topic")) for t in scaled["triggers"]}
    assert asked == {(p.group, None if s.startswith("^") else s) for p in loaded.pipelines for s in p.source}
    for trigger in scaled["triggers"]:
        assert trigger["type"] == "kafka"
        assert trigger["metadata"]["bootstrapServers"] == loaded.kafka.bootstrap_servers
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_prometheus_scrapes_every_pod_as_the_job_of_the_alerts():
    spec = the("ServiceMonitor", "production")["spec"]
    assert spec["selector"]["matchLabels"].items() <= the("Service", "production")["metadata"]["labels"].items()
    [endpoint] = spec["endpoints"]
    assert endpoint["port"] == the("Service", "production")["spec"]["ports"][0]["name"]
    assert {"targetLabel": "job", "replacement": "streamcrypt"} in endpoint["relabelings"]
    assert 'job="streamcrypt"' in (ROOT / "config" / "alerts" / "streamcrypt.yaml").read_text()
    # Guarded by the token that the process asks for.
    [token] = [e for e in sidecar("production")["env"] if e["name"] == "STREAMCRYPT__HTTP__TOKEN"]
    assert endpoint["authorization"]["credentials"] == token["valueFrom"]["secretKeyRef"]


def test_the_versions_are_that_of_the_package():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert chart["appVersion"] == version
    assert f"/streamcrypt:{version}" in sidecar("sidecar-in-pod")["image"]
    assert sidecar("minimal")["image"] == f"streamcrypt:{version}"


def test_an_image_that_is_pinned_by_its_digest_is_asked_for_by_nothing_else():
    assert re.fullmatch(r"registry\.example\.com/streamcrypt@sha256:[0-9a-f]{64}", sidecar("production")["image"])


def test_the_sidecar_of_an_application_starts_before_it_and_ends_after_it():
    [first] = pod("sidecar-in-pod")["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"]) == ("streamcrypt", "Always")
    assert first["startupProbe"]["failureThreshold"] * first["startupProbe"]["periodSeconds"] >= 30
    assert first["livenessProbe"]["failureThreshold"] == 5


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_schema_takes_each_value_set(name):
    jsonschema.validate({**DEFAULTS, **yaml.safe_load(VALUES[name].read_text())}, SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 3},
        {"kind": "DaemonSet"},
        {"image": {"digest": "latest"}},
        {"secretEnv": {"PASSWORD": "hunter2"}},
        {"terminationGracePeriodSeconds": 5},
        {"keda": {"enabled": "yes"}},
        {"networkPolicy": {"brokerPorts": [70000]}},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_schema_refuses(wrong):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def leaves(values: Document, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and default of each value; maps that hold nothing of ours are values themselves."""
    for name, value in values.items():
        here = f"{path}{name}"
        known = SCHEMA["properties"]
        for part in here.split("."):
            known = known.get(part, {}).get("properties", {})
        if known and isinstance(value, dict) and value:
            yield from leaves(value, f"{here}.")
        else:
            yield here, value


def test_the_readme_lists_every_value_with_its_default():
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| ", (CHART / "README.md").read_text(), re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    written = {path: yaml.safe_load(default.strip("`")) if default != "required" else None for path, default in rows}
    assert written == dict(leaves(DEFAULTS))
