"""Names, creation, deletion, damaged files, full file systems, write locks."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import time
from pathlib import Path

import crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.errors import (
    Closed,
    CorruptSegment,
    InvalidName,
    NoSpace,
    OutOfRange,
    SegmentExists,
    SegmentNotFound,
    UnsupportedFormat,
    UsageError,
    WriterBusy,
    WrongKind,
)
from dsm.model import Extent
from dsm.segment import (
    Bell,
    RingWriter,
    create_region,
    create_region_shadow,
    create_ring,
    create_ring_shadow,
    delete_segment,
    layout,
    list_names,
    name_of,
    open_region,
    open_ring,
    open_segment,
    open_shadow,
    path_of,
)
from tests.segment.processes import fork, running, wait


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a/.b", "-a", "a b", "a\0", "é", "a" * 161],
)
def test_invalid_names_reach_no_file(root: Path, name: str) -> None:
    for call in (
        lambda: create_ring(root, name, capacity_bytes=4096),
        lambda: open_segment(root, name),
        lambda: delete_segment(root, name),
    ):
        with pytest.raises(InvalidName):
            call()
    assert list(root.iterdir()) == []


@given(
    st.from_regex(
        r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8}){0,3}", fullmatch=True
    )
)
def test_a_name_is_its_file_and_back(name: str) -> None:
    path = path_of(Path("/r"), name)
    assert path.parent == Path("/r")
    assert name_of(path) == name


def test_what_was_created_is_what_is_opened(root: Path) -> None:
    ring = create_ring(
        root,
        "a/b",
        capacity_bytes=5000,
        header_bytes=54,
        slots=9,
        metadata={"k": "ü"},
        block_deadline_ms=7,
    )
    region = create_region(root, "c", dtype="<f4", shape=(3, 1000), page_bytes=8192, buffers=4)
    assert open_segment(root, "a/b").info == ring.info
    assert open_segment(root, "c").info == region.info
    assert ring.info.capacity_bytes == 8192
    assert region.info.size_bytes == 12000
    assert ring.info.epoch not in (0, region.info.epoch)
    assert list_names(root) == ["a/b", "c"]
    assert list_names(root / "none") == []
    with pytest.raises(WrongKind):
        open_ring(root, "c")
    with pytest.raises(WrongKind):
        open_region(root, "a/b")
    with pytest.raises(SegmentExists):
        create_ring(root, "c", capacity_bytes=4096)
    assert open_region(root, "c").info == region.info


def test_mode_honours_the_umask(root: Path) -> None:
    old = os.umask(0o027)
    try:
        create_ring(root, "a", capacity_bytes=4096)
    finally:
        os.umask(old)
    assert path_of(root, "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity_bytes": 0},
        {"capacity_bytes": -1},
        {"capacity_bytes": 4096, "slots": 1},
        {"capacity_bytes": 4096, "header_bytes": 5000},
        {"capacity_bytes": 4096, "header_bytes": -1},
        {"capacity_bytes": 4096, "metadata": {"k": "v" * 3000}},
    ],
)
def test_geometry_that_cannot_be(root: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        create_ring(root, "a", **wrong)  # type: ignore[arg-type]
    for region in (
        {},
        {"size_bytes": 0},
        {"size_bytes": 9, "page_bytes": 1000},
        {"size_bytes": 9, "page_bytes": 2 * layout.PAGE_BYTES_MAX},  # a frame could not hold it
        {"size_bytes": 9, "buffers": 2},
        {"size_bytes": 9, "dtype": "<f4", "shape": (2,)},
    ):
        with pytest.raises(UsageError):
            create_region(root, "a", **region)  # type: ignore[arg-type]
    assert list(root.iterdir()) == []


def test_a_region_is_not_written_beyond_its_end(root: Path) -> None:
    region = create_region(root, "a", size_bytes=100)
    for offset, length in ((0, 101), (-1, 1), (100, 1), (50, -1)):
        with pytest.raises(OutOfRange), region.write(offset, length):
            pass
    with region.write(90) as view, pytest.raises(ValueError):
        view[:] = bytes(11)
    assert region.version == 0


def test_a_view_may_not_outlive_its_write(root: Path) -> None:
    region = create_region(root, "a", size_bytes=100)
    writing = region.write()
    kept = writing.__enter__()[10:20]
    kept[:] = b"x" * 10
    with pytest.raises(UsageError, match="still alive"):
        writing.__exit__(None, None, None)
    for byte in range(1, 6):
        with region.write() as view:
            view[:] = bytes([byte]) * 100
        kept[:] = b"y" * 10  # writes where nobody looks
        assert region.read() == bytes([byte]) * 100
    assert region.version == 5


def test_one_writer(root: Path) -> None:
    for create in (
        lambda name: create_ring(root, name, capacity_bytes=4096),
        lambda name: create_region(root, name, size_bytes=4096),
    ):
        name = create.__code__.co_names[0].replace("create_", "")
        writer = create(name)
        with pytest.raises(WriterBusy, match=name):
            open_segment(root, name, write=True)
        view = open_segment(root, name)  # readers are welcome
        writer.close()
        open_segment(root, name, write=True).close()
        view.close()


def test_the_write_lock_dies_with_its_holder(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=4096).close()
    ready, told = os.pipe()

    def hold() -> None:
        _writer = open_segment(root, "a", write=True)
        os.write(told, b"!")
        time.sleep(60)

    with running(hold):
        os.read(ready, 1)
        with pytest.raises(WriterBusy):
            open_segment(root, "a", write=True)
    open_segment(root, "a", write=True).close()


def test_a_dropped_handle_keeps_nothing(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=4096)
    open_segment(root, "a", write=True)
    count = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        open_segment(root, "a", write=True)
        with contextlib.suppress(SegmentNotFound):
            open_segment(root, "b")
    assert len(list(Path("/proc/self/fd").iterdir())) == count


def test_a_forked_child_neither_writes_nor_keeps_the_lock(root: Path) -> None:
    """Also where its parent dies without closing anything."""
    create_ring(root, "a", capacity_bytes=4096).close()
    ours, theirs = os.pipe()

    def parent() -> None:
        ring = open_segment(root, "a", write=True)
        assert isinstance(ring, RingWriter)
        ring.append(b"x")
        view = ring.block(0).data
        if not (pid := os.fork()):
            try:
                ring.append(b"y")
            except Closed:
                os.write(theirs, view[:1])
            time.sleep(60)
        os.write(theirs, b"%08d" % pid)
        time.sleep(60)

    with running(parent):
        said = b""
        while len(said) < 9:
            said += os.read(ours, 9)
    child = int(said.replace(b"x", b""))
    try:
        assert said[:1] == b"x" or said[-1:] == b"x"
        ring = open_segment(root, "a", write=True)
        assert ring.position.head == 1
    finally:
        os.kill(child, signal.SIGKILL)


def test_an_exiting_reader_harms_nothing(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=4096)
    region = create_region(root, "b", size_bytes=4096)
    ring.append(b"still here")

    def read() -> None:
        with open_ring(root, "a") as reader, open_region(root, "b").snapshot():
            assert bytes(reader.read(0)) == b"still here"

    assert wait(fork(read)) == 0
    assert bytes(open_ring(root, "a").read(0)) == b"still here"
    assert ring.append(b"more") == 1
    with region.write() as view:
        view[0] = 1


def test_delete_while_mapped(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=4096)
    ring.append(b"x")
    reader = open_ring(root, "a")
    with Bell() as bell:
        wd = bell.add(reader.path)
        assert not reader.deleted
        delete_segment(root, "a")
        assert bell.wait(5)
        assert wd in bell.read()
    assert reader.deleted
    assert bytes(reader.read(0)) == b"x"
    assert list_names(root) == []
    with pytest.raises(SegmentNotFound):
        open_segment(root, "a")
    with pytest.raises(SegmentNotFound):
        delete_segment(root, "a")
    assert create_ring(root, "a", capacity_bytes=4096).info.epoch != reader.info.epoch
    assert not create_ring(root, "b", capacity_bytes=4096).deleted


def test_closed_handles_say_so_and_views_live_on(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=4096)
    ring.append(b"alive")
    view = ring.block(0).data
    ring.close()
    ring.close()
    assert bytes(view) == b"alive"
    for call in (
        lambda: ring.append(b""),
        lambda: ring.block(0),
        lambda: ring.head,
        lambda: ring.read(0),
    ):
        with pytest.raises(Closed, match="'a'"):
            call()
    assert "closed" in repr(ring)


def _damage(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, offset)
    os.close(fd)


@pytest.mark.parametrize("kept", [0, 7, 100, 4095, 4096, 9000, 20479])
def test_truncated(root: Path, kept: int) -> None:
    create_ring(root, "a", capacity_bytes=8192).close()
    os.truncate(path_of(root, "a"), kept)
    with pytest.raises(CorruptSegment, match="'a'"):
        open_segment(root, "a")
    delete_segment(root, "a")  # and there is a way out
    assert list_names(root) == []


@given(st.data())
def test_every_flipped_bit_of_the_superblock_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp()
    if "flip" not in list_names(root):
        create_region(root, "flip", size_bytes=5000).close()
    path = path_of(root, "flip")
    at, bit = data.draw(st.integers(0, 4095)), data.draw(st.integers(0, 7))
    old = path.read_bytes()[at]
    _damage(path, at, bytes([old ^ 1 << bit]))
    try:
        with pytest.raises((CorruptSegment, UnsupportedFormat)):
            open_segment(root, "flip")
    finally:
        _damage(path, at, bytes([old]))
    open_segment(root, "flip").close()


def test_a_later_format(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=8192).close()
    _damage(path_of(root, "a"), 8, struct.pack("<I", 2))
    with pytest.raises(UnsupportedFormat, match="format 2"):
        open_segment(root, "a")


@pytest.mark.parametrize(
    ("offset", "value"),
    [(32, 1 << 60), (32, 4097), (32, 1 << 20), (40, 1 << 40), (40, 1), (48, 1 << 31)],
)
def test_a_superblock_that_lies_with_a_good_crc(root: Path, offset: int, value: int) -> None:
    create_ring(root, "a", capacity_bytes=8192).close()
    path = path_of(root, "a")
    page = bytearray(path.read_bytes()[:4096])
    struct.pack_into("<Q", page, offset, value)
    page[4092:] = struct.pack("<I", crc32c.crc32c(bytes(page[:4092])))
    _damage(path, 0, bytes(page))
    with pytest.raises(CorruptSegment):
        open_segment(root, "a")


def test_counters_that_lie(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=8192, slots=10).close()
    _damage(path_of(root, "a"), 4096, struct.pack("<Q", 999))
    with pytest.raises(CorruptSegment):
        open_segment(root, "a")


def test_not_a_regular_file(root: Path) -> None:
    create_ring(root, "a", capacity_bytes=8192).close()
    path_of(root, "b").symlink_to(path_of(root, "a"))
    path_of(root, "d").mkdir()
    for name in ("b", "d"):
        with pytest.raises((CorruptSegment, OSError)):
            open_segment(root, name)


@pytest.fixture
def small(root: Path):  # type: ignore[no-untyped-def]
    """A file system of 4 MiB, where that may be mounted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", root], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.decode().strip()}")
    yield root
    subprocess.run(["umount", "-l", root], check=True)


def test_a_full_file_system(small: Path) -> None:
    with pytest.raises(NoSpace, match=r"'big'.*bytes are free") as failed:
        create_ring(small, "big", capacity_bytes=64 << 20)
    assert str(small) in str(failed.value)
    assert list(small.iterdir()) == []
    ring = create_ring(small, "fits", capacity_bytes=2 << 20, slots=64)
    assert ring.append(bytes(1 << 20)) == 0


def test_a_shadow_on_a_full_file_system(small: Path, tmp_path: Path) -> None:
    """It is larger than the file system, which is fine until more is filled than there is."""
    ring = create_ring(tmp_path, "a", capacity_bytes=16 << 20, slots=64)
    shadow = create_ring_shadow(small / "a.dsm", ring.info)
    ring.append_many([bytes([i]) * (1 << 20) for i in range(10)])

    def fill_ring() -> None:
        for seq in range(10):
            shadow.fill_blocks(ring.copy_blocks(seq, seq + 1, 1))

    with pytest.raises(NoSpace):
        fill_ring()
    stored = shadow.missing(0, 10)[0].start
    assert 1 <= stored < 5
    shadow.evict(stored)
    assert shadow.fill_blocks(ring.copy_blocks(stored, stored + 1, 1)) == []
    assert bytes(shadow.block(stored)) == bytes([stored]) * (1 << 20)
    shadow.close()
    (small / "a.dsm").unlink()
    region = create_region(tmp_path, "b", size_bytes=16 << 20)
    replica = create_region_shadow(small / "b.dsm", region.info)
    with region.write() as view:
        view[:] = b"x" * len(view)
    replica.advance(1, region.changed_since(0))
    snapshot = region.snapshot()

    def fill_region() -> None:
        for first in range(0, 4096, 256):
            replica.fill_pages(snapshot.copy_pages([Extent(first, first + 256)]))

    with pytest.raises(NoSpace):
        fill_region()
    snapshot.close()


def test_a_shadow_is_found_again(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=1 << 16, header_bytes=4)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    ring.append_many([b"head" + bytes([i]) * 100 for i in range(50)])
    shadow.fill_blocks(ring.copy_blocks(10, 20, 1 << 20))
    shadow.fill_heads(ring.copy_heads(30, 32, 4, 100), 4)
    with pytest.raises(WriterBusy):
        open_shadow(shadow.path)
    shadow.close()
    found = open_shadow(shadow.path)
    assert found.info == ring.info
    assert found.is_shadow
    assert [found.filled(seq) for seq in (9, 10, 19, 20, 30)] == [0, 105, 105, 0, 5]
    assert bytes(found.block(15)) == bytes(ring.block(15))
    with pytest.raises(WrongKind):
        open_shadow(ring.path, write=False)


def test_errors_survive_pickling(root: Path) -> None:
    with pytest.raises(SegmentNotFound) as failed:
        open_segment(root, "x")
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)
