"""One record as ``streamcrypt cat`` shows it: what it is, what its envelope says, what it holds, or why not.

Rule 1: what stands in ``value`` is authenticated, or was never sealed; sealed bytes never do.
Rule 2: one record's failure is a fact of that record, and no other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from streamcrypt.cli.cat_envelope import EnvelopeFacts, facts_of
from streamcrypt.cli.cat_readers import Expect
from streamcrypt.clients.headers import UNREADABLE, headers_of, unreadable
from streamcrypt.decryptor import Decryptor
from streamcrypt.encryptor import HeaderList
from streamcrypt.envelope.header import OUR_HEADERS
from streamcrypt.errors import (
    EnvelopeError,
    KeyServiceError,
    PlaintextRejected,
    StreamcryptError,
    again,
)
from streamcrypt.sidecar.cutover import Cutover
from streamcrypt.sidecar.dead_letters import MalformedLetter, Origin, without_our_headers

__all__ = ["Kind", "RecordReader", "ShownRecord"]

# A key service that is away, or refuses, is not asked again for every record of the same data key.
_ASK_AGAIN = 5.0
_REMEMBERED = 1000


class Kind(StrEnum):
    """What a record is, by what stands on the topic."""

    SEALED = "sealed"
    PLAINTEXT = "plaintext"
    TOMBSTONE = "tombstone"
    MALFORMED = "malformed"


# Without a repr: no trace of a record's content in a message of an error.
@dataclass(frozen=True, slots=True, repr=False)
class ShownRecord:
    """A record as it is shown.

    Attributes:
        topic, partition, offset: Where it stands.
        timestamp: Milliseconds since 1970; None where it has none.
        key: Its key.
        headers: Its headers without ours.
        kind: What it is.
        value: What it holds, opened or never sealed; None where it could not be opened, and for a tombstone.
        opened: Whether its envelope proved it.
        envelope: What its envelope says; None where it has none that can be read.
        failure: Why it is not opened; None where it is, and where it needs no opening.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    headers: HeaderList
    kind: Kind
    value: bytes | None = None
    opened: bool = False
    envelope: EnvelopeFacts | None = None
    failure: StreamcryptError | None = None

    @property
    def place(self) -> str:
        """Where it stands, as people write it."""
        return f"{self.topic}[{self.partition}] offset {self.offset}"


class RecordReader:
    """Makes of messages what is shown.

    Args:
        decryptor: Opens; None: nothing is opened, and no key is asked for.
        expects: What stands on the topic.
        cutover: Up to where a record may be without an envelope.
        allow_plaintext: Take any record without an envelope.
        clock: Seconds, for how long a refusal of the key service is remembered.
    """

    def __init__(
        self,
        decryptor: Decryptor | None,
        expects: Expect = Expect.SEALED,
        cutover: Cutover | None = None,
        *,
        allow_plaintext: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._decryptor = decryptor
        self._expects = expects
        self._cutover = cutover or Cutover()
        self._any_plaintext = allow_plaintext or expects is Expect.PLAINTEXT
        self._clock = clock
        self._away: dict[bytes, tuple[float, StreamcryptError]] = {}

    def read(self, message: Any) -> ShownRecord:
        """Look at one message, and open it where it is sealed. A record that does not open carries its failure."""
        kind_of_time, milliseconds = message.timestamp()
        value: bytes | None = message.value()
        where = (message.topic(), message.partition(), message.offset())
        known = (*where, milliseconds if kind_of_time else None, message.key())
        headers: HeaderList = headers_of(message) or []
        if headers is UNREADABLE:
            return ShownRecord(*known, [], Kind.MALFORMED, failure=unreadable())
        rest = [pair for pair in headers if pair[0] not in OUR_HEADERS]
        facts, error = _facts(value, headers)
        if error is not None:
            kind = Kind.MALFORMED
        elif value is None:
            kind = Kind.TOMBSTONE
        else:
            kind = Kind.SEALED if facts is not None else Kind.PLAINTEXT
        seen = (*known, rest, kind)
        if facts is None and error is None and self._may_be_bare(*where, value, headers):
            return ShownRecord(*seen, value)
        if self._decryptor is None:
            if kind is Kind.PLAINTEXT:
                error = _no_envelope()
            return ShownRecord(*seen, value if kind is Kind.PLAINTEXT else None, envelope=facts, failure=error)
        try:
            plain = self._open(where[0], where[1], value, known[4], headers, facts)
        except StreamcryptError as failure:
            bare = value if kind is Kind.PLAINTEXT else None
            return ShownRecord(*seen, bare, envelope=facts, failure=again(failure))
        return ShownRecord(*known, rest, kind, plain, opened=facts is not None, envelope=facts)

    def _may_be_bare(self, topic: str, partition: int, offset: int, value: bytes | None, headers: HeaderList) -> bool:
        return self._any_plaintext or self._cutover.admits(topic, partition, offset, value, headers)

    def _open(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: HeaderList,
        facts: EnvelopeFacts | None,
    ) -> bytes | None:
        assert self._decryptor is not None
        header = b"" if facts is None else facts.header_bytes
        until, known = self._away.get(header, (0.0, None))
        if known is not None and self._clock() < until:
            raise known
        own = headers
        if self._expects is Expect.LETTERS_AS_READ and (origin := _origin(headers)) is not None:
            # It opens as what it was, or not at all: the envelope is bound to the topic that the letter names.
            topic, own = origin.topic, without_our_headers(headers)
        try:
            plain, _ = self._decryptor.decrypt(topic, value, key, own, partition)
        except KeyServiceError as error:
            if len(self._away) >= _REMEMBERED:
                self._away.clear()
            self._away[header] = self._clock() + _ASK_AGAIN, error
            raise
        return plain


def _facts(value: bytes | None, headers: HeaderList) -> tuple[EnvelopeFacts | None, EnvelopeError | None]:
    try:
        return facts_of(value, headers), None
    except EnvelopeError as error:
        return None, error


def _no_envelope() -> PlaintextRejected:
    return PlaintextRejected("the record has no envelope: it is not sealed, or its header was stripped")


def _origin(headers: HeaderList) -> Origin | None:
    try:
        return Origin.read(headers)
    except MalformedLetter:
        return None
