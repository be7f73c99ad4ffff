"""The control channel: hello, and calls that are answered with one message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc import aio
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

import dsm
from dsm.errors import DsmError, MalformedMessage, ProtocolMismatch
from dsm.locality import Proof
from dsm.wire.convert import proof_from_pb
from dsm.wire.protocol import GOING_AWAY, VERSION_MAX, VERSION_MIN, Limits
from dsm.wire.status import RETRYABLE, error_from_rpc
from dsm.wire.v1 import wire_pb2 as pb
from dsm.wire.v1.wire_pb2_grpc import ControlStub
from dsm_client.lane import BACKOFF_S, BACKOFF_S_MAX, new_channel
from dsm_client.security import Security, refusal

T = TypeVar("T")

CALL_S = 20.0
"""One attempt of a control call."""

CALLS_END_S = 0.5
"""For calls that are under way when the process forks."""

CALL_S_LEAST = 1.0
"""Of a session that waits for less, so that a long path does not look like a dead one."""


class Control:
    """One channel, and what the node said of itself."""

    def __init__(self, address: str, security: Security, retry_s: float) -> None:
        self.address = address
        self.security = security
        self.retry_s = retry_s
        self.limits = Limits()
        self.node_id = ""
        self.release = ""
        self.congestion = ""
        self.proof: Proof | None = None
        self._channel = new_channel(address, security, self.limits)
        self.stub: Any = ControlStub(self._channel)
        self._calls = 0

    async def close(self) -> None:
        """What is under way ends first, as far as that does not take long."""
        deadline_s = time.monotonic() + CALLS_END_S
        while self._calls and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await self._channel.close()
        del self._channel
        self.stub = None  # gRPC shuts down with the last object that refers to it

    async def call(self, method: str, request: Any, *, segment: str | None = None) -> Any:
        """One idempotent control call, tried again while the node is away, for `retry_s`."""

        async def once() -> Any:
            timeout_s = min(CALL_S, max(CALL_S_LEAST, self.retry_s))  # who waits briefly means it
            return await getattr(self.stub, method)(request, timeout=timeout_s)

        self._calls += 1
        try:
            return await self._retried(once, segment)
        finally:
            self._calls -= 1

    async def call_once(self, method: str, request: Any, *, segment: str | None = None) -> Any:
        """One control call that may not be repeated."""
        try:
            return await getattr(self.stub, method)(request, timeout=CALL_S)
        except aio.AioRpcError as error:
            raise self._mapped(error, segment) from None

    async def _retried(self, once: Callable[[], Awaitable[T]], segment: str | None = None) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=BACKOFF_S, max=BACKOFF_S_MAX),
            stop=stop_after_delay(self.retry_s),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await once()
        except aio.AioRpcError as error:
            raise self._mapped(error, segment) from None
        raise AssertionError("unreachable")

    def _mapped(self, error: aio.AioRpcError, segment: str | None) -> DsmError:
        details = error.details() or ""
        if error.code() is grpc.StatusCode.UNAVAILABLE and GOING_AWAY not in details:
            details = self.security.not_reached(details, self.retry_s)
        return error_from_rpc(error.code(), details, address=self.address, segment=segment)

    async def hello(self) -> None:
        """Agree on a version and limits. Raises `NodeUnavailable`, `ProtocolMismatch`."""
        request = pb.HelloRequest(
            version_min=VERSION_MIN,
            version_max=VERSION_MAX,
            client=f"dsm-python {dsm.__version__}",
            limits=self.limits.to_pb(),
        )
        reply: pb.HelloReply = await self.call("Hello", request)
        if not VERSION_MIN <= reply.version <= VERSION_MAX:
            raise ProtocolMismatch(
                self.address,
                f"it chose protocol {reply.version}; this client speaks "
                f"{VERSION_MIN} to {VERSION_MAX}: upgrade the client",
            )
        try:
            self.limits = self.limits.agree(Limits.from_pb(reply.limits))
        except ValueError as error:
            raise MalformedMessage(self.address, f"limits that cannot be: {error}") from None
        self.node_id, self.release = reply.node, reply.release
        self.congestion = reply.congestion
        self.proof = proof_from_pb(reply.locality)

    async def ping(self) -> tuple[float, int]:
        """One round trip: its time in seconds, and the node's wall clock in nanoseconds."""
        started = time.monotonic()
        try:
            reply = await self.stub.Ping(pb.PingRequest(), timeout=CALL_S)
        except aio.AioRpcError as error:
            raise self._mapped(error, None) from None
        return time.monotonic() - started, reply.node_ns


def _may_pass(error: BaseException) -> bool:
    """Whether the next attempt may do better."""
    return (
        isinstance(error, aio.AioRpcError)
        and error.code() in RETRYABLE
        and not refusal(error.details() or "")
    )
