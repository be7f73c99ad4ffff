"""The figures for dashboards, and what a person is told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session, aio
from dsm_client.replica import ACCESSES_NOTED
from dsm_client.stats import HandleStats

from dsm.segment import RegionWriter, create_region, create_ring
from tests.client.test_methods import NOISE, PAGE, Wire
from tests.client.test_region_versions import commit, until
from tests.nodes import NodeProcess

SIZE, BLOCKS = 8 << 20, 500
DATA = NOISE * (SIZE // len(NOISE))

Dial = Callable[..., Session]


@pytest.fixture
def region(shared_node: NodeProcess, name: str) -> Iterator[RegionWriter]:
    with create_region(shared_node.root, f"{name}/region", size_bytes=SIZE) as writer:
        commit(writer, 0, DATA)
        yield writer


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20, header_bytes=64) as writer:
        writer.append_many([NOISE[seq * 1000 : seq * 1000 + 4000] for seq in range(BLOCKS)])
        yield name


def test_a_sequential_reader(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    session = dial(relayed(shared_node, rate_bps=200e6, rtt_s=0.04), compress=False)
    handle = session.open(region.name, access="prefetch")
    for start in range(0, SIZE, 16 * PAGE):
        handle.read(start, 16 * PAGE)
    stats = handle.stats()
    assert set(stats) == set(HandleStats.__annotations__)
    assert json.loads(json.dumps(stats)) == stats
    assert (stats["method"], stats["pattern"]) == ("prefetch", "sequential")
    assert stats["reads"] == SIZE // (16 * PAGE)
    assert 0 < stats["waits"] <= stats["reads"] - stats["hits"]
    assert 0 < stats["late"] <= stats["waits"]
    assert SIZE < stats["bytes_received"] < 1.01 * SIZE
    assert 0.9 * SIZE < stats["prefetched_bytes"] <= stats["bytes_received"]
    assert stats["wasted_bytes"] == stats["checksum_failures"] == 0
    assert stats["unread_bytes"] <= 33 * 16 * PAGE  # hits are told so many at a time
    assert 0.04 <= stats["rtt_s"] < 0.08
    assert 20e6 < stats["rate_bps"] < 400e6
    assert stats["window_bytes"] >= 64 << 10
    assert stats["lanes"] >= 1
    assert stats["phase"] in ("startup", "drain", "cruise")
    text = handle.explain()
    assert f"{stats['reads']}, {stats['hits']} answered from the shadow at once" in text
    assert f"({stats['late']} for what was already on its way)" in text
    assert "0 bytes of that was given up unread" in text


def test_the_next_handle_is_read_ahead_from_its_first_read(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    with create_region(shared_node.root, f"{region.name}-2", size_bytes=SIZE) as other:
        commit(other, 0, DATA)
        session = dial(relayed(shared_node, rate_bps=200e6, rtt_s=0.04), compress=False)
        handle = session.open(region.name)
        for start in range(0, SIZE, 16 * PAGE):
            handle.read(start, 16 * PAGE)
        for _ in range(ACCESSES_NOTED):  # hits are told so many at a time, the last ones with these
            handle.read(SIZE - PAGE, PAGE)
        assert "habit" not in handle.explain()
        handle = session.open(other.name)
        handle.read(0, PAGE)
        until(lambda: handle.stats()["prefetched_bytes"] > 1 << 20)
        assert handle.stats()["reads"] == 1
        assert "habit: handles before this one were read to their ends" in handle.explain()


def test_what_a_seek_and_a_new_version_waste(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    session = dial(relayed(shared_node, rate_bps=200e6, rtt_s=0.04), compress=False)
    handle = session.open(region.name, access="prefetch")
    for start in range(4 << 20, 5 << 20, 16 * PAGE):
        handle.read(start, 16 * PAGE)
    time.sleep(0.2)  # what was asked for arrives
    for page in random.Random(1).sample(range(1024), 20):
        handle.read(page * PAGE, PAGE)
    stats = handle.stats()
    assert 0.5e6 < stats["wasted_bytes"] <= stats["unread_bytes"] < stats["prefetched_bytes"]
    for _ in range(40):  # comes back after all; what is there is told some reads at a time
        handle.read(5 << 20)
    until(lambda: handle.stats()["wasted_bytes"] < stats["wasted_bytes"] / 2)
    other = session.open(region.name, access="copy_once")
    other.will_need(0, 1 << 20)
    until(lambda: other.stats()["unread_bytes"] >= 1 << 20)
    version = commit(region, 0, bytes(1 << 20))
    until(lambda: other.version == version)
    assert other.stats()["wasted_bytes"] == 0
    other.read(0, 1)  # moves the shadow on
    assert other.stats()["wasted_bytes"] >= 255 * PAGE  # all but the page that is read


def test_blocks_that_were_overwritten_unread_are_waste(
    shared_node: NodeProcess, dial: Dial, name: str
) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=1 << 20) as writer:
        writer.append_many([NOISE[:1000]] * 500)
        handle = dial(shared_node, compress=False).open(name, access="copy_once")
        handle.will_need(0, 400)
        until(lambda: handle.stats()["unread_bytes"] >= 400 * 1000)
        assert handle.stats()["wasted_bytes"] == 0
        writer.append_many([NOISE[:1000]] * 2000)
        until(lambda: handle.tail > 400)
        until(lambda: handle.stats()["wasted_bytes"] >= 400 * 1000)


@pytest.mark.parametrize("map_local", [False, True])
def test_awaited_and_mapped(
    shared_node: NodeProcess, cache: Any, region: RegionWriter, ring: str, map_local: bool
) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"map_local": map_local, "cache": str(cache)}
        async with aio.connect(shared_node.url, **options) as session:
            for name in (region.name, ring):
                handle = await session.open(name, access="copy_once")
                await handle.read(0)
                stats = handle.stats()
                assert set(stats) == set(HandleStats.__annotations__)
                assert stats["method"] == ("mapped" if map_local else "copy_once")
                assert stats["reads"] == (not map_local)

    asyncio.run(run())


def test_auto_tells_what_it_measured(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    """A region under `auto` used to be told nothing of its reads."""
    session = dial(relayed(shared_node, rate_bps=200e6, rtt_s=0.02), compress=False)
    handle = session.open(region.name)
    assert "no read is over yet" in handle.explain()
    for start in range(0, SIZE // 2, 16 * PAGE):
        handle.read(start, 16 * PAGE)
    text = handle.explain()
    assert "(chosen by auto)" in text
    assert "100% of reads are predicted (sequential): pulled ahead" in text
    assert "yet" not in text
    assert "the node's sockets send with" in text


def test_auto_gives_up_reading_ahead_at_random(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(region.name)
    wire = Wire(session)
    pages = random.Random(3).sample(range(SIZE // PAGE), 300)
    for page in pages:
        handle.read(page * PAGE, PAGE)
    assert wire()["bytes_received"] < 1.1 * len(pages) * PAGE
    text = handle.explain()
    assert "pattern random" in text
    assert "reads cannot be predicted" in text
    assert handle.method == "copy_once"
