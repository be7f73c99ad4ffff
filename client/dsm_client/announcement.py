"""What an iteration over blocks tells in advance: the range that it reads, some at a time.

    read        seq          upto                    stop
    ━━━━━━━━━━━━━▶────────────┤ announced at a time   ┤
                     ╰ next_at: announce more

Under `auto` nobody knows at first how much of each block is going to be touched. So the first few
come whole, together with the headers of all that follow them: one round trip later the reader has
shown what it does with blocks, and whoever reads headers only has got them already; who reads all
is sent the payloads, which lack nothing but the headers.

    ┤ whole, TRIAL_BLOCKS ├ headers ─────────────────┤     then, as the policy says:  whole ──▶
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsm.model import Access, Extent
from dsm_client.loop import background

if TYPE_CHECKING:
    from dsm_client.ring_replica import RingReplica

WANT_BYTES = 64 << 20
"""As much of a range is announced at a time as surely wanted."""

WANT_FIRST = 64
"""Blocks without headers that `auto` announces first, then twice that and so on."""

TRIAL_BLOCKS = 16
"""Enough for the policy to settle (`BETTER_READS`), with some on their way while it does."""

TRIAL_LEFT = 2

HEADERS_WORTH = 4
"""Headers come first where blocks are so many times larger."""


class Announcement:
    """Of one iteration. `seq` is where its reader is, in the reader's thread; the rest happens in
    the loop. The reader calls `reached` when it comes to `next_at`."""

    def __init__(
        self, replica: RingReplica, start: int, stop: int, *, heads_only: bool = False
    ) -> None:
        self.seq = start
        self.next_at = start
        self._replica = replica
        self._heads_only = heads_only
        self._stop = stop
        self._upto = start
        self._depth: int | None = -1
        self._trial = TRIAL_BLOCKS
        self._piece = WANT_FIRST

    def reached(self) -> None:
        """The reader has come to `next_at`: announce more."""
        self.next_at = self._stop  # until the loop knows better
        background().call(self.announce)

    def announce(self) -> None:
        """In the loop; also when the access method has changed."""
        replica = self._replica
        if replica.error is not None or replica.method is Access.ZERO_COPY:
            return
        replica.learn()
        trying = replica.access is Access.AUTO and not replica.policy.is_settled
        if trying and self._has_headers and not self._heads_only:
            self._try_some()
        else:
            self._announce_more()
        replica.settle()

    @property
    def _has_headers(self) -> bool:
        replica = self._replica
        header = replica.unit_bytes(replica.header_bytes)
        return bool(replica.header_bytes) and replica.unit_bytes(None) > HEADERS_WORTH * header

    def _try_some(self) -> None:
        whole = min(self._stop, self.seq + self._trial)
        heads = min(self._stop, whole + self._units_max(self._replica.header_bytes))
        self._replica.trying.add(self)
        self._replica.want((Extent(self.seq, whole),), None)
        self._replica.want((Extent(whole, heads),), self._replica.header_bytes)
        self.next_at = max(self.seq + 1, whole - TRIAL_LEFT)
        self._trial *= 2

    def _announce_more(self) -> None:
        replica = self._replica
        replica.trying.discard(self)
        depth = replica.header_bytes if self._heads_only else replica.depth
        if depth != self._depth:  # for the first time, or the method has changed
            self._depth, self._upto = depth, self.seq
        most = self._units_max(depth)
        known = replica.access is not Access.AUTO or replica.policy.is_settled or self._heads_only
        piece = most if known else min(most, self._piece)
        while self._upto < self._stop and self.seq + piece // 2 >= self._upto:
            replica.want((Extent(self._upto, min(self._stop, self._upto + piece)),), depth)
            self._upto += piece
            self._piece *= 2
        self.next_at = min(self._stop, max(self.seq + 1, self._upto - piece // 2))

    def _units_max(self, depth: int | None) -> int:
        """As many as are announced at a time; not more than stay in the shadow meanwhile."""
        replica = self._replica
        room = replica.cache.budget_bytes / 2 / replica.unit_bytes(None)
        return max(1, int(min(WANT_BYTES / replica.unit_bytes(depth), room)))
