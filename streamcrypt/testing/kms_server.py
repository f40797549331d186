"""The test KMS as a command, for a laptop: ``python -m streamcrypt.testing.kms_server --seed FILE``.

Not for production: it checks no signature and keeps its keys in a file.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from streamcrypt.errors import ConfigError
from streamcrypt.testing.kms_service import KMSCall, KMSServer

__all__ = ["KMSCall", "KMSServer", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Return 0, or 2 where seed file, host or port is not usable."""
    parser = argparse.ArgumentParser(prog="python -m streamcrypt.testing.kms_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4599, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--seed", metavar="FILE", help="JSON file of keys that exist from the start")
    options = parser.parse_args(arguments)
    try:
        server = KMSServer(host=options.host, port=options.port, seed=options.seed)
    except (ConfigError, OSError, OverflowError) as error:
        sys.stderr.write(f"kms: {error}\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with server:
        sys.stderr.write("".join(f"kms: {line}\n" for line in [*server.seeded, f"listening on {server.url}"]))
        sys.stderr.flush()
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
