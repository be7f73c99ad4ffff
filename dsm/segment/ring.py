"""Reading a ring.

        tail                      head
    ─────┬──────────────────────────┬───────▶ seq        row     = seq % slots
      gone   readable                 not yet            offset  = row.pos % capacity

A block is there when `tail <= seq < head`. The producer moves `tail` past a block *before* it
reuses its row or its bytes, so that whoever copies (or parses a row) and then finds that `tail`
has not passed it knows that what he has is whole. That is the one rule here; every method below
is "take it, then look at `tail`".

Zero-copy access gives `Block`s over the mapping, which say themselves whether they are `intact`.
Everything that returns `bytes` has been checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsm.errors import ChecksumMismatch, CorruptSegment, OutOfRange, Overrun
from dsm.model import BlockDescriptor, Gap, Position
from dsm.segment import ring_copy
from dsm.segment.block import Block, BlockRun, matches
from dsm.segment.layout import HEAD, ROW, ROW_BYTES, TAIL, ring_layout
from dsm.segment.mapping import Handle, Mapping

if TYPE_CHECKING:
    from dsm.segment.cursor import RingCursor

_READ_ATTEMPTS = 3
_unpack_row = ROW.unpack_from
_BLOCKS_CHUNK = 128
"""Rows that `blocks` parses at a time; larger gains nothing and finds a lapped row later."""


class RingReader(Handle):
    """A mapped ring. Cheap to open, holds no lock, and never slows its producer."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        info, memory = self._info, mapping.memory.toreadonly()
        self._layout = ring_layout(info)
        self.name = info.name
        self._slots = info.slots
        self._capacity = info.capacity_bytes
        self._header_bytes = info.header_bytes
        self._rows = memory[self._layout.rows : self._layout.rows + info.slots * ROW_BYTES]
        self._data = memory[self._layout.data : self._layout.data + info.capacity_bytes]
        self._check_counters()

    def _check_counters(self) -> None:
        tail, head = self.tail, self.head  # in this order: both only grow
        if tail > head or self.head - self.tail > self._slots:
            raise CorruptSegment(
                self.name, f"its counters make no sense: head {head}, tail {tail}; recreate it"
            )

    def _views(self) -> list[memoryview]:
        return [self._rows, self._data]

    @property
    def head(self) -> int:
        """The next sequence number."""
        return self._control[HEAD]

    @property
    def tail(self) -> int:
        """The oldest block that is still there."""
        return self._control[TAIL]

    @property
    def position(self) -> Position:
        tail = self._control[TAIL]
        return Position(head=self._control[HEAD], tail=tail)

    # -- one block --------------------------------------------------------------------------

    def descriptor(self, seq: int) -> BlockDescriptor:
        """Row of one block; raises `Overrun` (too late) or `OutOfRange` (not yet)."""
        self._readable(seq, seq + 1, 0)
        return BlockDescriptor(*self._fields(seq))

    def block(self, seq: int) -> Block:
        """Zero-copy view of one block; raises `Overrun` (too late) or `OutOfRange` (not yet)."""
        if seq >= self._control[HEAD] or seq < 0:
            raise self._not_yet(seq)
        fields = _unpack_row(self._rows, seq % self._slots * ROW_BYTES)
        if seq < self._control[TAIL]:
            raise self._too_late(seq)
        offset = fields[1] % self._capacity
        data = self._data[offset : offset + fields[3]]
        if fields[0] != seq or len(data) != fields[3]:
            raise self._damaged(seq)
        return Block(seq, fields[2], data, self._header_bytes, self, fields)

    def read(self, seq: int) -> Block:
        """One block over private bytes, its checksums verified.

        Raises `Overrun`, `OutOfRange` or, if it stays wrong, `ChecksumMismatch`.
        """
        self._readable(seq, seq + 1, None)
        for _ in range(_READ_ATTEMPTS):
            fields = self._fields(seq)
            offset = fields[1] % self._capacity
            data = memoryview(bytes(self._data[offset : offset + fields[3]]))
            if seq < self._control[TAIL]:
                raise self._too_late(seq)
            if matches(fields, data, self._header_bytes):
                return Block(seq, fields[2], data, self._header_bytes, None, fields)
        raise ChecksumMismatch(self.name, f"block {seq} in {self.path} is not what was appended")

    def blocks(self, first: int, stop: int) -> Iterator[Block]:
        """Zero-copy views of `[first, stop)`; raises `Overrun` at the first that is gone."""
        seq = first
        stop = self._readable(first, stop, None)
        while seq < stop:
            for fields in self._fields_of(seq, min(stop, seq + _BLOCKS_CHUNK)):
                offset = fields[1] % self._capacity
                data = self._data[offset : offset + fields[3]]
                if seq < self._control[TAIL]:
                    raise self._too_late(seq)
                if fields[0] != seq or len(data) != fields[3]:
                    raise self._damaged(seq)
                yield Block(seq, fields[2], data, self._header_bytes, self, fields)
                seq += 1

    # -- runs -------------------------------------------------------------------------------

    def copy_blocks(self, first: int, stop: int, bytes_max: int) -> BlockRun:
        """As many whole blocks from `first` as fit, at least one if any is there.

        `data` is one slice of the data area, so a run ends where the area wraps.
        """
        return ring_copy.blocks(self, first, stop, bytes_max)

    def copy_heads(self, first: int, stop: int, header_bytes: int, bytes_max: int) -> BlockRun:
        """The first `header_bytes` (or all, if less) of each block, one after the other."""
        return ring_copy.parts(self, first, stop, slice(0, header_bytes), bytes_max)

    def copy_bodies(self, first: int, stop: int, header_bytes: int, bytes_max: int) -> BlockRun:
        """What follows the first `header_bytes` of each block, one after the other."""
        return ring_copy.parts(self, first, stop, slice(header_bytes, None), bytes_max)

    def register(self, start: int | None = None) -> RingCursor:
        """Have a producer whose policy is to block wait for this reader; see `RingCursor`."""
        from dsm.segment.cursor import RingCursor

        return RingCursor(self.path, self._info.epoch, self.tail if start is None else start)

    def _readable(self, first: int, stop: int, header_bytes: int | None) -> int:
        """Where what can be read from `first` on ends; a shadow may have less than `[tail, head)`.
        `header_bytes`: only so much of each block is wanted."""
        return stop

    # -- rows -------------------------------------------------------------------------------

    def _fields(self, seq: int) -> tuple[int, ...]:
        if seq >= self._control[HEAD] or seq < 0:
            raise self._not_yet(seq)
        fields = _unpack_row(self._rows, seq % self._slots * ROW_BYTES)
        if seq < self._control[TAIL]:
            raise self._too_late(seq)
        if fields[0] != seq or fields[1] % self._capacity + fields[3] > self._capacity:
            raise self._damaged(seq)
        return fields

    def _fields_of(self, first: int, stop: int) -> Iterator[tuple[int, ...]]:
        return ROW.iter_unpack(self.copy_rows(first, stop))

    def copy_rows(self, first: int, stop: int) -> bytes:
        """Raw rows of `[first, stop)`, checked after copying."""
        if stop > self._control[HEAD] or first < 0:
            raise self._not_yet(stop - 1)
        start, end = first % self._slots, (stop - 1) % self._slots + 1
        if first >= stop:
            rows = b""
        elif start < end:
            rows = bytes(self._rows[start * ROW_BYTES : end * ROW_BYTES])
        else:
            rows = bytes(self._rows[start * ROW_BYTES :]) + bytes(self._rows[: end * ROW_BYTES])
        if first < self._control[TAIL]:
            raise self._too_late(first)
        return rows

    def _not_yet(self, seq: int) -> OutOfRange:
        return OutOfRange(
            f"segment {self.name!r}: block {seq} is not there; it holds [{self.tail}, {self.head})"
        )

    def _too_late(self, seq: int) -> Overrun:
        return Overrun(self.name, Gap(seq, self.tail - 1))

    def _damaged(self, seq: int) -> CorruptSegment:
        return CorruptSegment(self.name, f"the row of block {seq} is damaged; recreate it")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"[{self.tail}, {self.head})"
        return (
            f"<{type(self).__name__} {self.name!r} {state}, {self._slots} slots, "
            f"{self._capacity} bytes, epoch {self._info.epoch:016x}>"
        )
