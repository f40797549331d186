"""An audit as one HTML page that needs nothing else: a picture of offsets over KEKs, and the numbers below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from streamcrypt.audit.plan import Plan
from streamcrypt.audit.report import KeyCount, by_key, rfc3339
from streamcrypt.audit.tally import HeaderBook, Place, Tally
from streamcrypt.audit.verdict import Verdict

__all__ = ["as_page"]

_WIDTH = 1000
_ROW = 22
_HUES = (210, 30, 130, 280, 350, 55, 170, 310)

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2530;--soft:#5b6672;--page:#fff;--line:#d7dde3;--lane:#eef1f4;--light:46%}
@media(prefers-color-scheme:dark){
:root{--ink:#e6eaee;--soft:#9aa6b2;--page:#14181d;--line:#323a43;--lane:#20262d;--light:62%}}
body{margin:2rem auto;max-width:72rem;padding:0 1rem;background:var(--page);color:var(--ink)}
body{font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;overflow-wrap:anywhere}p,small,th{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;margin-top:.6rem}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
th{font-weight:500}th.t,td.t{text-align:left;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;margin:.4rem 0}svg .lane{fill:var(--lane)}
i{display:inline-block;width:.7em;height:.7em;border-radius:2px;margin-right:.4em}
.wide{overflow-x:auto}.answer{border:1px solid var(--line);border-left-width:6px;border-radius:4px;padding:.2rem 1rem}
.yes{border-left-color:#2a9d56}.no{border-left-color:#d1403f}.undetermined{border-left-color:#d99a1c}
"""


def as_page(plan: Plan, book: HeaderBook, made: datetime, verdict: Verdict | None = None) -> str:
    """Draw an audit.

    Args:
        plan: What was read.
        book: The envelopes met.
        made: When, with its offset from UTC.
        verdict: Where ``--safe-to-disable`` was asked.
    """
    counts = {key: by_key(place, book) for key, place in plan.places.items()}
    colours = _colours(found.key_id for count in counts.values() for found in count)
    body = [f"<h1>Audit of sealed records</h1><p>Made {rfc3339(int(made.timestamp() * 1000))}.</p>"]
    body += [_verdict(verdict)] if verdict else []
    body += [f"<p>{escape(what)} was not read: {escape(why)}</p>" for what, why in plan.unreadable.items()]
    for topic, facts in plan.topics.items():
        policy = f" <small>cleanup.policy {escape(facts.cleanup_policy)}</small>" if facts.cleanup_policy else ""
        body.append(f"<h2>{escape(topic)}{policy}</h2>")
        places = [place for place in plan.places.values() if place.topic == topic]
        body += [_picture(place, counts[topic, place.partition], colours) for place in places]
        body.append(_table(places, counts, colours))
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>streamcrypt audit</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n'
        f"<body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def _colours(key_ids: Iterable[str]) -> dict[str, str]:
    return {
        key_id: f"hsl({_HUES[number % len(_HUES)]} 65% var(--light))"
        for number, key_id in enumerate(sorted(set(key_ids)))
    }


def _verdict(verdict: Verdict) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdict.evidence)
    return (
        f'<div class="answer {verdict.answer}"><p>Safe to disable {escape(verdict.key_id)}: '
        f"<b>{verdict.answer}</b></p><ul>{lines}</ul></div>"
    )


def _picture(place: Place, counts: Sequence[KeyCount], colours: dict[str, str]) -> str:
    """Draw a lane for each KEK, and on it where its records begin and end, data key by data key."""
    if not counts:
        return ""
    height = _ROW * len(counts)
    scale = _WIDTH / max(1, place.end - place.start)
    label = f'role="img" aria-label="Offsets of {escape(place.name)} by KEK"'
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" preserveAspectRatio="none" style="height:{height}px" {label}>']
    for row, count in enumerate(counts):
        y = row * _ROW + 3
        parts.append(f'<rect class="lane" x="0" y="{y}" width="{_WIDTH}" height="{_ROW - 6}"/>')
        for left, right in _bars(count.tallies, place.start, scale):
            bar = f'<rect x="{left}" y="{y}" width="{right - left}" height="{_ROW - 6}"'
            parts.append(f'{bar} style="fill:{colours[count.key_id]}"><title>{escape(count.key_id)}</title></rect>')
    title = f"<p>{escape(place.name)} <small>offsets {place.start} to {place.end - 1}</small></p>"
    return f"{title}{''.join(parts)}</svg>"


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


def _table(places: Sequence[Place], counts: dict[tuple[str, int], list[KeyCount]], colours: dict[str, str]) -> str:
    heads = ("partition", "records", "plaintext", "malformed", "tombstones", "data keys", "first", "last")
    cells = "".join(f"<th>{head}</th>" for head in heads)
    rows = [row for place in places for row in _rows(place, counts[place.topic, place.partition], colours)]
    return f'<div class="wide"><table><tr><th class="t">KEK</th>{cells}</tr>{"".join(rows)}</table></div>'


def _rows(place: Place, counts: Sequence[KeyCount], colours: dict[str, str]) -> Iterable[str]:
    numbers = (place.partition, place.records, place.plaintext, place.malformed, place.tombstones)
    note = f"<br><small>{escape(place.unread)}</small>" if place.unread else ""
    notes = "".join(f"<br><small>{kind} {found}</small>" for kind, found in (place.sequence or {}).items() if found)
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    yield f'<tr><td class="t">all{note}{notes}</td>{cells}<td colspan="3"></td></tr>'
    for count in counts:
        name = f'<i style="background:{colours[count.key_id]}"></i>{escape(count.key_id)}'
        first, last = count.first, count.last
        spans = [(first.first_offset, first.first_time), (last.last_offset, last.last_time)]
        ends = "".join(f"<td>{offset}<br><small>{rfc3339(time) or ''}</small></td>" for offset, time in spans)
        yield (
            f'<tr><td class="t">{name}</td><td>{place.partition}</td><td>{count.records}</td>'
            f'<td colspan="3"></td><td>{count.data_keys}</td>{ends}</tr>'
        )
