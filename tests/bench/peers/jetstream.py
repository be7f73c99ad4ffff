"""NATS JetStream: a file in its object store, blocks as messages, live data as a stream.

A header travels as a message header, so that a consumer of headers only gets just that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..data import ARRAYS, BLOCK_BYTES, HEADER_BYTES, Extent
from .interface import Buffer, Peer, Reader, Running, paced, register, serves

CONFIGURATION = """
listen: "{host}:{port}"
max_payload: 1MB
jetstream {{ store_dir: "{folder}/nats", max_mem: 2GB, max_file: 4GB }}
"""
GETS_AT_A_TIME = 64
WAIT_S = 20.0


def produce(_folder: str, host: str, port: int, rate_hz: float, count: int, length: int) -> None:
    """Published and acknowledged one after the other, without waiting for it."""

    async def publish() -> None:
        import nats

        client = await nats.connect(f"nats://{host}:{port}")
        stream = client.jetstream()
        began = time.monotonic()
        acknowledged = []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
            block = next(paced(1, rate_hz, length))
            block = block[:8] + number.to_bytes(8, "little") + block[16:]
            acknowledged.append(await stream.publish_async("live.block", block))
        await asyncio.gather(*acknowledged)
        await client.close()

    asyncio.run(publish())


@serves(name="nats", programs=("nats-server",), produce=produce)
def nats(running: Running) -> Iterator[None]:
    file = running.folder / "nats.conf"
    file.write_text(
        CONFIGURATION.format(host=running.host.ipv4, port=running.port, folder=running.folder)
    )

    async def load() -> None:
        import nats as library

        client = await library.connect(f"nats://{running.host.ipv4}:{running.port}")
        stream = client.jetstream()
        await stream.add_stream(name="live", subjects=["live.>"], storage="memory")
        await stream.add_stream(
            name="blocks", subjects=["blocks.>"], storage="memory", allow_direct=True
        )
        store = await stream.create_object_store("arrays", storage="memory")
        for name in ARRAYS:
            await store.put(name, bytes(running.data.bytes_of(name)))
        blocks = running.data.bytes_of("blocks")
        for seq in range(running.data.sizes.blocks):
            at = seq * BLOCK_BYTES
            header = base64.b64encode(blocks[at : at + HEADER_BYTES]).decode()
            payload = bytes(blocks[at + HEADER_BYTES : at + BLOCK_BYTES])
            await stream.publish("blocks.block", payload, headers={"h": header})
        await client.close()

    with running.program(["nats-server", "-c", str(file)]):
        running.host.call(lambda: asyncio.run(load()))
        yield


class NatsReader(Reader):
    def __init__(self, host: str, port: int) -> None:
        import nats

        self._loop = asyncio.new_event_loop()
        self._client = self._run(nats.connect(f"nats://{host}:{port}"))
        self._stream = self._client.jetstream()

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    def warm(self, name: str, size: int) -> None:
        self._run(self._client.flush())

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        """As much as has come is handed over after every turn of the loop."""
        store = self._run(self._stream.object_store("arrays"))
        came = _Pieces(extents[0][1])
        getting = self._loop.create_task(store.get(name, writeinto=came))
        handed, wanted = 0, len(extents)
        try:
            while handed < wanted:
                while came.ready and handed < wanted:
                    handed += 1
                    yield came.ready.pop(0)
                if handed < wanted:
                    if getting.done():
                        getting.result()
                        came.flush()
                        assert came.ready, "the object is shorter than it should be"
                    else:
                        self._run(asyncio.sleep(0))
        finally:
            getting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._run(getting)

    def headers(self, count: int) -> Iterator[Buffer]:
        from nats.js.api import ConsumerConfig

        subscription = self._run(
            self._stream.subscribe(
                "blocks.>", ordered_consumer=True, config=ConsumerConfig(headers_only=True)
            )
        )
        for _ in range(count):
            message = self._run(subscription.next_msg(timeout=WAIT_S))
            yield base64.b64decode(message.headers["h"])
        self._run(subscription.unsubscribe())

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        async def get(seq: int) -> bytes:
            message = await self._stream.get_msg("blocks", seq + 1, direct=True)
            data: bytes = message.data
            return data

        async def some(chosen: Sequence[int]) -> list[bytes]:
            return await asyncio.gather(*map(get, chosen))

        for first in range(0, len(seqs), GETS_AT_A_TIME):
            yield from self._run(some(seqs[first : first + GETS_AT_A_TIME]))

    def tail(self, count: int) -> Iterator[tuple[Buffer, int]]:
        from nats.js.api import DeliverPolicy

        subscription = self._run(
            self._stream.subscribe(
                "live.>", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
            )
        )
        self._run(self._client.flush())
        self.following()
        for _ in range(count):
            message = self._run(subscription.next_msg(timeout=WAIT_S))
            yield message.data, time.time_ns()


class _Pieces:
    """A file to write into, which cuts what is written into reads of one length."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rest = bytearray()
        self.ready: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._rest += data
        while len(self._rest) >= self._length:
            self.ready.append(bytes(self._rest[: self._length]))
            del self._rest[: self._length]
        return len(data)

    def flush(self) -> None:
        if self._rest:
            self.ready.append(bytes(self._rest))
            self._rest.clear()


register(
    Peer(
        "nats",
        "nats",
        "NATS JetStream",
        NatsReader,
        frozenset({"sequential", "headers", "payloads", "tail"}),
        ("nats",),
    )
)
