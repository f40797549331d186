"""Claims about what libraries say: it comes in our stream at our levels, and never with what may quote a key."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import sys
import threading
import warnings

import pytest
from confluent_kafka import Producer

import streamcrypt as sc
from streamcrypt import errors
from streamcrypt.events import DataKeyMintFailed, DataKeyRefused, KeyServiceCalled, PartitionPaused
from streamcrypt.observe.logs import Logs
from tests.broker import wait_until
from tests.kms import make_client

CONTEXT = {"streamcrypt:topic": "payments"}


def _lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _forms(key: bytes) -> tuple[str, ...]:
    return base64.b64encode(key).decode(), key.hex(), repr(key)[2:-1], str(list(key))


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_data_key_passes_at_debug(server, provider_of, style):
    """Not even of a client beside ours, of which botocore logs whole answers: our stream takes no DEBUG of it."""
    stream, heard = io.StringIO(), []
    arn = server.create_key("alias/a")
    answers = logging.getLogger("botocore.parsers")
    tap = logging.Handler()
    tap.emit = lambda record: heard.append(record.getMessage())
    before = answers.level
    with Logs("debug", style, stream) as logs:
        # As somebody would who looks for a fault: the logger itself is set, past what we set above it.
        answers.setLevel(logging.DEBUG)
        answers.addHandler(tap)
        plain = make_client(server.url)
        try:
            provider = provider_of("alias/a", observer=logs.observer())
            made = provider.generate_data_key(CONTEXT)
            keys = [bytes(made.plaintext), plain.generate_data_key(KeyId=arn, KeySpec="AES_256")["Plaintext"]]
            [(encrypted, key_id)] = provider.trusted(made.encrypted)
            keys.append(bytes(provider.decrypt_data_key(encrypted, key_id, CONTEXT)))
        finally:
            plain.close()
            answers.removeHandler(tap)
            answers.setLevel(before)
    assert any(form in text for form in _forms(keys[1]) for text in heard), "botocore did log the answer"
    written = stream.getvalue()
    assert "key_service.called" in written
    assert [form for key in keys for form in _forms(key) if form in written] == []


def test_levels_of_libraries_are_translated():
    """ERROR of a library is our warning: what holds records up is told by lines of our own."""
    stream = io.StringIO()
    with Logs("debug", stream=stream):
        for number in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
            for name in ("librdkafka", "botocore.credentials", "somebody.else"):
                logging.getLogger(name).log(number, "said")
    found = {(line["logger"], line["level"]) for line in _lines(stream)}
    assert found == {
        (name, level)
        for name in ("librdkafka", "botocore.credentials", "somebody.else")
        for level in ("error", "warning", "debug")
    }
    assert sum(line["level"] == "debug" for line in _lines(stream)) == 4, "DEBUG of librdkafka alone, INFO of all three"


def test_at_info_libraries_make_no_records_below_warning():
    """So that nothing is spent on them."""
    with Logs("info", stream=io.StringIO()) as logs:
        quiet = [logging.getLogger(name).isEnabledFor(logging.INFO) for name in ("librdkafka", "botocore", "any")]
        logs.set_level("debug")
        loud = [logging.getLogger(name).isEnabledFor(logging.INFO) for name in ("librdkafka", "botocore", "any")]
        assert not logging.getLogger("botocore.parsers").isEnabledFor(logging.DEBUG)
    assert (quiet, loud) == ([False] * 3, [True] * 3)


def test_what_librdkafka_says_has_client_and_facility():
    """As its binding logs it, from its own thread's queue, when the client is polled."""
    stream = io.StringIO()
    with Logs("info", stream=stream):
        # Nobody listens on port 1.
        producer = Producer(
            {"bootstrap.servers": "127.0.0.1:1", "client.id": "folded", "logger": logging.getLogger("librdkafka")}
        )

        def has_failed() -> bool:
            producer.poll(0.05)
            return "FAIL" in stream.getvalue()

        wait_until(has_failed, "a line of librdkafka")
        producer.close()
    said = next(line for line in _lines(stream) if line.get("facility") == "FAIL")
    assert (said["event"], said["level"], said["logger"]) == ("library.message", "warning", "librdkafka")
    assert said["client"].startswith("folded#producer-")
    assert "Connection refused" in said["message"]


def test_arguments_that_do_not_fit_their_text_stop_nobody():
    stream = io.StringIO()
    with Logs("info", stream=stream) as logs:
        # Not by way of a logger: pytest's own handler raises at it.
        logs._fold_in.handle(logging.LogRecord("somebody.else", logging.WARNING, "", 0, "%d and %d", ("one",), None))
    (line,) = _lines(stream)
    assert (line["event"], line["message"]) == ("library.message", "%d and %d")


def test_a_warning_of_python_is_a_line():
    """And no text beside the JSON objects."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with Logs("info", stream=stream):
            warnings.warn("boto3 will no longer support this", FutureWarning, stacklevel=1)
    (line,) = _lines(stream)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "will no longer support" in line["message"]


# -- exceptions that nobody catches ------------------------------------------------------------------------------------


def _raise_on_a_thread(error: Exception) -> None:
    def fail() -> None:
        raise error

    thread = threading.Thread(target=fail, name="pipeline-payments")
    thread.start()
    thread.join()


def test_an_exception_on_a_thread_is_a_line_without_its_text():
    """A UnicodeDecodeError, say, quotes the record."""
    stream = io.StringIO()
    with Logs("info", stream=stream):
        _raise_on_a_thread(ValueError("PLAINTEXT of a record"))
    (line,) = _lines(stream)
    assert (line["event"], line["level"]) == ("process.exception", "error")
    assert (line["thread"], line["error"], line["detail"]) == ("pipeline-payments", "ValueError", "")
    assert line["frames"][-1].startswith("tests/unit/test_logs_libraries.py:")
    assert line["frames"][-1].endswith(" fail")
    assert "PLAINTEXT" not in stream.getvalue()


def test_an_exception_of_ours_keeps_its_text():
    stream = io.StringIO()
    with Logs("info", stream=stream):
        _raise_on_a_thread(errors.KeyRefused("KMS said no"))
    (line,) = _lines(stream)
    assert (line["error"], line["detail"]) == ("KeyRefused", "KMS said no")


def test_an_exception_where_nobody_can_catch_it_is_a_line():
    """As in a finaliser."""

    class Broken:
        def __del__(self):
            raise ValueError("PLAINTEXT of a record")

    stream = io.StringIO()
    with Logs("info", stream=stream):
        Broken()
        gc.collect()
    (line,) = _lines(stream)
    assert (line["event"], line["error"], line["detail"]) == ("process.exception", "ValueError", "")
    assert "PLAINTEXT" not in stream.getvalue()


def test_the_end_undoes_what_the_beginning_did():
    hooks, levels = (threading.excepthook, sys.unraisablehook, warnings.showwarning), _levels()
    with Logs("debug", stream=io.StringIO()):
        assert hooks != (threading.excepthook, sys.unraisablehook, warnings.showwarning)
        assert levels != _levels()
    assert hooks == (threading.excepthook, sys.unraisablehook, warnings.showwarning)
    assert levels == _levels()


def _levels() -> list[int]:
    return [logging.getLogger(name).level for name in ("", "librdkafka", "boto3", "botocore", "urllib3")]


# -- the level, and fields of every line -------------------------------------------------------------------------------


def test_the_level_changes_while_the_process_runs():
    """In both directions, each with a line at warning that says so."""
    stream = io.StringIO()
    logs = Logs("info", stream=stream)
    observer = logs.observer()
    call = KeyServiceCalled("Decrypt", "eu-west-1", "k", "", (), "ok", "id", 0.1)
    paused = PartitionPaused("p", "t", 0, 1, "KeyUnavailable", "", "")
    for level in ("info", "warning", "error", "info"):
        logs.set_level(level)
        observer(call)
        observer(paused)
    shown = [(line["event"], line.get("after")) for line in _lines(stream)]
    assert shown == [
        ("key_service.called", None),
        ("partition.paused", None),
        ("log.level_changed", "warning"),
        ("partition.paused", None),
        ("log.level_changed", "error"),
        ("log.level_changed", "info"),
        ("key_service.called", None),
        ("partition.paused", None),
    ]
    assert logs.level == "info"


def test_fields_for_every_line_are_on_every_line():
    """The number of a worker, say; a library's lines have it, too."""
    stream = io.StringIO()
    with Logs("info", stream=stream, always={"worker": 2}) as logs:
        logs.observer()(PartitionPaused("p", "t", 0, 1, "KeyRefused", "", ""))
        logging.getLogger("somebody.else").warning("said")
    assert [line["worker"] for line in _lines(stream)] == [2, 2]


# -- request ids -------------------------------------------------------------------------------------------------------


def test_a_refusal_by_kms_carries_its_request_id_to_every_line_about_it(server, provider_of, observer):
    """The failed call, the mint that failed and the partition that waits name the same entry of CloudTrail."""
    server.create_key("alias/a")
    provider = provider_of("alias/a")
    with sc.Encryptor(provider, observer=observer) as sealer, sc.Decryptor(provider, observer=observer) as opener:
        value, headers = sealer.encrypt("payments", b"value")
        server.fail("AccessDeniedException")
        with pytest.raises(errors.KeyRefused):
            sealer.encrypt("orders", b"value")
        with pytest.raises(errors.KeyRefused):
            opener.decrypt("payments", value, None, headers)
    failed = {event.operation: event.request_id for event in observer.of(KeyServiceCalled) if event.outcome != "ok"}
    (mint,), (refused,) = observer.of(DataKeyMintFailed), observer.of(DataKeyRefused)
    assert (mint.request_id, refused.request_id) == (failed["GenerateDataKey"], failed["Decrypt"])
    assert mint.request_id
