"""Open, and the first bytes with it: counted in round trips that a reader waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dsm_client
import dsm_client.session
import pytest
from dsm_client import aio

from dsm.errors import NodeUnavailable, SegmentNotFound, UsageError
from dsm.segment import create_region, create_ring
from tests.nodes import NodeProcess

PAGE = bytes(range(256)) * 16


def _region(root: Path, name: str = "region", pages: int = 8) -> Any:
    writer = create_region(root, name, size_bytes=4096 * pages)
    with writer.write() as view:
        view[:] = PAGE * pages
    return writer


def test_the_first_pages_come_with_the_description(
    node: NodeProcess, root: Path, dial: Callable[..., Any]
) -> None:
    with _region(root):
        session = dial(node)
        region = session.open("region", access="copy_once")
        assert bytes(region.read(0, 8192)) == PAGE * 2
        assert session.stats()["requests"] == 0
        assert bytes(region.read(0, 3 * 4096)) == PAGE * 3, "what lies behind is fetched"
        assert session.stats()["round_trips"] == 1


@pytest.mark.parametrize(("at", "length"), [(0, 8192), (5 * 4096 + 7, 4096), (8 * 4096 - 1, 1)])
def test_what_is_read_first_is_told(
    node: NodeProcess, root: Path, dial: Callable[..., Any], at: int, length: int
) -> None:
    with _region(root), create_ring(root, "ring", capacity_bytes=1 << 20) as ring:
        ring.append_many([b"%d" % n for n in range(9)])
        session = dial(node)
        region = session.open("region", at=at)
        assert bytes(region.read(at, length)) == (PAGE * 8)[at : at + length]
        handle = session.open("ring", at=-2 if at else 3)
        assert bytes(handle.read(7 if at else 3).data) == (b"7" if at else b"3")
        assert session.stats()["round_trips"] == 0, "what is requested is ahead of the reader"


@pytest.mark.parametrize("at", [-1, 8 * 4096, 1 << 60])
def test_a_wrong_place_is_of_no_consequence(
    node: NodeProcess, root: Path, dial: Callable[..., Any], at: int
) -> None:
    with _region(root):
        region = dial(node).open("region", at=at)
        assert bytes(region.read(4096, 4096)) == PAGE


def test_the_newest_block_comes_with_the_description(
    node: NodeProcess, root: Path, dial: Callable[..., Any]
) -> None:
    with create_ring(root, "ring", capacity_bytes=1 << 20, header_bytes=4) as ring:
        ring.append_many([b"head%d" % n for n in range(5)])
        session = dial(node)
        handle = session.open("ring", access="hybrid")
        block = handle.read(-1)
        assert (block.seq, bytes(block.data)) == (4, b"head4")
        assert session.stats()["requests"] == 0


@pytest.mark.parametrize("why", ["empty", "too large", "zero_copy", "shadow there"])
def test_nothing_comes_where_it_would_be_of_no_use(
    node: NodeProcess, root: Path, dial: Callable[..., Any], why: str
) -> None:
    with create_ring(root, "ring", capacity_bytes=1 << 20) as ring:
        if why != "empty":
            ring.append(bytes(20_000 if why == "too large" else 20))
        session = dial(node)
        if why == "shadow there":
            session.open("ring").close()
        before = session.stats()["bytes_received"]
        handle = session.open("ring", access="zero_copy" if why == "zero_copy" else "auto")
        assert session.stats()["bytes_received"] == before
        if why != "empty":
            assert len(handle.read(-1)) in (20, 20_000)


def test_a_version_that_went_by_meanwhile_is_not_believed(
    node: NodeProcess, root: Path, dial: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shadow stands at one version, the frame is of another."""
    with _region(root) as writer:
        describe = dsm_client.session._describe

        async def outdated(transport: Any, name: str, first_bytes: int, at: Any) -> Any:
            _, frame = await describe(transport, name, first_bytes, at)
            with writer.write() as view:
                view[:4096] = b"\xff" * 4096
            newer, _ = await describe(transport, name, 0)
            return newer, frame

        monkeypatch.setattr(dsm_client.session, "_describe", outdated)
        assert bytes(dial(node).open("region").read(0, 4096)) == b"\xff" * 4096


def test_a_segment_is_opened_by_its_url(node: NodeProcess, root: Path, cache: Path) -> None:
    with _region(root, "a/b"):
        options = {"map_local": False, "cache": str(cache)}
        with dsm_client.open(f"{node.url}/a/b", access="copy_once", **options) as region:
            assert bytes(region.read(0, 4096)) == PAGE
            assert region.session.counts()["requests"] == 0
        with pytest.raises(Exception, match="closed"):
            asyncio.run(region.session.ready())

        async def awaited() -> bytes:
            async with await aio.open(f"{node.url}/a/b", **options) as region:
                return bytes(await region.read(0, 4096))

        assert asyncio.run(awaited()) == PAGE
        with dsm_client.open(f"{node.url}/a/b", cache=str(cache)) as region:
            assert region.is_mapped


def test_what_cannot_be_opened_by_its_url_says_why(node: NodeProcess, cache: Path) -> None:
    with pytest.raises(UsageError, match="names no segment"):
        dsm_client.open(node.url)
    with pytest.raises(SegmentNotFound, match="nothing/here"):
        dsm_client.open(f"{node.url}/nothing/here", cache=str(cache))
    with pytest.raises(NodeUnavailable):
        dsm_client.open("dsm://127.0.0.1:1/x", retry_s=0.3, cache=str(cache))
