"""What the tests of the audit share: a configuration, topics, records written by hand, and the command itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml
from typer.testing import CliRunner

from streamcrypt.cli.app import app
from tests.broker import Broker, unique_name
from tests.envelopes import sealed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from click.testing import Result

NOON = 1_750_000_000_000  # milliseconds: 2025-06-15T15:06:40Z


def write_config(directory: Path, broker: Broker, keys: Mapping[str, Any], *pipelines: Mapping[str, Any]) -> Path:
    """A configuration for the brokers; by default of one encrypting pipeline."""
    sealing = {"mode": "encrypt", "from": "plain", "to": "sealed"}
    tree = {
        "kafka": {"bootstrap.servers": broker.bootstrap},
        "keys": dict(keys),
        "pipelines": [{"name": unique_name("p"), **pipeline} for pipeline in pipelines or (sealing,)],
    }
    path = directory / "streamcrypt.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(config: Path, *arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["audit", str(config), *arguments])


def counts(config: Path, topic: str, *arguments: str) -> list[dict[str, Any]]:
    """The partitions of a topic as JSON gives them."""
    result = run(config, topic, "--format", "json", *arguments)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["topics"]
    assert found["topic"] == topic
    return found["partitions"]


def record(header: bytes | None, partition: int = 0, second: int = 0, number: int = 1, **more: Any) -> dict[str, Any]:
    """A record to be written by hand."""
    headers = [] if header is None else [("streamcrypt", header)]
    value = sealed(number, partition)
    return {"value": value, "headers": headers, "partition": partition, "timestamp": NOON + 1000 * second, **more}
