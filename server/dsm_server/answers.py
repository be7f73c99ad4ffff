"""Answers to reads: what is copied from a segment file into the next frame.

An answer is made for each request of a Pull stream and asked for one frame at a time, so that
demand reads can go between the frames of bulk.

    blocks   whole:    of each run one copy of rows, one of the ring's memory
             header:   rows, and the first bytes of each
             payload:  rows, and the rest of each
             a block larger than a frame comes alone, in several
    pages    of one version, held by a lease while more of it is asked for
    bytes    exactly those, of the newest version
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dsm.codec import Buffer
from dsm.core.extents import ExtentSet, merge
from dsm.core.reads import Part, Read, ReadBlocks, ReadBytes, ReadPages, Request
from dsm.errors import BudgetExceeded, DsmError, OutOfRange, Overrun
from dsm.model import Extent, Gap, Kind
from dsm.segment import BlockRun
from dsm.wire.convert import PARTS, position_to_pb, runs_to_pb
from dsm.wire.frame import encode_frame
from dsm.wire.protocol import Limits
from dsm.wire.v1 import wire_pb2 as pb
from dsm_server.exports import CHANGED_EXTENTS_MAX, Exported
from dsm_server.leases import Leases

ROW_BYTES = 40
PAGE_ROW_BYTES = 12

ROWS_SHARE = 4
"""Rows take at the most a quarter of a frame, so that data always has room."""

RUNS_MAX = 256
"""Of blocks, in a frame. Each takes some tens of microseconds to copy, and nobody else is served
meanwhile."""

BYTES_MAX = 64 << 20
"""One exact read is copied whole before it is sent, so that it is of one version."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, before it is encoded; its header lacks id and position."""

    header: pb.FrameHeader
    pieces: tuple[Buffer, ...] = ()


class BlocksAnswer:
    """Runs of blocks of a ring, as far as it has come."""

    def __init__(self, exported: Exported, read: ReadBlocks) -> None:
        self._exported = exported
        self._ring = exported.ring
        self._read = read
        self._todo = deque(read.runs)
        self._offset = 0
        self._header_bytes = max(read.header_bytes, exported.info.header_bytes)

    def next_frame(self, frame_bytes: int) -> Frame | None:
        """The next frame; `None` where there is nothing yet and the read is to be parked.

        Raises `Overrun` with the blocks of this read that are gone.
        """
        found: list[BlockRun] = []
        room = frame_bytes
        while self._todo and len(found) < RUNS_MAX:
            start, stop = self._todo[0]
            stop = min(stop, self._ring.head, start + room // ROWS_SHARE // ROW_BYTES)
            if start >= stop:
                break
            self._check_tail(start)
            left = room - (stop - start) * ROW_BYTES
            if self._part_bytes(start) > left:
                if found:
                    break
                return self._slice(start, frame_bytes - ROW_BYTES)
            run = self._copy(start, stop, left)
            found.append(run)
            self._passed(run.stop)
            room -= len(run.rows) + len(run.data)
        if found:
            rows, data = [run.rows for run in found], [run.data for run in found]
            header = self._header([Extent(run.first, run.stop) for run in found])
            header.rows_bytes = sum(map(len, rows))
            return Frame(header, (*rows, *data))
        return None if self._todo and self._read.park else Frame(pb.FrameHeader(last=True))

    def _check_tail(self, start: int) -> None:
        tail = self._ring.tail
        if start < tail:
            last = min(tail, self._todo[-1].stop) - 1
            raise Overrun(self._exported.info.name, Gap(start, last))

    def _passed(self, stop: int) -> None:
        """What lies before `stop` was sent."""
        end = self._todo.popleft().stop
        if stop < end:
            self._todo.appendleft(Extent(stop, end))

    def _copy(self, start: int, stop: int, bytes_max: int) -> BlockRun:
        match self._read.part:
            case Part.WHOLE:
                return self._ring.copy_blocks(start, stop, bytes_max)
            case Part.HEADER:
                return self._ring.copy_heads(start, stop, self._header_bytes, bytes_max)
            case Part.PAYLOAD:
                return self._ring.copy_bodies(start, stop, self._header_bytes, bytes_max)

    def _slice(self, seq: int, room: int) -> Frame:
        """A piece of a block that is larger than a frame; the first piece has its row."""
        offset = self._offset
        start, stop = self._bounds(self._ring.descriptor(seq).length)
        upto = min(start + offset + room, stop)
        piece = bytes(self._ring.block(seq).data[start + offset : upto])
        if self._ring.tail > seq:
            raise Overrun(self._exported.info.name, Gap(seq, seq))
        rows = b"" if offset else self._ring.copy_heads(seq, seq + 1, 0, 1).rows
        self._offset = offset + len(piece)
        if upto == stop:
            self._passed(seq + 1)
            self._offset = 0
        header = self._header([Extent(seq, seq + 1)])
        header.rows_bytes, header.offset = len(rows), offset
        return Frame(header, (rows, piece))

    def _bounds(self, length: int) -> tuple[int, int]:
        """Where the part that was asked for lies in a block of this length."""
        header = min(self._header_bytes, length)
        match self._read.part:
            case Part.WHOLE:
                return 0, length
            case Part.HEADER:
                return 0, header
            case Part.PAYLOAD:
                return header, length

    def _part_bytes(self, seq: int) -> int:
        start, stop = self._bounds(self._ring.descriptor(seq).length)
        return stop - start

    @property
    def _is_done(self) -> bool:
        return not self._todo or not (self._read.park or self._todo[0].start < self._ring.head)

    def _header(self, runs: list[Extent]) -> pb.FrameHeader:
        return pb.FrameHeader(
            runs=runs_to_pb(runs),
            header_bytes=self._header_bytes,
            part=PARTS[self._read.part],
            last=self._is_done,
        )

    def close(self) -> None:
        pass


class PagesAnswer:
    """Pages of one version of a region."""

    def __init__(self, exported: Exported, read: ReadPages, leases: Leases) -> None:
        pages = exported.info.pages
        for extent in (*read.need, *read.refresh):
            if extent.stop > pages:
                raise OutOfRange(
                    f"segment {exported.info.name!r} has {pages} pages; "
                    f"[{extent.start}, {extent.stop}) was asked for"
                )
        self._page_bytes = exported.info.page_bytes
        self._lease = leases.take(exported, read.version, hold=read.hold)
        snapshot = self._lease.snapshot
        self._changed = merge(snapshot.changed_since(read.since), CHANGED_EXTENTS_MAX)
        wanted = ExtentSet(read.need)
        changed = ExtentSet(self._changed)
        for extent in read.refresh:
            for part in changed.intersection(extent.start, extent.stop):
                wanted.add(part.start, part.stop)
        self._todo = list(wanted)
        self._todo.reverse()
        self._is_first = True

    def next_frame(self, frame_bytes: int) -> Frame:
        snapshot = self._lease.snapshot
        header = pb.FrameHeader(version=snapshot.version)
        if self._is_first:
            header.changed.extend(runs_to_pb(self._changed))
            self._is_first = False
        pages = max(1, frame_bytes // (self._page_bytes + PAGE_ROW_BYTES))
        found = snapshot.copy_pages(self._next_runs(pages))
        header.runs.extend(runs_to_pb(found.runs))
        header.rows_bytes = len(found.versions) + len(found.crcs)
        header.last = not self._todo
        return Frame(header, (found.versions, found.crcs, found.data))

    def _next_runs(self, pages: int) -> list[Extent]:
        """So many of the pages that are still to be sent, or all."""
        runs: list[Extent] = []
        while self._todo and pages:
            start, stop = self._todo.pop()
            end = min(stop, start + pages)
            if end < stop:
                self._todo.append(Extent(end, stop))
            runs.append(Extent(start, end))
            pages -= end - start
        return runs

    def close(self) -> None:
        self._lease.release()


class BytesAnswer:
    """An exact range of a region's newest version; copied whole at once, so it is of one.

    It is copied when its turn has come, and counts against the node's staging budget until it is
    sent: requests cost nothing while they wait.
    """

    def __init__(self, exported: Exported, read: ReadBytes, leases: Leases) -> None:
        if read.length > BYTES_MAX:
            raise BudgetExceeded(
                f"an exact read of {read.length} bytes; {BYTES_MAX} is the most, "
                "read with another access method"
            )
        self._region = exported.region
        self._offset, self._length = read.offset, read.length
        self._leases = leases
        self._data: memoryview | None = None
        self._at = 0

    def next_frame(self, frame_bytes: int) -> Frame:
        if self._data is None:
            self._leases.stage(self._length)
            found = self._region.read_versioned(self._offset, self._length)
            self._version, self._data = found
        piece = self._data[self._at : self._at + frame_bytes]
        header = pb.FrameHeader(
            first=self._offset + self._at, count=len(piece), version=self._version
        )
        self._at += len(piece)
        header.last = self._at == len(self._data)
        return Frame(header, (piece,))

    def close(self) -> None:
        if self._data is not None:
            self._data = None
            self._leases.unstage(self._length)


Answer = BlocksAnswer | PagesAnswer | BytesAnswer


def answer(exported: Exported, request: Request, leases: Leases) -> Answer:
    """Begin to answer. Raises what makes it impossible."""
    match request.read:
        case ReadBlocks() as read:
            return BlocksAnswer(exported, read)
        case ReadPages() as read:
            return PagesAnswer(exported, read, leases)
        case ReadBytes() as read:
            return BytesAnswer(exported, read, leases)


def first_frame(exported: Exported, leases: Leases, bytes_max: int, at: int | None = None) -> bytes:
    """What is read first: pages of a region from byte `at` on, block `at` of a ring.

    Unless told: the first pages, the newest block. A serialized frame; empty where not even that
    fits, or it cannot be read just now.
    """
    try:
        read = _first_read(exported, bytes_max, at)
        if read is None:
            return b""
        request = Request(0, exported.info.name, exported.info.epoch, read)
        reply = answer(exported, request, leases)
        try:
            frame = reply.next_frame(Limits().frame_bytes_max)
        finally:
            reply.close()
    except DsmError:
        return b""
    assert frame is not None
    return encode_frame(complete(frame, request, exported), frame.pieces)


def _first_read(exported: Exported, bytes_max: int, at: int | None) -> Read | None:
    info = exported.info
    if info.kind is Kind.RING:
        at = -1 if at is None else at
        seq = at if at >= 0 else exported.ring.head + at
        if not exported.ring.tail <= seq < exported.ring.head:
            return None
        if exported.ring.descriptor(seq).length > bytes_max:
            return None
        return ReadBlocks((Extent(seq, seq + 1),), Part.WHOLE, info.header_bytes)
    first = (at or 0) // info.page_bytes
    stop = min(info.pages, first + bytes_max // (info.page_bytes + PAGE_ROW_BYTES))
    if not 0 <= first < stop:
        return None
    return ReadPages(0, exported.region.version, need=(Extent(first, stop),))


def complete(frame: Frame, request: Request, exported: Exported) -> pb.FrameHeader:
    """The frame's header with what is the same for all: id, epoch, where the segment is now."""
    header = frame.header
    header.id = request.id
    header.epoch = exported.info.epoch
    header.position.CopyFrom(position_to_pb(exported.position))
    return header
