"""Reads that nobody keeps: `zero_copy` across the network, exact ranges in one round trip.

Those of a list go out together. Blocks share requests; of bytes, what touches, overlaps, or lies so
near to each other that a request costs more than the gap.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from dsm.core.extents import ExtentSet
from dsm.core.fetcher import batches
from dsm.core.reads import ReadBlocks, ReadBytes
from dsm.core.sizes import REQUEST_BYTES_MAX
from dsm.errors import ChecksumMismatch, MalformedMessage, OutOfRange
from dsm.model import Extent
from dsm.segment import Block
from dsm_client.assembly import Assembler
from dsm_client.region_replica import RegionReplica
from dsm_client.ring_replica import RingReplica, private_blocks

T = TypeVar("T")

REQUEST_OVERHEAD_BYTES = 128
"""What one more request costs on the wire: itself, its answer's header, and HTTP/2's of both."""


async def exact_blocks(replica: RingReplica, seqs: Sequence[int]) -> list[Block]:
    """Whole blocks, in memory of their own. Raises `Overrun`, `OutOfRange`, `ChecksumMismatch`."""
    for seq in seqs:
        replica.check_range(seq)
    replica.waited()
    most = max(1, int(REQUEST_BYTES_MAX / replica.unit_bytes(None)))
    runs = ExtentSet((seq, seq + 1) for seq in sorted(seqs))
    found: dict[int, Block] = {}
    for blocks in await _together([_blocks(replica, some) for some in batches(runs, most)]):
        found |= {block.seq: block for block in blocks}
    for seq in seqs:
        if seq not in found:
            replica.counts.checksum_failures += 1
            raise ChecksumMismatch(
                replica.info.name, f"block {seq} did not arrive as it was appended"
            )
    return [found[seq] for seq in seqs]


async def _blocks(replica: RingReplica, runs: tuple[Extent, ...]) -> list[Block]:
    frames = await replica.transport.read(
        replica.info.name,
        replica.info.epoch,
        ReadBlocks(runs),
        bytes_expected=int(sum(run.length for run in runs) * replica.unit_bytes(None)),
    )
    assembler = Assembler(replica.info.capacity_bytes)
    blocks = []
    with replica.believing():
        for header, payload in frames:
            replica.counts.bytes_received += len(payload)
            for arrived in assembler.add(header, payload):
                blocks += private_blocks(arrived, replica.info.header_bytes, replica.header_bytes)
    return blocks


async def exact_ranges(
    replica: RegionReplica, ranges: Sequence[tuple[int, int]]
) -> list[memoryview] | None:
    """The bytes of each (offset, length), all of one version; `None` where a commit came between.

    Raises `OutOfRange` where the node has less than that.
    """
    replica.check()
    replica.waited()
    runs = _joined(Extent(offset, offset + length) for offset, length in ranges if length)
    answers = await _together([_bytes(replica, run) for run in runs])
    versions = {version for told, _ in answers for version in told}
    if len(answers) > 1 and len(versions) > 1:
        return None
    starts = [run.start for run in runs]
    views = []
    for offset, length in ranges:
        at = bisect_right(starts, offset) - 1
        data = memoryview(answers[at][1] if length else b"")
        views.append(data[offset - starts[at] :][:length] if length else data)
    return views


def _joined(extents: Iterable[Extent]) -> list[Extent]:
    runs: list[Extent] = []
    for start, stop in sorted(extents):
        if runs and start <= runs[-1].stop + REQUEST_OVERHEAD_BYTES:
            runs[-1] = Extent(runs[-1].start, max(stop, runs[-1].stop))
        else:
            runs.append(Extent(start, stop))
    return runs


async def _bytes(replica: RegionReplica, run: Extent) -> tuple[tuple[int, int], bytes]:
    """These bytes, and the versions before and after the node copied them."""
    name, transport = replica.info.name, replica.transport
    read = ReadBytes(run.start, run.length)
    frames = await transport.read(name, replica.info.epoch, read, bytes_expected=run.length)
    at = run.start
    for header, payload in frames:
        replica.counts.bytes_received += len(payload)
        if header.first != at and len(payload):
            raise MalformedMessage(transport.address, f"bytes from {header.first} in place of {at}")
        at += len(payload)
    if at != run.stop:
        raise OutOfRange(
            f"segment {name!r}: {run.length} bytes at {run.start} were asked for, "
            f"{at - run.start} came"
        )
    first = frames[0][0]
    data = b"".join(bytes(payload) for _, payload in frames)
    return (first.version, first.position.version), data


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All of them at once; the first error ends the others."""
    if len(works) == 1:
        return [await works[0]]
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
