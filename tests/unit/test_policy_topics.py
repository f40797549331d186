"""Claims about which topics a policy lets through: those of the pipeline, and as few others as can be."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcrypt.policies.topics import Topics, patterns_of, topics_between

TOPIC_CHARACTERS = st.characters(codec="ascii", categories=["L", "N"], include_characters="._-")
EXPRESSIONS = [
    r"^tenant-[a-z0-9]+\.(orders|invoices)$",
    r"^.*$",
    r"^pay(ments)?\.v[12]$",
    r"^(?i:eu)\.x{2,3}y*z?$",
    r"^a(?=b)[a-c]+?$",
    r"^(?!secret).+\.log$",
    r"^(?P<name>ab|c)-(?P=name)$",
    r"^(a|b|c)(d|e|f)(g|h|i)(j|k|l)(m|n|o)$",
    r"^(?:one|two|three){1,4}$",
    r"^(?>ab|a)c++$",
    r"^[^a-m]{40}$",
    r"^x\d{50,}$",
]


@pytest.mark.parametrize(
    ("expression", "patterns"),
    [
        (r"^tenant-[a-z0-9]+\.(orders|invoices)$", {"tenant-?*.orders", "tenant-?*.invoices"}),
        (r"^pay(ments)?$", {"pay", "payments"}),
        (r"^(eu|us)\.orders\.v[12]$", {"eu.orders.v1", "eu.orders.v2", "us.orders.v1", "us.orders.v2"}),
        (r"^x{2}y{2,}$", {"xxyy*"}),
        (r"^\d{4}$", {"????"}),
        (r"^.*$", {"*"}),
        (r"^.*\.log$", {"*.log"}),
        (r"^(?i:Eu)-1$", {"??-1"}),
    ],
)
def test_an_expression_becomes_patterns_no_wider_than_needed(expression, patterns):
    """Alternatives are spelled out, a character class is one character, and a star stands only where length is open."""
    assert set(patterns_of(expression)) == patterns


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_topic_that_an_expression_matches_is_let_through(expression):
    """A pattern may be wider than the expression, never narrower."""
    topics = topics_between([expression], "{topic}.sealed")

    @given(st.from_regex(expression, fullmatch=True, alphabet=TOPIC_CHARACTERS))
    def check(topic):
        if re.fullmatch(expression, topic):
            assert topics.holds(f"{topic}.sealed")

    check()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_never_becomes_a_long_list(expression):
    """A managed IAM policy ends at 6,144 characters, so there are at most 32 patterns."""
    assert 1 <= len(patterns_of(expression)) <= 32


def test_a_list_that_would_be_too_long_keeps_what_is_common():
    """Where alternatives multiply, their common beginning, end and length are kept."""
    assert patterns_of(r"^eu-(a|b|c)(d|e|f)(g|h|i)(j|k|l)-log$") == ("eu-????-log",)
    long = "|".join(f"t{'x' * size}" for size in range(1, 40))
    assert patterns_of(rf"^eu-({long})-log$") == ("eu-tx*-log",)


def test_topics_by_name_are_exact_and_logical():
    """A topic written is made by the template, and a mirrored or renamed one counts under its logical name."""
    names = {"eu.payments": "payments", "orders.sealed": "orders"}
    assert topics_between(["eu.payments"], topic_names=names) == Topics(("payments",))
    assert topics_between(["orders", "refunds"], "{topic}.sealed", topic_names=names) == Topics(
        ("orders", "refunds.sealed")
    )
    assert topics_between(["orders", "^t.+$"], "all") == Topics(("all",))


def test_an_expression_also_means_the_logical_names_of_what_it_matches():
    """A topic that an expression matches and that is renamed is bound to its logical name."""
    names = {"eu.payments": "payments", "us.payments": "ledger", "other": "unrelated"}
    topics = topics_between([r"^eu\..+$"], topic_names=names)
    assert topics == Topics(("payments",), ("eu.?*",))
    written = topics_between([r"^t\d$"], "{topic}-{topic}", topic_names={"t1-t1": "one", "t1-t2": "none"})
    assert written == Topics(("one",), ("t?-t?",))


def test_an_excluded_topic_is_locked_out_of_a_pattern():
    """A name in 'exclude' is let through only where something else means it."""
    sources = [r"^tenant-[a-z]+\.orders$", "tenant-x.orders"]
    exclude = ["tenant-demo.orders", "tenant-x.orders", "unrelated", "^tenant-.*test$"]
    topics = topics_between(sources, "{topic}.sealed", exclude=exclude)
    assert topics.never == ("tenant-demo.orders.sealed",)
    assert not topics.holds("tenant-demo.orders.sealed")
    assert topics.holds("tenant-x.orders.sealed")


def test_topics_joined_let_through_what_either_lets_through():
    """What one pipeline excludes and another reads is let through."""
    narrow, wide = Topics(like=("a*",), never=("ab", "ac")), Topics(exact=("ab",))
    assert narrow | wide == Topics(("ab",), ("a*",), ("ac",))
    assert bool(Topics()) is False


@given(
    st.lists(st.from_regex(r"[a-c]{1,2}\*?", fullmatch=True), max_size=3),
    st.lists(st.from_regex(r"[a-c]{1,2}\*?", fullmatch=True), max_size=3),
    st.sets(st.from_regex(r"[a-c]{1,3}", fullmatch=True), max_size=2),
    st.from_regex(r"[a-c]{1,3}", fullmatch=True),
)
def test_joining_never_locks_out(first, second, never, name):
    """A name that one set lets through is let through by the join."""
    left = Topics(like=tuple(first), never=tuple(sorted(never)))
    right = Topics(like=tuple(second))
    assert (left | right).holds(name) >= (left.holds(name) or right.holds(name))
