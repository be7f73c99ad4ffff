"""Rings, regions and blocks as `dsm_client.aio` hands them out: the blocking ones, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dsm.core.planner import Hint
from dsm.errors import DeadlineExceeded, Overrun
from dsm.model import Access, OnLag, Position, SegmentInfo
from dsm.segment import Block
from dsm_client import region, ring
from dsm_client.blocks import LazyBlock
from dsm_client.follow import Follower
from dsm_client.loop import background
from dsm_client.selection import Selection, Where
from dsm_client.stats import HandleStats

T = TypeVar("T")


class AsyncBlock:
    """A block: what is here at once is plain, what may have to be fetched is awaited."""

    __slots__ = ("_block", "_source")

    def __init__(self, block: Block, source: Any) -> None:
        self._block = block
        self._source = source

    @property
    def seq(self) -> int:
        return self._block.seq

    @property
    def timestamp_ns(self) -> int:
        return self._block.timestamp_ns

    @property
    def header(self) -> memoryview:
        return self._block.header

    @property
    def intact(self) -> bool:
        return self._block.intact

    @property
    def payload(self) -> Coroutine[Any, Any, memoryview]:
        """Awaitable: fetched where it is not here yet."""
        return self._payload()

    @property
    def data(self) -> Coroutine[Any, Any, memoryview]:
        """Awaitable: header and payload."""
        return self._data()

    async def _payload(self) -> memoryview:
        return (await self._whole()).payload

    async def _data(self) -> memoryview:
        return (await self._whole()).data

    async def _whole(self) -> Block:
        block = self._block
        if isinstance(block, LazyBlock) and not block.touched:
            block.loaded(await in_loop(self._source.fetch_whole(block.seq)))
        return block

    def __len__(self) -> int:
        return len(self._block)

    def __repr__(self) -> str:
        return f"<aio {self._block!r}>"


class _Handle:
    """What both kinds take over from the blocking handle as it is."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def name(self) -> str:
        name: str = self._handle.name
        return name

    @property
    def info(self) -> SegmentInfo:
        info: SegmentInfo = self._handle.info
        return info

    @property
    def position(self) -> Position:
        position: Position = self._handle.position
        return position

    @property
    def is_mapped(self) -> bool:
        mapped: bool = self._handle.is_mapped
        return mapped

    @property
    def access(self) -> Access:
        access: Access = self._handle.access
        return access

    @property
    def method(self) -> str:
        method: str = self._handle.method
        return method

    def hint(self, hint: Hint) -> None:
        self._handle.hint(hint)

    def explain(self) -> str:
        text: str = self._handle.explain()
        return text

    def stats(self) -> HandleStats:
        stats: HandleStats = self._handle.stats()
        return stats

    async def close(self) -> None:
        if self._handle.owns_session:
            self._handle.owns_session = False
            await in_loop(self._handle.session.close())
        self._handle.close()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio {self._handle!r}>"


class Ring(_Handle):
    """A ring; see `dsm_client.Ring`."""

    _handle: ring.Ring

    @property
    def head(self) -> int:
        return self._handle.head

    @property
    def tail(self) -> int:
        return self._handle.tail

    async def read(self, seq: int) -> AsyncBlock:
        source = self._handle.opened()
        seq = self._handle.from_head(seq)
        block = source.present(seq)
        if block is None:
            block = await in_loop(source.fetch(seq))
        return AsyncBlock(block, source)

    async def read_many(self, seqs: Iterable[int], *, whole: bool = False) -> list[AsyncBlock]:
        source = self._handle.opened()
        given = self._handle.from_head_all(seqs)
        blocks = source.present_all(given, whole=whole)
        if blocks is None:
            blocks = await in_loop(source.fetch_all(given, whole=whole))
        return [AsyncBlock(block, source) for block in blocks]

    def will_need(self, start: int | None = None, stop: int | None = None) -> None:
        """Returns at once; not awaited."""
        self._handle.will_need(start, stop)

    async def blocks(
        self, start: int | None = None, stop: int | None = None, where: Where | None = None
    ) -> AsyncIterator[AsyncBlock]:
        source = self._handle.opened()
        if where is not None and (chosen := self._handle.selection(start, stop, where)) is not None:
            async for found in self._selected(source, chosen):
                yield found
            return
        for seq in self._handle.announced(start, stop):
            block = source.present(seq)
            if block is None:
                block = await in_loop(source.fetch(seq))
            if where is None or where(block.header):
                yield AsyncBlock(block, source)

    async def _selected(self, source: Any, selection: Selection) -> AsyncIterator[AsyncBlock]:
        async def whole(seq: int) -> AsyncBlock:
            block = source.whole(seq)
            if block is None:
                block = await in_loop(source.fetch_whole(seq))
            return AsyncBlock(block, source)

        for seq in selection.seqs():
            head = source.head(seq)
            selection.saw(await in_loop(source.fetch_head(seq)) if head is None else head)
            while (found := selection.due()) is not None:
                yield await whole(found)
        while (found := selection.due(at_last=True)) is not None:
            yield await whole(found)

    async def follow(
        self,
        start: int | None = None,
        on_lag: OnLag = "raise",
        timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncBlock]:
        source = self._handle.opened()
        follower = Follower(self.name, start, on_lag, source.position)
        self._handle.follower = follower
        with self._handle.registered(source, follower) as cursor:
            if isinstance(cursor, ring.RemoteCursor):
                await _within(in_loop(cursor.register()), timeout_s, self.name)
            while True:
                try:
                    block = source.present(follower.next_seq)
                    if block is None:
                        work = in_loop(source.wait_for(follower.next_seq))
                        block = await _within(work, timeout_s, self.name)
                except Overrun as lag:
                    follower.lagged(lag.gap)
                    continue
                follower.read()
                yield AsyncBlock(block, source)
                cursor.advance(follower.next_seq)


class Region(_Handle):
    """A region; see `dsm_client.Region`."""

    _handle: region.Region

    @property
    def version(self) -> int:
        return self._handle.version

    @property
    def nbytes(self) -> int:
        return self._handle.nbytes

    async def read(self, offset: int = 0, length: int | None = None) -> memoryview:
        source = self._handle.opened()
        length = self._handle.check_extent(offset, length)
        view = source.present(offset, length)
        return await in_loop(source.fetch(offset, length)) if view is None else view

    async def read_many(self, ranges: Iterable[tuple[int, int]]) -> list[memoryview]:
        source = self._handle.opened()
        given = self._handle.check_ranges(ranges)
        views = source.present_all(given)
        return await in_loop(source.fetch_all(given)) if views is None else views

    def will_need(self, offset: int = 0, length: int | None = None) -> None:
        """Returns at once; not awaited."""
        self._handle.will_need(offset, length)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[memoryview]:
        if not self.is_mapped:
            yield await self.read()
            return
        with self._handle.snapshot() as view:
            yield view

    async def array(self) -> Any:
        return self._handle.as_array(await self.read())


async def _within(work: Coroutine[Any, Any, T], timeout_s: float | None, name: str) -> T:
    try:
        return await asyncio.wait_for(work, timeout_s)
    except TimeoutError as error:
        if isinstance(error, DeadlineExceeded):
            raise
        raise DeadlineExceeded(
            f"segment {name!r}: nothing was appended for {timeout_s} s"
        ) from None


async def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run in the client's own loop, and await it in this one."""
    return await asyncio.wrap_future(background().submit(work))
