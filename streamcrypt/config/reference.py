"""The configuration reference, docs/configuration.md, from the models: ``python -m streamcrypt.config.reference``.

Names, types, defaults and texts are those that the process reads its file with, so the page cannot drift from it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamcrypt.config.librdkafka import REFUSED
from streamcrypt.config.model import Settings
from streamcrypt.config.source import ENVIRONMENT_PREFIX

__all__ = ["Row", "page", "rows", "variable"]

_HEAD = """\
# Configuration

<!-- Generated: python -m streamcrypt.config.reference > docs/configuration.md. Change the models, not this page. -->

One YAML file, which `streamcrypt run`, `check` and the other commands take as their first argument. Commented examples:
[encrypt.yaml](../config/encrypt.yaml), [decrypt.yaml](../config/decrypt.yaml), [both.yaml](../config/both.yaml),
[tenants.yaml](../config/tenants.yaml), [multi-region.yaml](../config/multi-region.yaml),
[reencrypt.yaml](../config/reencrypt.yaml).

| written as | means |
|---|---|
| duration | a number with `ms`, `s`, `m`, `h` or `d`, such as `5m`; a bare number is seconds |
| size | a number with `B`, `KiB`, `MiB` or `GiB`, such as `16GiB`; a bare number is bytes |
| text | YAML text. `off`, `no` and `yes` are text as well; only `true` and `false` are booleans |
| required | the process does not start without it |

An unknown name is refused, with the nearest known one, file, line and column. `streamcrypt check CONFIG` lists
everything that is wrong at once.

## Environment variables

Each setting has a variable, which wins over the file: `STREAMCRYPT__` and the path in capitals, with `__`
between its parts.
A pipeline is named by its place, from 0. Lists and maps are JSON. An empty variable counts as not set.
Below `KAFKA` a single `_` stands for the dot of a librdkafka property: `STREAMCRYPT__KAFKA__BOOTSTRAP_SERVERS`.
Passwords belong into a variable or a mounted file: [broker-security.md](broker-security.md#secrets).
"""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_NO_DEFAULT = object()
# YAML in braces, regexes, placeholders, and names with an underscore.
_CODE = re.compile(
    r'"?[\w/.-]*\{(?:[^{}]|\{[^{}]*\})*\}(?:[\w.-]*\w"?)?|(?<!\w)\^\w+|(?:\bheader:)?<name>'
    r"|(?<![\w_.])[a-z]+(?:_[a-z]+)+\b"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    Attributes:
        path: As in the file, ``pipelines[].from``.
        kind: The type, in words.
        default: As it is written in the file; empty where there is none, ``required`` where there must be a value.
        text: What it means.
    """

    path: str
    kind: str
    default: str
    text: str


def variable(path: str) -> str:
    """Give the name of a setting's environment variable; a pipeline's is that of the first one."""
    return ENVIRONMENT_PREFIX + path.replace("[]", ".0").replace(".", "__").upper()


def rows(path: str = "") -> Iterator[Row]:
    """Give the settings of a section in the order of the models.

    Args:
        path: The section; empty for the top of the file, ``pipelines[]`` for a pipeline.
    """
    schema = Settings.model_json_schema()
    for found, section in _sections(schema):
        if found == path:
            yield from _rows(schema, section, path)


def page() -> str:
    """Give the whole page as Markdown."""
    schema = Settings.model_json_schema()
    parts = [_HEAD]
    for path, section in _sections(schema):
        title = f"`{path}`" if path else "The top of the file"
        parts.append(f"## {title}\n\n{_linked(section.get('description', ''))}\n")
        parts.append(_table(list(_rows(schema, section, path)), path))
        if path == "kafka":
            parts.append(_refused())
    return "\n".join(parts)


def _sections(schema: Mapping[str, Any], node: Any = None, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    node = schema if node is None else node
    yield path, node
    for name, field in node["properties"].items():
        section, many = _section(schema, field)
        if section is not None:
            yield from _sections(schema, section, f"{path}.{name}".lstrip(".") + ("[]" if many else ""))


def _section(schema: Mapping[str, Any], field: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """Find the section that a field holds, if it holds one, and whether it holds a list of them."""
    if field.get("type") == "array":
        return _section(schema, field["items"])[0], True
    for option in (field, *field.get("anyOf", ()), *field.get("oneOf", ())):
        target = _resolve(schema, option)
        if target is not option and target.get("type") == "object":
            return target, False
    return None, False


def _resolve(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in field:
        return field
    found: Mapping[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return found


def _rows(schema: Mapping[str, Any], section: Mapping[str, Any], path: str) -> Iterator[Row]:
    for name, field in section["properties"].items():
        where = f"{path}.{name}".lstrip(".")
        if where == "kafka.properties":
            # They stand in the section itself, without a name of their own.
            yield Row("kafka.*", "text", "", field["description"])
            continue
        needed = name in section.get("required", ())
        yield Row(
            where,
            _kind(schema, field),
            "required" if needed else _default(schema, field),
            field.get("description", ""),
        )


def _kind(schema: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    field = _resolve(schema, field)
    options = [o for o in (*field.get("anyOf", ()), *field.get("oneOf", ())) if o.get("type") != "null"]
    if patterns := [o["pattern"] for o in options if "pattern" in o and len(options) > 1]:
        return "size" if "GiB" in patterns[0] else "duration"
    if options:
        return " or ".join(dict.fromkeys(_kind(schema, option) for option in options))
    if "enum" in field or "const" in field:
        return " \\| ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_plural(_kind(schema, field['items']))}"
    if field.get("type") == "object":
        return "section" if "properties" in field else "map"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` \\| `false`"}[
        field["type"]
    ]


def _plural(kind: str) -> str:
    return {"text": "texts", "section": "sections"}.get(kind, kind)


def _default(schema: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    value = field.get("default", _NO_DEFAULT)
    if value is _NO_DEFAULT or value is None or value == "" or (_section(schema, field)[0] and value != "reject"):
        return ""
    kind = _kind(schema, field)
    if kind == "duration":
        return f"`{_duration(value)}`"
    if kind == "size":
        return f"`{_size(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f"`[{', '.join(value)}]`" if isinstance(value, list) else f"`{value:g}`" if _is_float(value) else f"`{value}`"
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, float)


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _size(number: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 1 << power and number % (1 << power) == 0:
            return f"{number >> power}{unit}"
    return f"{number}B"


def _table(found: list[Row], path: str) -> str:
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for row in found:
        name = row.path.removeprefix(path).lstrip(".")
        lines.append(f"| `{name}` | {row.kind} | {row.default} | {_cell(row.text)} |")
    scalar = next((row.path for row in found if row.kind != "section" and not row.path.endswith("*")), "")
    example = f"\nAs a variable: `{variable(scalar)}`, and so on.\n" if scalar and path else ""
    return "\n".join(lines) + "\n" + example


def _cell(text: str) -> str:
    # What is YAML, or stands in braces, is code: the quotes of the text go, those of YAML stay.
    return _linked(_CODE.sub(lambda match: f"`{match[0]}`", text).replace("|", "\\|"))


def _linked(text: str) -> str:
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(r"docs/([a-z-]+\.md)", r"[\1](\1)", text)


def _refused() -> str:
    lines = [
        "### Properties of librdkafka that are refused",
        "",
        "They would undo guarantees, so they are set by streamcrypt itself.",
        "",
        "| property | why | what to do |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {why} | {remedy} |" for name, (why, remedy) in REFUSED.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
