"""A remote ring: its shadow, and how blocks come into it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean
from weakref import WeakSet

from dsm.core.extents import ExtentSet
from dsm.core.reads import Part, Read, ReadBlocks, by_lacking
from dsm.errors import BudgetExceeded, OutOfRange, Overrun
from dsm.model import Access, Event, Extent, Gap, Position, SegmentInfo
from dsm.segment import Block, BlockRun, RingShadow
from dsm.segment.block import head_matches, matches
from dsm.segment.layout import ROW, ROW_BYTES
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.announcement import Announcement
from dsm_client.assembly import Arrived, Assembler
from dsm_client.cache import ShadowCache
from dsm_client.replica import Replica, around
from dsm_client.transport import Transport

RUN_OVERHEAD_BYTES = 128
"""What one more run costs both sides, as bytes of a path of some hundred Mbit/s: microseconds to
find, copy and store it, and ten bytes."""

BLOCK_BYTES_UNKNOWN = 1024.0
"""Expected size of a block in a ring that was empty when it was opened."""

LEARN = 1 / 16
"""Weight of one frame in the mean block size: producers change what they write."""

PRIVATE_BYTES_MAX = 64 << 20
"""Blocks that went round what readers hold, for each handle."""

HEADER_PAGE_BYTES = 4096
"""What a header takes of memory that is alone on its page."""

RING_SHARE = 4
"""Blocks beyond the head are asked for up to this part of the ring: what comes must not lap what
the reader has not read."""


class RingReplica(Replica):
    """One handle's view of a remote ring. Implements the fetcher's `Source` and `Presence`."""

    def __init__(
        self,
        transport: Transport,
        cache: ShadowCache,
        info: SegmentInfo,
        position: Position,
        held_bytes: int,
        access: Access,
        header_bytes: int | None,
    ) -> None:
        super().__init__(transport, info, access)
        self.cache = cache
        self.shadow: RingShadow = cache.ring(info)
        self.shadow.advance(position.head, position.tail)
        self.header_bytes = max(header_bytes or 0, info.header_bytes)
        self.following = False
        self.private: dict[int, Block] = {}
        """Blocks that the shadow could not take, since a reader holds what lies there."""
        self.announcements: WeakSet[Announcement] = WeakSet()
        """Iterations over ranges that are under way."""
        self.trying: WeakSet[Announcement] = WeakSet()
        """Those of them that nobody knows of yet whether they read headers only."""
        self.selections: set[Announcement] = set()
        """Those of them that read headers, whatever the method."""
        self.touches: deque[tuple[bool, int, bool]] = deque(maxlen=256)
        """Of each block read under `auto`: was its payload touched, its length, was it the next."""
        blocks = position.head - position.tail
        self._block_bytes = held_bytes / blocks if blocks else BLOCK_BYTES_UNKNOWN
        self._assembler = Assembler(info.capacity_bytes)
        self._evicted_to = 0
        self._start(self, self)
        self.fetcher.ahead_bytes_max = cache.budget_bytes // 2

    @property
    def position(self) -> Position:
        return self.shadow.position

    @property
    def depth(self) -> int | None:
        """How much of each block is fetched at once: its first bytes, or `None` for all."""
        heads = self.method is Access.HYBRID or self.selections
        return self.header_bytes if heads else None

    # ── Presence ──

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        head = self.shadow.head
        missing = list(self.shadow.missing(start, min(stop, head), header_bytes))
        if stop > head:
            beyond = Extent(max(start, head), stop)
            if missing and missing[-1].stop == beyond.start:
                beyond = Extent(missing.pop().start, stop)
            missing.append(beyond)
        if not self.private:
            return missing
        return [e for m in missing for e in around(*m, self._private_in(m, header_bytes))]

    def _private_in(self, extent: Extent, header_bytes: int | None) -> list[int]:
        """Blocks that went round what readers hold, and are as deep as that."""
        return [
            seq
            for seq in _within(extent, self.private)
            if is_whole(self.private[seq])
            or (header_bytes is not None and len(self.private[seq].data) >= header_bytes)
        ]

    # ── Source ──

    @property
    def limit(self) -> Extent:
        return Extent(self.shadow.tail, self.shadow.head)

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        if header_bytes is not None:
            yield ReadBlocks(extents, Part.HEADER, self.header_bytes, park), extents
            return
        for part, some in by_lacking(extents, self._has_headers):
            yield ReadBlocks(some, part, self.header_bytes, park), some

    def _has_headers(self, extent: Extent) -> bool:
        if not self.header_bytes or self.missing(*extent, self.header_bytes):
            return False
        return not _within(extent, self.private)

    def unit_bytes(self, header_bytes: int | None) -> float:
        size = self._block_bytes if header_bytes is None else min(header_bytes, self._block_bytes)
        return size + ROW_BYTES

    # ── reads, in the loop ──

    async def fetch(self, seqs: Sequence[int], header_bytes: int | None) -> None:
        """Have these blocks present as deep as that."""
        for seq in seqs:
            self.check_range(seq)
        blocks = self._runs(seqs, header_bytes)
        self.check_room(sum(extent.length for extent in blocks))
        self.accessed(blocks)
        if not any(self.missing(*extent, header_bytes) for extent in blocks):
            self.read_ahead()
            self.settle()
            return
        self.read_ahead_soon()
        await self._need_blocks(blocks, header_bytes)

    def _runs(self, seqs: Sequence[int], header_bytes: int | None) -> tuple[Extent, ...]:
        """Disjoint and in order; gaps are read through where that costs less than a run."""
        if len(seqs) == 1:
            return (Extent(seqs[0], seqs[0] + 1),)
        gap = int(RUN_OVERHEAD_BYTES / self.unit_bytes(header_bytes))
        runs = ExtentSet()
        last = -1
        for seq in sorted(seqs):
            runs.add(last + 1 if 0 <= last < seq <= last + 1 + gap else seq, seq + 1)
            last = seq
        return tuple(runs)

    def check_room(self, blocks: int) -> None:
        """A header takes its block's place in the shadow. Raises `BudgetExceeded`."""
        self.cache.check_room(self.info, int(blocks * self._block_bytes))

    async def fetch_beyond(self, seq: int, header_bytes: int | None) -> None:
        """Have block `seq` present, which may not have been appended yet."""
        self.following = True
        self.transport.tell_cursors()  # the producer may be waiting for just this
        self.planner.hint("sequential")
        block = (Extent(seq, seq + 1),)
        self.accessed(block)
        self.read_ahead_soon()
        await self._need_blocks(block, header_bytes, park=True)

    async def _need_blocks(
        self, blocks: Sequence[Extent], header_bytes: int | None, *, park: bool = False
    ) -> None:
        """`need`; an overrun names all that is gone by now, from the first of them on."""
        try:
            await self.need(blocks, header_bytes, park=park)
        except Overrun as lag:
            first, head = blocks[0].start, self.shadow.head
            self.moved(head, max(first, min(lag.gap.last, head - 1)) + 1)
            raise Overrun(self.info.name, Gap(first, self.shadow.tail - 1)) from None

    def want(self, blocks: Sequence[Extent], depth: int | None) -> None:
        """A reader is going to read all of these, in order, as deep as that."""
        tail, head = self.limit
        self.fetcher.wanted([Extent(max(a, tail), min(b, head)) for a, b in blocks], depth)

    def want_whole(self, seqs: Sequence[int]) -> None:
        self.want(self._runs(seqs, None), None)
        self.settle()

    def will_need(self, start: int, stop: int) -> None:
        """The same, as deep as the method has it."""
        self.want((Extent(start, stop),), self.depth)
        self.settle()

    def learn(self) -> None:
        """Under `auto`: choose again after each block that a reader is done with."""
        method = self.method
        while self.touches:
            touched, length, sequential = self.touches.popleft()
            self.policy.accessed(
                header_only=not touched,
                bytes_touched=length if touched else self.header_bytes,
                block_bytes=length,
                sequential=sequential,
                now=self.transport.now(),
            )
            self.choose()
        if self.method is not method:
            for announcement in list(self.announcements):
                announcement.announce()

    def read_ahead(self) -> None:
        """Under `prefetch` whole blocks; under `hybrid` headers; else nothing."""
        self.learn()
        self.choose()
        if not self.following and self.method not in (Access.PREFETCH, Access.HYBRID):
            return
        if self.trying and not self.following:
            return  # what is announced is enough; more would be whole blocks
        park = 0
        if self.following:
            by_bytes = self.info.capacity_bytes // RING_SHARE / max(1.0, self._block_bytes)
            park = max(1, min(self.info.slots // RING_SHARE, int(by_bytes)))
        self.fetcher.plan_ahead(self.transport.now(), self.depth, park_units=park)

    def check_range(self, seq: int) -> None:
        self.check()
        tail, head = self.shadow.tail, self.shadow.head
        if seq < tail:
            raise Overrun(self.info.name, Gap(seq, tail - 1))
        if seq >= head:
            raise OutOfRange(
                f"segment {self.info.name!r}: block {seq} is not there yet; it holds "
                f"[{tail}, {head}); follow() waits for more"
            )

    def interrupted(self, id: int) -> None:
        super().interrupted(id)
        self._assembler.forget(id)

    # ── the wire ──

    def fill(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        self.moved(header.position.head, header.position.tail)
        found = self._assembler.add(header, payload)
        if header.last:
            self._assembler.forget(id)
        lengths = [length for arrived in found for length in arrived.lengths]
        if lengths:
            self._block_bytes += (fmean(lengths) - self._block_bytes) * LEARN
        for arrived in found:
            run = arrived.run
            bad = self._store(arrived)
            self.counts.checksum_failures += len(bad)
            for extent in around(run.first, run.stop, bad):
                self.fetcher.arrived(id, *extent)
            self._make_room(run)

    def _store(self, arrived: Arrived) -> list[int]:
        """Into the shadow; returns the blocks whose checksums are wrong."""
        run = arrived.run
        if self.shadow.tail > run.first:
            return []  # lapped while it travelled: whoever waits learns of it by the tail
        if arrived.part is not Part.PAYLOAD and not self.shadow.can_fill(run):
            return self._keep_private(arrived)
        match arrived.part:
            case Part.WHOLE:
                return self.shadow.fill_blocks(run)
            case Part.HEADER:
                return self.shadow.fill_heads(run, arrived.header_bytes)
            case Part.PAYLOAD:
                return self.shadow.fill_bodies(run, arrived.header_bytes)

    def _keep_private(self, arrived: Arrived) -> list[int]:
        """A reader holds what lies there: hand these blocks out from memory of their own."""
        held = sum(len(block) for block in self.private.values())
        if held + len(arrived.run.data) > PRIVATE_BYTES_MAX:
            raise BudgetExceeded(
                f"segment {self.info.name!r}: readers hold blocks that the ring has lapped, and "
                f"{held} bytes went round them already; let go of blocks, or copy them"
            )
        blocks = private_blocks(arrived, self.info.header_bytes, self.header_bytes)
        self.private.update({block.seq: block for block in blocks})
        return [
            seq for seq in range(arrived.run.first, arrived.run.stop) if seq not in self.private
        ]

    def _make_room(self, run: BlockRun) -> None:
        """Keep the shadows within their budget: what is oldest goes first."""
        over = self.cache.overdraft(run.count * HEADER_PAGE_BYTES + len(run.data))
        if over > 0:
            blocks = int(over / max(1.0, self._block_bytes)) + 1
            start = self._evicted_to = max(self._evicted_to, self.shadow.tail)
            self._evicted_to = min(start + blocks, run.first, *self._read_next())
            self.shadow.evict(self._evicted_to)
            self.fetcher.dropped(Extent(start, self._evicted_to))

    def _read_next(self) -> Iterator[int]:
        """Where readers are: what was announced or is awaited from there on stays."""
        for announcement in self.announcements:
            yield announcement.seq
        yield from self.fetcher.awaited_from()

    def moved(self, head: int, tail: int) -> None:
        """The origin is there now."""
        if head > self.shadow.head or tail > self.shadow.tail:
            self.fetcher.outdated(Extent(self.shadow.tail, tail))
            self.shadow.advance(head, tail)
            for seq in [seq for seq in self.private if seq < tail]:
                del self.private[seq]

    def event_received(self, event: Event) -> None:
        if event.gone:
            self.gone("it was deleted or recreated")
            return
        self.moved(event.position.head, event.position.tail)
        self.settle()


def private_blocks(arrived: Arrived, crc_header_bytes: int, header_bytes: int) -> list[Block]:
    """The good ones of a run of whole blocks or of headers, as blocks over their own memory."""
    blocks = []
    origin: int | None = None
    at = 0
    for fields in ROW.iter_unpack(arrived.run.rows):
        seq, pos, timestamp_ns, length = fields[:4]
        if arrived.part is Part.WHOLE:
            origin = pos if origin is None else origin
            at = pos - origin
        else:
            length = min(length, arrived.header_bytes)
        data = memoryview(arrived.run.data)[at : at + length].toreadonly()
        at += length
        good = matches if length == fields[3] else head_matches
        if good(fields, data, crc_header_bytes):
            blocks.append(Block(seq, timestamp_ns, data, header_bytes, None, fields))
    return blocks


def is_whole(block: Block) -> bool:
    """Not its header only."""
    return block._fields is None or len(block.data) == block._fields[3]


def _within(extent: Extent, seqs: Iterable[int]) -> list[int]:
    return [seq for seq in seqs if extent.start <= seq < extent.stop]
