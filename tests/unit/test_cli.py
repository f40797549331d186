"""Claims about the command line: help, exit codes, one-screen messages, and what check finds in the world."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from typer.testing import CliRunner

from streamcrypt import LocalKeyProvider
from streamcrypt.cli.app import app
from streamcrypt.cli.check import topic_findings
from streamcrypt.cli.compose import (
    build_decryptor,
    build_encryptor,
    build_provider,
    consumer_config,
    producer_config,
    unusable_client,
)
from streamcrypt.cli.exits import Exit, reported
from streamcrypt.config import Settings, load
from streamcrypt.diagnosis.findings import Level
from streamcrypt.errors import ConfigError, KeyRefused, KeyUnavailable
from streamcrypt.testing import KMSServer
from tests.kms import REGION, use_fake_credentials


def streamcrypt(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as users do."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "streamcrypt", *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMCRYPT__")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def write(tmp_path: Path, free_port: int):
    """Writes a configuration with a local keyring beside it; sections replace those of a sound one."""
    LocalKeyProvider.generate().save(tmp_path / "keyring.json")

    def write(**sections: Any) -> Path:
        tree = {
            "kafka": {"bootstrap.servers": f"127.0.0.1:{free_port}"},
            "keys": {"provider": "local", "keyring": "keyring.json"},
            "http": {"port": free_port},
            "pipelines": [{"name": "seal", "mode": "encrypt", "from": "plain", "to": "sealed"}],
        }
        path = tmp_path / "streamcrypt.yaml"
        path.write_text(yaml.safe_dump({**tree, **sections}, sort_keys=False))
        return path

    return write


# -- the command itself ------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_quickly():
    """--help names every command and takes under half a second of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = streamcrypt("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == Exit.DONE
    assert {"run", "check", "cutover", "demo"} <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("command", ["run", "check", "cutover", "demo"])
def test_every_command_describes_itself(command):
    """The help of a command is shown without loading what the command needs."""
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == Exit.DONE
    assert "Usage" in result.stdout


def test_version():
    """--version prints name and version."""
    done = streamcrypt("--version")
    assert done.returncode == Exit.DONE
    assert done.stdout.startswith("streamcrypt ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["check"], ["check", "a", "b"], ["demo", "--nonsense"]])
def test_wrong_arguments_exit_2(arguments):
    """Wrong arguments are told on stderr, with exit code 2."""
    done = streamcrypt(*arguments)
    assert done.returncode == Exit.USAGE
    assert done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("module", ["typer", "yaml", "confluent_kafka"])
def test_a_missing_extra_is_one_line(module):
    """Without an extra's library the message says what to install, with exit code 2 and no traceback."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['streamcrypt', 'check', 'x.yaml']\n"
        "from streamcrypt.cli import main; main()"
    )
    done = streamcrypt(code=code)
    assert done.returncode == Exit.USAGE
    assert done.stderr == f"streamcrypt: the command line needs {module}: pip install 'streamcrypt[sidecar]'\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("wrong", remedy="mend it"), Exit.USAGE, "streamcrypt: wrong\n  mend it\n"),
        (KeyRefused("denied", remedy="allow it"), Exit.FAILED, "streamcrypt: denied\n  allow it\n"),
        (KeyUnavailable("away", remedy="wait"), Exit.FAILED, "streamcrypt: away\n  wait\n"),
        (OSError(98, "Address already in use", "127.0.0.1:9"), Exit.FAILED, "streamcrypt: 127.0.0.1:9: Address"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
    ],
)
def test_errors_become_messages_and_codes(capsys, error, code, text):
    """Each kind of error has its exit code, and its message with remedy goes to stderr."""
    with pytest.raises(SystemExit) as caught, reported():
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(text)


def test_kafka_errors_are_reported(capsys):
    """An error of the Kafka client is a message, though the command line does not import the client to catch it."""
    with pytest.raises(SystemExit) as caught, reported():
        Producer({"nonsense": "x"})
    assert caught.value.code == Exit.FAILED
    assert 'No such configuration property: "nonsense"' in capsys.readouterr().err


def test_mistakes_of_ours_keep_their_traceback():
    """An error that no operator can mend is not hidden."""
    with pytest.raises(ZeroDivisionError), reported():
        raise ZeroDivisionError


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_lists_a_wrong_configuration_line_by_line(tmp_path):
    """A configuration that cannot be used is listed on stderr with places, exit code 2, and nothing is tried."""
    path = tmp_path / "wrong.yaml"
    path.write_text("kafka: {bootstrap.servers: x}\nkeys: {key_id: alias/a}\nwokers: 1\npipelines: []\n")
    done = streamcrypt("check", str(path))
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert f"{path}:3:1: wokers: is not known here. Did you mean 'workers'?" in done.stderr
    assert f"{path}:4:1: pipelines: the list is empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_a_broker_that_does_not_answer(write, free_port):
    """An unreachable broker is named with its address, the cause and the place, exit code 1, and no noise on stderr."""
    path = write()
    done = streamcrypt("check", str(path))
    assert done.returncode == Exit.FAILED
    assert f"fail  broker  127.0.0.1:{free_port} gives the consumer no answer within 5 s" in done.stdout
    assert "Connection refused" in done.stdout
    assert f"set at {path}:2:3" in done.stdout
    assert "ok    key" in done.stdout
    assert done.stderr == ""


def test_check_finds_everything_in_place(write, mock_cluster):
    """Broker, topics, key and port that are there give ok lines and exit code 0."""
    create_topics(mock_cluster, "plain", "sealed")
    result = CliRunner().invoke(app, ["check", str(write(kafka={"bootstrap.servers": mock_cluster}))])
    assert result.exit_code == Exit.DONE, result.stdout
    assert "fail" not in result.stdout
    assert "seal: plain (4 partitions) to sealed (4 partitions)" in result.stdout


def test_check_creates_no_topic(write, mock_cluster):
    """Missing topics are named with exit code 1, and they are still missing afterwards."""
    create_topics(mock_cluster, "other")
    result = CliRunner().invoke(app, ["check", str(write(kafka={"bootstrap.servers": mock_cluster}))])
    assert result.exit_code == Exit.FAILED
    assert "the source topic 'plain' does not exist" in result.stdout
    watcher = Producer({"bootstrap.servers": mock_cluster})
    assert set(watcher.list_topics(timeout=5).topics) == {"other"}


def test_check_names_a_missing_target_and_a_port_in_use(write, mock_cluster, free_port):
    """A target that does not exist and a port that is taken are told in one go."""
    create_topics(mock_cluster, "plain")
    path = write(kafka={"bootstrap.servers": mock_cluster})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == Exit.FAILED
    assert "seal: the target topic 'sealed' does not exist" in result.stdout
    assert f"set at {path}:12:3" in result.stdout
    assert f"fail  http    127.0.0.1:{free_port} cannot be listened on: Address already in use" in result.stdout


def test_check_names_a_property_that_librdkafka_refuses(write):
    """A value that librdkafka does not take is placed in the file, exit code 2, and never quoted."""
    path = write(kafka={"bootstrap.servers": "x:1", "producer": {"linger.ms": "5"}, "fetch.max.bytes": "hunter2"})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == Exit.USAGE
    assert f'{path}:5:3: kafka: Invalid value for configuration property "fetch.max.bytes"' in result.stdout
    assert "hunter2" not in result.output


def test_check_names_a_keyring_that_others_may_read(write, tmp_path, mock_cluster):
    """A keyring of the wrong mode, or none at all, is told with its remedy and exit code 2."""
    path = write(kafka={"bootstrap.servers": mock_cluster})
    (tmp_path / "keyring.json").chmod(0o644)
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == Exit.USAGE
    assert "chmod 600" in result.stdout
    (tmp_path / "keyring.json").unlink()
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == Exit.USAGE
    assert "LocalKeyProvider.generate().save" in result.stdout


@pytest.fixture
def kms(monkeypatch):
    """A KMS with one key."""
    use_fake_credentials(monkeypatch)
    with KMSServer(region=REGION) as server:
        server.arn = server.create_key("alias/payments")
        yield server


def keys_of(kms: KMSServer, **changes: Any) -> dict[str, Any]:
    """The section for that key."""
    return {"key_id": "alias/payments", "region": REGION, "endpoint_url": kms.url, **changes}


def test_check_shows_what_an_alias_is(write, kms, mock_cluster):
    """A usable key is shown with its ARN."""
    path = write(keys=keys_of(kms), kafka={"bootstrap.servers": mock_cluster})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert f"ok    key     alias/payments is {kms.arn}" in result.stdout


@pytest.mark.parametrize("fault", ["unknown", "disabled", "AccessDeniedException", "ExpiredTokenException"])
def test_check_tells_why_a_key_cannot_be_used(write, kms, mock_cluster, fault):
    """Unknown, disabled, denied and expired are told apart, each with a remedy, exit code 1 and no traceback."""
    keys = keys_of(kms)
    if fault == "unknown":
        keys["key_id"] = "alias/missing"
    elif fault == "disabled":
        kms.call("DisableKey", KeyId=kms.arn)
    else:
        kms.fail(fault)
    path = write(keys=keys, kafka={"bootstrap.servers": mock_cluster})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == Exit.FAILED, result.output
    lines = result.stdout.splitlines()
    (at,) = [index for index, line in enumerate(lines) if line.startswith("fail  key")]
    assert keys["key_id"] in lines[at]
    assert lines[at + 1].startswith(" " * 14)
    assert f"set at {path}:4:3" in result.stdout


def create_topics(bootstrap: str, *names: str) -> None:
    """Create topics on the mock cluster, which does it at the first record."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for name in names:
        producer.produce(name, b"x")
    assert producer.flush(10) == 0


@pytest.mark.parametrize(
    ("pipeline", "targets", "text", "code"),
    [
        ({}, {"sealed": 2}, "'sealed' has 2 partitions, too few", Exit.FAILED),
        ({"partition": "by_key"}, {"sealed": 2}, "plain (4 partitions) to sealed (2 partitions)", Exit.DONE),
        ({}, {"sealed": 8}, "plain (4 partitions) to sealed (8 partitions)", Exit.DONE),
        ({"from": "^none.*"}, {"sealed": 8}, "no topic matches yet", Exit.DONE),
        ({"from": ["plain", "gone"]}, {"sealed": 8}, "the source topic 'gone' does not exist", Exit.FAILED),
        (
            {"on_failure": "dead_letter", "dead_letter": "dlq"},
            {"sealed": 8},
            "the dead-letter topic 'dlq' does not exist",
            Exit.FAILED,
        ),
        ({"from": "^pl.*", "to": "{topic}.x"}, {"plain.x": 1}, "'plain.x' has 1 partition", Exit.FAILED),
    ],
)
def test_topics_are_held_against_the_cluster(write, pipeline, targets, text, code):
    """Missing topics and too few partitions are found; by_key and regexes without a match are fine."""
    settings = load(
        write(pipelines=[{"name": "a", "mode": "encrypt", "from": "plain", "to": "sealed", **pipeline}]), {}
    )
    spec = settings.spec(settings.pipelines[0])
    sources = {"plain": 4, **targets}
    found = list(topic_findings(settings, 0, spec, sources, targets))
    assert any(text in finding.text and (finding.level is Level.FAIL) == bool(code) for finding in found), found


# -- composition -------------------------------------------------------------------------------------------------------


@pytest.fixture
def settings(write) -> Settings:
    """A sound configuration with an encrypting and a decrypting pipeline."""
    pipelines = [
        {"name": "seal", "mode": "encrypt", "from": "plain", "to": "sealed", "bound": ["key", "header:type"]},
        {"name": "open", "mode": "decrypt", "from": "sealed", "to": "opened", "bound": ["header:type"]},
    ]
    return load(write(pipelines=pipelines, context={"app": "billing"}, topic_names={"sealed": "payments"}), {})


def test_what_is_composed_seals_and_opens(settings):
    """The encryptor and decryptor of one file understand each other, context and logical names included."""
    provider = build_provider(settings.keys)
    seal, unseal = settings.pipelines
    sealer, opener = build_encryptor(settings, seal, provider), build_decryptor(settings, unseal, provider)
    value, headers = sealer.encrypt("sealed", b"plaintext", b"key", [("type", b"t")])
    assert opener.decrypt("sealed", value, b"key", headers)[0] == b"plaintext"
    sealer.close()
    opener.close()
    provider.close()


def test_a_pipelines_own_trust_replaces_the_common_one(kms):
    """trusted_keys of a pipeline is what its provider trusts."""
    from streamcrypt.config import KeysSettings

    keys = KeysSettings.model_validate(keys_of(kms))
    other = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    provider = build_provider(keys, trusted_keys=(other,))
    assert provider.check() == kms.arn
    provider.close()


def test_clients_keep_our_guarantees(settings):
    """What makes delivery safe is set whatever the file says, and our defaults are in."""
    seal, unseal = settings.pipelines
    consumer, producer = consumer_config(settings, seal), producer_config(settings, seal)
    assert {
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "allow.auto.create.topics": "false",
        "fetch.queue.backoff.ms": "5",
        "partition.assignment.strategy": "cooperative-sticky",
        "topic.metadata.refresh.interval.ms": "10000",
        "group.id": "streamcrypt-seal",
    }.items() <= consumer.items()
    assert {
        "enable.idempotence": "true",
        "acks": "all",
        "delivery.report.only.error": True,
        "compression.type": "lz4",
        "linger.ms": "5",
        "message.max.bytes": "1048588",
    }.items() <= producer.items()
    assert "compression.type" not in producer_config(settings, unseal)


def test_the_file_wins_over_defaults_and_overlays_over_the_file(write):
    """A property of the file replaces our default; one for consumers or producers replaces that again."""
    kafka = {
        "bootstrap.servers": "x:1",
        "linger.ms": 10,
        "client.id": "mine",
        "consumer": {"fetch.queue.backoff.ms": 7},
        "producer": {"linger.ms": 20, "compression.type": "zstd"},
    }
    settings = load(write(kafka=kafka), {})
    consumer, producer = (make(settings, settings.pipelines[0]) for make in (consumer_config, producer_config))
    assert (consumer["fetch.queue.backoff.ms"], consumer["client.id"], consumer["linger.ms"]) == ("7", "mine", "10")
    assert (producer["linger.ms"], producer["compression.type"]) == ("20", "zstd")


def test_the_consumer_protocol_has_no_client_side_assignor(write):
    """Under group.protocol=consumer our default assignor is left out; librdkafka refuses it there."""
    from confluent_kafka import Consumer

    settings = load(write(kafka={"bootstrap.servers": "x:1", "group.protocol": "consumer"}), {})
    config = consumer_config(settings, settings.pipelines[0])
    assert "partition.assignment.strategy" not in config
    Consumer(config).close()


def test_a_refused_client_names_the_place_of_its_property(write):
    """Librdkafka's complaint about a combination is placed at the property it names."""
    from confluent_kafka import KafkaException

    path = write(kafka={"bootstrap.servers": "x:1", "producer": {"message.max.bytes": "many"}})
    settings = load(path, {})
    with pytest.raises(KafkaException) as caught:
        Producer(producer_config(settings, settings.pipelines[0]))
    error = unusable_client(settings, caught.value)
    assert str(error).startswith(f"{path}:4:5: kafka: ")
    assert "many" not in str(error)
