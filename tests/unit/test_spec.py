"""What a pipeline reads and where it writes, as plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.errors import ConfigError
from streamcrypt.sidecar.spec import Mode, OnFailure, PipelineSpec, Start


def _spec(*sources: str, target: str = "{topic}.encrypted", never_read: tuple[str, ...] = ()) -> PipelineSpec:
    return PipelineSpec("p", Mode.ENCRYPT, "g", sources, target, never_read)


def test_a_topic_by_name_is_read_and_no_other():
    spec = _spec("payments", "orders")
    assert spec.reads("payments")
    assert spec.reads("orders")
    assert not spec.reads("payments2")
    assert not spec.reads("payment")


def test_a_regex_means_the_whole_name():
    spec = _spec("^orders\\.[a-z]+")
    assert spec.reads("orders.eu")
    assert not spec.reads("orders.eu2")
    assert not spec.reads("my.orders.eu")
    assert not spec.reads("orders.")


def test_a_dot_in_a_topic_name_is_a_dot():
    """A name is no expression, neither as a source nor as a target."""
    assert not _spec("a.b").reads("axb")
    assert _spec("^.*", target="a.b").reads("axb")
    assert not _spec("^.*", target="a.b").reads("a.b")


def test_a_regex_never_matches_our_own_targets():
    spec = _spec("^.*")
    assert spec.reads("payments")
    assert not spec.reads("payments.encrypted")
    assert not spec.reads("payments.encrypted.encrypted")
    assert _spec("^.*", target="sealed-{topic}").reads("unsealed-x")
    assert not _spec("^.*", target="sealed-{topic}").reads("sealed-x")


@given(
    st.from_regex(r"[a-zA-Z0-9._-]{1,20}", fullmatch=True),
    st.sampled_from(["{topic}.enc", "enc.{topic}", "x.{topic}.y"]),
)
def test_no_target_of_a_regex_is_ever_read_again(topic, target):
    """Whatever the topic's name: no record runs in a circle."""
    spec = _spec("^.*", target=target)
    assert not spec.reads(spec.target_of(topic))


def test_a_regex_never_matches_what_is_excluded():
    spec = _spec("^.*", never_read=("secret\\..*", "dlq"))
    assert not spec.reads("secret.a")
    assert not spec.reads("dlq")
    assert spec.reads("dlq2")


def test_a_regex_never_matches_kafkas_own_topics():
    spec = _spec("^.*")
    assert not spec.reads("__consumer_offsets")
    assert not spec.reads("__transaction_state")
    assert spec.reads("_schemas")


def test_a_topic_by_name_is_read_even_where_a_regex_would_not():
    assert _spec("payments.encrypted", target="{topic}.plain").reads("payments.encrypted")
    assert _spec("a.encrypted", "^.*", target="all.encrypted").reads("a.encrypted")


def test_the_target_may_carry_the_topics_name_and_may_not():
    assert _spec("a").target_of("a") == "a.encrypted"
    assert _spec("a", target="fixed").target_of("a") == "fixed"


@pytest.mark.parametrize("target", ["a", "{topic}"])
def test_a_pipeline_onto_its_own_input_is_refused(target):
    with pytest.raises(ConfigError, match="own input topic 'a'"):
        _spec("a", target=target)


def test_a_pipeline_without_a_source_is_refused():
    with pytest.raises(ConfigError, match="reads no topic"):
        _spec()


def test_the_defaults_lose_nothing():
    """Begin at the start, halt on a record that cannot pass, keep partitions."""
    spec = _spec("a")
    assert (spec.start, spec.on_failure, spec.keep_partition) == (Start.EARLIEST, OnFailure.HALT, True)
