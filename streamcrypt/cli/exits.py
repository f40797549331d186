"""Exit codes, and errors as one-screen messages on stderr. Imports nothing heavy: every command passes through here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from streamcrypt.errors import ConfigError, StreamcryptError

__all__ = ["MISSING_EXTRA", "SIDECAR_MODULES", "Exit", "complain", "reported"]

SIDECAR_MODULES = frozenset(
    {
        "boto3",
        "botocore",
        "confluent_kafka",
        "prometheus_client",
        "pydantic",
        "pydantic_core",
        "rich",
        "structlog",
        "typer",
        "yaml",
    }
)
"""What the extra ``sidecar`` brings and the core does without."""

MISSING_EXTRA = "the command line needs {module}: pip install 'streamcrypt[sidecar]'"


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """The work or the world failed: network, key service, a record that halts a pipeline."""
    USAGE = 2
    """The arguments or the configuration are wrong."""
    INTERRUPTED = 130
    """Ended by a signal before it could tidy up."""


def complain(message: str, remedy: str = "") -> None:
    """Write an error to stderr."""
    sys.stderr.write(f"streamcrypt: {message}\n" + (f"  {remedy}\n" if remedy else ""))


@contextmanager
def reported() -> Iterator[None]:
    """Turn the errors that an operator can do something about into a message and an exit code.

    Anything else is a mistake of ours and keeps its traceback.
    """
    try:
        yield
    except ConfigError as error:
        complain(str(error), error.remedy)
        raise SystemExit(Exit.USAGE) from None
    except StreamcryptError as error:
        complain(str(error), error.remedy)
        raise SystemExit(Exit.FAILED) from None
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in SIDECAR_MODULES:
            raise
        complain(MISSING_EXTRA.format(module=module))
        raise SystemExit(Exit.USAGE) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
        raise SystemExit(Exit.FAILED) from None
    except KeyboardInterrupt:
        raise SystemExit(Exit.INTERRUPTED) from None
    except Exception as error:
        # Told by its module, so that the command line does not load librdkafka to catch it.
        if type(error).__name__ != "KafkaException" or type(error).__module__ not in {"cimpl", "confluent_kafka.cimpl"}:
            raise
        complain(f"Kafka: {error.args[0].str() if error.args else error}")
        raise SystemExit(Exit.FAILED) from None
