"""Following a live ring: nothing missed silently, gaps exact, no round trip for each block."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from dsm_client import Session
from dsm_server.pull import CURSORS_MAX

from dsm.errors import BudgetExceeded, DeadlineExceeded, EpochGone, OutOfRange, Overrun, UsageError
from dsm.model import Gap
from dsm.segment import RingWriter, create_ring, delete_segment
from tests.client.test_methods import METHODS, Wire
from tests.nodes import NodeProcess
from tests.segment.content import block as content

Dial = Callable[..., Session]


@pytest.fixture
def writer(shared_node: NodeProcess, name: str) -> Iterator[RingWriter]:
    with create_ring(
        shared_node.root, name, capacity_bytes=1 << 16, slots=64, header_bytes=8
    ) as writer:
        yield writer


def append(writer: RingWriter, count: int) -> None:
    for _ in range(count):
        writer.append(content(writer.head))


@pytest.fixture(params=[*METHODS, "mapped"])
def opened(
    request: pytest.FixtureRequest, shared_node: NodeProcess, dial: Dial, name: str
) -> Callable[[], Any]:
    """Opens the ring of the test under each method, and mapped."""

    def ring() -> Any:
        if request.param == "mapped":
            return dial(shared_node, map_local=True).open(name)
        return dial(shared_node).open(name, access=request.param)

    return ring


def test_what_is_there_and_what_comes(opened: Callable[[], Any], writer: RingWriter) -> None:
    append(writer, 10)
    ring = opened()
    blocks = ring.follow(start=-4, timeout_s=10)
    for seq in range(6, 10):
        assert bytes(next(blocks).data) == content(seq)
    for seq in range(10, 60):
        append(writer, 1)
        block = next(blocks)
        assert (block.seq, bytes(block.data)) == (seq, content(seq))


def test_a_gap_is_raised_exactly(opened: Callable[[], Any], writer: RingWriter) -> None:
    """Blocks read and gaps raised add up to everything that was appended, each once."""
    append(writer, 30)
    ring = opened()
    blocks = ring.follow(start=20, timeout_s=10)
    assert next(blocks).seq == 20
    append(writer, 300)
    at, gaps = 21, []
    while at < writer.head:
        try:
            block = next(blocks)
            assert block.seq == at
            assert bytes(block.header) == content(at)[:8]
            at += 1
        except Overrun as lag:
            gaps.append((at, lag.gap, writer.tail))
            at = lag.gap.last + 1
            blocks = ring.follow(start=at, timeout_s=10)
    for first, gap, tail in gaps:
        assert gap.first == first
        assert gap.last < tail, "reported as lost, but it is there"
    assert gaps
    assert gaps[-1][1].last == writer.tail - 1


def test_a_gap_is_skipped_and_counted(opened: Callable[[], Any], writer: RingWriter) -> None:
    append(writer, 10)
    ring = opened()
    blocks = ring.follow(start=0, on_lag="skip", timeout_s=10)
    seen = [next(blocks).seq]
    for burst in (200, 5, 300, 1, 90):
        append(writer, burst)
        while seen[-1] < writer.head - 1:
            block = next(blocks)
            assert bytes(block.header) == content(block.seq)[:8]
            seen.append(block.seq)
    assert seen == sorted(set(seen))
    assert ring.follower.skipped == writer.head - len(seen) > 100


def test_a_start_that_is_gone_is_a_gap(opened: Callable[[], Any], writer: RingWriter) -> None:
    append(writer, 500)
    ring = opened()
    with pytest.raises(Overrun) as raised:
        next(ring.follow(start=3, timeout_s=10))
    assert raised.value.gap == Gap(3, writer.tail - 1)
    assert next(ring.follow(start=-10_000, timeout_s=10)).seq == writer.tail


def test_nothing_comes(opened: Callable[[], Any], writer: RingWriter) -> None:
    append(writer, 2)
    ring = opened()
    with pytest.raises(DeadlineExceeded):
        next(ring.follow(timeout_s=0.1))
    with pytest.raises(OutOfRange):
        ring.read(2)
    append(writer, 1)
    assert next(ring.follow(start=2, timeout_s=10)).seq == 2


def test_the_segment_ends(
    opened: Callable[[], Any], writer: RingWriter, shared_node: NodeProcess
) -> None:
    append(writer, 2)
    ring = opened()
    blocks = ring.follow(start=0, timeout_s=10)
    assert [next(blocks).seq, next(blocks).seq] == [0, 1]
    threading.Timer(0.05, delete_segment, (shared_node.root, writer.name)).start()
    with pytest.raises(EpochGone):
        next(blocks)


def test_an_unknown_policy(opened: Callable[[], Any], writer: RingWriter) -> None:
    ring = opened()
    with pytest.raises(UsageError, match="on_lag"):
        next(ring.follow(on_lag="wait"))
    with pytest.raises(UsageError, match="block_deadline_ms"):
        next(ring.follow(on_lag="block"))


class Producer:
    """Appends at a steady rate in a thread."""

    def __init__(self, writer: RingWriter, count: int, pause_s: float = 0.0) -> None:
        self._arguments = writer, count, pause_s
        self._thread = threading.Thread(target=self._run)
        self.took_s = 0.0

    def _run(self) -> None:
        writer, count, pause_s = self._arguments
        started = time.monotonic()
        for _ in range(count):
            writer.append(content(writer.head))
            if pause_s:
                time.sleep(pause_s)
        self.took_s = time.monotonic() - started

    def __enter__(self) -> Producer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join()


@pytest.mark.parametrize("local", [True, False])
def test_a_reader_that_lags_blocks_the_producer(
    shared_node: NodeProcess, dial: Dial, name: str, local: bool
) -> None:
    with create_ring(
        shared_node.root, name, capacity_bytes=1 << 16, slots=64, block_deadline_ms=5000
    ) as writer:
        ring = dial(shared_node, map_local=local).open(name)
        blocks = ring.follow(start=0, on_lag="block", timeout_s=10)
        append(writer, 1)
        assert next(blocks).seq == 0
        with Producer(writer, 1000):
            for seq in range(1, 1001):
                block = next(blocks)
                assert (block.seq, bytes(block.data)) == (seq, content(seq))
        blocks.close()
        started = time.monotonic()
        append(writer, 200)
        assert time.monotonic() - started < 2, "nobody is waited for any more"


def test_a_reader_that_the_node_does_not_register_is_told(
    shared_node: NodeProcess, dial: Dial, name: str
) -> None:
    """It would read on in the belief that the producer waits."""
    with create_ring(
        shared_node.root, name, capacity_bytes=1 << 16, block_deadline_ms=5000
    ) as writer:
        append(writer, 1)
        ring = dial(shared_node, map_local=False).open(name)
        followers = []
        for _ in range(CURSORS_MAX):
            followers.append(ring.follow(start=0, on_lag="block", timeout_s=10))
            assert next(followers[-1]).seq == 0
        with pytest.raises(BudgetExceeded, match="registered readers"):
            next(ring.follow(start=0, on_lag="block", timeout_s=10))
        followers.pop().close()
        assert next(ring.follow(start=0, on_lag="block", timeout_s=10)).seq == 0


def test_a_slow_reader_slows_nobody(
    shared_node: NodeProcess, dial: Dial, writer: RingWriter, relayed: Callable[..., Any]
) -> None:
    relay = relayed(shared_node)
    stuck = dial(relay).open(writer.name, access="prefetch").follow(start=0, timeout_s=10)
    quick = dial(shared_node).open(writer.name).follow(start=0, on_lag="skip", timeout_s=10)
    append(writer, 1)
    assert next(stuck).seq == next(quick).seq == 0
    relay.hold()
    latest: list[float] = []
    with Producer(writer, 500, 0.0005) as producer:
        for block in quick:
            latest.append(time.time() - block.timestamp_ns / 1e9)
            if block.seq == 500:
                break
    relay.resume()
    assert producer.took_s < 5
    assert statistics.median(latest) < 0.05
    with pytest.raises(Overrun):
        list(stuck)


@pytest.mark.parametrize("method", ["prefetch", "auto", "hybrid", "copy_once"])
def test_following_costs_no_round_trip_per_block(
    shared_node: NodeProcess,
    dial: Dial,
    writer: RingWriter,
    relayed: Callable[..., Any],
    method: str,
) -> None:
    """Over 60 ms each way a block comes after the one-way delay: reads are parked ahead of it."""
    relay = relayed(shared_node, rtt_s=0.12)
    session = dial(relay, compress=False)
    blocks = session.open(writer.name, access=method).follow(start=0, timeout_s=10)
    append(writer, 1)
    next(blocks)
    wire = Wire(session)
    latencies = []
    with Producer(writer, 120, 0.01):
        for block in blocks:
            latencies.append(time.time() - block.timestamp_ns / 1e9)
            if block.seq == 120:
                break
    moved = wire()
    settled = statistics.median(latencies[30:])
    print(f"{method}: {settled * 1e3:.1f} ms after a one-way delay of 60 ms; {moved}")
    assert settled < 0.060 + 0.030
    assert moved["requests"] < 60
