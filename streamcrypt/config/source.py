"""YAML and environment as one tree of plain values, with the place that each value came from.

The YAML is that of the 1.2 core schema: ``off`` and ``no`` are text, ``true`` and ``false`` alone are booleans.
Kept apart from pydantic: a settings library knows neither line numbers nor a ``_`` that stands for a dot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from streamcrypt.config.files import read_regular
from streamcrypt.config.problems import ConfigProblems, Problem

__all__ = ["ENVIRONMENT_PREFIX", "SettingPath", "Source", "dotted", "read_source"]

ENVIRONMENT_PREFIX = "STREAMCRYPT__"
MAX_BYTES = 4 * 2**20
"""Of a configuration file: a ConfigMap holds 1 MiB, and thousands of tenants fit into that."""
MAX_NODES = 20_000  # aliases multiply: a few lines could otherwise stand for billions of values

SettingPath = tuple[str | int, ...]

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_OVERLAYS = frozenset({"consumer", "producer"})
_MSK_IAM = "msk_iam"
_UNDERSCORED = {"log.level": "log_level", "enabled.events": "enabled_events"}  # librdkafka's two names with '_'


def dotted(path: SettingPath) -> str:
    """Write a path as people do: ``pipelines[0].from``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(slots=True)
class Source:
    """A tree of plain values and the place of each.

    Attributes:
        file: The file's name as it was given.
        tree: Dicts, lists, text, numbers, booleans and None.
        places: Path to ``file:line:column``, or to the name of a variable. What has none is where its parent is.
        problems: What was wrong already: duplicate keys, environment variables that fit nowhere.
        text: The file's content.
    """

    file: str
    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[SettingPath, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    text: str = field(default="", repr=False)

    def where(self, path: SettingPath) -> str:
        """Give the place of a setting, or of the nearest section around it."""
        for end in range(len(path), 0, -1):
            if found := self.places.get(path[:end]):
                return found
        return f"{self.file}:1:1"

    def problem(self, path: SettingPath, message: str, remedy: str) -> None:
        """Note a problem at the place of ``path``."""
        self.problems.append(Problem(self.where(path), dotted(path), message, remedy))


def read_source(path: str | Path, environ: Mapping[str, str], text: str | None = None) -> Source:
    """Read a file and lay the environment over it.

    Args:
        path: The file.
        environ: The environment.
        text: What the file held when it was read before; None: read it.

    Raises:
        ConfigProblems: The file cannot be read or is no YAML. Lesser problems are left in :attr:`Source.problems`.
    """
    source = Source(str(path))
    source.text = _read_text(source) if text is None else text
    try:
        root = _compose(source, source.text)
        tree = None if root is None else _Reader(source).value(root, ())
    except RecursionError:
        problem = Problem(source.file, "", "is nested too deep", "No setting is that deep: remove it.")
        raise ConfigProblems(source.file, [problem]) from None
    if root is not None:
        if isinstance(tree, dict):
            source.tree = tree
        else:
            source.problem((), "the file holds no settings but a single value or list", "Write 'name: value' lines.")
    _hoist_overlays(source)
    for path_, name, value in _environment(source, environ):
        _set(source, path_, name, value)
    return source


def _read_text(source: Source) -> str:
    try:
        content = read_regular(source.file, MAX_BYTES + 1)
        if len(content) <= MAX_BYTES:
            # Line ends as a file that is opened as text has them.
            return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        remedy = "Give the path of a configuration file."
        problem = Problem(source.file, "", f"is larger than {MAX_BYTES // 2**20} MiB", remedy)
    except OSError as error:
        remedy = "Give the path of a YAML file that this user may read."
        problem = Problem(source.file, "", f"cannot be read: {error.strerror or type(error).__name__}", remedy)
    except UnicodeDecodeError as error:
        problem = Problem(source.file, "", f"is not UTF-8 at byte {error.start}", "Save it as UTF-8.")
    raise ConfigProblems(source.file, [problem]) from None


def _compose(source: Source, text: str) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"{source.file}:{mark.line + 1}:{mark.column + 1}" if mark else source.file
        message = f"is no YAML: {error.problem or error.context}"
        remedy = "Look at the indentation, quotes and colons there and in the line above."
        raise ConfigProblems(source.file, [Problem(location, "", message, remedy)]) from None
    except yaml.reader.ReaderError as error:
        problem = Problem(source.file, "", f"is no YAML: a character at position {error.position}", "Remove it.")
        raise ConfigProblems(source.file, [problem]) from None
    return node


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars as the core schema of YAML 1.2 does; PyYAML alone reads ``off`` as False."""


_CoreLoader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


class _Reader:
    """Turns a graph of YAML nodes into plain values, noting places and problems."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._nodes = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: SettingPath) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or id(node) in self._open:
            message = f"the file holds more than {MAX_NODES} values, or an alias that holds itself"
            problem = Problem(self._source.where(path), dotted(path), message, "Write it without aliases.")
            raise ConfigProblems(self._source.file, [problem])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: SettingPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                problem = Problem(place, dotted(path), "a key is itself a list or section", "Write a plain name.")
                self._source.problems.append(problem)
                continue
            name = str(key_node.value)
            if name in values:
                message = f"stands here again; it was set at {self._source.where((*path, name))}"
                problem = Problem(place, dotted((*path, name)), message, "Keep one of the two.")
                self._source.problems.append(problem)
                continue
            self._source.places[(*path, name)] = place
            values[name] = self.value(value_node, (*path, name))
        return values

    def _sequence(self, node: yaml.SequenceNode, path: SettingPath) -> list[Any]:
        for index, item in enumerate(node.value):
            self._source.places[(*path, index)] = self._place(item)
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _scalar(self, node: yaml.Node, path: SettingPath) -> Any:
        text = str(node.value)
        try:
            match node.tag.removeprefix("tag:yaml.org,2002:"):
                case "str":
                    return text
                case "bool":
                    return _BOOLEANS[text]
                case "null":
                    return None
                case "int":
                    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
                case "float":
                    return float(text)
                case _:
                    self._source.problem(path, f"has the tag {node.tag!r}", "Write a plain value without a tag.")
        except (KeyError, ValueError):
            self._source.problem(path, f"is not what its tag {node.tag!r} says", "Write a plain value without a tag.")
        return None

    def _place(self, node: yaml.Node) -> str:
        return f"{self._source.file}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"


def _hoist_overlays(source: Source) -> None:
    """Read ``kafka.consumer:`` at the top as ``consumer:`` under ``kafka:``, the two being written alike in prose."""
    for overlay in sorted(_OVERLAYS):
        name = f"kafka.{overlay}"
        if name not in source.tree:
            continue
        kafka = source.tree.get("kafka", {})
        if not isinstance(kafka, dict) or overlay in kafka:
            source.problem((name,), f"is given twice, here and as '{overlay}' under 'kafka'", "Keep one of the two.")
            continue
        source.tree["kafka"] = kafka
        kafka[overlay] = source.tree.pop(name)
        for path in [path for path in source.places if path[0] == name]:
            source.places["kafka", overlay, *path[1:]] = source.places.pop(path)
        source.places.setdefault(("kafka",), source.places["kafka", overlay])


def _environment(source: Source, environ: Mapping[str, str]) -> Iterator[tuple[SettingPath, str, Any]]:
    """Give path, variable and value of every variable that is ours; an empty one counts as not set, as in compose."""
    found = []
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or not text.strip():
            continue
        parts = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        if not all(parts):
            source.problems.append(Problem(name, "", "has an empty part", "Put '__' between two names only."))
        elif parts[0] == "kafka":
            found += _kafka_variable(source, name, parts, text)
        else:
            found.append((tuple(int(part) if part.isdecimal() else part for part in parts), name, _decode(text)))
    # Sections come before what is in them, and list items in their order.
    yield from sorted(found, key=lambda item: (len(item[0]), [(isinstance(p, str), p) for p in item[0]]))


def _kafka_variable(source: Source, name: str, parts: tuple[str, ...], text: str) -> list[tuple[SettingPath, str, Any]]:
    *sections, last = parts
    if last in _OVERLAYS or not sections or parts[1] == _MSK_IAM:
        return [(parts, name, _decode(text))]
    if tuple(sections) not in {("kafka",), ("kafka", "consumer"), ("kafka", "producer")}:
        remedy = "Below KAFKA a single '_' stands for '.': STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS."
        source.problems.append(Problem(name, ".".join(parts), "names no librdkafka property", remedy))
        return []
    # The text is taken as it stands: a password may look like JSON.
    dotted_name = last.replace("_", ".")
    return [((*sections, _UNDERSCORED.get(dotted_name, dotted_name)), name, text)]


def _decode(text: str) -> Any:
    text = text.strip()
    if text == "null":
        return None
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text  # a template such as {topic}.encrypted; a broken list is refused as text where a list belongs
    return text


def _set(source: Source, path: SettingPath, name: str, value: Any) -> None:
    node: Any = source.tree
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        here = path[:depth]
        if isinstance(node, list):
            if not isinstance(part, int) or part > len(node):
                remedy = f"Use a number from 0 to {len(node)}."
                source.problems.append(Problem(name, dotted(here), f"has no item {part!r} to set", remedy))
                return
            if part == len(node):
                node.append(value if last else {})
                source.places[path[: depth + 1]] = name
            key: Any = part
        elif isinstance(node, dict):
            key = str(part)
            if not last and node.get(key) is None:
                node[key] = [] if isinstance(path[depth + 1], int) and (*here, key) == ("pipelines",) else {}
                source.places.setdefault((*here, key), name)
        else:
            message = f"is a single value; {dotted((part,))!r} cannot be set in it"
            source.problems.append(Problem(name, dotted(here), message, "Unset the variable, or mend its name."))
            return
        if last:
            _replace(source, (*here, key), name)
            node[key] = value
        else:
            node = node[key]


def _replace(source: Source, path: SettingPath, name: str) -> None:
    for stale in [known for known in source.places if known[: len(path)] == path]:
        del source.places[stale]
    source.places[path] = name
