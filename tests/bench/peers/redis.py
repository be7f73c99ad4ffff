"""Redis: a string per file, read with GETRANGE: one by one, or pipelined; live data in a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..data import FILES, Extent, header_extent, payload_extent
from .interface import Buffer, Peer, Reader, Running, paced, register, serves

PIPELINED_BYTES = 16 << 20
PIPELINED_MAX = 4096
"""Of one pipeline: redis-py collects all its answers before it hands over the first."""


def produce(_folder: str, host: str, port: int, rate_hz: float, count: int, length: int) -> None:
    client = _connect(host, port)
    for block in paced(count, rate_hz, length):
        client.xadd("live", {"b": block}, maxlen=100_000, approximate=True)


@serves(name="redis", programs=("redis-server",), produce=produce)
def redis(running: Running) -> Iterator[None]:
    host, port = running.host.ipv4, running.port
    options = ("--save", "", "--appendonly", "no", "--protected-mode", "no", "--bind", host)
    command = ["redis-server", "--port", str(port), *options, "--dir", str(running.folder)]
    with running.program(command):

        def load() -> None:
            client = _connect(host, port)
            for name in FILES:
                client.set(name, bytes(running.data.bytes_of(name)))
            client.close()

        running.host.call(load)
        yield


def _connect(host: str, port: int) -> Any:
    import redis as client

    return client.Redis(host=host, port=port)


class RedisReader(Reader):
    def __init__(self, host: str, port: int) -> None:
        self._client = _connect(host, port)

    def close(self) -> None:
        self._client.close()

    def read(self, name: str, offset: int, length: int) -> Buffer:
        data: bytes = self._client.getrange(name, offset, offset + length - 1)
        return data

    def headers(self, count: int) -> Iterator[Buffer]:
        for seq in range(count):
            yield self.read("blocks", *header_extent(seq))

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        for seq in seqs:
            yield self.read("blocks", *payload_extent(seq))

    def tail(self, count: int) -> Iterator[tuple[Buffer, int]]:
        last: Any = self._client.xinfo_stream("live")["last-generated-id"] if self._has() else "0"
        self.following()
        while count > 0:
            answer = self._client.xread({"live": last}, block=20_000, count=1000)
            now = time.time_ns()
            if not answer:
                return
            entries = answer[0][1]
            last = entries[-1][0]
            count -= len(entries)
            yield from ((fields[b"b"], now) for _, fields in entries)

    def _has(self) -> bool:
        return bool(self._client.exists("live"))


class PipelinedReader(RedisReader):
    """As many commands as fit go out together."""

    def _pipelined(self, name: str, extents: Sequence[Extent], depth: int) -> Iterator[Buffer]:
        for first in range(0, len(extents), depth):
            pipeline = self._client.pipeline(transaction=False)
            for offset, length in extents[first : first + depth]:
                pipeline.getrange(name, offset, offset + length - 1)
            yield from pipeline.execute()

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        yield from self._pipelined(name, extents, PIPELINED_BYTES // extents[0][1])

    def scattered(
        self, name: str, extents: Sequence[Extent], depth: int
    ) -> Iterator[tuple[Buffer, float]]:
        if depth == 1:
            yield from super().scattered(name, extents, depth)
            return
        yield from ((data, 0.0) for data in self._pipelined(name, extents, depth))

    def headers(self, count: int) -> Iterator[Buffer]:
        yield from self._pipelined(
            "blocks", [header_extent(seq) for seq in range(count)], PIPELINED_MAX
        )

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        yield from self._pipelined("blocks", [payload_extent(seq) for seq in seqs], PIPELINED_MAX)


MODULES = ("redis",)
register(
    Peer(
        "redis",
        "redis",
        "Redis, GETRANGE one by one",
        RedisReader,
        frozenset({"sequential", "random", "strided", "first", "cold", "tail", "demand", "seek"}),
        MODULES,
    )
)
register(
    Peer(
        "redis-pipelined",
        "redis",
        "Redis, GETRANGE pipelined",
        PipelinedReader,
        frozenset({"sequential", "random", "headers", "payloads", "demand", "seek"}),
        MODULES,
    )
)
