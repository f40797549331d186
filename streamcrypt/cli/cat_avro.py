"""Avro values as JSON has them: plain, or behind the prefix that Confluent's serializers write."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from io import BytesIO
from struct import Struct
from typing import Any
from uuid import UUID

from fastavro import parse_schema, schemaless_reader

from streamcrypt.cli.cat_request import SchemaFile
from streamcrypt.errors import ConfigError, StreamcryptError

__all__ = ["AvroReader", "NotAvro"]

# A zero byte and the schema's id. Source: Confluent, "Wire format" of Schema Registry.
_prefix = Struct(">bI")


class NotAvro(StreamcryptError):
    """A value opened, and it is not what the schema says."""

    remedy = "Pass the schema that the record was written with."


class AvroReader:
    """Reads values with the schemas that were given.

    Args:
        files: Schemas; with ids, a value has to carry the prefix with one of them.

    Raises:
        ConfigError: A file cannot be read or is no schema, or schemas with and without id are mixed.
    """

    def __init__(self, files: Sequence[SchemaFile]) -> None:
        self._by_id = {file.number: _load(file) for file in files}
        if len(self._by_id) != len(files) or (None in self._by_id and len(files) > 1):
            raise ConfigError("several --schema need an id each, once", remedy="Write --schema 7=FILE --schema 9=FILE.")

    def read(self, value: bytes) -> Any:
        """Give a value as JSON has it: bytes as ``{"base64": …}``, what JSON has no word for as text.

        Raises:
            NotAvro: It does not read to its last byte, or names another schema.
        """
        number: int | None = None
        if len(value) > _prefix.size and value[0] == 0:
            number = _prefix.unpack_from(value)[1]
        if None in self._by_id:
            schema = self._by_id[None]
            if number is not None:
                # A datum may begin with a zero, too, but then it hardly reads to its last byte five bytes on.
                try:
                    return _read(schema, value[_prefix.size :])
                except NotAvro:
                    pass
            return _read(schema, value)
        if number not in self._by_id:
            has = "no prefix of a schema's id" if number is None else f"the prefix of schema {number}"
            raise NotAvro(f"the value has {has}; there are {', '.join(map(str, self._by_id))}")
        return _read(self._by_id[number], value[_prefix.size :])


def _load(file: SchemaFile) -> Any:
    try:
        return parse_schema(json.loads(file.path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"--schema {file.path}: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  fastavro has no base of its own for what is no schema
        raise ConfigError(f"--schema {file.path} is no Avro schema: {type(error).__name__}: {error}") from None


def _read(schema: Any, data: bytes) -> Any:
    body = BytesIO(data)
    try:
        datum = schemaless_reader(body, schema, None)
    except Exception:  # noqa: BLE001  a parser over bytes of anybody's; its text may quote them
        raise NotAvro("the value does not read with this schema") from None
    if body.tell() != len(data):
        raise NotAvro(f"the value goes on for {len(data) - body.tell()} bytes behind what the schema says")
    return _plain(datum)


def _plain(datum: Any) -> Any:
    if isinstance(datum, bytes):
        return {"base64": b64encode(datum).decode()}
    if isinstance(datum, dict):
        return {str(name): _plain(item) for name, item in datum.items()}
    if isinstance(datum, (list, tuple)):
        return [_plain(item) for item in datum]
    if isinstance(datum, float) and not math.isfinite(datum):
        return str(datum)
    if isinstance(datum, (datetime, date, time)):
        return datum.isoformat()
    return str(datum) if isinstance(datum, (Decimal, UUID)) else datum
