"""What a running process does on a command: pause, resume, rotate, status, reload."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from streamcrypt.cli.control import Request
from streamcrypt.cli.control_server import Answer
from streamcrypt.cli.exits import Exit
from streamcrypt.cli.reloading import Reloader
from streamcrypt.config.problems import nearest

__all__ = ["Commands", "Steered", "settled"]

Snapshot = Callable[[], Mapping[str, Any]]

# A loop turns within a second, and may stand in a call to the key service for half of one.
_SETTLE = 4.0
_LOOK = 0.02


class Steered(Protocol):
    """The pipelines of this process, or of its workers."""

    def steer(self, command: str, names: Collection[str]) -> Mapping[str, str]:
        """Pause, resume or rotate these pipelines; give how they are then."""
        ...


class Commands:
    """Carries out requests. Safe to call from several threads.

    Args:
        steered: The pipelines.
        reloader: Reads the configuration again.
        snapshot: Gives the status.
    """

    def __init__(self, steered: Steered, reloader: Reloader, snapshot: Snapshot) -> None:
        self._steered = steered
        self._reloader = reloader
        self._snapshot = snapshot

    def __call__(self, request: Request) -> Answer:
        """Carry a request out."""
        if request.command == "reload":
            return self._reload(request)
        modes = {pipeline.name: pipeline for pipeline in self._reloader.settings.pipelines}
        unknown = next((name for name in request.pipelines if name not in modes), None)
        if unknown is not None:
            near = nearest(unknown, modes)
            remedy = f"Did you mean {near!r}?" if near else f"There are: {', '.join(modes)}."
            return {"code": Exit.USAGE, "message": f"no pipeline {unknown!r} runs here", "remedy": remedy}
        names = request.pipelines or tuple(modes)
        if request.command == "status":
            # No lock: it answers whatever else is under way.
            status = dict(self._snapshot())
            status["pipelines"] = [one for one in status["pipelines"] if one["name"] in names or not request.pipelines]
            return {"code": Exit.DONE, "status": status}
        if request.command == "rotate":
            sealing = [name for name in names if modes[name].mode == "encrypt" or modes[name].how == "reseal"]
            states = {name: "seals nothing" for name in names if name not in sealing}
            names = tuple(sealing)
        else:
            states = {}
        with self._reloader.resting():
            states |= self._steered.steer(request.command, names)
        return {"code": Exit.DONE, "pipelines": states}

    def _reload(self, request: Request) -> Answer:
        if request.pipelines:
            message = "a configuration is read again as a whole"
            return {
                "code": Exit.USAGE,
                "message": message,
                "remedy": "Name no pipeline: only those that changed begin anew.",
            }
        done = self._reloader.reload()
        if done.problems:
            return {"code": Exit.USAGE if done.usage else Exit.FAILED, "problems": list(done.problems)}
        return {"code": Exit.DONE, "pipelines": dict(done.changes or {}), "settings": list(done.settings)}


def settled(snapshot: Snapshot, names: Collection[str], *, paused: bool) -> dict[str, str]:
    """Wait until pipelines are paused, or no more, for some seconds at most; give how they are then."""
    deadline = time.monotonic() + _SETTLE
    while True:
        states = {one["name"]: str(one["state"]) for one in snapshot()["pipelines"] if one["name"] in names}
        done = all((state == "paused") is paused for state in states.values())
        if done or time.monotonic() > deadline:
            return states
        time.sleep(_LOOK)
