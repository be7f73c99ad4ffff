"""A ring against a list, under any sequence of operations."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dsm.errors import BlockTooLarge, NotFilled, OutOfRange, Overrun
from dsm.model import Extent, Gap
from dsm.segment import (
    BlockRun,
    RingWriter,
    create_ring,
    create_ring_shadow,
    open_segment,
    ring_shadow,
)
from dsm.segment.layout import ROW
from dsm.segment.ring_shadow import SCATTERED_BYTES

CAPACITY = 4096


class RingMachine(RuleBasedStateMachine):
    """`blocks` is all that was ever appended; `here` is what the shadow was given."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm"))

    @initialize(header=st.sampled_from([0, 8, 54]), slots=st.sampled_from([2, 3, 17, 64]))
    def create(self, header: int, slots: int) -> None:
        self.header = header
        self.ring = create_ring(
            self.root, "m", capacity_bytes=CAPACITY, header_bytes=header, slots=slots
        )
        self.shadow = create_ring_shadow(self.root / "shadow" / "m.dsm", self.ring.info)
        self.blocks: list[bytes] = []
        self.held: list[tuple[memoryview, bytes]] = []

    @rule(parts=st.lists(st.binary(max_size=700), min_size=1, max_size=3))
    def append(self, parts: list[bytes]) -> None:
        assert self.ring.append(*parts) == len(self.blocks)
        self.blocks.append(b"".join(parts))

    @rule(sizes=st.lists(st.sampled_from([0, 1, 8, 63, 64, 900, 4000, 4096]), max_size=30))
    def append_many(self, sizes: list[int]) -> None:
        start = len(self.blocks)
        new = [bytes([(start + i) % 251]) * size for i, size in enumerate(sizes)]
        assert self.ring.append_many(new) == Extent(start, start + len(new))
        self.blocks += new

    @rule()
    def too_large(self) -> None:
        with pytest.raises(BlockTooLarge):
            self.ring.append(bytes(CAPACITY + 1))
        with pytest.raises(BlockTooLarge):
            self.ring.append_many([bytes(CAPACITY + 1)])

    @rule()
    def reopen(self) -> None:
        self.ring.close()
        writer = open_segment(self.root, "m", write=True)
        assert isinstance(writer, RingWriter)
        self.ring = writer

    @rule(first=st.integers(0, 80), bytes_max=st.integers(1, 5000))
    def copy(self, first: int, bytes_max: int) -> None:
        first += self.ring.tail
        run = self.ring.copy_blocks(first, first + 50, bytes_max)
        self.check(run, slice(0, None), first, packed=False)
        for part in (slice(0, 20), slice(20, None)):
            copy = self.ring.copy_heads if part.start == 0 else self.ring.copy_bodies
            self.check(copy(first, first + 50, 20, bytes_max), part, first, packed=True)

    def check(self, run: BlockRun, part: slice, first: int, *, packed: bool) -> None:
        assert (run.count > 0) == (first < len(self.blocks))
        assert run.first == first
        rows = list(ROW.iter_unpack(run.rows))
        assert [row[0] for row in rows] == list(range(first, first + run.count))
        at = 0
        for row in rows:
            wanted = self.blocks[row[0]][part]
            at = at if packed else row[1] - rows[0][1]
            assert bytes(run.data[at : at + len(wanted)]) == wanted
            at += len(wanted)
        assert at == len(run.data)

    @rule(limit=st.integers(1, 6000))
    def pull(self, limit: int) -> None:
        self.shadow.advance(self.ring.head, self.ring.tail)
        for first, stop in self.shadow.missing(self.ring.tail, self.ring.head):
            run = self.ring.copy_blocks(first, stop, limit)
            if self.shadow.can_fill(run):
                assert self.shadow.fill_blocks(run) == []

    @rule(header=st.sampled_from([8, 54, 100]), bodies=st.booleans(), scattered=st.booleans())
    def pull_parts(self, header: int, bodies: bool, scattered: bool) -> None:
        ring_shadow.SCATTERED_BYTES = 0 if scattered else SCATTERED_BYTES
        self.shadow.advance(self.ring.head, self.ring.tail)
        header = max(header, self.header)
        for first, stop in self.shadow.missing(self.ring.tail, self.ring.head, header):
            run = self.ring.copy_heads(first, stop, header, 1 << 20)
            if self.shadow.can_fill(run):
                assert self.shadow.fill_heads(run, header) == []
                if bodies:
                    run = self.ring.copy_bodies(first, run.stop, header, 1 << 20)
                    assert self.shadow.fill_bodies(run, header) == []

    @rule(back=st.integers(0, 70))
    def hold(self, back: int) -> None:
        seq = self.shadow.head - 1 - back
        if seq >= self.shadow.tail and self.shadow.filled(seq):
            view = self.shadow.block(seq).data
            self.held.append((view[1:], bytes(view)[1:]))

    @rule()
    def let_go(self) -> None:
        self.held.clear()

    @rule(back=st.integers(0, 70))
    def evict(self, back: int) -> None:
        self.shadow.evict(self.shadow.head - back)

    @invariant()
    def readable(self) -> None:
        if not hasattr(self, "ring"):
            return
        tail, head = self.ring.tail, self.ring.head
        assert head == len(self.blocks)
        for block in self.ring.blocks(tail, head):
            block.verify()
            assert block.header.tobytes() + block.payload.tobytes() == self.blocks[block.seq]
            assert bytes(self.ring.read(block.seq)) == self.blocks[block.seq]
        if tail:
            with pytest.raises(Overrun) as overrun:
                self.ring.block(tail - 1)
            assert overrun.value.gap == Gap(tail - 1, tail - 1)
        with pytest.raises(OutOfRange):
            self.ring.block(head)

    @invariant()
    def replica(self) -> None:
        if not hasattr(self, "shadow"):
            return
        whole = {s for e in self.shadow.missing(0, self.shadow.head) for s in range(*e)}
        for seq in range(self.shadow.tail, self.shadow.head):
            have = self.shadow.filled(seq)
            if have:
                assert bytes(self.shadow.block(seq)) == self.blocks[seq][: have - 1]
            else:
                with pytest.raises(NotFilled):
                    self.shadow.block(seq)
            assert (seq in whole) == (have != 1 + len(self.blocks[seq]))

    @invariant()
    def held_views_stay(self) -> None:
        for view, content in getattr(self, "held", ()):
            assert bytes(view) == content

    def teardown(self) -> None:
        shutil.rmtree(self.root)
        ring_shadow.SCATTERED_BYTES = SCATTERED_BYTES


RingMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, print_blob=True
)
TestRing = RingMachine.TestCase
