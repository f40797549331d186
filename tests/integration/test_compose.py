"""docker-compose.yml without a Docker engine: its rules, and each of its services run as a process of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.broker import docker_answers, free_ports, private_broker, wait_until
from tests.kafka_process import ProcessBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
STACK: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
PAYMENTS = 40

every_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_of_ours = pytest.mark.parametrize("name", OURS)


def _instruction(word: str) -> str:
    joined = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return re.findall(rf"^{word} (.+)$", joined, re.MULTILINE)[-1]


def _image_environment() -> dict[str, str]:
    pairs = dict(word.split("=", 1) for word in shlex.split(_instruction("ENV")))
    return {name: value for name, value in pairs.items() if name != "PATH"}


@every_service
def test_no_service_gains_a_privilege(name):
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in SERVICES[name]


@each_of_ours
def test_our_services_run_on_a_read_only_root(name):
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["tmpfs"] == ["/tmp"]


@every_service
def test_no_port_is_open_to_the_network(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_no_two_services_want_the_same_port_of_the_host():
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports))


@every_service
def test_what_is_mounted_exists_and_cannot_be_written(name):
    for volume in SERVICES[name].get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert rest.endswith(":ro"), volume
        else:
            assert source in STACK["volumes"]


@every_service
def test_every_condition_can_come_true(name):
    """Waiting for the health of a service without a health check, or for the end of one that restarts, never ends."""
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        if wanted["condition"] == "service_healthy":
            own = SERVICES[other].get("healthcheck")
            assert own["test"] if own else "build" in SERVICES[other]
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert SERVICES[other]["restart"] == "no"


@every_service
def test_every_service_says_whether_it_is_restarted(name):
    assert SERVICES[name]["restart"] in {"no", "on-failure", "unless-stopped"}


@every_service
def test_credentials_are_dummies_and_go_with_the_local_kms_only(name):
    environment = SERVICES[name].get("environment", {})
    secrets = {value for variable, value in environment.items() if re.search("SECRET|PASSWORD|ACCESS_KEY", variable)}
    assert secrets <= {"local"}
    if secrets:
        assert environment["STREAMCRYPT__KEYS__ENDPOINT_URL"] == "http://kms:8080"


def test_a_sidecar_has_more_time_to_stop_than_a_drain_takes():
    """A drain ends within 8 seconds, and Docker kills after the grace period."""
    for name in ("encrypt", "decrypt"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 8


def test_the_broker_is_told_everything_because_one_variable_drops_the_defaults_of_the_image():
    told = set(SERVICES["kafka"]["environment"])
    needed = (
        "PROCESS_ROLES NODE_ID CONTROLLER_QUORUM_VOTERS CONTROLLER_LISTENER_NAMES INTER_BROKER_LISTENER_NAME LISTENERS"
    )
    needed += " ADVERTISED_LISTENERS LISTENER_SECURITY_PROTOCOL_MAP LOG_DIRS OFFSETS_TOPIC_REPLICATION_FACTOR"
    needed += " TRANSACTION_STATE_LOG_REPLICATION_FACTOR TRANSACTION_STATE_LOG_MIN_ISR"
    assert {f"KAFKA_{name}" for name in needed.split()} <= told


class Stack:
    """The services as processes: the same commands, with the addresses and files of this machine."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._kafka, self._kms, controller = free_ports(3)
        self._pages = dict(zip(("encrypt", "decrypt"), free_ports(2), strict=True))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        if docker_answers():
            self.broker = private_broker()
        else:
            self.broker = ProcessBroker(config=self._broker_properties(controller), port=self._kafka)

    def _broker_properties(self, controller: int) -> dict[str, str]:
        """The broker's variables as the image turns them into properties, on ports and directories of ours."""
        variables = SERVICES["kafka"]["environment"]
        properties = {
            name.removeprefix("KAFKA_").replace("_", ".").lower(): str(value)
            for name, value in variables.items()
            if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"
        }
        [outside] = free_ports(1)
        moved = {"kafka:9092": self._kafka, "0.0.0.0:9092": self._kafka, "localhost:9093": controller}
        moved |= {"0.0.0.0:29092": outside, "127.0.0.1:29092": outside}
        for old, port in moved.items():
            properties = {name: value.replace(old, f"127.0.0.1:{port}") for name, value in properties.items()}
        return properties | {"log.dirs": str(self._logs / "kafka")}

    def command(self, name: str) -> list[str]:
        """What the container would run, as a command of this machine."""
        service = SERVICES[name]
        entry = service.get("entrypoint") or json.loads(_instruction("ENTRYPOINT"))
        words = [
            *entry,
            *(service.get("command") or ([] if "entrypoint" in service else json.loads(_instruction("CMD")))),
        ]
        return self._translated(name, words)

    def healthy(self, name: str) -> bool:
        """Runs the health check of the service, its own or the image's."""
        words = SERVICES[name].get("healthcheck", {}).get("test")
        words = words[1:] if words else json.loads(_instruction("HEALTHCHECK").partition(" CMD ")[2])
        assert self._running[name].poll() is None, f"{name} ended:\n{self.said(name)}"
        command = self._translated(name, words)
        return subprocess.run(command, env=self._environment(name), capture_output=True, check=False).returncode == 0

    def _translated(self, name: str, words: list[str]) -> list[str]:
        programs = {"python": sys.executable, "streamcrypt": str(Path(sys.executable).parent / "streamcrypt")}
        words = [programs.get(words[0], words[0]), *words[1:]]
        moved = {"8080": str(self._kms), "0.0.0.0": "127.0.0.1"} if name == "kms" else {}
        for volume in SERVICES[name].get("volumes", []):
            source, target = volume.split(":")[:2]
            moved[target] = str(ROOT / source)
        for old, new in moved.items():
            words = [word.replace(old, new) for word in words]
        return words

    def _environment(self, name: str) -> dict[str, str]:
        own = {variable: str(value) for variable, value in SERVICES[name].get("environment", {}).items()}
        environment = _image_environment() | own
        moved = {"kafka:9092": self.broker.bootstrap, "kms:8080": f"127.0.0.1:{self._kms}", "0.0.0.0": "127.0.0.1"}
        for old, new in moved.items():
            environment = {variable: value.replace(old, new) for variable, value in environment.items()}
        if name in self._pages:
            environment["STREAMCRYPT__HTTP__PORT"] = str(self._pages[name])
        return environment | {"PATH": os.defpath, "HOME": "/nonexistent"}

    def start(self, name: str, *more: str) -> None:
        """Starts a service once what it depends on has come true."""
        for other, wanted in SERVICES[name].get("depends_on", {}).items():
            if other != "kafka":
                self._await(other, wanted["condition"])
        with self._log(name, "out").open("wb") as out, self._log(name, "err").open("wb") as err:
            self._running[name] = subprocess.Popen(
                [*self.command(name), *more], env=self._environment(name), stdout=out, stderr=err, cwd="/"
            )

    def _await(self, name: str, condition: str) -> None:
        if condition == "service_healthy":
            wait_until(lambda: self.healthy(name), f"the health of {name}", 90)
        else:
            assert self.end_of(name) == 0, self.said(name)

    def end_of(self, name: str, seconds: float = 120) -> int:
        """Waits for the end of a service and returns its exit code."""
        return self._running[name].wait(seconds)

    def stop(self, name: str) -> int:
        """Sends what the image names as its stop signal, and waits."""
        self._running[name].send_signal(signal.Signals[_instruction("STOPSIGNAL")])
        return self.end_of(name, 30)

    def said(self, name: str, where: str = "err") -> str:
        """What a service wrote."""
        return self._log(name, where).read_text()

    def _log(self, name: str, where: str) -> Path:
        return self._logs / f"{name}.{where}"

    def close(self) -> None:
        """Ends whatever still runs."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.broker.close()


@pytest.fixture
def stack(tmp_path) -> Iterator[Stack]:
    """The broker of the stack; the test starts the services."""
    with contextlib.closing(Stack(tmp_path)) as started:
        yield started


@pytest.mark.broker
def test_payments_pass_encrypted_through_the_stack_and_arrive_in_clear(stack):
    """Every service runs its own command, in the order of its conditions, and ends in order."""
    for name in ("topics", "kms", "encrypt", "decrypt"):
        stack.start(name)
    stack.start("producer", "--count", str(PAYMENTS), "--per-second", "500")
    stack.start("consumer", "--count", str(PAYMENTS))
    assert stack.end_of("producer") == 0, stack.said("producer")
    assert stack.end_of("consumer") == 0, stack.said("consumer") + stack.said("decrypt")

    sent = stack.broker.read("payments")
    sealed = stack.broker.read("payments.encrypted")
    opened = stack.broker.read("payments.decrypted")
    assert len(sent) == len(sealed) == len(opened) == PAYMENTS
    assert _records(sent) == _records(opened)
    assert [m.key() for m in sealed] == [m.key() for m in sent]
    assert [[name for name, _ in m.headers()] for m in sealed] == [["content-type", "streamcrypt"]] * PAYMENTS
    stored = b"".join(m.value() + b"".join(value for _, value in m.headers()) for m in sealed)
    assert not [word for m in sent for word in (m.value(), *re.findall(rb"DE\d+", m.value())) if word in stored]

    shown = stack.said("consumer", "out").splitlines()
    assert sorted(line.rsplit(" | ", 1)[1] for line in shown if line.startswith("payments.decrypted ")) == sorted(
        m.value().decode() for m in sent
    )
    assert not [line for line in shown if line.startswith("payments.encrypted ") and "iban" in line]

    for name in ("decrypt", "encrypt"):
        assert stack.stop(name) == 0, stack.said(name)
        assert stack.said(name, "out") == ""
    assert stack.stop("kms") == 0


def _records(messages: list[Any]) -> list[tuple[Any, ...]]:
    return sorted((m.partition(), m.key(), m.value(), tuple(m.headers())) for m in messages)
