"""Whatever stands in the file or the environment, loading gives settings or a listing, and nothing else."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import operator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamcrypt.config import ConfigProblems, Settings, load

SOUND: dict[str, Any] = {
    "kafka": {"bootstrap.servers": "x:1", "consumer": {"fetch.min.bytes": 1}, "producer": {"linger.ms": 5}},
    "keys": {"key_id": "alias/a", "region": "eu-west-1", "endpoint_url": "http://localhost:1", "trusted_keys": []},
    "rotation": {"max_messages": 1, "max_age": "1s", "max_bytes": "1KiB"},
    "context": {"app": "billing"},
    "topic_names": {"a": "b"},
    "workers": 1,
    "http": {"host": "127.0.0.1", "port": 1},
    "pipelines": [
        {"name": "a", "mode": "encrypt", "from": ["a", "^b.*"], "to": "{topic}.x", "exclude": ["c"], "bound": ["key"]},
        {"name": "b", "mode": "decrypt", "from": "d", "to": "e", "plaintext": "reject", "trusted_keys": []},
    ],
}

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(["{topic}", "^(", "encrypt", "a.x", "d", "e", "5m", "alias/b", "{", "[1", "{topic}{x}", "a{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path in a tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for name, value in inner for found in places(value, (*path, name)))]


PLACES = [path for path in places(SOUND) if path]


def loads_or_lists(path: Path, environ: dict[str, str]) -> None:
    """Load, and where that is refused hold the refusal to its promises."""
    try:
        found: Settings | ConfigProblems = load(path, environ)
    except ConfigProblems as error:
        found = error
    if isinstance(found, ConfigProblems):
        assert found.problems
        assert all(problem.message and problem.remedy and problem.location for problem in found.problems)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """One file, written again for each example."""
    return tmp_path_factory.mktemp("config") / "streamcrypt.yaml"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_changed_trees(file, changes):
    """Any value in any place is taken or refused by name."""
    tree = copy.deepcopy(SOUND)
    for path, value in changes:
        # A place that an earlier change has taken away is left alone.
        with contextlib.suppress(LookupError, TypeError):
            functools.reduce(operator.getitem, path[:-1], tree)[path[-1]] = value
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    loads_or_lists(file, {})


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3))
def test_changed_environments(file, changes):
    """Any text in any variable is taken or refused by name."""
    file.write_text(yaml.safe_dump(SOUND), encoding="utf-8")
    environ = {
        "STREAMCRYPT__" + "__".join(str(part).replace(".", "_").upper() for part in path): value
        if isinstance(value, str)
        else json.dumps(value)
        for path, value in changes
    }
    loads_or_lists(file, environ)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), max_size=60) | st.text("abc:{}[]&*!|>-?# \n'\"<,%@`", max_size=60))
def test_any_text(file, text):
    """A file of anything is refused as a listing."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigProblems):
        load(file, {})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_any_bytes(file, content):
    """A file of any bytes is refused as a listing."""
    file.write_bytes(content)
    with pytest.raises(ConfigProblems):
        load(file, {})
