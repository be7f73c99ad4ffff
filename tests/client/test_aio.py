"""The asyncio face: the same names, awaited, over the network and mapped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from dsm_client import aio

from dsm.errors import DeadlineExceeded, Overrun, SegmentNotFound
from dsm.model import Kind, SegmentInfo
from dsm.segment import create_region, create_ring
from tests.nodes import NodeProcess

HEADER, PAYLOAD = b"h" * 10, b"p" * 100


@pytest.mark.parametrize("map_local", [False, True])
@pytest.mark.parametrize("access", ["zero_copy", "copy_once", "hybrid", "prefetch", "auto"])
def test_rings_are_read_and_followed(
    node: NodeProcess, root: Path, cache: Path, access: str, map_local: bool
) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"map_local": map_local, "cache": str(cache)}
        async with aio.connect(node.url, **options) as session:
            handle = await session.open("r", access=access)
            assert handle.is_mapped == map_local == session.is_local
            block = await handle.read(-1)
            assert block.seq == 19
            assert block.header == HEADER
            assert await block.payload == PAYLOAD
            assert await block.data == HEADER + PAYLOAD
            seqs = [b.seq async for b in handle.blocks(5, 15) if await b.payload == PAYLOAD]
            assert seqs == list(range(5, 15))
            asyncio.get_running_loop().call_later(0.05, ring.append, HEADER, PAYLOAD)
            async for block in handle.follow(start=-3):
                if block.seq == 20:
                    break
            with pytest.raises(DeadlineExceeded):
                async for _ in handle.follow(timeout_s=0.05):
                    pass

    with create_ring(root, "r", capacity_bytes=1 << 16, header_bytes=len(HEADER)) as ring:
        ring.append_many([HEADER + PAYLOAD] * 20)
        asyncio.run(run())


@pytest.mark.parametrize("map_local", [False, True])
def test_regions_are_read_whole_and_in_part(
    node: NodeProcess, root: Path, cache: Path, map_local: bool
) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"map_local": map_local, "cache": str(cache)}
        session = await aio.connect(node.url, **options)
        handle = await session.open("w")
        assert await handle.read(3, 2) == b"\3\4"
        async with handle.snapshot() as view:
            assert bytes(view[:256]) == bytes(range(256))
        assert (await handle.array()).shape == (16, 256)
        assert await session.ping() > 0
        assert [d.info.name for d in await session.list()] == ["w"]
        await session.close()

    with create_region(root, "w", dtype="u1", shape=(16, 256)) as region:
        with region.write(0, 256) as view:
            view[:] = bytes(range(256))
        asyncio.run(run())


def test_gaps_and_errors_are_the_same(node: NodeProcess, root: Path, cache: Path) -> None:
    async def run() -> None:
        async with aio.connect(node.url, map_local=False, cache=str(cache)) as session:
            with pytest.raises(SegmentNotFound):
                await session.open("nothing")
            created = await session.create(
                SegmentInfo("new", Kind.RING, capacity_bytes=4096, slots=64)
            )
            assert created.info.epoch
            await session.delete("new")
            handle = await session.open("r")
            with pytest.raises(Overrun) as caught:
                async for _ in handle.follow(start=0):
                    pass
            assert (caught.value.gap.first, caught.value.gap.last) == (0, ring.tail - 1)

    with create_ring(root, "r", capacity_bytes=4096, slots=64) as ring:
        ring.append_many([b"x" * 100] * 500)
        asyncio.run(run())


def test_a_cancelled_wait_is_over_at_once(node: NodeProcess, root: Path, cache: Path) -> None:
    async def run() -> None:
        async with aio.connect(node.url, map_local=False, cache=str(cache)) as session:
            handle = await session.open("r")

            async def next_block() -> None:
                async for _ in handle.follow():
                    return

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(next_block(), 0.05)
            ring.append(b"later")
            async for block in handle.follow(start=ring.head - 1, timeout_s=10):
                assert await block.data == b"later"
                break

    with create_ring(root, "r", capacity_bytes=4096) as ring:
        ring.append(b"first")
        asyncio.run(run())
