"""``python -m bench.tracing``: what tracing takes of a decrypting loop, each batch sampled, spans sent to a collector.

Two figures. In runs with it: the time between a batch's span and the batch itself, as a share of the run; it is taken
within one run, so that the machine's moods cancel out. And runs with and without in turn: the ratio of their medians
also has what the sending thread takes, and the moods.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from rich.console import Console

import streamcrypt as sc
from bench.one_worker import fill, run_worker
from streamcrypt.observe.tracing import Tracing
from streamcrypt.sidecar.transform import Open
from tests.broker import Broker, shared_broker, unique_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamcrypt.sidecar.passing import Take

PARTITIONS = 4
_GROUP = "bench"


def main() -> None:
    """Measure loops with and without in turn."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--size", type=int, default=1024)
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    console, broker, keys = Console(highlight=False), shared_broker(), sc.LocalKeyProvider.generate()
    rates: dict[bool, list[float]] = {False: [], True: []}
    shares: list[float] = []
    try:
        source, target = (broker.create_topic(partitions=PARTITIONS) for _ in range(2))
        with sc.Encryptor(keys) as sealer:
            fill(broker.bootstrap, source, [os.urandom(options.size)], options.records, PARTITIONS, sealer)
        with _collector():
            for turn in range(2 * options.rounds):
                # Two by two, and each pair the other way round.
                traced = turn % 4 in {1, 2}
                rate, share = _run(broker, keys, source, target, options.records, traced=traced)
                rates[traced].append(rate)
                shares += [share] if traced else []
        for topic in (source, target):
            broker.delete_topic(topic)
    finally:
        broker.close()
    for traced, found in rates.items():
        name = "with tracing" if traced else "without"
        console.print(f"{name}: {statistics.median(found):,.0f} records/s ({min(found):,.0f} to {max(found):,.0f})")
    slower = 1 - statistics.median(rates[True]) / statistics.median(rates[False])
    console.print(f"spans' share of the loop: {statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})")
    console.print(f"slower by, of the medians: {slower:.1%}")


def _run(
    broker: Broker, keys: sc.LocalKeyProvider, source: str, target: str, records: int, *, traced: bool
) -> tuple[float, float]:
    """Run once; give records/s, and the share that spans took of it."""
    pipeline = {"mode": "decrypt", "from": source, "to": target, "group": unique_name("tracing")}
    run = partial(run_worker, broker.bootstrap, Open(sc.Decryptor(keys)), pipeline, records)
    if not traced:
        return run(), 0.0
    with Tracing() as tracing:
        around = _Around(tracing)
        rate = run(observer=tracing, trace=around)
    return rate, (around.outside - around.inside) * rate / records


class _Around:
    """Puts a span around batches, and one clock within it and one outside."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self.inside = self.outside = 0.0

    def __call__(self, take: Take) -> Take:
        clock = time.perf_counter

        def within(place: tuple[str, int], messages: Sequence[Any]) -> None:
            began = clock()
            take(place, messages)
            self.inside += clock() - began

        framed = self._tracing.around("bench", _GROUP, "decrypt", within)

        def outside(place: tuple[str, int], messages: Sequence[Any]) -> None:
            began = clock()
            framed(place, messages)
            self.outside += clock() - began

        return outside


@contextmanager
def _collector() -> Iterator[None]:
    """A collector that takes everything and keeps nothing."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Sink(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


if __name__ == "__main__":
    main()
