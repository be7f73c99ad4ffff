"""`auto` beside the method that somebody who knows would have asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Block, Session

from dsm.segment import create_ring
from tests.client.test_methods import NOISE, Wire
from tests.nodes import NodeProcess

HEADER, PAYLOAD, BLOCKS = 64, 4096, 5000
RTT_S = 0.08

Dial = Callable[..., Session]
Reads = Callable[[Iterator[Block]], None]


def content(seq: int) -> bytes:
    start = seq * 331 % (len(NOISE) - HEADER - PAYLOAD)
    return seq.to_bytes(8, "big") + NOISE[start : start + HEADER + PAYLOAD - 8]


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(
        shared_node.root, name, capacity_bytes=24 << 20, slots=BLOCKS, header_bytes=HEADER
    ) as writer:
        writer.append_many([content(seq) for seq in range(BLOCKS)])
        yield name


def headers(blocks: Iterator[Block]) -> None:
    for block in blocks:
        assert bytes(block.header) == content(block.seq)[:HEADER]


def payloads(blocks: Iterator[Block]) -> None:
    for block in blocks:
        assert bytes(block.payload) == content(block.seq)[HEADER:]


def first_headers_then_payloads(blocks: Iterator[Block]) -> None:
    for block in blocks:
        if block.seq >= BLOCKS // 2:
            assert bytes(block.payload) == content(block.seq)[HEADER:]


def every_tenth_payload(blocks: Iterator[Block]) -> None:
    for block in blocks:
        if block.seq % 10 == 3:
            assert bytes(block.payload) == content(block.seq)[HEADER:]


@pytest.fixture
def scanned(
    shared_node: NodeProcess, dial: Dial, relayed: Callable[..., Any], ring: str, tmp_path: Any
) -> Callable[[str, Reads], tuple[float, int]]:
    relay = relayed(shared_node, rate_bps=500e6, rtt_s=RTT_S)

    def scan(access: str, reads: Reads) -> tuple[float, int]:
        session = dial(relay, compress=False, cache=str(tmp_path / access))
        handle = session.open(ring, access=access)
        wire, started = Wire(session), time.perf_counter()
        reads(handle.blocks())
        took_s, moved = time.perf_counter() - started, wire()
        print(f"{access}: {took_s:.3f} s, {moved}, {handle.method}")
        return took_s, moved["bytes_received"]

    return scan


def test_a_header_scan(scanned: Callable[[str, Reads], tuple[float, int]]) -> None:
    hybrid_s, hybrid_bytes = scanned("hybrid", headers)
    auto_s, auto_bytes = scanned("auto", headers)
    assert auto_bytes < 1.5 * hybrid_bytes
    assert auto_s < 2 * hybrid_s + 0.05


def test_whole_blocks(scanned: Callable[[str, Reads], tuple[float, int]]) -> None:
    prefetch_s, prefetch_bytes = scanned("prefetch", payloads)
    auto_s, auto_bytes = scanned("auto", payloads)
    assert auto_bytes < 1.05 * prefetch_bytes
    assert auto_s < 2 * prefetch_s + 10 * RTT_S


@pytest.mark.parametrize("reads", [first_headers_then_payloads, every_tenth_payload])
def test_payloads_are_no_round_trip_each(
    scanned: Callable[[str, Reads], tuple[float, int]], reads: Reads
) -> None:
    auto_s, _ = scanned("auto", reads)
    assert auto_s < 100 * RTT_S  # 500 or more are touched


@pytest.mark.parametrize("start", [0, 4000])
@pytest.mark.parametrize("stop", [1, 5, 17, 100, 4500])
def test_ranges_of_any_length(
    shared_node: NodeProcess, dial: Dial, ring: str, start: int, stop: int
) -> None:
    handle = dial(shared_node).open(ring)
    for _ in range(2):
        blocks = [(b.seq, bytes(b.data)) for b in handle.blocks(start, stop)]
        assert blocks == [(seq, content(seq)) for seq in range(start, stop)]


def test_several_iterations_at_once(shared_node: NodeProcess, dial: Dial, ring: str) -> None:
    handle = dial(shared_node).open(ring)
    for one, other in zip(handle.blocks(0, 300), handle.blocks(2000, 2300), strict=True):
        assert bytes(one.header) == content(one.seq)[:HEADER]
        assert bytes(other.data) == content(other.seq)


def test_a_ring_without_headers(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20) as writer:
        writer.append_many([content(seq) for seq in range(500)])
        session = dial(shared_node, compress=False)
        handle = session.open(name)
        wire = Wire(session)
        assert [bytes(b.data) for b in handle.blocks()] == [content(seq) for seq in range(500)]
        assert wire()["round_trips"] < 100
