"""Sources across the network: what the shadow has at once, the rest through the replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from dsm.core.extents import ExtentSet
from dsm.core.planner import Hint
from dsm.errors import BudgetExceeded, NotFilled, OutOfRange, Overrun
from dsm.model import Access, Extent, Position, SegmentInfo
from dsm.segment import Block
from dsm_client.announcement import Announcement
from dsm_client.blocks import LazyBlock, WatchedBlock
from dsm_client.exact import exact_blocks, exact_ranges
from dsm_client.loop import background
from dsm_client.region_replica import RegionReplica
from dsm_client.ring_replica import RingReplica, is_whole
from dsm_client.selection import Selection, Where
from dsm_client.stats import HandleStats, explained, stats_of

ROUNDS_MAX = 3
"""Times that a read is fetched again because some of it was dropped before all was there."""

AnyReplica = TypeVar("AnyReplica", RingReplica, RegionReplica)


class _Remote(Generic[AnyReplica]):
    """What both kinds hand on to their replica."""

    is_mapped = False

    def __init__(self, replica: AnyReplica) -> None:
        self.replica: AnyReplica = replica
        self.info: SegmentInfo = replica.info

    @property
    def position(self) -> Position:
        return self.replica.position

    def hint(self, hint: Hint) -> None:
        background().call(self.replica.hint, hint)

    def explain(self) -> str:
        return explained(self.replica)

    def stats(self) -> HandleStats:
        return stats_of(self.replica)

    def _note_all(self, extents: Sequence[Extent]) -> None:
        """A list was answered by the shadow; one that is all in a row is a read as any other."""
        if len(extents) > 1:
            background().call(self.replica.used, extents)
        elif extents and self.replica.note(*extents[0]):
            background().call(self.replica.told)

    def _too_much(self, what: str) -> BudgetExceeded:
        return BudgetExceeded(
            f"segment {self.info.name!r}: {what} at once do not stay in the shadow until they are "
            "handed out; read less at a time, or connect with a larger budget_bytes"
        )

    def close(self) -> None:
        background().call(self._close)

    def _close(self) -> None:
        self.replica.close()
        self.replica.cache.close(self.replica.shadow)


class RemoteRing(_Remote[RingReplica]):
    """A ring across the network, through its replica."""

    def __init__(self, replica: RingReplica) -> None:
        super().__init__(replica)
        self._last: list[Block] = []
        self._last_seq = -2

    def present(self, seq: int) -> Block | None:
        replica = self.replica
        replica.counts.reads += 1
        if replica.method is Access.ZERO_COPY:
            return None
        block = self._here(seq)
        if block is not None:
            replica.counts.hits += 1
            if replica.access is Access.AUTO:
                self._observe([block])
            if replica.note(seq, seq + 1):
                background().call(replica.told)
        return block

    def present_all(self, seqs: Sequence[int], *, whole: bool) -> list[Block] | None:
        replica = self.replica
        replica.counts.reads += len(seqs)
        if replica.method is Access.ZERO_COPY:
            return None
        blocks = self._all_here(seqs, whole=whole)
        if blocks is not None:
            replica.counts.hits += len(seqs)
            self._note_all(tuple(ExtentSet((seq, seq + 1) for seq in sorted(seqs))))
        return blocks

    def _all_here(self, seqs: Sequence[int], *, whole: bool = False) -> list[Block] | None:
        blocks = []
        for seq in seqs:
            block = self._here(seq)
            if block is None or (whole and isinstance(block, LazyBlock)):
                return None
            blocks.append(block)
        if self.replica.access is Access.AUTO:
            self._observe(blocks)
        return blocks

    def _here(self, seq: int) -> Block | None:
        """What is wanted of it, if it is all here."""
        replica = self.replica
        private = replica.private.get(seq) if replica.private else None
        if private is not None and is_whole(private):
            return private
        try:
            block = replica.shadow.block(seq) if private is None else private
        except (NotFilled, OutOfRange, Overrun):
            replica.check()
            return None
        fields = block._fields
        whole = fields is not None and len(block.data) == fields[3]
        if whole:
            block.header_bytes = replica.header_bytes
            if replica.access is Access.AUTO:
                return WatchedBlock(block, replica.header_bytes)
            return block
        if replica.depth is None or len(block.data) < replica.depth:
            return None
        return LazyBlock(block, replica.header_bytes, self._load)

    def _load(self, seq: int) -> Block:
        return background().run(self.fetch_whole(seq))

    def _observe(self, blocks: list[Block]) -> None:
        """Under `auto`: the reader is done with those before; tell how much it touched."""
        last, self._last = self._last, blocks
        previous = self._last_seq
        for block in last:
            if isinstance(block, WatchedBlock | LazyBlock):
                self.replica.touches.append((block.touched, len(block), block.seq == previous + 1))
            previous = block.seq
        self._last_seq = previous

    async def fetch(self, seq: int) -> Block:
        (block,) = await self.fetch_all((seq,), whole=False)
        return block

    async def fetch_all(self, seqs: Sequence[int], *, whole: bool) -> list[Block]:
        replica = self.replica
        for _ in range(ROUNDS_MAX):
            replica.learn()
            if replica.method is Access.ZERO_COPY:
                return await exact_blocks(replica, seqs)
            await replica.fetch(seqs, None if whole else replica.depth)
            if (blocks := self._all_here(seqs, whole=whole)) is not None:
                return blocks
        raise self._too_much(f"{len(seqs)} blocks")

    async def fetch_whole(self, seq: int) -> Block:
        replica = self.replica
        while True:
            await replica.fetch((seq,), None)
            private = replica.private.get(seq)
            if private is not None and is_whole(private):
                return private
            block = replica.shadow.block(seq)
            if block._fields is not None and len(block.data) == block._fields[3]:
                block.header_bytes = replica.header_bytes
                return block

    async def wait_for(self, seq: int) -> Block:
        replica = self.replica
        while True:
            await replica.fetch_beyond(seq, replica.depth)
            if (blocks := self._all_here((seq,))) is not None:
                return blocks[0]
            tail = replica.shadow.tail
            if seq < tail:
                await replica.fetch((seq,), replica.depth)  # raises the overrun

    def announce(self, start: int, stop: int) -> Announcement | None:
        if self.replica.access is Access.ZERO_COPY:
            return None
        announcement = Announcement(self.replica, start, stop)
        self.replica.announcements.add(announcement)
        return announcement

    def select(self, start: int, stop: int, where: Where) -> Selection | None:
        """Headers first, and the payloads of those that are chosen; `None` where whole blocks come
        anyhow, or no part of them can."""
        by_headers = self.replica.access in (Access.AUTO, Access.HYBRID)
        if not by_headers or not self.replica.header_bytes:
            return None
        return Selection(self, start, stop, where)

    def head(self, seq: int) -> Block | None:
        """Its header, if it is here; the rest may be too."""
        replica = self.replica
        replica.counts.reads += 1
        block = self._stored(seq)
        if block is None or not (is_whole(block) or len(block.data) >= replica.header_bytes):
            return None
        replica.counts.hits += 1
        if replica.note(seq, seq + 1):
            background().call(replica.told)
        return block

    async def fetch_head(self, seq: int) -> Block:
        replica = self.replica
        for _ in range(ROUNDS_MAX):
            await replica.fetch((seq,), replica.header_bytes)
            block = self._stored(seq)
            if block is not None:
                return block
        raise self._too_much(f"the header of block {seq}")

    def whole(self, seq: int) -> Block | None:
        """All of it, if it is here."""
        block = self._stored(seq)
        return block if block is not None and is_whole(block) else None

    def _stored(self, seq: int) -> Block | None:
        replica = self.replica
        private = replica.private.get(seq) if replica.private else None
        if private is not None:
            return private
        try:
            block = replica.shadow.block(seq)
        except (NotFilled, OutOfRange, Overrun):
            replica.check()
            return None
        block.header_bytes = replica.header_bytes
        return block

    def will_need(self, start: int, stop: int) -> None:
        self.replica.check()
        self.replica.check_room(min(stop, self.position.head) - max(start, self.position.tail))
        if self.replica.method is not Access.ZERO_COPY:
            background().call(self.replica.will_need, start, stop)


class RemoteRegion(_Remote[RegionReplica]):
    """A region across the network, through its replica."""

    def present(self, offset: int, length: int) -> memoryview | None:
        replica = self.replica
        replica.counts.reads += 1
        if replica.is_behind or replica.method is Access.ZERO_COPY or replica.error is not None:
            return None
        try:
            view: memoryview = replica.shadow.view(offset, length)
        except NotFilled:
            return None
        replica.counts.hits += 1
        if replica.note(*replica.pages_of(offset, length)):
            background().call(replica.told)
        return view

    def present_all(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview] | None:
        replica = self.replica
        replica.counts.reads += len(ranges)
        if replica.is_behind or replica.method is Access.ZERO_COPY or replica.error is not None:
            return None
        views = self._views(ranges)
        if views is not None:
            replica.counts.hits += len(ranges)
            self._note_all(replica.pages_of_all(ranges))
        return views

    def _views(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview] | None:
        """All of one version, if they are all here."""
        shadow = self.replica.shadow
        version = shadow.version
        try:
            views = [shadow.view(*given) for given in ranges]
        except NotFilled:
            return None
        return views if shadow.version == version else None

    def will_need(self, offset: int, length: int) -> None:
        replica = self.replica
        replica.check()
        replica.cache.check_room(self.info, length)
        if length and replica.method is not Access.ZERO_COPY:
            background().call(replica.will_need, offset, length)

    async def fetch(self, offset: int, length: int) -> memoryview:
        (view,) = await self.fetch_all(((offset, length),))
        return view

    async def fetch_all(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        replica = self.replica
        if replica.choose().method is Access.ZERO_COPY:
            views = await exact_ranges(replica, ranges)
            if views is not None:
                return views  # else by way of the shadow, which holds on to one version
        dropped = 0
        while dropped < ROUNDS_MAX:
            version = replica.shadow.version
            await replica.fetch(ranges)
            if (views := self._views(ranges)) is not None:
                return views
            dropped += replica.shadow.version == version
        raise self._too_much(f"{sum(length for _, length in ranges)} bytes")
