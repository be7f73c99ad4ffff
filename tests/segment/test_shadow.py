"""What comes from a network is not believed, and what is held or missing is not touched."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.errors import BudgetExceeded, NotFilled, UsageError
from dsm.model import Extent
from dsm.segment import (
    BlockRun,
    PageRuns,
    RegionShadow,
    RegionWriter,
    RingShadow,
    create_region,
    create_region_shadow,
    create_ring,
    create_ring_shadow,
    open_region,
    open_ring,
    open_shadow,
    split_run,
)


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ring and one region for all examples; each example has a shadow of its own."""
    root = tmp_path_factory.mktemp("shadow")
    ring = create_ring(root, "ring", capacity_bytes=1 << 14, header_bytes=10, slots=32)
    ring.append_many([bytes([i]) * (i * 3) for i in range(60)])
    region = create_region(root, "region", size_bytes=5 * 4096 + 100)
    with region.write() as view:
        view[:] = b"abcd" * (len(view) // 4)
    return root


def flip(data: bytes | memoryview, bit: int) -> bytes:
    out = bytearray(data)
    if out:
        out[bit // 8 % len(out)] ^= 1 << bit % 8
    return bytes(out)


@given(
    bit=st.integers(0, 1 << 20),
    rows=st.booleans(),
    part=st.sampled_from(["whole", "heads", "bodies"]),
)
def test_a_flipped_bit_never_gets_into_a_ring(where: Path, bit: int, rows: bool, part: str) -> None:
    with open_ring(where, "ring") as ring:
        first, stop = ring.tail, ring.head
        shadow = create_ring_shadow(where / "s" / "ring.dsm", ring.info)
        try:
            shadow.advance(stop, first)
            if part == "bodies":
                assert shadow.fill_heads(ring.copy_heads(first, stop, 12, 1 << 20), 12) == []
            run = {
                "whole": lambda: ring.copy_blocks(first, stop, 1 << 20),
                "heads": lambda: ring.copy_heads(first, stop, 12, 1 << 20),
                "bodies": lambda: ring.copy_bodies(first, stop, 12, 1 << 20),
            }[part]()
            bad = (
                run._replace(rows=flip(run.rows, bit))
                if rows
                else run._replace(data=flip(run.data, bit))
            )
            fill = {
                "whole": lambda r: shadow.fill_blocks(r),
                "heads": lambda r: shadow.fill_heads(r, 12),
                "bodies": lambda r: shadow.fill_bodies(r, 12),
            }[part]
            refused = fill(bad)
            for seq in range(first, stop):
                have = shadow.filled(seq) - 1
                if have > 10 and have < len(ring.block(seq)):
                    have = 10  # beyond the ring's own header a head is verified with its body
                if have >= 0:
                    assert bytes(shadow.block(seq))[:have] == bytes(ring.block(seq))[:have]
                assert part == "bodies" or (shadow.filled(seq) == 0) == (
                    seq in refused or seq >= run.stop
                )
            assert fill(run) == []
            assert part == "heads" or shadow.missing(first, run.stop) == []
        finally:
            shadow.close()
            shadow.path.unlink()


@given(bit=st.integers(0, 1 << 20), crcs=st.booleans())
def test_a_flipped_bit_never_gets_into_a_region(where: Path, bit: int, crcs: bool) -> None:
    with open_region(where, "region") as region:
        shadow = create_region_shadow(where / "s" / "region.dsm", region.info)
        try:
            shadow.advance(1, [Extent(0, 6)])
            snapshot = region.snapshot()
            with snapshot as view:
                run = snapshot.copy_pages([Extent(0, 6)])
                bad = (
                    run._replace(crcs=flip(run.crcs, bit))
                    if crcs
                    else run._replace(data=flip(run.data, bit))
                )
                (page,) = shadow.fill_pages(bad)
                assert shadow.missing() == [Extent(page, page + 1)]
                assert shadow.fill_pages(run) == []
                assert shadow.read() == view
        finally:
            shadow.close()
            shadow.path.unlink()


def test_runs_that_make_no_sense_are_refused(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=4096, header_bytes=8, slots=8)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    ring.append_many([b"x" * 100] * 8)
    run = ring.copy_blocks(0, 8, 1 << 20)
    for bad in (
        run._replace(first=1),
        run._replace(count=7),
        run._replace(rows=run.rows[:-1]),
        run._replace(data=run.data[:-1]),
        run._replace(data=bytes(run.data) + b"x"),
        BlockRun(0, 9, run.rows + run.rows[:40], run.data),
        run._replace(rows=run.rows[40:] + run.rows[:40]),
    ):
        assert shadow.fill_blocks(bad) == list(range(bad.first, bad.first + bad.count))
    assert shadow.missing(0, 8) == []  # nothing is known to be there yet
    shadow.advance(8, 0)
    assert shadow.missing(0, 8) == [Extent(0, 8)]
    assert shadow.fill_blocks(BlockRun(3, 0, b"", b"")) == []
    region = create_region(root, "r", size_bytes=8192)
    replica = create_region_shadow(root / "s" / "r.dsm", region.info)
    pages = region.snapshot().copy_pages([Extent(0, 2)])
    huge = 1 << 64
    for wrong in (
        *(pages._replace(runs=(Extent(*run),)) for run in ((1, 3), (0, 3), (-1, 1), (0, huge))),
        *(
            pages._replace(runs=(Extent(*first), Extent(*second)))
            for first, second in (
                ((1, 2), (0, 1)),
                ((0, 1), (0, 1)),
                ((0, 2), (1, 1)),
                ((0, 2), (2, 2)),
                ((0, huge), (huge, huge + 1)),
            )
        ),
        pages._replace(runs=()),
        pages._replace(data=b""),
        pages._replace(data=bytes(pages.data) + b"x"),
        pages._replace(versions=b""),
        pages._replace(crcs=pages.crcs[1:]),
    ):
        with pytest.raises(ValueError, match="pages"):
            replica.fill_pages(wrong)
    assert replica.missing() == [Extent(0, 2)]
    assert replica.fill_pages(pages) == []


def test_held_blocks_are_not_overwritten(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=4096, slots=64)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    for seq in range(4):
        ring.append(bytes([seq]) * 1024)
    assert shadow.fill_blocks(ring.copy_blocks(0, 4, 4096)) == []
    held = shadow.block(1).payload[100:200]
    ring.append_many([bytes([9]) * 1024] * 2)
    first, second = (ring.copy_blocks(seq, seq + 1, 4096) for seq in (4, 5))
    assert shadow.can_fill(first)
    assert shadow.fill_blocks(first) == []
    assert not shadow.can_fill(second)
    with pytest.raises(BudgetExceeded):
        shadow.fill_blocks(second)
    (private,), bad = split_run(second, shadow.info)
    assert bytes(private) == bytes([9]) * 1024
    assert private.intact
    assert bad == []
    assert bytes(held) == bytes([1]) * 100
    del held
    assert shadow.can_fill(second)
    assert shadow.fill_blocks(second) == []
    assert split_run(second._replace(data=b"y" * 1024), shadow.info) == ([], [5])


def test_evict_gives_memory_back_but_not_what_is_held(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=8 << 20, slots=64)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    ring.append_many([bytes([seq]) * (1 << 20) for seq in range(8)])
    empty = shadow.resident_bytes
    shadow.fill_blocks(ring.copy_blocks(0, 8, 8 << 20))
    assert shadow.resident_bytes >= 8 << 20
    held = shadow.block(2).data
    shadow.evict(6)
    assert shadow.resident_bytes <= empty + (3 << 20) + (1 << 19)
    assert shadow.missing(0, 8) == [Extent(0, 6)]
    assert bytes(held) == bytes([2]) * (1 << 20)
    assert bytes(shadow.block(7)) == bytes([7]) * (1 << 20)
    del held
    shadow.evict(8)
    assert shadow.resident_bytes <= empty + (1 << 19)
    assert shadow.fill_blocks(ring.copy_blocks(0, 8, 8 << 20)) == []
    assert shadow.missing(0, 8) == []


def test_headers_of_large_blocks_take_the_pages_that_they_are_on(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=8 << 20, slots=256, header_bytes=64)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    blocks = [bytes([seq]) * (32 << 10) for seq in range(200)]
    ring.append_many(blocks)
    empty = shadow.resident_bytes
    assert shadow.fill_heads(ring.copy_heads(0, 200, 64, 8 << 20), 64) == []
    assert shadow.missing(0, 200, 64) == []
    assert bytes(shadow.block(150).header) == blocks[150][:64]
    assert shadow.resident_bytes <= empty + 200 * 4096 + (1 << 19)
    assert shadow.fill_bodies(ring.copy_bodies(0, 200, 64, 8 << 20), 64) == []
    assert [bytes(shadow.block(seq)) for seq in range(200)] == blocks


def test_a_region_shadow_goes_round_what_is_held(root: Path) -> None:
    region = create_region(root, "a", size_bytes=1 << 20)
    shadow = create_region_shadow(root / "s" / "a.dsm", region.info)
    held = []
    for version in range(1, 5):
        with region.write(0, 4096) as view:
            view[:] = bytes([version]) * 4096
        shadow.advance(version, region.changed_since(version - 1))
        snapshot = region.snapshot()
        with snapshot:
            shadow.fill_pages(snapshot.copy_pages([Extent(0, 256)]))
        held.append(shadow.view(0, 4096)[:10])
    assert shadow.resident_bytes > 4 << 20
    with pytest.raises(BudgetExceeded, match="let go"):
        shadow.advance(5, [Extent(0, 1)])
    assert shadow.missing() == []
    assert [bytes(view) for view in held] == [bytes([v]) * 10 for v in range(1, 5)]
    assert shadow.version == 4
    held.clear()
    assert shadow.resident_bytes < 2 << 20
    shadow.advance(5, [Extent(0, 1)])
    assert shadow.missing() == [Extent(0, 1)]
    with pytest.raises(NotFilled):
        shadow.view(100, 1)
    shadow.advance(3, [Extent(0, 256)])
    assert shadow.version == 5, "it never goes back"


def pulled(root: Path) -> tuple[RegionWriter, RegionShadow]:
    """A region of two pages, "1" and "1", and a shadow that has all of it."""
    region = create_region(root, "a", size_bytes=8192)
    shadow = create_region_shadow(root / "s" / "a.dsm", region.info)
    commit(region, shadow, 0, b"1" * 8192)
    return region, shadow


def commit(region: RegionWriter, shadow: RegionShadow, at: int, data: bytes) -> None:
    """Both are of the new version then, and the shadow has what it is allowed to have."""
    with region.write(at, len(data)) as view:
        view[:] = data
    shadow.advance(region.version, region.changed_since(region.version - 1))
    with (snapshot := region.snapshot()):
        shadow.fill_pages(snapshot.copy_pages([Extent(0, 2)]))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", ["advance", "drop"])
def test_a_reader_that_comes_while_pages_are_taken_away(
    root: Path, monkeypatch: pytest.MonkeyPatch, how: str, late: bool
) -> None:
    """Just before, or just after it was asked what is held: its views stay what they are."""
    region, shadow = pulled(root)
    held, views = shadow._leases.held, []

    def come() -> None:
        for page in (0, 1):
            with contextlib.suppress(NotFilled):
                views.append(shadow.view(page * 4096, 4096))

    def asked(index: int) -> bool:
        if not late:
            come()
        answer = held(index)
        if late:
            come()
        return answer

    monkeypatch.setattr(shadow._leases, "held", asked)
    if how == "advance":
        commit(region, shadow, 0, b"2" * 4096)
    else:
        shadow.drop(Extent(0, 1))
    monkeypatch.undo()
    assert views
    assert {bytes(view) for view in views} == {b"1" * 4096}
    expected = b"2" if how == "advance" else b"1"
    if late and how == "drop":
        assert shadow.missing() == [Extent(0, 1)]
    else:
        assert shadow.view(0, 4096) == expected * 4096


def test_a_reader_that_is_overtaken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked up the current buffer, which was left and given back before it took a view."""
    region, shadow = pulled(root)
    lend, holder = shadow._leases.view, [shadow.view(0, 1)]

    def late(index: int) -> memoryview:
        monkeypatch.undo()
        commit(region, shadow, 4096, b"2" * 4096)  # goes round what is held
        holder.clear()
        assert shadow.resident_bytes  # gives back what only holders kept
        return lend(index)

    monkeypatch.setattr(shadow._leases, "view", late)
    assert shadow.view(0, 4096) == b"1" * 4096
    assert shadow.view(4096, 4096) == b"2" * 4096


def test_pages_of_other_versions(root: Path) -> None:
    region = create_region(root, "a", size_bytes=2 * 4096)
    shadow = create_region_shadow(root / "s" / "a.dsm", region.info)
    runs: list[PageRuns] = []
    for version in (1, 2):
        with region.write(0, 1) as view:
            view[0] = version
        snapshot = region.snapshot()
        with snapshot:
            runs.append(snapshot.copy_pages([Extent(0, 2)]))
    shadow.advance(1, [Extent(0, 2)])
    shadow.advance(2, [Extent(0, 1)])
    assert shadow.fill_pages(runs[0]) == []
    assert shadow.missing() == [Extent(0, 1)], "page 1 did not change after version 1, page 0 did"
    assert shadow.fill_pages(runs[1]) == []
    assert shadow.missing() == []
    assert shadow.view(0, 1)[0] == 2


def test_a_relay_exports_what_is_here_and_no_more(root: Path) -> None:
    ring = create_ring(root, "a", capacity_bytes=1 << 16, header_bytes=4)
    shadow = create_ring_shadow(root / "s" / "a.dsm", ring.info)
    ring.append_many([bytes([i]) * 100 for i in range(30)])
    shadow.advance(ring.head, ring.tail)
    shadow.fill_blocks(ring.copy_blocks(0, 10, 1 << 20))
    shadow.fill_heads(ring.copy_heads(10, 20, 4, 1 << 20), 4)
    reader = open_shadow(shadow.path, write=False)
    assert isinstance(reader, RingShadow)
    assert reader.copy_blocks(0, 30, 1 << 20) == ring.copy_blocks(0, 10, 1 << 20)
    assert reader.copy_heads(5, 30, 4, 1 << 20) == ring.copy_heads(5, 20, 4, 1 << 20)
    assert [block.seq for block in reader.blocks(0, 30)] == list(range(10))
    for call in (
        lambda: reader.read(10),
        lambda: reader.block(20),
        lambda: reader.descriptor(20),
        lambda: reader.copy_blocks(10, 30, 1),
        lambda: reader.copy_bodies(10, 30, 4, 1),
    ):
        with pytest.raises(NotFilled):
            call()
    with pytest.raises(UsageError):
        reader.fill_blocks(ring.copy_blocks(10, 20, 1 << 20))
    region = create_region(root, "b", size_bytes=8192 + 100)
    replica = create_region_shadow(root / "s" / "b.dsm", region.info)
    assert isinstance(replica, RegionShadow)
    pages = [Extent(0, 1), Extent(2, 3)]
    run = region.snapshot().copy_pages(pages)
    replica.fill_pages(run)
    assert replica.copy_pages(pages) == run
    with pytest.raises(NotFilled):
        replica.copy_pages([Extent(0, 1), Extent(1, 2)])
    with pytest.raises(NotFilled):
        replica.snapshot()
