"""Whatever bytes stand in the header: a header that is written in one way only, or an error of ours."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamcrypt.envelope.codec import SINGLE_OBJECT_PREFIX, decode_header, derivation_info, encode_header
from streamcrypt.envelope.header import EnvelopeHeader
from streamcrypt.errors import EnvelopeError
from tests.properties import strategies
from tests.vectors.second_implementation import Envelope
from tests.vectors.test_vectors import VECTORS, _bytes

SEEDS = sorted(
    {
        data
        for vector in VECTORS.values()
        for name, data in [*vector["header"], ("streamcrypt", _bytes(vector["value"]))]
        if name == "streamcrypt" and data
    }
)


def decodes_to_one_header_or_an_envelope_error(data: bytes) -> None:
    """The one property of everything in this file."""
    try:
        header = decode_header(data)
    except EnvelopeError:
        return
    assert encode_header(header) == data


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Without a grain of structure. spec: 3.1.3"""
    decodes_to_one_header_or_an_envelope_error(data)


@given(st.binary(max_size=300))
@settings(max_examples=500)
@example(b"\x00" + bytes(32) + b"\x7f" * 200)
def test_any_body_behind_our_fingerprint(body: bytes) -> None:
    """The parser sees it. spec: 3.5.1, 3.5.3"""
    decodes_to_one_header_or_an_envelope_error(SINGLE_OBJECT_PREFIX + body)


@given(st.binary(max_size=80))
@settings(max_examples=500)
def test_any_lists_behind_a_commitment(body: bytes) -> None:
    """Blocks, counts, lengths and enums. spec: 3.5.1, 3.5.3"""
    decodes_to_one_header_or_an_envelope_error(SINGLE_OBJECT_PREFIX + b"\x00" + bytes(32) + body)


@given(st.sampled_from(SEEDS), st.data())
@settings(max_examples=2000)
def test_any_change_of_a_vector(seed: bytes, data: st.DataObject) -> None:
    """A slice of any header replaced by a few other bytes. spec: 3.5.1"""
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, min(len(seed), start + 4)))
    decodes_to_one_header_or_an_envelope_error(seed[:start] + data.draw(st.binary(max_size=4)) + seed[end:])


@given(strategies.headers())
@settings(max_examples=300)
def test_any_valid_header_round_trips(header: EnvelopeHeader) -> None:
    """And the second implementation writes the same bytes. spec: 3.5.1, 4.1.1"""
    data = encode_header(header)
    assert decode_header(data) == header
    other = Envelope(
        suite=header.suite.value,
        context=header.context,
        bound=header.bound,
        keys=tuple((key.provider, key.key_id, key.ciphertext) for key in header.keys),
        claimed=header.commitment,
    )
    assert other.header() == data
    assert other.info() == b"streamcrypt/1\x00" + derivation_info(header.suite, header.context, header.bound)


@given(strategies.headers(), strategies.headers())
def test_different_bindings_have_different_info(one: EnvelopeHeader, other: EnvelopeHeader) -> None:
    """So no data key serves two contexts, suites or bound lists. spec: 4.1.1"""
    fields = [(h.suite, h.context, h.bound) for h in (one, other)]
    infos = [derivation_info(*given) for given in fields]
    assert (infos[0] == infos[1]) == (fields[0] == fields[1])


def test_the_seeds_are_there() -> None:
    """An empty list of seeds would prove nothing."""
    assert len(SEEDS) > 80
