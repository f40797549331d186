"""From a file and an environment to checked settings, or to a listing of all that is wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from streamcrypt.config.fields import REFUSAL
from streamcrypt.config.model import Settings
from streamcrypt.config.pipelines import PipelineSettings, default_instance
from streamcrypt.config.problems import ConfigProblems, Problem, nearest
from streamcrypt.config.rules import Finding, key_findings, naming_findings, pipeline_findings, tenant_findings
from streamcrypt.config.secrets import read_secret_files
from streamcrypt.config.sections import KeysSettings, Section
from streamcrypt.config.source import SettingPath, Source, dotted, read_source
from streamcrypt.errors import ConfigError

__all__ = ["load"]


def load(path: str | Path, environ: Mapping[str, str] | None = None, text: str | None = None) -> Settings:
    """Read a YAML file, lay ``STREAMCRYPT__…`` variables over it and check everything.

    Args:
        path: The file, UTF-8.
        environ: The environment; by default that of this process. An empty variable counts as not set.
        text: The file's content where it was read before, so that two processes run with the same; None: read it.

    Raises:
        ConfigProblems: Something is wrong; its text lists everything found, one line each, with place and remedy.
    """
    environ = os.environ if environ is None else environ
    source = read_source(path, environ, text)
    _fill(source, environ)
    try:
        settings = Settings.model_validate(source.tree)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _note(source, details)
        findings = _findings_of_sound_parts(source.tree)
    else:
        findings = _findings(settings)
    for where, message, remedy in findings:
        source.problem(where, message, remedy)
    if source.problems:
        raise ConfigProblems(source.file, _in_order(source))
    settings._source = source  # noqa: SLF001
    return settings


def _fill(source: Source, environ: Mapping[str, str]) -> None:
    """Put in what depends on where the process runs: secrets, instance names, and the directory of other files."""
    read_secret_files(source)
    for pipeline in _pipelines(source.tree):
        if pipeline.get("instance") is None:
            pipeline["instance"] = default_instance(environ)
    keys = source.tree.get("keys")
    if isinstance(keys, dict) and isinstance(keys.get("keyring"), str) and keys["keyring"]:
        keys["keyring"] = str(Path(source.file).parent / keys["keyring"])
    http = source.tree.get("http")
    if isinstance(http, dict) and isinstance(http.get("token_file"), str) and http["token_file"]:
        http["token_file"] = str(Path(source.file).parent / http["token_file"])


def _pipelines(tree: dict[str, Any]) -> list[dict[str, Any]]:
    pipelines = tree.get("pipelines")
    return [p for p in pipelines if isinstance(p, dict)] if isinstance(pipelines, list) else []


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from key_findings(settings.keys)
    yield from pipeline_findings(dict(enumerate(settings.pipelines)))
    yield from naming_findings(settings)
    yield from tenant_findings(settings)


def _findings_of_sound_parts(tree: dict[str, Any]) -> Iterator[Finding]:
    """Check the rules between those parts that are sound, so that one mistake does not hide the next."""
    with contextlib.suppress(ValidationError):
        yield from key_findings(KeysSettings.model_validate(tree.get("keys")))
    raw = tree.get("pipelines")
    sound: dict[int, PipelineSettings] = {}
    for index, item in enumerate(raw if isinstance(raw, list) else []):
        try:
            sound[index] = PipelineSettings.model_validate(item)
        except ValidationError:
            continue
    yield from pipeline_findings(sound)


def _in_order(source: Source) -> list[Problem]:
    def order(problem: Problem) -> tuple[int, int, int]:
        name, _, position = problem.location.removeprefix(source.file).partition(":")
        line, _, column = position.partition(":")
        return (0, int(line), int(column)) if not name and column else (1, 0, 0)

    return sorted(dict.fromkeys(source.problems), key=order)


def _note(source: Source, details: ErrorDetails) -> None:
    path = _path_in(source.tree, details)
    field, model = _field(path)
    message, remedy = _explain(details, field, path, model)
    source.problem(path, message, remedy)


def _path_in(tree: Any, details: ErrorDetails) -> SettingPath:
    """Keep of pydantic's location what stands in the tree; the rest are names of its own, such as union members."""
    path: list[str | int] = []
    node = tree
    for part in details["loc"]:
        if _holds(node, part):
            node = node[part]
        elif details["type"] != "missing" or part != details["loc"][-1]:
            continue
        path.append(part)
    return tuple(path)


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(node, list):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, dict) and part in node


def _field(path: SettingPath) -> tuple[FieldInfo | None, type[BaseModel] | None]:
    """Find the field that a path names, or the innermost around it, and the model that holds the last name."""
    model: type[BaseModel] | None = Settings
    field: FieldInfo | None = None
    holder: type[BaseModel] | None = None
    for part in path:
        if isinstance(part, int):
            continue
        holder = model
        if model is None:
            break
        found = _fields(model).get(part)
        if found is None:
            break
        field, model = found, _section_of(found.annotation)
    return field, holder


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_of(inner))), None)


_SIMPLE = {
    "string_type": ("is no text", "Put it in quotes."),
    "bool_type": ("is neither true nor false", "Write true or false."),
    "bool_parsing": ("is neither true nor false", "Write true or false."),
    "int_type": ("is no whole number", "Write a whole number."),
    "int_parsing": ("is no whole number", "Write a whole number."),
    "int_from_float": ("is no whole number", "Write a whole number."),
    "tuple_type": ("is no list", "Write a list, such as [a, b]; in a variable, as JSON."),
    "mapping_type": ("is no section of names and values", "Write 'name: value' lines; in a variable, a JSON object."),
    "dict_type": ("is no section of names and values", "Write 'name: value' lines; in a variable, a JSON object."),
    "model_type": ("is no section of names and values", "Write 'name: value' lines; in a variable, a JSON object."),
    "model_attributes_type": ("is no section of names and values", "Write 'name: value' lines."),
    "string_too_short": ("is empty", "Write a value, or remove the line."),
    "too_short": ("is empty", "Name at least one."),
}


def _explain(
    details: ErrorDetails, field: FieldInfo | None, path: SettingPath, model: type[BaseModel] | None
) -> tuple[str, str]:
    kind, context = details["type"], details.get("ctx", {})
    if kind == REFUSAL:
        return str(context["message"]), str(context["remedy"])
    if kind == "extra_forbidden":
        return "is not known here", _remedy_for_unknown(str(path[-1]), model or Settings)
    if kind == "missing":
        example = f": {field.examples[0]}" if field and field.examples else ""
        return "is missing", f"Add '{path[-1]}{example}'. {_description(field)}".strip()
    if kind in {"literal_error", "enum"}:
        return _explain_choice(details, str(context.get("expected", "")))
    if kind == "value_error" and isinstance(context.get("error"), ConfigError):
        error = context["error"]
        return str(error), error.remedy or _description(field)
    if details["input"] is None and kind in _SIMPLE:
        return "has no value", "Write one, or remove the line."
    message, remedy = _SIMPLE.get(kind, (details["msg"][:1].lower() + details["msg"][1:], ""))
    return message, remedy or _description(field) or "See the configuration reference."


def _explain_choice(details: ErrorDetails, expected: str) -> tuple[str, str]:
    choices = [choice.strip(" '") for part in expected.split(" or ") for choice in part.split(",")]
    value = details["input"]
    near = nearest(str(value), choices)
    remedy = f"Did you mean '{near}'? " if near else ""
    return f"{value!r} is no choice here", f"{remedy}Write one of {', '.join(choices)}."


def _remedy_for_unknown(name: str, model: type[BaseModel]) -> str:
    known = _fields(model)
    if near := nearest(name, known):
        return f"Did you mean '{near}'?"
    for path, section in _sections(Settings, ()):
        if section is not model and name in _fields(section):
            return f"It belongs under '{dotted(path)}'." if path else "It belongs at the top of the file."
    return f"Known here: {', '.join(known)}."


def _sections(model: type[BaseModel], path: SettingPath) -> Iterator[tuple[SettingPath, type[BaseModel]]]:
    yield path, model
    for name, field in _fields(model).items():
        if section := _section_of(field.annotation):
            yield from _sections(section, (*path, name))


def _description(field: FieldInfo | None) -> str:
    return field.description or "" if field else ""
