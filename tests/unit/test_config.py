"""Claims about the configuration: what is read, what is refused, and that each refusal says where and what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamcrypt.config import ConfigProblems, Problem, Settings, load
from streamcrypt.config.librdkafka import KNOWN, REFUSED, is_known
from streamcrypt.config.problems import MAX_LINES
from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.framing import Framing, Tombstones
from streamcrypt.errors import ConfigError
from streamcrypt.sidecar.spec import Mode, OnFailure, Start

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

BASE: dict[str, Any] = {
    "kafka": {"bootstrap.servers": "localhost:9092"},
    "keys": {"key_id": "alias/payments", "region": "eu-west-1"},
    "pipelines": [{"name": "protect", "mode": "encrypt", "from": "payments", "to": "payments.encrypted"}],
}


def changed(**sections: Any) -> dict[str, Any]:
    """The base with sections replaced; ``pipeline`` is laid over the one pipeline; None as a value removes a key."""
    tree = copy.deepcopy(BASE)
    for name, value in sections.items():
        if name == "pipeline":
            tree["pipelines"][0].update(value)
        elif name in {"keys", "kafka"} and isinstance(value, dict):
            tree[name].update(value)
        else:
            tree[name] = value
    for section in (tree["keys"], tree["kafka"], *tree["pipelines"]):
        for name in [name for name, value in section.items() if value is None] if isinstance(section, dict) else ():
            del section[name]
    return tree


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the test's configuration lies."""
    return tmp_path / "streamcrypt.yaml"


def loaded(file: Path, tree: dict[str, Any] | str, environ: dict[str, str] | None = None) -> Settings:
    """Write a configuration and load it, with no environment but the one given."""
    file.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree, sort_keys=False))
    return load(file, environ or {})


def problems(file: Path, tree: dict[str, Any] | str, environ: dict[str, str] | None = None) -> tuple[Problem, ...]:
    """The problems of a configuration that must be refused; each has a place, a message and a remedy."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(file, tree, environ)
    for problem in caught.value.problems:
        assert problem.message
        assert problem.remedy
        assert problem.location.startswith((str(file), "STREAMCRYPT__"))
    return caught.value.problems


# -- what is read ------------------------------------------------------------------------------------------------------


def test_every_documented_default_holds(file):
    """A file with the required settings only gives the defaults of the documentation."""
    settings = loaded(file, BASE)
    (pipeline,) = settings.pipelines
    assert settings.keys.provider == "aws-kms"
    assert settings.keys.key_id == ("alias/payments",)
    assert (settings.rotation.max_messages, settings.rotation.max_age, settings.rotation.max_bytes) == (
        1_000_000,
        300.0,
        16 * 2**30,
    )
    assert (settings.rotation.grace, settings.rotation.grace_factor) == (60.0, 4.0)
    assert (settings.cache.max_entries, settings.cache.ttl) == (10_000, 900.0)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 9464)
    assert (settings.log.level, settings.log.format) == ("info", "json")
    assert settings.workers == 1
    assert pipeline.source == ("payments",)
    assert pipeline.group == "streamcrypt-protect"
    assert pipeline.delivery == "exactly_once"
    assert pipeline.commit_interval == pytest.approx(0.1)
    assert pipeline.suite is Suite.AES_256_GCM
    assert pipeline.framing is Framing.HEADER
    assert (pipeline.tombstones, pipeline.plaintext) == (Tombstones.PLAIN, "reject")
    assert pipeline.bound == ("key",)
    assert (pipeline.partition, pipeline.start, pipeline.on_failure) == ("keep", "earliest", "halt")


def test_settings_are_frozen_all_the_way_down(file):
    """Neither a field nor an entry of a map can be changed after loading."""
    settings = loaded(file, changed(context={"app": "billing"}))
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 2
    with pytest.raises(TypeError):
        settings.context["app"] = "other"
    with pytest.raises(TypeError):
        settings.kafka.properties["acks"] = "0"


def test_settings_can_be_dumped_and_described(file):
    """The reference is generated from the model: it dumps without a warning and every field has a description."""
    settings = loaded(file, changed(context={"app": "billing"}))
    assert settings.model_dump()["context"] == {"app": "billing"}
    schema = Settings.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model.get("properties", {}).items():
            assert field.get("description"), name


def test_quantities_take_units_and_bare_numbers(file):
    """Durations and sizes are read with units; bare numbers are seconds and bytes."""
    settings = loaded(
        file,
        changed(
            rotation={"max_age": "90s", "max_bytes": "1GiB"}, cache={"ttl": 60}, pipeline={"commit_interval": "1s"}
        ),
    )
    assert (settings.rotation.max_age, settings.rotation.max_bytes, settings.cache.ttl) == (90.0, 2**30, 60)
    assert settings.pipelines[0].commit_interval == 1.0


def test_yaml_words_for_booleans_are_text(file):
    """``sequence: off`` is the word off, as YAML 1.2 has it, and a context value ``no`` stays text."""
    text = yaml.safe_dump(BASE).replace("mode: encrypt", "mode: encrypt\n  sequence: off") + "context: {answer: no}\n"
    settings = loaded(file, text)
    assert settings.pipelines[0].sequence == "off"
    assert settings.context == {"answer": "no"}


def test_kafka_overlays_are_read_under_kafka_and_at_the_top(file):
    """``consumer`` and ``producer`` under ``kafka`` hold further properties; so does ``kafka.consumer``."""
    nested = loaded(file, changed(kafka={"consumer": {"fetch.min.bytes": 10}, "producer": {"linger.ms": 50}}))
    top = loaded(file, {**changed(kafka={"producer": {"linger.ms": 50}}), "kafka.consumer": {"fetch.min.bytes": 10}})
    for settings in (nested, top):
        assert settings.kafka.consumer == {"fetch.min.bytes": "10"}
        assert settings.kafka.producer == {"linger.ms": "50"}
        assert settings.kafka.properties == {"bootstrap.servers": "localhost:9092"}


def test_kafka_booleans_become_librdkafka_words(file):
    """A YAML boolean reaches librdkafka as true or false."""
    assert (
        loaded(file, changed(kafka={"enable.metrics.push": False})).kafka.properties["enable.metrics.push"] == "false"
    )


def test_passwords_stay_out_of_repr(file):
    """The text of the settings shows no librdkafka property, since passwords are among them."""
    settings = loaded(file, changed(kafka={"sasl.password": "hunter2", "consumer": {"ssl.key.password": "hunter2"}}))
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


def test_instance_is_pod_name_then_host_name(file, monkeypatch):
    """The instance is POD_NAME where it is set, else the host name, and what the file says wins."""
    monkeypatch.setattr("socket.gethostname", lambda: "host-1")
    assert loaded(file, BASE, {"POD_NAME": "pod-7"}).pipelines[0].instance == "pod-7"
    assert loaded(file, BASE).pipelines[0].instance == "host-1"
    named = loaded(file, changed(pipeline={"instance": "blue"}), {"POD_NAME": "pod-7"}).pipelines[0]
    assert named.member() == "streamcrypt-protect.blue.0"
    assert named.member(3) == "streamcrypt-protect.blue.3"


def test_workers_are_a_number_or_one_for_each_usable_cpu(file, monkeypatch):
    """Automatic is what affinity and control groups leave; the environment may say either."""
    monkeypatch.setattr("streamcrypt.config.model.usable_cpus", lambda: 5)
    assert loaded(file, changed(workers=3)).worker_count == 3
    assert loaded(file, changed(workers="auto")).worker_count == 5
    assert loaded(file, BASE, {"STREAMCRYPT__WORKERS": "auto"}).worker_count == 5
    assert loaded(file, BASE, {"STREAMCRYPT__WORKERS": "2"}).worker_count == 2


def test_a_text_that_was_read_before_is_taken_instead_of_the_file(file):
    """A second process runs with what the first one read, whatever became of the file; places name it all the same."""
    first = loaded(file, changed(workers=3))
    file.write_text("not: {valid")
    again = load(file, {}, first.text)
    assert (again, again.text) == (first, first.text)
    assert again.where("workers") == first.where("workers")


def test_keyring_path_starts_at_the_file(file):
    """A relative keyring path starts at the directory of the configuration, an absolute one is kept."""
    keys = {"provider": "local", "keyring": "keyring.json", "key_id": None, "region": None}
    assert loaded(file, changed(keys=keys)).keys.keyring == str(file.parent / "keyring.json")
    assert loaded(file, changed(keys={**keys, "keyring": "/etc/keyring.json"})).keys.keyring == "/etc/keyring.json"


def test_where_names_the_place_of_a_setting(file):
    """Settings remember the line and column, or the variable, that each value came from."""
    settings = loaded(file, BASE, {"STREAMCRYPT__LOG__LEVEL": "debug"})
    assert settings.where("keys", "region") == f"{file}:5:3"
    assert settings.where("pipelines", 0, "to") == f"{file}:10:3"
    assert settings.where("log", "level") == "STREAMCRYPT__LOG__LEVEL"
    assert settings.where("cache", "ttl") == f"{file}:1:1"


def test_a_pipeline_becomes_a_spec_of_the_sidecar(file):
    """Every field that the sidecar needs arrives there."""
    pipeline = {
        "from": ["a", "^b.*"],
        "to": "{topic}.x",
        "exclude": ["b.no", "^bb.*"],
        "start": "latest",
        "partition": "by_key",
        "on_failure": "skip",
        "commit_interval": 2,
    }
    settings = loaded(file, changed(pipeline=pipeline))
    spec = settings.spec(settings.pipelines[0])
    assert (spec.mode, spec.start, spec.on_failure, spec.keep_partition) == (
        Mode.ENCRYPT,
        Start.LATEST,
        OnFailure.SKIP,
        False,
    )
    assert (spec.sources, spec.target, spec.commit_interval, spec.group) == (
        ("a", "^b.*"),
        "{topic}.x",
        2.0,
        "streamcrypt-protect",
    )
    read = {topic for topic in ("a", "b", "b.no", "bb1", "b.x", "a.x", "c", "xb") if spec.reads(topic)}
    assert read == {"a", "b"}


def test_a_regex_never_reads_what_its_own_mode_or_a_decrypting_pipeline_writes(file):
    """An encrypting regex passes over all targets of the file; a decrypting one may read what is encrypted there."""
    pipelines = [
        {"name": "seal", "mode": "encrypt", "from": "^.*", "to": "{topic}.encrypted"},
        {"name": "open", "mode": "decrypt", "from": r"^.*\.encrypted", "to": "{topic}.plain"},
    ]
    settings = loaded(file, changed(pipelines=pipelines))
    seal, unseal = (settings.spec(pipeline) for pipeline in settings.pipelines)
    topics = ("a", "a.encrypted", "a.encrypted.plain", "a.encrypted.plain.encrypted")
    assert [topic for topic in topics if seal.reads(topic)] == ["a"]
    assert [topic for topic in topics if unseal.reads(topic)] == ["a.encrypted", "a.encrypted.plain.encrypted"]


# -- the environment ---------------------------------------------------------------------------------------------------


def test_environment_overrides_the_file(file):
    """Variables nest with __, lists are JSON, pipelines go by index, and below KAFKA a single _ is a dot."""
    settings = loaded(
        file,
        BASE,
        {
            "STREAMCRYPT__KEYS__REGION": "eu-central-1",
            "STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
            "STREAMCRYPT__KAFKA__CONSUMER__FETCH_MAX_BYTES": "1048576",
            "STREAMCRYPT__KAFKA__LOG_LEVEL": "3",
            "STREAMCRYPT__KAFKA__SASL_PASSWORD": "[1]",
            "STREAMCRYPT__PIPELINES__0__FROM": '["a", "b"]',
            "STREAMCRYPT__PIPELINES__0__TO": "{topic}.sealed",
            "STREAMCRYPT__ROTATION__MAX_AGE": "90",
            "STREAMCRYPT__HTTP__PORT": "8080",
            "STREAMCRYPT__CONTEXT": json.dumps({"app": "billing"}),
            "STREAMCRYPT__CACHE__TTL": " ",
            "STREAMCRYPT_TEST": "ours is only what begins with two underscores",
        },
    )
    assert settings.keys.region == "eu-central-1"
    assert settings.kafka.properties["bootstrap.servers"] == "kafka:9092"
    assert settings.kafka.properties["log_level"] == "3"
    assert settings.kafka.properties["sasl.password"] == "[1]"
    assert settings.kafka.consumer == {"fetch.max.bytes": "1048576"}
    assert settings.pipelines[0].source == ("a", "b")
    assert settings.pipelines[0].to == "{topic}.sealed"
    assert settings.rotation.max_age == 90.0
    assert settings.http.port == 8080
    assert settings.context == {"app": "billing"}
    assert settings.cache.ttl == 900.0


def test_environment_alone_can_configure(file):
    """An empty file and variables are enough, several pipelines included."""
    settings = loaded(
        file,
        "# nothing\n",
        {
            "STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
            "STREAMCRYPT__KEYS__KEY_ID": "alias/payments",
            "STREAMCRYPT__PIPELINES__0__NAME": "a",
            "STREAMCRYPT__PIPELINES__0__MODE": "encrypt",
            "STREAMCRYPT__PIPELINES__0__FROM": "a",
            "STREAMCRYPT__PIPELINES__0__TO": "a.encrypted",
            "STREAMCRYPT__PIPELINES__1__NAME": "b",
            "STREAMCRYPT__PIPELINES__1__MODE": "decrypt",
            "STREAMCRYPT__PIPELINES__1__FROM": "b.encrypted",
            "STREAMCRYPT__PIPELINES__1__TO": "b",
        },
    )
    assert [pipeline.name for pipeline in settings.pipelines] == ["a", "b"]


@pytest.mark.parametrize(
    ("variable", "value", "message", "remedy"),
    [
        ("STREAMCRYPT__KEY__REGION", "x", "not known here", "'keys'"),
        ("STREAMCRYPT__KEYS__REGOIN", "x", "not known here", "'region'"),
        ("STREAMCRYPT__KEYS____REGION", "x", "empty part", "two names"),
        ("STREAMCRYPT__PIPELINES__5__FROM", "x", "no item 5", "from 0 to 1"),
        ("STREAMCRYPT__PIPELINES__FIRST__FROM", "x", "no item 'first'", "from 0 to 1"),
        ("STREAMCRYPT__KEYS__REGION__X", "3", "single value", "mend its name"),
        ("STREAMCRYPT__KAFKA__ACKS", "0", "in-sync", "it is all"),
        ("STREAMCRYPT__KAFKA__CONSUMER__GROUP_ID", "x", "group of its own", "'group'"),
        ("STREAMCRYPT__KAFKA__BOOTSTRAP__SERVERS", "x", "no librdkafka property", "BOOTSTRAP_SERVERS"),
        ("STREAMCRYPT__KAFKA__BOOTSTRAP_SERVER", "x", "no property of librdkafka", "'bootstrap.servers'"),
        ("STREAMCRYPT__HTTP__PORT", "many", "no whole number", "whole number"),
        ("STREAMCRYPT__PIPELINES__0__BOUND", "[key", "no list", "JSON"),
        ("STREAMCRYPT__PIPELINES__0__MODE", "reencript", "is no choice", "reencrypt"),
    ],
)
def test_a_wrong_variable_is_named(file, variable, value, message, remedy):
    """What is wrong in the environment is placed at the variable's name."""
    found = [problem for problem in problems(file, BASE, {variable: value}) if problem.location == variable]
    assert any(message in problem.message and remedy in problem.remedy for problem in found), found


# -- places ------------------------------------------------------------------------------------------------------------


def test_problems_are_all_listed_with_line_and_column(file):
    """Several mistakes are reported at once, in the order of the file, with what stands in the environment last."""
    text = """\
kafka: {bootstrap.servers: "localhost:9092", acks: 1}
keys:
  key_id: alias/payments
  regoin: eu-west-1
wokers: 2
pipelines:
  - name: a
    mode: encrpt
    from: payments
    to: payments
    mode: encrypt
"""
    found = problems(file, text, {"STREAMCRYPT__HTTP__PORT": "x"})
    places = [(problem.location.removeprefix(f"{file}:"), problem.path) for problem in found]
    assert places == [
        ("1:46", "kafka.acks"),
        ("4:3", "keys.regoin"),
        ("5:1", "wokers"),
        ("8:5", "pipelines[0].mode"),
        ("11:5", "pipelines[0].mode"),
        ("STREAMCRYPT__HTTP__PORT", "http.port"),
    ]


def test_the_text_is_a_listing_that_fits_one_screen(file):
    """The error's text has one line for each problem, and at most a screen of them."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(file, {**BASE, **{f"unknown{number}": 1 for number in range(50)}})
    lines = str(caught.value).splitlines()
    assert len(caught.value.problems) == 50
    assert lines[0] == f"{file}: 50 problems"
    assert len(lines) == MAX_LINES + 2
    assert lines[1].strip().startswith(f"{file}:")
    assert isinstance(caught.value, ConfigError)


def test_sound_parts_are_checked_even_where_others_are_not(file):
    """A mistake in one section does not hide that another pipeline writes onto its own input."""
    pipelines = [{"name": "a", "mode": "nonsense"}, {"name": "b", "mode": "encrypt", "from": "x", "to": "x"}]
    found = problems(file, changed(pipelines=pipelines, wokers=1))
    assert {problem.path for problem in found} == {
        "wokers",
        "pipelines[0].mode",
        "pipelines[0].from",
        "pipelines[0].to",
        "pipelines[1].to",
    }


def test_values_below_kafka_are_never_quoted(file):
    """No text about a librdkafka property holds its value."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(file, changed(kafka={"sasl.password": ["hunter2"], "sasl.passwort": "hunter2", "acks": "hunter2"}))
    assert len(caught.value.problems) == 3
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is no YAML"),
        ("a: b: c", "is no YAML"),
        ("\tkafka: 1", "is no YAML"),
        ("a: 1\n---\nb: 2", "is no YAML"),
        ("a: \x01", "is no YAML"),
        (f"a: {'[' * 5000}", "nested too deep"),
        ("- a", "holds no settings"),
        ("just text", "holds no settings"),
        ("kafka: !!python/object:os.system {}", "missing"),
        ("workers: !secret x", "has the tag"),
        ("workers: !!int x", "is not what its tag"),
        ("a: &a [*a]", "alias"),
        ("? [a, b]\n: c", "itself a list"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(file, text, message):
    """A broken file gives one message with a place and no excerpt."""
    assert any(message in problem.message for problem in problems(file, text))


def test_aliases_cannot_blow_up(file):
    """A few lines of aliases that stand for billions of values are refused."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (problem,) = problems(file, "\n".join(lines))
    assert "more than" in problem.message


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """A missing file, a directory and bytes that are no UTF-8 are told apart, each naming the path."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"kafka: \xff")
    for path, message in (
        (tmp_path / "missing.yaml", "No such file"),
        (tmp_path, "directory"),
        (binary, "not UTF-8 at byte 7"),
    ):
        with pytest.raises(ConfigProblems, match=message) as caught:
            load(path, {})
        assert caught.value.problems[0].location == str(path)


# -- refusals ----------------------------------------------------------------------------------------------------------

LOCAL = {"provider": "local", "key_id": None, "region": None}

REFUSALS: list[tuple[dict[str, Any], str, str, str]] = [
    # unknown and missing names
    (changed(wokers=1), "wokers", "not known here", "'workers'"),
    (changed(region="x"), "region", "not known here", "belongs under 'keys'"),
    (changed(pipeline={"rotation": {}}), "pipelines[0].rotation", "not known here", "top of the file"),
    (changed(zzz=1), "zzz", "not known here", "Known here: kafka, keys"),
    (changed(pipeline={"form": "x"}), "pipelines[0].form", "not known here", "'from'"),
    (changed(rotation={"max_msgs": 1}), "rotation.max_msgs", "not known here", "'max_messages'"),
    (changed(pipeline={"from": None}), "pipelines[0].from", "is missing", "from: payments"),
    (changed(pipeline={"name": None}), "pipelines[0].name", "is missing", "name: protect-payments"),
    (changed(pipelines=[]), "pipelines", "is empty", ""),
    ({k: v for k, v in BASE.items() if k != "keys"}, "keys", "is missing", "Add 'keys'"),
    ({k: v for k, v in BASE.items() if k != "kafka"}, "kafka", "is missing", "Add 'kafka'"),
    (changed(kafka={"bootstrap.servers": None}), "kafka", "bootstrap.servers is missing", "HOST:PORT"),
    # types
    (changed(kafka=[]), "kafka", "is no section", "bootstrap.servers"),
    (changed(keys=None), "keys", "has no value", ""),
    (changed(pipelines={}), "pipelines", "is no list", ""),
    (changed(pipelines=["x"]), "pipelines[0]", "is no section", ""),
    (changed(http={"port": True}), "http.port", "no number", "whole number"),
    (changed(http={"port": 70000}), "http.port", "less than or equal to 65535", ""),
    (changed(http={"host": ""}), "http.host", "is empty", ""),
    (changed(workers=1.5), "workers", "no whole number", ""),
    (changed(workers="automatic"), "workers", "no whole number", ""),
    (changed(workers=0), "workers", "below 1", ""),
    (changed(context={"a": 1}), "context.a", "is no text", "quotes"),
    (changed(pipeline={"name": 5}), "pipelines[0].name", "is no text", "quotes"),
    (changed(pipeline={"name": "a b"}), "pipelines[0].name", "no name", "249"),
    (changed(keys={"insecure_endpoint": "maybe"}), "keys.insecure_endpoint", "neither true nor false", ""),
    # choices
    (changed(pipeline={"mode": "encrpt"}), "pipelines[0].mode", "no choice", "'encrypt'"),
    (changed(pipeline={"suite": "AES_256_GMC"}), "pipelines[0].suite", "no choice", "'AES_256_GCM'"),
    (changed(pipeline={"framing": "self-contained"}), "pipelines[0].framing", "no choice", "'self_contained'"),
    (changed(pipeline={"partition": "key"}), "pipelines[0].partition", "no choice", "by_key"),
    (changed(pipeline={"start": "now"}), "pipelines[0].start", "no choice", "earliest, latest"),
    (changed(pipeline={"on_failure": "ignore"}), "pipelines[0].on_failure", "no choice", "halt"),
    (changed(log={"level": "trace"}), "log.level", "no choice", "debug"),
    (changed(keys={"provider": "gcp"}), "keys.provider", "no choice", "aws-kms"),
    # quantities
    (changed(rotation={"max_age": "5 minutes"}), "rotation.max_age", "no duration", "ms, s, m, h, d"),
    (changed(rotation={"max_age": 0}), "rotation.max_age", "above zero", ""),
    (changed(rotation={"max_age": True}), "rotation.max_age", "no duration", ""),
    (changed(rotation={"max_bytes": "16GB"}), "rotation.max_bytes", "no size", "KiB"),
    (changed(rotation={"max_bytes": "65GiB"}), "rotation.max_bytes", "ceiling", "64GiB"),
    (changed(rotation={"max_messages": 2**32 + 1}), "rotation.max_messages", "ceiling", str(2**32)),
    (changed(rotation={"grace": "a minute"}), "rotation.grace", "no duration", "ms, s, m, h, d"),
    (changed(rotation={"grace": -1}), "rotation.grace", "below zero", "0 for none"),
    (changed(rotation={"grace_factor": 0.5}), "rotation.grace_factor", "not 1 to 100", "such as 4"),
    (changed(rotation={"grace_factor": 101}), "rotation.grace_factor", "not 1 to 100", "such as 4"),
    (changed(rotation={"max_messages": 0}), "rotation.max_messages", "below 1", ""),
    (changed(cache={"ttl": "-1s"}), "cache.ttl", "no duration", ""),
    (changed(cache={"max_entries": -1}), "cache.max_entries", "below 1", ""),
    # topics
    (changed(pipeline={"from": "a,b"}), "pipelines[0].from", "no topic name", "several topics are a list"),
    (changed(pipeline={"from": []}), "pipelines[0].from", "is empty", ""),
    (changed(pipeline={"from": ["a", "a"]}), "pipelines[0].from", "twice", ""),
    (changed(pipeline={"from": "^pay("}), "pipelines[0].from", "no regular expression", "whole topic name"),
    (changed(pipeline={"exclude": ["^("]}), "pipelines[0].exclude[0]", "no regular expression", ""),
    (changed(pipeline={"to": "x{name}"}), "pipelines[0].to", "{name} is no placeholder", "{topic}"),
    (changed(pipeline={"to": "{topic}{topic}"}), "pipelines[0].to", "twice", ""),
    (changed(pipeline={"to": "a b"}), "pipelines[0].to", "no topic name", ""),
    (changed(pipeline={"to": "x" * 250}), "pipelines[0].to", "no topic name", ""),
    (changed(pipeline={"from": "x" * 245, "to": "{topic}.encrypted"}), "pipelines[0].to", "longer than 249", ""),
    (changed(pipeline={"from": ".."}), "pipelines[0].from", "no topic name", ""),
    (changed(topic_names={"a b": "c"}), "topic_names", "no topic name", ""),
    # context and bound
    (changed(context={"streamcrypt:x": "y"}), "context", "which is ours", ""),
    (changed(context={"a": "1", "A": "2"}), "context", "case only", ""),
    (changed(context={str(n): "x" for n in range(17)}), "context", "more than 16", ""),
    (changed(pipeline={"bound": ["value"]}), "pipelines[0].bound", "bound field", "header:type"),
    (changed(pipeline={"bound": "key"}), "pipelines[0].bound", "no list", ""),
    (changed(pipeline={"bound": ["header:streamcrypt"]}), "pipelines[0].bound", "bound field", ""),
    # the key service
    (changed(keys={"key_id": None}), "keys.key_id", "is missing", "alias/NAME"),
    (changed(keys={"key_id": []}), "keys.key_id", "is empty", ""),
    (changed(keys={"key_id": "payments"}), "keys.key_id", "not a KMS key name", "alias/NAME"),
    (changed(keys={"key_id": "alias/aws/ebs"}), "keys.key_id", "AWS managed", "customer managed"),
    (changed(keys={"keyring": "x"}), "keys.keyring", "'provider: local' only", ""),
    (changed(keys={"key_id": ARN, "region": "us-east-1"}), "keys.region", "the key is in eu-west-1", "eu-west-1"),
    (changed(keys={"region": "EU West"}), "keys.region", "not a region name", "eu-west-1"),
    (changed(keys={"trusted_keys": ["alias/x"]}), "keys.trusted_keys", "not a key ARN", "pointed elsewhere"),
    (changed(keys={"endpoint_url": "kms:8080"}), "keys.endpoint_url", "URL", "https://"),
    (changed(keys={"endpoint_url": 5}), "keys.endpoint_url", "neither a URL nor a map", ""),
    (changed(keys={"endpoint_url": "http://kms:8080"}), "keys.endpoint_url", "in clear", "insecure_endpoint"),
    (changed(keys={"endpoint_url": {"us-east-1": "https://k"}}), "keys.endpoint_url.us-east-1", "not the region", ""),
    (
        changed(keys={"endpoint_url": {"eu-west-1": "https://k"}, "regions": ["eu-west-2"]}),
        "keys.endpoint_url",
        "no URL for eu-west-2",
        "URL",
    ),
    # several KEKs and regions
    (changed(keys={"key_id": ARN, "regions": ["eu-west-2"]}), "keys.regions", "multi-region keys", "mrk-"),
    (changed(keys={"regions": ["eu west"]}), "keys.regions", "not a region", "eu-west-1"),
    (changed(keys={"require": "any"}), "keys.require", "several key ids", "several keys"),
    (changed(keys={"require": "most"}), "keys.require", "no choice", ""),
    (changed(keys={"key_id": [f"alias/k{n}" for n in range(9)]}), "keys.key_id", "9 keys", "at most 8"),
    (
        changed(keys={"key_id": [ARN, ARN.replace("1234abcd", "aaaaaaaa")], "region": "us-east-1"}),
        "keys.region",
        "is us-east-1",
        "eu-west-1",
    ),
    (changed(keys=LOCAL), "keys.keyring", "is missing", "keyring: PATH"),
    (changed(keys={**LOCAL, "keyring": "k", "key_id": "alias/x"}), "keys.key_id", "aws-kms' only", "Remove"),
    (changed(keys={**LOCAL, "keyring": "k", "region": "eu-west-1"}), "keys.region", "aws-kms' only", "Remove"),
    (changed(keys={**LOCAL, "keyring": "k", "endpoint_url": "http://localhost"}), "keys.endpoint_url", "only", ""),
    (changed(keys={**LOCAL, "keyring": "k", "trusted_keys": [ARN]}), "keys.trusted_keys", "only", ""),
    # one pipeline against itself
    (changed(pipeline={"to": "payments"}), "pipelines[0].to", "which this pipeline reads", ""),
    (changed(pipeline={"from": "^a.*", "to": "{topic}"}), "pipelines[0].to", "onto its own topic", "{topic}.encrypted"),
    (changed(pipeline={"from": ["a", "a.x"], "to": "{topic}.x"}), "pipelines[0].to", "'a.x', which this", ""),
    (changed(pipeline={"trusted_keys": [ARN]}), "pipelines[0].trusted_keys", "does not count", "Remove"),
    (
        changed(pipeline={"mode": "decrypt", "suite": "AES_256_GCM_SIV"}),
        "pipelines[0].suite",
        "names its own suite",
        "Remove",
    ),
    # re-encryption
    (changed(pipeline={"mode": "reencrypt"}), "pipelines[0].how", "is missing", "how: rewrap"),
    (changed(pipeline={"how": "rewrap"}), "pipelines[0].how", "goes with 'mode: reencrypt'", "Remove it"),
    (changed(pipeline={"rate": "10/s"}), "pipelines[0].rate", "goes with 'mode: reencrypt'", "Remove it"),
    (changed(pipeline={"rate": "fast"}), "pipelines[0].rate", "no whole number", ""),
    (changed(pipeline={"rate": "0/s"}), "pipelines[0].rate", "below 1", ""),
    (
        changed(pipeline={"mode": "reencrypt", "how": "rewrap", "suite": "AES_256_GCM_SIV"}),
        "pipelines[0].suite",
        "when rewrapping",
        "reseal",
    ),
    (
        changed(pipeline={"mode": "reencrypt", "how": "rewrap", "dead_letter_key": "alias/x"}),
        "pipelines[0].dead_letter_key",
        "dead letters of an encrypting pipeline",
        "",
    ),
    (
        changed(pipeline={"mode": "reencrypt", "how": "rewrap", "from": "a", "to": "b"}),
        "pipelines[0].to",
        "stay bound to 'a'",
        "Add 'b: a' under topic_names",
    ),
    (changed(pipeline={"tombstones": "authentic"}), "pipelines[0].tombstones", "no choice", "'authenticated'"),
    (changed(pipeline={"sequence": "enforce"}), "pipelines[0].sequence", "when encrypting", "Remove"),
    # dead letters
    (changed(pipeline={"on_failure": "dead_letter"}), "pipelines[0].on_failure", "needs a topic", "halt"),
    (changed(pipeline={"dead_letter": "a.dlq"}), "pipelines[0].dead_letter", "goes with", "both"),
    (
        changed(pipeline={"on_failure": "dead_letter", "dead_letter": "payments"}),
        "pipelines[0].dead_letter",
        "reads",
        "of their own",
    ),
    (changed(pipeline={"dead_letter_key": "alias/d"}), "pipelines[0].dead_letter_key", "there are none", "Remove"),
    # what is not delivered yet is still read as what it is
    (changed(pipeline={"plaintext": "accept"}), "pipelines[0].plaintext", "neither 'reject' nor", ""),
    (changed(pipeline={"plaintext": {"pass_until": 5}}), "pipelines[0].plaintext.pass_until", "is no section", ""),
    (changed(pipeline={"dead_letter": "a b"}), "pipelines[0].dead_letter", "no topic name", ""),
    # librdkafka
    (changed(kafka={"fetch.max.byte": 1}), "kafka.fetch.max.byte", "no property", "'fetch.max.bytes'"),
    (changed(kafka={"error_cb": "x"}), "kafka.error_cb", "no property", ""),
    (changed(kafka={"zz.zz": "x"}), "kafka.zz.zz", "no property", "CONFIGURATION.md"),
    (changed(kafka={"bootstrap": {"servers": "x"}}), "kafka.bootstrap", "section", "bootstrap.servers"),
    (changed(kafka={"client.id": []}), "kafka.client.id", "a section or a list", ""),
    (changed(kafka={"producer": {"acks": 1}}), "kafka.producer.acks", "in-sync", "it is all"),
    ({**changed(kafka={"consumer": {}}), "kafka.consumer": {}}, "kafka.consumer", "given twice", "one of the two"),
    *((changed(kafka={name: "x"}), f"kafka.{name}", reason, remedy) for name, (reason, remedy) in REFUSED.items()),
]


@pytest.mark.parametrize(("tree", "path", "message", "remedy"), REFUSALS, ids=[f"{r[1]}-{r[2]}" for r in REFUSALS])
def test_a_mistake_is_refused_by_name(file, tree, path, message, remedy):
    """The setting at fault is named, with what is wrong and what to do instead."""
    found = problems(file, tree)
    assert any(p.path == path and message in p.message and remedy in p.remedy for p in found), found


def test_exactly_the_documented_properties_are_refused():
    """The refused librdkafka properties are those of the documentation, and two other names for them."""
    assert set(REFUSED) == {
        "enable.auto.commit",
        "enable.auto.offset.store",
        "isolation.level",
        "acks",
        "enable.idempotence",
        "transactional.id",
        "group.id",
        "group.instance.id",
        "auto.offset.reset",
        "delivery.report.only.error",
        "auto.commit.enable",
        "request.required.acks",
    }


def test_known_properties_exist_in_the_installed_librdkafka():
    """Every name that is offered as the nearest one is a property of librdkafka."""
    from confluent_kafka import KafkaException, Producer

    for name in KNOWN - {"delivery.report.only.error"}:
        try:
            Producer({name: ""})
        except (KafkaException, TypeError) as error:
            assert "No such configuration property" not in str(error), name  # noqa: PT017


def test_a_property_of_a_later_librdkafka_is_taken(monkeypatch):
    """A name that is not in the list is refused only where the library does not know it either."""
    monkeypatch.setattr("streamcrypt.config.librdkafka.KNOWN", frozenset())
    is_known.cache_clear()
    assert is_known("fetch.max.bytes")
    assert not is_known("fetch.max.byte")
    is_known.cache_clear()


def test_http_on_loopback_and_allowed_insecure_endpoints_are_taken(file):
    """Plain http is accepted on this host, and elsewhere only where insecure_endpoint says so."""
    for keys in (
        {"endpoint_url": "http://127.0.0.1:8080"},
        {"endpoint_url": "http://localhost:8080"},
        {"endpoint_url": {"eu-west-1": "https://kms.example.com"}},
        {"endpoint_url": "http://kms:8080", "insecure_endpoint": True},
    ):
        assert loaded(file, changed(keys=keys)).keys.endpoint_urls


# -- pipelines against each other --------------------------------------------------------------------------------------


def pipelines(*routes: tuple[str, str, str]) -> dict[str, Any]:
    """A configuration of pipelines (mode, from, to)."""
    return changed(pipelines=[{"name": f"p{n}", "mode": m, "from": f, "to": t} for n, (m, f, t) in enumerate(routes)])


@pytest.mark.parametrize(
    ("tree", "path", "message"),
    [
        (pipelines(("encrypt", "a", "b"), ("encrypt", "b", "c")), "pipelines[1].from", "encrypted twice"),
        (pipelines(("decrypt", "a", "b"), ("decrypt", "b", "c")), "pipelines[1].from", "decrypted twice"),
        (pipelines(("encrypt", "a", "b"), ("decrypt", "b", "a")), "pipelines[1].from", "a circle"),
        (pipelines(("encrypt", "a", "b"), ("decrypt", "^b", "a")), "pipelines[1].from", "a circle"),
        (
            pipelines(("encrypt", "a", "b"), ("decrypt", "b", "c"), ("encrypt", "c", "d"), ("decrypt", "d", "a")),
            "pipelines[1].from",
            "a circle",
        ),
        (pipelines(("encrypt", "a", "x"), ("decrypt", "b", "x")), "pipelines[1].to", "never both"),
        (pipelines(("encrypt", "a", "{topic}.x"), ("decrypt", "b", "a.x")), "pipelines[1].to", "never both"),
    ],
)
def test_pipelines_that_undo_each_other_are_refused(file, tree, path, message):
    """Records never run in a circle, are never sealed twice, and a topic never holds both kinds."""
    assert any(p.path == path and message in str(p) for p in problems(file, tree))


def test_repeated_names_and_groups_are_refused(file):
    """Two pipelines never share a name or a consumer group."""
    twins = [{**BASE["pipelines"][0], "from": topic, "to": f"{topic}.x"} for topic in ("a", "b")]
    assert {p.path for p in problems(file, changed(pipelines=twins))} == {"pipelines[1].name", "pipelines[1].group"}


@pytest.mark.parametrize(
    "tree",
    [
        pipelines(("encrypt", "a", "b"), ("decrypt", "b", "c")),
        pipelines(("encrypt", "a", "x"), ("encrypt", "b", "x")),
        pipelines(("encrypt", "^.*", "{topic}.encrypted")),
        pipelines(("encrypt", "^.*", "all.encrypted")),
        pipelines(("encrypt", "^a.*", "{topic}.encrypted"), ("decrypt", r"^a.*\.encrypted", "{topic}.plain")),
    ],
)
def test_sound_pipelines_are_taken(file, tree):
    """Sealing and opening in a row, several sources for one target, and wide regexes are all fine."""
    assert loaded(file, tree).pipelines
