"""The client for asyncio: the same names as `dsm_client`, awaited.

    async with aio.connect("dsm://host:7400") as session:
        ring = await session.open("capture/eth0")
        async for block in ring.follow(start=-100):
            if block.header[23] == 6:
                handle(await block.payload)

What is present is answered without a hop to the client's own loop, as in the blocking face; all
else is awaited, and cancelling it cancels it there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from dsm.core.planner import Hint
from dsm.errors import DeadlineExceeded, Overrun
from dsm.model import Access, OnLag, PathEstimate, Position, SegmentInfo
from dsm.segment import Block
from dsm_client import handles
from dsm_client.blocks import LazyBlock
from dsm_client.follow import Follower
from dsm_client.loop import background
from dsm_client.mapped import MappedRing
from dsm_client.remote import RemoteRing
from dsm_client.session import Described, Options, SessionCore

T = TypeVar("T")


def connect(url: str, **options: Any) -> Connecting:
    """As `dsm_client.connect`; to be awaited, or entered with `async with`."""
    return Connecting(SessionCore(url, Options(**options)))


class Connecting:
    """A session that is about to be."""

    def __init__(self, core: SessionCore) -> None:
        self._core = core
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._connect().__await__()

    async def _connect(self) -> Session:
        await _in_loop(self._core.open())
        return Session(self._core)

    async def __aenter__(self) -> Session:
        self._session = await self._connect()
        return self._session

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()


class Session:
    """Dealings with one node; see `dsm_client.Session`."""

    def __init__(self, core: SessionCore) -> None:
        self._core = core

    async def open(
        self, name: str, access: str | Access = "auto", header_bytes: int | None = None
    ) -> Any:
        method = Access.parse(access)
        source = await _in_loop(self._core.source(name, method, header_bytes))
        if isinstance(source, MappedRing | RemoteRing):
            return Ring(handles.Ring(self._core, name, method, header_bytes, source))
        return Region(handles.Region(self._core, name, method, header_bytes, source))

    async def list(self, prefix: str = "") -> list[Described]:
        return await _in_loop(self._core.list(prefix))

    async def describe(self, name: str) -> Described:
        return await _in_loop(self._core.describe(name))

    async def create(self, info: SegmentInfo) -> Described:
        return await _in_loop(self._core.create(info))

    async def delete(self, name: str) -> None:
        await _in_loop(self._core.delete(name))

    async def ping(self) -> float:
        return await _in_loop(self._core.ping())

    def path(self) -> PathEstimate:
        return self._core.path()

    def stats(self) -> dict[str, int]:
        return self._core.counts()

    @property
    def address(self) -> str:
        return self._core.address

    @property
    def is_local(self) -> bool:
        return self._core.is_local

    async def close(self) -> None:
        await _in_loop(self._core.close())

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio.Session {self._core.address}>"


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
        if isinstance(block, LazyBlock) and not block.is_loaded:
            block.loaded(await _in_loop(self._source.fetch_whole(block.seq)))
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

    def stats(self) -> dict[str, int]:
        counts: dict[str, int] = self._handle.stats()
        return counts

    async def close(self) -> None:
        self._handle.close()

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio {self._handle!r}>"


class Ring(_Handle):
    """A ring; see `dsm_client.Ring`."""

    _handle: handles.Ring

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
            block = await _in_loop(source.fetch(seq))
        return AsyncBlock(block, source)

    async def blocks(
        self, start: int | None = None, stop: int | None = None
    ) -> AsyncIterator[AsyncBlock]:
        source = self._handle.opened()
        for seq in self._handle.announced(start, stop):
            block = source.present(seq)
            if block is None:
                block = await _in_loop(source.fetch(seq))
            yield AsyncBlock(block, source)

    async def follow(
        self,
        start: int | None = None,
        on_lag: OnLag = "raise",
        timeout_s: float | None = None,
    ) -> AsyncIterator[AsyncBlock]:
        source = self._handle.opened()
        follower = Follower(self.name, start, on_lag, source.position)
        self._handle.follower = follower
        with self._handle.registered(source, follower) as advance:
            while True:
                try:
                    block = source.present(follower.next_seq)
                    if block is None:
                        work = _in_loop(source.wait_for(follower.next_seq))
                        block = await _within(work, timeout_s, self.name)
                except Overrun as lag:
                    follower.lagged(lag.gap)
                    continue
                follower.read()
                yield AsyncBlock(block, source)
                advance(follower.next_seq)


class Region(_Handle):
    """A region; see `dsm_client.Region`."""

    _handle: handles.Region

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
        return await _in_loop(source.fetch(offset, length)) if view is None else view

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


async def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run in the client's own loop, and await it in this one."""
    return await asyncio.wrap_future(background().submit(work))
