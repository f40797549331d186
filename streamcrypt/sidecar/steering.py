"""What an operator asks of a pipeline that runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Steering"]


@dataclass(slots=True)
class Steering:
    """Set on any thread; the pipeline's loop obeys within its turn. It outlives the pipeline, which may begin again.

    Attributes:
        paused: Read nothing and write nothing, and stay in the group.
    """

    paused: bool = False
