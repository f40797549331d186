"""What a pipeline has read, passed on and committed, partition by partition. Pure: it knows offsets, and no client."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

__all__ = ["Ledger", "Place", "Progress"]

Place = tuple[str, int]
"""Topic and partition."""

Progress = dict[Place, int]
"""Place to the offset up to which, exclusive, everything was handed to the producer or left behind by policy."""


class Ledger:
    """Keeps the unit of work: what was begun since the last commit, and where it would have to be read again.

    Attributes:
        done: Everything before this offset was passed on or left behind.
        firsts: The first offset of the unit, for every partition that it touches.
        in_hand: Whether fetched records are neither passed on nor held: the client's position is ahead of us then.
    """

    def __init__(self) -> None:
        self.done: Progress = {}
        self.firsts: Progress = {}
        self.in_hand = False
        self._rewound: set[Place] = set()

    def touch(self, place: Place, offset: int) -> None:
        """Note that the unit begins at this offset, where it does not begin before it."""
        self.firsts.setdefault(place, offset)

    def passed(self, place: Place, next_offset: int) -> None:
        """Note that everything before ``next_offset`` was passed on or left behind."""
        self.done[place] = next_offset
        self._rewound.discard(place)

    def committed(self) -> None:
        """Begin a new unit."""
        self.firsts.clear()

    def rewind(self) -> Progress:
        """Give the unit up; return where each of its partitions has to be read from again."""
        again, self.firsts = self.firsts, {}
        self.done.update(again)
        self._rewound.update(again)
        self.in_hand = False
        return again

    def not_passed(self, place: Place, offset: int) -> None:
        """Note that records from here on, or from behind what has passed, are in hand and will have to be read again.

        Args:
            place: Their partition.
            offset: That of the first one that was in hand.
        """
        self.touch(place, max(offset, self.done.get(place, 0)))

    def moved_back(self, place: Place) -> None:
        """Note that a partition will be fetched again from earlier than the client's position."""
        self._rewound.add(place)

    def forget(self, places: Iterable[Place]) -> None:
        """Forget partitions that went elsewhere."""
        for place in places:
            self.done.pop(place, None)
            self.firsts.pop(place, None)
            self._rewound.discard(place)

    def offsets(self, assigned: Collection[Place], held: Mapping[Place, int], positions: Progress) -> Progress:
        """Give what may be committed.

        Args:
            assigned: The partitions that are ours.
            held: The offset of the oldest record in hand, for every partition that waits.
            positions: The client's positions, which alone pass the control records of transactions. They run ahead of
                records in hand, and after a rewind until the next record.
        """
        offsets = {place: offset for place, offset in self.done.items() if place in assigned}
        if not self.in_hand:
            for place, position in positions.items():
                if place in assigned and place not in self._rewound:
                    offsets[place] = max(offsets.get(place, 0), position)
        return offsets | {place: oldest for place, oldest in held.items() if place in assigned}
