"""Runs of blocks that came over a network: which of them are what the producer appended.

Nothing in a run is believed. A run whose rows do not fit together (sequence, positions, sizes) is
bad as a whole; else every block is judged by its checksums, which cover its position too.
"""

from __future__ import annotations

from dsm.model import SegmentInfo
from dsm.segment.block import Block, BlockRun, matches
from dsm.segment.layout import ROW, ROW_BYTES

Fields = tuple[int, ...]


def rows_of(run: BlockRun, info: SegmentInfo) -> list[Fields] | None:
    """The rows, or None where they cannot be those of consecutive blocks of this ring."""
    if run.count < 0 or run.first < 0 or len(run.rows) != run.count * ROW_BYTES:
        return None
    if run.count > info.slots:
        return None
    rows = list(ROW.iter_unpack(run.rows))
    capacity, free = info.capacity_bytes, 0
    for seq, (said, pos, _, length, *_) in enumerate(rows, run.first):
        if said != seq or pos < free or pos & 7 or pos % capacity + length > capacity:
            return None
        free = pos + length
    return rows


def contiguous(run: BlockRun, rows: list[Fields], capacity: int) -> bool:
    """Is `data` one slice of the data area, as of `copy_blocks`?"""
    if not rows:
        return not len(run.data)
    start, last = rows[0][1], rows[-1]
    return (
        len(run.data) == last[1] + last[3] - start and start % capacity + len(run.data) <= capacity
    )


def bad_blocks(run: BlockRun, rows: list[Fields], header_bytes: int) -> list[int]:
    """Sequence numbers whose checksums do not match."""
    data = memoryview(run.data)
    start = rows[0][1] if rows else 0
    return [
        fields[0]
        for fields in rows
        if not matches(
            fields, data[fields[1] - start : fields[1] - start + fields[3]], header_bytes
        )
    ]


def split_run(run: BlockRun, info: SegmentInfo) -> tuple[list[Block], list[int]]:
    """The good blocks of a run of whole blocks, over its own bytes, and the bad sequence numbers.

    For blocks that are delivered without being stored.
    """
    rows = rows_of(run, info)
    if rows is None or not contiguous(run, rows, info.capacity_bytes):
        return [], list(range(run.first, run.stop))
    bad = bad_blocks(run, rows, info.header_bytes)
    data = memoryview(run.data).toreadonly()
    blocks = [
        Block(row[0], row[2], data[at : at + row[3]], info.header_bytes, None, row)
        for row in rows
        if row[0] not in bad
        for at in (row[1] - rows[0][1],)
    ]
    return blocks, bad
