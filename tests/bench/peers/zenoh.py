"""Zenoh, peer to peer over TCP: queries for byte ranges, publications (reliable, blocking) live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from ..data import FILES, Dataset, Extent, Sizes
from .interface import PORTS, Buffer, Peer, Reader, Running, paced, register, serves

REPLY_BYTES = 1 << 20
LIVE_PORT = PORTS["zenoh"] + 1
WAIT_S = 20.0


def produce(_folder: str, host: str, _port: int, rate_hz: float, count: int, length: int) -> None:
    """Publishes at a port of its own, once somebody has subscribed."""
    import zenoh

    with zenoh.open(_configuration(listen=f"tcp/{host}:{LIVE_PORT}")) as session:
        publisher = session.declare_publisher(
            "live", congestion_control=zenoh.CongestionControl.BLOCK, express=True
        )
        deadline = time.monotonic() + WAIT_S
        while not publisher.matching_status.matching and time.monotonic() < deadline:
            time.sleep(0.01)
        for block in paced(count, rate_hz, length):
            publisher.put(block)
        time.sleep(1.0)  # what is under way arrives before the session ends


@serves(name="zenoh", produce=produce)
def zenoh(running: Running) -> Iterator[None]:
    sizes = running.data.sizes
    where = [str(running.data.folder), str(sizes.bulk_bytes), str(sizes.blocks)]
    endpoint = f"tcp/{running.host.ipv4}:{running.port}"
    with running.program([sys.executable, "-m", f"{__package__}.zenoh", endpoint, *where]):
        yield


def _configuration(**endpoints: str) -> Any:
    import zenoh

    configuration = zenoh.Config()
    configuration.insert_json5("scouting/multicast/enabled", "false")
    # Both hosts are one machine: it would find that out, and measure shared memory.
    configuration.insert_json5("transport/shared_memory/enabled", "false")
    for role, endpoint in endpoints.items():
        configuration.insert_json5(f"{role}/endpoints", json.dumps([endpoint]))
    return configuration


class ZenohReader(Reader):
    def __init__(self, host: str, port: int) -> None:
        import zenoh

        self._library = zenoh
        self._host = host
        self._session = zenoh.open(_configuration(connect=f"tcp/{host}:{port}"))

    def close(self) -> None:
        self._session.close()

    def read(self, name: str, offset: int, length: int) -> Buffer:
        parts = list(self._get(name, offset, length))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _get(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        replies = self._session.get(
            f"files/{name}?offset={offset};length={length}",
            consolidation=self._library.ConsolidationMode.NONE,
            timeout=60.0,
        )
        for reply in replies:
            yield reply.ok.payload.to_bytes()

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        start, stop = extents[0][0], sum(extents[-1])
        length = extents[0][1]
        for data in self._get(name, start, stop - start):
            view = memoryview(data)
            yield from (view[at : at + length] for at in range(0, len(view), length))

    def tail(self, count: int) -> Iterator[tuple[Buffer, int]]:
        came: Queue[tuple[bytes, int]] = Queue()

        def heard(sample: Any) -> None:
            came.put((sample.payload.to_bytes(), time.time_ns()))

        self.following()
        configuration = _configuration(connect=f"tcp/{self._host}:{LIVE_PORT}")
        configuration.insert_json5("connect/timeout_ms", "10000")
        with self._library.open(configuration) as session:
            subscriber = session.declare_subscriber("live", heard)
            for _ in range(count):
                yield came.get(timeout=WAIT_S)
            subscriber.undeclare()


register(
    Peer(
        "zenoh",
        "zenoh",
        "Zenoh, reliable and blocking",
        ZenohReader,
        frozenset({"sequential", "random", "strided", "first", "cold", "tail", "demand", "seek"}),
        ("zenoh",),
    )
)


def serve(endpoint: str, folder: str, bulk_bytes: str, blocks: str) -> None:
    """The server's process: answers byte ranges, in parts."""
    import zenoh

    data = Dataset(Path(folder), Sizes(int(bulk_bytes), int(blocks)))
    files = {name: data.bytes_of(name) for name in FILES}

    def answer(query: Any) -> None:
        view = files[str(query.key_expr).partition("/")[2]]
        start, length = int(query.parameters["offset"]), int(query.parameters["length"])
        stop = start + length
        for at in range(start, stop, REPLY_BYTES):
            part = bytes(view[at : min(stop, at + REPLY_BYTES)])
            query.reply(query.key_expr, part, congestion_control=zenoh.CongestionControl.BLOCK)

    with zenoh.open(_configuration(listen=endpoint)) as session:
        queryable = session.declare_queryable("files/*", answer, complete=True)
        try:
            time.sleep(86_400)
        finally:
            queryable.undeclare()


if __name__ == "__main__":
    serve(*sys.argv[1:])
