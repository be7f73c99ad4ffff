"""A writer process at full speed, and readers that believe nothing."""

from __future__ import annotations

import contextlib
import os
import time
from itertools import count
from pathlib import Path

import pytest

from dsm.errors import Overrun, VersionGone
from dsm.segment import (
    RegionWriter,
    RingWriter,
    create_region,
    create_ring,
    open_region,
    open_ring,
    open_segment,
)
from dsm.segment.pins import Pins
from tests.segment import content
from tests.segment.processes import running

SECONDS = 2.0
PAGES = 64


def large(seq: int) -> bytes:
    """Large enough that copying it takes as long as the producer takes to come round."""
    return content.block(seq, 16 + seq * 7919 % 30_000)


def append_for_ever(root: Path) -> None:
    ring = open_segment(root, "s", write=True)
    assert isinstance(ring, RingWriter)
    for seq in count(ring.head):
        if seq % 64:
            ring.append(large(seq))
        else:
            assert ring.append_many([large(seq)]).start == seq


def commit_for_ever(root: Path) -> None:
    region = open_segment(root, "s", write=True)
    assert isinstance(region, RegionWriter)
    for version in count(region.version + 1):
        # each version writes all even or all odd pages, so a mix of two shows
        with region.write() as view:
            for page in range(version % 2, PAGES, 2):
                view[page * 4096 : page * 4096 + 4096] = content.page(version, page)


def check_version(view: memoryview, version: int) -> None:
    for page in range(PAGES):
        wrote = version if page % 2 == version % 2 else version - 1
        if wrote > 0:
            assert view[page * 4096 : page * 4096 + 4096] == content.page(wrote, page)


def test_no_block_is_ever_torn(root: Path) -> None:
    """Lapped all the time (the ring is tiny), a reader gets a good block or an `Overrun`."""
    create_ring(root, "s", capacity_bytes=1 << 17, header_bytes=24).close()
    ring = open_ring(root, "s")
    good = lapped = 0
    with running(lambda: append_for_ever(root)):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            tail, head = ring.tail, ring.head
            for seq in (tail, (tail + head) // 2, head - 1):
                if not head:
                    continue
                with contextlib.suppress(Overrun):
                    assert bytes(ring.read(seq)) == large(seq)
                    good += 1
                with contextlib.suppress(Overrun):
                    block = ring.block(seq)
                    assert bytes(block) == large(seq)
                    block.verify()
                try:
                    run = ring.copy_blocks(seq, head, 1 << 17)
                except Overrun as overrun:
                    lapped += overrun.gap.first == seq <= overrun.gap.last
                else:
                    at = 0
                    for number in range(run.first, run.stop):
                        wanted = large(number)
                        assert run.data[at : at + len(wanted)] == wanted
                        at += len(wanted) + 7 & -8
    assert good > 100
    assert lapped > 0, "the writer never lapped the reader: this run proved nothing"


def test_a_lapped_view_says_so(root: Path) -> None:
    ring = create_ring(root, "s", capacity_bytes=4096)
    ring.append(b"first")
    block = ring.block(0)
    assert block.intact
    while ring.tail == 0:
        ring.append(bytes(100))
    assert not block.intact
    with pytest.raises(Overrun) as overrun:
        bytes(block)
    assert overrun.value.gap.first == 0


def test_no_version_is_ever_mixed(root: Path) -> None:
    """Snapshots and reads under a committing writer; some are held across many commits."""
    create_region(root, "s", size_bytes=PAGES * 4096).close()
    region = open_region(root, "s")
    pinned = copied = 0
    with running(lambda: commit_for_ever(root)):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            outer = region.snapshot()
            pinned += outer.pinned
            with outer:
                check_version(outer.view, outer.version)
                waited_for = region.version + 5
                while region.version < waited_for and time.monotonic() < deadline:
                    inner = region.snapshot()
                    with inner:
                        check_version(inner.view, inner.version)
                        inner.verify()
                    pinned += inner.pinned
                    copied += not inner.pinned
                    with contextlib.suppress(VersionGone):
                        part = region.read(4096, 2 * 4096)
                        seen = [int.from_bytes(part[at : at + 8], "little") for at in (0, 4096)]
                        assert abs(seen[0] - seen[1]) == 1 or seen == [0, 0]
                check_version(outer.view, outer.version)
                outer.verify()
    assert region.version > 50
    assert pinned
    assert copied, "no snapshot had to be a copy: this run proved nothing of copies"


def test_a_reader_that_dies_lets_go_of_its_pin(root: Path) -> None:
    region = create_region(root, "s", size_bytes=4096)
    ready, told = os.pipe()

    def hold() -> None:
        snapshot = open_region(root, "s").snapshot()
        assert snapshot.pinned
        os.write(told, b"!")
        time.sleep(60)

    with running(hold):
        os.read(ready, 1)
        for byte in range(1, 20):  # the writer goes round it
            with region.write() as view:
                view[:] = bytes([byte]) * 4096
        second = open_region(root, "s").snapshot()
        assert not second.pinned, "one pinned old version is all that three buffers allow"
        second.close()
    with region.write() as view:
        view[:] = b"x" * 4096
    third = open_region(root, "s").snapshot()
    assert third.pinned
    third.close()


def test_slices_of_a_snapshot_keep_it_pinned(root: Path) -> None:
    region = create_region(root, "s", size_bytes=3 * 4096)
    reader = open_region(root, "s")
    with reader.snapshot() as view:
        kept = view[4096:4106]
    reader.close()
    for byte in range(1, 10):
        with region.write() as out:
            out[:] = bytes([byte]) * len(out)
    assert kept == bytes(10)
    del kept
    with region.write() as out:
        out[:] = b"z" * len(out)
    snapshot = open_region(root, "s").snapshot()
    assert snapshot.pinned
    snapshot.close()


def test_a_pin_that_came_too_late_is_given_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and locking, commits go all the way round to the same buffer."""
    region = create_region(root, "s", size_bytes=4096)
    reader = open_region(root, "s")
    take = Pins.take
    versions = iter(range(1, 4))

    def late(pins: Pins, buffer: int) -> bool:
        for version in versions:
            with region.write() as view:
                view[:] = bytes([version]) * 4096
        return take(pins, buffer)

    monkeypatch.setattr(Pins, "take", late)
    snapshot = reader.snapshot()
    with snapshot as view:
        assert snapshot.version == 3
        assert view[0] == 3


def test_what_a_dead_writer_left_unpublished_is_never_taken_for_good(root: Path) -> None:
    """It stamped a buffer with the version that the next writer gives to another buffer."""
    region = create_region(root, "s", size_bytes=2 * 4096)

    def die(version: int, index: int) -> None:
        raise KeyboardInterrupt

    region._publish = die  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt), region.write(0, 1) as view:
        view[0] = 7
    region.close()
    reader = open_region(root, "s")
    late = Pins(reader.fileno())
    assert late.take(1)  # a reader that sleeps in mid-pin: the next writer goes elsewhere
    writer = open_segment(root, "s", write=True)
    assert isinstance(writer, RegionWriter)
    for offset, byte in ((0, 8), (4096, 1), (4096, 2), (4096, 3)):
        with writer.write(offset, 1) as view:
            view[0] = byte
        if byte == 8:
            late.drop(1)
        writer.verify()
        assert writer.read(0, 1)[0] == 8
