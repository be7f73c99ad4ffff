"""Doorbells across processes, and producers that wait for registered readers."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path

import pytest

from dsm.errors import BudgetExceeded
from dsm.segment import Bell, RingWriter, create_region, create_ring, open_ring, open_segment
from tests.segment.processes import running


def test_the_bell_rings_in_another_process(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=1 << 20).close()
    ring = open_ring(root, "a")

    def produce() -> None:
        writer = open_segment(root, "a", write=True)
        assert isinstance(writer, RingWriter)
        for _ in range(100):
            time.sleep(2e-3)
            writer.append(time.monotonic_ns().to_bytes(8, "little"))

    late_s, seen = [], 0
    with Bell() as bell:
        wd = bell.add(ring.path)
        with running(produce):
            deadline = time.monotonic() + 20
            while seen < 100 and time.monotonic() < deadline:
                if bell.wait(1):
                    assert bell.read() == {wd}
                    now = time.monotonic_ns()
                    for block in ring.blocks(seen, ring.head):
                        late_s.append((now - int.from_bytes(block.data, "little")) / 1e9)
                    seen = ring.head
        assert bell.read() == set()
        assert not bell.wait(0)
    assert seen == 100
    print("median latency (s):", statistics.median(late_s))
    assert statistics.median(late_s) < 50e-3


def test_one_ring_for_a_batch_and_one_for_a_commit(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=1 << 20)
    region = create_region(root, "b", size_bytes=4096)
    with Bell() as bell:
        a, b = bell.add(ring.path), bell.add(region.path)
        ring.append_many([b"x"] * 5000)
        assert bell.read() == {a}
        with region.write() as view:
            view[0] = 1
        assert bell.read() == {b}
        with region.write():
            pass
        assert bell.read() == set(), "nothing changed, so there is nothing to tell"
        bell.remove(a)
        ring.append(b"x")
        assert bell.read() == set()


def test_the_bell_of_a_directory(root: Path) -> None:
    with Bell() as bell:
        wd = bell.add(root)
        create_ring(root, "a", capacity_bytes=4096)
        assert bell.read() == {wd}
        with pytest.raises(FileNotFoundError):
            bell.add(root / "none")


def blocking(root: Path, deadline_ms: int) -> RingWriter:
    ring = create_ring(root, "a", capacity_bytes=4096, slots=4, block_deadline_ms=deadline_ms)
    for _ in range(4):
        ring.append(b"x")
    return ring


def test_a_producer_waits_for_a_registered_reader(root: Path) -> None:
    ring = blocking(root, 10_000)
    with ring.register() as cursor:
        done = threading.Event()
        thread = threading.Thread(target=lambda: (ring.append(b"y"), done.set()))
        thread.start()
        assert not done.wait(0.2)
        assert open_ring(root, "a").tail == 0
        cursor.advance(1)
        assert done.wait(5)
        thread.join()
    for _ in range(10):
        ring.append(b"z")  # nobody is registered any more


def test_the_deadline_passes_a_stuck_reader_by_once(root: Path) -> None:
    ring = blocking(root, 100)
    with ring.register() as cursor:
        started = time.monotonic()
        ring.append(b"y")
        assert 0.09 < time.monotonic() - started < 5
        started = time.monotonic()
        for _ in range(50):
            ring.append(b"y")
        assert time.monotonic() - started < 2, "it waits again for a reader that it passed by"
        cursor.advance(ring.head - 3)  # it is back
        started = time.monotonic()
        for _ in range(4):
            ring.append(b"y")
        assert time.monotonic() - started > 0.09


def test_a_dead_reader_is_not_waited_for(root: Path) -> None:
    ring = blocking(root, 30_000)
    ready, told = os.pipe()

    def register() -> None:
        _cursor = open_ring(root, "a").register()
        os.write(told, b"!")
        time.sleep(60)

    with running(register):
        os.read(ready, 1)
    started = time.monotonic()
    ring.append(b"y")
    assert time.monotonic() - started < 5


def test_the_table_of_readers_has_an_end(root: Path) -> None:
    ring = blocking(root, 1)
    cursors = [ring.register() for _ in range(64)]
    with pytest.raises(BudgetExceeded, match="64"):
        ring.register()
    cursors.pop().close()
    ring.register().close()
    for cursor in cursors:
        cursor.close()
