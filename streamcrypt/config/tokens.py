"""The token that readers of the status page and of metrics show: what may be one, and how it is read from a file."""

from __future__ import annotations

from streamcrypt.config.fields import refusal
from streamcrypt.config.files import read_regular
from streamcrypt.errors import ConfigError

__all__ = ["SHORTEST_TOKEN", "check_token", "read_token"]

SHORTEST_TOKEN = 16
"""Characters. Nothing slows down who guesses; so many random ones take for ever."""
_MOST_BYTES = 64 * 1024


def check_token(value: str) -> str:
    """Refuse a token that is short or cannot stand in a header; an error that carries a remedy and not the token."""
    if len(value) < SHORTEST_TOKEN or not value.isascii() or not value.isprintable() or " " in value:
        raise refusal(
            f"is shorter than {SHORTEST_TOKEN} characters, or holds a space or a character beyond ASCII",
            "Make one with: openssl rand -hex 24",
        )
    return value


def read_token(path: str) -> str:
    """Read a token from a file, without the white space around it.

    Raises:
        ConfigError: The file cannot be read, or holds no token.
    """
    try:
        return check_token(read_regular(path, _MOST_BYTES).decode().strip())
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError:
        why = f"it does not hold one token of {SHORTEST_TOKEN} characters or more"
    remedy = "Name a file that this user may read, with the token and nothing else."
    raise ConfigError(f"http.token_file: {path}: {why}", remedy=remedy)
