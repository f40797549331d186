"""Asking several places that may hang: one after the other with a head start each, or all at once.

Each attempt runs on a thread of its own: a pool whose threads all hang would keep the good places waiting in its
queue. The threads are daemons, since an attempt ends by its own timeouts and nobody waits for a late answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Self, TypeVar

from streamcrypt.errors import StreamcryptError, again

__all__ = ["HEAD_START_SECONDS", "Outcome", "all_answers", "first_answer"]

_T = TypeVar("_T")

HEAD_START_SECONDS = 0.5
"""A place that has not answered for so long is joined by the next one. KMS answers in tens of milliseconds; so a dark
region costs this much, and not the 4.5 s after which a call to it is given up."""


@dataclass(frozen=True, slots=True, repr=False)
class Outcome(Generic[_T]):
    """How attempts ended, by their place in the list. One that is in neither map gave nothing in time."""

    answers: Mapping[int, _T] = field(default_factory=dict)
    failures: Mapping[int, StreamcryptError] = field(default_factory=dict)


def _drop(_late: object) -> None:
    pass


def _always(_error: StreamcryptError) -> bool:
    return True


def first_answer(
    attempts: Sequence[Callable[[], _T]],
    *,
    head_start: float | None = None,
    goes_on: Callable[[StreamcryptError], bool] = _always,
    discard: Callable[[_T], None] = _drop,
) -> Outcome[_T]:
    """Give the first answer, asking the next place where one fails, or does not answer within ``head_start``.

    Args:
        attempts: What to try, most preferred first. A single one runs on the calling thread.
        head_start: Seconds; default :data:`HEAD_START_SECONDS`.
        goes_on: Whether an error lets the next place be asked.
        discard: Takes each answer that came too late, or second: it may hold a key.

    Returns:
        One answer at most, and the failures until then.

    Raises:
        BaseException: A defect or an interrupt in an attempt.
    """
    if len(attempts) == 1:
        try:
            return Outcome({0: attempts[0]()})
        except StreamcryptError as error:
            return Outcome(failures={0: again(error)})
    if head_start is None:
        head_start = HEAD_START_SECONDS
    race: _Race[_T] = _Race(discard)
    with race:
        for index, attempt in enumerate(attempts):
            race.start(index, attempt)
            race.wait(head_start if index < len(attempts) - 1 else None, race.is_won)
            if race.is_won() or not all(goes_on(error) for error in list(race.failures.values())):
                break
        race.wait(None, race.is_won)  # one asked earlier may answer yet
    winner = next(iter(race.answers), None)
    for index, answer in race.answers.items():
        if index != winner:
            discard(answer)
    return Outcome({} if winner is None else {winner: race.answers[winner]}, race.failures)


def all_answers(
    attempts: Sequence[Callable[[], _T]], *, patience: float | None, discard: Callable[[_T], None] = _drop
) -> Outcome[_T]:
    """Make all attempts at once and give how each ended, as far as it did within ``patience`` seconds.

    Args:
        attempts: What to do. A single one without a bound runs on the calling thread.
        patience: Seconds; None: as long as they take.
        discard: Takes each answer that came too late.

    Raises:
        BaseException: A defect or an interrupt in an attempt.
    """
    if len(attempts) == 1 and patience is None:
        return first_answer(attempts)
    race: _Race[_T] = _Race(discard)
    with race:
        for index, attempt in enumerate(attempts):
            race.start(index, attempt)
        race.wait(patience, lambda: False)
    return Outcome(race.answers, race.failures)


class _Race(Generic[_T]):
    """Attempts under way, and how they ended until :meth:`end`."""

    def __init__(self, discard: Callable[[_T], None]) -> None:
        self._discard = discard
        self._changed = threading.Condition()
        self._over = False
        self._under_way = 0
        self._defect: BaseException | None = None
        self.answers: dict[int, _T] = {}
        self.failures: dict[int, StreamcryptError] = {}

    def is_won(self) -> bool:
        """Whether there is an answer."""
        return bool(self.answers)

    def start(self, index: int, attempt: Callable[[], _T]) -> None:
        """Begin an attempt; on the calling thread where there is no other to be had, as when the interpreter ends."""
        with self._changed:
            self._under_way += 1
        thread = threading.Thread(target=self._run, args=(index, attempt), name="streamcrypt-ask", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run(index, attempt)

    def _run(self, index: int, attempt: Callable[[], _T]) -> None:
        try:
            answer = attempt()
        except StreamcryptError as error:
            # Not the error itself: its traceback leads to this frame, and so back to itself.
            with self._ending() as in_time:
                if in_time:
                    self.failures[index] = again(error)
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            with self._ending():
                self._defect = error
        else:
            with self._ending() as in_time:
                if in_time:
                    self.answers[index] = answer
            if not in_time:
                self._discard(answer)

    @contextmanager
    def _ending(self) -> Iterator[bool]:
        with self._changed:
            yield not self._over
            self._under_way -= 1
            self._changed.notify_all()

    def wait(self, seconds: float | None, enough: Callable[[], bool]) -> None:
        """Return once nothing is under way, once ``enough()``, or after ``seconds``.

        Raises:
            BaseException: A defect or an interrupt in an attempt.
        """
        until = None if seconds is None else monotonic() + seconds
        with self._changed:
            while self._under_way and self._defect is None and not enough():
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
        if self._defect is not None:
            raise self._defect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        """Take no more answers: what comes late is discarded, and everything where the race ends with an error."""
        with self._changed:
            self._over = True
        if kind is not None:
            for answer in self.answers.values():
                self._discard(answer)
