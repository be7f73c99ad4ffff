"""One Pull stream: requests in, frames out, one at a time in the exporter's order.

context.read ─▶ _requested ─▶ Exporter ◀─ Exports (bell) ─ moved
                                 │
                          _send_frames ─▶ answers ─▶ encode ─▶ context.write
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from dsm.core.compression import Codec
from dsm.core.exporter import DuplicateRequest, Exporter, Serve, TooManyRequests
from dsm.core.reads import Request
from dsm.errors import BudgetExceeded, DsmError, EpochGone, UsageError
from dsm.model import Extent
from dsm.segment import RingCursor
from dsm.wire.convert import codecs_from_pb, request_from_pb
from dsm.wire.frame import encode_frame
from dsm.wire.protocol import GOING_AWAY, Limits
from dsm.wire.status import frame_status
from dsm.wire.v1 import wire_pb2 as pb
from dsm_server.answers import Answer, Frame, answer, complete
from dsm_server.compression import Compressor
from dsm_server.exports import Exported, Exports
from dsm_server.leases import Leases

log = logging.getLogger(__name__)

Context = Any

REQUEST_BYTES_MAX = 256 << 10
CURSORS_MAX = 64
"""As many as a ring has places for."""

NOTICES_MAX = 256
"""Refusals and confirmations that wait to be sent; a client that does not take them is not listened
to meanwhile."""


class PullStream:
    """One client lane."""

    def __init__(
        self,
        context: Context,
        exports: Exports,
        leases: Leases,
        compressor: Compressor,
        limits: Limits,
        closing: asyncio.Event,
    ) -> None:
        self._context = context
        self._exports = exports
        self._leases = leases
        self._compressor = compressor
        self._limits = limits
        self._closing = closing
        self._exporter = Exporter(limits.requests_max)
        self._answers: dict[int, tuple[Exported, Answer, tuple[Codec, ...]]] = {}
        self._path_rate = 0
        self._notices: deque[bytes] = deque()
        self._taken = asyncio.Event()
        self._cursors: dict[int, RingCursor] = {}
        self._listening: set[Exported] = set()
        self._wake = asyncio.Event()
        self._ended = False

    async def run(self) -> None:
        reader = asyncio.create_task(self._read_requests())
        closer = asyncio.create_task(self._await_closing())
        await self._context.send_initial_metadata(())  # tells the client that it is connected
        try:
            await self._send_frames()
        finally:
            reader.cancel()
            closer.cancel()
            self._drop_everything()
        if self._closing.is_set():
            await self._context.abort(grpc.StatusCode.UNAVAILABLE, GOING_AWAY)

    # ── in ──

    async def _read_requests(self) -> None:
        try:
            while (message := await self._context.read()) is not aio.EOF:
                self._message_arrived(message)
                self._wake.set()
                while len(self._notices) >= NOTICES_MAX:
                    self._taken.clear()
                    await self._taken.wait()
        finally:
            self._ended = True
            self._wake.set()

    async def _await_closing(self) -> None:
        await self._closing.wait()
        self._wake.set()

    def _message_arrived(self, message: bytes) -> None:
        """Take on what it asks for; what is malformed costs its sender an error."""
        parsed = pb.PullRequest()
        try:
            if len(message) > REQUEST_BYTES_MAX:
                raise UsageError(f"a request of {len(message)} bytes; {REQUEST_BYTES_MAX} at most")
            parsed.ParseFromString(message)
            if parsed.WhichOneof("what") == "cancel":
                self._cancelled(parsed.id)
                return
            if parsed.WhichOneof("what") == "cursor":
                self._cursor_moved(parsed)
                return
            self._requested(request_from_pb(parsed), codecs_from_pb(parsed))
            self._path_rate = parsed.rate_bytes_s
        except (DecodeError, ValueError, OSError, DsmError) as error:
            self._refused(parsed.id, error)

    def _requested(self, request: Request, codecs: tuple[Codec, ...]) -> None:
        try:
            self._exporter.requested(request)
        except TooManyRequests:
            raise BudgetExceeded(
                f"{self._limits.requests_max} requests are unanswered on this stream; wait for some"
            ) from None
        except DuplicateRequest:
            raise UsageError(f"request id {request.id} is still unanswered") from None
        try:
            exported = self._exports.get(request.segment, request.epoch)
            self._answers[request.id] = (
                exported,
                answer(exported, request, self._leases),
                codecs,
            )
        except BaseException:
            self._exporter.ended(request.id)
            raise

    def _cancelled(self, id: int) -> None:
        if self._exporter.ended(id) is not None:
            self._forget(id)
            status = pb.Status(code=pb.CANCELLED)
            self._notices.append(encode_frame(pb.FrameHeader(id=id, last=True, status=status), ()))

    def _cursor_moved(self, message: pb.PullRequest) -> None:
        """A reader that the producer is to wait for has come so far, or is done."""
        cursor = self._cursors.get(message.id)
        if message.cursor.ended:
            if cursor is not None:
                self._cursors.pop(message.id).close()
        elif cursor is not None:
            cursor.advance(message.cursor.seq)
        elif len(self._cursors) >= CURSORS_MAX:
            raise BudgetExceeded(f"{CURSORS_MAX} registered readers on one stream is the most")
        else:
            ring = self._exports.get(message.segment, message.epoch).ring
            self._cursors[message.id] = ring.register(message.cursor.seq)
            self._notices.append(encode_frame(pb.FrameHeader(id=message.id, last=True), ()))

    def _refused(self, id: int, error: Exception) -> None:
        known = error if isinstance(error, DsmError) else UsageError(f"bad request: {error}")
        header = pb.FrameHeader(id=id, last=True, status=frame_status(known))
        self._notices.append(encode_frame(header, ()))

    # ── out ──

    async def _send_frames(self) -> None:
        while not self._closing.is_set():
            while self._notices:
                await self._context.write(self._notices.popleft())
                self._taken.set()
            serve = self._exporter.next_serve()
            if serve is not None:
                frame = self._next_frame(serve)
                if frame is not None:
                    await self._context.write(frame)
                continue
            if self._ended:
                return
            self._wake.clear()
            await self._wake.wait()

    def _next_frame(self, serve: Serve) -> bytes | None:
        request = serve.request
        exported, reply, codecs = self._answers[request.id]
        try:
            if exported.gone:
                raise EpochGone(request.segment, "it was deleted or recreated")
            frame = reply.next_frame(self._limits.frame_bytes_max)
        except DsmError as error:
            return self._failed(request, exported, error)
        except Exception as error:
            log.exception("reading %s", request)
            return self._failed(request, exported, DsmError(f"internal error: {error!r}"))
        if frame is None:
            self._park(request, exported)
            return None
        header = complete(frame, request, exported)
        header.parked = serve.was_parked
        if header.last:
            self._exporter.ended(request.id)
            self._forget(request.id)
        else:
            self._exporter.served(request.id)
        return self._compressor.encode(exported, header, frame.pieces, codecs, self._path_rate)

    def _failed(self, request: Request, exported: Exported, error: DsmError) -> bytes:
        self._exporter.ended(request.id)
        self._forget(request.id)
        frame = Frame(pb.FrameHeader(last=True, status=frame_status(error)))
        return encode_frame(complete(frame, request, exported), ())

    def _park(self, request: Request, exported: Exported) -> None:
        self._exporter.parked(request.id)
        if exported not in self._listening:
            self._listening.add(exported)
            self._exports.listen(exported, self._moved)
            self._moved(exported, ())  # look again: it may have grown before we listened

    def _moved(self, exported: Exported, changed: tuple[Extent, ...]) -> None:
        if not self._exporter.moved(exported.info.name) and not exported.gone:
            self._listening.discard(exported)
            self._exports.unlisten(exported, self._moved)
        self._wake.set()

    def _forget(self, id: int) -> None:
        if (entry := self._answers.pop(id, None)) is not None:
            entry[1].close()

    def _drop_everything(self) -> None:
        for exported in self._listening:
            self._exports.unlisten(exported, self._moved)
        for id in list(self._answers):
            self._forget(id)
        for cursor in self._cursors.values():
            cursor.close()
