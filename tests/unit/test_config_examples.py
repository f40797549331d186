"""Claims about config/: every example loads, and together they show every mode and provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamcrypt.cli.compose import build_provider
from streamcrypt.config import Settings, load

EXAMPLES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))


def example(name: str) -> Settings:
    """Load an example by its name, with an empty environment."""
    return load(next(path for path in EXAMPLES if path.stem == name), {})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_loads(path):
    """The file is accepted as it stands and says at its head what it is for."""
    assert load(path, {}).pipelines
    assert path.read_text().startswith("# ")


def test_the_examples_cover_modes_providers_and_regexes():
    """There is an example for each mode, for several pipelines, for the local provider and for regexes."""
    assert [p.mode for p in example("encrypt").pipelines] == ["encrypt"]
    assert [p.mode for p in example("decrypt").pipelines] == ["decrypt"]
    assert {p.mode for p in example("both").pipelines} == {"encrypt", "decrypt"}
    assert example("local-development").keys.provider == "local"
    assert example("regex-topics").pipelines[0].source[0].startswith("^")


def test_the_multi_region_example_shows_every_setting_for_several_keks():
    """A list with a multi-region key, require and regions; the key service takes them as they stand."""
    keys = example("multi-region").keys
    assert len(keys.key_id) == 2
    assert "key/mrk-" in keys.key_id[0]
    assert (keys.require, keys.regions) == ("any", ("eu-central-1",))
    build_provider(keys).close()


@pytest.mark.parametrize("name", ["compose-encrypt", "compose-decrypt"])
def test_the_compose_files_name_the_services_of_compose(name):
    """Broker, KMS and key are those of docker-compose.yml, and probes can reach the sidecar."""
    settings = example(name)
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert settings.keys.endpoint_url == "http://kms:8080"
    assert settings.keys.insecure_endpoint
    assert settings.keys.key_id == ("alias/streamcrypt-demo",)
    assert settings.http.host == "0.0.0.0"


def test_the_full_example_shows_the_defaults():
    """What encrypt.yaml writes out as defaults are the defaults."""
    written = example("encrypt")
    defaults = example("compose-encrypt")
    assert written.rotation == type(written.rotation)()
    assert written.http == type(written.http)()
    assert written.log == defaults.log
    shown, bare = (s.pipelines[0].model_dump(exclude={"instance"}) for s in (written, defaults))
    assert shown == bare
