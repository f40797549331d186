"""Claims about lines that repeat: a few are written, the rest counted, nothing is lost, memory is bounded."""

from __future__ import annotations

import io
import json
import logging
import threading

import pytest

from streamcrypt import events
from streamcrypt.observe.log_limits import Repeats, Suppressed
from streamcrypt.observe.logs import Logs
from streamcrypt.testing import ManualClock


def _passed(partition: int = 0, offset: int = 7) -> events.Event:
    return events.PlaintextPassed("p", "payments", partition, offset, 1)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def logs(clock, stream):
    return Logs("info", stream=stream, clock=clock)


def _lines(stream: io.StringIO, name: str | None = None) -> list[dict]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in found if name in {None, line["event"]}]


# -- the count ---------------------------------------------------------------------------------------------------------


def test_a_window_admits_so_many_and_counts_the_rest(clock):
    repeats = Repeats(clock, burst=3, window=60)
    assert [repeats.admits(("a",)) for _ in range(5)] == [True] * 3 + [False] * 2
    assert repeats.ended() == ()
    clock.advance(60)
    assert repeats.ended() == [Suppressed(("a",), 2, 60.0)]
    assert repeats.admits(("a",))


def test_a_window_that_left_nothing_out_ends_in_silence(clock):
    repeats = Repeats(clock, burst=3, window=60)
    repeats.admits(("a",))
    clock.advance(61)
    assert list(repeats.ended()) == []


def test_kinds_do_not_share_a_window(clock):
    repeats = Repeats(clock, burst=1, window=60)
    assert [repeats.admits((kind,)) for kind in "abab"] == [True, True, False, False]


def test_memory_is_bounded_and_what_is_forgotten_is_told(clock):
    """The oldest windows end early, each with its count."""
    repeats = Repeats(clock, burst=1, window=60, kinds=10)
    told: list[Suppressed] = []
    for number in range(1_000):
        for _ in range(3):
            told += repeats.ended()
            repeats.admits((number,))
    assert len(repeats._open) <= 10
    told += repeats.close()
    assert sum(entry.lines for entry in told) == 2_000


def test_threads_lose_no_count(clock):
    repeats = Repeats(clock, burst=10, window=60)
    written: list[bool] = []

    def say() -> None:
        for _ in range(2_000):
            repeats.ended()
            written.append(repeats.admits(("a",)))

    threads = [threading.Thread(target=say) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(written) == 10
    assert [entry.lines for entry in repeats.close()] == [7_990]


# -- the lines ---------------------------------------------------------------------------------------------------------


def test_the_eleventh_line_alike_is_counted_and_the_count_told_after_a_minute(logs, stream, clock):
    """Any event brings it: a loop turns once a second, whatever the level."""
    observer = logs.observer()
    for offset in range(25):
        observer(_passed(offset=offset))
    assert [line["offset"] for line in _lines(stream)] == list(range(10))
    clock.advance(60)
    observer(events.LoopTurned("p", 1, 0))
    (told,) = _lines(stream, "log.suppressed")
    assert told["level"] == "warning"
    assert (told["suppressed"], told["lines"], told["seconds"]) == ("record.plaintext_passed", 15, 60.0)
    assert told["alike"] == {"pipeline": "p", "topic": "payments", "partition": 0}


def test_lines_that_differ_in_a_field_that_identifies_them_are_all_written(logs, stream):
    for partition in range(50):
        logs.observer()(_passed(partition))
    assert len(_lines(stream)) == 50


@pytest.mark.parametrize(
    "event",
    [
        events.PipelineFailed("p", "KeyRefused", "", ""),
        events.PipelineStopped("p", clean=False, records=1),
        events.RecordFailed("p", "t", 0, 1, "AuthenticationFailed", "", "halt"),
        events.RecordFailed("p", "t", 0, 1, "AuthenticationFailed", "", "skip"),
        events.DataKeyMinted("t", "00", ("k",), 0.1, ahead=False),
    ],
    ids=["failed", "stopped", "halt", "skip", "minted"],
)
def test_what_is_not_limited_is_written_every_time(logs, stream, event):
    for _ in range(100):
        logs.observer()(event)
    assert len(_lines(stream)) == 100


def test_debug_lines_are_all_written(stream, clock):
    logs = Logs("debug", stream=stream, clock=clock)
    for _ in range(100):
        logs.observer()(events.DataKeyRefused("t", "UntrustedKey", "", record_fault=True))
    assert len(_lines(stream)) == 100


def test_lines_that_are_not_shown_are_not_counted(stream, clock):
    """At level error, warnings leave no summary."""
    logs = Logs("error", stream=stream, clock=clock)
    with logs:
        for _ in range(100):
            logs.observer()(_passed())
    assert stream.getvalue() == ""


def test_the_end_of_the_log_tells_what_is_left(logs, stream):
    with logs:
        for _ in range(12):
            logs.observer()(_passed())
    assert [line["lines"] for line in _lines(stream, "log.suppressed")] == [2]


def test_a_library_that_repeats_itself_is_limited_by_its_text_before_values(logs, stream):
    with logs:
        for number in range(30):
            logging.getLogger("urllib3.connectionpool").warning("Retrying %d", number)
        logging.getLogger("urllib3.connectionpool").warning("Something else")
    written, [told] = _lines(stream, "library.message"), _lines(stream, "log.suppressed")
    assert [line["message"] for line in written] == [f"Retrying {n}" for n in range(10)] + ["Something else"]
    assert (told["lines"], told["alike"]) == (20, {"logger": "urllib3.connectionpool"})
