"""What sealing a record means, seen from its caller."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import LANE_UNKNOWN, MAX_LANE, Encryptor, header_list
from streamcrypt.envelope.codec import decode_header
from streamcrypt.envelope.framing import MAGIC, Framing
from streamcrypt.errors import AlreadySealed, ConfigError, KeyUnavailable, StreamcryptError
from streamcrypt.keys.local import LocalKeyProvider
from streamcrypt.keys.rotation import RotationPolicy
from streamcrypt.testing.slow_keys import GENERATE, ScriptedKeyProvider

KEYS = LocalKeyProvider.generate()


def writer(**options: object) -> Encryptor:
    """An encryptor on the keyring of this module."""
    return Encryptor(KEYS, **options)


def nonce_of(sealed: bytes) -> tuple[int, int]:
    """Lane and sequence of a value in header framing."""
    return int.from_bytes(sealed[:4], "big"), int.from_bytes(sealed[4:12], "big")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, []),
        ([], []),
        ({}, []),
        ([("a", b"1"), ("a", None), ("b", "zwei")], [("a", b"1"), ("a", None), ("b", b"zwei")]),
        ((("a", b"1"),), [("a", b"1")]),
        ({"a": b"1", "b": "ü", "c": None}, [("a", b"1"), ("b", "ü".encode()), ("c", None)]),
        ([["a", b"1"]], [("a", b"1")]),
    ],
)
def test_headers_may_be_a_list_a_dict_or_nothing(given: object, expected: object) -> None:
    """Text is sent as UTF-8, order and repetition stay, and ours comes last. spec: 6.2.1"""
    assert header_list(given) == expected
    _, sent = writer().encrypt("t", b"v", headers=given)
    assert sent[:-1] == expected
    assert [name for name, _ in sent].count("streamcrypt") == 1
    assert sent[-1][0] == "streamcrypt"


def test_the_callers_headers_are_not_touched_and_what_is_returned_is_the_callers() -> None:
    """Changing one record's headers changes no other record."""
    sealer, mine = writer(), [("a", b"1")]
    _, first = sealer.encrypt("t", b"v", headers=mine)
    assert mine == [("a", b"1")]
    _, second = sealer.encrypt("t", b"v")
    second.append(("x", b"y"))
    second[0] = ("streamcrypt", b"broken")
    _, third = sealer.encrypt("t", b"v")
    assert third == [first[-1]]


def test_a_tombstone_stays_null_and_costs_no_key() -> None:
    """Its headers go as they are. spec: 6.4.1"""
    keys = ScriptedKeyProvider(KEYS)
    sealer = Encryptor(keys)
    assert sealer.encrypt("t", None, b"k", {"a": "1"}, 5) == (None, [("a", b"1")])
    assert sealer.encrypt("t", None) == (None, [])
    assert keys.calls == []


@pytest.mark.parametrize("value", [b"v", b"", None])
@pytest.mark.parametrize("name", ["streamcrypt", "streamcrypt-tombstone"])
@pytest.mark.parametrize("kind", [list, dict])
def test_a_header_of_ours_is_refused(value: bytes | None, name: str, kind: type) -> None:
    """On tombstones too, which no reader would take with it. spec: 8.1.1"""
    with pytest.raises(AlreadySealed):
        writer().encrypt("t", value, headers=kind([("a", b"1"), (name, b"x")]))


@pytest.mark.parametrize("name", ["Streamcrypt", "streamcrypt2", "x-streamcrypt", "streamcrypt-dlq-reason"])
def test_other_names_are_the_callers(name: str) -> None:
    """Only the exact names are ours."""
    assert writer().encrypt("t", b"v", headers=[(name, b"x")])[1][0] == (name, b"x")


def test_a_self_contained_envelope_is_refused_and_what_only_looks_like_one_is_sealed() -> None:
    """The magic alone proves nothing. spec: 8.1.1"""
    sealed, _ = writer(framing="self_contained").encrypt("t", b"v")
    for framing in Framing:
        with pytest.raises(AlreadySealed):
            writer(framing=framing).encrypt("t", sealed)
        for plain in (MAGIC, MAGIC + b"x", MAGIC + bytes(200), sealed[:60]):
            value, headers = writer(framing=framing).encrypt("t", plain, b"k")
            with Decryptor(KEYS, framing=framing) as reader:
                assert reader.decrypt("t", value, b"k", headers)[0] == plain


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("bound", [(), ("key",), ("key", "header:a"), ("header:a", "header:b")])
@pytest.mark.parametrize("value", [b"", b"v", bytes(100_000), bytearray(b"mutable")])
def test_what_is_sealed_opens(suite: Suite, framing: Framing, bound: tuple[str, ...], value: bytes) -> None:
    """In every suite, framing and list of bound fields; any bytes, none included. spec: 6.1.1, 6.3.1"""
    headers = [("a", b"1"), ("a", None), ("c", b"")]
    sealed, sent = writer(suite=suite, framing=framing, bound=bound).encrypt("t", value, b"k", headers, 7)
    if framing is Framing.HEADER:
        assert len(sealed) == len(value) + 28
        assert nonce_of(sealed) == (7, 1)
    else:
        assert sealed[:4] == MAGIC
        assert sent == headers
    with Decryptor(KEYS, framing=framing, require_bound=bound) as reader:
        assert reader.decrypt("t", sealed, b"k", sent) == (bytes(value), headers)


def test_no_plaintext_is_in_what_is_sent() -> None:
    """Neither in the value nor in the headers."""
    plain = b"a rather long plaintext that is easy to find"
    for framing in Framing:
        sealed, headers = writer(framing=framing).encrypt("t", plain, b"k", {"a": "1"})
        assert plain not in sealed
        assert plain not in repr(headers).encode()
        assert plain[:8] not in sealed


def test_sequences_count_from_one_in_every_lane() -> None:
    """The lane is the partition where it is known. spec: 5.1.1, 5.1.2, 5.1.3"""
    sealer = writer()
    lanes = [0, 0, MAX_LANE, None, 0, None, 1]
    nonces = [nonce_of(sealer.encrypt("t", b"v", partition=lane)[0]) for lane in lanes]
    assert nonces == [(0, 1), (0, 2), (MAX_LANE, 1), (LANE_UNKNOWN, 1), (0, 3), (LANE_UNKNOWN, 2), (1, 1)]
    assert LANE_UNKNOWN == 2**32 - 1


def test_a_new_key_counts_from_one_again() -> None:
    """Numbers belong to a data key. spec: 5.1.3"""
    sealer = writer(rotation=RotationPolicy(max_messages=2))
    assert [nonce_of(sealer.encrypt("t", b"v", partition=3)[0])[1] for _ in range(5)] == [1, 2, 1, 2, 1]


@pytest.mark.parametrize("partition", [-1, MAX_LANE + 1, LANE_UNKNOWN, 2**40])
def test_a_partition_that_kafka_does_not_have_is_refused(partition: int) -> None:
    """Before anything is counted. spec: 5.1.2"""
    sealer = writer()
    with pytest.raises(ConfigError):
        sealer.encrypt("t", b"v", partition=partition)
    assert nonce_of(sealer.encrypt("t", b"v")[0])[1] == 1


def test_a_record_refused_or_failed_consumes_no_number() -> None:
    """So that a gap tells of a loss."""
    keys = ScriptedKeyProvider(KEYS)
    sealer = Encryptor(keys)
    keys.script(GENERATE, KeyUnavailable("away"))
    for bad in (
        lambda: sealer.encrypt("t", b"v"),
        lambda: sealer.encrypt("t", b"v", headers={"streamcrypt": b""}),
        lambda: sealer.encrypt("t", b"v", partition=-1),
    ):
        with pytest.raises(StreamcryptError):
            bad()
    assert nonce_of(sealer.encrypt("t", b"v")[0]) == (LANE_UNKNOWN, 1)


def test_nonces_are_unique_over_threads_lanes_and_topics() -> None:
    """For every data key. spec: 5.1.3"""
    sealer = writer(rotation=RotationPolicy(max_messages=100))

    def work(thread: int) -> list[tuple[bytes, bytes]]:
        made = []
        for n in range(300):
            sealed, headers = sealer.encrypt("ab"[n % 2], b"v", partition=(thread + n) % 3)
            made.append((headers[-1][1], sealed[:12]))
        return made

    with ThreadPoolExecutor(8) as pool:
        made = [pair for some in pool.map(work, range(8)) for pair in some]
    assert len(set(made)) == len(made) == 2400
    assert len({header for header, _ in made}) == 24


def test_the_header_says_what_was_configured() -> None:
    """Context, bound fields and suite, in canonical order. spec: 9.1.2"""
    sealer = writer(
        context={"b": "2", "a": "1"}, bound=("key", "header:x"), suite="AES_256_GCM_SIV", topic_names={"eu.t": "t"}
    )
    header = decode_header(sealer.encrypt("eu.t", b"v")[1][-1][1])
    assert header.context == (("a", "1"), ("b", "2"), ("streamcrypt:topic", "t"))
    assert header.bound == ("header:x", "key")
    assert header.suite is Suite.AES_256_GCM_SIV
    assert [key.key_id for key in header.keys] == ["local-1"]


@pytest.mark.parametrize(
    "options",
    [
        {"context": {"streamcrypt:topic": "t"}},
        {"context": {"streamcrypt:other": "x"}},
        {"context": {"StreamCrypt:x": "x"}},
        {"context": {"a": 1}},
        {"context": {"": "x"}},
        {"context": {"a": "1", "A": "2"}},
        {"context": {"\ud800": "x"}},
        {"context": {"x": "\ud800"}},
        {"context": {f"n{n}": "v" for n in range(16)}},
        {"bound": "key"},
        {"bound": ("topic",)},
        {"bound": ("header:",)},
        {"bound": ("header:streamcrypt",)},
        {"bound": (1,)},
        {"framing": "both"},
        {"suite": "AES_128_GCM"},
    ],
)
def test_a_wrong_setting_is_refused_before_any_record(options: dict[str, object]) -> None:
    """As ConfigError, which is also a ValueError."""
    with pytest.raises(ConfigError) as caught:
        writer(**options)
    assert isinstance(caught.value, ValueError)


def test_an_empty_topic_is_refused() -> None:
    """It makes no context. spec: 9.1.2"""
    with pytest.raises(ConfigError):
        writer().encrypt("", b"v")


def test_a_configuration_cannot_be_changed_from_outside() -> None:
    """What was given is copied."""
    context, names = {"a": "1"}, {"x": "y"}
    sealer = writer(context=context, topic_names=names)
    context["b"], names["x"] = "2", "z"
    header = decode_header(sealer.encrypt("x", b"v")[1][-1][1])
    assert header.context == (("a", "1"), ("streamcrypt:topic", "y"))


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_encryptor_is_neither_copied_nor_pickled(act: object) -> None:
    """Two of them would use the same nonces. spec: 4.4.1"""
    sealer = writer()
    sealer.encrypt("t", b"v")
    issuer = sealer.topic("t").issuer
    for holder in (sealer, sealer.topic("t"), issuer, issuer.lease, issuer.lease.key):
        with pytest.raises(TypeError, match=r"cop|pickle"):
            act(holder)


def test_closing_ends_it_and_leaves_the_key_service_open() -> None:
    """As a context manager too."""
    with writer() as sealer:
        sealer.encrypt("t", b"v")
    for topic in ("t", "u"):
        with pytest.raises(ConfigError, match="closed"):
            sealer.encrypt(topic, b"v")
    assert KEYS.check() == "local-1"


def test_the_sealer_of_a_topic_is_always_the_same() -> None:
    """Also where threads ask for it for the first time together."""
    sealer = writer()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _n: sealer.topic("t"), range(200)))
    assert len(set(map(id, found))) == 1


def test_nothing_shown_holds_a_key_or_content() -> None:
    """Neither the repr of what seals nor the text of an error."""
    sealer = writer()
    _, headers = sealer.encrypt("t", b"plaintext", b"recordkey")
    texts = [repr(sealer), repr(sealer.topic("t")), repr(sealer.topic("t").issuer.lease)]
    for bad in (
        lambda: sealer.encrypt("t", b"plaintext", b"recordkey", headers),
        lambda: sealer.encrypt("t", b"plaintext", b"recordkey", partition=-5),
        lambda: sealer.encrypt("", b"plaintext", b"recordkey"),
        lambda: sealer.encrypt("t", "plaintext", b"recordkey"),
        lambda: sealer.encrypt("t", b"plaintext", "recordkey"),
        lambda: sealer.encrypt("t", 5, b"recordkey"),
    ):
        with pytest.raises((StreamcryptError, TypeError)) as caught:
            bad()
        texts += [repr(caught.value), str(caught.value)]
    for text in texts:
        assert "plaintext" not in text
        assert "recordkey" not in text
