"""How the page of an audit looks: light or dark as the reader's system is, and on narrow screens."""

from __future__ import annotations

__all__ = ["COLOURS", "STYLE"]

# Each at least 3:1 against its lane, white (or black) letters at least 4.5:1; no two alike to colour-blind eyes.
_LIGHT = ("#0067a5", "#b34700", "#00704f", "#a8327c", "#6a3fb0", "#7a5c00", "#00697a", "#a3123f")
_DARK = ("#62b6ee", "#ff9f59", "#45d3a6", "#f2a0cf", "#bba0f5", "#e3c04b", "#55cbdc", "#ff8aa8")

COLOURS = len(_LIGHT)
"""How many colours there are; more KEKs begin again with the first."""


def _variables(colours: tuple[str, ...]) -> str:
    return "".join(f"--k{number}:{colour};" for number, colour in enumerate(colours))


_CLASSES = "".join(
    f".mark.k{number}{{background:var(--k{number})}}svg.k{number}{{fill:var(--k{number})}}" for number in range(COLOURS)
)

STYLE = f"""
:root{{color-scheme:light dark;--ink:#1c2530;--soft:#55606c;--page:#fff;--line:#d3dae1;--lane:#eaeef2;--on:#fff;
--yes:#1b7a3d;--no:#b3261e;--undetermined:#8a5a00;{_variables(_LIGHT)}}}
@media(prefers-color-scheme:dark){{
:root{{--ink:#e6eaee;--soft:#a3afbb;--page:#14181d;--line:#37404a;--lane:#232a32;--on:#101418;
--yes:#5fd08a;--no:#ff8a80;--undetermined:#f0b84a;{_variables(_DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}}
main{{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 4rem}}
h1{{font-size:1.6rem;line-height:1.2;margin:0}}h2{{font-size:1.2rem;margin:0;overflow-wrap:anywhere}}
h3{{font-size:1rem;margin:1.2rem 0 .3rem}}header p{{margin:.3rem 0 0}}
small{{font-size:.85em;font-weight:400;color:var(--soft)}}header p,th,figcaption,dt,.axis{{color:var(--soft)}}
code{{font:.9em/1.4 ui-monospace,monospace;overflow-wrap:anywhere}}
section{{margin-top:2.2rem}}ul{{margin:.3rem 0;padding-left:1.2rem}}li{{overflow-wrap:anywhere}}
.answer{{border:1px solid var(--line);border-left-width:6px;border-radius:6px;padding:.9rem 1.1rem}}
.answer p{{margin:.4rem 0}}.yes{{border-left-color:var(--yes)}}.yes h2 b{{color:var(--yes)}}
.no{{border-left-color:var(--no)}}.no h2 b{{color:var(--no)}}
.undetermined{{border-left-color:var(--undetermined)}}.undetermined h2 b{{color:var(--undetermined)}}
dl{{display:grid;grid-template-columns:minmax(6rem,14rem) 1fr;gap:.15rem 1rem;margin:.6rem 0}}
dd{{margin:0;overflow-wrap:anywhere}}
.mark{{display:inline-block;min-width:1.6em;padding:0 .35em;margin-right:.55em;border-radius:3px;text-align:center;
font:700 .8em/1.55 ui-monospace,monospace;color:var(--on)}}
.keks{{list-style:none;padding:0;margin:1.4rem 0 0}}.keks li{{margin:.2rem 0}}
figure{{margin:1rem 0 1.2rem}}figcaption{{margin-bottom:.25rem}}
.lane{{display:flex;align-items:center;margin:.2rem 0}}.lane .mark{{flex:none}}
svg{{display:block;flex:1;min-width:0;height:1rem;background:var(--lane);border-radius:2px}}
.axis{{display:flex;justify-content:space-between;margin-left:2.15em;font-size:.8em;font-variant-numeric:tabular-nums}}
.wide{{overflow-x:auto;margin-top:.8rem}}.wide:focus-visible{{outline:2px solid var(--k0);outline-offset:2px}}
table{{border-collapse:collapse;min-width:100%;font-variant-numeric:tabular-nums;font-size:.92em}}
th,td{{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap}}
th{{font-weight:500}}th.t,td.t{{text-align:left}}tr.all td{{font-weight:600}}tr.all small{{white-space:normal}}
td.t small{{display:inline-block;max-width:22rem;white-space:normal;overflow-wrap:anywhere}}
@media(max-width:40rem){{main{{padding:1rem .8rem 3rem}}dl{{grid-template-columns:1fr;gap:0}}dd{{margin-bottom:.4rem}}
th,td{{padding:.3rem .45rem}}}}
@media print{{.wide{{overflow:visible}}th,td{{white-space:normal}}}}
{_CLASSES}
"""
