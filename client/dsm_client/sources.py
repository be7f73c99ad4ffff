"""Where a handle's bytes come from: the node's own file, mapped, or a replica over the network.

A handle (`Ring`, `Region`; sync or async) asks its source for what is **present**, which is
answered in the caller's thread without a hop, and otherwise awaits the source in the event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from dsm.core.planner import Hint
from dsm.errors import EpochGone, NotFilled, OutOfRange, Overrun
from dsm.model import Access, Position, SegmentInfo
from dsm.segment import Bell, Block, RegionReader, RingReader
from dsm_client.blocks import LazyBlock, WatchedBlock
from dsm_client.loop import background, patience_s
from dsm_client.region_replica import RegionReplica
from dsm_client.ring_replica import RingReplica, is_whole


class RingSource(Protocol):
    """What `Ring` needs of either."""

    info: SegmentInfo
    is_mapped: bool

    @property
    def position(self) -> Position: ...
    def present(self, seq: int) -> Block | None: ...
    async def fetch(self, seq: int) -> Block: ...
    async def fetch_whole(self, seq: int) -> Block: ...
    async def wait_for(self, seq: int) -> Block: ...
    def want(self, start: int, stop: int) -> None: ...
    def hint(self, hint: Hint) -> None: ...
    def explain(self) -> str: ...
    def close(self) -> None: ...


class RegionSource(Protocol):
    """What `Region` needs of either."""

    info: SegmentInfo
    is_mapped: bool

    @property
    def position(self) -> Position: ...
    def present(self, offset: int, length: int) -> memoryview | None: ...
    async def fetch(self, offset: int, length: int) -> memoryview: ...
    def hint(self, hint: Hint) -> None: ...
    def explain(self) -> str: ...
    def close(self) -> None: ...


# ── mapped ──


class MappedRing:
    """A ring on this host: nothing to fetch."""

    is_mapped = True

    def __init__(self, reader: RingReader, header_bytes: int | None) -> None:
        self.reader = reader
        self.info = reader.info
        self.header_bytes = reader.info.header_bytes if header_bytes is None else header_bytes
        self._bell: Bell | None = None

    @property
    def position(self) -> Position:
        return self.reader.position

    def present(self, seq: int) -> Block | None:
        if seq >= self.reader.head:
            return None
        block = self.reader.block(seq)
        block.header_bytes = self.header_bytes
        return block

    async def fetch(self, seq: int) -> Block:
        return self.reader.block(seq)  # raises why it is not present

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

    def want(self, start: int, stop: int) -> None:
        pass

    def hint(self, hint: Hint) -> None:
        pass

    def explain(self) -> str:
        return f"{self.info.name}: mapped, since the node is on this host; no bytes on the wire"

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
        self.reader.close()


class MappedRegion:
    """A region on this host."""

    is_mapped = True

    def __init__(self, reader: RegionReader) -> None:
        self.reader = reader
        self.info = reader.info

    @property
    def position(self) -> Position:
        return self.reader.position

    def present(self, offset: int, length: int) -> memoryview | None:
        return self.reader.read(offset, length)

    async def fetch(self, offset: int, length: int) -> memoryview:
        return self.reader.read(offset, length)

    def hint(self, hint: Hint) -> None:
        pass

    def explain(self) -> str:
        return f"{self.info.name}: mapped, since the node is on this host; no bytes on the wire"

    def close(self) -> None:
        self.reader.close()


# ── remote ──


class RemoteRing:
    """A ring across the network, through its replica."""

    is_mapped = False

    def __init__(self, replica: RingReplica) -> None:
        self.replica = replica
        self.info = replica.info
        self._last: WatchedBlock | LazyBlock | None = None

    @property
    def position(self) -> Position:
        return self.replica.position

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

    def hint(self, hint: Hint) -> None:
        background().call(self.replica.hint, hint)

    def explain(self) -> str:
        return self.replica.explain()

    def close(self) -> None:
        background().call(self._close)

    def _close(self) -> None:
        self.replica.close()
        self.replica.cache.close(self.replica.shadow)


class RemoteRegion:
    """A region across the network, through its replica."""

    is_mapped = False

    def __init__(self, replica: RegionReplica) -> None:
        self.replica = replica
        self.info = replica.info

    @property
    def position(self) -> Position:
        return self.replica.position

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

    def hint(self, hint: Hint) -> None:
        background().call(self.replica.hint, hint)

    def explain(self) -> str:
        return self.replica.explain()

    def close(self) -> None:
        background().call(self._close)

    def _close(self) -> None:
        self.replica.close()
        self.replica.cache.close(self.replica.shadow)
