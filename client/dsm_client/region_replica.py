"""A remote region: its shadow, and how it moves from version to version.

Events say which pages a new version changed, so that the shadow moves to it without a question: the
changed pages are forgotten, and fetched when they are read. While a read is under way the shadow
stays at its version (the node holds it for us), and moves when the read is done.

    shadow at version 7 ── event {since 7, version 9, changed [4, 6)} ──▶ at 9, without 4 and 5
    read of 0..8 ──▶ need [4, 6) of version 9 ──▶ frames of version 9
                                             └─▶ VERSION_GONE ──▶ refresh: whatever is newest now,
                                                                  with what changed since 9
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

from dsm.core.extents import ExtentSet
from dsm.core.fetcher import EXTENTS_MAX
from dsm.core.reads import Read, ReadPages
from dsm.errors import DsmError, VersionGone
from dsm.model import Access, Event, Extent, Position, SegmentInfo
from dsm.segment import PageRuns, RegionShadow
from dsm.wire.convert import runs_from_pb
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.cache import ShadowCache
from dsm_client.replica import Replica
from dsm_client.transport import Transport

log = logging.getLogger(__name__)

PAGE_ROW_BYTES = 12

REFRESH_BYTES = 1 << 20
"""A refresh brings the first pages that are read with it: one round trip for small reads."""

CHASES_MAX = 64
"""Versions that may go by under one read before it is given up."""


class RegionReplica(Replica):
    """One handle's view of a remote region. Implements the fetcher's `Source` and `Presence`."""

    def __init__(
        self,
        transport: Transport,
        cache: ShadowCache,
        info: SegmentInfo,
        position: Position,
        access: Access,
    ) -> None:
        super().__init__(transport, info, access)
        self._read_last = Extent(0, 0)
        self.cache = cache
        self.shadow: RegionShadow = cache.region(info)
        self.newest = position.version
        self._pending = ExtentSet()
        self._chain_whole: bool
        """`_pending` holds everything that changed between the shadow's version and `newest`."""
        self._filled: list[Extent] = []
        self._needs: set[asyncio.Task[None]] = set()
        if self.missing(0, info.pages, None) == [Extent(0, info.pages)]:
            everything = [Extent(0, info.pages)]
            self.shadow.advance(position.version, everything)  # empty: of any version
        self._chain_whole = self.shadow.version == self.newest
        self._start(self, self)
        self.fetcher.ahead_bytes_max = cache.budget_bytes // 2

    @property
    def position(self) -> Position:
        return Position(version=self.newest)

    @property
    def is_behind(self) -> bool:
        """A newer version is known than the shadow is at."""
        return self.shadow.version < self.newest

    # ── Presence ──

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        return list(self.shadow.missing(start, stop))

    # ── Source ──

    @property
    def limit(self) -> Extent:
        return Extent(0, self.info.pages)

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        version = self.shadow.version
        yield ReadPages(version, version, need=extents, hold=True), extents

    def unit_bytes(self, header_bytes: int | None) -> float:
        return self.info.page_bytes + PAGE_ROW_BYTES

    # ── reads, in the loop ──

    def pages_of(self, offset: int, length: int) -> Extent:
        page = self.info.page_bytes
        return Extent(offset // page, -(-(offset + length) // page))

    def pages_of_all(self, ranges: Iterable[tuple[int, int]]) -> tuple[Extent, ...]:
        """Disjoint and in order."""
        return tuple(ExtentSet(self.pages_of(*given) for given in sorted(ranges) if given[1]))

    async def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Have these (offset, length) present, all of one version, the newest announced."""
        self.check()
        pages = self.pages_of_all(ranges)
        self.cache.check_room(self.info, sum(e.length for e in pages) * self.info.page_bytes)
        self.accessed(pages)
        for _ in range(CHASES_MAX):
            self.catch_up()
            try:
                if self.is_behind or not self._chain_whole:
                    await self._refresh(pages)
                if not any(self.missing(*extent, None) for extent in pages):
                    self.read_ahead()
                    self.settle()
                    return
                self.read_ahead_soon()
                await self.need(pages, None)
                return
            except VersionGone:
                self._chain_whole = False
        raise DsmError(
            f"segment {self.info.name!r}: {CHASES_MAX} versions went by while it was read; "
            "read less at a time"
        )

    def will_need(self, offset: int, length: int) -> None:
        """Somebody is going to read these bytes: have them fetched as the window allows."""
        task = self.transport.loop.create_task(self._will_need(self.pages_of(offset, length)))
        self._needs.add(task)
        task.add_done_callback(self._needs.discard)

    async def _will_need(self, pages: Extent) -> None:
        try:
            self.check()
            self.catch_up()
            if self.is_behind or not self._chain_whole:
                await self._refresh((pages,))
            self._want((pages,))
            self.settle()
        except DsmError as error:  # nobody waits for it; who reads is told
            log.debug("%s: will_need %s: %s", self.info.name, pages, error)

    def _want(self, extents: Iterable[Extent]) -> None:
        self.fetcher.wanted(ExtentSet(extents), None)

    def close(self) -> None:
        for task in self._needs:
            task.cancel()
        super().close()

    def read_ahead(self) -> None:
        self.choose()
        if self.method is Access.PREFETCH:
            self.fetcher.plan_ahead(self.transport.now(), None)

    def was_read(self, start: int, stop: int) -> None:
        last, self._read_last = self._read_last, Extent(start, stop)
        length = (stop - start) * self.info.page_bytes
        self.policy.accessed(
            header_only=False,
            bytes_touched=length,
            block_bytes=length,
            sequential=last.start <= start <= last.stop,
            now=self.transport.now(),
        )

    # ── versions ──

    def catch_up(self) -> None:
        """Move the shadow to the newest version, if it is known how, and no read is under way."""
        if self.is_behind and self._chain_whole and not self.fetcher.is_waiting:
            wanted = self.fetcher.forget_requests(self.transport.now())
            self._advance(self.newest, tuple(self._pending))
            self._want(wanted)

    async def _refresh(self, pages: Sequence[Extent]) -> None:
        """Ask what changed, and for what is read of it, of whatever version is newest now."""
        first = tuple(_first(pages, max(1, REFRESH_BYTES // self.info.page_bytes)))
        need = tuple(m for extent in first for m in self.missing(*extent, None))[:EXTENTS_MAX]
        have = ExtentSet(first)
        for extent in need:
            have.discard(*extent)
        since = self.shadow.version
        frames = await self.transport.read(
            self.info.name,
            self.info.epoch,
            ReadPages(0, since, need, tuple(have)[:EXTENTS_MAX], hold=True),
            bytes_expected=sum(e.length for e in first) * self.info.page_bytes,
        )
        if self.shadow.version != since:
            return  # another read was faster; look again
        header = frames[0][0]
        wanted = self.fetcher.forget_requests(self.transport.now())
        with self.believing():
            if header.version > since:
                self._advance(header.version, runs_from_pb(header.changed))
            self.newest = max(self.newest, header.version)
            self._chain_whole = self.newest == header.version
            for frame in frames:
                self._store(*frame)
        self.fetcher.reconsider()
        self._want(wanted)
        self.settle()

    def _advance(self, version: int, changed: tuple[Extent, ...]) -> None:
        self.shadow.advance(version, changed)
        self.cache.measure_again()  # a buffer's tables are reserved as a whole
        for extent in changed:
            self.fetcher.outdated(extent)
        if version >= self.newest:
            self._pending.clear()
            self._chain_whole = True

    # ── the wire ──

    def fill(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        if header.runs and header.version > self.shadow.version:
            self.transport.counts.wasted_bytes += len(payload)
            raise VersionGone(self.info.name, f"it is at version {header.version} now")
        for run in self._store(header, payload):
            self.fetcher.arrived(id, *run)

    def _store(self, header: pb.FrameHeader, payload: memoryview) -> Iterable[Extent]:
        """Into the shadow; returns the pages that came as they were committed."""
        runs = runs_from_pb(header.runs)
        count = header.rows_bytes // PAGE_ROW_BYTES
        found = PageRuns(
            header.version,
            runs,
            bytes(payload[: 8 * count]),
            bytes(payload[8 * count : header.rows_bytes]),
            payload[header.rows_bytes :],
        )
        bad = self.shadow.fill_pages(found)
        self._filled += runs
        self._make_room(len(payload))
        if not bad:
            return runs
        self.counts.checksum_failures += len(bad)
        good = ExtentSet(runs)
        for page in bad:
            good.discard(page, page + 1)
        return good

    def _make_room(self, stored_bytes: int) -> None:
        """Keep the shadows within their budget: what was filled first goes first."""
        over = self.cache.overdraft(stored_bytes)
        while len(self._filled) > 1 and over > 0:
            extent = self._filled.pop(0)
            self.shadow.drop(extent)
            self.fetcher.dropped(extent)
            over = self.cache.overdraft(0)

    def event_received(self, event: Event) -> None:
        if event.gone:
            self.gone("it was deleted or recreated")
            return
        if event.position.version <= self.newest:
            return
        self._chain_whole = self._chain_whole and event.since <= self.newest
        for extent in event.changed if self._chain_whole else ():
            self._pending.add(*self.pages_of(extent.start, extent.length))
        self.newest = event.position.version


def _first(extents: Sequence[Extent], units: int) -> Iterator[Extent]:
    """So many units of these."""
    for extent in extents:
        if units > 0:
            yield Extent(extent.start, min(extent.stop, extent.start + units))
        units -= extent.length
