"""A remote segment, as one handle sees it: shadow, fetcher, policy, and who waits.

This is what rings and regions have in common; it lives in the event loop. Handles ask `need(...)`
from any thread through the loop, and read what is present straight from the shadow.

    handle ─ present? ─▶ shadow            (no thread hop, no copy)
       └─ no ─▶ need ─▶ Fetcher ─▶ Puller ─▶ lanes ══▶ node
                  ▲                                      │
                  └─ woken ◀─ Fetcher.arrived ◀─ fill ◀──┘
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from dsm.core.fetcher import Fetcher, Presence, Source
from dsm.core.planner import Hint, PrefetchPlanner
from dsm.core.policy import AccessPolicy, Choice
from dsm.errors import (
    ChecksumMismatch,
    Closed,
    DsmError,
    EpochGone,
    MalformedMessage,
    VersionGone,
)
from dsm.model import Access, Event, Extent, Kind, Position, SegmentInfo
from dsm.wire.frame import BadFrame, decode_frame
from dsm.wire.protocol import Limits
from dsm.wire.status import error_from_frame
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.transport import Transport

ACCESSES_NOTED = 32
"""Reads that were answered by the shadow are told to the planner so many at a time."""


@dataclass(slots=True)
class ReplicaCounts:
    """What one handle did, for `explain` and dashboards."""

    reads: int = 0
    hits: int = 0
    """Reads that were answered by the shadow at once."""
    waits: int = 0
    """Reads that waited for the network."""
    bytes_received: int = 0
    prefetched_bytes: int = 0
    """Of those: nobody waited for them when they were asked for."""
    checksum_failures: int = 0


class Replica:
    """Common part; `RingReplica` and `RegionReplica` fill their kind of shadow."""

    def __init__(self, transport: Transport, info: SegmentInfo, access: Access) -> None:
        self.transport = transport
        self.info = info
        self.access = access
        self.counts = ReplicaCounts()
        self.planner = PrefetchPlanner()
        self.policy = AccessPolicy(
            header_bytes=info.header_bytes, has_headers=info.kind is Kind.RING
        )
        self.choice = Choice(access)
        self.error: DsmError | None = None
        """Why nothing more can be fetched: the segment is gone, or the handle closed."""
        self.is_closed = False
        self.fetcher: Fetcher
        self._tokens = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._telling = False
        self._tell_at = 1  # noted accesses; the first is worth a window, so it is told at once
        self._noted: deque[tuple[int, int]] = deque(maxlen=4 * ACCESSES_NOTED)

    def _start(self, presence: Presence, source: Source) -> None:
        self.fetcher = Fetcher(
            self.transport.puller,
            self.planner,
            presence,
            source,
            self.info.name,
            self.info.epoch,
            owner=self,
            habits=self.transport.habits,
        )
        self.transport.owners.add(self)
        self._unsubscribe = self.transport.events.subscribe(
            self.info.name, self.info.epoch, self.position, self.event_received
        )

    @property
    def position(self) -> Position:
        """Where the segment is, as far as is known here."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the network; who waits is told."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.error is None:
            self.error = Closed(f"segment {self.info.name!r}: the handle was closed")
        self._unsubscribe()
        self.fetcher.forget_requests(self.transport.now())
        self.failed(self.error)
        self.transport.owners.discard(self)
        self.transport.pump_soon()

    # ── demand ──

    async def need(
        self, extents: Sequence[Extent], header_bytes: int | None, *, park: bool = False
    ) -> None:
        """Return when all of these are present (disjoint, in order); raises why they cannot be."""
        self.check()
        token = next(self._tokens)
        future: asyncio.Future[None] = self.transport.loop.create_future()
        self._waiting[token] = future
        self.waited()
        try:
            self.fetcher.awaited_all(token, extents, header_bytes, park=park)
            self.settle()
            await future
        finally:
            self._waiting.pop(token, None)
            self.fetcher.given_up(token)

    def waited(self) -> None:
        """A reader has to wait for the network."""
        self.counts.waits += 1
        self.transport.counts.round_trips += 1

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    # ── accesses ──

    def note(self, start: int, stop: int) -> bool:
        """A read was answered by the shadow; true when `tell` is due. Any thread."""
        self._noted.append((start, stop))
        if self._telling or len(self._noted) < self._tell_at:
            return False
        self._telling = True
        return True

    def told(self) -> None:
        """Read ahead after the noted accesses."""
        self._tell_noted()
        self.read_ahead()
        self.settle()

    def accessed(self, extents: Sequence[Extent]) -> None:
        """A read goes to the network; the planner hears of it in its turn.

        Not of a scattered list: whoever reads one has said what is read, and in what order its
        parts lie is no evidence of where the next ones are.
        """
        self._tell_noted()
        if len(extents) == 1:
            self._was_read(*extents[0])
            self._accessed(*extents[0])
        else:
            self.used(extents)

    def used(self, extents: Sequence[Extent]) -> None:
        for extent in extents:
            self.fetcher.used(*extent)

    def _tell_noted(self) -> None:
        """What was read in a row counts as one access."""
        self._telling, self._tell_at = False, ACCESSES_NOTED
        first = last = 0
        while self._noted:
            start, stop = self._noted.popleft()
            self._was_read(start, stop)
            if start != last:
                self._accessed(first, last)
                first = start
            last = stop
        self._accessed(first, last)

    def _accessed(self, start: int, stop: int) -> None:
        if start < stop:
            self.fetcher.accessed(start, stop, self.transport.now())

    def _was_read(self, start: int, stop: int) -> None:
        if self.access is Access.AUTO:
            self.was_read(start, stop)

    def was_read(self, start: int, stop: int) -> None:
        """Under `auto`, for its policy; of blocks more is known when the reader is done."""

    def read_ahead_soon(self) -> None:
        """Read ahead after this turn of the loop: the demand that comes with it goes first."""
        self.transport.loop.call_soon(self._read_ahead_now)

    def _read_ahead_now(self) -> None:
        if self.error is None:
            self.read_ahead()
            self.settle()

    def read_ahead(self) -> None:
        raise NotImplementedError

    @property
    def method(self) -> Access:
        """The access method in force: what was asked for, or what `auto` chose last."""
        return self.choice.method if self.access is Access.AUTO else self.access

    def choose(self) -> Choice:
        """Have `auto` look again."""
        if self.access is Access.AUTO:
            now, path = self.transport.now(), self.transport.estimate()
            self.choice = self.policy.choose(path, now, pattern=self.planner.pattern(now))
        return self.choice

    def hint(self, hint: Hint) -> None:
        self.planner.hint(hint)

    # ── Owner: what the transport tells ──

    def frame(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        self.counts.bytes_received += len(payload)
        if self.fetcher.is_ahead(id):
            self.counts.prefetched_bytes += len(payload)
        if header.epoch not in (0, self.info.epoch):
            self.gone("it was recreated")
            return
        try:
            with self.believing():
                self.fill(id, header, payload)
        except DsmError as error:
            self.failed(error)
            if header.last:
                self.fetcher.ended(id, error)  # or whoever reads it next would wait for it
            return
        if header.last:
            self._ended(id, header)
        self.settle()

    def told_first(self, message: bytes) -> None:
        """What is probably read first came along with the segment's description."""
        try:
            header, payload = decode_frame(message, Limits().frame_bytes_max)
        except BadFrame as error:
            raise MalformedMessage(self.transport.address, f"a bad frame: {error}") from None
        self.counts.bytes_received += len(payload)
        self.transport.counts.bytes_received += len(message)
        with suppress(VersionGone), self.believing():  # the shadow may be of another version
            self.fill(header.id, header, payload)

    @contextmanager
    def believing(self) -> Iterator[None]:
        """What validation raises for a frame that lies becomes `MalformedMessage`."""
        try:
            yield
        except DsmError:
            raise
        except (ValueError, IndexError, OverflowError, struct.error) as error:
            raise MalformedMessage(self.transport.address, f"a frame that lies: {error}") from None

    def _ended(self, id: int, header: pb.FrameHeader) -> None:
        error: DsmError | None = None
        if header.HasField("status"):
            error = error_from_frame(header.status, self.info.name, self.transport.address)
            if isinstance(error, EpochGone):
                self.gone("it was recreated")
        self.fetcher.ended(id, error)

    def fill(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        raise NotImplementedError

    def interrupted(self, id: int) -> None:
        self.fetcher.interrupted(id)
        self.settle()

    def failed(self, error: DsmError) -> None:
        self.fetcher.failed(error)
        self.settle()

    def event_received(self, event: Event) -> None:
        raise NotImplementedError

    def gone(self, how: str) -> None:
        """The segment's life is over."""
        self.error = EpochGone(
            self.info.name, f"{how} (epoch {self.info.epoch:016x} is over); open it again"
        )
        self.fetcher.forget_requests(self.transport.now())
        self.failed(self.error)

    def settle(self) -> None:
        """Wake who may go on, and send what is to be sent."""
        for token, error in self.fetcher.woken:
            future = self._waiting.get(token)
            if future is None or future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(self._explained(error))
        self.fetcher.woken.clear()
        self.transport.pump_soon()

    def _explained(self, error: DsmError) -> DsmError:
        if type(error) is DsmError and self.counts.checksum_failures:
            return ChecksumMismatch(
                self.info.name,
                "what arrives is not what the producer wrote, also after fetching it again; "
                "the node's copy or its memory is damaged",
            )
        return error


def around(start: int, stop: int, holes: Iterable[int]) -> list[Extent]:
    """`[start, stop)` without `holes`."""
    extents = []
    for hole in sorted(holes):
        if start < hole:
            extents.append(Extent(start, hole))
        start = hole + 1
    if start < stop:
        extents.append(Extent(start, stop))
    return extents
