"""Write the test vectors of docs/spec/envelope-v1.md: ``python -m tests.vectors.generate [FOLDER]``."""

from __future__ import annotations

import base64
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.vectors.second_implementation import (
    ARN,
    KEK,
    NO_LANE,
    SUITES,
    TOPIC,
    Envelope,
    Headers,
    Key,
    Vector,
    avro_array,
    avro_bytes,
    avro_long,
    avro_string,
    some_bytes,
    written,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Scenario = tuple[str, str]

MAGIC = b"\xc5\x53\x43\x01"
TOPIC_PAIR = ("streamcrypt:topic", TOPIC)
TYPE_HEADER: Headers = [("type", b"refund")]


def wrapped(*names: str, provider: str = "local") -> tuple[Key, ...]:
    """Wrapped keys with these ids, in this order."""
    return tuple((provider, name, some_bytes(f"wrapped {name}", 60)) for name in names)


def valid() -> Iterator[Scenario]:
    """Every suite, framing and bound list, and the edges of each field."""
    bounds: dict[str, tuple[tuple[str, ...], Headers]] = {
        "nothing": ((), []),
        "key": (("key",), []),
        "key_and_headers": (("header:tenant", "header:type", "key"), [*TYPE_HEADER, ("tenant", b"acme")]),
    }
    for suite in SUITES:
        for framing in ("header", "self_contained"):
            for bound_name, (bound, headers) in bounds.items():
                name = f"valid_{suite.removeprefix('AES_256_').lower()}_{framing}_binding_{bound_name}"
                yield written(
                    Vector(
                        name,
                        f"{suite}, {framing} framing, bound to {bound_name.replace('_', ' ')}",
                        "3.1.1, 3.1.5, 4.1.1, 4.2.2, 5.1.1, 6.1.1, " + ("6.2.1" if framing == "header" else "6.3.1"),
                        envelope=Envelope(suite=suite, bound=bound),
                        headers=headers,
                        framing=framing,
                    )
                )
    header_bound = Envelope(bound=("header:type",))
    yield written(
        Vector(
            "valid_bound_header_repeated",
            "a bound header that occurs three times, once null and once empty: every occurrence counts, in order",
            "5.2.3",
            envelope=header_bound,
            headers=[("type", b"a"), ("other", b"between"), ("type", None), ("type", b"")],
        )
    )
    yield written(
        Vector("valid_bound_header_absent", "a bound header that does not occur", "5.2.3", envelope=header_bound)
    )
    yield written(
        Vector(
            "valid_bound_header_null",
            "a bound header whose value is null",
            "5.2.3",
            envelope=header_bound,
            headers=[("type", None)],
        )
    )
    unicode_header = "größe"
    yield written(
        Vector(
            "valid_bound_header_unicode",
            "a bound header whose name is not ASCII",
            "3.3.2, 5.2.3",
            envelope=Envelope(bound=(f"header:{unicode_header}", "key")),
            headers=[(unicode_header, b"XL")],
        )
    )
    yield written(Vector("valid_key_null", "the record's key is null", "5.2.2", key=None))
    yield written(Vector("valid_key_empty", "the record's key is empty, which is not null", "5.2.2", key=b""))
    yield written(Vector("valid_value_empty", "an empty value: nonce and tag only", "6.1.1, 6.1.2", plaintext=b""))
    yield written(
        Vector(
            "valid_value_looks_self_contained",
            "header framing, and the value's nonce is a chance of a lane only",
            "6.2.1",
            lane=0x7FFFFFFF,
            plaintext=MAGIC + b"\x00\x00\x00\x01x",
        )
    )
    yield written(
        Vector(
            "valid_headers_of_others",
            "headers that are not ours, one of them with our name in capitals",
            "6.2.1",
            headers=[("traceparent", b"00-ab"), ("Streamcrypt", b"not ours"), ("traceparent", b"00-cd")],
        )
    )
    yield written(Vector("valid_lane_none", "the writer does not know the partition", "5.1.2", lane=NO_LANE))
    yield written(
        Vector("valid_lane_partition", "lane 7, record 4294967297 of it", "5.1.1, 5.1.2", lane=7, sequence=2**32 + 1)
    )
    yield written(
        Vector(
            "valid_nonce_opaque",
            "lane and sequence that no writer uses: a reader takes the nonce as it stands",
            "5.1.4",
            lane=0x80000000,
            sequence=0,
        )
    )
    context = (("app", "billing"), TOPIC_PAIR, ("tenant", "acme"))
    yield written(
        Vector(
            "valid_context_required",
            "a context of three pairs, of which the reader requires one",
            "3.2.2, 8.2.3",
            envelope=Envelope(context=context),
            require_context=(("app", "billing"),),
        )
    )
    yield written(
        Vector(
            "valid_context_unicode",
            "context names ascend by UTF-8 bytes, not by UTF-16 units",
            "3.2.2",
            envelope=Envelope(context=(("ort", "Zürich"), TOPIC_PAIR, ("\uff5a", "z"), ("\U0001d11e", "clef"))),
        )
    )
    most = (*(((f"n{i:02}"), f"v{i}") for i in range(15)), TOPIC_PAIR)
    yield written(Vector("valid_context_most_pairs", "16 pairs", "3.2.1", envelope=Envelope(context=most)))
    yield written(
        Vector(
            "valid_context_empty_value",
            "a context value may be empty, a name may not",
            "3.2.3",
            envelope=Envelope(context=(("app", ""), TOPIC_PAIR)),
        )
    )
    yield written(
        Vector(
            "valid_bound_most_fields",
            "16 bound fields",
            "3.3.1",
            envelope=Envelope(bound=(*(f"header:h{i:02}" for i in range(15)), "key")),
            headers=[("h03", b"x")],
        )
    )
    yield written(
        Vector(
            "valid_keys_two",
            "wrapped under two KEKs, of which the reader trusts the second",
            "3.4.2, 9.2.1",
            envelope=Envelope(keys=wrapped("kek-a", "kek-b")),
            trusted=(("local", "kek-b"),),
        )
    )
    yield written(
        Vector(
            "valid_keys_most",
            "wrapped under 8 KEKs",
            "3.4.1",
            envelope=Envelope(keys=wrapped(*(f"kek-{i}" for i in range(8)))),
            trusted=(("local", "kek-7"),),
        )
    )
    yield written(
        Vector(
            "valid_keys_of_two_providers",
            "keys ascend by provider first, then by key id",
            "3.4.2",
            envelope=Envelope(keys=(*wrapped(ARN, provider="aws-kms"), *wrapped("a"))),
            trusted=(("local", "a"),),
        )
    )
    yield written(
        Vector(
            "valid_keys_aws_kms",
            "a key ARN and a ciphertext of 184 bytes, as AWS KMS gives them",
            "3.4.4",
            envelope=Envelope(
                context=(("app", "billing"), TOPIC_PAIR), keys=(("aws-kms", ARN, some_bytes("blob", 184)),)
            ),
            trusted=(("aws-kms", ARN),),
        )
    )
    yield written(
        Vector(
            "valid_keys_largest_ciphertext",
            "a ciphertext of 6,144 bytes",
            "3.4.5",
            envelope=Envelope(keys=(("local", KEK, some_bytes("large", 6144)),)),
        )
    )
    yield written(
        Vector(
            "valid_topic_renamed",
            "mirrored: the reader's topic has another physical name",
            "9.1.2",
            topic_names=(("eu.payments", TOPIC),),
        ),
        topic="eu.payments",
    )
    yield written(
        Vector(
            "valid_bound_required",
            "the reader requires that the key is bound, and it is",
            "8.2.3",
            require_bound=("key",),
        )
    )
    yield written(
        Vector(
            "valid_reader_of_both_framings",
            "header framing, and a reader that is configured for self-contained values",
            "6.3.2",
            reader_framing="self_contained",
        )
    )
    yield written(
        Vector(
            "valid_tombstone", "a plain null value: it has no envelope", "6.4.1, 6.4.5", plaintext=None, stage="none"
        )
    )
    yield from valid_tombstones()
    yield written(
        Vector("valid_value_beside_proof", "a tombstone's header beside a value says nothing", "6.4.2, 8.2.5"),
        headers=[("streamcrypt-tombstone", bytes(28)), *Vector("", "", "").framed()[0]],
    )


def valid_tombstones() -> Iterator[Scenario]:
    """Null values that two headers prove."""

    def one(name: str, spec: str, comment: str, **changes: object) -> Scenario:
        given: dict[str, object] = {"plaintext": None, "proven": True, "reader_tombstones": "authenticated", **changes}
        return written(Vector(f"valid_tombstone_{name}", comment, spec, **given))  # type: ignore[arg-type]

    yield one("authenticated", "5.2.1, 6.4.2, 6.4.4", "an authenticated tombstone")
    yield one(
        "authenticated_plain_reader",
        "6.4.4",
        "verified by a reader that takes plain ones too",
        reader_tombstones="plain",
    )
    yield one("siv", "6.4.2", "under AES-256-GCM-SIV", envelope=Envelope(suite="AES_256_GCM_SIV"))
    yield one("binding_nothing", "6.4.2", "nothing is bound", envelope=Envelope(bound=()))
    yield one(
        "binding_key_and_headers",
        "5.2.3, 6.4.2",
        "key and headers are bound, of which one occurs twice",
        envelope=Envelope(bound=("header:tenant", "header:type", "key")),
        headers=[("type", b"erase"), ("tenant", b"acme"), ("type", None)],
    )
    yield one(
        "self_contained",
        "6.4.2",
        "self-contained framing: the value stays null, so the envelope rides in headers",
        framing="self_contained",
    )
    yield one("lane_none", "5.1.2, 6.4.3", "the writer does not know the partition", lane=NO_LANE)
    yield one("after_values", "6.4.3", "the fifth record of its lane, the first four being values", lane=3, sequence=5)


def broken_header() -> Iterator[Scenario]:
    """Header bytes that break one rule each."""

    def one(name: str, spec: str, comment: str, data: bytes, expect: str = "MalformedEnvelope") -> Scenario:
        vector = Vector(f"header_{name}", comment, spec, expect, "header")
        return written(vector, headers=[("streamcrypt", data)])

    def rule(name: str, spec: str, comment: str, **changes: object) -> Scenario:
        return one(name, spec, comment, Envelope(**changes).header())  # type: ignore[arg-type]

    good = Envelope()
    header = good.header()
    keys = good.parts()["keys"]
    yield one("empty", "3.1.3", "a header of no bytes", b"")
    yield one("not_avro", "3.1.3", "a header that is no Avro single object", b"v=1;alg=none")
    yield one("marker_only", "3.1.3", "the Avro marker and half a fingerprint", header[:6])
    yield one(
        "unknown_fingerprint",
        "3.1.2, 11.1.1",
        "a schema that this version does not know",
        header[:2] + bytes(8) + header[10:],
        "UnsupportedVersion",
    )
    yield one(
        "base64", "3.1.3", "re-encoded by a mirror's header converter", base64.b64encode(header), "MangledEnvelope"
    )
    yield one(
        "base64_twice",
        "3.1.3",
        "re-encoded by two mirrors, the first of which put it in quotes",
        base64.b64encode(b'"' + base64.b64encode(header) + b'"'),
        "MangledEnvelope",
    )
    yield one("too_large", "3.1.4", "8,193 bytes, which would otherwise hold every rule but this one", padded(8193))
    yield one("truncated", "3.5.3", "the last byte is missing", header[:-1])
    yield one("fingerprint_only", "3.5.3", "the fingerprint and no body", header[:10])
    yield one("trailing_byte", "3.5.1", "one zero byte too many", header + b"\x00")
    yield one("overlong_varint", "3.5.1", "suite 0 written in two bytes", good.header(suite=b"\x80\x00"))
    yield one(
        "overlong_length",
        "3.5.1",
        "a string's length written in three bytes",
        header.replace(avro_string("local"), b"\x8a\x80\x00local"),
    )
    one_pair = avro_string(TOPIC_PAIR[0]) + avro_string(TOPIC_PAIR[1])
    yield one(
        "negative_block_count",
        "3.5.1",
        "an array block with a negative count and its size in bytes",
        good.header(context=avro_long(-1) + avro_long(len(one_pair)) + one_pair + b"\x00"),
    )
    yield one(
        "two_blocks",
        "3.5.1",
        "an array of two items in two blocks",
        Envelope(bound=("header:a", "key")).header(
            bound=avro_long(1) + avro_string("header:a") + avro_long(1) + avro_string("key") + b"\x00"
        ),
    )
    yield one("huge_count", "3.5.3", "an array that claims 2^62 items", good.header(context=avro_long(2**62)))
    yield one(
        "huge_length", "3.5.3", "a string that claims 2^62 bytes", good.header(context=avro_long(1) + avro_long(2**62))
    )
    yield one(
        "negative_length", "3.5.3", "a string of minus one byte", good.header(context=avro_long(1) + avro_long(-1))
    )
    yield one("suite_out_of_range", "3.1.5", "suite 2", good.header(suite=avro_long(2)))
    yield one(
        "suite_negative",
        "3.1.5, 3.5.1",
        "suite -1, which a careless reader takes for the last",
        good.header(suite=avro_long(-1)),
    )
    yield one("content_out_of_range", "3.1.6", "content 3", good.header(content=avro_long(3)))
    yield one(
        "content_avro_fields",
        "3.1.6",
        "a reserved kind of content",
        Envelope(content="AVRO_FIELDS").header(),
        "UnsupportedVersion",
    )
    yield one(
        "content_json_fields",
        "3.1.6",
        "a reserved kind of content",
        Envelope(content="JSON_FIELDS").header(),
        "UnsupportedVersion",
    )
    yield one(
        "invalid_utf8",
        "3.5.2",
        "a context value that is not UTF-8",
        good.header(context=avro_array([avro_string("app") + avro_bytes(b"\xff\xfe"), one_pair])),
    )
    yield one(
        "surrogate",
        "3.5.2",
        "a context value that holds a surrogate, CESU-8 style",
        good.header(context=avro_array([avro_string("app") + avro_bytes(b"\xed\xa0\x80"), one_pair])),
    )
    yield rule("context_too_many", "3.2.1", "17 pairs", context=(*((f"n{i:02}", "v") for i in range(16)), TOPIC_PAIR))
    yield rule("context_unsorted", "3.2.2", "names that descend", context=(TOPIC_PAIR, ("app", "billing")))
    yield rule(
        "context_utf16_order",
        "3.2.2",
        "names in the order of UTF-16 units",
        context=(TOPIC_PAIR, ("\U0001d11e", "clef"), ("\uff5a", "z")),
    )
    yield rule("context_duplicate", "3.2.2", "the same name twice", context=(("app", "a"), ("app", "b"), TOPIC_PAIR))
    yield rule(
        "context_case_duplicate",
        "3.2.3",
        "names that differ in case only",
        context=(("App", "a"), ("app", "b"), TOPIC_PAIR),
    )
    yield rule(
        "context_case_duplicate_unicode",
        "3.2.3",
        "names equal under full case folding only",
        context=(("strasse", "a"), ("straße", "b"), TOPIC_PAIR),
    )
    yield rule("context_name_empty", "3.2.3", "an empty name", context=(("", "a"), TOPIC_PAIR))
    yield rule("context_no_topic", "3.2.4", "no streamcrypt:topic", context=(("app", "billing"),))
    yield rule("context_none", "3.2.4", "no pair at all", context=())
    yield rule("context_topic_empty", "3.2.4", "an empty topic", context=(("streamcrypt:topic", ""),))
    yield rule(
        "context_topic_in_capitals", "3.2.4", "the name is compared exactly", context=(("Streamcrypt:topic", TOPIC),)
    )
    yield rule("bound_too_many", "3.3.1", "17 fields", bound=(*(f"header:h{i:02}" for i in range(16)), "key"))
    yield rule("bound_unsorted", "3.3.2", "fields that descend", bound=("key", "header:type"))
    yield rule("bound_duplicate", "3.3.2", "the same field twice", bound=("key", "key"))
    yield rule("bound_unknown", "3.3.3", "a field that this version does not know", bound=("timestamp",))
    yield rule("bound_header_without_name", "3.3.3", "a header without a name", bound=("header:",))
    yield rule(
        "bound_our_header", "3.3.3", "our own header, which depends on what is bound", bound=("header:streamcrypt",)
    )
    yield rule("bound_our_tombstone", "3.3.3", "our tombstone header", bound=("header:streamcrypt-tombstone",))
    yield rule("keys_none", "3.4.1", "no encrypted data key", keys=())
    yield rule("keys_nine", "3.4.1", "9 encrypted data keys", keys=wrapped(*(f"kek-{i}" for i in range(9))))
    yield rule("keys_unsorted", "3.4.2", "key ids that descend", keys=wrapped("kek-b", "kek-a"))
    yield rule("keys_duplicate", "3.4.2", "the same KEK twice", keys=(("local", KEK, b"one"), ("local", KEK, b"two")))
    yield rule("keys_provider_capital", "3.4.3", "a provider in capitals", keys=(("LOCAL", KEK, b"blob"),))
    yield rule("keys_provider_empty", "3.4.3", "a provider without a name", keys=(("", KEK, b"blob"),))
    yield rule("keys_provider_long", "3.4.3", "a provider of 33 characters", keys=(("p" * 33, KEK, b"blob"),))
    yield rule("keys_id_not_ascii", "3.4.4", "a key id that is not ASCII", keys=(("local", "schlüssel", b"blob"),))
    yield rule("keys_id_newline", "3.4.4", "a key id that ends in a line feed", keys=(("local", KEK + "\n", b"blob"),))
    yield rule("keys_id_empty", "3.4.4", "an empty key id", keys=(("local", "", b"blob"),))
    yield rule("keys_id_long", "3.4.4", "a key id of 2,049 characters", keys=(("local", "k" * 2049, b"blob"),))
    yield rule("keys_ciphertext_empty", "3.4.5", "an encrypted data key of no bytes", keys=(("local", KEK, b""),))
    yield rule(
        "keys_ciphertext_large",
        "3.4.5",
        "an encrypted data key of 6,145 bytes",
        keys=(("local", KEK, some_bytes("large", 6145)),),
    )
    yield one("keys_missing", "3.5.3", "the body ends before the keys", header[: -len(keys)])


def padded(size: int) -> bytes:
    """A header of exactly ``size`` bytes that breaks no rule but, perhaps, that of its size."""
    bare = Envelope(keys=(("local", "kek-a", bytes(6000)), ("local", "kek-b", bytes(1500)))).header()
    keys: tuple[Key, ...] = (("local", "kek-a", bytes(6000)), ("local", "kek-b", bytes(1500 + size - len(bare))))
    data = Envelope(keys=keys).header()
    assert len(data) == size
    return data


def broken_record() -> Iterator[Scenario]:
    """Headers that hold every rule, in records that do not open."""

    def vector(name: str, spec: str, comment: str, expect: str, stage: str, **changes: object) -> Vector:
        return Vector(name, comment, spec, expect, stage, **changes)  # type: ignore[arg-type]

    good = Vector("", "", "")
    headers, value = good.framed()
    assert value is not None
    refused = "AuthenticationFailed"
    contained = replace(good, framing="self_contained").framed()[1]

    yield written(
        vector("framing_no_header", "6.2.2", "the header was stripped on the way", "PlaintextRejected", "framing"),
        headers=[],
    )
    yield written(
        vector("framing_plaintext", "6.2.2", "a record that was never sealed", "PlaintextRejected", "framing"),
        headers=TYPE_HEADER,
        value=b"hello",
    )
    yield written(
        vector("framing_two_headers", "6.2.1", "the same header twice", "MalformedEnvelope", "framing"),
        headers=headers * 2,
    )
    yield written(
        vector("framing_header_null", "6.2.1", "a header whose value is null", "MalformedEnvelope", "framing"),
        headers=[("streamcrypt", None)],
    )
    yield written(
        vector(
            "framing_both",
            "6.3.3",
            "self-contained, and the header as well",
            "MalformedEnvelope",
            "framing",
            framing="self_contained",
        ),
        headers=headers,
        value=contained,
    )
    yield written(
        vector(
            "framing_both_header_null",
            "6.3.3",
            "self-contained, and a null header of our name",
            "MalformedEnvelope",
            "framing",
            framing="self_contained",
        ),
        headers=[("streamcrypt", None)],
        value=contained,
    )
    yield written(
        vector(
            "framing_tombstone_with_header",
            "6.4.2",
            "the value of a sealed record became null",
            "MalformedEnvelope",
            "framing",
        ),
        value=None,
    )
    yield written(
        vector(
            "framing_self_contained_not_configured",
            "6.3.2",
            "self-contained where the reader expects the header",
            "PlaintextRejected",
            "framing",
            framing="self_contained",
            reader_framing="header",
        )
    )
    yield written(
        vector(
            "framing_self_contained_plaintext",
            "6.2.2, 6.3.2",
            "no magic where the reader expects self-contained values",
            "PlaintextRejected",
            "framing",
            framing="self_contained",
        ),
        headers=[],
        value=b"hello",
    )
    for name, comment, data in (
        ("short", "the magic and half a length", MAGIC + b"\x00\x00"),
        ("header_past_end", "a header length beyond the end", MAGIC + (8192).to_bytes(4, "big") + contained[8:]),
        ("header_oversized", "a header length over 8,192", MAGIC + (8193).to_bytes(4, "big") + padded(8193) + value),
        ("header_length_zero", "a header of no bytes", MAGIC + bytes(4) + value),
    ):
        yield written(
            vector(
                f"framing_self_contained_{name}",
                "6.3.4",
                comment,
                "MalformedEnvelope",
                "framing",
                framing="self_contained",
            ),
            value=data,
        )
    yield written(
        vector(
            "framing_self_contained_sealed_short",
            "6.1.2, 6.3.4",
            "self-contained, 27 bytes after the header",
            "MalformedEnvelope",
            "framing",
            framing="self_contained",
        ),
        value=contained[: len(contained) - len(value) + 27],
    )

    yield written(
        vector("policy_moved_topic", "8.2.3, 9.1.2", "the record stands on another topic", "ContextMismatch", "policy"),
        topic="refunds",
    )
    yield written(
        vector(
            "policy_topic_name_of_another",
            "9.1.2",
            "a topic mapped to another logical name",
            "ContextMismatch",
            "policy",
            topic_names=((TOPIC, "refunds"),),
        )
    )
    yield written(
        vector(
            "policy_context_missing",
            "8.2.3",
            "the reader requires a pair that is not there",
            "ContextMismatch",
            "policy",
            require_context=(("app", "billing"),),
        )
    )
    yield written(
        vector(
            "policy_context_value",
            "8.2.3",
            "the reader requires another value",
            "ContextMismatch",
            "policy",
            envelope=Envelope(context=(("app", "Billing"), TOPIC_PAIR)),
            require_context=(("app", "billing"),),
        )
    )
    yield written(
        vector(
            "policy_bound_missing",
            "8.2.3",
            "the reader requires that the key is bound",
            "ContextMismatch",
            "policy",
            envelope=Envelope(bound=()),
            require_bound=("key",),
        )
    )
    yield written(
        vector(
            "policy_untrusted_key",
            "9.2.1",
            "wrapped under a KEK that is not trusted",
            "UntrustedKey",
            "policy",
            trusted=(("local", "another-kek"),),
        )
    )
    yield written(
        vector(
            "policy_untrusted_provider",
            "9.2.1",
            "the trusted id, of another provider",
            "UntrustedKey",
            "policy",
            envelope=Envelope(keys=wrapped(KEK, provider="aws-kms")),
        )
    )

    yield written(
        vector(
            "key_wrong",
            "4.3.1",
            "unwrapping gives another data key",
            refused,
            "key",
            unwrapped=some_bytes("another", 32),
        )
    )
    yield written(
        vector(
            "key_31_bytes", "4.2.1", "unwrapping gives 31 bytes", refused, "key", unwrapped=some_bytes("dek", 32)[:31]
        )
    )
    yield written(
        vector(
            "key_33_bytes",
            "4.2.1",
            "unwrapping gives 33 bytes",
            refused,
            "key",
            unwrapped=some_bytes("dek", 32) + b"\x00",
        )
    )
    yield written(
        vector(
            "key_commitment_wrong",
            "4.3.1",
            "another commitment, the value intact",
            refused,
            "key",
            envelope=Envelope(claimed=some_bytes("claimed", 32)),
        )
    )
    true = Envelope().derived()[32:]
    for name, changes in (
        ("suite", {"suite": "AES_256_GCM_SIV"}),
        ("context", {"context": (("app", "billing"), TOPIC_PAIR)}),
        ("bound", {"bound": ()}),
    ):
        altered = Envelope(claimed=true, **changes)  # type: ignore[arg-type]
        yield written(
            vector(
                f"key_{name}_altered", "4.1.1, 4.3.1", f"the header's {name} was altered after sealing", refused, "key"
            ),
            headers=[("streamcrypt", altered.header())],
        )

    for name, place in (("nonce", 11), ("ciphertext", 12), ("tag", -1)):
        flipped = bytearray(value)
        flipped[place] ^= 1
        yield written(
            vector(f"value_{name}_flipped", "8.2.6", f"one bit of the {name} differs", refused, "value"),
            value=bytes(flipped),
        )
    yield written(vector("value_truncated", "8.2.6", "the last byte is missing", refused, "value"), value=value[:-1])
    yield written(
        vector("value_short", "6.1.2", "27 bytes: no room for nonce and tag", refused, "value"), value=value[:27]
    )
    yield written(vector("value_empty", "6.1.2", "an empty value under an envelope", refused, "value"), value=b"")
    yield written(vector("value_moved_key", "5.2.2", "the value of another key", refused, "value"), key=b"customer-18")
    yield written(
        vector("value_key_now_null", "5.2.2", "an empty key became null", refused, "value", key=b""), key=None
    )
    other = Envelope(dek=some_bytes("other dek", 32))
    yield written(
        vector(
            "value_header_of_another",
            "4.2.2",
            "the header of another data key of the same topic",
            refused,
            "value",
            unwrapped=other.dek,
        ),
        headers=[("streamcrypt", other.header())],
    )
    sealed = Vector("", "", "", envelope=Envelope(bound=("header:type",)), headers=[("type", b"a"), ("type", b"b")])
    marked = [("streamcrypt", sealed.envelope.header())]
    for name, changed in (
        ("changed", [("type", b"a"), ("type", b"c")]),
        ("reordered", [("type", b"b"), ("type", b"a")]),
        ("dropped", [("type", b"a")]),
        ("added", [("type", b"a"), ("type", b"b"), ("type", b"")]),
        ("joined", [("type", b"ab")]),
    ):
        yield written(
            vector(
                f"value_bound_header_{name}",
                "5.2.3",
                f"a bound header was {name}",
                refused,
                "value",
                envelope=sealed.envelope,
            ),
            headers=[*changed, *marked],
            value=sealed.sealed(),
        )
    tombstone = Vector("", "", "", plaintext=b"")
    kind = vector(
        "value_tombstone_kind",
        "5.2.1, 6.4.4",
        "sealed as a tombstone, kind 02, and replayed as an empty value",
        refused,
        "value",
    )
    yield written(kind, value=tombstone.sealed(kind=2))
    yield from broken_tombstone()


def broken_tombstone() -> Iterator[Scenario]:
    """Null values that a reader of authenticated tombstones refuses."""

    def one(
        name: str, spec: str, comment: str, failure: tuple[str, str], changes: dict[str, object], **written_as: object
    ) -> Scenario:
        given = {"plaintext": None, "proven": True, "reader_tombstones": "authenticated", **changes}
        vector = Vector(name, comment, spec, *failure, **given)  # type: ignore[arg-type]
        return written(vector, **written_as)  # type: ignore[arg-type]

    (ours, proof), _ = Vector("", "", "", plaintext=None, proven=True).framed()
    name, data = proof
    assert data is not None
    yield one(
        "framing_tombstone_plain",
        "6.4.5",
        "a plain null value, where the reader requires authenticated ones",
        ("PlaintextRejected", "framing"),
        {"proven": False},
    )
    for which, comment, headers in (
        ("proof_alone", "the proof without the envelope header", [proof]),
        ("proof_missing", "the envelope header without the proof", [ours]),
        ("proof_twice", "the proof twice", [ours, proof, proof]),
        ("proof_null", "a proof whose value is null", [ours, (name, None)]),
        ("proof_empty", "a proof of no bytes", [ours, (name, b"")]),
        ("proof_short", "a proof of 27 bytes", [ours, (name, data[:-1])]),
        ("proof_long", "a proof of 29 bytes", [ours, (name, data + bytes(1))]),
        ("two_headers", "the envelope header twice", [ours, ours, proof]),
        ("header_null", "an envelope header whose value is null", [("streamcrypt", None), proof]),
    ):
        plain: dict[str, object] = {"reader_tombstones": "plain"} if which == "proof_alone" else {}
        yield one(
            f"framing_tombstone_{which}", "6.4.2", comment, ("MalformedEnvelope", "framing"), plain, headers=headers
        )
    yield one(
        "policy_tombstone_moved_topic",
        "6.4.4, 8.2.3",
        "the tombstone of another topic",
        ("ContextMismatch", "policy"),
        {},
        topic="refunds",
    )
    refused = ("AuthenticationFailed", "value")
    yield one(
        "value_tombstone_moved_key", "5.2.2, 6.4.4", "the tombstone of another key", refused, {}, key=b"customer-18"
    )
    for part, place in (("nonce", 11), ("tag", -1)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        yield one(
            f"value_tombstone_{part}_flipped",
            "6.4.4, 8.2.6",
            f"one bit of the {part} differs",
            refused,
            {"reader_tombstones": "plain"},
            headers=[ours, (name, bytes(flipped))],
        )
    empty = Vector("", "", "", plaintext=b"").sealed()
    yield one(
        "value_tombstone_of_an_empty_value",
        "5.2.1, 6.4.4",
        "an empty value, kind 01, replayed as a tombstone",
        refused,
        {},
        headers=[ours, (name, empty)],
    )
    bound = Envelope(bound=("header:type",))
    sealed, _ = Vector("", "", "", envelope=bound, headers=TYPE_HEADER, plaintext=None, proven=True).framed()
    yield one(
        "value_tombstone_bound_header_changed",
        "5.2.3, 6.4.4",
        "a bound header was changed",
        refused,
        {"envelope": bound},
        headers=[("type", b"void"), *sealed[1:]],
    )


def inputs() -> Iterator[Scenario]:
    """A KEK per record: what a reader that knows the mapping opens, and what it refuses."""
    tenant, bound = ("streamcrypt:header:tenant", "acme"), ("header:tenant", "key")
    acme = Envelope(context=(tenant, TOPIC_PAIR), bound=bound, keys=wrapped("kek-acme"))
    maps = tuple((name, "local", f"kek-{name}") for name in ("acme", "globex"))

    def one(name: str, spec: str, comment: str, /, headers: Headers | None = None, **changes: Any) -> Scenario:
        given = {"envelope": acme, "headers": [("tenant", b"acme")] if headers is None else headers}
        given |= {"inputs": ("header:tenant",), "maps": maps}
        return written(Vector(name, comment, spec, **{**given, **changes}))

    yield one("valid_input_header", "9.3.1, 9.3.2, 9.3.4", "a header chose the KEK")
    yield one(
        "valid_input_topic_and_key",
        "9.3.1, 9.3.2",
        "topic and key chose the KEK",
        headers=[],
        envelope=Envelope(context=(("streamcrypt:key", "customer-17"), TOPIC_PAIR), keys=wrapped("kek-17")),
        inputs=("topic", "key"),
        maps=(("payments/customer-17", "local", "kek-17"),),
    )
    yield one("valid_input_tombstone", "6.4.2, 9.3.3", "a tombstone of a tenant", plaintext=None, proven=True)
    yield one(
        "valid_input_unknown_to_the_reader",
        "3.2.5",
        "a reader without a mapping takes the names of inputs as any other",
        inputs=(),
        maps=(),
        trusted=(("local", "kek-acme"),),
        sequence=2,
    )
    mismatch: dict[str, Any] = {"expect": "ContextMismatch", "stage": "policy"}
    yield one(
        "policy_input_missing",
        "9.3.3",
        "the context does not say what chose the KEK",
        envelope=Envelope(bound=bound, keys=wrapped("kek-acme")),
        **mismatch,
    )
    yield one(
        "policy_input_unbound",
        "9.3.3",
        "what chose the KEK is not bound",
        envelope=Envelope(context=acme.context, keys=wrapped("kek-acme")),
        **mismatch,
    )
    untrusted: dict[str, Any] = {"expect": "UntrustedKey", "stage": "policy"}
    yield one(
        "policy_input_kek_of_another",
        "9.3.4",
        "wrapped under the KEK that the mapping gives for another value",
        envelope=replace(acme, keys=wrapped("kek-globex")),
        **untrusted,
    )
    yield one(
        "policy_input_unmapped",
        "9.3.4",
        "the mapping gives no KEK for the value",
        envelope=Envelope(context=((tenant[0], "initech"), TOPIC_PAIR), bound=bound, keys=wrapped("kek-acme")),
        headers=[("tenant", b"initech")],
        **untrusted,
    )
    wrong: dict[str, Any] = {"expect": "ContextMismatch", "stage": "value"}
    forged: dict[str, Headers] = {
        "of_another": [("tenant", b"globex")],
        "twice": [("tenant", b"acme"), ("tenant", b"acme")],
        "null": [("tenant", None)],
        "absent": [],
    }
    for name, headers in forged.items():
        comment = f"sealed with the bound header {name.replace('_', ' ')}, while the context says acme"
        yield one(f"value_input_{name}", "9.3.2, 9.3.3", comment, headers=headers, **wrong)
    yield one(
        "value_input_of_another_tombstone",
        "6.4.4, 9.3.3",
        "a tombstone sealed for another tenant's record",
        headers=[("tenant", b"globex")],
        plaintext=None,
        proven=True,
        **wrong,
    )


def scenarios() -> dict[str, str]:
    """Every vector: file name to text."""
    found: dict[str, str] = {}
    for make in (valid, broken_header, broken_record, inputs):
        for name, text in make():
            assert name not in found, name
            found[name] = text
    return found


def main(folder: Path) -> None:
    """Write every vector into ``folder``, and remove what is no vector any more."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = scenarios()
    for name, text in vectors.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    for stale in {path.stem for path in folder.glob("*.txt")} - vectors.keys():
        (folder / f"{stale}.txt").unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "v1")
