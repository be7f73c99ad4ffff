"""A full file system is an error that names it, on either side, and never a signal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dsm_client import connect

from dsm.errors import NoSpace
from dsm.model import Kind, SegmentInfo
from dsm.segment import create_region
from tests.nodes import NodeProcess

SMALL_BYTES = 8 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    options = f"size={SMALL_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_creating_through_a_node_says_what_is_full(small: Path, cache: Path) -> None:
    with NodeProcess(small) as node:
        with connect(node.url, cache=str(cache)) as session:
            info = SegmentInfo("large", Kind.REGION, size_bytes=64 << 20)
            with pytest.raises(NoSpace, match="large"):
                session.create(info)
            assert session.list() == []
            session.create(SegmentInfo("fits", Kind.RING, capacity_bytes=1 << 20))
            assert [d.info.name for d in session.list()] == ["fits"]
        node.stop()


def test_a_shadow_that_does_not_fit_is_an_error_of_the_read(
    small: Path, node: NodeProcess, root: Path
) -> None:
    with create_region(root, "w", size_bytes=32 << 20) as region:
        with region.write() as view:
            view[:] = os.urandom(len(view))
        with connect(node.url, map_local=False, cache=str(small)) as session:
            handle = session.open("w", access="copy_once")
            with pytest.raises(NoSpace):
                handle.read()
            exact = session.open("w", access="zero_copy") if _has_room(small) else None
            if exact is not None:
                assert len(exact.read(0, 100)) == 100


def _has_room(path: Path) -> bool:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize > 1 << 20
