"""Claims about what a new configuration means for a process that runs: a pure function from two settings to a plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from streamcrypt.config import Settings, load
from streamcrypt.config.changes import Change, PipelineChange, plan

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"

BASE: dict[str, Any] = {
    "kafka": {"bootstrap.servers": "localhost:9092"},
    "keys": {"key_id": ARN},
    "topic_names": {"d.new": "d"},
    "pipelines": [
        {"name": "seal", "mode": "encrypt", "from": "a", "to": "a.sealed"},
        {"name": "open", "mode": "decrypt", "from": "b", "to": "b.plain"},
        {"name": "reseal", "mode": "reencrypt", "how": "reseal", "from": "c", "to": "c.new"},
        {"name": "rewrap", "mode": "reencrypt", "how": "rewrap", "from": "d", "to": "d.new"},
    ],
}
NAMES = ("seal", "open", "reseal", "rewrap")


def settings(tmp_path, pipelines: list[dict[str, Any]] | None = None, **sections: Any) -> Settings:
    """The base with sections replaced."""
    tree = {**copy.deepcopy(BASE), **sections}
    if pipelines is not None:
        tree["pipelines"] = pipelines
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load(file, {})


def pipelines(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    """The pipelines of the base, each with what is laid over it."""
    return [{**one, **changed.get(one["name"], {})} for one in copy.deepcopy(BASE["pipelines"])]


def planned(tmp_path, new_pipelines: list[dict[str, Any]] | None = None, **sections: Any):
    return plan(settings(tmp_path), settings(tmp_path, new_pipelines, **sections))


def becomes(found, change: Change) -> set[str]:
    return set(found.names(change))


def test_the_same_file_changes_nothing(tmp_path):
    found = planned(tmp_path)
    assert found.is_empty
    assert found.names(Change.UNCHANGED) == NAMES


def test_the_same_settings_written_otherwise_change_nothing(tmp_path):
    """Another order, defaults written out, other units, the number that auto means here."""
    written = [{**one, "partition": "keep", "commit_interval": "0.1s"} for one in reversed(BASE["pipelines"])]
    found = planned(tmp_path, written, rotation={"max_age": 300}, cache={"ttl": "15m"})
    assert found.is_empty
    auto = settings(tmp_path, workers="auto")
    assert plan(auto, settings(tmp_path, workers=auto.worker_count)).is_empty


def test_rotation_changes_in_place_what_seals(tmp_path):
    found = planned(tmp_path, rotation={"max_messages": 5})
    assert becomes(found, Change.IN_PLACE) == {"seal", "reseal"}
    assert becomes(found, Change.UNCHANGED) == {"open", "rewrap"}
    assert found.pipelines["seal"] == PipelineChange(Change.IN_PLACE, ("rotation",))


def test_the_cache_restarts_what_reads_envelopes(tmp_path):
    found = planned(tmp_path, cache={"ttl": "1m"})
    assert becomes(found, Change.RESTARTED) == {"open", "reseal", "rewrap"}


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("context", {"app": "billing"}),
        ("topic_names", {"d.new": "d", "x": "y"}),
        ("kafka", {"bootstrap.servers": "elsewhere:9092"}),
        ("keys", {"key_id": ARN, "trusted_keys": [ARN]}),
    ],
    ids=["context", "topic_names", "kafka", "keys"],
)
def test_what_all_pipelines_share_restarts_all(tmp_path, section, value):
    found = planned(tmp_path, **{section: value})
    assert becomes(found, Change.RESTARTED) == set(NAMES)
    assert found.pipelines["open"].settings == (section,)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("from", "z"),
        ("to", "z"),
        ("group", "z"),
        ("delivery", "at_least_once"),
        ("on_failure", "skip"),
        ("commit_interval", "1s"),
        ("trusted_keys", [ARN]),
        ("bound", ["key", "header:x"]),
        ("tombstones", "authenticated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_of_one_pipeline_restarts_that_one_alone(tmp_path, setting, value):
    """And it is named as it stands in the file."""
    found = planned(tmp_path, pipelines(open={setting: value}))
    assert becomes(found, Change.RESTARTED) == {"open"}
    assert found.pipelines["open"].settings == (setting,)
    assert not found.is_empty


def test_pipelines_come_and_go_by_name(tmp_path):
    """One that is renamed is another one."""
    new = [*pipelines()[1:], {**BASE["pipelines"][0], "name": "seal-2", "group": "streamcrypt-seal"}]
    found = planned(tmp_path, new)
    assert (found.names(Change.ADDED), found.names(Change.REMOVED)) == (("seal-2",), ("seal",))
    assert becomes(found, Change.UNCHANGED) == {"open", "reseal", "rewrap"}


def test_a_pipeline_that_restarts_takes_the_rotation_with_it(tmp_path):
    found = planned(tmp_path, pipelines(seal={"to": "z"}), rotation={"max_messages": 5})
    assert found.pipelines["seal"] == PipelineChange(Change.RESTARTED, ("to", "rotation"))
    assert becomes(found, Change.IN_PLACE) == {"reseal"}


def test_a_regex_restarts_where_it_must_not_read_what_a_new_pipeline_writes(tmp_path):
    """One that reads topics by name goes on undisturbed."""
    by_regex = {"name": "all", "mode": "encrypt", "from": "^x.*", "to": "{topic}.sealed"}
    by_name = {"name": "one", "mode": "encrypt", "from": "y", "to": "y.sealed"}
    more = {"name": "more", "mode": "encrypt", "from": "z", "to": "x.also"}
    found = plan(settings(tmp_path, [by_regex, by_name]), settings(tmp_path, [by_regex, by_name, more]))
    assert found.pipelines["all"] == PipelineChange(Change.RESTARTED, ("pipelines",))
    assert found.names(Change.UNCHANGED) == ("one",)


@pytest.mark.parametrize(
    ("section", "value", "refused"),
    [
        ("workers", 2, "workers"),
        ("http", {"port": 1}, "http.port"),
        ("http", {"host": "::1"}, "http.host"),
        ("log", {"format": "console"}, "log.format"),
        ("control", {"socket": None}, "control"),
    ],
    ids=["workers", "port", "host", "format", "control"],
)
def test_what_belongs_to_the_process_is_refused_by_name(tmp_path, section, value, refused):
    found = planned(tmp_path, **{section: value})
    assert found.refused == (refused,)
    assert not found.is_empty


def test_level_and_token_are_taken_over_as_it_runs(tmp_path):
    found = planned(tmp_path, log={"level": "debug"}, http={"token": "0123456789abcdef"})
    assert set(found.process) == {"log.level", "http.token"}
    assert found.refused == ()
    assert becomes(found, Change.UNCHANGED) == set(NAMES)


def test_a_file_with_another_content_counts_as_a_change(tmp_path):
    """A keyring that was replaced restarts all; a token that was replaced is taken over."""
    same = settings(tmp_path)
    found = plan(same, same, ("keys.keyring",))
    assert becomes(found, Change.RESTARTED) == set(NAMES)
    assert found.pipelines["seal"].settings == ("keys.keyring",)
    assert plan(same, same, ("http.token_file",)).process == ("http.token_file",)


def test_every_section_is_of_pipelines_taken_over_or_refused(tmp_path):
    """One that is added one day is refused until somebody says what it means: never silently passed over."""
    known = {"kafka", "keys", "rotation", "cache", "context", "topic_names", "pipelines", "workers", "http", "log"}
    assert known <= set(Settings.model_fields)
    assert {"control"} <= set(Settings.model_fields) - known


def test_every_setting_of_a_pipeline_is_compared(tmp_path):
    """Each differs alone, in a copy that says so."""
    old = settings(tmp_path)
    one = old.pipelines[0]
    for name in type(one).model_fields:
        if name == "name":
            continue
        other = one.model_copy(update={name: "other"})
        new = old.model_copy(update={"pipelines": (other, *old.pipelines[1:])})
        if name in {"mode", "partition", "start", "on_failure", "source"}:
            continue  # these make a spec, and "other" is none of them; see the cases above
        assert plan(old, new).pipelines["seal"].change is Change.RESTARTED, name
