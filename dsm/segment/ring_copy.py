"""Runs of blocks copied out of a ring: few slices, then one look at `tail`.

How many blocks fit is found by bisection over the rows, whose positions only grow. While that goes
on the ring may be lapped and rows may be garbage; it is harmless, because nothing is kept unless
`tail` has not passed the first block when all is copied.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from dsm.errors import CorruptSegment, UsageError
from dsm.segment.block import BlockRun
from dsm.segment.layout import HEAD, ROW, ROW_BYTES, TAIL

if TYPE_CHECKING:
    from dsm.segment.ring import RingReader


def blocks(ring: RingReader, first: int, stop: int, bytes_max: int) -> BlockRun:
    stop = _available(ring, first, stop)
    if first >= stop:
        return BlockRun(first, 0, b"", b"")
    start = _start(ring, first)
    offset = start % ring._capacity
    limit = start + min(bytes_max, ring._capacity - offset)
    fit = bisect_right(range(first + 1, stop), limit, key=lambda seq: _end(ring, seq))
    end = _end(ring, first + fit)
    _check_tail(ring, first)
    if not start <= end <= start - offset + ring._capacity:
        raise CorruptSegment(ring.name, f"the rows of blocks {first} to {first + fit} are damaged")
    data = bytes(ring._data[offset : offset + end - start])
    return BlockRun(first, fit + 1, ring.copy_rows(first, first + fit + 1), data)


def parts(ring: RingReader, first: int, stop: int, part: slice, bytes_max: int) -> BlockRun:
    """One part (its head or its body) of each block, concatenated."""
    stop = _available(ring, first, stop, part.stop)
    if first >= stop:
        return BlockRun(first, 0, b"", b"")
    spans = [
        (offset + start, offset + end)
        for _, pos, _, length, *_ in ring._fields_of(first, stop)
        for offset in (pos % ring._capacity,)
        for start, end, _ in (part.indices(length),)
    ]
    sizes = accumulate(max(0, end - start) for start, end in spans)
    count = max(1, bisect_right(list(sizes), bytes_max))
    area = ring._data
    data = b"".join([area[start:end] for start, end in spans[:count]])
    return BlockRun(first, count, ring.copy_rows(first, first + count), data)


_PARTS_MAX = 16_384
"""Blocks that one call looks at; it bounds the work for a caller whose `stop` is far away."""


def _available(ring: RingReader, first: int, stop: int, header_bytes: int | None = None) -> int:
    if first < 0:
        raise UsageError(f"segment {ring.name!r}: there is no block {first}")
    stop = min(stop, ring._control[HEAD], first + _PARTS_MAX)
    _check_tail(ring, first)
    return ring._readable(first, stop, header_bytes) if first < stop else stop


def _start(ring: RingReader, seq: int) -> int:
    return int(ROW.unpack_from(ring._rows, seq % ring._slots * ROW_BYTES)[1])


def _end(ring: RingReader, seq: int) -> int:
    fields = ROW.unpack_from(ring._rows, seq % ring._slots * ROW_BYTES)
    return int(fields[1] + fields[3])


def _check_tail(ring: RingReader, first: int) -> None:
    if first < ring._control[TAIL]:
        raise ring._too_late(first)
