"""A region and its shadow against a list of byte strings, under any sequence of operations."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dsm.core.extents import ExtentSet
from dsm.errors import BudgetExceeded, NotFilled, OutOfRange
from dsm.model import Extent
from dsm.segment import (
    RegionSnapshot,
    RegionWriter,
    create_region,
    create_region_shadow,
    open_region,
    open_segment,
)

PAGE = 4096


class RegionMachine(RuleBasedStateMachine):
    """`history[v]` is the content of version v."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm"))

    @initialize(size=st.sampled_from([1, 4096, 5000, 5 * PAGE, 9 * PAGE + 1]))
    def create(self, size: int) -> None:
        self.size = size
        self.region = create_region(self.root, "m", size_bytes=size)
        self.reader = open_region(self.root, "m")
        self.shadow = create_region_shadow(self.root / "shadow" / "m.dsm", self.region.info)
        self.history = [bytes(size)]
        self.pinned: list[tuple[RegionSnapshot, memoryview]] = []
        self.views: list[tuple[memoryview, bytes]] = []

    def extent(self, at: float, share: float) -> tuple[int, int]:
        offset = int(at * self.size)
        return offset, int(share * (self.size - offset))

    share = st.floats(0, 1)

    @rule(at=share, share=share, byte=st.integers(0, 3))
    def write(self, at: float, share: float, byte: int) -> None:
        offset, length = self.extent(at, share)
        now = self.history[-1]
        with self.region.write(offset, length) as view:
            assert bytes(view) == now[offset : offset + length]
            view[:] = bytes([byte]) * length
        new = now[:offset] + bytes([byte]) * length + now[offset + length :]
        if new != now:
            self.history.append(new)
        with pytest.raises(ValueError, match="released"):
            view[:] = b""

    @rule(at=share, share=share)
    def fail(self, at: float, share: float) -> None:
        with contextlib.suppress(ZeroDivisionError):
            with self.region.write(*self.extent(at, share)) as view:
                view[:] = b"\xff" * len(view)
                raise ZeroDivisionError
            raise AssertionError("the exception was swallowed")

    @rule()
    def reopen(self) -> None:
        self.region.close()
        writer = open_segment(self.root, "m", write=True)
        assert isinstance(writer, RegionWriter)
        self.region = writer

    @rule()
    def pin(self) -> None:
        snapshot = self.reader.snapshot()
        self.pinned.append((snapshot, snapshot.view))

    @rule()
    def unpin(self) -> None:
        if self.pinned:
            self.pinned.pop(0)[0].close()

    @rule()
    def pull(self) -> None:
        known = self.shadow.version
        with self.region.snapshot():
            changed = self.region.changed_since(known)
        try:
            self.shadow.advance(self.region.version, changed)
        except BudgetExceeded:
            assert len({bytes(view) for view, _ in self.views}) >= 4
            return

    @rule(parts=st.lists(st.tuples(share, share), max_size=3))
    def fill(self, parts: list[tuple[float, float]]) -> None:
        extents = [self.extent(*part) for part in parts]
        runs = list(ExtentSet((at // PAGE, -(-(at + length) // PAGE)) for at, length in extents))
        left = ExtentSet(self.shadow.missing())
        snapshot = self.reader.snapshot()
        with snapshot:
            found = snapshot.copy_pages(runs)
        assert self.shadow.fill_pages(found) == []
        if self.shadow.version == self.region.version:
            for run in runs:
                left.discard(*run)
            assert self.shadow.missing() == list(left)

    @rule(at=share, share=share)
    def hold(self, at: float, share: float) -> None:
        offset, length = self.extent(at, share)
        try:
            view = self.shadow.view(offset, length)
        except NotFilled:
            assert not self.shadow.covered(offset, length)
        else:
            self.views.append((view, bytes(view)))

    @rule()
    def let_go(self) -> None:
        self.views.clear()

    @rule(at=share, share=share)
    def drop(self, at: float, share: float) -> None:
        offset, length = self.extent(at, share)
        pages = Extent(offset // PAGE, -(-(offset + length) // PAGE))
        self.shadow.drop(pages)

    @invariant()
    def versions(self) -> None:
        if not hasattr(self, "region"):
            return
        assert self.reader.version == len(self.history) - 1
        assert self.reader.read() == self.history[-1]
        self.reader.verify()
        with pytest.raises(OutOfRange):
            self.reader.read(1, self.size)

    @invariant()
    def changes(self) -> None:
        if not hasattr(self, "region"):
            return
        for since in range(max(0, len(self.history) - 4), len(self.history)):
            told = {p for e in self.reader.changed_since(since) for p in range(*e)}
            old, new = self.history[since], self.history[-1]
            for page in range(self.region.info.pages):
                span = slice(page * PAGE, (page + 1) * PAGE)
                assert page in told or old[span] == new[span]

    @invariant()
    def snapshots_stay(self) -> None:
        for snapshot, view in getattr(self, "pinned", ()):
            assert view == self.history[snapshot.version]
            snapshot.verify()

    @invariant()
    def replica(self) -> None:
        if not hasattr(self, "shadow"):
            return
        content = self.history[self.shadow.version]
        missing = {p for e in self.shadow.missing() for p in range(*e)}
        for page in range(self.shadow.info.pages):
            offset, length = page * PAGE, min(PAGE, self.size - page * PAGE)
            assert self.shadow.covered(offset, length) == (page not in missing)
            if page not in missing:
                assert self.shadow.view(offset, length) == content[offset : offset + length]
        for view, held in self.views:
            assert view == held

    def teardown(self) -> None:
        shutil.rmtree(self.root)


RegionMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, print_blob=True
)
TestRegion = RegionMachine.TestCase


@pytest.mark.parametrize("length", [8, 8 << 20])
def test_a_copy_knows_its_version(tmp_path: Path, length: int) -> None:
    """While commits go by: what was read is what its version held."""
    stop = threading.Event()
    with create_region(tmp_path, "r", size_bytes=8 << 20, buffers=8) as writer:

        def commit() -> None:
            while not stop.is_set():
                with writer.write(0, 8) as view:
                    view[:] = (writer.version + 1).to_bytes(8, "little")

        producer = threading.Thread(target=commit)
        producer.start()
        try:
            with open_region(tmp_path, "r") as reader:
                found = [reader.read_versioned(0, length) for _ in range(50)]
        finally:
            stop.set()
            producer.join()
    assert all(int.from_bytes(data[:8], "little") == version for version, data in found)
