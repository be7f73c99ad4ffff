"""Files behind nginx, read with fsspec: its caches one by one, and concurrent ranges.

`http` is fsspec's default (`bytes`, blocks of 5 MiB, one request a miss), `http-readahead` and
`http-background` (the next block in a thread) its caches for sequential reads, `http-ranges` is
`cat_ranges`, which keeps many requests under way: its documented way to read many pieces.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from ..data import Extent, header_extent, payload_extent
from .interface import Buffer, Peer, Reader, Running, register, serves, which

CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; autoindex on;
  sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;
  server {{ listen {host}:{port}; root {root}; }}
}}
"""
RANGE_BYTES = 4 << 20
"""A request of the concurrent bulk read: 64 of them make 256 MiB."""

RANGES_TOGETHER = 32
"""Asked for in one call: what comes first is handed over when all of them have come."""

RANGES_AT_A_TIME = 8
"""Under way of them, so connections: 32 flows in slow start overran queue and emulator."""


@serves(name="nginx", programs=("nginx",))
def nginx(running: Running) -> Iterator[None]:
    file = running.folder / "nginx.conf"
    file.write_text(
        "user root;"
        + CONFIGURATION.format(
            folder=running.folder,
            root=running.data.folder,
            host=running.host.ipv4,
            port=running.port,
        )
    )
    program = which("nginx")
    assert program is not None
    with running.program([program, "-p", str(running.folder), "-c", str(file)]):
        yield


class HttpReader(Reader):
    """fsspec's file, with one of its caches."""

    def __init__(self, host: str, port: int, *, cache: str) -> None:
        import fsspec

        self._url = f"http://{host}:{port}"
        self._fs: Any = fsspec.filesystem("http", skip_instance_cache=True)
        self._cache = cache
        self._files: dict[str, Any] = {}

    def _open(self, name: str) -> Any:
        if name not in self._files:
            options = {"cache_type": self._cache} if self._cache else {}
            self._files[name] = self._fs.open(f"{self._url}/{name}", **options)
        return self._files[name]

    def read(self, name: str, offset: int, length: int) -> Buffer:
        file = self._open(name)
        file.seek(offset)
        data: bytes = file.read(length)
        return data

    def scattered(
        self, name: str, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        """One after the other: an open file has one position."""
        return super().scattered(name, extents, 1)

    def headers(self, count: int) -> Iterator[Buffer]:
        for seq in range(count):
            yield self.read("blocks", *header_extent(seq))

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        for seq in seqs:
            yield self.read("blocks", *payload_extent(seq))


class RangesReader(HttpReader):
    """Every read is a range request of its own; many together are sent together."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, cache="none")

    def read(self, name: str, offset: int, length: int) -> Buffer:
        return self._ranges(name, [(offset, length)], 1)[0]

    def _ranges(self, name: str, extents: Sequence[Extent], depth: int) -> list[bytes]:
        data: list[bytes] = self._fs.cat_ranges(
            [f"{self._url}/{name}"] * len(extents),
            [offset for offset, _ in extents],
            [offset + length for offset, length in extents],
            batch_size=depth,
            on_error="raise",
        )
        return data

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        start, stop = extents[0][0], sum(extents[-1])
        length = extents[0][1]
        step = RANGE_BYTES * RANGES_TOGETHER
        for first in range(start, stop, step):
            last = min(stop, first + step)
            ranges = [(at, min(RANGE_BYTES, last - at)) for at in range(first, last, RANGE_BYTES)]
            for data in self._ranges(name, ranges, RANGES_AT_A_TIME):
                view = memoryview(data)
                yield from (view[at : at + length] for at in range(0, len(view), length))

    def scattered(
        self, name: str, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        if depth == 1:
            yield from super().scattered(name, extents, 1)
            return
        yield from ((data, 0.0) for data in self._ranges(name, extents, depth))

    def headers(self, count: int) -> Iterator[Buffer]:
        yield from self._ranges("blocks", [header_extent(seq) for seq in range(count)], 128)

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        yield from self._ranges("blocks", [payload_extent(seq) for seq in seqs], 128)


MODULES = ("fsspec", "aiohttp", "fsspec.implementations.http")
PIECEWISE = frozenset({"sequential", "random", "strided", "first", "cold", "demand", "seek"})
ALL = PIECEWISE | {"headers", "payloads"}


def _cached(name: str, cache: str, kinds: frozenset[str]) -> None:
    title = f"fsspec HTTP, cache `{cache}`" if cache else "fsspec HTTP, default cache"
    opened = functools.partial(HttpReader, cache=cache)
    register(Peer(name, "nginx", title, opened, kinds, MODULES))


_cached("http", "", ALL)
_cached("http-readahead", "readahead", PIECEWISE)
_cached("http-background", "background", frozenset({"sequential", "strided", "demand", "seek"}))
_cached("http-adaptive", "adaptive", frozenset({"sequential", "strided", "demand", "seek"}))
register(
    Peer(
        "http-ranges",
        "nginx",
        "fsspec HTTP, concurrent `cat_ranges`",
        RangesReader,
        ALL,
        MODULES,
        connections=RANGES_AT_A_TIME,
        in_order=False,
    )
)
