"""Answers to reads of blocks: frames within their limit, and in them what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from dsm_client.assembly import Arrived, Assembler
from dsm_server.answers import ROW_BYTES, RUNS_MAX, BlocksAnswer, Frame
from hypothesis import given
from hypothesis import strategies as st

from dsm.core.extents import ExtentSet
from dsm.core.reads import Part, ReadBlocks
from dsm.errors import Overrun
from dsm.model import Extent
from dsm.segment import RingWriter, create_ring, create_ring_shadow
from tests.client.test_methods import NOISE
from tests.conftest import shared_directory

HEADER, BLOCKS, CAPACITY = 16, 900, 1 << 16


def content(seq: int) -> bytes:
    length = (0, 5, HEADER, 40, 333, 900)[seq % 6] if seq % 50 else 7000
    return NOISE[seq * 97 : seq * 97 + length]


@pytest.fixture(scope="module")
def ring() -> Iterator[RingWriter]:
    with (
        shared_directory() as root,
        create_ring(root, "r", capacity_bytes=CAPACITY, header_bytes=HEADER, slots=512) as writer,
    ):
        for seq in range(BLOCKS):
            writer.append(content(seq))
        yield writer


def runs_of(seqs: set[int]) -> tuple[Extent, ...]:
    return tuple(ExtentSet((seq, seq + 1) for seq in sorted(seqs)))


def frames_of(ring: RingWriter, read: ReadBlocks, frame_bytes: int) -> Iterator[Frame]:
    exported: Any = SimpleNamespace(info=ring.info, ring=ring)
    answer = BlocksAnswer(exported, read)
    while (frame := answer.next_frame(frame_bytes)) is not None:
        yield frame
        if frame.header.last:
            return


def arrived(ring: RingWriter, frames: Iterator[Frame], frame_bytes: int) -> Iterator[Arrived]:
    assembler = Assembler(CAPACITY)
    for frame in frames:
        payload = b"".join(bytes(piece) for piece in frame.pieces)
        assert len(payload) <= frame_bytes
        assert len(frame.header.runs) <= RUNS_MAX
        if frame.header.runs:
            yield from assembler.add(frame.header, memoryview(payload))


@given(
    back=st.sets(st.integers(-20, 120), min_size=1, max_size=60),
    part=st.sampled_from(Part),
    frame_bytes=st.integers(4 * ROW_BYTES, 20_000),
)
def test_what_was_asked_for_gets_into_a_shadow(
    ring: RingWriter, back: set[int], part: Part, frame_bytes: int
) -> None:
    """Scattered or in a row, across the wrap, larger than a frame, beyond the head."""
    seqs = {BLOCKS - 1 - number for number in back}
    there = {seq for seq in seqs if seq < BLOCKS}
    shadow = create_ring_shadow(ring.path.parent / "s.dsm", ring.info)
    try:
        shadow.advance(ring.head, ring.tail)
        if part is Part.PAYLOAD:
            for seq in there:
                heads = ring.copy_heads(seq, seq + 1, HEADER, 1 << 20)
                assert shadow.fill_heads(heads, HEADER) == []
        frames = frames_of(ring, ReadBlocks(runs_of(seqs), part, HEADER), frame_bytes)
        fill: Any = {
            Part.WHOLE: lambda run: shadow.fill_blocks(run),
            Part.HEADER: lambda run: shadow.fill_heads(run, HEADER),
            Part.PAYLOAD: lambda run: shadow.fill_bodies(run, HEADER),
        }[part]
        came: list[int] = []
        for found in arrived(ring, frames, frame_bytes):
            assert found.part is part
            assert fill(found.run) == []
            came += range(found.run.first, found.run.stop)
        assert came == sorted(there), "each once, in order"
        for seq in there:
            depth = HEADER if part is Part.HEADER else None
            assert bytes(shadow.block(seq).data) == content(seq)[:depth]
    finally:
        shadow.close()
        (ring.path.parent / "s.dsm").unlink()


def test_scattered_blocks_share_frames(ring: RingWriter) -> None:
    runs = runs_of({seq for seq in range(BLOCKS - 120, BLOCKS, 3) if seq % 50})
    (frame,) = frames_of(ring, ReadBlocks(runs, Part.WHOLE), 1 << 20)
    assert [run.first for run in frame.header.runs] == [run.start for run in runs]
    wanted = sum(len(content(run.start)) + ROW_BYTES for run in runs)
    assert sum(map(len, frame.pieces)) == wanted


def test_what_is_gone_is_told_and_the_rest_is_parked(ring: RingWriter) -> None:
    gone, there = ring.tail - 5, ring.tail + 3
    frames = frames_of(
        ring, ReadBlocks((Extent(gone, gone + 1), Extent(there, there + 1))), 1 << 20
    )
    with pytest.raises(Overrun) as caught:
        next(frames)
    assert (caught.value.gap.first, caught.value.gap.last) == (gone, ring.tail - 1)
    read = ReadBlocks((Extent(there, there + 1), Extent(BLOCKS + 4, BLOCKS + 5)), park=True)
    assert [frame.header.last for frame in frames_of(ring, read, 1 << 20)] == [False]
