"""The reference of the commands, docs/cli.md, from the commands themselves: ``python -m streamcrypt.cli.reference``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from streamcrypt.cli.app import app

__all__ = ["commands", "page"]

_HEAD = """\
# Command line

<!-- Generated: python -m streamcrypt.cli.reference > docs/cli.md. Change the commands, not this page. -->

| exit code | means |
|---|---|
| 0 | done |
| 1 | the work or the world failed: network, key service, `on_failure: halt` |
| 2 | wrong arguments or configuration |
| 130 | ended by a signal before it was done |

`audit --safe-to-disable` and `policy` have a 3 as well: "undetermined", and "printed, but a value is not known".
Results go to standard output, everything else to standard error. `CONFIG` is the [configuration](configuration.md).

| command | does |
|---|---|
"""

# Where more than the arguments is said.
_PAGES = {
    "run": "operations.md#pipelines",
    "ctl": "operations.md#steering-while-it-runs",
    "doctor": "doctor.md",
    "keys list": "doctor.md#rotating-key-material",
    "keys rotate": "doctor.md#rotating-key-material",
    "cat": "cat.md",
    "cutover": "migration.md",
    "replay": "operations.md#dead-letters",
    "audit": "audit.md",
    "policy": "policies.md",
    "cost": "cost.md",
    "reencrypt": "reencryption.md",
    "demo": "quick-start.md",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Give each command by its name, ``keys list`` for one of a group, in the order of ``--help``."""
    yield from _commands(get_command(app), "")


def page() -> str:
    """Give the whole page as Markdown."""
    found = list(commands())
    rows = [f"| [`{name}`](#{_anchor(name)}) | {_text(command.help)} |" for name, command in found]
    return _HEAD + "\n".join(rows) + "\n\n" + "\n".join(_section(name, command) for name, command in found)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _anchor(name: str) -> str:
    return f"streamcrypt-{name.replace(' ', '-')}"


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["streamcrypt", name, *(_argument(p) for p in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"## streamcrypt {name}", "", "```text", usage, "```", "", _text(command.help)]
    if name in _PAGES:
        file = _PAGES[name].partition("#")[0]
        lines[-1] += f" See [{file}]({_PAGES[name]})."
    lines += ["", "| argument | meaning |", "|---|---|"]
    lines += [f"| `{_escaped(_argument(p))}` | {_text(p.help)} |" for p in arguments]
    lines += [f"| {_option(p)} | {_text(p.help)}{_default(p)} |" for p in options]
    return "\n".join(lines) + "\n"


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper()).removesuffix("…")
    name += "…" if parameter.nargs == -1 else ""
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    value = "" if parameter.is_flag or parameter.count else f" {parameter.metavar or 'N'}"
    # Options without a name for their value take a whole number.
    return _escaped(", ".join(f"`{name}{value}`" for name in parameter.opts))


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.is_flag or value in (None, "", ()) or callable(value):
        return ""
    return f" Default: `{value:g}`." if isinstance(value, float) else f" Default: `{value}`."


def _text(text: str | None) -> str:
    # Line breaks are those of the source.
    return _escaped(re.sub(r"\s+", " ", text or "").strip())


def _escaped(cell: str) -> str:
    # A pipe would end the cell of the table.
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
