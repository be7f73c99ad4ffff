"""What a client asks that makes no sense costs it an error, and nobody else anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from dsm_client import Session

from dsm.errors import (
    CorruptSegment,
    EpochGone,
    InvalidName,
    SegmentNotFound,
    UnsupportedFormat,
    UsageError,
)
from dsm.segment import create_region, create_ring, delete_segment, path_of
from dsm.wire.frame import decode_frame
from dsm.wire.protocol import PULL
from dsm.wire.v1 import wire_pb2 as pb
from tests.nodes import NodeProcess

Dial = Callable[..., Session]
HUGE = 2**64 - 1


@pytest.fixture
def names(shared_node: NodeProcess, name: str) -> Iterator[tuple[str, str]]:
    with (
        create_ring(shared_node.root, f"{name}/r", capacity_bytes=1 << 16) as ring,
        create_region(shared_node.root, f"{name}/m", size_bytes=1 << 16),
    ):
        ring.append_many([b"block"] * 10)
        yield f"{name}/r", f"{name}/m"


def answers(address: str, messages: list[bytes]) -> list[pb.FrameHeader]:
    """Headers of the frames that answer these, until each request has its last."""
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(PULL)(iter(messages), timeout=10)
        return [decode_frame(frame, 1 << 20)[0] for frame in call]


def _blocks(first: int, count: int, *, park: bool = False) -> pb.Blocks:
    return pb.Blocks(runs=[pb.Run(first=first, count=count)], park=park)


def _count(header: pb.FrameHeader) -> int:
    return sum(run.count for run in header.runs)


def _what(segment: str, region: str) -> dict[str, pb.PullRequest]:
    run = pb.Run(first=HUGE, count=HUGE)
    return {
        "nothing": pb.PullRequest(id=1, segment=segment),
        "no id": pb.PullRequest(segment=segment, blocks=_blocks(0, 1)),
        "traversal": pb.PullRequest(id=1, segment="../../etc/passwd", bytes=pb.Bytes(length=1)),
        "unknown": pb.PullRequest(id=1, segment="no/such", blocks=_blocks(0, 1)),
        "another epoch": pb.PullRequest(id=1, segment=segment, epoch=9, blocks=_blocks(0, 1)),
        "pages of a ring": pb.PullRequest(id=1, segment=segment, pages=pb.Pages()),
        "bytes of a ring": pb.PullRequest(id=1, segment=segment, bytes=pb.Bytes(length=1)),
        "no blocks": pb.PullRequest(id=1, segment=segment, blocks=pb.Blocks()),
        "blocks out of order": pb.PullRequest(
            id=1,
            segment=segment,
            blocks=pb.Blocks(runs=[pb.Run(first=3, count=1), pb.Run(count=1)]),
        ),
        "blocks of a region": pb.PullRequest(id=1, segment=region, blocks=_blocks(0, 1)),
        "pages beyond": pb.PullRequest(id=1, segment=region, pages=pb.Pages(need=[run])),
        "refresh beyond": pb.PullRequest(id=1, segment=region, pages=pb.Pages(refresh=[run])),
        "bytes beyond": pb.PullRequest(
            id=1, segment=region, bytes=pb.Bytes(offset=HUGE, length=HUGE)
        ),
        "a version to come": pb.PullRequest(id=1, segment=region, pages=pb.Pages(version=HUGE)),
        "an old cursor": pb.PullRequest(id=1, segment=region, cursor=pb.Cursor(seq=HUGE)),
    }


@pytest.mark.parametrize("what", _what("", ""))
def test_is_answered_with_why(shared_node: NodeProcess, names: tuple[str, str], what: str) -> None:
    request = _what(*names)[what]
    good = pb.PullRequest(id=5, segment=names[0], blocks=_blocks(0, 3))
    frames = answers(shared_node.address, [request.SerializeToString(), good.SerializeToString()])
    by_id = {header.id: header for header in frames}
    assert _count(by_id[5]) == 3, "the stream goes on"
    refused = by_id[request.id]
    assert refused.last
    assert refused.status.code not in (pb.OK, pb.INTERNAL)
    assert refused.status.message


def test_garbage(shared_node: NodeProcess, names: tuple[str, str]) -> None:
    chance = random.Random(9)
    good = pb.PullRequest(id=5, segment=names[0], blocks=_blocks(0, 3)).SerializeToString()
    messages = [chance.randbytes(chance.randrange(60)) for _ in range(300)]
    for _ in range(300):
        damaged = bytearray(good)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        messages.append(bytes(damaged))
    final = pb.PullRequest(id=999_999, segment=names[0], blocks=_blocks(0, 3))
    frames = answers(shared_node.address, [*messages, bytes(300 << 10), final.SerializeToString()])
    assert any(header.id == 999_999 and _count(header) == 3 for header in frames)


def test_a_name_twice_and_too_many(shared_node: NodeProcess, names: tuple[str, str]) -> None:
    parked = [
        pb.PullRequest(id=n, segment=names[0], blocks=_blocks(50, 10, park=True))
        for n in [1, 1, *range(2, 1100)]
    ]
    cancels = [pb.PullRequest(id=n, cancel=pb.Cancel()) for n in range(1, 1025)]
    frames = answers(shared_node.address, [r.SerializeToString() for r in [*parked, *cancels]])
    codes = [header.status.code for header in frames]
    assert codes.count(pb.INVALID) == 1
    assert codes.count(pb.EXHAUSTED) == 1099 - 1024
    assert codes.count(pb.CANCELLED) == 1024


def test_through_the_client(shared_node: NodeProcess, dial: Dial, names: tuple[str, str]) -> None:
    session = dial(shared_node)
    with pytest.raises(SegmentNotFound, match="no/such"):
        session.open("no/such")
    for bad in ("", "../x", "/abs", "a b"):
        with pytest.raises(InvalidName):
            session.open(bad)
    with pytest.raises(UsageError, match="choose one of"):
        session.open(names[0], access="best")
    with pytest.raises(UsageError, match="scheme"):
        dial("http://localhost:1")


def test_an_epoch_that_is_over(shared_node: NodeProcess, dial: Dial, name: str) -> None:
    for method in ("copy_once", "zero_copy"):
        with create_ring(shared_node.root, name, capacity_bytes=1 << 16) as writer:
            writer.append_many([b"old"] * 9)
            session = dial(shared_node)
            ring = session.open(name, access=method)
            ring.read(0)
        delete_segment(shared_node.root, name)
        with create_ring(shared_node.root, name, capacity_bytes=1 << 16) as writer:
            writer.append_many([b"new"] * 9)
            with pytest.raises(EpochGone, match="open it again"):
                ring.read(5)
            assert bytes(session.open(name).read(5).data) == b"new"
        delete_segment(shared_node.root, name)


def test_damaged_files(node: NodeProcess, root: Path, dial: Dial) -> None:
    for name in ("good", "short", "torn", "later"):
        create_ring(root, name, capacity_bytes=1 << 16).close()
    with path_of(root, "short").open("r+b") as file:
        file.truncate(5000)
    with path_of(root, "torn").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 16)
    _make_later(path_of(root, "later"))
    session = dial(node)
    for name, error in (
        ("short", CorruptSegment),
        ("torn", CorruptSegment),
        ("later", UnsupportedFormat),
    ):
        with pytest.raises(error, match=name):
            session.open(name)
    assert [found.info.name for found in session.list()] == ["good"]
    assert session.open("good").head == 0


def _make_later(path: Path) -> None:
    from dsm.segment import layout

    with path.open("r+b") as file:
        at = len(layout.MAGIC)
        file.seek(at)
        file.write((99).to_bytes(4, "little"))


def test_a_full_budget_slows_and_does_not_grow(
    shared_node: NodeProcess, dial: Dial, cache: Path, name: str
) -> None:
    size, budget = 8 << 20, 2 << 20
    with create_region(shared_node.root, name, size_bytes=size) as writer:
        with writer.write() as view:
            view[:] = random.Random(1).randbytes(size)
        del view
        region: Any = dial(shared_node, budget_bytes=budget).open(name, access="copy_once")
        for offset in range(0, size, 1 << 18):
            with writer.snapshot() as truth:
                assert region.read(offset, 1 << 18) == truth[offset : offset + (1 << 18)]
            used = sum(p.stat().st_blocks * 512 for p in cache.rglob("*.dsm"))
            assert used < budget + (2 << 20)
        with pytest.raises(Exception, match="budget"):
            region.read()


def test_a_ring_within_its_budget_is_fetched_again(
    shared_node: NodeProcess, dial: Dial, cache: Path, name: str
) -> None:
    with create_ring(shared_node.root, name, capacity_bytes=8 << 20) as writer:
        writer.append_many([bytes([n % 256]) * 4000 for n in range(1500)])
        ring = dial(shared_node, budget_bytes=2 << 20).open(name, access="copy_once")
        for _ in range(2):
            for block in ring.blocks():
                assert block.data[0] == block.seq % 256
        used = sum(p.stat().st_blocks * 512 for p in cache.rglob("*.dsm"))
        assert used < 5 << 20
        assert ring.read(0).data[0] == 0
