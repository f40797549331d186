"""The headers of messages, asked for once and in one place.

Behaviour met, of confluent-kafka 2.16: for a header whose name is not UTF-8, which any writer can send,
``Message.headers()`` sets an exception at the first call and all the same gives a list that holds a null pointer; from
the second call on it gives that list alone. To look into the list ends the process. Called from C, as by ``map``, the
first call raises SystemError; called from Python code that CPython has specialised it does not even raise. So nothing
of ours calls ``headers()`` on a message that did not pass here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import Message

from streamcrypt.encryptor import HeaderList
from streamcrypt.envelope.header import HEADER_NAME
from streamcrypt.errors import MalformedEnvelope

__all__ = ["UNREADABLE", "headers_of", "read_headers", "unreadable"]

UNREADABLE: HeaderList = [(HEADER_NAME, b"")]
"""What stands on a message whose headers cannot be read: no envelope that opens, none that may be sealed.

So it costs nothing to look for it on the way; compare by identity where a failure is told.
"""


def read_headers(messages: Sequence[Message]) -> list[Any]:
    """Give the headers of messages, :data:`UNREADABLE` where they cannot be read; ask as often as you like.

    Args:
        messages: As a consumer gives them, without those that carry an error.

    Returns:
        For each a list of (name, value), or None.
    """
    found: list[Any] = []
    if not messages:
        return found
    ask = type(messages[0]).headers
    while True:
        try:
            # A list keeps what it was extended by until one raises.
            found.extend(map(ask, messages[len(found) :] if found else messages))
        except (UnicodeDecodeError, SystemError):
            # The stubs know lists only that may hold text.
            mark: Any = UNREADABLE
            messages[len(found)].set_headers(mark)
        else:
            return found


def headers_of(message: Message) -> Any:
    """Give the headers of one message: a list of (name, value), None, or :data:`UNREADABLE`."""
    return read_headers((message,))[0]


def unreadable() -> MalformedEnvelope:
    """Make the failure of a record whose headers cannot be read."""
    return MalformedEnvelope("a header's name is not UTF-8: it can neither be read nor sent on")
