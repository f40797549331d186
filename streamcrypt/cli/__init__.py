"""The command line. Importing this package loads no foreign library; each command loads what it needs."""

from __future__ import annotations

from streamcrypt.cli.exits import MISSING_EXTRA, Exit, complain

__all__ = ["main"]


def main() -> None:
    """Run the command line: the entry point ``streamcrypt``."""
    try:
        from streamcrypt.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        complain(MISSING_EXTRA.format(module="typer"))
        raise SystemExit(Exit.USAGE) from None
    app(prog_name="streamcrypt")
