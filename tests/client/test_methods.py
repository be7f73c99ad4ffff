"""What each access method costs on the wire, counted, and that every one gives the right bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session

from dsm.segment import create_region, create_ring
from dsm.segment.layout import PAGE_BYTES_MAX
from tests.nodes import NodeProcess

METHODS = ["zero_copy", "copy_once", "hybrid", "prefetch", "auto"]
HEADER, PAYLOAD, BLOCKS = 54, 1400, 1000
PAGE = 4096

Dial = Callable[..., Session]
NOISE = random.Random(3).randbytes(1 << 20)  # what no codec makes smaller


def content(seq: int) -> bytes:
    start = seq * 331 % (len(NOISE) - HEADER - PAYLOAD)
    return seq.to_bytes(8, "big") + NOISE[start : start + HEADER + PAYLOAD - 8]


class Wire:
    """What one session moved since it was last asked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = session.stats()

    def __call__(self) -> dict[str, int]:
        before, self._before = self._before, self._session.stats()
        return {key: value - before[key] for key, value in self._before.items()}


@pytest.fixture
def ring(shared_node: NodeProcess, name: str) -> Iterator[str]:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20, header_bytes=HEADER) as writer:
        writer.append_many([content(seq) for seq in range(BLOCKS)])
        yield name


@pytest.fixture
def region(shared_node: NodeProcess, name: str) -> Iterator[str]:
    name = f"{name}/region"
    with create_region(shared_node.root, name, size_bytes=len(NOISE)) as writer:
        with writer.write() as view:
            view[:] = NOISE
        del view
        yield name


@pytest.mark.parametrize("method", METHODS)
def test_right_bytes_of_a_ring(
    shared_node: NodeProcess, dial: Dial, ring: str, method: str
) -> None:
    handle = dial(shared_node).open(ring, access=method)
    assert not handle.is_mapped
    seqs = list(range(60)) + random.Random(1).sample(range(BLOCKS), 60)
    for seq in seqs:
        block = handle.read(seq)
        assert (block.seq, bytes(block.header)) == (seq, content(seq)[:HEADER])
        assert bytes(block.payload) == content(seq)[HEADER:]
        assert bytes(block.data) == content(seq)
    assert [bytes(b.data) for b in handle.blocks(100, 300)] == [content(s) for s in range(100, 300)]
    assert bytes(handle[-1].data) == content(BLOCKS - 1)


@pytest.mark.parametrize("method", METHODS)
def test_right_bytes_of_a_region(
    shared_node: NodeProcess, dial: Dial, region: str, method: str
) -> None:
    handle = dial(shared_node).open(region, access=method)
    chance = random.Random(2)
    for _ in range(40):
        offset = chance.randrange(len(NOISE))
        length = min(chance.choice([0, 1, 100, PAGE, 70_000]), len(NOISE) - offset)
        assert handle.read(offset, length) == NOISE[offset : offset + length]
    assert handle.read() == NOISE
    with handle.snapshot() as view:
        assert view == NOISE


def test_the_largest_pages_come_in_a_frame(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    data = random.Random(3).randbytes(5 * PAGE_BYTES_MAX + 7)
    with create_region(
        shared_node.root, name, size_bytes=len(data), page_bytes=PAGE_BYTES_MAX
    ) as writer:
        with writer.write() as view:
            view[:] = data
        del view
        for method in ("zero_copy", "copy_once", "prefetch"):
            with dial(shared_node).open(name, access=method) as region:
                assert bytes(region.read()) == data, method


def test_zero_copy_is_one_round_trip_and_keeps_nothing(
    shared_node: NodeProcess, dial: Dial, ring: str, region: str
) -> None:
    session = dial(shared_node, compress=False)
    blocks = session.open(ring, access="zero_copy")
    wire = Wire(session)
    for seq in (5, 700, 5):
        blocks.read(seq)
        moved = wire()
        assert (moved["requests"], moved["frames"], moved["round_trips"]) == (1, 1, 1)
        assert 0 <= moved["bytes_received"] - len(content(seq)) < 150
    list(blocks.blocks(10, 20))
    assert wire()["requests"] == 10


def test_zero_copy_of_a_region_moves_exactly_what_is_read(
    shared_node: NodeProcess, dial: Dial, region: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(region, access="zero_copy")
    wire = Wire(session)
    for offset, length in ((10, 100), (10, 100), (5000, 1), (0, 300_000)):
        assert handle.read(offset, length) == NOISE[offset : offset + length]
        moved = wire()
        assert (moved["requests"], moved["round_trips"]) == (1, 1)
        assert 0 <= moved["bytes_received"] - length < 100


def test_copy_once_never_fetches_twice(shared_node: NodeProcess, dial: Dial, ring: str) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access="copy_once")
    wire = Wire(session)
    for _ in range(2):
        for seq in [7, 3, 7, 500, 3]:
            handle.read(seq)
    scattered = wire()
    assert (scattered["requests"], scattered["frames"]) == (3, 3)
    list(handle.blocks())
    list(handle.blocks())
    everything = scattered["bytes_received"] + wire()["bytes_received"]
    exact = BLOCKS * (HEADER + PAYLOAD + 40)
    assert exact < everything < 1.02 * exact


def test_copy_once_announces_a_range_and_fetches_it_in_bulk(
    shared_node: NodeProcess, dial: Dial, ring: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access="copy_once")
    wire = Wire(session)
    assert sum(1 for _ in handle.blocks()) == BLOCKS
    assert wire()["requests"] < BLOCKS / 5


def test_hybrid_moves_headers_and_the_payloads_that_are_touched(
    shared_node: NodeProcess, dial: Dial, ring: str, tmp_path: Any
) -> None:
    def bytes_moved(method: str) -> int:
        session = dial(shared_node, compress=False, cache=str(tmp_path / method))
        handle = session.open(ring, access=method)
        wire = Wire(session)
        for number, block in enumerate(handle.blocks()):
            assert bytes(block.header) == content(number)[:HEADER]
            if number % 100 == 7:
                assert bytes(block.payload) == content(number)[HEADER:]
        return wire()["bytes_received"]

    ratio = bytes_moved("hybrid") / bytes_moved("copy_once")
    print(f"hybrid moved {100 * ratio:.2f} % of the bytes of copy_once")
    assert ratio < 0.08


def test_hybrid_fetches_a_payload_once_and_without_its_header(
    shared_node: NodeProcess, dial: Dial, ring: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access="hybrid")
    handle.hint("random")
    block = handle.read(42)
    wire = Wire(session)
    assert bytes(block.payload) == content(42)[HEADER:]
    moved = wire()
    assert moved["requests"] == 1
    assert PAYLOAD <= moved["bytes_received"] < PAYLOAD + 125
    assert bytes(block.data) == bytes(handle.read(42).data) == content(42)
    assert wire()["requests"] == 0


def test_a_longer_header_may_be_asked_for(shared_node: NodeProcess, dial: Dial, ring: str) -> None:
    handle = dial(shared_node).open(ring, access="hybrid", header_bytes=200)
    block = handle.read(3)
    assert bytes(block.header) == content(3)[:200]
    assert bytes(block.payload) == content(3)[200:]


def test_prefetch_runs_ahead_of_a_sequential_reader(
    shared_node: NodeProcess, dial: Dial, ring: str, relayed: Callable[..., Any]
) -> None:
    """Over 20 ms, a round trip for each request would be 1,000 of them."""
    relay = relayed(shared_node, rate_bps=400e6, rtt_s=0.02)
    session = dial(relay, compress=False)
    handle = session.open(ring, access="prefetch")
    wire = Wire(session)
    for seq in range(BLOCKS):
        assert handle.read(seq).seq == seq
    moved = wire()
    print(f"prefetch: {moved}")
    assert moved["round_trips"] <= 30
    exact = BLOCKS * (HEADER + PAYLOAD + 40)
    assert moved["bytes_received"] < 1.05 * exact
    through = relay.statistics()
    assert exact < _bytes_back(through) < 1.2 * exact + 100_000


def _bytes_back(statistics: dict[str, Any]) -> int:
    return int(statistics["backward"]["bytes_out"])


def test_prefetch_wastes_little_on_random_reads(
    shared_node: NodeProcess, dial: Dial, ring: str
) -> None:
    session = dial(shared_node, compress=False)
    handle = session.open(ring, access="prefetch")
    wire = Wire(session)
    seqs = random.Random(5).sample(range(BLOCKS), 200)
    for seq in seqs:
        handle.read(seq)
    moved = wire()
    exact = len(seqs) * (HEADER + PAYLOAD + 40)
    print(f"random reads under prefetch moved {moved['bytes_received'] / exact:.2f} times as much")
    assert moved["bytes_received"] < 1.35 * exact


def test_compression_is_counted_and_undone(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=4 << 20) as writer:
        writer.append_many([b"telemetry " * 100] * 500)
    session = dial(shared_node)
    handle = session.open(name, access="copy_once")
    wire = Wire(session)
    assert all(bytes(b.data) == b"telemetry " * 100 for b in handle.blocks())
    assert wire()["bytes_received"] < 100_000


def test_blocks_larger_than_a_frame(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    big = NOISE * 3
    with create_ring(shared_node.root, name, capacity_bytes=16 << 20, header_bytes=16) as writer:
        for block in (b"small", big, b"", big[:-1]):
            writer.append(block)
    for method in METHODS:
        handle = dial(shared_node).open(name, access=method)
        got = [bytes(block.data) for block in handle.blocks()]
        assert got == [b"small", big, b"", big[:-1]], method


def test_what_crosses_the_link_is_what_is_counted(
    shared_node: NodeProcess, dial: Dial, region: str, relayed: Callable[..., Any]
) -> None:
    relay = relayed(shared_node)
    session = dial(relay, compress=False)
    handle = session.open(region, access="copy_once")
    before, wire = _bytes_back(relay.statistics()), Wire(session)
    assert handle.read() == NOISE
    counted = wire()["bytes_received"]
    through = _bytes_back(relay.statistics()) - before
    assert counted <= through < 1.01 * counted + 20_000


def test_explain_and_repr_say_what_is_so(shared_node: NodeProcess, dial: Dial, ring: str) -> None:
    session = dial(shared_node)
    handle = session.open(ring)
    handle.read(0)
    assert ring in repr(handle)
    assert shared_node.address in repr(handle)
    assert "remote" in repr(handle)
    assert "chosen by auto" in handle.explain()
    assert "asked for" in session.open(ring, access="hybrid").explain()
    assert shared_node.address in repr(session)
