"""How far readers of a session went lately, once they began to read in order.

A handle that is new knows nothing of its reader, and its window opens in three round trips. But
whoever reads array after array, or file after file, will do so again; so the first stream of a new
handle is trusted with what the ones before it came to, and with no more than the shortest of them:
where long reads and short ones take turns, nothing is fetched that only a long one would use.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

REMEMBERED = 4
"""Runs. A change of habit costs one window, and four handles later it is a habit itself."""


@dataclass(slots=True)
class Run:
    """What the first stream of one handle has read so far."""

    bytes: float = 0.0
    """`inf` where it came to the segment's end: how far it would have gone is not known."""


class Habits:
    """One per session."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque(maxlen=REMEMBERED)

    def began(self) -> Run:
        """A handle is read in order for the first time; whoever has the run keeps it up."""
        run = Run()
        self._runs.append(run)
        return run

    @property
    def usual_bytes(self) -> float:
        """What a run comes to at the least, `inf` where all came to the end; 0: not known."""
        return min((run.bytes for run in self._runs), default=0.0)
