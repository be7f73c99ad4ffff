"""`blocks(where=...)`: the right blocks in order, and payloads only of those, fetched ahead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session, aio

from dsm.errors import Overrun
from dsm.segment import create_ring
from tests.client.test_methods import METHODS, NOISE, Wire
from tests.nodes import NodeProcess

HEADER, PAYLOAD, BLOCKS = 64, 4096, 2000
RTT_S = 0.08

Dial = Callable[..., Session]


def content(seq: int) -> bytes:
    start = seq * 331 % (len(NOISE) - HEADER - PAYLOAD)
    return seq.to_bytes(8, "big") + NOISE[start : start + HEADER + PAYLOAD - 8]


def one_in(many: int) -> Callable[[memoryview], bool]:
    return lambda header: int.from_bytes(header[:8], "big") % many == 3 % many


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(
        shared_node.root, name, capacity_bytes=10 << 20, slots=BLOCKS, header_bytes=HEADER
    ) as writer:
        writer.append_many([content(seq) for seq in range(BLOCKS)])
        yield name


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_the_right_blocks_in_order(
    shared_node: NodeProcess, dial: Dial, ring: str, method: str, local: bool
) -> None:
    handle = dial(shared_node, map_local=local).open(ring, access=method)
    for many, start, stop in (
        (5, 0, 300),
        (1000, None, None),
        (2, 10, 40),
        (1, 10, 40),
        (7, 5, 5),
        (9, 0, 200),
    ):
        found = [(b.seq, bytes(b.data)) for b in handle.blocks(start, stop, where=one_in(many))]
        seqs = range(start or 0, BLOCKS if stop is None else stop)
        assert found == [(seq, content(seq)) for seq in seqs if seq % many == 3 % many]
    assert [b.seq for b in handle.blocks(0, 20)] == list(range(20))


@pytest.mark.parametrize("method", ["hybrid", "auto"])
def test_a_tenth_of_payloads_without_a_round_trip_each(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], ring: str, method: str
) -> None:
    relay = relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S)
    session = dial(relay, compress=False)
    handle = session.open(ring, access=method)
    wire, started = Wire(session), time.perf_counter()
    for block in handle.blocks(where=one_in(10)):
        assert bytes(block.payload) == content(block.seq)[HEADER:]
    took_s, moved = time.perf_counter() - started, wire()
    print(f"{method}: {took_s:.3f} s, {moved}")
    assert took_s < 20 * RTT_S  # 200 payloads
    exact = BLOCKS * (HEADER + 40) + BLOCKS // 10 * (PAYLOAD + 40)
    assert moved["bytes_received"] < 1.15 * exact


def test_leaving_early_and_errors_of_the_function(
    shared_node: NodeProcess, dial: Dial, ring: str
) -> None:
    handle = dial(shared_node).open(ring)
    for block in handle.blocks(where=one_in(10)):
        assert block.seq == 3
        break
    with pytest.raises(IndexError):
        list(handle.blocks(where=lambda header: header[HEADER]))
    assert not handle.opened().replica.selections
    assert bytes(handle.read(50).data) == content(50)


def test_blocks_that_are_gone(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=1 << 16, header_bytes=8) as writer:
        writer.append_many([b"x" * 1000] * 500)
        handle = dial(shared_node).open(name, access="hybrid")
        with pytest.raises(Overrun):
            list(handle.blocks(0, where=lambda header: True))


def test_awaited(shared_node: NodeProcess, cache: Any, ring: str) -> None:
    async def run() -> None:
        for options in ({"map_local": True}, {"map_local": False}):
            async with aio.connect(shared_node.url, cache=str(cache), **options) as session:
                for access in ("auto", "zero_copy"):
                    handle = await session.open(ring, access=access)
                    found = [
                        (block.seq, bytes(await block.data))
                        async for block in handle.blocks(0, 100, where=one_in(7))
                    ]
                    assert found == [(seq, content(seq)) for seq in range(3, 100, 7)]

    asyncio.run(run())
