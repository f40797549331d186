"""AAD: which fields of a record are bound, and that no two records share one."""

from __future__ import annotations

import pytest

from streamcrypt.envelope.binding import KIND_TOMBSTONE, aad_builder


def test_nothing_bound_is_the_kind_alone() -> None:
    """spec: 5.2.1"""
    assert aad_builder(())(b"key", [("a", b"b")]) == b"\x01"
    assert aad_builder((), KIND_TOMBSTONE)(None, None) == b"\x02"


@pytest.mark.parametrize("bound", [("key",), ("header:x", "key")])
def test_a_null_key_is_not_an_empty_key(bound: tuple[str, ...]) -> None:
    """spec: 5.2.2"""
    build = aad_builder(bound)
    assert build(None, None).endswith(b"\x00")
    assert build(b"", None).endswith(b"\x01\x00\x00\x00\x00")
    assert build(b"ab", None).endswith(b"\x01\x00\x00\x00\x02ab")


def test_the_short_way_for_the_key_gives_what_the_general_way_gives() -> None:
    """Two code paths, one format. spec: 5.2.2"""
    for kind in (b"\x01", b"\x02"):
        for key in (None, b"", b"k", b"k" * 70_000):
            general = aad_builder(("header:x", "key"), kind)(key, None)
            assert aad_builder(("key",), kind)(key, None) == kind + general[5:]


def test_headers_are_bound_with_count_order_and_null() -> None:
    """spec: 5.2.3"""
    build = aad_builder(("header:x",))
    assert build(None, None) == build(None, []) == build(None, [("y", b"1")]) == b"\x01" + bytes(4)
    assert build(None, [("x", None)]) == b"\x01\x00\x00\x00\x01\x00"
    assert build(None, [("x", b"")]) == b"\x01\x00\x00\x00\x01\x01\x00\x00\x00\x00"
    pairs = [("x", b"a"), ("y", b"-"), ("x", b"b")]
    assert build(None, pairs) == b"\x01\x00\x00\x00\x02\x01\x00\x00\x00\x01a\x01\x00\x00\x00\x01b"
    assert build(None, pairs) != build(None, pairs[::-1])


def test_header_names_are_compared_exactly() -> None:
    """Kafka keeps case, and a prefix is another name. spec: 5.2.3"""
    build = aad_builder(("header:type",))
    assert build(None, [("Type", b"a"), ("type2", b"b"), ("typ", b"c")]) == build(None, None)


def test_a_header_that_is_named_key_is_not_the_key() -> None:
    """spec: 3.3.3, 5.2.3"""
    assert aad_builder(("header:key",))(b"k", [("key", b"h")]) == b"\x01\x00\x00\x00\x01\x01\x00\x00\x00\x01h"
