"""Claims about ``streamcrypt cat`` that need no broker: arguments, what a record is, and what is written of it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastavro
import pytest
import yaml

from streamcrypt import Decryptor, Encryptor, KeyUnavailable, LocalKeyProvider
from streamcrypt.cli.cat_avro import AvroReader, NotAvro
from streamcrypt.cli.cat_output import Printer, harmless
from streamcrypt.cli.cat_readers import Expect, build_opener, choose_reader
from streamcrypt.cli.cat_records import Kind, RecordReader
from streamcrypt.cli.cat_request import CatRequest, Format, SchemaFile, Spot, SpotKind, read_spot
from streamcrypt.config import load
from streamcrypt.encryptor import HeaderList
from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.sidecar.cutover import Cutover, TopicCutover
from streamcrypt.sidecar.dead_letters import LETTER_BOUND, DeadLetters
from streamcrypt.testing import ManualClock
from streamcrypt.testing.slow_keys import DECRYPT, ScriptedKeyProvider
from tests.vectors.test_vectors import VECTORS, _bytes, reader_of

NASTY = b"\x1b]0;owned\x07\x9b2J\xe2\x80\xaeevil\r\n\x00"
ITEM = {"type": "record", "name": "Item", "fields": [{"name": "id", "type": "long"}, {"name": "raw", "type": "bytes"}]}


@dataclass
class Record:
    """A record as confluent-kafka's Message shows it."""

    content: bytes | None
    pairs: HeaderList = field(default_factory=list)
    name: str = "payments.encrypted"
    record_key: bytes | None = b"customer-17"
    number: int = 12

    def topic(self) -> str:
        return self.name

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.number

    def value(self) -> bytes | None:
        return self.content

    def key(self) -> bytes | None:
        return self.record_key

    def headers(self) -> HeaderList:
        return list(self.pairs)

    def timestamp(self) -> tuple[int, int]:
        return (1, 1_893_456_000_123)


def of_vector(vector: dict[str, Any]) -> Record:
    """The record of a vector of the specification."""
    pairs = [(name, data) for name, data in vector["header"]]
    return Record(_bytes(vector["value"]), pairs, json.loads(vector["topic"]), _bytes(vector["key"]))


def request(**options: Any) -> CatRequest:
    """What these options ask; not on a terminal."""
    return CatRequest.read("payments", **{"terminal": False, **options})


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spot"),
    [
        ("earliest", Spot(SpotKind.EARLIEST)),
        ("latest", Spot(SpotKind.LATEST)),
        ("0", Spot(SpotKind.OFFSET, 0)),
        ("-5", Spot(SpotKind.LAST, 5)),
        ("2030-01-01T01:00:00.123+01:00", Spot(SpotKind.TIME, 1_893_456_000_123)),
        ("1960-01-01T00:00:00Z", Spot(SpotKind.TIME, 0)),
    ],
)
def test_a_place_is_read(text, spot):
    """Names, offsets, records before the end, instants."""
    assert read_spot(text, "--from") == spot


@pytest.mark.parametrize("text", ["", "-0", "--5", "1.5", "yesterday", "2030-01-01T00:00:00", "-²", "9" * 19])
def test_no_place_is_refused(text):
    """What is none of them, or no instant, is named with its option."""
    with pytest.raises(ConfigError, match="--to"):
        read_spot(text, "--to")


@pytest.mark.parametrize(
    "options",
    [
        {"follow": True, "end": "5"},
        {"end": "-5"},
        {"count": 0},
        {"partitions": [-1]},
        {"form": "xml"},
        {"form": "raw", "envelope": True},
        {"form": "raw", "no_open": True},
        {"form": "avro"},
        {"form": "json", "schemas": ["item.avsc"]},
        {"form": "avro", "schemas": ["item.avsc"], "no_open": True},
        {"form": "avro", "schemas": [""]},
    ],
)
def test_what_does_not_go_together_is_refused(options):
    """As an error of the arguments."""
    with pytest.raises(ConfigError):
        request(**options)


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({}, Format.RAW),
        ({"terminal": True}, Format.TEXT),
        ({"envelope": True}, Format.JSON),
        ({"no_open": True, "terminal": True}, Format.TEXT),
        ({"form": "raw", "terminal": True}, Format.RAW),
    ],
)
def test_the_format_follows_from_where_it_goes(options, form):
    """Text for people, raw for programs, JSON where raw has no room."""
    assert request(**options).form is form


@pytest.mark.parametrize(
    ("text", "data"),
    [(r"\n", b"\n"), (r"\0", b"\0"), (r"\xff\t", b"\xff\t"), ("", b""), ("—", "—".encode()), (r"\\n", rb"\n")],
)
def test_a_delimiter_may_be_any_bytes(text, data):
    """Escapes are read, all else stands for itself."""
    assert request(delimiter=text).delimiter == data


def test_following_begins_at_the_end_unless_told_otherwise():
    """A range begins at the first record."""
    assert request().start.kind is SpotKind.EARLIEST
    assert request(follow=True).start.kind is SpotKind.LATEST
    assert request(follow=True, start="-3").start == Spot(SpotKind.LAST, 3)


# -- what a record is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_each_vector_is_shown_opened_or_with_its_reason(name):
    """Mixed as they are, none stops another, and no sealed byte passes for a value."""
    vector = VECTORS[name]
    with reader_of(vector) as decryptor:
        shown = RecordReader(decryptor).read(of_vector(vector))
    if vector["expect"] == "opens":
        assert (shown.failure, shown.value) == (None, _bytes(vector["plaintext"]))
        return
    assert type(shown.failure).__name__ == vector["expect"]
    assert not shown.opened
    if shown.kind is not Kind.PLAINTEXT:
        assert shown.value is None


@pytest.mark.parametrize("name", [name for name, v in VECTORS.items() if "nonce" in v])
def test_the_facts_of_each_envelope_are_those_of_the_vector(name):
    """Without a key: suite, public id, KEKs, context, bound fields, lane and sequence."""
    vector = VECTORS[name]
    facts = RecordReader(None).read(of_vector(vector)).envelope
    assert facts is not None
    tree, nonce = facts.as_tree(), _bytes(vector["nonce"])
    lane = int.from_bytes(nonce[:4], "big")
    assert tree["suite"] == vector["suite"]
    assert tree["data_key"] == vector["commitment"]
    assert [[k["provider"], k["key_id"]] for k in tree["keks"]] == [k[:2] for k in vector["encrypted-data-key"]]
    assert tree["context"] == dict(vector["context"])
    assert tree["bound"] == [item for (item,) in vector["bound"]]
    assert tree["lane"] == (None if lane == 0xFFFFFFFF else lane)
    assert tree["sequence"] == int.from_bytes(nonce[4:], "big")


def test_a_record_without_an_envelope_fails_where_one_is_due():
    """It is shown all the same, and marked; below a cut-over and where clear text is at home it passes."""
    bare = Record(b"clear")
    with Decryptor(LocalKeyProvider.generate()) as opener:
        refused = RecordReader(opener).read(bare)
        assert (refused.kind, refused.value, type(refused.failure).__name__) == (
            Kind.PLAINTEXT, b"clear", "PlaintextRejected",
        )  # fmt: skip
        assert RecordReader(opener, Expect.PLAINTEXT).read(bare).failure is None
        assert RecordReader(opener, allow_plaintext=True).read(bare).failure is None
        cut = Cutover({"payments.encrypted": TopicCutover("x" * 22, {0: 13})})
        assert RecordReader(opener, cutover=cut).read(bare).failure is None
        bare.number = 13
        assert RecordReader(opener, cutover=cut).read(bare).failure is not None


def test_a_key_service_that_is_away_is_not_asked_for_every_record():
    """The same data key is asked for again after five seconds only."""
    keys = LocalKeyProvider.generate()
    with Encryptor(keys) as sealer:
        value, pairs = sealer.encrypt("payments.encrypted", b"secret", b"customer-17")
    script, clock = ScriptedKeyProvider(keys), ManualClock()
    script.script(DECRYPT, KeyUnavailable("away"))
    with Decryptor(script) as opener:
        records = RecordReader(opener, clock=clock)
        for _ in range(3):
            assert isinstance(records.read(Record(value, pairs)).failure, KeyUnavailable)
        clock.advance(6)
        assert records.read(Record(value, pairs)).value == b"secret"


def test_a_dead_letter_opens_as_what_it_was():
    """One of a decrypting pipeline under its topic's name, one of an encrypting pipeline as it was sealed."""
    keys, away = LocalKeyProvider.generate(), StreamcryptError("why")
    with Encryptor(keys) as sealer, Encryptor(keys, bound=LETTER_BOUND) as letter_sealer, Decryptor(keys) as opener:
        value, pairs = sealer.encrypt("payments.encrypted", b"secret", b"customer-17")
        record = (value, b"customer-17", pairs)
        letter = DeadLetters("p", "dlq", None).letter(("payments.encrypted", 0), 3, record, 0, away)
        shown = RecordReader(opener, Expect.LETTERS_AS_READ).read(Record(letter.value, letter.headers, "dlq"))
        assert (shown.failure, shown.value) == (None, b"secret")
        assert ("streamcrypt-dlq-offset", b"3") in shown.headers
        clear = (b"clear", b"customer-17", [])
        letters = DeadLetters("p", "dlq", letter_sealer.topic("dlq"))
        letter = letters.letter(("payments", 0), 3, clear, 0, away)
        shown = RecordReader(opener, Expect.SEALED_LETTERS).read(Record(letter.value, letter.headers, "dlq"))
        assert (shown.failure, shown.value) == (None, b"clear")


# -- who reads a topic -------------------------------------------------------------------------------------------------

PIPELINES = [
    {"name": "seal", "mode": "encrypt", "from": "orders", "to": "{topic}.sealed", "on_failure": "dead_letter",
     "dead_letter": "seal.dlq"},
    {"name": "open", "mode": "decrypt", "from": "orders.sealed", "to": "clear", "on_failure": "dead_letter",
     "dead_letter": "open.dlq"},
    {"name": "move", "mode": "reencrypt", "how": "reseal", "from": "old", "to": "new"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("topic", "pipeline", "expects", "known"),
    [
        ("orders.sealed", "open", Expect.SEALED, True),
        ("refunds.sealed", "seal", Expect.SEALED, True),
        ("old", "move", Expect.SEALED, True),
        ("new", "move", Expect.SEALED, True),
        ("seal.dlq", "seal", Expect.SEALED_LETTERS, True),
        ("open.dlq", "open", Expect.LETTERS_AS_READ, True),
        ("orders", "seal", Expect.PLAINTEXT, True),
        ("clear", "open", Expect.PLAINTEXT, True),
        ("stranger", "seal", Expect.SEALED, False),
    ],
)
def test_a_topic_is_read_by_the_pipeline_that_knows_it_best(tmp_path: Path, topic, pipeline, expects, known):
    """Who opens it, before who seals it, before who has it in clear; and what opens can be built."""
    LocalKeyProvider.generate().save(tmp_path / "keyring.json")
    tree = {
        "kafka": {"bootstrap.servers": "x:1"},
        "keys": {"provider": "local", "keyring": "keyring.json"},
        "pipelines": PIPELINES,
    }
    path = tmp_path / "streamcrypt.yaml"
    path.write_text(yaml.safe_dump(tree))
    settings = load(path, {})
    reader = choose_reader(settings, topic)
    assert (reader.pipeline.name, reader.expects, reader.known) == (pipeline, expects, known)
    build_opener(settings, reader).close()


# -- what is written ---------------------------------------------------------------------------------------------------


def shown_in(form: str, value: bytes | None, *, terminal: bool, **options: Any) -> bytes:
    """What is written of a record in clear, whose key and headers are nasty, too."""
    record = RecordReader(None, Expect.PLAINTEXT).read(Record(value, [("h\x1b", NASTY)], record_key=NASTY))
    asked = CatRequest.read("payments", terminal=terminal, form=form, **options)
    return Printer(asked, terminal=terminal).render(record)[0]


@pytest.mark.parametrize("form", ["text", "raw", "json"])
def test_content_commands_no_terminal(form):
    """No control character but a line's end, nothing that turns text around, whatever key, header or value hold."""
    written = shown_in(form, NASTY, terminal=True).decode()
    assert all(c.isprintable() or c == "\n" for c in written)
    assert "\u202e" not in written


def test_content_looks_like_one_record_only():
    """A value's line ends are escaped in text: no record is forged within another."""
    lines = shown_in("text", b"x\npayments.encrypted[0] offset 13", terminal=True).decode().splitlines()
    assert lines[-1] == "    x\\npayments.encrypted[0] offset 13"


@pytest.mark.parametrize("value", [b"", NASTY, bytes(range(256))])
def test_raw_is_the_bytes_of_the_value_where_it_is_piped(value):
    """And the delimiter behind them."""
    assert shown_in("raw", value, terminal=False, delimiter=r"\0") == value + b"\0"


def test_what_json_cannot_hold_is_marked():
    """Bytes that are no UTF-8 are base64 under a name that says so; null is null, and not empty."""
    assert json.loads(shown_in("json", b"\xff\x00", terminal=False))["value"] == {"base64": "/wA="}
    assert json.loads(shown_in("json", b"", terminal=False))["value"] == ""
    assert json.loads(shown_in("json", None, terminal=False))["value"] is None


def test_harmless_text_stays_as_it_is():
    """Umlauts and emoji are no danger; escapes are told by their code."""
    assert harmless("Grüße 🔑 x") == "Grüße 🔑 x"
    assert harmless("\x1b\u200b\U000e0001\t") == "\\x1b\\u200b\\U000e0001\\t"
    assert harmless(b"\xff") == "\\xff"


# -- Avro --------------------------------------------------------------------------------------------------------------


def avro(datum: Any, schema: Any = ITEM, prefix: bytes = b"") -> bytes:
    """A datum as it is sent."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, datum)
    return prefix + out.getvalue()


def readers(directory: Path, *schemas: tuple[Any, int | None]) -> AvroReader:
    """A reader of these schemas."""
    files = []
    for place, (schema, number) in enumerate(schemas):
        path = directory / f"{place}.avsc"
        path.write_text(json.dumps(schema))
        files.append(SchemaFile(path, number))
    return AvroReader(files)


def test_avro_is_read_plain_or_behind_the_prefix(tmp_path):
    """One schema reads both; a datum that begins with a zero is no prefix."""
    reader = readers(tmp_path, (ITEM, None))
    for prefix in (b"", b"\0\0\0\0\x07"):
        assert reader.read(avro({"id": 0, "raw": b"\xff12345"}, prefix=prefix)) == {
            "id": 0,
            "raw": {"base64": "/zEyMzQ1"},
        }


def test_schemas_with_ids_are_taken_by_the_prefix(tmp_path):
    """A value that names none of them, or nothing, is not guessed at."""
    reader = readers(tmp_path, (ITEM, 7), ({"type": "string"}, 9))
    assert reader.read(avro("x", {"type": "string"}, b"\0\0\0\0\x09")) == "x"
    for prefix in (b"\0\0\0\0\x08", b""):
        with pytest.raises(NotAvro):
            reader.read(avro("xxxxxx", {"type": "string"}, prefix))


@pytest.mark.parametrize(
    ("schema", "datum", "plain"),
    [
        ({"type": "double"}, float("nan"), "nan"),
        ({"type": "int", "logicalType": "date"}, 20_000, "2024-10-04"),
        ({"type": "array", "items": ["null", "long"]}, [None, 2**60], [None, 2**60]),
        ({"type": "map", "values": "bytes"}, {"a": b"x"}, {"a": {"base64": "eA=="}}),
    ],
)
def test_what_json_has_no_word_for_is_text(tmp_path, schema, datum, plain):
    """So that each line is JSON."""
    raw = {"type": "int"} if schema.get("logicalType") else schema
    assert readers(tmp_path, (schema, None)).read(avro(datum, raw)) == plain


@pytest.mark.parametrize("value", [b"", b"\x02", avro({"id": 1, "raw": b"x"}) + b"more", b"\x02\xff\xff\xff\xff\xff"])
def test_what_is_no_avro_is_a_failure_of_the_record(tmp_path, value):
    """Cut short, too long or nonsense: one error, which quotes nothing, and the value beside it."""
    (tmp_path / "0.avsc").write_text(json.dumps(ITEM))
    record = RecordReader(None, Expect.PLAINTEXT).read(Record(value))
    printer = Printer(request(form="avro", schemas=[str(tmp_path / "0.avsc")]), terminal=False)
    data, failure = printer.render(record)
    assert isinstance(failure, NotAvro)
    assert json.loads(data)["failure"]["error"] == "NotAvro"


@pytest.mark.parametrize("text", ["{", '{"type": "nonsense"}'])
def test_no_schema_is_an_error_of_the_arguments(tmp_path, text):
    """So is a file that is not there, and a second schema without an id."""
    path = tmp_path / "item.avsc"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no Avro schema"):
        AvroReader([SchemaFile(path)])
    with pytest.raises(ConfigError, match="No such file"):
        AvroReader([SchemaFile(tmp_path / "missing")])
    with pytest.raises(ConfigError, match="an id each"):
        readers(tmp_path, (ITEM, None), (ITEM, 7))
