"""One lane: one gRPC channel, so one TCP connection, with its Pull stream.

    open ─▶ pump frames ─▶ (broken) ─▶ wait, with jitter ─▶ open ─▶ ...

A lane connects again for as long as its session is open; who waits for an answer is told by the
session when that has taken too long.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Protocol

from grpc import aio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from dsm.core.compression import Codec
from dsm.core.puller import DEMAND_LANE
from dsm.core.reads import Request
from dsm.wire.convert import request_to_pb
from dsm.wire.protocol import BULK_LANE, LANE, MESSAGE_OVERHEAD_BYTES, PULL, Limits
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.security import Security

BACKOFF_S = 0.05
BACKOFF_S_MAX = 2.0
"""Retries are spread over up to this, so that a node that comes back is not met by all at once."""

SETTLED_S = 1.0
"""A stream that ends sooner was no success, and the next attempt waits: a node that ends every
stream at once is not to be asked a thousand times a second."""

END_S = 1.0
"""A task that has not ended by then is cancelled again."""

KEEPALIVE_MS = 10_000
"""A path that went silent is noticed after this and as much again."""


class LaneOwner(Protocol):
    """The session, as a lane sees it."""

    def lane_opened(self, lane: int) -> None: ...
    def lane_connected(self, lane: int) -> None: ...
    def lane_lost(self, lane: int, error: Exception) -> None: ...
    def frame_arrived(self, lane: int, message: bytes) -> None: ...


def new_channel(address: str, security: Security, limits: Limits) -> aio.Channel:
    """A channel with a TCP connection of its own."""
    size = limits.frame_bytes_max + MESSAGE_OVERHEAD_BYTES
    return security.channel(
        address,
        [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.enable_retries", 0),
        ],
    )


class Lane:
    """Keeps one Pull stream open, and what is to be sent on it in order."""

    def __init__(
        self,
        number: int,
        owner: LaneOwner,
        address: str,
        security: Security,
        *,
        codecs: Collection[Codec],
        retry_s: float,
    ) -> None:
        self.number = number
        self._owner = owner
        self._address = address
        self._security = security
        self._codecs = codecs
        # Who waits for `retry_s` gets several attempts, also where it is short.
        self._backoff_s_max = min(BACKOFF_S_MAX, retry_s / 4)
        self._outgoing: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._connected_at: float | None = None
        self._closed = False
        self._task = asyncio.create_task(self._run(), name=f"dsm-lane-{number}")

    def stop(self) -> None:
        """From now on its owner hears nothing more of it: another may have its number."""
        self._closed = True
        self._task.cancel()

    async def close(self) -> None:
        self.stop()
        await end((self._task,))

    def send(self, request: Request, rate_bytes_s: int) -> int:
        """Queue it to be sent, with the rate that the path has; returns its size."""
        return self._enqueue(request_to_pb(request, codecs=self._codecs, rate_bytes_s=rate_bytes_s))

    def cancel(self, id: int) -> None:
        self._enqueue(pb.PullRequest(id=id, cancel=pb.Cancel()))

    def send_cursor(self, id: int, segment: str, epoch: int, cursor: pb.Cursor) -> None:
        self._enqueue(pb.PullRequest(id=id, segment=segment, epoch=epoch, cursor=cursor))

    def _enqueue(self, message: pb.PullRequest) -> int:
        data = message.SerializeToString()
        self._outgoing.append(data)
        self._wake.set()
        return len(data)

    async def _run(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((aio.AioRpcError, ConnectionError)),
            wait=wait_random_exponential(multiplier=BACKOFF_S, max=self._backoff_s_max),
            before_sleep=self._attempt_failed,
        )
        while not self._closed:
            async for attempt in retrying:
                with attempt:
                    await self._serve_once()

    def _attempt_failed(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, Exception)
        self._lost(error)

    def _lost(self, error: Exception) -> None:
        if not self._closed:
            self._owner.lane_lost(self.number, error)

    async def _serve_once(self) -> None:
        """Until the stream is lost; raises where the node was not reached, or for a moment only.

        Requests may be put on the stream at once: they leave when the connection stands, which
        saves the round trip of asking whether it does.
        """
        if self._closed:
            return
        channel = new_channel(self._address, self._security, Limits())
        self._connected_at = None
        try:
            metadata = () if self.number == DEMAND_LANE else ((LANE, BULK_LANE),)
            call: Any = channel.stream_stream(PULL)(metadata=metadata)
            self._outgoing.clear()
            self._owner.lane_opened(self.number)
            connected = asyncio.create_task(self._connected(call))
            sender = asyncio.create_task(self._send(call))
            try:
                await self._receive(call)
            except (aio.AioRpcError, ConnectionError) as error:
                if not self._was_settled:
                    raise
                self._lost(error)
            finally:
                sender.cancel()
                connected.cancel()
        finally:
            await channel.close()

    async def _connected(self, call: Any) -> None:
        """The node sends its initial metadata as soon as the stream reaches it. Of a stream that
        did not, gRPC makes up an empty one when it ends."""
        await call.initial_metadata()
        if not call.done() and not self._closed:
            self._connected_at = time.monotonic()
            self._owner.lane_connected(self.number)

    @property
    def _was_settled(self) -> bool:
        at = self._connected_at
        return at is not None and time.monotonic() - at >= SETTLED_S

    async def _receive(self, call: Any) -> None:
        while (message := await call.read()) is not aio.EOF:
            self._owner.frame_arrived(self.number, message)
        raise ConnectionError(await call.details() or "the node ended the stream")

    async def _send(self, call: Any) -> None:
        while True:
            while self._outgoing:
                await call.write(self._outgoing.popleft())
            self._wake.clear()
            await self._wake.wait()


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel them, and again until they have ended: of a cancellation that meets a call which fails
    at this very moment, gRPC may make that call's error, and a task that retries goes on."""
    while going_on := [task for task in tasks if not task.done()]:
        for task in going_on:
            task.cancel()
        await asyncio.wait(going_on, timeout=END_S)
    await asyncio.gather(*tasks, return_exceptions=True)
