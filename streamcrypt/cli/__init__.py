"""The command line. Importing this package loads no foreign library; each command loads what it needs."""

from __future__ import annotations

import sys

from streamcrypt.cli.exits import MISSING_EXTRA, Exit, complain
from streamcrypt.cli.hangups import remember_hangups

__all__ = ["main"]


def main() -> None:
    """Run the command line: the entry point ``streamcrypt``."""
    if sys.argv[1:2] == ["run"] and "--dry-run" not in sys.argv:
        # Before anything else is loaded: that takes most of a second. Any other command ends with its terminal.
        remember_hangups()
    try:
        from streamcrypt.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        complain(MISSING_EXTRA.format(module="typer"))
        raise SystemExit(Exit.USAGE) from None
    app(prog_name="streamcrypt")
