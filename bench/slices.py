"""Results that are kept piece by piece, so that a long run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

__all__ = ["Shelf", "Slice", "matrix"]


@dataclass(frozen=True, slots=True)
class Slice:
    """One cell of the wide matrix.

    Attributes:
        size: Bytes of a value.
        partitions: Of each topic.
        delivery: ``at_least_once`` or ``exactly_once``.
        compression: librdkafka's ``compression.type`` of every producer.
    """

    size: int
    partitions: int
    delivery: str
    compression: str

    @property
    def name(self) -> str:
        """A file name."""
        return f"{self.size}B-{self.partitions}p-{self.delivery}-{self.compression}"


def matrix(
    sizes: Sequence[int], partitions: Sequence[int], deliveries: Sequence[str], compressions: Sequence[str]
) -> Iterator[Slice]:
    """Give every combination, the first argument varying fastest: an early stop has seen every size."""
    for compression, delivery, count, size in product(compressions, deliveries, partitions, sizes):
        yield Slice(size, count, delivery, compression)


class Shelf:
    """A folder of slices that were measured.

    Args:
        folder: Made where it is missing.
        fingerprint: What the results hold for: machine, versions, code. A slice of another one counts as not measured.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self._folder = folder
        self._fingerprint = dict(fingerprint)
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, piece: Slice) -> dict[str, Any] | None:
        """Give what was measured; None where nothing was, or by other code, or where a file was cut short."""
        try:
            kept = json.loads(self._path(piece).read_text())
        except (OSError, json.JSONDecodeError):
            return None
        return kept["samples"] if kept.get("fingerprint") == self._fingerprint else None

    def put(self, piece: Slice, samples: Mapping[str, Any]) -> None:
        """Keep what was measured; a run that ends meanwhile leaves the old file or the new one, never half of it."""
        text = json.dumps({"fingerprint": self._fingerprint, "samples": samples}, indent=1)
        path = self._path(piece)
        half = path.with_suffix(".half")
        half.write_text(text)
        half.replace(path)

    def missing(self, pieces: Sequence[Slice]) -> list[Slice]:
        """Give those that are still to be measured, in order."""
        return [piece for piece in pieces if self.get(piece) is None]

    def _path(self, piece: Slice) -> Path:
        return self._folder / f"{piece.name}.json"
