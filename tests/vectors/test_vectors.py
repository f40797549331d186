"""Every vector against the package, and the folder against its generator. spec: 13"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV

from streamcrypt import errors
from streamcrypt.crypto.data_key import DataKey
from streamcrypt.crypto.suites import Suite
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import Encryptor
from streamcrypt.envelope.binding import KIND_TOMBSTONE, KIND_VALUE, aad_builder
from streamcrypt.envelope.codec import decode_header, derivation_info, encode_header
from streamcrypt.envelope.framing import MAGIC, split_frame
from streamcrypt.envelope.header import Content, EncryptedDataKey, EnvelopeHeader
from streamcrypt.keys.tenants import TenantKeys
from streamcrypt.testing.fixed_keys import FixedKeyProvider
from tests.vectors.generate import main as generate

FOLDER = Path(__file__).parent / "v1"
EXPECTATIONS = {
    "opens",
    "AuthenticationFailed",
    "ContextMismatch",
    "MalformedEnvelope",
    "MangledEnvelope",
    "PlaintextRejected",
    "UnsupportedVersion",
    "UntrustedKey",
}
STAGES = {"none", "framing", "header", "policy", "key", "value"}
ONCE = {"expect", "stage", "comment", "spec", "reader-framing", "dek", "topic", "key", "value"}
AT_MOST_ONCE = {"reader-tombstones"}
ONCE_WHEN_OPEN = {"suite", "info", "encryption-key", "commitment", "aad", "nonce"}
MANY = {
    "reader-topic-name", "reader-context", "reader-bound", "reader-trusts", "reader-input", "reader-maps",
    "header", "context", "bound", "encrypted-data-key",
}  # fmt: skip


class UnknownVectorError(ValueError):
    """A vector says what this runner does not understand; passing it over would look like success."""


def parse(text: str) -> dict[str, Any]:
    """Read a vector; fields that may repeat are lists of their arguments, the others text."""
    single: dict[str, str] = {}
    many: dict[str, list[list[Any]]] = defaultdict(list)
    for line in filter(None, text.split("\n")):
        name, colon, rest = line.partition(": ")
        if colon and name in MANY:
            many[name].append([_word(word) for word in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', rest)])
        elif colon and name in ONCE | AT_MOST_ONCE | ONCE_WHEN_OPEN | {"plaintext"} and name not in single:
            single[name] = rest
        else:
            raise UnknownVectorError(f"unknown or repeated field: {line[:40]}")
    opens = single.get("expect") == "opens"
    wanted = ONCE | ({"plaintext"} if opens else set())
    if opens and (single.get("value") != "null" or ["streamcrypt"] in [pair[:1] for pair in many["header"]]):
        wanted |= ONCE_WHEN_OPEN
    if set(single) - AT_MOST_ONCE != wanted:
        raise UnknownVectorError(f"fields missing or out of place: {sorted(set(single) ^ wanted)}")
    if single["expect"] not in EXPECTATIONS or single["stage"] not in STAGES:
        raise UnknownVectorError(f"unknown expectation: {single['expect']} at {single['stage']}")
    return {**{name: many[name] for name in MANY}, **single}


def _word(word: str) -> Any:
    return json.loads(word) if word.startswith('"') else _bytes(word)


def _bytes(word: str) -> bytes | None:
    return None if word == "null" else b"" if word == "empty" else bytes.fromhex(word)


VECTORS = {path.stem: parse(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.txt"))}
SEALED = {name: v for name, v in VECTORS.items() if "nonce" in v}
OURS = {"streamcrypt", "streamcrypt-tombstone"}


def header_of(vector: dict[str, Any]) -> bytes:
    """Take the header out of a vector's record."""
    value = _bytes(vector["value"]) or b""
    if value.startswith(MAGIC) and vector["reader-framing"] == "self_contained":
        return split_frame(value)[0]
    (header,) = [data for name, data in vector["header"] if name == "streamcrypt"]
    return header


def keys_of(vector: dict[str, Any], encrypted: tuple[EncryptedDataKey, ...] = ()) -> FixedKeyProvider | TenantKeys:
    """Make the key service that a vector describes."""
    dek, maps = _bytes(vector["dek"]) or b"", vector["reader-maps"]
    trusts = [tuple(pair) for pair in vector["reader-trusts"]] + [(provider, kek) for _, provider, kek in maps]
    keys = FixedKeyProvider(dek, trusts, encrypted)
    if not vector["reader-input"]:
        return keys
    template = "/".join(f"{{{field}}}" for (field,) in vector["reader-input"])
    return TenantKeys(keys, template, {values: kek for values, _, kek in maps})


def reader_of(vector: dict[str, Any]) -> Decryptor:
    """Make the reader that a vector describes."""
    return Decryptor(
        keys_of(vector),
        require_context=dict(vector["reader-context"]),
        topic_names=dict(vector["reader-topic-name"]),
        require_bound=[item for (item,) in vector["reader-bound"]],
        framing=vector["reader-framing"],
        tombstones=vector.get("reader-tombstones", "plain"),
    )


@pytest.mark.parametrize("name", VECTORS)
def test_a_reader_opens_or_refuses_each_vector_as_it_says(name: str) -> None:
    """spec: 8.2.5, 8.2.6"""
    vector = VECTORS[name]
    headers = [(header, data) for header, data in vector["header"]]
    record = json.loads(vector["topic"]), _bytes(vector["value"]), _bytes(vector["key"]), headers
    with reader_of(vector) as reader:
        for _ in range(2):  # what a reader remembers of the first time changes nothing
            if vector["expect"] == "opens":
                rest = [pair for pair in headers if pair[0] not in OURS]
                assert reader.decrypt(*record) == (_bytes(vector["plaintext"]), rest)
            else:
                with pytest.raises(errors.StreamcryptError) as caught:
                    reader.decrypt(*record)
                assert type(caught.value).__name__ == vector["expect"]


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if v["stage"] == "header"])
def test_the_codec_alone_refuses_each_broken_header(name: str) -> None:
    """spec: 3.5.3"""
    with pytest.raises(errors.EnvelopeError) as caught:
        decode_header(header_of(VECTORS[name]))
    assert type(caught.value).__name__ == VECTORS[name]["expect"]


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if v["stage"] in {"policy", "key", "value"}])
def test_the_codec_alone_takes_headers_that_fail_later(name: str) -> None:
    """What is wrong with these records is not their header's form. spec: 3.5.1"""
    assert encode_header(decode_header(header_of(VECTORS[name]))) == header_of(VECTORS[name])


@pytest.mark.parametrize("name", SEALED)
def test_every_step_between_is_as_the_vector_says(name: str) -> None:
    """spec: 3.1.1, 4.1.1, 4.2.2, 5.1.1, 5.2.1, 6.1.1"""
    vector = SEALED[name]
    suite = Suite(vector["suite"])
    context = tuple((a, b) for a, b in vector["context"])
    bound = tuple(item for (item,) in vector["bound"])
    keys = tuple(EncryptedDataKey(*key) for key in vector["encrypted-data-key"])
    header = EnvelopeHeader(suite, _bytes(vector["commitment"]) or b"", context, bound, Content.PAYLOAD, keys)
    assert decode_header(header_of(vector)) == header
    assert encode_header(header) == header_of(vector)

    prefix = b"streamcrypt/1\x00"
    info = derivation_info(suite, context, bound)
    assert prefix + info == _bytes(vector["info"])
    key = DataKey(bytearray(_bytes(vector["dek"]) or b""), suite, info)
    assert key.commitment == header.commitment

    kind = KIND_TOMBSTONE if vector["value"] == "null" else KIND_VALUE
    aad = aad_builder(bound, kind)(_bytes(vector["key"]), [(n, d) for n, d in vector["header"]])
    assert aad == (_bytes(vector["aad"]) or b"")
    nonce, plaintext = _bytes(vector["nonce"]) or b"", _bytes(vector["plaintext"]) or b""
    sealed = nonce + key.seal(nonce, plaintext, aad)
    if kind == KIND_TOMBSTONE:
        assert vector["header"][-1] == ["streamcrypt-tombstone", sealed]
    else:
        assert (_bytes(vector["value"]) or b"").endswith(sealed)
    cipher = (AESGCM if suite is Suite.AES_256_GCM else AESGCMSIV)(_bytes(vector["encryption-key"]) or b"")
    assert sealed == nonce + cipher.encrypt(nonce, plaintext, aad)


@pytest.mark.parametrize("name", [n for n, v in SEALED.items() if _bytes(v["nonce"])[4:] == (1).to_bytes(8, "big")])
def test_a_writer_with_the_same_data_key_makes_the_same_record(name: str) -> None:
    """Sequence 1 of each lane is the writer's first record. spec: 5.1.2, 5.1.3, 6.2.1, 6.3.1"""
    vector = SEALED[name]
    topic = json.loads(vector["topic"])
    context = dict(vector["context"])
    logical = context.pop("streamcrypt:topic")
    for (field,) in vector["reader-input"]:
        context.pop(f"streamcrypt:{field}", None)
    keys = keys_of(vector, tuple(EncryptedDataKey(*key) for key in vector["encrypted-data-key"]))
    value = _bytes(vector["value"])
    lane = int.from_bytes((_bytes(vector["nonce"]) or b"")[:4], "big")
    headers = [(header, data) for header, data in vector["header"] if header not in OURS]
    with Encryptor(
        keys,
        context=context,
        suite=vector["suite"],
        bound=[item for (item,) in vector["bound"]],
        framing=vector["reader-framing"] if value is None or value.startswith(MAGIC) else "header",
        tombstones="authenticated",
        topic_names={topic: logical},
    ) as writer:
        sealed = writer.encrypt(
            topic,
            _bytes(vector["plaintext"]),
            _bytes(vector["key"]),
            headers,
            None if lane == 0xFFFFFFFF else lane,
        )
    sent = [(header, data) for header, data in vector["header"]]
    if name == "valid_value_beside_proof":
        sent = sent[1:]  # what stands there besides, no writer makes
    assert sealed == (value, sent)


def test_the_generator_writes_the_files_that_are_here(tmp_path: Path) -> None:
    """Regenerating changes nothing: no vector is edited by hand, and none is left over. spec: 13"""
    generate(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == []


@pytest.mark.parametrize(
    "change",
    [
        ("expect: opens", "expect: opens perhaps"),
        ("stage: none", "stage: later"),
        ("comment:", "remark:"),
        ("nonce:", "iv:"),
        ("plaintext:", "plaintext: 00\nplaintext:"),
    ],
)
def test_the_loader_refuses_what_it_does_not_know(change: tuple[str, str]) -> None:
    """A vector that a runner passes over proves nothing."""
    text = (FOLDER / "valid_key_null.txt").read_text(encoding="utf-8")
    parse(text)
    with pytest.raises(UnknownVectorError):
        parse(text.replace(*change, 1))


def test_the_second_implementation_imports_nothing_of_the_package() -> None:
    """A vector made by the code that it tests would prove nothing."""
    for name in ("generate.py", "second_implementation.py"):
        imports = re.findall(r"^\s*(?:from|import) +([\w.]+)", (FOLDER.parent / name).read_text("utf-8"), re.MULTILINE)
        assert imports
        assert not [module for module in imports if module.split(".")[0] == "streamcrypt"]
