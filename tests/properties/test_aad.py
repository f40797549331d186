"""No two records share an AAD unless all their bound fields are equal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from streamcrypt.envelope.binding import KIND_TOMBSTONE, KIND_VALUE, Headers, aad_builder, block_aad_builder
from streamcrypt.envelope.header import BOUND_HEADER_PREFIX
from tests.properties import strategies
from tests.vectors.second_implementation import build_aad

# Few names and short values, so that records often differ in little.
NAMES = ["a", "b", "key"]
records = st.tuples(
    st.none() | st.binary(max_size=3),
    st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.binary(max_size=3)), max_size=4),
)
bound_lists = st.lists(st.sampled_from(["key", "header:a", "header:b", "header:key"]), max_size=4, unique=True).map(
    lambda items: tuple(sorted(items))
)
Record = tuple[bytes | None, Headers]


def bound_fields(bound: tuple[str, ...], record: Record) -> list[object]:
    """What the AAD stands for."""
    key, headers = record
    return [
        key if item == "key" else [v for n, v in headers if n == item.removeprefix(BOUND_HEADER_PREFIX)]
        for item in bound
    ]


@given(bound_lists, records, records)
@settings(max_examples=3000)
def test_the_aad_is_injective(bound: tuple[str, ...], one: Record, other: Record) -> None:
    """Equal AAD if and only if equal bound fields. spec: 5.2.1, 5.2.2, 5.2.3"""
    build = aad_builder(bound)
    assert (build(*one) == build(*other)) == (bound_fields(bound, one) == bound_fields(bound, other))


@given(bound_lists, st.lists(records, max_size=4))
def test_a_block_has_the_aads_of_its_records(bound: tuple[str, ...], block: list[Record]) -> None:
    """The fast way for many gives what one by one gives. spec: 5.2.1, 5.2.2, 5.2.3"""
    keys, headers = [key for key, _ in block], [pairs for _, pairs in block]
    assert block_aad_builder(bound)(keys, headers) == list(map(aad_builder(bound), keys, headers))


@given(bound_lists, records, records)
def test_a_value_and_a_tombstone_never_share_one(bound: tuple[str, ...], one: Record, other: Record) -> None:
    """spec: 5.2.1"""
    assert aad_builder(bound, KIND_VALUE)(*one) != aad_builder(bound, KIND_TOMBSTONE)(*other)


@given(strategies.bound_lists, strategies.record_keys, strategies.record_headers)
def test_the_aad_is_that_of_the_second_implementation(
    bound: tuple[str, ...], key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    """spec: 5.2.1, 5.2.2, 5.2.3"""
    named = [*headers, *((item.removeprefix(BOUND_HEADER_PREFIX), b"bound") for item in bound if item != "key")]
    for record in (headers, named):
        assert aad_builder(bound)(key, record) == build_aad(bound, key, record)
