"""Sources across the network: what the shadow has at once, the rest through the replica."""

from __future__ import annotations

from typing import Generic, TypeVar

from dsm.core.planner import Hint
from dsm.errors import NotFilled, OutOfRange, Overrun
from dsm.model import Access, Position, SegmentInfo
from dsm.segment import Block
from dsm_client.blocks import LazyBlock, WatchedBlock
from dsm_client.loop import background
from dsm_client.region_replica import RegionReplica
from dsm_client.ring_replica import RingReplica, is_whole

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
        return self.replica.explain()

    def close(self) -> None:
        background().call(self._close)

    def _close(self) -> None:
        self.replica.close()
        self.replica.cache.close(self.replica.shadow)


class RemoteRing(_Remote[RingReplica]):
    """A ring across the network, through its replica."""

    def __init__(self, replica: RingReplica) -> None:
        super().__init__(replica)
        self._last: WatchedBlock | LazyBlock | None = None

    def present(self, seq: int) -> Block | None:
        replica = self.replica
        replica.counts.reads += 1
        if replica.method is Access.ZERO_COPY:
            return None
        block = self._here(seq)
        if block is not None:
            replica.counts.hits += 1
            if replica.note(seq, seq + 1):
                background().call(replica.told)
        return block

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
            return self._watched(block) if replica.access is Access.AUTO else block
        if replica.depth is None or len(block.data) < replica.depth:
            return None
        lazy = LazyBlock(block, replica.header_bytes, self._load)
        if replica.access is Access.AUTO:
            self._observe(lazy)
        return lazy

    def _load(self, seq: int) -> Block:
        return background().run(self.fetch_whole(seq))

    def _watched(self, block: Block) -> Block:
        watched = WatchedBlock(block, self.replica.header_bytes)
        self._observe(watched)
        return watched

    def _observe(self, block: WatchedBlock | LazyBlock) -> None:
        """Under `auto`: the reader is done with the block before; tell how much it touched."""
        last, self._last = self._last, block
        if last is not None:
            touched = last.touched if isinstance(last, WatchedBlock) else last.is_loaded
            self.replica.touches.append((touched, len(last), block.seq == last.seq + 1))

    async def fetch(self, seq: int) -> Block:
        replica = self.replica
        while True:
            if replica.method is Access.ZERO_COPY:
                return await replica.fetch_exact(seq)
            await replica.fetch(seq, replica.depth)
            if (block := self._here(seq)) is not None:
                return block

    async def fetch_whole(self, seq: int) -> Block:
        replica = self.replica
        while True:
            await replica.fetch(seq, None)
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
            if (block := self._here(seq)) is not None:
                return block
            tail = replica.shadow.tail
            if seq < tail:
                await replica.fetch(seq, replica.depth)  # raises the overrun

    def want(self, start: int, stop: int) -> None:
        if self.replica.method is not Access.ZERO_COPY:
            background().call(self.replica.want, start, stop)


class RemoteRegion(_Remote[RegionReplica]):
    """A region across the network, through its replica."""

    def present(self, offset: int, length: int) -> memoryview | None:
        replica = self.replica
        replica.counts.reads += 1
        if replica.is_behind or replica.method is Access.ZERO_COPY or replica.error is not None:
            return None
        shadow = replica.shadow
        if not shadow.covered(offset, length):
            return None
        view: memoryview = shadow.view(offset, length)
        replica.counts.hits += 1
        if replica.note(*replica.pages_of(offset, length)):
            background().call(replica.told)
        return view

    async def fetch(self, offset: int, length: int) -> memoryview:
        replica = self.replica
        if replica.choose().method is Access.ZERO_COPY:
            return memoryview(await replica.fetch_exact(offset, length))
        while True:
            await replica.fetch(offset, length)
            if replica.shadow.covered(offset, length):
                view: memoryview = replica.shadow.view(offset, length)
                return view
