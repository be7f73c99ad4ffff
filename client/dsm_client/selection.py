"""Blocks that are chosen by their headers: which payloads are worth fetching, seen from ahead.

    headers    ━━━━━━━━━━━━━━━━━▶ seq           where(header) is asked as soon as they are here
    payloads   ──●──────●──●────●               fetched meanwhile, as wanted: pending
    reader     ──●───▶                          is handed them in order, when they have come

So a payload costs no round trip of its own, unlike one that is touched in a loop over all blocks,
where nobody can know which comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dsm.segment import Block
from dsm_client.announcement import Announcement
from dsm_client.loop import background

if TYPE_CHECKING:
    from dsm_client.remote import RemoteRing

PENDING_BYTES = 16 << 20
"""Payloads that are under way or not taken yet: three bandwidth-delay products of 500 Mbit/s x
80 ms. Beyond, the reader waits for the first of them."""

Where = Callable[[memoryview], object]


class Selection:
    """One iteration over `[start, stop)`. Its caller sees every header, and yields what is due:

    for seq in selection.seqs():
        selection.saw(seq, header)
        while (found := selection.due()) is not None: ...
    while (found := selection.due(at_last=True)) is not None: ...
    """

    def __init__(self, source: RemoteRing, start: int, stop: int, where: Where) -> None:
        replica = source.replica
        self._source = source
        self._where = where
        self._range = range(start, stop)
        self._announcement = Announcement(replica, start, stop, heads_only=True)
        self._pending: deque[int] = deque()
        self._chosen: deque[int] = deque()
        self._telling = False
        self._pending_max = max(1, int(PENDING_BYTES / replica.unit_bytes(None)))

    def seqs(self) -> Iterator[int]:
        """The blocks whose headers to look at."""
        replica, announcement = self._source.replica, self._announcement
        replica.selections.add(announcement)  # what is read ahead meanwhile is headers
        try:
            for seq in self._range:
                announcement.seq = seq
                if seq >= announcement.next_at:
                    announcement.reached()
                yield seq
        finally:
            replica.selections.discard(announcement)

    def saw(self, head: Block) -> None:
        if self._where(head.header):
            self._pending.append(head.seq)
            if self._source.whole(head.seq) is None:
                self._chosen.append(head.seq)
                if not self._telling:
                    self._telling = True
                    background().call(self._tell)

    def _tell(self) -> None:
        """In the loop: what was chosen until its turn came is requested together."""
        self._telling = False
        chosen = [self._chosen.popleft() for _ in range(len(self._chosen))]
        self._source.replica.want_whole(chosen)

    def due(self, *, at_last: bool = False) -> int | None:
        """The next block to hand out, if it has come or must be waited for."""
        if not self._pending:
            return None
        here = self._source.whole(self._pending[0]) is not None
        if here or at_last or len(self._pending) > self._pending_max:
            return self._pending.popleft()
        return None
