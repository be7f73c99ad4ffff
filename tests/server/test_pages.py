"""Answers to reads of pages: few frames, each within its limit, and in them what was asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from crc32c import crc32c
from dsm_server.answers import PAGE_ROW_BYTES, PagesAnswer
from hypothesis import given
from hypothesis import strategies as st

from dsm.core.extents import ExtentSet
from dsm.core.reads import ReadPages
from dsm.model import Extent
from dsm.segment import RegionSnapshot, RegionWriter, create_region
from dsm.wire.convert import runs_from_pb
from tests.client.test_methods import NOISE
from tests.conftest import shared_directory

PAGE = 4096
PAGES = 40
SIZE = (PAGES - 1) * PAGE + 100
CHANGED = ExtentSet([(3, 5), (20, 21), (38, 40)])
"""After version 1, which wrote everything."""

pages = st.sets(st.integers(0, PAGES - 1))


def runs(pages: set[int]) -> tuple[Extent, ...]:
    return tuple(ExtentSet((page, page + 1) for page in sorted(pages)))


@pytest.fixture(scope="module")
def region() -> Iterator[RegionWriter]:
    with shared_directory() as root, create_region(root, "r", size_bytes=SIZE) as writer:
        for start, stop in (Extent(0, PAGES), *CHANGED):
            length = min(SIZE, stop * PAGE) - start * PAGE
            with writer.write(start * PAGE, length) as view:
                view[:] = NOISE[start : start + length]
            del view
        yield writer


def frames_of(snapshot: RegionSnapshot, read: ReadPages, frame_bytes: int) -> Iterator[Any]:
    lease = SimpleNamespace(snapshot=snapshot, release=int)
    leases: Any = SimpleNamespace(take=lambda *_, **__: lease)
    exported: Any = SimpleNamespace(info=snapshot.info)
    answer = PagesAnswer(exported, read, leases)
    while True:
        frame = answer.next_frame(frame_bytes)
        yield frame
        if frame.header.last:
            return


@given(need=pages, have=pages, room=st.integers(0, PAGES + 1))
def test_frames_hold_what_was_asked_for(
    region: RegionWriter, need: set[int], have: set[int], room: int
) -> None:
    frame_bytes = room * (PAGE + PAGE_ROW_BYTES) + 77
    wanted = need | {page for page in have if page in CHANGED}
    found: list[int] = []
    snapshot = region.snapshot()
    with snapshot as view:
        read = ReadPages(0, 1, runs(need), runs(have))
        frames = list(frames_of(snapshot, read, frame_bytes))
        for number, frame in enumerate(frames):
            header = frame.header
            assert list(runs_from_pb(header.changed)) == ([] if number else list(CHANGED))
            versions, crcs, data = frame.pieces
            here = [page for run in runs_from_pb(header.runs) for page in range(*run)]
            content = [view[page * PAGE : (page + 1) * PAGE] for page in here]
            assert data == b"".join(content)
            assert array("I", crcs).tolist() == [crc32c(page) for page in content]
            assert all(
                (v > 1) == (p in CHANGED) for p, v in zip(here, array("Q", versions), strict=True)
            )
            assert header.rows_bytes == len(versions) + len(crcs) == PAGE_ROW_BYTES * len(here)
            assert len(here) <= max(1, room)
            found += here
    assert found == sorted(wanted)
    assert len(frames) == max(1, -(-len(wanted) // max(1, room)))
