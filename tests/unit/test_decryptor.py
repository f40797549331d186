"""What opening a record means: every refusal by its own type, and no more calls than needed."""

from __future__ import annotations

import base64
import copy
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.codec import decode_header, encode_header
from streamcrypt.envelope.framing import MAGIC, frame_prefix
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    ContextMismatch,
    KeyRefused,
    KeyUnavailable,
    MalformedEnvelope,
    MangledEnvelope,
    PlaintextRejected,
    StreamcryptError,
    UnsupportedVersion,
    UntrustedKey,
)
from streamcrypt.events import DataKeyOpened, DataKeyRefused
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.provider import GeneratedDataKey
from streamcrypt.testing import CollectingObserver
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider

KEYRING = LocalKeyProvider({"a": os.urandom(32), "b": os.urandom(32)}, "a")
PLAIN = b"an unmistakable plaintext"

Headers = list[tuple[str, bytes | None]]


def seal(value: bytes = PLAIN, **options: object) -> tuple[bytes, Headers]:
    """One record of the topic t with the key k."""
    with Encryptor(KEYRING, **options) as writer:
        return writer.encrypt("t", value, b"k")


def reader(**options: object) -> tuple[Decryptor, ScriptedKeyProvider]:
    """A decryptor and its key service."""
    keys = ScriptedKeyProvider(KEYRING)
    return Decryptor(keys, **options), keys


def ours(header: bytes | None) -> Headers:
    """The headers of a record without others."""
    return [("streamcrypt", header)]


VALUE, HEADERS = seal()
HEADER = HEADERS[0][1]
OTHER_VALUE, OTHER_HEADERS = seal()
PARSED = decode_header(HEADER)
FRAMED, _ = seal(framing="self_contained")


def rewritten(**changes: object) -> Headers:
    """The header with some fields changed, still canonical."""
    return ours(encode_header(replace(PARSED, **changes)))


REFUSALS: dict[str, tuple[type[StreamcryptError], bytes | None, bytes | None, Headers]] = {
    "no header": (PlaintextRejected, VALUE, b"k", []),
    "plaintext": (PlaintextRejected, PLAIN, b"k", [("a", b"1")]),
    "empty value": (PlaintextRejected, b"", b"k", []),
    "another name": (PlaintextRejected, VALUE, b"k", [("Streamcrypt", HEADER)]),
    "tombstone header alone": (PlaintextRejected, VALUE, b"k", [("streamcrypt-tombstone", b"x")]),
    "self-contained, not configured": (PlaintextRejected, FRAMED, b"k", []),
    "null header": (MalformedEnvelope, VALUE, b"k", ours(None)),
    "two headers": (MalformedEnvelope, VALUE, b"k", HEADERS * 2),
    "two headers, one null": (MalformedEnvelope, VALUE, b"k", [*HEADERS, ("streamcrypt", None)]),
    "empty header": (MalformedEnvelope, VALUE, b"k", ours(b"")),
    "junk header": (MalformedEnvelope, VALUE, b"k", ours(b"junk")),
    "cut header": (MalformedEnvelope, VALUE, b"k", ours(HEADER[:-1])),
    "long header": (MalformedEnvelope, VALUE, b"k", ours(HEADER + b"\x00")),
    "huge header": (MalformedEnvelope, VALUE, b"k", ours(HEADER[:10] + bytes(9000))),
    "null value with header": (MalformedEnvelope, None, b"k", HEADERS),
    "null value with null header": (MalformedEnvelope, None, b"k", ours(None)),
    "null value with tombstone header": (MalformedEnvelope, None, b"k", [("streamcrypt-tombstone", b"x")]),
    "base64 header": (MangledEnvelope, VALUE, b"k", ours(base64.b64encode(HEADER))),
    "quoted base64 header": (MangledEnvelope, VALUE, b"k", ours(b'"' + base64.b64encode(HEADER) + b'"')),
    "base64 header, by two mirrors": (MangledEnvelope, VALUE, b"k", ours(base64.b64encode(base64.b64encode(HEADER)))),
    "another fingerprint": (UnsupportedVersion, VALUE, b"k", ours(HEADER[:2] + bytes(8) + HEADER[10:])),
    "foreign key": (UntrustedKey, VALUE, b"k", rewritten(keys=(EncryptedDataKey("local", "x", b"y"),))),
    "foreign provider": (UntrustedKey, VALUE, b"k", rewritten(keys=(EncryptedDataKey("aws-kms", "a", b"y"),))),
    "another topic": (ContextMismatch, VALUE, b"k", rewritten(context=(("streamcrypt:topic", "u"),))),
    "nothing bound": (ContextMismatch, VALUE, b"k", rewritten(bound=())),
    "moved to another key": (AuthenticationFailed, VALUE, b"K", HEADERS),
    "moved to no key": (AuthenticationFailed, VALUE, None, HEADERS),
    "moved to an empty key": (AuthenticationFailed, VALUE, b"", HEADERS),
    "header of another record": (AuthenticationFailed, VALUE, b"k", OTHER_HEADERS),
    "value of another record": (AuthenticationFailed, OTHER_VALUE, b"k", HEADERS),
    "another context": (AuthenticationFailed, VALUE, b"k", rewritten(context=(("a", "1"), *PARSED.context))),
    "more bound": (AuthenticationFailed, VALUE, b"k", rewritten(bound=("header:x", "key"))),
    "another suite": (AuthenticationFailed, VALUE, b"k", rewritten(suite=Suite.AES_256_GCM_SIV)),
    "another commitment": (AuthenticationFailed, VALUE, b"k", rewritten(commitment=bytes(32))),
    "another trusted key": (AuthenticationFailed, VALUE, b"k", rewritten(keys=(replace(PARSED.keys[0], key_id="b"),))),
}
"""What is wrong: the error, value, key and headers."""


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_has_its_own_type(name: str) -> None:
    """Exactly that type, with nothing of the record in its text, and the record next to it opens. spec: 8.2.6"""
    error, value, key, headers = REFUSALS[name]
    seen = CollectingObserver()
    opener, _ = reader(observer=seen)
    for _ in range(2):
        with pytest.raises(error) as caught:
            opener.decrypt("t", value, key, headers)
        assert type(caught.value) is error
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        assert PLAIN.decode() not in repr(caught.value)
        assert opener.decrypt("t", VALUE, b"k", HEADERS) == (PLAIN, [])
    refused = seen.of(DataKeyRefused)
    assert all(event.record_fault and event.error == error.__name__ for event in refused)


@pytest.mark.parametrize("name", [n for n, r in REFUSALS.items() if r[0] is not AuthenticationFailed])
def test_what_policy_or_format_refuse_costs_no_call(name: str) -> None:
    """Nor does it cost one the second time. spec: 8.2.1, 9.2.1"""
    error, value, key, headers = REFUSALS[name]
    opener, keys = reader()
    for _ in range(2):
        with pytest.raises(error):
            opener.decrypt("t", value, key, headers)
    assert keys.calls == []


@pytest.mark.parametrize("known", [True, False])
def test_any_flipped_bit_is_refused(known: bool) -> None:
    """In the nonce, the ciphertext, the tag, whether the data key is known or not. spec: 8.2.6"""
    opener, _ = reader()
    if known:
        opener.decrypt("t", VALUE, b"k", HEADERS)
    for position in range(len(VALUE) * 8):
        flipped = bytearray(VALUE)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(AuthenticationFailed):
            opener.decrypt("t", bytes(flipped), b"k", HEADERS)


def test_any_flipped_bit_of_the_header_is_refused() -> None:
    """By one type or another, and it never opens."""
    opener, _ = reader()
    for position in range(len(HEADER) * 8):
        flipped = bytearray(HEADER)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(StreamcryptError):
            opener.decrypt("t", VALUE, b"k", ours(bytes(flipped)))


def test_a_flipped_bit_outside_the_derivation_opens_only_with_a_known_data_key() -> None:
    """``keys`` is not authenticated: for a known data key it does not matter, for the policy it does. spec: 4.1.1"""
    junk = rewritten(keys=(replace(PARSED.keys[0], ciphertext=b"junk"),))
    opener, keys = reader()
    with pytest.raises(AuthenticationFailed):
        opener.decrypt("t", VALUE, b"k", junk)
    opener, keys = reader()
    opener.decrypt("t", VALUE, b"k", HEADERS)
    assert opener.decrypt("t", VALUE, b"k", junk) == (PLAIN, [])
    assert keys.count(DECRYPT) == 1


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("size", range(30))
def test_no_value_is_too_short_to_be_refused(suite: Suite, size: int) -> None:
    """By type, whatever the cipher says. spec: 6.1.2"""
    value, headers = seal(b"", suite=suite)
    opener, _ = reader()
    cut = (value + b"xx")[:size]
    if size == 28:
        assert opener.decrypt("t", cut, b"k", headers) == (b"", [])
        return
    with pytest.raises(AuthenticationFailed):
        opener.decrypt("t", cut, b"k", headers)


def test_a_record_moved_to_another_topic_is_refused() -> None:
    """Unless both are the same logical topic. spec: 8.2.3, 9.1.2"""
    opener, keys = reader()
    with pytest.raises(ContextMismatch) as caught:
        opener.decrypt("u", VALUE, b"k", HEADERS)
    assert "topic_names" in caught.value.remedy
    assert keys.calls == []
    opener, _ = reader(topic_names={"eu.t": "t"})
    assert opener.decrypt("eu.t", VALUE, b"k", HEADERS) == (PLAIN, [])
    assert opener.decrypt("t", VALUE, b"k", HEADERS) == (PLAIN, [])


def test_the_required_context_is_a_subset() -> None:
    """Every pair that is required must be there; more do not matter. spec: 8.2.3"""
    value, headers = seal(context={"app": "billing", "env": "prod"})
    for required, opens in (
        ({}, True),
        ({"app": "billing"}, True),
        ({"app": "billing", "env": "prod"}, True),
        ({"app": "Billing"}, False),
        ({"App": "billing"}, False),
        ({"app": "billing", "more": ""}, False),
    ):
        opener, keys = reader(require_context=required)
        if opens:
            assert opener.decrypt("t", value, b"k", headers) == (PLAIN, [])
            continue
        with pytest.raises(ContextMismatch):
            opener.decrypt("t", value, b"k", headers)
        assert keys.calls == []


@pytest.mark.parametrize(
    ("bound", "required", "opens"),
    [
        (("key",), ("key",), True),
        (("key", "header:a"), ("key",), True),
        ((), ("key",), False),
        ((), (), True),
        (("key",), ("key", "header:a"), False),
        (("header:a",), ("key",), False),
    ],
)
def test_the_required_fields_must_be_bound(bound: tuple[str, ...], required: tuple[str, ...], opens: bool) -> None:
    """By default the key. spec: 8.2.3"""
    value, headers = seal(bound=bound)
    opener, keys = reader(require_bound=required)
    if opens:
        assert opener.decrypt("t", value, b"k", headers) == (PLAIN, [])
        return
    with pytest.raises(ContextMismatch):
        opener.decrypt("t", value, b"k", headers)
    assert keys.calls == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("a", b"1")],
        [("a", b"1"), ("a", None), ("A", b"3")],
        [("a", None), ("a", b"1"), ("A", b"3")],
        [("a", b"1"), ("a", None), ("a", b"3")],
        [("a", b"1"), ("a", b""), ("A", b"3")],
    ],
)
def test_bound_headers_may_not_change_and_others_may(headers: Headers) -> None:
    """Their values, their number, their order among themselves. spec: 5.2.3"""
    with Encryptor(KEYRING, bound=("key", "header:a")) as writer:
        mine = [("a", b"1"), ("a", None), ("A", b"3")]
        value, sent = writer.encrypt("t", PLAIN, b"k", mine)
    opener, _ = reader()
    if [pair for pair in headers if pair[0] == "a"] == mine[:2]:
        assert opener.decrypt("t", value, b"k", headers + sent[-1:]) == (PLAIN, headers)
    else:
        with pytest.raises(AuthenticationFailed):
            opener.decrypt("t", value, b"k", headers + sent[-1:])
    assert opener.decrypt("t", value, b"k", [("z", b"new"), *sent])[0] == PLAIN


def test_our_header_may_stand_anywhere_and_the_others_come_back_in_order() -> None:
    """As lists, dicts or text. spec: 8.2.5"""
    opener, _ = reader()
    for headers in (
        [("a", b"1"), *HEADERS, ("b", None)],
        [*HEADERS, ("a", b"1"), ("b", None)],
        {"a": "1", "streamcrypt": HEADER, "b": None},
        [("a", "1"), ("streamcrypt-tombstone", b"x"), ("b", None), *HEADERS],
    ):
        assert opener.decrypt("t", VALUE, b"k", headers) == (PLAIN, [("a", b"1"), ("b", None)])


@pytest.mark.parametrize("text", ["x" * 7000, "\x00" * 3000, "\U000e0001" * 1500, "'" * 3000])
def test_no_error_says_more_than_helps_of_what_a_record_claims(text: str) -> None:
    """A log line holds some 200 characters of it, escaped, whatever was written there."""
    opener, _ = reader()
    seen = CollectingObserver()
    opener._observer = seen
    with pytest.raises(ContextMismatch) as caught:
        opener.decrypt("t", VALUE, b"k", rewritten(context=(("streamcrypt:topic", text),)))
    assert len(str(caught.value)) < 280
    assert str(caught.value).isprintable()
    keys = tuple(EncryptedDataKey("local", f"{n}" + "k" * 1900, b"x") for n in range(4))
    with pytest.raises(UntrustedKey) as refused:
        opener.decrypt("t", VALUE, b"k", rewritten(keys=keys))
    assert len(str(refused.value)) < 280
    assert all(len(event.detail) < 280 for event in seen.of(DataKeyRefused))
    # A header that differs in its keys alone, known to be a data key at hand, names the KEK that opened that.
    opener.decrypt("t", VALUE, b"k", HEADERS)
    more = (EncryptedDataKey("local", "!" * 2000, b"x"), *PARSED.keys)
    assert opener.decrypt("t", VALUE, b"k", rewritten(keys=more))[0] == PLAIN
    assert {event.key_id for event in seen.of(DataKeyOpened)} == {"a"}


def test_a_tombstone_comes_back_as_it_is() -> None:
    """Without a call. spec: 6.4.1"""
    opener, keys = reader()
    assert opener.decrypt("t", None, b"k", {"a": "1"}) == (None, [("a", b"1")])
    assert opener.decrypt("t", None) == (None, [])
    assert keys.calls == []


# --- Framing


def test_either_framing_opens_where_self_contained_is_configured() -> None:
    """One at a time. spec: 6.3.2"""
    opener, _ = reader(framing="self_contained")
    assert opener.decrypt("t", FRAMED, b"k", [("a", b"1")]) == (PLAIN, [("a", b"1")])
    assert opener.decrypt("t", VALUE, b"k", HEADERS) == (PLAIN, [])


@pytest.mark.parametrize("header", [HEADER, b"junk", b"", None])
def test_both_framings_at_once_are_malformed(header: bytes | None) -> None:
    """Whatever stands in the Kafka header. spec: 6.3.3"""
    opener, keys = reader(framing="self_contained")
    with pytest.raises(MalformedEnvelope):
        opener.decrypt("t", FRAMED, b"k", ours(header))
    assert keys.calls == []


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", PlaintextRejected),
        (b"plain", PlaintextRejected),
        (b"\xc5SC\x02" + FRAMED[4:], PlaintextRejected),
        (MAGIC, MalformedEnvelope),
        (FRAMED[:40], MalformedEnvelope),
        (MAGIC + b"\xff\xff\xff\xff" + FRAMED[8:], MalformedEnvelope),
        (frame_prefix(b"") + VALUE, MalformedEnvelope),
        (frame_prefix(HEADER) + VALUE[:27], MalformedEnvelope),
        (frame_prefix(HEADER) + VALUE[:28], AuthenticationFailed),
        (FRAMED + b"\x00", AuthenticationFailed),
        (FRAMED[:-1], AuthenticationFailed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{len(value)} bytes",  # the bytes are random
)
def test_a_broken_frame_has_its_own_type(value: bytes, error: type[StreamcryptError]) -> None:
    """spec: 6.3.4"""
    opener, _ = reader(framing="self_contained")
    with pytest.raises(error) as caught:
        opener.decrypt("t", value, b"k")
    assert type(caught.value) is error


def test_the_framing_itself_is_not_authenticated() -> None:
    """One can be made of the other, as the specification says."""
    opener, _ = reader(framing="self_contained")
    assert opener.decrypt("t", frame_prefix(HEADER) + VALUE, b"k") == (PLAIN, [])


# --- Calls to the key service


class PreferringProvider:
    """Trusts what it is told, in its own order of preference, and ends each unwrapping as it is told."""

    provider = "fixed"
    trust_generation = 0

    def __init__(self, prefers: str, outcomes: Mapping[str, StreamcryptError | bytes]) -> None:
        self.prefers = prefers
        self.outcomes = outcomes
        self.asked: list[str] = []

    def generate_data_key(self, context: Mapping[str, str]) -> GeneratedDataKey:
        raise NotImplementedError

    def trusted(self, keys: Sequence[EncryptedDataKey]) -> Sequence[tuple[EncryptedDataKey, str]]:
        by_id = {key.key_id: key for key in keys}
        return [(by_id[name], f"arn:{name}") for name in self.prefers if name in by_id]

    def decrypt_data_key(self, encrypted: EncryptedDataKey, key_id: str, context: Mapping[str, str]) -> bytearray:
        assert key_id == f"arn:{encrypted.key_id}"  # our own string, never the record's
        self.asked.append(encrypted.key_id)
        outcome = self.outcomes[encrypted.key_id]
        if isinstance(outcome, StreamcryptError):
            raise outcome
        return bytearray(outcome)

    def check(self) -> str:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


DEK = bytes(range(32))
FOUR = tuple(EncryptedDataKey("fixed", name, b"x") for name in "abcd")
with Encryptor(FixedKeyProvider(DEK, (), FOUR)) as _writer:
    FOUR_VALUE, FOUR_HEADERS = _writer.encrypt("t", PLAIN, b"k")


@pytest.mark.parametrize("prefers", ["abcd", "dcba", "cb", "d"])
def test_the_readers_own_preference_decides_which_key_is_tried(prefers: str) -> None:
    """Not the order in the header. spec: 9.2.1"""
    keys = PreferringProvider(prefers, dict.fromkeys("abcd", DEK))
    assert Decryptor(keys).decrypt("t", FOUR_VALUE, b"k", FOUR_HEADERS) == (PLAIN, [])
    assert keys.asked == [prefers[0]]


AWAY, DENIED, FORGED = KeyUnavailable("away"), KeyRefused("denied"), AuthenticationFailed("forged")


@pytest.mark.parametrize(
    ("outcomes", "error", "asked"),
    [
        ((AWAY, DEK), None, 2),
        ((FORGED, DEK), None, 2),
        ((bytes(32), DEK), None, 2),
        ((AWAY, FORGED, DEK), KeyUnavailable, 2),
        ((FORGED, AWAY, DEK), KeyUnavailable, 2),
        ((AWAY, DENIED, DEK), KeyUnavailable, 2),
        ((DENIED, AWAY, DEK), KeyUnavailable, 2),
        ((DENIED, FORGED, DEK), KeyRefused, 2),
        ((FORGED, DENIED, DEK), KeyRefused, 2),
        ((ConfigError("suite"), FORGED, DEK), ConfigError, 2),
        ((FORGED, bytes(32), DEK), AuthenticationFailed, 2),
        ((UntrustedKey("x"), FORGED, DEK), UntrustedKey, 2),
        ((FORGED,), AuthenticationFailed, 1),
    ],
)
def test_at_most_two_keys_are_tried_and_the_most_hopeful_failure_is_told(
    outcomes: Sequence[StreamcryptError | bytes], error: type[StreamcryptError] | None, asked: int
) -> None:
    """A record must not be given up where a retry or an operator could help. spec: 9.2.2"""
    keys = PreferringProvider("abcd"[: len(outcomes)], dict(zip("abcd", outcomes, strict=False)))
    opener = Decryptor(keys)
    if error is None:
        assert opener.decrypt("t", FOUR_VALUE, b"k", FOUR_HEADERS) == (PLAIN, [])
    else:
        with pytest.raises(error):
            opener.decrypt("t", FOUR_VALUE, b"k", FOUR_HEADERS)
    assert len(keys.asked) == asked


def test_a_hundred_records_of_one_key_cost_one_call() -> None:
    """And one event, however many topics' worth of records come."""
    with Encryptor(KEYRING) as writer:
        records = [writer.encrypt("t", PLAIN, b"k") for _ in range(100)]
    seen = CollectingObserver()
    opener, keys = reader(observer=seen)
    for value, headers in records:
        assert opener.decrypt("t", value, b"k", headers) == (PLAIN, [])
    assert keys.count(DECRYPT) == 1
    assert keys.calls[0].context == {"streamcrypt:topic": "t"}
    (opened,) = seen.events
    assert isinstance(opened, DataKeyOpened)
    assert (opened.topic, opened.key_id, opened.shared) == ("t", "a", False)


@pytest.mark.parametrize("error", [AWAY, DENIED])
def test_trouble_of_the_key_service_is_no_fault_of_the_record(error: StreamcryptError) -> None:
    """The same record opens afterwards."""
    seen = CollectingObserver()
    opener, keys = reader(observer=seen)
    keys.script(DECRYPT, error)
    with pytest.raises(type(error)):
        opener.decrypt("t", VALUE, b"k", HEADERS)
    assert [event.record_fault for event in seen.of(DataKeyRefused)] == [False]
    assert opener.decrypt("t", VALUE, b"k", HEADERS) == (PLAIN, [])


def test_the_keks_of_a_refused_record_are_named_but_not_at_any_length() -> None:
    """A header may carry 8 KiB of them, chosen by whoever writes to the topic."""
    keys = tuple(EncryptedDataKey("local", f"{n}" + "x" * 900, b"y") for n in range(8))
    opener, _ = reader()
    with pytest.raises(UntrustedKey, match="0xxx") as caught:
        opener.decrypt("t", VALUE, b"k", rewritten(keys=keys))
    assert len(str(caught.value)) < 500


# --- Settings, copies, ends


@pytest.mark.parametrize(
    "options",
    [
        {"require_context": {"streamcrypt:topic": "t"}},
        {"require_context": {"a": 1}},
        {"require_context": {"a": []}},
        {"require_bound": "key"},
        {"require_bound": ("topic",)},
        {"framing": "both"},
    ],
)
def test_a_wrong_setting_is_refused_before_any_record(options: dict[str, object]) -> None:
    """As ConfigError."""
    with pytest.raises(ConfigError):
        Decryptor(KEYRING, **options)


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_decryptor_is_neither_copied_nor_pickled(act: Callable[[object], object]) -> None:
    """Its keys stay in its process."""
    opener, _ = reader()
    opener.decrypt("t", VALUE, b"k", HEADERS)
    with pytest.raises(TypeError):
        act(opener)


def test_nothing_shown_holds_a_key_or_content() -> None:
    """Neither the repr of what opens, nor what observers are told."""
    seen = CollectingObserver()
    opener, _ = reader(observer=seen)
    for error, value, key, headers in REFUSALS.values():
        with pytest.raises(error):
            reader(observer=seen)[0].decrypt("t", value, key, headers)
    opener.decrypt("t", VALUE, b"k", HEADERS)
    (entry,) = (e for h, e in opener._entries.items() if h == HEADER)
    for text in (repr(opener), repr(entry), repr(entry.key), repr(seen.events)):
        assert PLAIN.decode() not in text
        assert "plaintext=" not in text
    with opener:
        pass
    assert not opener._entries
