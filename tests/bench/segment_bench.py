"""What segment files, and handles with shadows, do per second on one core.

    python -m tests.bench.segment_bench

Measures, never judges. Every figure is the median of `RUNS`; files lie in /dev/shm.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsm_client import connect
from dsm_server import Node

from dsm.model import Extent
from dsm.segment import (
    Bell,
    create_region,
    create_region_shadow,
    create_ring,
    create_ring_shadow,
    open_region,
    open_ring,
)

RUNS = 5
BLOCKS = 100_000
BLOCK = bytes(range(64))
PACKETS = 5_000
PACKET = bytes(1454)
REGION_BYTES = 64 << 20

Row = tuple[str, float, str, float | None]
"""name, value, unit, target"""


def _rate(amount: float, run: Callable[[], object], prepare: Callable[[], object] = int) -> float:
    rates = []
    for _ in range(RUNS):
        prepare()
        started = time.perf_counter()
        run()
        rates.append(amount / (time.perf_counter() - started))
    return statistics.median(rates)


@contextmanager
def _root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dsm-bench-", dir="/dev/shm"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def ring_rows() -> list[Row]:
    with _root() as root:
        ring = create_ring(root, "ring", capacity_bytes=64 << 20, header_bytes=16)
        batch = [BLOCK] * BLOCKS

        def append() -> None:
            for _ in range(BLOCKS):
                ring.append(BLOCK)

        def bell_heard() -> None:
            with Bell() as bell:
                bell.add(ring.path)
                append()

        ring.append_many(batch)  # the first touch of a page costs a fault
        ring.append_many(batch)
        one = _rate(BLOCKS, append)
        heard = _rate(BLOCKS, bell_heard)
        many = _rate(BLOCKS, lambda: ring.append_many(batch))
        return [
            ("append, 64 B, one by one", one, "blocks/s", 150_000),
            ("append, 64 B, somebody listening", heard, "blocks/s", None),
            ("append_many, 64 B", many, "blocks/s", 1_000_000),
            *_read_rows(root),
        ]


def _read_rows(root: Path) -> list[Row]:
    ring = open_ring(root, "ring")
    tail, head = ring.tail, min(ring.head, ring.tail + BLOCKS)

    def single() -> None:
        for seq in range(tail, head):
            block = ring.block(seq)
            _ = block.header, block.payload

    def sequential() -> None:
        for block in ring.blocks(tail, head):
            _ = block.header, block.payload

    def verified() -> None:
        for block in ring.blocks(tail, head):
            _ = block.header, block.payload
            block.verify()

    return [
        ("block(seq), header and payload", _rate(head - tail, single), "blocks/s", 200_000),
        ("blocks(), header and payload", _rate(head - tail, sequential), "blocks/s", 200_000),
        ("blocks(), verified", _rate(head - tail, verified), "blocks/s", 200_000),
    ]


def shadow_rows() -> list[Row]:
    with _root() as root:
        ring = create_ring(root, "ring", capacity_bytes=16 << 20, header_bytes=54)
        ring.append_many([PACKET] * PACKETS)
        runs = []
        while (first := runs[-1].stop if runs else 0) < PACKETS:
            runs.append(ring.copy_blocks(first, PACKETS, 1 << 20))
        size = PACKETS * len(PACKET) / 1e9
        copy = _rate(size, lambda: [ring.copy_blocks(r.first, r.stop, 1 << 20) for r in runs])
        shadow = create_ring_shadow(root / "s" / "ring.dsm", ring.info)

        def fill() -> None:
            for run in runs:
                shadow.fill_blocks(run)

        def touch() -> None:
            for seq in range(PACKETS):
                _ = shadow.block(seq).payload

        filled = _rate(size, fill, lambda: shadow.evict(PACKETS))
        read = _rate(PACKETS, touch)
        return [
            ("copy_blocks, 1454 B", copy, "GB/s", None),
            ("fill_blocks, 1454 B, verified", filled, "GB/s", None),
            ("shadow block(seq), payload", read, "blocks/s", 200_000),
        ]


def region_rows() -> list[Row]:
    with _root() as root:
        region = create_region(root, "region", size_bytes=REGION_BYTES)
        fills = [bytes([number]) * REGION_BYTES for number in (1, 2)]

        def commit() -> None:
            with region.write() as view:
                view[:] = fills[region.version % 2]

        def small() -> None:
            for number in range(100):
                with region.write(number * 4096, 8) as view:
                    view[:8] = region.version.to_bytes(8, "little")

        for _ in range(3):
            commit()  # the first touch of a page costs a fault
        size = REGION_BYTES / 1e9
        reader = open_region(root, "region")

        def snapshots() -> None:
            for _ in range(1000):
                with reader.snapshot() as view:
                    _ = view[0]

        return [
            ("commit of 64 MiB, all changed, fill included", _rate(size, commit), "GB/s", 1.0),
            ("commit of 8 bytes of 64 MiB", _rate(100, small), "commits/s", None),
            ("snapshot, pinned", _rate(1000, snapshots), "1/s", None),
            *_region_shadow_rows(root),
        ]


def _region_shadow_rows(root: Path) -> list[Row]:
    reader = open_region(root, "region")
    whole = Extent(0, 256)
    found = reader.snapshot().copy_pages([whole])
    shadow = create_region_shadow(root / "s" / "region.dsm", reader.info)
    shadow.advance(reader.version, reader.changed_since(0))

    def fill() -> None:
        shadow.fill_pages(found)

    def views() -> None:
        for _ in range(10_000):
            _ = shadow.view(5000, 100)

    filled = _rate(len(found.data) / 1e9, fill, lambda: shadow.drop(whole))
    return [
        ("fill_pages of 1 MiB, verified", filled, "GB/s", None),
        ("shadow view(offset, length)", _rate(10_000, views), "1/s", 333_000),
    ]


def handle_rows() -> list[Row]:
    """What a reader pays for a read that its shadow answers."""
    with (
        _root() as root,
        Node(listen="127.0.0.1:0", root=root / "root") as node,
        node.create_region("region", size_bytes=1 << 20) as region,
        node.create_ring("ring", capacity_bytes=1 << 20, header_bytes=16) as ring,
        connect(node.address, map_local=False, cache=root / "cache") as session,
    ):
        with region.write() as view:
            view[:8] = b"written."
        ring.append_many([bytes(1000)] * 100)
        there, blocks = session.open("region"), session.open("ring")
        there.read(0, 1 << 20)
        for _ in blocks.read_many(range(100), whole=True):
            pass

        def reads() -> None:
            for number in range(10_000):
                there.read(number, 100)

        def payloads() -> None:
            for number in range(10_000):
                _ = blocks.read(number % 100).payload

        return [
            ("region.read(), in the shadow", _rate(10_000, reads), "1/s", 333_000),
            ("ring.read().payload, in the shadow", _rate(10_000, payloads), "1/s", 200_000),
        ]


def rows() -> list[Row]:
    return [*ring_rows(), *shadow_rows(), *region_rows(), *handle_rows()]


def main() -> None:
    for name, value, unit, target in rows():
        aim = "" if target is None else f"  (target {target:,.6g})"
        shown = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        print(f"{name:<48} {shown:>14} {unit}{aim}")


if __name__ == "__main__":
    main()
