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
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from grpc import aio

from dsm.core.compression import Codec
from dsm.core.habits import Habits
from dsm.core.lanes import LaneCount
from dsm.core.path import PathEstimator
from dsm.core.puller import DEMAND_LANE, Cancel, Puller, Send
from dsm.core.reads import Read, Urgency
from dsm.errors import Closed, DsmError, MalformedMessage, NodeUnavailable
from dsm.model import PathEstimate
from dsm.wire.frame import CODECS_BACK, BadFrame, decode_frame
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.control import Control
from dsm_client.direct import DirectRead
from dsm_client.events import Events
from dsm_client.lane import Lane, end
from dsm_client.security import Security

log = logging.getLogger(__name__)

BAD_STREAMS_MAX = 3
"""Streams in a row that were given up for what came on them, before readers are told: a bit that
was flipped on the way is fetched again, a node that makes no sense is an error."""

ADJUST_S = 0.01
"""From an answer until the number of lanes is adjusted, once for all that come meanwhile: to open
one takes longer, and bulk brings a thousand answers a second."""


class Owner(Protocol):
    """Who submitted a read to the puller."""

    def frame(self, id: int, header: pb.FrameHeader, payload: memoryview) -> None:
        """A frame came for it; `header.last` with it, and `header.status` if it failed."""

    def interrupted(self, id: int) -> None:
        """Its connection is gone; submit again what is missing."""

    def failed(self, error: DsmError) -> None:
        """The node cannot be reached; tell who waits."""


@dataclass(slots=True, eq=False)
class Cursor:
    """How far a reader has come that a producer waits for."""

    id: int
    segment: str
    epoch: int
    seq: int
    """It needs everything from here on; any thread may set it."""
    answer: DirectRead
    """Ends as soon as the node has registered it, or says why it does not."""
    told: int = -1


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

    def __init__(
        self,
        address: str,
        security: Security,
        *,
        lanes: int,
        retry_s: float,
        codecs: Collection[Codec],
    ) -> None:
        self.address = address
        self.security = security
        self.retry_s = retry_s
        self.events = Events()
        self.path = PathEstimator()
        self.puller = Puller(self.path)
        self.habits = Habits()
        self.counts = TransportCounts()
        self.owners: set[Owner] = set()
        self._lane_count = LaneCount(lanes)
        self._codecs = codecs
        self._lanes: dict[int, Lane] = {}
        self._cursors: dict[int, Cursor] = {}
        self._open_lanes: set[int] = set()
        self._connected_lanes: set[int] = set()
        self._control: Control | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._pump_due = False
        self._adjust_due = False
        self._ping_due = asyncio.Event()
        self._answered_at = 0.0
        self._giving_up: asyncio.TimerHandle | None = None
        self._last_error: Exception | None = None
        self._bad_streams = 0
        self.loop = asyncio.get_running_loop()

    @staticmethod
    def now() -> float:
        """The clock of the core's machines (an event loop's own may tick in milliseconds)."""
        return time.monotonic()

    def estimate(self) -> PathEstimate:
        return self.path.estimate(self.now())

    # ── life ──

    def start(self) -> None:
        """Control channel and lanes connect at the same time, so that reads wait for neither."""
        self._control = Control(self.address, self.security, self.retry_s)
        self._open_lane(DEMAND_LANE)
        self._adjust_lanes()
        self._tasks = [asyncio.create_task(self.events.run(self._control), name="dsm-watch")]

    async def greet(self) -> None:
        """After `start`: say hello. Raises `NodeUnavailable`, `ProtocolMismatch`; close it then."""
        control = self.control
        await control.hello()
        self.puller.requests_max = control.limits.requests_max
        self._tasks.append(asyncio.create_task(self._ping_forever(), name="dsm-ping"))

    @property
    def control(self) -> Control:
        """Control calls, and what the node said of itself."""
        if self._control is None:
            raise Closed(f"the session with {self.address} is closed; connect again")
        return self._control

    def _open_lane(self, number: int) -> None:
        self._lanes[number] = Lane(
            number, self, self.address, self.security, codecs=self._codecs, retry_s=self.retry_s
        )

    def _adjust_lanes(self) -> None:
        """Have as many bulk lanes as the path takes now."""
        bulk = len(self._lanes) - 1
        full = self.path.is_filled(self._answered_at)
        wanted = self._lane_count.wanted(self.estimate(), self.now(), full=full)
        self.puller.lanes_used = self._lane_count.used
        for number in range(bulk + 1, wanted + 1):
            self._open_lane(number)
        while bulk > wanted and self.puller.is_idle(bulk):  # the last first: numbers have no gaps
            self._lane_is_lost(bulk)
            lane = self._lanes.pop(bulk)
            lane.stop()
            closing = asyncio.create_task(lane.close())
            self._tasks = [task for task in self._tasks if not task.done()] + [closing]
            bulk -= 1

    def _adjust_soon(self, now: float) -> None:
        """An answer is complete: `_adjust_lanes` after `ADJUST_S`, however many come meanwhile."""
        self._answered_at = now
        if not self._adjust_due:
            self._adjust_due = True
            self.loop.call_later(ADJUST_S, self._adjust_now)

    def _adjust_now(self) -> None:
        self._adjust_due = False
        if self._lanes:  # not while closing
            self._adjust_lanes()
            self.pump_soon()

    async def close(self) -> None:
        await end(self._tasks)
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
        self.start()
        self._tasks.append(asyncio.create_task(self._ping_forever(), name="dsm-ping"))

    async def ping(self) -> float:
        """Seconds of one round trip; the path estimate learns of it."""
        rtt_s, _ = await self.control.ping()
        self.path.rtt_sampled(rtt_s, self.now())
        self.pump_soon()  # something may be late, and nothing else comes
        return rtt_s

    async def _ping_forever(self) -> None:
        while True:
            try:
                await self.ping()
            except DsmError as error:
                log.debug("ping: %s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.path.ping_interval_s(self.now())):
                    await self._ping_due.wait()
            self._ping_due.clear()

    # ── reads ──

    def pump(self) -> None:
        """Send what is to be sent; called after whatever may have changed that."""
        actions = self.puller.actions(self.now())
        rate_bytes_s = int(self.estimate().rate_bps / 8) if actions else 0
        for action in actions:
            match action:
                case Send(lane, request):
                    self.counts.requests += 1
                    self.counts.bytes_sent += self._lanes[lane].send(request, rate_bytes_s)
                case Cancel(lane, id):
                    self._lanes[lane].cancel(id)
        if self.path.take_ping_due():
            self._ping_due.set()
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
        direct = DirectRead(self.address, segment)
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

    def register(self, segment: str, epoch: int, seq: int) -> Cursor:
        """For a reader that the producer is to wait for, once its `answer` has come."""
        answer = DirectRead(self.address, segment)
        cursor = Cursor(self.puller.new_id(), segment, epoch, seq, answer)
        self._cursors[cursor.id] = cursor
        self.owners.add(answer)
        self._send_cursor(cursor)
        self._watch_patience()
        return cursor

    def unregister(self, cursor: Cursor) -> None:
        del self._cursors[cursor.id]
        self.owners.discard(cursor.answer)
        self._send_cursor(cursor, ended=True)

    def tell_cursors(self) -> None:
        """The node how far readers have come."""
        for cursor in self._cursors.values():
            if cursor.told != cursor.seq:
                self._send_cursor(cursor)

    def _send_cursor(self, cursor: Cursor, *, ended: bool = False) -> None:
        if DEMAND_LANE in self._open_lanes:
            cursor.told = cursor.seq
            message = pb.Cursor(seq=cursor.seq, ended=ended)
            self._lanes[DEMAND_LANE].send_cursor(cursor.id, cursor.segment, cursor.epoch, message)

    # ── LaneOwner ──

    def lane_opened(self, lane: int) -> None:
        self._open_lanes.add(lane)
        self.puller.lane_opened(lane, self.now())
        if lane == DEMAND_LANE:  # a stream that ended has unregistered them
            for cursor in self._cursors.values():
                self._send_cursor(cursor)
        self.pump_soon()

    def lane_connected(self, lane: int) -> None:
        self._connected_lanes.add(lane)
        self.puller.lane_connected(lane, self.now())
        self.pump_soon()
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def lane_lost(self, lane: int, error: Exception) -> None:
        self._last_error = error
        if lane in self._connected_lanes:
            self.counts.reconnects += 1
        if _is_malformed(error):
            self._bad_streams += 1
        if self._bad_streams >= BAD_STREAMS_MAX:
            self._bad_streams = 0
            self._all_failed(MalformedMessage(self.address, _summary(error)))
        self._lane_is_lost(lane)
        self.pump_soon()

    def _watch_patience(self) -> None:
        """While no lane is connected, readers wait for `retry_s` and are told then."""
        if self._connected_lanes or self._giving_up is not None:
            return
        if self.puller.unfinished or any(c.answer.is_waiting for c in self._cursors.values()):
            self._giving_up = self.loop.call_later(self.retry_s, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        why = _summary(self._last_error) if self._last_error else ""
        away = self.security.not_reached(why, self.retry_s)
        self._all_failed(NodeUnavailable(self.address, away))

    def _all_failed(self, error: DsmError) -> None:
        """Whoever waits is told."""
        for owner in list(self.owners):
            owner.failed(error)

    def _lane_is_lost(self, lane: int) -> None:
        self._open_lanes.discard(lane)
        self._connected_lanes.discard(lane)
        for id, owner in self.puller.lane_lost(lane, self.now()):
            owner.interrupted(id)  # type: ignore[attr-defined]

    def frame_arrived(self, lane: int, message: bytes) -> None:
        try:
            self._frame_arrived(message)
        except ConnectionError:
            raise
        except Exception as error:  # a bug of ours: nobody is to wait for ever because of it
            log.exception("a frame on lane %d", lane)
            self._all_failed(DsmError(f"internal error: {error!r}"))
            raise ConnectionError(f"internal error: {error!r}") from error

    def _frame_arrived(self, message: bytes) -> None:
        now = self.now()
        self.counts.frames += 1
        self.counts.bytes_received += len(message)
        try:
            header, payload = decode_frame(message, self.control.limits.frame_bytes_max)
        except BadFrame as error:
            raise _BadStream(f"a bad frame: {error}") from None
        if not self.puller.was_submitted(header.id) and not header.HasField("status"):
            raise _BadStream(f"an answer to request {header.id}, which was never asked")
        self._bad_streams = 0
        cursor = self._cursors.get(header.id)
        submitter: Any = cursor.answer if cursor else self.puller.owner(header.id)
        self.puller.frame_arrived(
            header.id,
            len(message),
            now,
            parked=header.parked,
            decoded_bytes=len(payload),
            codec=CODECS_BACK[header.codec],
        )
        if header.last:
            self.puller.finished(header.id, now)
        if submitter is None:
            self.counts.wasted_bytes += len(payload)
        else:
            try:
                submitter.frame(header.id, header, payload)
            except Exception:
                submitter.interrupted(header.id)  # it is not known what of it was taken in
                raise
        if header.last:
            self._adjust_soon(now)
        self.pump_soon()


class _BadStream(ConnectionError):
    """What came cannot be understood; the connection is made anew."""


def _is_malformed(error: Exception) -> bool:
    if isinstance(error, aio.AioRpcError):  # a message larger than was agreed
        return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return isinstance(error, _BadStream)


def _summary(error: Exception) -> str:
    if isinstance(error, aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) or type(error).__name__
