"""Lists of ranges and of blocks: right against single reads, together in few round trips."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session, aio

from dsm.errors import BudgetExceeded, OutOfRange, Overrun, UsageError
from dsm.segment import RegionWriter, create_region, create_ring
from tests.client.test_methods import METHODS, NOISE, PAGE, Wire
from tests.client.test_region_versions import Committer
from tests.nodes import NodeProcess

SIZE, BLOCKS, HEADER, PAYLOAD = 4 << 20, 2000, 64, 700
DATA = NOISE * (SIZE // len(NOISE))
RTT_S = 0.08

Dial = Callable[..., Session]


def content(seq: int) -> bytes:
    start = seq * 331 % (len(NOISE) - HEADER - PAYLOAD)
    return seq.to_bytes(8, "big") + NOISE[start : start + HEADER + PAYLOAD - 8]


@pytest.fixture
def region(shared_node: NodeProcess, name: str) -> Iterator[RegionWriter]:
    with create_region(shared_node.root, f"{name}/region", size_bytes=SIZE) as writer:
        with writer.write() as view:
            view[:] = DATA
        del view
        yield writer


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20, header_bytes=HEADER) as writer:
        writer.append_many([content(seq) for seq in range(BLOCKS)])
        yield name


def lists(seed: int) -> Iterator[list[tuple[int, int]]]:
    """Scattered, in a row, overlapping, empty, in any order and more than once."""
    chance = random.Random(seed)
    yield []
    yield [(SIZE, 0), (0, 0), (17, 0)]
    yield [(n * 5000, 5000) for n in range(20)]
    yield [(SIZE - 1, 1), (0, 1), (SIZE - 1, 1), (0, SIZE)]
    for _ in range(8):
        count = chance.randrange(1, 60)
        offsets = [chance.randrange(SIZE) for _ in range(count)]
        yield [(at, min(chance.choice([0, 1, 90, PAGE, 30_000]), SIZE - at)) for at in offsets]


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_what_single_reads_are(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, method: str
) -> None:
    handle = dial(shared_node).open(region.name, access=method)
    for ranges in lists(seed=1):
        for _ in range(2):  # the second time much of it is there
            views = handle.read_many(iter(ranges))
            assert [bytes(view) for view in views] == [DATA[at : at + n] for at, n in ranges]
            assert all(view.readonly for view in views)


@pytest.mark.parametrize("method", METHODS)
def test_blocks_are_what_single_reads_are(
    shared_node: NodeProcess, dial: Dial, ring: str, method: str
) -> None:
    handle = dial(shared_node).open(ring, access=method)
    chance = random.Random(2)
    for count in (0, 1, 2, 300, 300):
        seqs = [chance.randrange(-BLOCKS, BLOCKS) for _ in range(count)] + list(range(5, 5 + count))
        meant = [seq % BLOCKS for seq in seqs]
        blocks = handle.read_many(iter(seqs))
        assert [block.seq for block in blocks] == meant
        assert [bytes(block.header) for block in blocks] == [content(s)[:HEADER] for s in meant]
        for block in blocks[:5]:
            assert bytes(block.data) == content(block.seq)


@pytest.mark.parametrize("map_local", [False, True])
def test_awaited_and_mapped(
    shared_node: NodeProcess, cache: Any, region: RegionWriter, ring: str, map_local: bool
) -> None:
    async def run() -> None:
        options: dict[str, Any] = {"map_local": map_local, "cache": str(cache)}
        async with aio.connect(shared_node.url, **options) as session:
            blocks = await session.open(ring)
            assert blocks.is_mapped == map_local
            for _ in range(2):
                found = await blocks.read_many([7, -1, 7])
                assert [block.seq for block in found] == [7, BLOCKS - 1, 7]
                assert [await block.data for block in found] == [content(b.seq) for b in found]
            pages = await session.open(region.name)
            for _ in range(2):
                assert await pages.read_many([(5, 3), (0, 1)]) == [DATA[5:8], DATA[:1]]
            with pytest.raises(OutOfRange):
                await pages.read_many([(SIZE, 1)])
            with pytest.raises(OutOfRange):
                await blocks.read_many([BLOCKS])

    asyncio.run(run())


@pytest.mark.parametrize("map_local", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_whole_blocks_of_a_list(
    shared_node: NodeProcess, dial: Dial, ring: str, method: str, map_local: bool
) -> None:
    handle = dial(shared_node, map_local=map_local).open(ring, access=method)
    for seqs in ([5, 900, 6, 5, 1400], [*range(0, BLOCKS, 10)], [-1]):
        for _ in range(2):
            blocks = handle.read_many(seqs, whole=True)
            assert [bytes(block.data) for block in blocks] == [content(s % BLOCKS) for s in seqs]


def test_payloads_after_headers_share_requests(
    shared_node: NodeProcess, dial: Dial, ring: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access="hybrid")
    assert all(len(block.header) == HEADER for block in handle.blocks())
    wire = Wire(session)
    blocks = handle.read_many(range(3, BLOCKS, 10), whole=True)
    assert all(bytes(block.payload) == content(block.seq)[HEADER:] for block in blocks)
    moved = wire()
    assert moved["requests"] <= 40, "not one for each of the 200"
    assert moved["bytes_received"] < 200 * (PAYLOAD + 60)
    assert [bytes(b.payload) for b in handle.read_many([3, 13])] == [
        content(seq)[HEADER:] for seq in (3, 13)
    ]
    assert wire()["requests"] == 0


@pytest.mark.parametrize("local", [False, True])
def test_bad_lists_say_where(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, ring: str, local: bool
) -> None:
    session = dial(shared_node, map_local=local)
    pages, blocks = session.open(region.name), session.open(ring)
    bad: list[Any] = [(SIZE - 1, 2), (-1, 1), (0, -1)]
    for item in bad:
        with pytest.raises(OutOfRange, match="at 1 in the list"):
            pages.read_many([(0, 1), item])
    for item in (5, (1, 2, 3), ("a", "b"), (0.5, 1), None):
        with pytest.raises(UsageError, match="at 1 in the list"):
            pages.read_many([(0, 1), item])
    for item in ("a", None, 0.5):
        with pytest.raises(UsageError, match="at 1 in the list"):
            blocks.read_many([0, item])
    with pytest.raises(OutOfRange, match=str(BLOCKS)):
        blocks.read_many([0, BLOCKS])
    with pytest.raises(OutOfRange, match=f"{BLOCKS} blocks"):
        blocks.read_many([-BLOCKS - 1])
    assert pages.read_many([(1, 1)]) == [DATA[1:2]]  # a list that failed does no harm


def test_blocks_that_are_gone(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=1 << 16) as writer:
        writer.append_many([b"x" * 1000] * 500)
        for local in (False, True):
            handle = dial(shared_node, map_local=local).open(name)
            with pytest.raises(Overrun) as caught:
                handle.read_many([499, 3, 8])
            assert caught.value.gap.first in (3, 8)
            assert caught.value.gap.last == writer.tail - 1


def test_more_than_the_budget_is_refused(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, ring: str
) -> None:
    session = dial(shared_node, budget_bytes=400_000)
    with pytest.raises(BudgetExceeded, match="budget of 400000 bytes"):
        session.open(region.name, access="copy_once").read_many(
            [(n * 2 * PAGE, PAGE) for n in range(100)]
        )
    for access in ("copy_once", "hybrid"):
        with pytest.raises(BudgetExceeded, match="budget of 400000 bytes"):
            session.open(ring, access=access).read_many(range(BLOCKS))


@pytest.mark.parametrize("access", ["copy_once", "prefetch", "auto"])
def test_scattered_pages_take_few_requests_and_one_round_trip(
    shared_node: NodeProcess,
    dial: Dial,
    relayed: Callable[..., Any],
    region: RegionWriter,
    access: str,
) -> None:
    relay = relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S)
    session = dial(relay, compress=False)
    handle = session.open(region.name, access=access)
    for part in range(4):  # the later ones on a path that is known
        pages = random.Random(part).sample(range(part * 256, part * 256 + 256), 120)
        wire, started = Wire(session), time.perf_counter()
        views = handle.read_many([(page * PAGE, PAGE) for page in pages])
        took_s = time.perf_counter() - started
        moved = wire()
        assert views == [DATA[page * PAGE : (page + 1) * PAGE] for page in pages]
        print(f"{access}: 120 pages in {took_s * 1e3:.0f} ms, {moved}")
        assert moved["round_trips"] == 1
        assert took_s < 3 * RTT_S
        assert moved["requests"] <= 60
        assert moved["frames"] <= moved["requests"]
    time.sleep(2 * RTT_S)  # for what would have been read ahead
    assert session.stats()["bytes_received"] < 1.1 * 4 * 120 * PAGE


def test_a_sorted_list_with_gaps_is_no_reason_to_read_ahead(
    shared_node: NodeProcess, dial: Dial, region: RegionWriter, ring: str
) -> None:
    session = dial(shared_node, compress=False)
    wire = Wire(session)
    handle = session.open(region.name, access="prefetch")
    for start in range(0, 900, 100):
        handle.read_many([(page * PAGE, PAGE) for page in range(start, start + 100, 5)])
    blocks = session.open(ring, access="prefetch")
    for start in range(0, BLOCKS, 200):
        blocks.read_many(range(start, start + 200, 10))
    session.ping()
    asked = 9 * 20 * PAGE + BLOCKS // 10 * (HEADER + PAYLOAD)
    assert asked < wire()["bytes_received"] < 1.1 * asked


def test_lists_in_a_row_are_read_ahead(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], region: RegionWriter
) -> None:
    session = dial(relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S), compress=False)
    handle = session.open(region.name, access="prefetch")
    started = time.perf_counter()
    for start in range(0, SIZE, 16 * PAGE):
        handle.read_many([(start + n * PAGE, PAGE) for n in range(16)])
    assert time.perf_counter() - started < SIZE / (16 * PAGE) * RTT_S / 3


@pytest.mark.parametrize("step", [1, 2])
def test_headers_of_a_range_come_in_one_round_trip(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], ring: str, step: int
) -> None:
    """Of every second block as well: reading through costs less than asking for each."""
    session = dial(relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S), compress=False)
    handle = session.open(ring, access="hybrid")
    wire, started = Wire(session), time.perf_counter()
    blocks = handle.read_many(range(0, BLOCKS, step))
    took_s = time.perf_counter() - started
    moved = wire()
    print(f"{len(blocks)} headers in {took_s * 1e3:.0f} ms, {moved}")
    assert [bytes(b.header) for b in blocks] == [content(b.seq)[:HEADER] for b in blocks]
    assert moved["round_trips"] == 1
    assert moved["requests"] < 40
    assert moved["bytes_received"] < 1.1 * BLOCKS * (HEADER + 40)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pause_s", [0.0, 0.002])
def test_versions_never_mix_in_a_list(
    shared_node: NodeProcess,
    dial: Dial,
    name: str,
    method: str,
    pause_s: float,
) -> None:
    size = 64 * PAGE
    with create_region(shared_node.root, name, size_bytes=size) as writer:
        with writer.write() as view:
            view[:] = (1).to_bytes(8, "little") * (size // 8)
        del view
        handles = [dial(shared_node, map_local=m).open(name, access=method) for m in (False, True)]
        seen = []
        ranges = [(n * 3 * PAGE, 16) for n in range(20)]
        with Committer(writer, pause_s):
            deadline = time.monotonic() + 0.6
            while time.monotonic() < deadline:
                for handle in handles:
                    views = handle.read_many(ranges)
                    numbers = {bytes(view[at : at + 8]) for view in views for at in (0, 8)}
                    assert len(numbers) == 1
                    seen.append(numbers.pop())
                    del views
    assert len(set(seen)) > 2
