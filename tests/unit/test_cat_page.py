"""docs/cat.md names every option, its commands are taken, and its examples are what is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from streamcrypt.cli.app import app
from streamcrypt.cli.cat_output import Printer
from streamcrypt.cli.cat_records import Kind, RecordReader
from streamcrypt.cli.cat_request import CatRequest, Format
from streamcrypt.cli.dry_run_looking import Foreseen, Outcome, Rehearsed
from streamcrypt.cli.dry_run_table import as_tree
from tests.unit.test_cat import of_vector
from tests.vectors.test_vectors import VECTORS, reader_of

PAGE = (Path(__file__).parents[2] / "docs" / "cat.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ streamcrypt (.+)$", PAGE, re.MULTILINE)
GROUP = typer.main.get_command(app)


def command_of(name: str) -> click.Command:
    """A command of the command line."""
    assert isinstance(GROUP, click.Group) or hasattr(GROUP, "commands")
    return GROUP.commands[name]  # type: ignore[union-attr]


@pytest.mark.parametrize("option", sorted(o for p in command_of("cat").params for o in p.opts if o.startswith("--")))
def test_every_option_of_cat_stands_on_the_page(option):
    """In its synopsis or in its text."""
    assert option in PAGE


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_is_taken(line):
    """Its options exist, and go together."""
    name, *arguments = shlex.split(line)
    with command_of(name).make_context(name, arguments) as context:
        given = dict(context.params)
    if name == "cat":
        given.pop("config")
        CatRequest.read(given.pop("topic"), terminal=False, **given)


@pytest.mark.parametrize(("form", "language"), [("text", "text"), ("json", "json")])
def test_the_examples_are_what_is_printed(form, language):
    """Of a vector of the specification."""
    (example,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    vector = VECTORS["valid_lane_partition"]
    with reader_of(vector) as decryptor:
        record = RecordReader(decryptor).read(of_vector(vector))
    request = CatRequest.read("payments", terminal=True, form=form, envelope=True)
    assert Printer(request, terminal=True).render(record)[0].decode() == example


@pytest.mark.parametrize("word", sorted({*Kind, *Format, *Outcome}))
def test_every_kind_format_and_outcome_is_explained(word):
    """So that nobody has to guess."""
    assert f"`{word}`" in PAGE


def test_every_name_of_a_dry_run_in_json_is_on_the_page():
    """Of a pipeline's trouble and of its records."""
    (pipeline,) = as_tree([Rehearsed("p", "encrypt", [Foreseen("t", 0, 1, Outcome.ARRIVE)])])["pipelines"]
    assert [name for name in (*pipeline["records"][0], "problem") if f"`{name}`" not in PAGE] == []
