"""All that one session has on the wire: control calls, lanes, events; lives in the event loop.

    Replica ──submit──▶ Puller ──actions──▶ Lane ══▶ node
       ▲                  ▲                  │
       └──── frame ───────┴── frame_arrived ─┘        (`pump` after every input)

The driving loop of the core is `pump`: whatever happened, ask the puller what goes out now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc
from grpc import aio
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

import dsm
from dsm.core.lanes import LaneCount
from dsm.core.path import PathEstimator
from dsm.core.puller import DEMAND_LANE, Cancel, Puller, Send
from dsm.core.reads import Read, Urgency
from dsm.errors import DsmError, MalformedMessage, NodeUnavailable, ProtocolMismatch
from dsm.locality import Proof
from dsm.model import Event, PathEstimate, Position
from dsm.wire.convert import event_from_pb, position_to_pb, proof_from_pb
from dsm.wire.frame import BadFrame, decode_frame
from dsm.wire.protocol import GOING_AWAY, VERSION_MAX, VERSION_MIN, Limits
from dsm.wire.status import RETRYABLE, error_from_frame, error_from_rpc
from dsm.wire.v1 import wire_pb2 as pb
from dsm.wire.v1.wire_pb2_grpc import ControlStub
from dsm_client.lane import BACKOFF_S, BACKOFF_S_MAX, Lane, new_channel

log = logging.getLogger(__name__)

T = TypeVar("T")

PING_S = 1.0
"""Round-trip time is a minimum over 10 s: ten samples."""

CALL_S = 20.0
"""One attempt of a control call."""

CALL_S_LEAST = 1.0
"""Of a session that waits for less, so that a long path does not look like a dead one."""


class Owner(Protocol):
    """Who submitted a read to the puller."""

    def frame(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        """A frame came for it; `header.last` with it, and `header.status` if it failed."""

    def interrupted(self, id: int) -> None:
        """Its connection is gone; submit again what is missing."""

    def failed(self, error: DsmError) -> None:
        """The node cannot be reached; tell who waits."""


@dataclass(slots=True)
class TransportCounts:
    """What crossed the wire in this session (messages, without HTTP/2 and TCP framing)."""

    requests: int = 0
    frames: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    round_trips: int = 0
    """Times a reader had to wait for the network."""
    reconnects: int = 0
    wasted_bytes: int = 0


class Transport:
    """One session's connections to one node."""

    def __init__(self, address: str, *, lanes: int, retry_s: float, lz4: bool) -> None:
        self.address = address
        self.retry_s = retry_s
        self.limits = Limits()
        self.node_id = ""
        self.release = ""
        self.congestion = ""
        self.proof: Proof | None = None
        self.path = PathEstimator()
        self.puller = Puller(self.path)
        self.counts = TransportCounts()
        self.owners: set[Owner] = set()
        self._lane_count = LaneCount(lanes)
        self._lz4 = lz4
        self._lanes: dict[int, Lane] = {}
        self._open_lanes: set[int] = set()
        self._connected_lanes: set[int] = set()
        self._control: aio.Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._subscriptions: dict[str, _Subscription] = {}
        self._watch_requests: asyncio.Queue[pb.WatchRequest] = asyncio.Queue()
        self._pump_due = False
        self._hello_done = asyncio.Event()
        self._giving_up: asyncio.TimerHandle | None = None
        self._last_error: Exception | None = None
        self.loop = asyncio.get_running_loop()

    @staticmethod
    def now() -> float:
        """The clock of the core's machines (an event loop's own may tick in milliseconds)."""
        return time.monotonic()

    def estimate(self) -> PathEstimate:
        return self.path.estimate(self.now())

    # ── life ──

    async def open(self) -> None:
        """Say hello, then open the lanes. Raises `NodeUnavailable`, `ProtocolMismatch`."""
        self._start()
        try:
            await self._hello()
        except BaseException:
            await self.close()
            raise

    def _start(self) -> None:
        """Control channel and lanes connect at the same time, so that reads wait for neither."""
        self._control = new_channel(self.address, self.limits)
        self._open_lane(DEMAND_LANE)
        self._adjust_lanes()
        self._tasks = [
            asyncio.create_task(self._ping_forever(), name="dsm-ping"),
            asyncio.create_task(self._watch_forever(), name="dsm-watch"),
        ]

    def _open_lane(self, number: int) -> None:
        self._lanes[number] = Lane(
            number, self, lambda: new_channel(self.address, self.limits), lz4=self._lz4
        )

    def _adjust_lanes(self) -> None:
        """Have as many bulk lanes as the path takes now."""
        bulk = len(self._lanes) - 1
        wanted = self._lane_count.wanted(self.estimate(), self.now())
        for number in range(bulk + 1, wanted + 1):
            self._open_lane(number)
        for number in range(bulk, wanted, -1):
            if self.puller.is_idle(number):
                self._lane_is_lost(number)
                self._tasks.append(asyncio.create_task(self._lanes.pop(number).close()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        lanes, self._lanes, self._tasks = self._lanes, {}, []
        await asyncio.gather(*(lane.close() for lane in lanes.values()))
        for lane in lanes:
            self._lane_is_lost(lane)
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        if self._control is not None:
            await self._control.close()
            self._control = None

    def resume(self) -> None:
        """After `close`: the same again, with whatever is still wanted."""
        self._start()

    # ── control calls ──

    async def call(self, method: str, request: Any, *, segment: str | None = None) -> Any:
        """One idempotent control call, tried again while the node is away, for `retry_s`."""

        async def once() -> Any:
            assert self._control is not None
            stub: Any = ControlStub(self._control)
            timeout_s = min(CALL_S, max(CALL_S_LEAST, self.retry_s))  # who waits briefly means it
            return await getattr(stub, method)(request, timeout=timeout_s)

        return await self._retried(once, segment)

    async def call_once(self, method: str, request: Any, *, segment: str | None = None) -> Any:
        """One control call that may not be repeated."""
        assert self._control is not None
        stub: Any = ControlStub(self._control)
        try:
            return await getattr(stub, method)(request, timeout=CALL_S)
        except aio.AioRpcError as error:
            raise self._mapped(error, segment) from None

    async def _retried(self, once: Callable[[], Awaitable[T]], segment: str | None = None) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(
                lambda e: isinstance(e, aio.AioRpcError) and e.code() in RETRYABLE
            ),
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
            details = (
                f"not reached, tried for {self.retry_s:g} s; is a node running there? ({details})"
            )
        return error_from_rpc(error.code(), details, address=self.address, segment=segment)

    async def _hello(self) -> None:
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
        self.puller.requests_max = self.limits.requests_max
        self.node_id, self.release = reply.node, reply.release
        self.congestion = reply.congestion
        self.proof = proof_from_pb(reply.locality)
        self._hello_done.set()

    async def ping(self) -> tuple[float, int]:
        """One round trip: its time in seconds, and the node's wall clock in nanoseconds."""
        assert self._control is not None
        stub: Any = ControlStub(self._control)
        started = self.now()
        try:
            reply = await stub.Ping(pb.PingRequest(), timeout=CALL_S)
        except aio.AioRpcError as error:
            raise self._mapped(error, None) from None
        now = self.now()
        self.path.rtt_sampled(now - started, now)
        return now - started, reply.node_ns

    async def _ping_forever(self) -> None:
        await self._hello_done.wait()
        while True:
            try:
                await self.ping()
            except DsmError as error:
                log.debug("ping: %s", error)
            await asyncio.sleep(PING_S)

    # ── reads ──

    def pump(self) -> None:
        """Send what is to be sent; called after whatever may have changed that."""
        for action in self.puller.actions(self.now()):
            match action:
                case Send(lane, request):
                    self.counts.requests += 1
                    self.counts.bytes_sent += self._lanes[lane].send(request)
                case Cancel(lane, id):
                    self._lanes[lane].cancel(id)
        self._watch_patience()

    def pump_soon(self) -> None:
        """`pump` once this turn of the loop is over, however often it is asked for."""
        if not self._pump_due:
            self._pump_due = True
            self.loop.call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_due = False
        if self._lanes:
            self.pump()

    async def read(
        self, segment: str, epoch: int, read: Read, *, bytes_expected: int
    ) -> list[tuple[pb.FrameHeader, memoryview]]:
        """One awaited read, kept by nobody: its frames. Repeated if its connection is lost."""
        direct = _DirectRead(self, segment)
        self.owners.add(direct)
        try:
            while True:
                self.puller.submit(
                    segment,
                    epoch,
                    read,
                    bytes_expected=bytes_expected,
                    urgency=Urgency.AWAITED,
                    owner=direct,
                )
                self.pump_soon()
                if await direct.ended():
                    return direct.frames
        finally:
            self.owners.discard(direct)

    def submit_cursor(self, id: int, segment: str, epoch: int, seq: int | None) -> None:
        if DEMAND_LANE in self._open_lanes:
            self._lanes[DEMAND_LANE].send_cursor(id, segment, epoch, seq)

    # ── LaneOwner ──

    def lane_opened(self, lane: int) -> None:
        self._open_lanes.add(lane)
        self.puller.lane_opened(lane, self.now())
        self.pump_soon()

    def lane_connected(self, lane: int) -> None:
        self._connected_lanes.add(lane)
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def lane_lost(self, lane: int, error: Exception) -> None:
        self._last_error = error
        if lane in self._connected_lanes:
            self.counts.reconnects += 1
        self._lane_is_lost(lane)
        self.pump_soon()

    def _watch_patience(self) -> None:
        """While no lane is connected, readers wait for `retry_s` and are told then."""
        if not self._connected_lanes and self._giving_up is None and self.puller.unfinished:
            self._giving_up = self.loop.call_later(self.retry_s, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        why = f" ({_summary(self._last_error)})" if self._last_error else ""
        away = NodeUnavailable(
            self.address,
            f"not reached, tried for {self.retry_s:g} s; is a node running there?{why}",
        )
        for owner in list(self.owners):
            owner.failed(away)

    def _lane_is_lost(self, lane: int) -> None:
        self._open_lanes.discard(lane)
        self._connected_lanes.discard(lane)
        for id, owner in self.puller.lane_lost(lane, self.now()):
            owner.interrupted(id)  # type: ignore[attr-defined]

    def frame_arrived(self, lane: int, message: bytes) -> None:
        now = self.now()
        self.counts.frames += 1
        self.counts.bytes_received += len(message)
        try:
            header, payload = decode_frame(message, self.limits.frame_bytes_max)
        except BadFrame as error:
            malformed = MalformedMessage(self.address, f"a bad frame: {error}")
            for owner in list(self.owners):
                owner.failed(malformed)
            raise ConnectionError(str(malformed)) from None
        submitter: Any = self.puller.owner(header.id)
        self.puller.frame_arrived(header.id, len(message), now, parked=header.parked)
        if header.last:
            self.puller.finished(header.id, now)
            self._adjust_lanes()
        if submitter is None:
            self.counts.wasted_bytes += len(payload)
        else:
            submitter.frame(header.id, header, payload)
        self.pump_soon()

    # ── events ──

    def subscribe(
        self, segment: str, epoch: int, position: Position, callback: Callable[[Event], None]
    ) -> Callable[[], None]:
        """Have `callback` called in the loop for each event; returns what ends that."""
        subscription = self._subscriptions.get(segment)
        if subscription is None or subscription.epoch != epoch:
            subscription = _Subscription(epoch, position, [])
            self._subscriptions[segment] = subscription
            self._watch_requests.put_nowait(_watch_request(segment, subscription))
        subscription.callbacks.append(callback)

        def unsubscribe() -> None:
            subscription.callbacks.remove(callback)
            if not subscription.callbacks and self._subscriptions.get(segment) is subscription:
                del self._subscriptions[segment]
                self._watch_requests.put_nowait(pb.WatchRequest(segment=segment))

        return unsubscribe

    async def _watch_forever(self) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda e: isinstance(e, aio.AioRpcError)),
            wait=wait_random_exponential(multiplier=BACKOFF_S, max=BACKOFF_S_MAX),
        )
        while True:
            async for attempt in retrying:
                with attempt:
                    await self._watch_once()

    async def _watch_once(self) -> None:
        while not self._subscriptions:
            await self._watch_requests.get()
        assert self._control is not None
        stub: Any = ControlStub(self._control)
        call = stub.Watch()
        while not self._watch_requests.empty():
            self._watch_requests.get_nowait()
        for segment, subscription in list(self._subscriptions.items()):
            await call.write(_watch_request(segment, subscription))
        sender = asyncio.create_task(self._send_watch_requests(call))
        try:
            while (message := await call.read()) is not aio.EOF:
                self._event_arrived(message)
        finally:
            sender.cancel()

    async def _send_watch_requests(self, call: Any) -> None:
        while True:
            await call.write(await self._watch_requests.get())

    def _event_arrived(self, message: pb.Event) -> None:
        try:
            event = event_from_pb(message)
        except ValueError as error:
            log.warning("node %s sent a malformed event: %s", self.address, error)
            return
        subscription = self._subscriptions.get(event.segment)
        if subscription is None:
            return
        if event.gone:
            del self._subscriptions[event.segment]
        elif event.epoch == subscription.epoch:
            subscription.position = event.position
        for callback in tuple(subscription.callbacks):
            callback(event)


@dataclass(slots=True)
class _Subscription:
    epoch: int
    position: Position
    callbacks: list[Callable[[Event], None]]


def _watch_request(segment: str, subscription: _Subscription) -> pb.WatchRequest:
    return pb.WatchRequest(
        segment=segment,
        subscribe=True,
        epoch=subscription.epoch,
        position=position_to_pb(subscription.position),
    )


class _DirectRead:
    """The frames of one read, for `Transport.read`."""

    def __init__(self, transport: Transport, segment: str) -> None:
        self.frames: list[tuple[pb.FrameHeader, memoryview]] = []
        self._transport = transport
        self._segment = segment
        self._done: asyncio.Future[bool] = transport.loop.create_future()

    async def ended(self) -> bool:
        """True when all has come; false when it was interrupted and is to be sent again."""
        complete = await self._done
        if not complete:
            self.frames.clear()
            self._done = self._transport.loop.create_future()
        return complete

    def frame(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        self.frames.append((header, payload))
        if not header.last or self._done.done():
            return
        if header.HasField("status"):
            address = self._transport.address
            self._done.set_exception(error_from_frame(header.status, self._segment, address))
        else:
            self._done.set_result(True)

    def interrupted(self, id: int) -> None:
        if not self._done.done():
            self._done.set_result(False)

    def failed(self, error: DsmError) -> None:
        if not self._done.done():
            self._done.set_exception(error)


def _summary(error: Exception) -> str:
    if isinstance(error, aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) or type(error).__name__
