"""`will_need`: what it names is there by the time it is read, and only that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session, aio

from dsm.errors import BudgetExceeded, Closed, OutOfRange, UsageError
from dsm.segment import RegionWriter, create_region, create_ring
from tests.client.test_methods import NOISE, PAGE, Wire
from tests.client.test_region_versions import commit, until
from tests.nodes import NodeProcess

SIZE, BLOCKS, HEADER, PAYLOAD = 1 << 20, 1000, 64, 1000
RTT_S = 0.05

Dial = Callable[..., Session]


@pytest.fixture
def region(shared_node: NodeProcess, name: str) -> Iterator[RegionWriter]:
    with create_region(shared_node.root, f"{name}/region", size_bytes=SIZE) as writer:
        commit(writer, 0, NOISE[:SIZE])
        yield writer


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20, header_bytes=HEADER) as writer:
        writer.append_many([seq.to_bytes(8, "big") * 133 for seq in range(BLOCKS)])
        yield name


def received(handle: Any, at_least: int) -> None:
    until(lambda: handle.stats()["bytes_received"] >= at_least)


@pytest.mark.parametrize("access", ["copy_once", "prefetch", "auto"])
def test_bytes_are_there_when_they_are_read(
    shared_node: NodeProcess,
    dial: Dial,
    relayed: Callable[..., Any],
    region: RegionWriter,
    access: str,
) -> None:
    session = dial(relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S), compress=False)
    handle = session.open(region.name, access=access)
    wire, started = Wire(session), time.perf_counter()
    handle.will_need(3 * PAGE + 5, 100 * PAGE)
    assert time.perf_counter() - started < RTT_S / 2
    received(handle, 101 * PAGE)
    time.sleep(RTT_S)
    assert handle.read(3 * PAGE + 5, 100 * PAGE) == NOISE[3 * PAGE + 5 : 103 * PAGE + 5]
    moved = wire()
    assert moved["round_trips"] == 0
    assert moved["bytes_received"] < 1.05 * 101 * PAGE


@pytest.mark.parametrize(("access", "bytes_each"), [("copy_once", 1104), ("hybrid", HEADER + 40)])
def test_blocks_are_there_when_they_are_read(
    shared_node: NodeProcess, dial: Dial, ring: str, access: str, bytes_each: int
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access=access)
    handle.will_need(100, 600)
    received(handle, 500 * (bytes_each - 1))
    session.ping()
    wire = Wire(session)
    assert [block.seq for block in handle.blocks(100, 600)] == list(range(100, 600))
    assert wire()["round_trips"] == 0
    assert handle.stats()["bytes_received"] < 1.05 * 500 * bytes_each


def test_a_demand_read_goes_before_it(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    session = dial(relayed(shared_node, rate_bps=20e6, rtt_s=RTT_S), compress=False)
    handle = session.open(region.name, access="copy_once")
    handle.will_need(0, SIZE - PAGE)  # takes 0.4 s
    started = time.perf_counter()
    handle.read(SIZE - PAGE, PAGE)
    assert time.perf_counter() - started < 0.3
    assert handle.read() == NOISE[:SIZE]


def test_it_is_still_wanted_when_a_new_version_comes(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    session = dial(relayed(shared_node, rate_bps=20e6, rtt_s=RTT_S), compress=False)
    handle = session.open(region.name, access="copy_once")
    handle.will_need()
    received(handle, 10 * PAGE)
    version = commit(region, 0, b"new")
    until(lambda: handle.version == version)
    assert handle.read(0, 3) == b"new"  # moves the shadow: what was under way is of no use
    received(handle, SIZE + PAGE)
    session.ping()
    wire = Wire(session)
    assert handle.read(PAGE) == NOISE[PAGE:SIZE]
    assert wire()["round_trips"] == 0


@pytest.mark.parametrize("local", [False, True])
def test_wrong_calls(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, ring: str, local: bool
) -> None:
    session = dial(shared_node, map_local=local)
    pages, blocks = session.open(region.name), session.open(ring)
    for offset, length in ((-1, 1), (0, SIZE + 1), (0, -1)):
        with pytest.raises(OutOfRange, match=str(SIZE)):
            pages.will_need(offset, length)
    for start, stop in ((5, 4), (-1, 5)):
        with pytest.raises(UsageError, match="start, stop"):
            blocks.will_need(start, stop)
    blocks.will_need(BLOCKS - 1, 10 * BLOCKS)
    pages.will_need(5, 0)
    pages.close()
    with pytest.raises(Closed):
        pages.will_need()


def test_more_than_the_budget_and_nothing_to_keep(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, ring: str
) -> None:
    session = dial(shared_node, budget_bytes=400_000)
    with pytest.raises(BudgetExceeded):
        session.open(region.name, access="copy_once").will_need()
    with pytest.raises(BudgetExceeded):
        session.open(ring, access="copy_once").will_need()
    wire = Wire(session)
    session.open(region.name, access="zero_copy").will_need(0, PAGE)
    session.open(ring, access="zero_copy").will_need(0, 10)
    session.ping()
    assert wire()["requests"] == 0


def test_awaited(shared_node: NodeProcess, cache: Any, region: RegionWriter, ring: str) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"map_local": False, "cache": str(cache), "compress": False}
        async with aio.connect(shared_node.url, **options) as session:
            pages = await session.open(region.name)
            blocks = await session.open(ring, access="hybrid")
            pages.will_need(0, 10 * PAGE)
            blocks.will_need()
            while blocks.stats()["bytes_received"] < BLOCKS * HEADER:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await session.ping()
            before = session.stats()["round_trips"]
            assert await pages.read(0, 10 * PAGE) == NOISE[: 10 * PAGE]
            assert [block.seq async for block in blocks.blocks()] == list(range(BLOCKS))
            assert session.stats()["round_trips"] == before

    asyncio.run(run())
