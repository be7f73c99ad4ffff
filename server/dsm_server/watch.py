"""One Watch stream: subscriptions in, events out.

Each subscription is one `EventCoalescer`, so what is held for a slow subscriber is constant, and a
thousand idle watchers are a thousand sleeping tasks.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
from grpc import aio

from dsm.core.coalesce import EventCoalescer
from dsm.errors import BudgetExceeded, DsmError
from dsm.model import Event, Extent, Kind, Position
from dsm.wire.convert import event_to_pb, position_from_pb
from dsm.wire.protocol import GOING_AWAY, Limits
from dsm.wire.status import grpc_code
from dsm.wire.v1 import wire_pb2 as pb
from dsm_server.exports import Exported, Exports

Context = Any


class WatchStream:
    """The subscriptions of one client."""

    def __init__(
        self, context: Context, exports: Exports, limits: Limits, closing: asyncio.Event
    ) -> None:
        self._context = context
        self._exports = exports
        self._limits = limits
        self._closing = closing
        self._subscriptions: dict[Exported, EventCoalescer] = {}
        self._due: set[Exported] = set()
        self._vanished: list[Event] = []
        self._wake = asyncio.Event()
        self._error: DsmError | None = None
        self._ended = False

    async def run(self) -> None:
        reader = asyncio.create_task(self._read_requests())
        closer = asyncio.create_task(self._await_closing())
        try:
            await self._send_events()
        finally:
            reader.cancel()
            closer.cancel()
            for exported in self._subscriptions:
                self._exports.unlisten(exported, self._moved)
        if self._closing.is_set():
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, GOING_AWAY)
        if self._error is not None:
            await self._context.abort(grpc_code(self._error), str(self._error))

    async def _read_requests(self) -> None:
        try:
            while (request := await self._context.read()) is not aio.EOF:
                self._requested(request)
        except DsmError as error:
            self._error = error
        except ValueError as error:
            self._error = DsmError(f"bad subscription: {error}")
        finally:
            self._ended = True
            self._wake.set()

    async def _await_closing(self) -> None:
        await self._closing.wait()
        self._wake.set()

    def _requested(self, request: pb.WatchRequest) -> None:
        if not request.subscribe:
            for exported in [e for e in self._subscriptions if e.info.name == request.segment]:
                del self._subscriptions[exported]
                self._exports.unlisten(exported, self._moved)
            return
        if len(self._subscriptions) >= self._limits.subscriptions_max:
            raise BudgetExceeded(
                f"{self._limits.subscriptions_max} subscriptions on one stream is the most"
            )
        self._subscribe(request)

    def _subscribe(self, request: pb.WatchRequest) -> None:
        try:
            exported = self._exports.get(request.segment, request.epoch)
        except DsmError:
            # Deleted or recreated while the client was away: that is the event.
            self._vanished.append(
                Event(request.segment, request.epoch, Kind.RING, 0, Position(), (), gone=True)
            )
            self._wake.set()
            return
        since = position_from_pb(request.position)
        info = exported.info
        coalescer = EventCoalescer(info.name, info.epoch, info.kind, since=since)
        self._subscriptions[exported] = coalescer
        self._exports.listen(exported, self._moved)
        now = exported.position
        changed: tuple[Extent, ...] = ()
        if info.kind is Kind.REGION and now.version > since.version:
            changed = _pages_to_bytes(exported, exported.region.changed_since(since.version))
        coalescer.published(now, changed, time.monotonic(), published_ns=exported.moved_ns)
        self._due.add(exported)
        self._wake.set()

    def _moved(self, exported: Exported, changed: tuple[Extent, ...]) -> None:
        coalescer = self._subscriptions.get(exported)
        if coalescer is None:
            return
        now = time.monotonic()
        if exported.gone:
            coalescer.vanished(now)
        else:
            if exported.info.kind is Kind.REGION:
                changed = _pages_to_bytes(exported, changed)
            coalescer.published(exported.position, changed, now, published_ns=exported.moved_ns)
        self._due.add(exported)
        self._wake.set()

    async def _send_events(self) -> None:
        while not self._closing.is_set():
            while self._vanished:
                await self._context.write(event_to_pb(self._vanished.pop(0)))
            sleep_s = await self._send_due()
            if self._ended:
                return
            if self._wake.is_set():
                self._wake.clear()
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), sleep_s)
            except TimeoutError:
                continue
            self._wake.clear()

    async def _send_due(self) -> float | None:
        """Send what is due; returns how long until something else is, `None` for nothing."""
        next_at: float | None = None
        for exported in list(self._due):
            coalescer = self._subscriptions.get(exported)
            if coalescer is None:
                self._due.discard(exported)
                continue
            now = time.monotonic()
            ready_at = coalescer.ready_at(now)
            if ready_at is None:
                self._due.discard(exported)
            elif ready_at > now:
                next_at = ready_at if next_at is None else min(next_at, ready_at)
            elif (event := coalescer.take(now)) is not None:
                if event.gone:
                    del self._subscriptions[exported]
                await self._context.write(event_to_pb(event))
        return None if next_at is None else max(0.0, next_at - time.monotonic())


def _pages_to_bytes(exported: Exported, pages: tuple[Extent, ...]) -> tuple[Extent, ...]:
    size, page = exported.info.size_bytes, exported.info.page_bytes
    return tuple(Extent(e.start * page, min(e.stop * page, size)) for e in pages)
