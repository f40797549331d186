"""A batch is opened block by block, and comes out as if each record had been opened by itself."""

from __future__ import annotations

import itertools
import linecache
import sys
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message
from hypothesis import given
from hypothesis import strategies as st

import streamcrypt as sc
from streamcrypt.clients import consumer as consumer_module
from streamcrypt.clients.headers import UNREADABLE
from streamcrypt.events import RecordFailed
from streamcrypt.testing import CollectingObserver

KINDS = ("sealed", "other key", "headers", "tombstone", "proved tombstone", "altered", "plaintext", "short", "error")
# Its framing is another one, so that it stands beside none of these.
INSIDE = "self-contained"
KEYS = sc.LocalKeyProvider.generate()
SEALERS = (
    sc.Encryptor(KEYS),
    sc.Encryptor(KEYS),
    sc.Encryptor(KEYS, tombstones="authenticated"),
    sc.Encryptor(KEYS, framing="self_contained"),
)


def _record(kind: str, number: int) -> dict[str, Any]:
    value: bytes | None = b"%d" % number
    headers: Any = [("h", b"v")] if kind == "headers" else None
    sealer = SEALERS[(kind == "other key") + 2 * (kind == "proved tombstone") + 3 * (kind == INSIDE)]
    if kind not in ("tombstone", "plaintext"):
        value, headers = sealer.encrypt("t", None if kind == "proved tombstone" else value, b"k%d" % number, headers)
    if kind == "altered":
        value = bytes(len(value or b""))
    if kind == "short":
        value = b"short"
    return {"value": None if kind == "tombstone" else value, "headers": headers}


def _message(place: tuple[str, int], number: int, kind: str, record: dict[str, Any]) -> Message:
    error = KafkaError(KafkaError._PARTITION_EOF) if kind == "error" else None
    return Message(topic=place[0], partition=place[1], offset=number, key=b"k%d" % number, error=error, **record)


def _seen(message: Message) -> tuple[Any, ...]:
    failure = sc.failure_of(message)
    return message.offset(), message.value(), message.headers(), type(failure or message.error())


def _stored(consumer: sc.DecryptingConsumer) -> dict[Any, int]:
    consumer._store_done()
    return {place: stored.offset for place, stored in consumer._stored.items()}


def _consumer(framing: str = "header") -> sc.DecryptingConsumer:
    decryptor = sc.Decryptor(KEYS, framing=framing)
    return sc.DecryptingConsumer(
        {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0}, decryptor=decryptor
    )


@given(
    st.lists(
        st.tuples(st.sampled_from([("t", 0), ("t", 1), ("u", 0)]), st.sampled_from(KINDS), st.integers(1, 3)),
        max_size=12,
    )
)
def test_a_batch_opens_as_its_records_do_one_by_one(plan):
    """Whatever stands beside what, in whichever partition: the same values, headers and failures in the same order."""
    wanted = [(place, kind) for place, kind, times in plan for _ in range(times)]
    records = [_record(kind, number) for number, (_, kind) in enumerate(wanted)]

    def batch() -> list[Message]:
        return [_message(p, n, kind, records[n]) for n, (p, kind) in enumerate(wanted)]

    together, alone = _consumer(), _consumer()
    found = batch()
    if not together._open_all(found):
        found = together._go_on(len(wanted), 0.0, 0.0, lambda _count, _seconds: [])
    one_by_one: list[Message] = []
    for message in batch():
        if alone._open_all([message]):
            one_by_one.append(message)
        else:
            one_by_one += alone._go_on(1, 0.0, 0.0, lambda _count, _seconds: [])
    assert [_seen(message) for message in found] == [_seen(message) for message in one_by_one]
    assert _stored(together) == _stored(alone)
    together.close()
    alone.close()


def test_more_records_than_one_block_open_whole():
    consumer = _consumer()
    batch = [_message(("t", 0), n, "sealed", _record("sealed", n)) for n in range(700)]
    assert consumer._open_all(batch)
    assert [message.value() for message in batch] == [b"%d" % n for n in range(700)]
    assert {message.headers() for message in batch} == {None}
    consumer.close()


def test_a_record_whose_headers_cannot_be_read_is_raised_with_the_reason_and_its_bytes():
    """What is raised is what the message carries."""
    decryptor, seen = sc.Decryptor(KEYS), CollectingObserver()
    consumer = sc.DecryptingConsumer(
        {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0},
        decryptor=decryptor,
        on_error="raise",
        observer=seen,
    )
    message = _message(("t", 0), 7, "sealed", {"value": b"sealed bytes", "headers": None})
    message.set_headers(UNREADABLE)
    assert not consumer._open_all([message])
    with pytest.raises(sc.MalformedEnvelope, match="not UTF-8") as raised:
        consumer._go_on(1, 0.0, 0.0, lambda _count, _seconds: [])
    assert (raised.value.sealed_value, message.headers()) == (b"sealed bytes", None)
    assert "not UTF-8" in seen.of(RecordFailed)[0].detail
    assert UNREADABLE == [("streamcrypt", b"")]
    consumer.close()


class _Interrupting:
    """Interrupts at the n-th line that a module runs in some functions, as a signal handler may."""

    def __init__(self, at: int, names: set[str]) -> None:
        self._left, self._names = at, names

    def __call__(self, frame, event, _argument):
        if frame.f_code.co_filename != consumer_module.__file__ or frame.f_code.co_name not in self._names:
            return None
        # Signals are looked at after calls and at jumps back, and so never between this line and the caller's return.
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "return True":
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self


def _interrupted(at: int, names: set[str], work) -> bool:
    """Do the work, interrupted at that line; whether it was."""
    before = sys.gettrace()
    sys.settrace(_Interrupting(at, names))
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("kind", ["sealed", INSIDE])
@pytest.mark.parametrize("way", ["a batch", "what is held"])
def test_an_interrupt_at_any_line_loses_no_record_and_opens_none_twice(kind, way):
    """Opened again, it would be plaintext without an envelope, and fail."""
    records = [_record(kind, number) for number in range(3)]
    for at in itertools.count(1):
        consumer = _consumer("self_contained" if kind == INSIDE else "header")
        batch = [_message(("t", n // 2), n, kind, record) for n, record in enumerate(records)]
        if way == "a batch":
            names = {"_open_all", "_open_block", "_open_one", "_fill", "_runs"}
            interrupted = _interrupted(at, names, lambda c=consumer, b=batch: c._open_all(b))
        else:
            consumer._held.extend((message, None) for message in batch)
            names = {"_opened", "_open_one", "_fill"}
            interrupted = _interrupted(at, names, lambda c=consumer: c._go_on(3, 0.0, 0.0, lambda _count, _seconds: []))
        if not interrupted:
            consumer.close()
            break
        consumer._hold_unopened(batch)  # as consume() does
        assert not consumer._done
        found = consumer._go_on(3, 0.0, 0.0, lambda _count, _seconds: [])
        assert [message.error() for message in found] == [None] * 3
        assert [message.value() for message in found] == [b"0", b"1", b"2"]
        consumer.close()
    assert at > 5


def test_an_interrupt_at_any_line_while_records_are_handed_over_loses_none_and_stores_no_offset():
    """What the interrupted call had taken out is given by the next one, each record once."""
    for at in itertools.count(1):
        consumer = _consumer("header")
        batch = [_message(("t", n // 2), n, "sealed", _record("sealed", n)) for n in range(4)]
        consumer._held.append((batch[0], None))
        consumer._busy = True
        unread = [batch[1:]]
        names = {"_go_on", "_take_held"}

        def read(_count, _seconds, unread=unread):
            return unread.pop() if unread else []

        if not _interrupted(at, names, lambda c=consumer, r=read: c._go_on(4, 0.0, 0.0, r)):
            consumer.close()
            break
        assert not consumer._done
        assert consumer._busy
        found = consumer._go_on(4, 0.0, 0.0, read)
        assert [message.value() for message in found] == [b"0", b"1", b"2", b"3"]
        consumer.close()
    assert at > 40


def test_an_observer_that_raises_loses_no_record():
    """The record that failed is handed over by the next call, with its sealed bytes."""
    seen: list[RecordFailed] = []

    def observer(event):
        seen.append(event)
        if len(seen) == 1:
            raise RuntimeError("a mistake of the application's")

    consumer = sc.DecryptingConsumer(
        {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0},
        decryptor=sc.Decryptor(KEYS),
        observer=observer,
    )
    batch = [
        _message(("t", 0), 0, "sealed", {"value": b"bare", "headers": None}),
        _message(("t", 0), 1, "sealed", _record("sealed", 1)),
    ]
    consumer._held.extend((message, None) for message in batch)
    with pytest.raises(RuntimeError, match="a mistake"):
        consumer._go_on(2, 0.0, 0.0, lambda _count, _seconds: [])
    found = consumer._go_on(2, 0.0, 0.0, lambda _count, _seconds: [])
    assert [message.offset() for message in found] == [0, 1]
    assert sc.failure_of(found[0]).sealed_value == b"bare"
    assert found[1].value() == b"1"
    consumer.close()


def test_an_interrupt_while_keys_are_looked_ahead_loses_no_record():
    """The batch is held, and handed over by the next call."""

    class Interrupted(sc.Decryptor):
        def look_ahead(self, *_args: object, **_options: object) -> int:
            raise KeyboardInterrupt

    consumer = sc.DecryptingConsumer(
        {"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0}, decryptor=Interrupted(KEYS)
    )
    consumer._misses = -1
    batch = [_message(("t", 0), n, "sealed", _record("sealed", n)) for n in range(3)]
    with pytest.raises(KeyboardInterrupt):
        consumer._open_all(batch)
    found = consumer._go_on(3, 0.0, 0.0, lambda _count, _seconds: [])
    assert [message.value() for message in found] == [b"0", b"1", b"2"]
    consumer.close()
