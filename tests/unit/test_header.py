"""The header's rules, as a writer meets them. The vectors have each as a reader meets it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.envelope.header import (
    Content,
    EncryptedDataKey,
    EnvelopeHeader,
    build_bound,
    build_context,
)
from streamcrypt.errors import ConfigError, MalformedEnvelope, UnsupportedVersion

GOOD = EnvelopeHeader(
    Suite.AES_256_GCM,
    bytes(32),
    (("app", "billing"), ("streamcrypt:topic", "payments")),
    ("header:type", "key"),
    Content.PAYLOAD,
    (EncryptedDataKey("local", "kek", b"blob"),),
)
SURROGATE = "\ud800"


def test_a_header_that_keeps_the_rules_passes() -> None:
    """And knows its topic."""
    GOOD.check()
    assert GOOD.topic == "payments"


@pytest.mark.parametrize(
    "change",
    [
        {"commitment": bytes(31)},
        {"context": (("app", SURROGATE), ("streamcrypt:topic", "payments"))},
        {"context": (("streamcrypt:topic", "payments"), (f"x{SURROGATE}", ""))},
        {"bound": (f"header:{SURROGATE}",)},
        {"keys": (EncryptedDataKey(SURROGATE, "kek", b"blob"),)},
        {"keys": (EncryptedDataKey("local", SURROGATE, b"blob"),)},
        {"keys": (EncryptedDataKey("local", "two words", b"blob"),)},
        {"keys": (EncryptedDataKey("-local", "kek", b"blob"),)},
    ],
)
def test_a_header_that_breaks_a_rule_is_malformed(change: dict[str, object]) -> None:
    """Lone surrogates included: Python's text may hold them, UTF-8 may not. spec: 3.4.3, 3.4.4, 3.5.2"""
    with pytest.raises(MalformedEnvelope):
        replace(GOOD, **change).check()


@pytest.mark.parametrize("content", [Content.AVRO_FIELDS, Content.JSON_FIELDS])
def test_reserved_content_is_of_a_later_version(content: Content) -> None:
    """spec: 3.1.6"""
    with pytest.raises(UnsupportedVersion):
        replace(GOOD, content=content).check()


def test_a_context_is_put_in_order_with_the_topic() -> None:
    """By UTF-8 bytes: U+FF5A comes before U+1D11E. spec: 3.2.2, 3.2.4"""
    context = build_context({"\U0001d11e": "1", "\uff5a": "2", "app": ""}, "payments")
    assert [name for name, _ in context] == ["app", "streamcrypt:topic", "\uff5a", "\U0001d11e"]
    assert dict(context)["streamcrypt:topic"] == "payments"


@pytest.mark.parametrize(
    "name",
    [
        "streamcrypt:topic",
        "streamcrypt:",
        "streamcrypt:tenant",
        "Streamcrypt:Topic",
        "STREAMCRYPT:x",
        "\u017ftreamcrypt:topic",  # long s, which folds to s
        "\ufb06reamcrypt:topic",  # the ligature st, which full folding takes apart
    ],
)
def test_a_user_gives_no_name_of_ours(name: str) -> None:
    """Nor one that only looks different. spec: 3.2.5"""
    with pytest.raises(ConfigError):
        build_context({name: "x"}, "payments")


@pytest.mark.parametrize(
    "user",
    [
        {"": "x"},
        {"app": "a", "APP": "b"},
        {"strasse": "a", "stra\u00dfe": "b"},
        {f"n{i}": "" for i in range(16)},
        {"app": 1},
        {1: "app"},
        {SURROGATE: "x"},
        {"app": SURROGATE},
    ],
)
def test_a_context_that_no_header_may_hold_is_a_config_error(user: dict[str, str]) -> None:
    """Found at start, not when the first record is sealed. spec: 3.2.1, 3.2.3"""
    with pytest.raises(ConfigError):
        build_context(user, "payments")


@pytest.mark.parametrize("topic", ["", SURROGATE])
def test_a_topic_that_no_header_may_hold_is_a_config_error(topic: str) -> None:
    """spec: 3.2.4"""
    with pytest.raises(ConfigError):
        build_context({}, topic)


def test_bound_fields_are_put_in_order_once_each() -> None:
    """spec: 3.3.2"""
    assert build_bound(["key", "header:b", "header:B", "key"]) == ("header:B", "header:b", "key")
    assert build_bound(()) == ()


@pytest.mark.parametrize(
    "items",
    [
        "key",
        ["Key"],
        ["header:"],
        ["value"],
        ["header:streamcrypt"],
        ["header:streamcrypt-tombstone"],
        [f"header:{i}" for i in range(17)],
        [f"header:{SURROGATE}"],
        [1],
        [None, "key"],
    ],
)
def test_bound_fields_that_no_header_may_hold_are_a_config_error(items: list[str]) -> None:
    """spec: 3.3.1, 3.3.3"""
    with pytest.raises(ConfigError):
        build_bound(items)
