"""Between the wire's messages and the model's values; what comes from the wire is validated here.

Functions named `..._from_pb` raise `ValueError` for what a correct peer would not have sent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dsm.core.compression import Codec
from dsm.core.reads import Part, Read, ReadBlocks, ReadBytes, ReadPages, Request, Urgency
from dsm.locality import Proof
from dsm.model import Event, Extent, Kind, Position, SegmentInfo, validate_name
from dsm.wire.v1 import wire_pb2 as pb

RUNS_MAX = 4096
"""Runs in one message; a peer merges neighbours rather than send more."""

_KINDS = {Kind.RING: pb.RING, Kind.REGION: pb.REGION}
_KINDS_BACK = {value: kind for kind, value in _KINDS.items()}
PARTS = {Part.WHOLE: pb.WHOLE, Part.HEADER: pb.HEADER, Part.PAYLOAD: pb.PAYLOAD}
PARTS_BACK = {value: part for part, value in PARTS.items()}


def runs_to_pb(extents: Iterable[Extent]) -> list[pb.Run]:
    return [pb.Run(first=extent.start, count=extent.length) for extent in extents]


def runs_from_pb(runs: Sequence[pb.Run]) -> tuple[Extent, ...]:
    if len(runs) > RUNS_MAX:
        raise ValueError(f"{len(runs)} runs in one message; {RUNS_MAX} is the most")
    return tuple(Extent(run.first, run.first + run.count) for run in runs)


def block_runs_from_pb(runs: Sequence[pb.Run]) -> tuple[Extent, ...]:
    """None of them empty, each after the one before."""
    extents = runs_from_pb(runs)
    free = 0
    for start, stop in extents:
        if not free <= start < stop:
            raise ValueError(f"a run of blocks [{start}, {stop}), not beyond {free}")
        free = stop
    return extents


def position_to_pb(position: Position) -> pb.Position:
    return pb.Position(head=position.head, tail=position.tail, version=position.version)


def position_from_pb(message: pb.Position) -> Position:
    if message.tail > message.head:
        raise ValueError(f"a tail {message.tail} beyond the head {message.head}")
    return Position(message.head, message.tail, message.version)


def segment_to_pb(info: SegmentInfo, position: Position, held_bytes: int = 0) -> pb.Segment:
    return pb.Segment(
        name=info.name,
        kind=_KINDS[info.kind],
        epoch=info.epoch,
        created_ns=info.created_ns,
        header_bytes=info.header_bytes,
        capacity_bytes=info.capacity_bytes,
        slots=info.slots,
        size_bytes=info.size_bytes,
        page_bytes=info.page_bytes,
        buffers=info.buffers,
        block_deadline_ms=info.block_deadline_ms,
        dtype=info.dtype,
        shape=info.shape,
        metadata=dict(info.metadata),
        position=position_to_pb(position),
        held_bytes=held_bytes,
    )


def segment_from_pb(message: pb.Segment) -> SegmentInfo:
    if message.kind not in _KINDS_BACK:
        raise ValueError(f"unknown kind {message.kind} of segment {message.name!r}")
    return SegmentInfo(
        name=validate_name(message.name),
        kind=_KINDS_BACK[message.kind],
        epoch=message.epoch,
        created_ns=message.created_ns,
        header_bytes=message.header_bytes,
        capacity_bytes=message.capacity_bytes,
        slots=message.slots,
        size_bytes=message.size_bytes,
        page_bytes=message.page_bytes,
        buffers=message.buffers,
        block_deadline_ms=message.block_deadline_ms,
        dtype=message.dtype,
        shape=tuple(message.shape),
        metadata=dict(message.metadata),
    )


def event_to_pb(event: Event) -> pb.Event:
    return pb.Event(
        segment=event.segment,
        epoch=event.epoch,
        kind=_KINDS[event.kind],
        since=event.since,
        position=position_to_pb(event.position),
        changed=runs_to_pb(event.changed),
        published_ns=event.published_ns,
        gone=event.gone,
    )


def event_from_pb(message: pb.Event) -> Event:
    if message.kind not in _KINDS_BACK:
        raise ValueError(f"unknown kind {message.kind} in an event of {message.segment!r}")
    return Event(
        segment=message.segment,
        epoch=message.epoch,
        kind=_KINDS_BACK[message.kind],
        since=message.since,
        position=position_from_pb(message.position),
        changed=runs_from_pb(message.changed),
        published_ns=message.published_ns,
        gone=message.gone,
    )


def proof_to_pb(proof: Proof) -> pb.Locality:
    return pb.Locality(
        boot_id=proof.boot_id, root=proof.root, proof_file=proof.file, proof=proof.secret
    )


def proof_from_pb(message: pb.Locality) -> Proof:
    return Proof(message.boot_id, message.root, message.proof_file, message.proof)


def request_to_pb(
    request: Request, *, codecs: Collection[Codec] = (), rate_bytes_s: int = 0
) -> pb.PullRequest:
    message = pb.PullRequest(
        id=request.id,
        segment=request.segment,
        epoch=request.epoch,
        priority=pb.SPECULATIVE if request.urgency is not Urgency.AWAITED else pb.DEMAND,
        accept_lz4=Codec.LZ4 in codecs,
        accept_blosc=Codec.BLOSC in codecs,
        rate_bytes_s=rate_bytes_s,
    )
    match request.read:
        case ReadBlocks(runs, part, header_bytes, park):
            message.blocks.CopyFrom(
                pb.Blocks(
                    runs=runs_to_pb(runs), part=PARTS[part], header_bytes=header_bytes, park=park
                )
            )
        case ReadPages(version, since, need, refresh, hold):
            message.pages.CopyFrom(
                pb.Pages(
                    version=version,
                    since=since,
                    need=runs_to_pb(need),
                    refresh=runs_to_pb(refresh),
                    hold=hold,
                )
            )
        case ReadBytes(offset, length):
            message.bytes.CopyFrom(pb.Bytes(offset=offset, length=length))
    return message


def request_from_pb(message: pb.PullRequest) -> Request:
    if not message.id:
        raise ValueError("a request without an id")
    urgency = Urgency.AWAITED if message.priority == pb.DEMAND else Urgency.SPECULATIVE
    name = validate_name(message.segment)
    return Request(message.id, name, message.epoch, _read_from_pb(message), urgency)


def codecs_from_pb(message: pb.PullRequest) -> tuple[Codec, ...]:
    """Those that the answer may be encoded with."""
    accepted = ((Codec.BLOSC, message.accept_blosc), (Codec.LZ4, message.accept_lz4))
    return tuple(codec for codec, accepts in accepted if accepts)


def _read_from_pb(message: pb.PullRequest) -> Read:
    match message.WhichOneof("what"):
        case "blocks":
            blocks = message.blocks
            runs = block_runs_from_pb(blocks.runs)
            if blocks.part not in PARTS_BACK or not runs:
                raise ValueError(f"{len(runs)} runs of blocks, part {blocks.part}")
            return ReadBlocks(runs, PARTS_BACK[blocks.part], blocks.header_bytes, blocks.park)
        case "pages":
            pages = message.pages
            return ReadPages(
                pages.version,
                pages.since,
                runs_from_pb(pages.need),
                runs_from_pb(pages.refresh),
                pages.hold,
            )
        case "bytes":
            return ReadBytes(message.bytes.offset, message.bytes.length)
        case what:
            raise ValueError(f"a request for {what}: nothing that this release can read")
