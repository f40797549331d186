"""The picture of a result: docs/images/performance.png."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.figures import names_under, spread
from bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["draw"]

_SURFACE, _INK, _QUIET = "#ffffff", "#1f2328", "#59636e"
_OURS, _PLAIN, _OTHERS = "#0969da", "#8c959f", "#bf8700"
_WAYS = {"exactly once": _OURS, "at least once": "#54aeff", "no sidecar": _PLAIN}
_SIZE, _DPI = (11.0, 8.5), 110


def draw(result: Result, path: Path) -> None:
    """Draw what the result holds: loops, peers, latency, memory; each with quartiles where there are rounds.

    Raises:
        ImportError: matplotlib is not installed: ``pip install -e '.[bench]'``.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 9, "text.color": _INK, "axes.labelcolor": _QUIET, "axes.titlesize": 10.5}):
        figure, ((loops, peers), (delays, memory)) = plt.subplots(2, 2, figsize=_SIZE, facecolor=_SURFACE)
        _loops(loops, result)
        _peers(peers, result)
        _latency(delays, result)
        _memory(memory, result)
        figure.suptitle("streamcrypt, values of 1 KB, 4 partitions, one worker", x=0.02, ha="left", fontsize=13)
        machine = result.machine
        foot = (
            f"{machine['processor']}, {machine['cores']} cores shared with broker and clients, "
            f"Python {machine['python']}, librdkafka {machine['librdkafka']}, Kafka {machine['kafka broker']}; "
            f"{result.made[:10]}. Bars: medians; whiskers: quartiles."
        )
        figure.text(0.02, 0.012, foot, fontsize=7.5, color=_QUIET)
        figure.tight_layout(rect=(0, 0.03, 1, 0.97))
        path.parent.mkdir(parents=True, exist_ok=True)
        # No software version in the file: the same figures give the same picture.
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
        plt.close(figure)


def _bars(
    axes: Axes, title: str, names: Sequence[str], values: Sequence[Sequence[float]], color: Any, form: str
) -> None:
    found = [spread(rounds) for rounds in values]
    medians = [one.median for one in found]
    whiskers = [[one.median - one.low for one in found], [one.high - one.median for one in found]]
    axes.barh(range(len(names)), medians, color=color, height=0.62, xerr=whiskers, ecolor=_INK, capsize=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for place, (value, above) in enumerate(zip(medians, whiskers[1], strict=True)):
        axes.annotate(
            f"{value:{form}}",
            (value + above, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    _tidy(axes, title)
    axes.margins(x=0.18)
    if form == ",.0f":
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:.0f}k" if value >= 1000 else f"{value:.0f}")


def _tidy(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, colors=_QUIET)
    axes.grid(axis="x", color="#d1d9e0", linewidth=0.6)
    axes.set_axisbelow(True)


def _loops(axes: Axes, result: Result) -> None:
    rates = {
        name: result.samples[f"loop/1024/{name}/records_per_s"]
        for name in names_under(result.samples, "loop/1024")
        if f"loop/1024/{name}/records_per_s" in result.samples
    }
    colors = [_PLAIN if name.startswith("copy") else _OURS for name in rates]
    _bars(axes, "Loops between topics, records/s", list(rates), list(rates.values()), colors, ",.0f")


def _peers(axes: Axes, result: Result) -> None:
    names = sorted(names_under(result.samples, "peer"), key=lambda name: spread(_cost(result, name)).median)
    values = [_cost(result, name) for name in names]
    colors = [_OURS if name == "streamcrypt" else _PLAIN if name == "bare AESGCM" else _OTHERS for name in names]
    labels = [name.replace(", ", ",\n") for name in names]
    _bars(axes, "Encrypting one record, µs (log)", labels, values, colors, ".1f")
    if names:
        axes.set_xscale("log")


def _cost(result: Result, name: str) -> list[float]:
    return result.samples[f"peer/{name}/encrypt_us"]


def _latency(axes: Axes, result: Result) -> None:
    parts = (("p50", "o"), ("p99", "s"), ("p999", "^"))
    for way in names_under(result.samples, "latency"):
        shares = [int(s) for s in names_under(result.samples, f"latency/{way}") if s.isdigit()]
        for part, marker in parts:
            heights = [spread(result.samples[f"latency/{way}/{share}/{part}_ms"]).median for share in shares]
            style = {"p50": "-", "p99": "--", "p999": ":"}[part]
            axes.plot(
                shares,
                heights,
                style,
                marker=marker,
                color=_WAYS.get(way, _OTHERS),
                label=f"{way}, {part.replace('999', '99.9')}",
            )
    axes.set_yscale("log")
    axes.set_xlabel("rate, % of the ceiling")
    _tidy(axes, "From produce() to a consumer's hand, ms (log)")
    axes.grid(axis="y", color="#d1d9e0", linewidth=0.6)
    if axes.lines:
        axes.legend(fontsize=6.5, ncols=3, frameon=False, loc="upper left")
        axes.margins(y=0.35)


def _memory(axes: Axes, result: Result) -> None:
    rows = {
        "copy loop, steady": "loop/1024/copy/rss_steady_mb",
        "encrypt loop, steady": "loop/1024/encrypt/rss_steady_mb",
        "decrypt loop, steady": "loop/1024/decrypt/rss_steady_mb",
        "streamcrypt run, steady": "sidecar/rss_steady_mb",
        "streamcrypt run, peak": "sidecar/rss_peak_mb",
    }
    kept = {label: result.samples[name] for label, name in rows.items() if name in result.samples}
    colors = [_PLAIN if label.startswith("copy") else _OURS for label in kept]
    _bars(axes, "Resident memory, MB", list(kept), list(kept.values()), colors, ",.0f")
