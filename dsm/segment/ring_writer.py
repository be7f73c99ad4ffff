"""Appending to a ring.

    evict: store tail ──▶ write bytes ──▶ write row ──▶ publish: store head ──▶ ring the bell

A producer that dies between any two of these leaves a good ring: what was not published is not
there, and the next position follows from the last published row (which no unpublished block can
have overwritten, because a run is always shorter than the slot table).

A block starts at a multiple of 8 and never wraps; where it does not fit before the end of the
data area, its position skips to the start of the next lap.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, islice, repeat
from operator import getitem
from typing import TYPE_CHECKING

from crc32c import crc32c as _crc32c

from dsm.errors import BlockTooLarge, CorruptSegment
from dsm.model import Extent
from dsm.segment.cursor import CursorTable
from dsm.segment.layout import (
    BELL_OFFSET,
    BLOCK_BYTES_MAX,
    HEAD,
    ROW,
    ROW_BYTES,
    ROW_HEAD,
    TAIL,
)
from dsm.segment.mapping import Mapping
from dsm.segment.ring import RingReader

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

crc32c: Callable[..., int] = _crc32c
_pack_row = ROW.pack_into
_pack_head = ROW_HEAD.pack
_pack_crcs = struct.Struct("<II").pack
_unpack_pos = struct.Struct("<Q").unpack_from
_PADS = [bytes(n) for n in range(8)]
_RUN_BLOCKS_MAX = 2048
"""Blocks that `append_many` publishes at a time: large enough for the cost per run to vanish,
small enough that readers see data early and lose little at once."""


class RingWriter(RingReader):
    """The one producer of a ring; also a reader of it. Threads may share it."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        memory = mapping.memory
        self._rows_out = memory[self._layout.rows : self._layout.rows + len(self._rows)]
        self._data_out = memory[self._layout.data : self._layout.data + self._capacity]
        self._fd = mapping.fd
        self._lock = threading.Lock()
        deadline_ms = self._info.block_deadline_ms
        self._cursors = CursorTable(self._fd, self._control, deadline_ms) if deadline_ms else None
        self._pos = self._next_pos()
        self._oldest = self.tail

    def _next_pos(self) -> int:
        head = self.head
        if head == 0:
            return 0
        seq, pos, _, length, *_ = ROW.unpack_from(self._rows, (head - 1) % self._slots * ROW_BYTES)
        if seq != head - 1 or pos % self._capacity + length > self._capacity:
            raise CorruptSegment(
                self.name, f"the row of its last block {head - 1} is damaged; recreate it"
            )
        return int(pos + length + 7) & -8

    def _views(self) -> list[memoryview]:
        if self._cursors is not None:
            self._cursors.release()
        return [*super()._views(), self._rows_out, self._data_out]

    def abandon(self) -> None:
        self.close()

    def append(self, *buffers: ReadableBuffer, timestamp_ns: int | None = None) -> int:
        """Publish one block, the concatenation of `buffers`; returns its sequence number.

        Raises `BlockTooLarge`. Where the ring's policy is to block it may wait for readers.
        """
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        length = len(data)
        with self._lock:
            seq = self._control[HEAD]
            pos, offset = self._place(length)
            if seq - self._oldest >= self._slots or self._lapped(self._oldest, pos + length):
                self._evict(seq, pos + length)
            stamp = time.time_ns() if timestamp_ns is None else timestamp_ns
            header_bytes = self._header_bytes
            seed = crc32c(_pack_head(seq, pos, stamp, length, 0))
            if header_bytes:
                head_crc = crc32c(data[:header_bytes], seed)
                body_crc = crc32c(data[header_bytes:])
            else:
                head_crc, body_crc = seed, crc32c(data)
            self._data_out[offset : offset + length] = data
            row = seq % self._slots * ROW_BYTES
            _pack_row(self._rows_out, row, seq, pos, stamp, length, 0, head_crc, body_crc)
            self._control[HEAD] = seq + 1
            self._pos = (pos + length + 7) & -8
        os.pwrite(self._fd, b"\1", BELL_OFFSET)
        return seq

    def append_many(
        self, blocks: Iterable[ReadableBuffer], *, timestamp_ns: int | None = None
    ) -> Extent:
        """Publish each of `blocks`, in runs; returns their sequence numbers. One doorbell.

        Raises `BlockTooLarge`; the runs before that block are published then.
        """
        supply = iter(blocks)
        count_max = max(1, min(_RUN_BLOCKS_MAX, self._slots // 8))
        with self._lock:
            first = self._control[HEAD]
            try:
                while run := list(islice(supply, count_max)):
                    self._append_all(_as_bytes(run), timestamp_ns)
            finally:
                stop = self._control[HEAD]
                if stop > first:
                    os.pwrite(self._fd, b"\1", BELL_OFFSET)
        return Extent(first, stop)

    def _append_all(self, blocks: list[bytes], timestamp_ns: int | None) -> None:
        longest = max(map(len, blocks))
        if longest > self._capacity:
            raise self._too_large(longest)
        stamp = time.time_ns() if timestamp_ns is None else timestamp_ns
        while blocks:
            count = self._append_run(blocks, stamp)
            blocks = blocks[count:]

    def _append_run(self, blocks: list[bytes], stamp: int) -> int:
        """Publish as many as lie in one piece, without dropping most of the ring for it."""
        pos, offset = self._place(len(blocks[0]))
        lengths = list(map(len, blocks))
        starts = list(accumulate([(n + 7) & -8 for n in lengths], initial=0))
        room = min(self._capacity - offset, max(starts[1], self._capacity // 8))
        count = max(1, bisect_right(starts, room) - 1)
        if count < len(blocks):
            blocks, lengths = blocks[:count], lengths[:count]
        seq = self._control[HEAD]
        self._evict(seq + count - 1, pos + starts[count])
        rows = self._rows_of(seq, [pos + start for start in starts[:count]], stamp, blocks)
        padded = chain.from_iterable(zip(blocks, [_PADS[-n & 7] for n in lengths], strict=True))
        self._data_out[offset : offset + starts[count]] = b"".join(padded)
        self._store_rows(seq, rows)
        self._control[HEAD] = seq + count
        self._pos = pos + starts[count]
        return count

    def _rows_of(self, seq: int, at: list[int], stamp: int, blocks: list[bytes]) -> bytes:
        """All rows of a run. Every loop here runs in C; this is what makes a batch fast."""
        lengths = map(len, blocks)
        heads = list(
            map(_pack_head, range(seq, seq + len(at)), at, repeat(stamp), lengths, repeat(0))
        )
        seeds = map(crc32c, heads)
        if cut := self._header_bytes:
            head_crcs = map(crc32c, map(getitem, blocks, repeat(slice(0, cut))), seeds)
            body_crcs = map(crc32c, map(getitem, blocks, repeat(slice(cut, None))))
        else:
            head_crcs, body_crcs = seeds, map(crc32c, blocks)
        crcs = map(_pack_crcs, head_crcs, body_crcs)
        return b"".join(chain.from_iterable(zip(heads, crcs, strict=True)))

    def _store_rows(self, seq: int, rows: bytes) -> None:
        start = seq % self._slots * ROW_BYTES
        end = start + len(rows)
        fits = min(end, len(self._rows_out)) - start
        self._rows_out[start : start + fits] = rows[:fits]
        if fits < len(rows):
            self._rows_out[: len(rows) - fits] = rows[fits:]

    def _place(self, length: int) -> tuple[int, int]:
        """Logical position of the next block, and its offset in the data area."""
        pos, capacity = self._pos, self._capacity
        offset = pos % capacity
        if length > capacity - offset:
            if length > capacity or length > BLOCK_BYTES_MAX:
                raise self._too_large(length)
            pos += capacity - offset
            offset = 0
        return pos, offset

    def _lapped(self, seq: int, end: int) -> bool:
        """Would a block that ends at `end` overwrite block `seq`?"""
        if seq >= self._control[HEAD]:
            return False
        (pos,) = _unpack_pos(self._rows, seq % self._slots * ROW_BYTES + 8)
        return bool(pos < end - self._capacity)

    def _evict(self, last: int, end: int) -> None:
        """Move `tail` past what blocks up to `last`, ending at `end`, will overwrite."""
        head, oldest = self._control[HEAD], self._oldest
        low = max(oldest, last + 1 - self._slots)
        if low < head and self._lapped(low, end):
            low = bisect_left(range(head), end - self._capacity, lo=low, key=self._pos_of)
        if low == oldest:
            return
        if self._cursors is not None:
            self._cursors.wait_until(low)
        self._control[TAIL] = self._oldest = low

    def _pos_of(self, seq: int) -> int:
        return int(_unpack_pos(self._rows, seq % self._slots * ROW_BYTES + 8)[0])

    def _too_large(self, length: int) -> BlockTooLarge:
        return BlockTooLarge(
            f"segment {self.name!r}: a block of {length} bytes does not fit a ring of "
            f"{min(self._capacity, BLOCK_BYTES_MAX)}; split it, or create the ring larger"
        )


def _as_bytes(blocks: Sequence[ReadableBuffer]) -> list[bytes]:
    return [block if type(block) is bytes else bytes(memoryview(block)) for block in blocks]
