"""How far a job is: a bar for people, lines for machines."""

from __future__ import annotations

import io

from streamcrypt.cli.reencrypt_progress import showing
from streamcrypt.events import ReencryptionProgress
from streamcrypt.testing import CollectingObserver
from tests.broker import wait_until


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_on_a_terminal_a_bar_shows_the_rate_and_how_long_it_will_take(monkeypatch):
    """And no line is logged."""
    monkeypatch.setenv("TERM", "xterm")
    stream, observer, done = Terminal(), CollectingObserver(), [0]

    def count() -> int:
        done[0] += 100
        return done[0]

    with showing("p", "copy", count, 100_000, observer, bar=True, stream=stream):
        wait_until(lambda: "records/s" in stream.getvalue(), "a rate")
    assert "copy" in stream.getvalue()
    assert "0:" in stream.getvalue()
    assert observer.events == []


def test_elsewhere_and_where_none_is_wanted_lines_tell_how_far_it_is():
    """At the end at the latest, with the rate."""
    for stream, bar in ((io.StringIO(), True), (Terminal(), False)):
        observer = CollectingObserver()
        with showing("p", "verify", iter([10, 60]).__next__, 100, observer, bar=bar, stream=stream):
            pass
        [line] = observer.of(ReencryptionProgress)
        assert (line.phase, line.done, line.total) == ("verify", 60, 100)
        assert line.rate > 0
        assert stream.getvalue() == ""
