"""The Control service: hello, what segments there are, create, delete, ping, watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

import dsm
from dsm.errors import DsmError, EpochGone, ProtocolMismatch
from dsm.locality import Proof
from dsm.model import Kind, SegmentInfo
from dsm.segment import create_region, create_ring, delete_segment
from dsm.wire.convert import proof_to_pb, segment_from_pb, segment_to_pb
from dsm.wire.protocol import VERSION_MAX, VERSION_MIN, Limits, agree_version
from dsm.wire.status import grpc_code
from dsm.wire.v1 import wire_pb2 as pb
from dsm.wire.v1.wire_pb2_grpc import ControlServicer
from dsm_server.answers import first_frame
from dsm_server.exports import Exported, Exports
from dsm_server.leases import Leases
from dsm_server.watch import WatchStream

LIST_COUNT_MAX = 1000

FIRST_BYTES_MAX = 64 << 10
"""Sent along with a description: more than this is a read, and goes over a lane."""

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])


def _mapped_errors(method: Method) -> Method:
    """Our errors, and what validation raises, become gRPC statuses; nothing else is hidden."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except DsmError as error:
            await context.abort(grpc_code(error), str(error))
        except ValueError as error:
            await context.abort(grpc_code(DsmError()), f"bad request: {error}")

    return call  # type: ignore[return-value]


class Control(ControlServicer):
    """Everything but bulk."""

    def __init__(
        self,
        exports: Exports,
        leases: Leases,
        limits: Limits,
        node_id: str,
        proof: Proof,
        closing: asyncio.Event,
    ) -> None:
        self._exports = exports
        self._leases = leases
        self._limits = limits
        self._node_id = node_id
        self._proof = proof
        self._closing = closing
        self.congestion = ""

    @_mapped_errors
    async def Hello(self, request: pb.HelloRequest, context: Any) -> pb.HelloReply:
        version = agree_version(request.version_min, request.version_max)
        if version is None:
            raise ProtocolMismatch(
                "here",
                f"the client speaks protocol {request.version_min} to {request.version_max}, "
                f"this node {VERSION_MIN} to {VERSION_MAX}; upgrade the older of the two",
            )
        return pb.HelloReply(
            version=version,
            node=self._node_id,
            limits=self._limits.agree(Limits.from_pb(request.limits)).to_pb(),
            locality=proof_to_pb(self._proof),
            release=dsm.__version__,
            congestion=self.congestion,
        )

    @_mapped_errors
    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListReply:
        names = [
            name
            for name in self._exports.names()
            if name > request.after and name.startswith(request.prefix)
        ]
        count = min(request.count_max or LIST_COUNT_MAX, LIST_COUNT_MAX)
        segments = [_describe(e) for e in self._exports.describe_all(names[:count])]
        return pb.ListReply(segments=segments, more=len(names) > count)

    @_mapped_errors
    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.Segment:
        exported = self._exports.get(request.segment)
        described = _describe(exported)
        if bytes_max := min(request.first_bytes, FIRST_BYTES_MAX):
            at = request.first_at if request.HasField("first_at") else None
            described.first_frame = first_frame(exported, self._leases, bytes_max, at)
        return described

    @_mapped_errors
    async def Create(self, request: pb.CreateRequest, context: Any) -> pb.Segment:
        info = segment_from_pb(request.segment)
        await asyncio.to_thread(create, self._exports, info)
        return _describe(self._exports.get(info.name))

    @_mapped_errors
    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.DeleteReply:
        exported = self._exports.get(request.segment)
        if request.epoch and request.epoch != exported.info.epoch:
            raise EpochGone(request.segment, "this life of it is over already")
        delete_segment(self._exports.root, request.segment)
        return pb.DeleteReply()

    async def Ping(self, request: pb.PingRequest, context: Any) -> pb.PingReply:
        return pb.PingReply(sent_ns=request.sent_ns, node_ns=time.time_ns())

    async def Watch(  # type: ignore[override]
        self, requests: Any, context: Any
    ) -> None:
        await WatchStream(context, self._exports, self._limits, self._closing).run()


def create(exports: Exports, info: SegmentInfo) -> None:
    """Create the segment and let go of its write lock: a producer opens it."""
    if info.kind is Kind.RING:
        create_ring(
            exports.root,
            info.name,
            capacity_bytes=info.capacity_bytes,
            header_bytes=info.header_bytes,
            slots=info.slots or None,
            block_deadline_ms=info.block_deadline_ms,
            metadata=info.metadata,
            dtype=info.dtype,
            shape=info.shape,
        ).close()
    else:
        create_region(
            exports.root,
            info.name,
            size_bytes=info.size_bytes,
            page_bytes=info.page_bytes or 4096,
            buffers=info.buffers or 3,
            dtype=info.dtype,
            shape=info.shape,
            metadata=info.metadata,
        ).close()


def _describe(exported: Exported) -> pb.Segment:
    return segment_to_pb(exported.info, exported.position, _held_bytes(exported))


def _held_bytes(exported: Exported) -> int:
    """Bytes between a ring's tail and head, with what is skipped at the end of a lap."""
    if exported.info.kind is not Kind.RING:
        return 0
    ring = exported.ring
    tail, head = ring.tail, ring.head
    if head <= tail:
        return 0
    try:
        last = ring.descriptor(head - 1)
        return last.pos + last.length - ring.descriptor(tail).pos
    except DsmError:  # lapped between the two looks: full, then
        return exported.info.capacity_bytes
