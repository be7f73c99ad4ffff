"""Following a live ring: which block comes next, and what was missed. Pure; shells wait and yield.

blocks  ... 41 42 │ 43 44 45 │ 46 ...        the reader wants 43, the tail is at 46:
                  └── Gap(43, 45) ──┘        raised, or skipped and counted
"""

from __future__ import annotations

from dsm.errors import Overrun, UsageError
from dsm.model import Gap, OnLag, Position


class Follower:
    """The position of one follower."""

    def __init__(self, segment: str, start: int | None, on_lag: OnLag, position: Position) -> None:
        """`start`: a sequence number; negative, so many before the head; `None`, what comes next.

        A start before the tail (and not counted from the head) is a gap like any other.
        """
        if on_lag not in ("raise", "skip", "block"):
            raise UsageError(f"on_lag={on_lag!r}: choose 'raise', 'skip' or 'block'")
        self.segment = segment
        self.on_lag = on_lag
        self.skipped = 0
        """Blocks that were missed."""
        if start is None:
            self.next_seq = position.head
        elif start < 0:
            self.next_seq = max(position.tail, position.head + start)
        else:
            self.next_seq = start

    def read(self) -> None:
        """The next block was handed out."""
        self.next_seq += 1

    def lagged(self, gap: Gap) -> None:
        """Blocks were overwritten before they were read: go on behind them.

        Raises `Overrun` with exactly what is missing, unless the reader chose to skip. After that
        it may be called on: it goes on behind the gap.
        """
        missed = Gap(self.next_seq, max(gap.last, self.next_seq))
        self.next_seq = missed.last + 1
        if self.on_lag == "skip":
            self.skipped += missed.length
            return
        raise Overrun(self.segment, missed)
