"""``streamcrypt ctl``: commands for a process that runs, over its control socket."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from streamcrypt.cli.cat_output import harmless
from streamcrypt.cli.control import (
    COMMANDS,
    MOST_ANSWER,
    BadRequest,
    Request,
    candidates,
    default_directories,
    peer_of,
    read_line,
)
from streamcrypt.cli.control_place import UntrustedSocket, require_trusted
from streamcrypt.cli.ctl_table import table
from streamcrypt.cli.exits import Exit, complain
from streamcrypt.config.problems import nearest
from streamcrypt.errors import ConfigError, StreamcryptError

__all__ = ["CtlRequest", "ctl"]

# A reload drains pipelines, in as long as an end takes, and may wait for one that is under way.
_SECONDS = {"status": 10.0, "reload": 90.0}
_OTHERS = 60.0
_FORMATS = ("table", "json")


@dataclass(frozen=True, slots=True)
class CtlRequest:
    """What is asked for on the command line."""

    request: Request
    form: Literal["table", "json"]
    socket: Path | None

    @classmethod
    def read(cls, command: str, pipelines: Sequence[str], form: str, place: Path | None) -> CtlRequest:
        """Check the arguments.

        Raises:
            ConfigError: One of them is wrong.
        """
        if command not in COMMANDS:
            near = nearest(command, COMMANDS)
            remedy = f"Did you mean {near!r}?" if near else f"There are: {', '.join(COMMANDS)}."
            raise ConfigError(f"there is no command {command!r}", remedy=remedy)
        if form not in _FORMATS:
            raise ConfigError(f"--format {form}: is neither table nor json")
        chosen = cast("Literal['table', 'json']", form)
        return cls(Request(command, tuple(dict.fromkeys(pipelines))), chosen, place)


def ctl(path: Path, asked: CtlRequest) -> int:
    """Have a running process do something, and print what it answers; give the exit code.

    Args:
        path: The configuration file that the process was started with, under the same path.
        asked: The command.

    Raises:
        ConfigError: The process has no socket.
        UntrustedSocket: Another user may have made it.
        StreamcryptError: Nobody listens, or there is no answer that this version understands.
    """
    places = [asked.socket] if asked.socket else candidates(path)
    if not places:
        raise ConfigError(
            f"{path}: control.socket is null: this process takes signals alone", remedy="SIGHUP reads the file again."
        )
    answer = _ask(places, asked.request)
    try:
        # All of it before the first word is printed.
        code = Exit(answer.get("code", Exit.FAILED))
        problems = [str(problem) for problem in answer.get("problems", ())]
        text = _text(asked, answer) if code == Exit.DONE else ""
    except (AttributeError, KeyError, TypeError, ValueError):
        raise StreamcryptError(
            "the process gave an answer that this version does not understand",
            remedy="Use the ctl of the version that runs there.",
        ) from None
    # Whoever answers commands no terminal: names of pipelines and places in a file are others' text.
    for problem in problems:
        complain(harmless(problem, keep="\n"))
    if "message" in answer:
        complain(*(harmless(str(answer.get(part, "")), keep="\n") for part in ("message", "remedy")))
    sys.stdout.write(harmless(text, keep="\n"))
    if code != Exit.DONE and problems:
        complain("nothing was changed")
    return code


def _text(asked: CtlRequest, answer: Mapping[str, Any]) -> str:
    if asked.form == "json":
        # `status` as the page has it at /status.json, and not as it travels.
        body = (
            answer["status"]
            if "status" in answer
            else {n: v for n, v in answer.items() if n in {"pipelines", "settings"}}
        )
        # JSON leaves this one as it is, alone of what a terminal acts on.
        return json.dumps(body, indent=2).replace("\x7f", "\\u007f") + "\n"
    if "status" in answer:
        return table(answer["status"])
    rows = [f"{name}: {state}\n" for name, state in answer.get("pipelines", {}).items()]
    return "".join([*rows, *(f"{name}: changed in place\n" for name in answer.get("settings", ()))])


def _ask(places: Sequence[Path], request: Request) -> Mapping[str, Any]:
    seconds = _SECONDS.get(request.command, _OTHERS)
    with _connect(places) as connection:
        try:
            connection.sendall(request.line())
            line = read_line(connection, MOST_ANSWER, seconds)
        except TimeoutError:
            raise StreamcryptError(
                f"no answer within {seconds:.0f} s", remedy="What was asked for may happen yet: look at the log."
            ) from None
        except BadRequest:
            line = b""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StreamcryptError("the process gave no answer", remedy="It may have ended: look at its log.")
    return answer


def _connect(places: Sequence[Path]) -> socket.socket:
    for place in places:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5.0)
        try:
            owners = require_trusted(place, named=place.parent not in default_directories())
            connection.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
            continue
        except PermissionError:
            connection.close()
            raise StreamcryptError(
                f"{place}: permission denied", remedy="Run it as the user of that process, or as root."
            ) from None
        except OSError as error:
            connection.close()
            raise StreamcryptError(f"{place}: {error.strerror or error}") from None
        except StreamcryptError:
            connection.close()
            raise
        if (peer := peer_of(connection)).uid not in owners:
            connection.close()
            raise UntrustedSocket(
                f"{place} is not trusted: a process of uid {peer.uid} listens there",
                remedy="Run it as the user of that process.",
            )
        return connection
    raise StreamcryptError(
        f"no process listens at {', '.join(map(str, places))}",
        remedy="Is it running, started with this very path, and as this user? --socket PATH names another socket.",
    )
