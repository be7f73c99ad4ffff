"""Ours: `dsm` as it comes, `dsm-hints` told beforehand how it will be read."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data import ARRAYS, BLOCK_BYTES, HEADER_BYTES, Extent
from .interface import Buffer, Peer, Reader, Running, paced, register, serves

LIVE_BYTES = 64 << 20


def produce(folder: str, _host: str, _port: int, rate_hz: float, count: int, length: int) -> None:
    """Appends to the file: a producer needs no node."""
    from dsm.segment import open_segment

    ring: Any = open_segment(Path(folder) / "root", "live", write=True)
    with ring:
        for block in paced(count, rate_hz, length):
            ring.append(block)


DAEMON = "dsm_server.daemon"
REFUSED = f"{__package__}.node_refused"


@serves(name="node", produce=produce)
def node(running: Running) -> Iterator[None]:
    yield from _node(running, DAEMON, "--insecure")


@serves(name="node-refused")
def node_refused(running: Running) -> Iterator[None]:
    yield from _node(running, REFUSED, "--insecure")


@serves(name="node-tls")
def node_tls(running: Running) -> Iterator[None]:
    from ...certificates import Authority, tls

    files = Authority(running.folder).issue(running.host.ipv4)
    yield from _node(running, DAEMON, *tls(files))


def _node(running: Running, module: str, *options: str) -> Iterator[None]:
    from dsm.segment import create_region, create_ring

    root = running.folder / "root"
    root.mkdir(exist_ok=True)
    data = running.data
    for name in ARRAYS:
        with (
            create_region(root, name, size_bytes=data.sizes.of(name)) as region,
            region.write() as view,
        ):
            view[:] = data.bytes_of(name)
    blocks = data.bytes_of("blocks")
    capacity = data.sizes.of("blocks") + (1 << 20)
    with create_ring(
        root, "blocks", capacity_bytes=capacity, header_bytes=HEADER_BYTES, slots=data.sizes.blocks
    ) as ring:
        for seq in range(data.sizes.blocks):
            ring.append(blocks[seq * BLOCK_BYTES : (seq + 1) * BLOCK_BYTES])
    create_ring(root, "live", capacity_bytes=LIVE_BYTES, header_bytes=16).close()
    command = [sys.executable, "-m", module, *options, "--root", str(root)]
    with running.program([*command, "--listen", f"{running.host.ipv4}:{running.port}"]):
        yield


class DsmReader(Reader):
    """A session that never maps, with shadows of its own."""

    def __init__(self, host: str, port: int, *, best: bool) -> None:
        from dsm_client import connect

        self._best = best
        self._cache = tempfile.TemporaryDirectory(prefix="cache-")
        self._session = connect(f"dsm://{host}:{port}", **self._options)
        self._opened: dict[tuple[str, str], Any] = {}

    @property
    def _options(self) -> dict[str, Any]:
        return {"map_local": False, "insecure": True, "cache": self._cache.name}

    def close(self) -> None:
        self._session.close()
        self._cache.cleanup()

    def _open(self, name: str, access: str = "auto", at: int | None = None) -> Any:
        key = name, access
        if key not in self._opened:
            self._opened[key] = self._session.open(name, access=access, at=at)
        return self._opened[key]

    def _ring(self) -> Any:
        return self._open("blocks", "hybrid" if self._best else "auto")

    def read(self, name: str, offset: int, length: int) -> Buffer:
        if name == "blocks":
            header: memoryview = self._ring().read(offset // BLOCK_BYTES).header
            return header
        view: memoryview = self._open(name, at=offset).read(offset, length)
        return view

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        region = self._open(name, at=extents[0][0])
        if self._best:
            region.hint("sequential")
        for offset, length in extents:
            yield region.read(offset, length)

    def scattered(
        self, name: str, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        region = self._open(name, at=extents[0][0])
        if self._best:
            region.hint("random")
        if depth > 1 and self._best:
            return self._vectored(region, extents, depth)
        return super().scattered(name, extents, depth)

    def _vectored(
        self, region: Any, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        for first in range(0, len(extents), depth):
            started = time.perf_counter()
            views = region.read_many(extents[first : first + depth])
            for view in views:
                yield view, time.perf_counter() - started

    def headers(self, count: int) -> Iterator[Buffer]:
        for block in self._ring().blocks(0, count):
            yield block.header

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        for block in self._ring().read_many(seqs, whole=True):
            yield block.payload

    def tail(self, count: int) -> Iterator[tuple[Buffer, int]]:
        ring = self._open("live")
        blocks = ring.follow(start=ring.head, timeout_s=20)
        self.following()
        for _ in range(count):
            block = next(blocks)
            yield bytes(block.header) + bytes(block.payload), time.time_ns()

    def explain(self) -> str:
        """In the words of the handle that was read last."""
        return list(self._opened.values())[-1].explain() if self._opened else ""


class OpenReader(DsmReader):
    """One segment by its address: session and handle in one."""

    def __init__(self, host: str, port: int) -> None:
        self._best = False
        self._cache = tempfile.TemporaryDirectory(prefix="cache-")
        self._node = f"dsm://{host}:{port}"
        self._opened: dict[tuple[str, str], Any] = {}

    def close(self) -> None:
        for handle in self._opened.values():
            handle.close()
        self._cache.cleanup()

    def _open(self, name: str, access: str = "auto", at: int | None = None) -> Any:
        import dsm_client

        key = name, access
        if key not in self._opened:
            url = f"{self._node}/{name}"
            self._opened[key] = dsm_client.open(url, access, at=at, **self._options)
        return self._opened[key]


class TlsReader(OpenReader):
    """The same, and the node has a certificate."""

    @property
    def _options(self) -> dict[str, Any]:
        ca = Path(os.environ["BENCH_SERVER_FOLDER"]) / "ca.pem"
        return {"map_local": False, "ca": ca, "cache": self._cache.name}


ARRAY = frozenset({"sequential", "random", "strided", "first", "cold", "demand", "seek"})
KINDS = ARRAY | {"headers", "payloads", "tail"}


for name, title in (("dsm", "this project, defaults"), ("dsm-hints", "this project, hints given")):
    opened = functools.partial(DsmReader, best=name == "dsm-hints")
    register(Peer(name, "node", title, opened, KINDS, ("dsm_client",)))
register(
    Peer(
        "dsm-refused",
        "node-refused",
        "this project, BBR refused to the node",
        functools.partial(DsmReader, best=False),
        frozenset({"sequential"}),
        ("dsm_client",),
    )
)
register(
    Peer(
        "dsm-open",
        "node",
        "this project, one segment opened by its address",
        OpenReader,
        frozenset({"cold"}),
        ("dsm_client",),
    )
)
register(
    Peer(
        "dsm-tls",
        "node-tls",
        "this project, one segment opened by its address, over TLS",
        TlsReader,
        frozenset({"cold"}),
        ("dsm_client", "trustme"),
    )
)
