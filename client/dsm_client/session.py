"""`connect` and `Session`: one client's dealings with one node.

A session is made for a URL and may be used from any thread. Its connections live in the process's
background loop. It survives a fork: the child's copy connects anew when it is first used.
"""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from dsm.codec import AVAILABLE
from dsm.core.lanes import LANES_MAX
from dsm.errors import Closed, SegmentNotFound, UsageError
from dsm.locality import Proof, is_local
from dsm.model import Access, Kind, PathEstimate, Position, SegmentInfo, validate_name
from dsm.segment import RingReader, open_segment
from dsm.wire.address import parse_url, split_host_port
from dsm.wire.convert import position_from_pb, segment_from_pb, segment_to_pb
from dsm.wire.v1 import wire_pb2 as pb
from dsm_client.cache import BUDGET_BYTES, ShadowCache, default_root
from dsm_client.loop import background
from dsm_client.mapped import MappedRegion, MappedRing
from dsm_client.region_replica import RegionReplica
from dsm_client.remote import RemoteRegion, RemoteRing
from dsm_client.ring_replica import RingReplica
from dsm_client.security import Security
from dsm_client.sources import RegionSource, RingSource
from dsm_client.transport import Transport

FIRST_BYTES = 12_000
"""Sent along with a segment's description: with a hello, what TCP's initial window takes."""

RETRY_S = 30.0
"""How long a reader waits for a node that is away."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a session was asked for; with the address, all that a handle needs to be opened again."""

    map_local: bool = True
    insecure: bool = False
    ca: str | Path = ""
    tls: bool = False
    lanes: int = LANES_MAX
    """The most connections for bulk; as many are opened as the path takes."""
    retry_s: float = RETRY_S
    cache: str = ""
    budget_bytes: int = BUDGET_BYTES
    compress: bool = True
    """Have the node compress where it finds that faster."""


@dataclass(frozen=True, slots=True)
class Described:
    """A segment as the node described it: what it is, where it is, bytes in a ring's blocks."""

    info: SegmentInfo
    position: Position
    held_bytes: int = 0


class SessionCore:
    """What sync and async sessions share. Coroutines run in the background loop."""

    def __init__(self, url: str, options: Options) -> None:
        self.url = url
        self.address, segment = parse_url(url)
        if segment:
            raise UsageError(f"url {url!r} names a segment; give it to open(), as {segment!r}")
        host, _ = split_host_port(self.address)
        self._security = Security.of(
            host, ca=options.ca, tls=options.tls, insecure=options.insecure
        )
        if options.lanes < 1:
            raise UsageError(f"lanes={options.lanes}: at least one is needed")
        self.options = options
        self.cache = ShadowCache(
            Path(options.cache) if options.cache else default_root(),
            options.budget_bytes,
            self.address,
        )
        self.cache.sweep()
        self.transport: Transport | None = None
        self.is_local = False
        self._proof: Proof | None = None
        self.generation = 0
        """Grows when a fork makes a new process of this one: handles open themselves again."""
        self._closed = False
        self._opening = asyncio.Lock()
        self._dropped: Any = None
        """Closes the transport of a session that nobody closed."""
        self._replicas: WeakSet[RingReplica | RegionReplica] = WeakSet()

    # ── life, in the loop ──

    async def open(self) -> None:
        transport = self._started()
        try:
            await transport.greet()
        except BaseException:
            await transport.close()
            raise
        self._opened(transport)

    async def open_with(
        self, name: str, access: Access, header_bytes: int | None, at: int | None
    ) -> RingSource | RegionSource:
        """Open the session and one segment: hello and description in the same round trip."""
        transport = self._started()
        described = asyncio.create_task(
            _describe(transport, name, self._first_bytes(name, access), at)
        )
        try:
            await transport.greet()
            found = await described
        except BaseException:
            described.cancel()
            await asyncio.wait((described,))
            await transport.close()
            raise
        self._opened(transport)
        return self._source(*found, access, header_bytes)

    def _started(self) -> Transport:
        options = self.options
        transport = Transport(
            self.address,
            self._security,
            lanes=options.lanes,
            retry_s=options.retry_s,
            codecs=AVAILABLE if options.compress else (),
        )
        transport.start()
        return transport

    def _opened(self, transport: Transport) -> None:
        options = self.options
        self.transport = transport
        proof = self._proof = transport.control.proof
        self.is_local = options.map_local and proof is not None and is_local(proof)
        background().sessions.add(self)
        self._dropped = weakref.finalize(self, background().dropped, transport)
        self._dropped.atexit = False

    async def close(self) -> None:
        self._closed = True
        background().sessions.discard(self)
        for replica in list(self._replicas):
            replica.close()
            self.cache.close(replica.shadow)
        self._replicas.clear()
        if self._dropped is not None:
            self._dropped.detach()
        if self.transport is not None:
            await self.transport.close()

    async def ready(self) -> Transport:
        """The transport; a child of a fork connects here."""
        if self._closed:
            raise Closed(f"the session with {self.address} is closed; connect again")
        async with self._opening:  # several handles may come here at once
            if self.transport is None:
                await self.open()
        assert self.transport is not None
        return self.transport

    # ── fork ──

    async def rest(self) -> None:
        if self.transport is not None:
            await self.transport.close()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume()

    def abandon(self) -> None:
        if self._dropped is not None:
            self._dropped.detach()
        self.transport = None
        self.generation += 1
        self._opening = asyncio.Lock()
        self._replicas = WeakSet()
        self.cache = ShadowCache(self.cache.root, self.cache.budget_bytes, self.address)

    # ── segments, in the loop ──

    async def list(self, prefix: str = "") -> list[Described]:
        transport = await self.ready()
        found: list[Described] = []
        after, more = "", True
        while more:
            reply: pb.ListReply = await transport.control.call(
                "List", pb.ListRequest(prefix=prefix, after=after)
            )
            found += [_described(segment) for segment in reply.segments]
            more = reply.more and bool(reply.segments)
            after = reply.segments[-1].name if reply.segments else ""
        return found

    async def describe(self, name: str) -> Described:
        return (await _describe(await self.ready(), name, 0))[0]

    async def create(self, info: SegmentInfo) -> Described:
        """Create a segment at the node; epoch and times of `info` do not matter."""
        transport = await self.ready()
        request = pb.CreateRequest(segment=segment_to_pb(info, Position()))
        return _described(await transport.control.call_once("Create", request, segment=info.name))

    async def delete(self, name: str) -> None:
        transport = await self.ready()
        request = pb.DeleteRequest(segment=validate_name(name))
        await transport.control.call_once("Delete", request, segment=name)

    async def source(
        self, name: str, access: Access, header_bytes: int | None, at: int | None = None
    ) -> RingSource | RegionSource:
        """Open a segment: mapped if it is here, else a replica."""
        transport = await self.ready()
        first_bytes = 0 if self.is_local else self._first_bytes(name, access)
        found = await _describe(transport, name, first_bytes, at)
        return self._source(*found, access, header_bytes)

    def _first_bytes(self, name: str, access: Access) -> int:
        """What is worth being sent along; `zero_copy` keeps nothing."""
        return 0 if access is Access.ZERO_COPY or self.cache.has(name) else FIRST_BYTES

    def _source(
        self, described: Described, first_frame: bytes, access: Access, header_bytes: int | None
    ) -> RingSource | RegionSource:
        if self.is_local:
            mapped = self._mapped(described, header_bytes)
            if mapped is not None:
                return mapped
        source = self._remote(described, access, header_bytes)
        if first_frame:
            source.replica.told_first(first_frame)
        return source

    def _mapped(
        self, described: Described, header_bytes: int | None
    ) -> MappedRing | MappedRegion | None:
        """The mapped segment; `None` where this process may not read the file."""
        assert self._proof is not None
        try:
            reader = open_segment(self._proof.root, described.info.name)
        except (PermissionError, SegmentNotFound):
            return None
        if reader.info.epoch != described.info.epoch:
            reader.close()
            return None
        if isinstance(reader, RingReader):
            return MappedRing(reader, header_bytes)
        return MappedRegion(reader)

    def _remote(
        self, described: Described, access: Access, header_bytes: int | None
    ) -> RemoteRing | RemoteRegion:
        assert self.transport is not None
        info, position = described.info, described.position
        if info.kind is Kind.RING:
            ring = RingReplica(
                self.transport,
                self.cache,
                info,
                position,
                described.held_bytes,
                access,
                header_bytes,
            )
            self._replicas.add(ring)
            return RemoteRing(ring)
        if access is Access.HYBRID:
            access = Access.COPY_ONCE  # a region has no headers: its pages are the payload
        region = RegionReplica(self.transport, self.cache, info, position, access)
        self._replicas.add(region)
        return RemoteRegion(region)

    async def ping(self) -> float:
        """Seconds of one round trip."""
        return await (await self.ready()).ping()

    # ── figures ──

    def path(self) -> PathEstimate:
        """What is known of the path."""
        if self.transport is None:
            return PathEstimate()
        return self.transport.estimate()

    def counts(self) -> dict[str, int]:
        """What crossed the wire in this session so far; see `TransportCounts`."""
        return {} if self.transport is None else asdict(self.transport.counts)


def split_url(url: str) -> tuple[str, str]:
    """The node's url and the segment's name. Raises `UsageError`."""
    address, segment = parse_url(url)
    if not segment:
        raise UsageError(f"url {url!r} names no segment; dsm://{address}/its/name does")
    return f"dsm://{address}", segment


async def _describe(
    transport: Transport, name: str, first_bytes: int, at: int | None = None
) -> tuple[Described, bytes]:
    """What a segment is, and the frame of what is read first of it: at `at`, if that is known."""
    request = pb.DescribeRequest(segment=validate_name(name), first_bytes=first_bytes, first_at=at)
    reply: pb.Segment = await transport.control.call("Describe", request, segment=name)
    return _described(reply), reply.first_frame


def _described(message: pb.Segment) -> Described:
    return Described(
        segment_from_pb(message), position_from_pb(message.position), message.held_bytes
    )
