"""An audit as one HTML page that needs nothing else: a picture of offsets over KEKs, and the numbers below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import count as numbers_from

from streamcrypt.audit.materials import by_material
from streamcrypt.audit.page_style import COLOURS, STYLE
from streamcrypt.audit.plan import Plan
from streamcrypt.audit.receipt import Receipt
from streamcrypt.audit.receipt_text import summary
from streamcrypt.audit.report import NOTHING_ELSE, Findings, KeyCount, by_key, rfc3339
from streamcrypt.audit.shortfall import shortfalls
from streamcrypt.audit.tally import HeaderBook, Place, Tally
from streamcrypt.audit.verdict import Verdict

__all__ = ["as_page"]

_WIDTH = 1000
_HEIGHT = 16
_ID_LENGTH = 16
_HEADS = ("partition", "records", "plaintext", "malformed", "tombstones", "data keys", "first", "last")

_Counts = Mapping[tuple[str, int], Sequence[KeyCount]]
_Marks = Mapping[str, str]
"""KEK to its mark: a letter on its colour, for eyes that do not tell the colours apart."""


def as_page(plan: Plan, book: HeaderBook, made: datetime, findings: Findings = NOTHING_ELSE) -> str:
    """Draw an audit.

    Args:
        plan: What was read.
        book: The envelopes met.
        made: When, with its offset from UTC.
        findings: What was asked besides.
    """
    counts = {key: by_key(place, book) for key, place in plan.places.items()}
    marks = _marks(dict.fromkeys(found.key_id for count in counts.values() for found in count))
    records, places = sum(place.records for place in plan.places.values()), len(plan.places)
    read = f"{_n(records)} records in {_n(places)} partitions"
    when = rfc3339(int(made.timestamp() * 1000))
    body = [f"<header><h1>Which keys do the records need?</h1><p>{read}, read until {when}.</p></header>"]
    body += [_verdict(findings.verdict)] if findings.verdict else []
    body += [_receipt(findings.receipt)] if findings.receipt else []
    body += [f"<p>{escape(what)} was not read: {escape(why)}</p>" for what, why in plan.unreadable.items()]
    body += [_legend(marks, counts)] if marks else []
    for topic, facts in plan.topics.items():
        policy = f" <small>cleanup.policy {escape(facts.cleanup_policy)}</small>" if facts.cleanup_policy else ""
        of_topic = [place for place in plan.places.values() if place.topic == topic]
        body.append(f"<section><h2>{escape(topic)}{policy}</h2>")
        body += [_picture(place, counts[topic, place.partition], marks) for place in of_topic]
        body.append(_table(topic, of_topic, counts, marks, book, findings))
        body.append(_shortfalls(of_topic, book, marks, findings.configured))
        body.append("</section>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        "<title>streamcrypt audit</title>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n'
        f"<body><main>\n{chr(10).join(filter(None, body))}\n</main></body></html>\n"
    )


def _marks(key_ids: Iterable[str]) -> dict[str, str]:
    return {
        key_id: f'<b class="mark k{number % COLOURS}">{_letters(number)}</b>'
        for key_id, number in zip(key_ids, numbers_from(), strict=False)
    }


def _letters(number: int) -> str:
    """Name a KEK: A to Z, then AA, AB and so on."""
    head, tail = divmod(number, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + tail)


def _n(number: int) -> str:
    return f"{number:,}"


def _verdict(verdict: Verdict) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdict.evidence)
    return (
        f'<section class="answer {verdict.answer}"><h2>Safe to disable? <b>{verdict.answer}</b></h2>'
        f"<p><code>{escape(verdict.key_id)}</code></p><ul>{lines}</ul></section>"
    )


def _receipt(receipt: Receipt) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in summary(receipt))
    rows = "".join(
        f'<tr><td class="t">{escape(place.topic)}[{place.partition}]</td><td class="t">{fate.replace("_", " ")}</td>'
        f"<td>{_n(part.records)}</td><td>{_n(part.data_keys)}</td>"
        f"{_end(part.first_offset, part.first_time)}{_end(part.last_offset, part.last_time)}</tr>"
        for place in receipt.places
        for fate, part in place.parts.items()
    )
    heads = _th("partition", "fate", text=True) + _th("records", "data keys", "first", "last")
    found = _scrolled("receipt", f"<tr>{heads}</tr>{rows}") if rows else ""
    ids = "".join(f"<li>{escape(t)}: id {escape(i or 'unknown')}</li>" for t, i in receipt.topic_ids.items())
    doubts = "".join(f"<li>{escape(line)}</li>" for line in receipt.doubts)
    rest = "".join(f"<li>{escape(line)}</li>" for line in receipt.not_covered)
    return (
        f'<section class="answer {"undetermined" if doubts else "yes"}"><h2>Receipt</h2><dl>{facts}</dl>{found}'
        f"<h3>Topics</h3><ul>{ids}</ul>"
        + (f"<h3>In doubt</h3><ul>{doubts}</ul>" if doubts else "")
        + f"<h3>Not covered</h3><ul>{rest}</ul></section>"
    )


def _legend(marks: _Marks, counts: _Counts) -> str:
    records = dict.fromkeys(marks, 0)
    for found in (found for count in counts.values() for found in count):
        records[found.key_id] += found.records
    items = "".join(
        f"<li>{mark}<code>{escape(key_id)}</code> <small>{_n(records[key_id])} records</small></li>"
        for key_id, mark in marks.items()
    )
    return f'<ul class="keks" aria-label="KEKs">{items}</ul>'


def _picture(place: Place, counts: Sequence[KeyCount], marks: _Marks) -> str:
    """Draw a lane for each KEK, and on it where its records begin and end, data key by data key."""
    if not counts:
        return ""
    scale = _WIDTH / max(1, place.end - place.start)
    lanes = []
    for count in counts:
        mark = marks[count.key_id]
        first, last = count.first.first_offset, count.last.last_offset
        label = f"{count.key_id}: {count.records} records between offsets {first} and {last}"
        bars = "".join(
            f'<rect x="{left}" width="{right - left}" height="{_HEIGHT}"/>'
            for left, right in _bars(count.tallies, place.start, scale)
        )
        shape = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" class="{_colour(mark)}"'
        title = f"<title>{escape(label)}</title>"
        lanes.append(
            f'<div class="lane">{mark}<svg {shape} role="img" aria-label="{escape(label)}">{title}{bars}</svg></div>'
        )
    span = f"<span>{_n(place.start)}</span><span>offset</span><span>{_n(place.end - 1)}</span>"
    caption = f"partition {place.partition} <small>{_n(place.records)} records</small>"
    return f'<figure><figcaption>{caption}</figcaption>{"".join(lanes)}<div class="axis">{span}</div></figure>'


def _colour(mark: str) -> str:
    return mark.partition("mark ")[2].partition('"')[0]


def _bars(tallies: Sequence[Tally], start: int, scale: float) -> list[tuple[int, int]]:
    """Join spans that touch on the screen, so that a picture has at most as many bars as pixels."""
    bars: list[tuple[int, int]] = []
    for tally in tallies:
        left = min(_WIDTH - 1, int((tally.first_offset - start) * scale))
        right = max(left + 1, min(_WIDTH, round((tally.last_offset + 1 - start) * scale)))
        if bars and left <= bars[-1][1]:
            bars[-1] = (bars[-1][0], max(bars[-1][1], right))
        else:
            bars.append((left, right))
    return bars


def _table(
    topic: str, places: Sequence[Place], counts: _Counts, marks: _Marks, book: HeaderBook, findings: Findings
) -> str:
    rows = [row for place in places for row in _rows(place, counts[topic, place.partition], marks, book, findings)]
    return _scrolled(f"counts of {topic}", f"<tr>{_th('KEK', text=True)}{_th(*_HEADS)}</tr>{''.join(rows)}")


def _scrolled(label: str, rows: str) -> str:
    # A region that scrolls has to be reachable by keyboard.
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}"><table>{rows}</table></div>'


def _th(*heads: str, text: bool = False) -> str:
    kind = ' class="t"' if text else ""
    return "".join(f'<th scope="col"{kind}>{head}</th>' for head in heads)


def _rows(
    place: Place, counts: Sequence[KeyCount], marks: _Marks, book: HeaderBook, findings: Findings
) -> Iterable[str]:
    numbers = (place.records, place.plaintext, place.malformed, place.tombstones)
    notes = [f"{kind}: {_n(found)}" for kind, found in (place.sequence or {}).items() if found]
    notes += [f"not read beyond {place.position}: {place.unread}"] if place.unread else []
    small = "".join(f"<br><small>{escape(note)}</small>" for note in notes)
    cells = "".join(f"<td>{_n(number)}</td>" for number in numbers)
    yield f'<tr class="all"><td class="t">all{small}</td><td>{place.partition}</td>{cells}<td colspan="3"></td></tr>'
    for count in counts:
        materials = (
            ""
            if findings.materials is None
            else "".join(
                f"<br><small>key material {escape(found.material or 'unknown')}:"
                f" {_n(found.records)} records, {_n(found.data_keys)} data keys</small>"
                for found in by_material(place, book, count.key_id, findings.materials)
            )
        )
        first, last = count.first, count.last
        ends = _end(first.first_offset, first.first_time) + _end(last.last_offset, last.last_time)
        name = escape(_short(count.key_id))
        yield (
            f'<tr><td class="t">{marks[count.key_id]}{name}{materials}</td><td>{place.partition}</td>'
            f'<td>{_n(count.records)}</td><td colspan="3"></td><td>{_n(count.data_keys)}</td>{ends}</tr>'
        )


def _end(offset: int, time: int | None) -> str:
    return f"<td>{_n(offset)}<br><small>{rfc3339(time) or ''}</small></td>"


def _short(key_id: str) -> str:
    """Give the end of a key id: the whole stands beside its mark at the top."""
    bare = key_id.rpartition("/")[2]
    return bare if len(bare) <= _ID_LENGTH else f"…{bare[-8:]}"


def _shortfalls(places: Sequence[Place], book: HeaderBook, marks: _Marks, configured: Sequence[str] | None) -> str:
    if configured is None:
        return ""

    def missing(key_id: str) -> str:
        return f"{marks[key_id]}{escape(_short(key_id))}" if key_id in marks else f"<code>{escape(key_id)}</code>"

    found = [(place, short) for place in places for short in shortfalls(place, book, configured)]
    lines = "".join(
        f"<li>partition {place.partition}, offsets {_n(short.first_offset)} to {_n(short.last_offset)}:"
        f" {_n(short.records)} records, not wrapped for {', '.join(map(missing, short.missing))}</li>"
        for place, short in found
    )
    total = _n(sum(short.records for _, short in found))
    return f"<h3>Records that miss a configured KEK: {total}</h3>" + (f"<ul>{lines}</ul>" if lines else "")
