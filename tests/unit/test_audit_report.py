"""What an audit prints and keeps: the documented JSON, a page that needs nothing else, a state to go on from."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from streamcrypt.audit.page import as_page
from streamcrypt.audit.page_style import COLOURS, STYLE
from streamcrypt.audit.plan import Plan, TopicFacts
from streamcrypt.audit.report import Findings, as_tree, rfc3339
from streamcrypt.audit.sequences import SequenceCounter
from streamcrypt.audit.state import StateFile
from streamcrypt.audit.tally import Counter, HeaderBook, Place
from streamcrypt.audit.verdict import Answer, Verdict
from streamcrypt.cli.audit_table import progress_of
from streamcrypt.errors import ConfigError
from streamcrypt.testing import ManualClock
from tests.envelopes import Record, envelope, sealed, under

MADE = datetime(2030, 1, 1, tzinfo=UTC)
ONE, TWO, PAIR = envelope("kek-a"), envelope("kek-a"), envelope("kek-a", "kek-<b>")
RECORDS = [
    Record(2, sealed(1), under(ONE), time=(1, 0)),
    Record(3, sealed(2), under(ONE), time=(1, 1500)),
    Record(4, sealed(1), under(PAIR), time=(1, 2000)),
    Record(5, None),
    Record(6, b"plain"),
    Record(7, sealed(), under(b"junk")),
    Record(8, sealed(5), under(TWO), time=(1, 1_893_456_000_123)),
]


def example(records: list[Record] = RECORDS, *, end: int = 10, topic_id: str = "id") -> tuple[Plan, HeaderBook]:
    """A topic of two partitions, the second empty."""
    plan, book = Plan(), HeaderBook()
    plan.topics["orders"] = TopicFacts("orders", topic_id, "delete")
    plan.places = {("orders", 0): Place("orders", 0, 2, end, end), ("orders", 1): Place("orders", 1, 0, 0, 0)}
    Counter(plan.places, book).take(records)
    return plan, book


def test_the_document_is_the_documented_one() -> None:
    """Name by name; a record under two KEKs counts for each."""
    assert as_tree(*example()) == {
        "topics": [
            {
                "topic": "orders",
                "partitions": [
                    {
                        "partition": 0,
                        "records": 7,
                        "plaintext": 1,
                        "malformed": 1,
                        "tombstones": 1,
                        "keys": [
                            {
                                "key_id": "kek-a",
                                "records": 4,
                                "data_keys": 3,
                                "first_offset": 2,
                                "last_offset": 8,
                                "first_time": "1970-01-01T00:00:00.000Z",
                                "last_time": "2030-01-01T00:00:00.123Z",
                            },
                            {
                                "key_id": "kek-<b>",
                                "records": 1,
                                "data_keys": 1,
                                "first_offset": 4,
                                "last_offset": 4,
                                "first_time": "1970-01-01T00:00:02.000Z",
                                "last_time": "1970-01-01T00:00:02.000Z",
                            },
                        ],
                    },
                    {"partition": 1, "records": 0, "plaintext": 0, "malformed": 0, "tombstones": 0, "keys": []},
                ],
            }
        ]
    }


def test_a_rewrapped_data_key_is_the_same_data_key() -> None:
    """The commitment tells, not the header bytes."""
    dek = bytes(range(32))
    rewrapped = [envelope("kek-a", dek=dek), envelope("kek-a", dek=dek)]
    assert rewrapped[0] != rewrapped[1]
    tree = as_tree(*example([Record(n, sealed(n), under(data)) for n, data in enumerate(rewrapped, 2)]))
    assert [(k["records"], k["data_keys"]) for k in tree["topics"][0]["partitions"][0]["keys"]] == [(2, 1)]


def test_times_that_no_calendar_has_are_null() -> None:
    """Kafka takes any 64-bit number for a time."""
    assert rfc3339(None) is None
    assert rfc3339(2**62) is None
    assert rfc3339(-1) == "1969-12-31T23:59:59.999Z"


def test_an_answer_and_sequences_stand_where_they_were_asked_for() -> None:
    """And nowhere else."""
    plan, book = example()
    counter = SequenceCounter(plan.places, book, ())
    counter.take([*RECORDS, Record(9, sealed(5), under(TWO))])
    tree = as_tree(plan, book, Findings(Verdict("kek-a", Answer.NO, ("because",))))
    assert set(tree) == {"topics", "safe_to_disable"}
    assert tree["safe_to_disable"] == {"key_id": "kek-a", "answer": "no", "evidence": ["because"]}
    assert tree["topics"][0]["partitions"][0]["sequence"] == {"gaps": 0, "repeats": 1, "disorder": 0, "moved": 0}


def test_sequences_are_told_by_kind_and_malformed_records_are_passed_over() -> None:
    """Compacted topics have no gaps."""
    records = [
        Record(offset, sealed(number, lane), under(ONE))
        for offset, (number, lane) in enumerate([(1, 0), (4, 0), (3, 0), (3, 0), (1, 1)], 2)
    ]
    records += [Record(7, sealed(9), under(b"junk")), Record(8, b"x", under(ONE)), Record(9, None), Record(99, b"x")]
    for compacted, gaps in (((), 1), (("orders",), 0)):
        plan, book = example(records)
        SequenceCounter(plan.places, book, compacted).take(records)
        assert plan.places["orders", 0].sequence == {"gaps": gaps, "repeats": 1, "disorder": 1, "moved": 1}


def test_the_page_needs_nothing_else() -> None:
    """No address, no script; names are escaped; each KEK has its lane; dark and light."""
    plan, book = example()
    plan.unreadable["se<cret"] = "not authorized"
    page = as_page(plan, book, MADE, Findings(Verdict("kek-a", Answer.NO, ("a < b",))))
    for never in ("http:", "https:", "//", "<script", "url(", "@import", "src=", "href="):
        assert never not in page
    for once in (
        "kek-&lt;b&gt;",
        "a &lt; b",
        "se&lt;cret",
        "prefers-color-scheme:dark",
        "<b>no</b>",
        "<!doctype html>",
    ):
        assert once in page
    assert "kek-<b>" not in page
    assert page.count("<svg") == page.count('<div class="lane">') == 2


def test_the_pages_colours_can_be_told_from_what_is_behind_them() -> None:
    """WCAG 2.2: 3:1 for the bars on their lanes (1.4.11), 4.5:1 for the letters on their marks (1.4.3)."""
    light, dark = (dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", part)) for part in STYLE.split("@media(prefers", 1))
    for colours in (light, dark):
        for number in range(COLOURS):
            colour = colours[f"k{number}"]
            assert contrast(colour, colours["lane"]) >= 3
            assert contrast(colour, colours["on"]) >= 4.5
        for name in ("ink", "soft", "yes", "no", "undetermined"):
            assert contrast(colours[name], colours["page"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG defines it."""
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """The relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_picture_has_no_more_bars_than_pixels() -> None:
    """A data key per record over ten thousand records."""
    headers = [envelope("kek-a"), envelope("kek-b")]
    records = [Record(n, sealed(n), under(headers[n % 2])) for n in range(2, 5)]
    plan, book = example(records, end=5)
    place = plan.places["orders", 0]
    tally = place.tallies[0]
    place.tallies = dict.fromkeys([0], tally)
    for n in range(2000):
        data = envelope("kek-a")
        Counter({("orders", 0): place}, book).take([Record(n + 5, sealed(), under(data))])
    place.end = 10_000
    for n in range(2000):
        place.tallies[book.look_up(envelope("kek-a")).index] = type(tally)(1, 5 + 4 * n, 0, 5 + 4 * n, 0)
    assert as_page(plan, book, MADE).count("<rect") <= 1001


class Terminal(StringIO):
    """A stream that says of itself that people look at it."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def test_progress_is_shown_on_a_terminal_only() -> None:
    """With rate and time to go; elsewhere not a byte."""
    places = [Place("orders", 0, 0, 1000, 1000)]
    screen, file = Terminal(), StringIO()
    for stream in (screen, file):
        with progress_of(places, stream) as show:
            for position in (100, 400, 1000):
                places[0].position = position
                show()
    assert file.getvalue() == ""
    assert "100 %" in screen.getvalue()
    assert "reading" in screen.getvalue()


# -- the state ---------------------------------------------------------------------------------------------------------


def test_an_audit_goes_on_where_it_came_to(tmp_path: Path) -> None:
    """Both runs together count what one alone would have, at the ends of the first."""
    path = tmp_path / "state.json"
    for split in range(len(RECORDS) + 1):
        plan, book = example(RECORDS[:split])
        StateFile(path).write(plan, book)
        again, new_book = example([], end=50)
        assert StateFile(path).restore(again, new_book)
        Counter(again.places, new_book).take(RECORDS)
        assert as_tree(again, new_book) == as_tree(*example())
        assert again.places["orders", 0].faults == {"MalformedEnvelope": [1, 7]}
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]
    StateFile(path).remove()
    assert not StateFile(path).restore(*example([]))


def test_retention_may_overtake_a_state(tmp_path: Path) -> None:
    """Reading goes on behind it, and the answer knows."""
    plan, book = example(RECORDS[:2])
    state = StateFile(tmp_path / "state.json")
    state.write(plan, book)
    again, new_book = example([])
    again.places["orders", 0] = Place("orders", 0, 6, 50, 50)
    state.restore(again, new_book)
    place = again.places["orders", 0]
    assert (place.position, place.overtaken, place.end) == (6, 4, 10)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(format=2),
        lambda tree: tree.pop("places"),
        lambda tree: tree.update(envelopes=["AAAA"]),
        lambda tree: tree.update(envelopes=[]),
        lambda tree: tree["places"][0].update(position="x"),
        lambda tree: tree["places"][0].update(tallies=[[0]]),
        lambda tree: tree["places"][0].update(faults=[1]),
    ],
)
def test_what_is_no_state_is_refused(tmp_path: Path, change) -> None:
    """With what to do."""
    path = tmp_path / "state.json"
    StateFile(path).write(*example())
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="is no state of an audit"):
        StateFile(path).restore(*example([]))
    for text in (b"", b"[]", b"\xff\xfe", b"7"):
        path.write_bytes(text)
        with pytest.raises(ConfigError, match="is no state of an audit"):
            StateFile(path).restore(*example([]))


def test_a_state_of_other_topics_is_refused(tmp_path: Path) -> None:
    """Also where a topic was made anew: its offsets begin at zero again."""
    path = tmp_path / "state.json"
    StateFile(path).write(*example())
    with pytest.raises(ConfigError, match="made anew"):
        StateFile(path).restore(*example([], topic_id="another"))


def test_a_state_is_written_now_and_then(tmp_path: Path) -> None:
    """Not at every batch; at the first, so that a directory without room or rights is found out early."""
    clock, path = ManualClock(), tmp_path / "state.json"
    state = StateFile(path, every=5, clock=clock)
    state.write_if_due(*example())
    for seconds, written in ((0, False), (4, False), (1, True), (4, False)):
        path.unlink(missing_ok=True)
        clock.advance(seconds)
        state.write_if_due(*example())
        assert path.exists() is written
    with pytest.raises(FileNotFoundError):
        StateFile(tmp_path / "missing" / "state.json").write_if_due(*example())
