"""Figures as text, the same on screen and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.figures import spread
from bench.targets import Verdict

__all__ = ["cell", "quiet", "verdict_cells"]

_WORDS = {True: "met", False: "MISSED", None: "not measured"}


def cell(values: Sequence[float] | None, digits: int) -> str:
    """Give ``median [first quartile to third]``, or the one value there is, or a dash."""
    if not values:
        return "-"
    found = spread(values)
    if found.rounds == 1:
        return f"{found.median:,.{digits}f}"
    return f"{found.median:,.{digits}f} [{found.low:,.{digits}f} to {found.high:,.{digits}f}]"


def quiet(samples: Mapping[str, Sequence[float]], prefix: str) -> str:
    """Say how much else ran on the machine during the loops below a prefix."""
    said = []
    for name, what in (("others_cores", "other processes kept busy"), ("stolen_cores", "the hypervisor kept back")):
        values = [v for key, rounds in samples.items() if key.startswith(prefix) and key.endswith(name) for v in rounds]
        if values:
            said.append(f"{what} {spread(values).median:.2f} cores ({max(values):.2f} at most)")
    return f"Meanwhile {', '.join(said)}." if said else ""


def verdict_cells(verdict: Verdict) -> tuple[str, str, str, str, str]:
    """Give claim, limit, measured value, verdict and command."""
    target = verdict.target
    limit = f"{'≥' if target.at_least else '≤'} {target.limit:.{target.digits}f}"
    measured = "-"
    if verdict.measured is not None:
        found = verdict.measured
        measured = f"{found.median:.{target.digits}f} [{found.low:.{target.digits}f} to {found.high:.{target.digits}f}]"
    return target.claim, limit, measured, _WORDS[verdict.met], target.command
