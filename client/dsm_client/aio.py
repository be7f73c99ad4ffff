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

from collections.abc import Generator
from typing import Any

from dsm.model import Access, PathEstimate, SegmentInfo
from dsm_client import region, ring
from dsm_client.aio_handles import AsyncBlock, Region, Ring, in_loop
from dsm_client.mapped import MappedRing
from dsm_client.remote import RemoteRing
from dsm_client.session import Described, Options, SessionCore, split_url

__all__ = ["AsyncBlock", "Region", "Ring", "Session", "connect", "open"]


def connect(url: str, **options: Any) -> Connecting:
    """As `dsm_client.connect`; to be awaited, or entered with `async with`."""
    return Connecting(SessionCore(url, Options(**options)))


async def open(
    url: str,
    access: str | Access = "auto",
    header_bytes: int | None = None,
    at: int | None = None,
    **options: Any,
) -> Any:
    """As `dsm_client.open`: the segment that `url` names, with a session of its own."""
    node, name = split_url(url)
    core, method = SessionCore(node, Options(**options)), Access.parse(access)
    source = await in_loop(core.open_with(name, method, header_bytes, at))
    handle = _handle(core, name, method, header_bytes, source)
    handle._handle.owns_session = True
    return handle


def _handle(
    core: SessionCore, name: str, method: Access, header_bytes: int | None, source: Any
) -> Ring | Region:
    if isinstance(source, MappedRing | RemoteRing):
        return Ring(ring.Ring(core, name, method, header_bytes, source))
    return Region(region.Region(core, name, method, header_bytes, source))


class Connecting:
    """A session that is about to be."""

    def __init__(self, core: SessionCore) -> None:
        self._core = core
        self._session: Session | None = None

    def __await__(self) -> Generator[Any, None, Session]:
        return self._connect().__await__()

    async def _connect(self) -> Session:
        await in_loop(self._core.open())
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
        self,
        name: str,
        access: str | Access = "auto",
        header_bytes: int | None = None,
        at: int | None = None,
    ) -> Any:
        method = Access.parse(access)
        source = await in_loop(self._core.source(name, method, header_bytes, at))
        return _handle(self._core, name, method, header_bytes, source)

    async def list(self, prefix: str = "") -> list[Described]:
        return await in_loop(self._core.list(prefix))

    async def describe(self, name: str) -> Described:
        return await in_loop(self._core.describe(name))

    async def create(self, info: SegmentInfo) -> Described:
        return await in_loop(self._core.create(info))

    async def delete(self, name: str) -> None:
        await in_loop(self._core.delete(name))

    async def ping(self) -> float:
        return await in_loop(self._core.ping())

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
        await in_loop(self._core.close())

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<aio.Session {self._core.address}>"
