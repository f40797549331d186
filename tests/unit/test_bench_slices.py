"""A long benchmark goes on where it stopped."""

from __future__ import annotations

import pytest

from bench.full import COMPRESSIONS, DELIVERIES, PARTITIONS, SIZES
from bench.machine import code_fingerprint
from bench.slices import Shelf, Slice, matrix

_PIECES = list(matrix((100, 1024), (1, 4), ("at_least_once",), ("lz4",)))
_CODE = {"streamcrypt code": "abc", "rounds": 3}


def test_the_wide_matrix_has_every_combination_once():
    pieces = list(matrix(SIZES, PARTITIONS, DELIVERIES, COMPRESSIONS))
    assert len(pieces) == len(set(pieces)) == 4 * 3 * 2 * 3


def test_a_slice_has_a_name_of_its_own():
    pieces = list(matrix(SIZES, PARTITIONS, DELIVERIES, COMPRESSIONS))
    assert len({piece.name for piece in pieces}) == len(pieces)


def test_what_was_measured_is_not_measured_again(tmp_path):
    Shelf(tmp_path, _CODE).put(_PIECES[0], {"copy": [1.0]})
    again = Shelf(tmp_path, _CODE)
    assert again.missing(_PIECES) == _PIECES[1:]
    assert again.get(_PIECES[0]) == {"copy": [1.0]}


@pytest.mark.parametrize("other", [{"streamcrypt code": "def", "rounds": 3}, {"streamcrypt code": "abc", "rounds": 5}])
def test_slices_of_other_code_or_other_rounds_are_measured_again(tmp_path, other):
    Shelf(tmp_path, _CODE).put(_PIECES[0], {"copy": [1.0]})
    assert Shelf(tmp_path, other).missing(_PIECES) == _PIECES


def test_a_file_that_was_cut_short_counts_as_not_measured(tmp_path):
    shelf = Shelf(tmp_path, _CODE)
    shelf.put(_PIECES[0], {"copy": [1.0]})
    path = tmp_path / f"{_PIECES[0].name}.json"
    path.write_text(path.read_text()[:20])
    assert shelf.get(_PIECES[0]) is None


def test_a_slice_says_what_it_is():
    assert Slice(1024, 4, "exactly_once", "lz4").name == "1024B-4p-exactly_once-lz4"


def test_the_code_fingerprint_changes_with_content_and_name_of_a_source_only(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    first = code_fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("not a source")
    assert code_fingerprint(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    assert code_fingerprint(tmp_path) != first
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert code_fingerprint(tmp_path) != first
