"""Sources on the node's own host: the segment file itself, mapped; nothing to fetch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

from dsm.core.planner import Hint
from dsm.errors import EpochGone
from dsm.model import Position, SegmentInfo
from dsm.segment import Bell, Block, RegionReader, RingReader
from dsm_client.announcement import Announcement
from dsm_client.loop import patience_s
from dsm_client.selection import Selection, Where
from dsm_client.stats import HandleStats, stats_of_mapped

AnyReader = TypeVar("AnyReader", RingReader, RegionReader)


class _Mapped(Generic[AnyReader]):
    """What both kinds have in common: there is nothing to hint at, and nothing to explain."""

    is_mapped = True

    def __init__(self, reader: AnyReader) -> None:
        self.reader: AnyReader = reader
        self.info: SegmentInfo = reader.info

    @property
    def position(self) -> Position:
        return self.reader.position

    def hint(self, hint: Hint) -> None:
        pass

    def explain(self) -> str:
        return f"{self.info.name}: mapped, since the node is on this host; no bytes on the wire"

    def stats(self) -> HandleStats:
        return stats_of_mapped()

    def close(self) -> None:
        self.reader.close()


class MappedRing(_Mapped[RingReader]):
    """A ring on this host: nothing to fetch."""

    def __init__(self, reader: RingReader, header_bytes: int | None) -> None:
        super().__init__(reader)
        self.header_bytes = reader.info.header_bytes if header_bytes is None else header_bytes
        self._bell: Bell | None = None

    def present(self, seq: int) -> Block | None:
        if seq >= self.reader.head:
            return None
        block = self.reader.block(seq)
        block.header_bytes = self.header_bytes
        return block

    def present_all(self, seqs: Sequence[int], *, whole: bool) -> list[Block] | None:
        blocks = [self.reader.block(seq) for seq in seqs]  # raises why one is not present
        for block in blocks:
            block.header_bytes = self.header_bytes
        return blocks

    async def fetch(self, seq: int) -> Block:
        return self.reader.block(seq)  # raises why it is not present

    async def fetch_all(self, seqs: Sequence[int], *, whole: bool) -> list[Block]:
        return [self.reader.block(seq) for seq in seqs]

    async def fetch_whole(self, seq: int) -> Block:
        return self.reader.block(seq)

    async def wait_for(self, seq: int) -> Block:
        with Bell() as bell:
            bell.add(self.reader.path)
            rang = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(bell.fileno(), rang.set)
            try:
                while (block := self.present(seq)) is None:
                    self._check_life()
                    await rang.wait()
                    rang.clear()
                    bell.read()
                return block
            finally:
                loop.remove_reader(bell.fileno())

    def wait_here(self, seq: int, timeout_s: float | None) -> Block | None:
        """As `wait_for`, but blocking this thread: no hop. `None` when the time is over."""
        if self._bell is None:
            self._bell = Bell()
            self._bell.add(self.reader.path)
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (block := self.present(seq)) is None:
            self._check_life()
            self._bell.read()
            if (block := self.present(seq)) is not None:
                return block
            rang = self._bell.wait(patience_s(deadline_s))
            if not rang and deadline_s is not None and time.monotonic() >= deadline_s:
                return self.present(seq)
        return block

    def _check_life(self) -> None:
        if self.reader.deleted:
            raise EpochGone(self.info.name, "it was deleted; open it again")

    def announce(self, start: int, stop: int) -> Announcement | None:
        return None

    def select(self, start: int, stop: int, where: Where) -> Selection | None:
        return None

    def head(self, seq: int) -> Block | None:
        return self.present(seq)

    async def fetch_head(self, seq: int) -> Block:
        return self.reader.block(seq)

    def whole(self, seq: int) -> Block | None:
        return self.present(seq)

    def will_need(self, start: int, stop: int) -> None:
        pass

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
        super().close()


class MappedRegion(_Mapped[RegionReader]):
    """A region on this host."""

    def present(self, offset: int, length: int) -> memoryview | None:
        return self.reader.read(offset, length)

    def present_all(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview] | None:
        """Copies, as `present` has them, all of one version."""
        with self.reader.snapshot() as view:
            return [memoryview(bytes(view[at : at + length])) for at, length in ranges]

    async def fetch(self, offset: int, length: int) -> memoryview:
        return self.reader.read(offset, length)

    async def fetch_all(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        return self.present_all(ranges) or []

    def will_need(self, offset: int, length: int) -> None:
        pass
