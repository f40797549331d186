"""What a reader types or copies from the documentation is what the program takes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec

import pytest
import yaml
from typer.main import get_command

from streamcrypt.cli.app import app
from streamcrypt.config import load
from streamcrypt.config.model import Settings
from streamcrypt.testing import KMSServer
from tests.documents import DOCS, PAGES, ROOT, blocks, commands

# Programs of others: looked up on this machine by nobody, so that their arguments are not held to anything.
FOREIGN = {"aws", "curl", "docker", "helm", "kafka-acls", "kafka-configs", "kubectl", "git", "openssl", "promtool"}
MINIMAL = """
kafka: {bootstrap.servers: "localhost:9092"}
keys: {provider: aws-kms, key_id: alias/payments, region: eu-west-1}
pipelines: [{name: p, mode: encrypt, from: payments, to: payments.encrypted}]
"""


def programs(line):
    """Split a line into the programs that it starts, as a shell does, without comments and variables before them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            yield words
            words = []
        elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
            words.append(word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_one_that_the_program_takes(page):
    """Commands, options and their values exist: each line goes through the program's own parser."""
    for block, line in commands(page):
        for words in programs(line):
            if words:
                check_command(words, f"{block}: {line}")


def check_command(words, where):
    """Hold one command to what it would run."""
    program, *arguments = words
    if program == "streamcrypt":
        check_streamcrypt(arguments, where)
    elif program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {a for a in arguments if "=" not in a and not a.startswith("-")} <= targets, where
    elif program in {"python", "python3"}:
        check_python(arguments, where)
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = [name for a in arguments for group in re.findall(r"\[([a-z,]+)\]", a) for name in group.split(",")]
        assert set(named) <= set(extras), where
    elif program == "docker" and arguments[0] == "compose":
        services = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
        named = [word for word in arguments[1:] if not word.startswith("-")]
        assert set(named[1:]) <= services or "--profile" in arguments, where
    elif program == "pytest":
        pass
    else:
        assert program in FOREIGN | {"."}, where


def check_streamcrypt(arguments, where):
    """Parse by typer, without running."""
    command, name = get_command(app), "streamcrypt"
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        name, *arguments = arguments
        command = command.commands[name]
    if name == "streamcrypt":
        assert arguments == ["--version"], where
        return
    try:
        command.make_context(name, list(arguments))
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_have_the_options_that_they_are_given(page):
    """`streamcrypt audit --receipt ARN` within a line: command and options exist; what stands for values is free."""
    for code in re.findall(r"`streamcrypt ([^`\n]+)`", page.read_text(encoding="utf-8")):
        command, rest = get_command(app), code.split()
        while hasattr(command, "commands") and rest and rest[0] in command.commands:
            command = command.commands[rest.pop(0)]
        if hasattr(command, "commands"):
            assert rest[0] == "--version", f"{page.name}: streamcrypt {code}"
            continue
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {re.split(r"[=…\]]", word.lstrip("["))[0] for word in rest if word.lstrip("[").startswith("--")}
        assert given <= known, f"{page.name}: streamcrypt {code}"


def test_the_ports_of_the_laptop_page_are_those_of_compose():
    """Each address that the page names is published."""
    published = (ROOT / "docker-compose.yml").read_text()
    named = set(re.findall(r"127\.0\.0\.1:(\d+)", (DOCS / "use-laptop.md").read_text()))
    assert len(named) >= 4
    assert sorted(port for port in named if f"127.0.0.1:{port}:" not in published) == []


def check_python(arguments, where):
    """A module or a program of this repository, and options that its source knows."""
    if arguments[0] == "-m":
        assert find_spec(arguments[1]) is not None, where
    elif not arguments[0].startswith("-"):
        source = (ROOT / arguments[0]).read_text()
        for option in (a for a in arguments[1:] if a.startswith("--")):
            assert f'"{option}"' in source, where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_loads(page, tmp_path):
    """A whole one as it stands, a part of one within the smallest that there is."""
    for number, block in enumerate(blocks(page, "yaml")):
        tree = next(yaml.safe_load_all(block.text))
        if isinstance(tree, dict) and isinstance(tree.get("config"), dict):
            tree = tree["config"]  # values of the Helm chart
        if isinstance(tree, dict) and set(tree) <= set(Settings.model_fields):
            path = tmp_path / f"{number}.yaml"
            path.write_text(yaml.safe_dump(minimal() | tree))
            assert load(path, {}), str(block)


def minimal():
    """The smallest configuration, to lay a part of one over."""
    return yaml.safe_load(MINIMAL)


def test_the_pages_for_the_three_uses_hold_a_whole_configuration_or_say_where_it_is():
    """So that the test above has something to hold."""
    whole = [b for page in ("quick-start", "use-container", "migration") for b in blocks(DOCS / f"{page}.md", "yaml")]
    assert len(whole) >= 6
    assert all("pipelines" in yaml.safe_load(block.text) for block in whole)


def test_the_wrappers_page_runs(mock_cluster, tmp_path):
    """All its Python in order, as one program, against a KMS over HTTP and a cluster."""
    page = DOCS / "use-wrappers.md"
    program = "\n".join(block.text for block in blocks(page, "python")).replace("localhost:9092", mock_cluster)
    (tmp_path / "page.py").write_text(program)
    with KMSServer() as kms:
        kms.create_key("alias/payments", region="eu-west-1")
        done = subprocess.run(
            [sys.executable, "-W", "error", str(tmp_path / "page.py")],
            env=os.environ | {"AWS_ENDPOINT_URL_KMS": kms.url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("b'{\"eur\": 12}'") == 10


def test_a_rejected_record_gives_its_value_below_the_cut_over(mock_cluster):
    """The function of the migration page: plaintext below the offset is given back, above it is refused."""
    from confluent_kafka import Producer, TopicPartition

    import streamcrypt as sc

    (block,) = blocks(DOCS / "migration.md", "python")
    scope = {"sc": sc}
    exec(block.text, scope)
    value_of = scope["value_of"]
    producer = Producer({"bootstrap.servers": mock_cluster, "log_level": 0})
    for _ in range(2):
        producer.produce("old", b"12 EUR", partition=0)
    producer.flush(30)
    with sc.Decryptor(sc.LocalKeyProvider.generate()) as opener:
        consumer = sc.DecryptingConsumer(
            {"bootstrap.servers": mock_cluster, "group.id": "g", "auto.offset.reset": "earliest", "log_level": 0},
            decryptor=opener,
        )
        consumer.assign([TopicPartition("old", 0, 0)])
        first, second = consumer.poll(30), consumer.poll(30)
        assert value_of(first, {0: 1}) == b"12 EUR"
        with pytest.raises(sc.PlaintextRejected):
            value_of(second, {0: 1})
        consumer.close()


def test_every_alert_has_its_place_in_operations():
    """Its name is a heading there, and its runbook_url leads to it."""
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "config" / "alerts").glob("*.yaml")]
    rules = [rule for file in files for group in file["groups"] for rule in group["rules"]]
    headings = set(re.findall(r"^#+ (\w+)$", (DOCS / "operations.md").read_text(), re.MULTILINE))
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    assert len(alerts) > 15
    assert sorted(alerts - headings) == []
