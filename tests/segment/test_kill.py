"""SIGKILL at any moment: what was published stays, and the next writer goes on."""

from __future__ import annotations

import os
import random
import time
from itertools import count
from pathlib import Path

from dsm.segment import RegionWriter, RingWriter, create_region, create_ring, open_segment
from tests.segment import content
from tests.segment.processes import fork, kill

SECONDS_MAX = 8.0
KILLS_MAX = 1500
KILLS_MIN = 300
PAGES = 8


def _pause(rng: random.Random) -> None:
    until = time.perf_counter() + rng.random() * 2e-3
    while time.perf_counter() < until:
        pass


def test_ring(root: Path) -> None:
    """Each life of the writer reports every published block through a pipe; none may be lost."""
    create_ring(root, "k", capacity_bytes=8192, header_bytes=8, slots=40).close()
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    print("seed", seed)
    said = 0

    def write_on(report: int) -> None:
        ring = open_segment(root, "k", write=True)
        assert isinstance(ring, RingWriter)
        os.write(report, b"o")
        for turn in count():
            head = ring.head
            if turn % 3:
                ring.append(content.block(head))
            else:
                ring.append_many([content.block(head + i) for i in range(9)])
            os.write(report, b".")

    deadline, kills, grown = time.monotonic() + SECONDS_MAX, 0, 0
    while kills < KILLS_MAX and (time.monotonic() < deadline or kills < KILLS_MIN):
        ours, theirs = os.pipe()
        pid = fork(lambda end=theirs: write_on(end))
        os.close(theirs)
        assert os.read(ours, 1) == b"o", "the writer could not go on"
        _pause(rng)
        kill(pid)
        turns = 0
        while got := os.read(ours, 65536):
            turns += len(got)
        os.close(ours)
        reader = open_segment(root, "k")
        with reader:
            assert reader.head >= said + turns  # at least what was reported
            grown += reader.head > said
            said = reader.head
            for block in reader.blocks(reader.tail, reader.head):
                block.verify()
                assert bytes(block) == content.block(block.seq)
        kills += 1
    print("kills", kills, "of which grew", grown)
    assert grown > kills // 5, "too few lives got to append: this run proved nothing"


def test_region(root: Path) -> None:
    create_region(root, "k", size_bytes=PAGES * 4096).close()
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    print("seed", seed)
    said = 0

    def write_on(report: int) -> None:
        region = open_segment(root, "k", write=True)
        assert isinstance(region, RegionWriter)
        os.write(report, b"o")
        while True:
            version = region.version + 1
            with region.write() as view:
                for page in range(version % 2, PAGES, 2):
                    view[page * 4096 : page * 4096 + 4096] = content.page(version, page)
            assert region.version == version
            os.write(report, b".")

    deadline, kills, grown = time.monotonic() + SECONDS_MAX, 0, 0
    while kills < KILLS_MAX and (time.monotonic() < deadline or kills < KILLS_MIN):
        ours, theirs = os.pipe()
        pid = fork(lambda end=theirs: write_on(end))
        os.close(theirs)
        assert os.read(ours, 1) == b"o", "the writer could not go on"
        _pause(rng)
        kill(pid)
        turns = len(os.read(ours, 65536))
        os.close(ours)
        with open_segment(root, "k") as region:
            assert said + turns <= region.version <= said + turns + 1
            grown += region.version > said
            said = region.version
            snapshot = region.snapshot()
            with snapshot as view:
                snapshot.verify()
                for page in range(PAGES):
                    wrote = said if page % 2 == said % 2 else said - 1
                    if wrote > 0:
                        wanted = content.page(wrote, page)
                        assert view[page * 4096 : page * 4096 + 4096] == wanted
        kills += 1
    print("kills", kills, "of which grew", grown)
    assert grown > kills // 5, "too few lives got to commit: this run proved nothing"
