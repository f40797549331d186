"""The spec and the code cite each other: every clause with MUST is in the code and in a test or vector.

A citation is the word ``spec`` with a colon and clause numbers, in a comment or docstring, or the ``spec`` line of a
vector. Code may cite a whole section such as 3.2; tests and vectors cite the clause itself.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import fastavro.schema
import pytest

from streamcrypt.envelope.codec import SCHEMA, SINGLE_OBJECT_PREFIX
from tests.vectors.second_implementation import SCHEMA as CANONICAL_SCHEMA
from tests.vectors.second_implementation import avro_fingerprint

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs/spec/envelope-v1.md").read_text(encoding="utf-8")
CITATION = re.compile(r"\bspec: *(\d+(?:\.\d+)*(?:, *\d+(?:\.\d+)*)*)")
CLAUSE = re.compile(r"^- \*\*(\d+\.\d+\.\d+)\*\* ((?:.|\n(?!- |\n|#))*)", re.MULTILINE)

CLAUSES = {number: " ".join(text.split()) for number, text in CLAUSE.findall(SPEC)}
MUST = [number for number, text in CLAUSES.items() if re.search(r"\bMUST\b", text)]
HEADINGS = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", SPEC, re.MULTILINE)


def citations(*globs: str) -> dict[str, set[str]]:
    """Clause or section number to the files that cite it."""
    found: dict[str, set[str]] = {}
    for glob in globs:
        for path in ROOT.glob(glob):
            if path == Path(__file__):
                continue
            for group in CITATION.findall(path.read_text(encoding="utf-8")):
                for number in re.split(r", *", group):
                    found.setdefault(number, set()).add(str(path.relative_to(ROOT)))
    return found


IN_CODE = citations("streamcrypt/**/*.py")
IN_TESTS = citations("tests/**/*.py", "tests/vectors/v1/*.txt")


@pytest.mark.parametrize("number", MUST)
def test_every_must_is_cited_by_the_code(number: str) -> None:
    """A rule that no code claims to keep is not kept."""
    section = number.rpartition(".")[0]
    assert IN_CODE.keys() & {number, section}, f"{number}: {CLAUSES[number]}"


@pytest.mark.parametrize("number", MUST)
def test_every_must_is_cited_by_a_test_or_vector(number: str) -> None:
    """A rule that no test proves is a wish."""
    assert number in IN_TESTS, f"{number}: {CLAUSES[number]}"


def test_nothing_cites_a_clause_that_is_not_there() -> None:
    """A citation that leads nowhere is a rule that was renumbered or dropped."""
    known = {*CLAUSES, *HEADINGS}
    dangling = {
        number: files for cited in (IN_CODE, IN_TESTS) for number, files in cited.items() if number not in known
    }
    assert dangling == {}


def test_must_stands_in_numbered_clauses_only() -> None:
    """Prose between the clauses explains; section 1 says what MUST means."""
    prose = CLAUSE.sub("", SPEC.split("## 2. Glossary")[1])
    assert re.findall(r".*\bMUST\b.*", prose) == []


def test_clauses_are_numbered_in_order_below_their_headings() -> None:
    """3.2.1 stands below 3.2, and after it comes 3.2.2."""
    assert len(CLAUSES) == len(CLAUSE.findall(SPEC))
    position = {number: SPEC.index(f"**{number}**") for number in CLAUSES}
    assert sorted(CLAUSES, key=lambda n: [int(part) for part in n.split(".")]) == sorted(
        CLAUSES, key=position.__getitem__
    )
    for number in CLAUSES:
        section, _, last = number.rpartition(".")
        before = section if last == "1" else f"{section}.{int(last) - 1}"
        assert before in HEADINGS or before in CLAUSES
    assert [h for h in HEADINGS if "." not in h] == [str(n) for n in range(1, 14)]


def test_references_within_the_spec_lead_somewhere() -> None:
    """Every clause or section number in parentheses or tables exists."""
    numbers = re.findall(r"(?<![\d.])(\d{1,2}\.\d(?:\.\d+)?)(?![\d.])", SPEC.replace("Avro 1.11", ""))
    assert set(numbers) - {*CLAUSES, *HEADINGS} == set()


def test_the_spec_stays_short_enough_to_be_read() -> None:
    """500 lines are what another implementer reads in one sitting."""
    assert SPEC.count("\n") < 500


def test_the_spec_prints_the_schema_that_the_code_uses() -> None:
    """spec: 3.1.1"""
    (printed,) = re.findall(r"```json\n(.*?)\n *```", SPEC, re.DOTALL)
    assert printed.strip() == CANONICAL_SCHEMA
    assert fastavro.schema.to_parsing_canonical_form(json.loads(json.dumps(SCHEMA))) == CANONICAL_SCHEMA


def test_the_fingerprint_is_that_of_the_schema() -> None:
    """Fastavro and a CRC-64-AVRO of our own agree on it, and the spec prints it. spec: 3.1.1"""
    fingerprint = SINGLE_OBJECT_PREFIX[2:]
    assert avro_fingerprint(CANONICAL_SCHEMA) == fingerprint
    assert bytes.fromhex(fastavro.schema.fingerprint(CANONICAL_SCHEMA, "CRC-64-AVRO")) == fingerprint
    assert fingerprint.hex(" ").upper() in SPEC
