"""Passwords of the broker link from files, as Kubernetes and Docker hand secrets over: ``sasl.password.file: PATH``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamcrypt.config.files import read_regular
from streamcrypt.config.source import SettingPath, Source

__all__ = ["SECRETS", "read_secret_files"]

SECRETS = frozenset(
    {
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
        "sasl.password",
        "sasl.username",  # no secret, and part of many
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }
)
"""Properties of librdkafka that may stand in a file of their own; each with ``.file`` behind its name."""

_SUFFIX = ".file"
_MOST_BYTES = 64 * 1024  # a key with its chain is a few KiB; a device or a log would never end


def read_secret_files(source: Source) -> None:
    """Put the content of files in the place of their paths; what is wrong is noted at the path, never with content.

    A relative path starts at the directory of the configuration file. One line break at the end is left out.
    """
    for section, values in _sections(source.tree):
        for name in [name for name in values if name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in SECRETS]:
            path, secret = (*section, name), name.removesuffix(_SUFFIX)
            if secret in values:
                source.problem(path, f"is given beside {secret!r}", "Keep one of the two.")
            elif (content := _read(source, path, values[name])) is not None:
                values[secret] = content
                source.places[(*section, secret)] = source.where(path)
            del values[name]


def _sections(tree: dict[str, Any]) -> Iterator[tuple[SettingPath, dict[str, Any]]]:
    kafka = tree.get("kafka")
    if isinstance(kafka, dict):
        yield ("kafka",), kafka
        for overlay in ("consumer", "producer"):
            if isinstance(kafka.get(overlay), dict):
                yield ("kafka", overlay), kafka[overlay]


def _read(source: Source, path: SettingPath, value: Any) -> str | None:
    remedy = "Give the path of a file that this user may read."
    if not isinstance(value, str) or not value:
        source.problem(path, "is no path", remedy)
        return None
    try:
        content = read_regular(Path(source.file).parent / value, _MOST_BYTES + 1)
        text = content.decode()
    except OSError as error:
        source.problem(path, f"{value} cannot be read: {error.strerror or type(error).__name__}", remedy)
    except UnicodeDecodeError:
        source.problem(path, f"{value} is not UTF-8", remedy)
    except ValueError:
        source.problem(path, f"{value!r} is no path", remedy)
    else:
        text = text.removesuffix("\n").removesuffix("\r")
        if text and len(content) <= _MOST_BYTES:
            return text
        source.problem(
            path, f"{value} is {'too large' if text else 'empty'}", "Put the secret, and nothing else, there."
        )
    return None
