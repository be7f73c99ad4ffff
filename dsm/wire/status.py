"""The one table between our errors and what travels: gRPC statuses, and statuses in frames.

Control calls end with a gRPC status whose details are the message; Pull answers end with a
`Status` in their last frame, since one stream carries many answers.
"""

from __future__ import annotations

import grpc

from dsm import errors
from dsm.model import Gap
from dsm.wire.protocol import GOING_AWAY
from dsm.wire.v1 import wire_pb2 as pb

_TABLE: tuple[tuple[type[errors.DsmError], grpc.StatusCode, pb.Code.ValueType], ...] = (
    # the first row that fits counts: the special before the general
    (errors.SegmentNotFound, grpc.StatusCode.NOT_FOUND, pb.NOT_FOUND),
    (errors.SegmentExists, grpc.StatusCode.ALREADY_EXISTS, pb.INVALID),
    (errors.EpochGone, grpc.StatusCode.FAILED_PRECONDITION, pb.EPOCH_GONE),
    (errors.VersionGone, grpc.StatusCode.FAILED_PRECONDITION, pb.VERSION_GONE),
    (errors.Overrun, grpc.StatusCode.OUT_OF_RANGE, pb.OVERRUN),
    (errors.WrongKind, grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID),
    (errors.WriterBusy, grpc.StatusCode.FAILED_PRECONDITION, pb.INVALID),
    (errors.UnsupportedFormat, grpc.StatusCode.UNIMPLEMENTED, pb.UNSUPPORTED),
    (errors.SegmentError, grpc.StatusCode.DATA_LOSS, pb.DATA_LOSS),
    (errors.UsageError, grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID),
    (errors.CapacityError, grpc.StatusCode.RESOURCE_EXHAUSTED, pb.EXHAUSTED),
    (errors.AccessDenied, grpc.StatusCode.PERMISSION_DENIED, pb.DENIED),
    (errors.ProtocolMismatch, grpc.StatusCode.FAILED_PRECONDITION, pb.INVALID),
    (errors.MalformedMessage, grpc.StatusCode.INVALID_ARGUMENT, pb.INVALID),
    (errors.NodeUnavailable, grpc.StatusCode.UNAVAILABLE, pb.INTERNAL),
    (errors.DsmError, grpc.StatusCode.INTERNAL, pb.INTERNAL),
)

RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED})


def grpc_code(error: errors.DsmError) -> grpc.StatusCode:
    return next(code for kind, code, _ in _TABLE if isinstance(error, kind))


def frame_status(error: errors.DsmError) -> pb.Status:
    """The status that ends an answer with this error."""
    code = next(code for kind, _, code in _TABLE if isinstance(error, kind))
    message = getattr(error, "message", str(error))
    status = pb.Status(code=code, message=message)
    if isinstance(error, errors.Overrun):
        status.gap.CopyFrom(pb.Run(first=error.gap.first, count=error.gap.length))
    return status


def error_from_frame(status: pb.Status, segment: str, address: str) -> errors.DsmError:
    """What a client raises for a status that ended an answer."""
    text = status.message
    match status.code:
        case pb.NOT_FOUND:
            return errors.SegmentNotFound(segment, text)
        case pb.EPOCH_GONE:
            return errors.EpochGone(segment, text)
        case pb.VERSION_GONE:
            return errors.VersionGone(segment, text)
        case pb.OVERRUN:
            first = status.gap.first
            return errors.Overrun(segment, Gap(first, first + max(status.gap.count, 1) - 1))
        case pb.DATA_LOSS:
            return errors.CorruptSegment(segment, text)
        case pb.UNSUPPORTED:
            return errors.UnsupportedFormat(segment, text)
        case pb.EXHAUSTED:
            return errors.BudgetExceeded(f"node {address}: {text}")
        case pb.DENIED:
            return errors.AccessDenied(address, text)
        case pb.INVALID:
            return errors.UsageError(f"segment {segment!r}: {text}")
        case _:
            return errors.NodeError(address, f"segment {segment!r}: {text or 'internal error'}")


def error_from_rpc(
    code: grpc.StatusCode, details: str, *, address: str, segment: str | None = None
) -> errors.DsmError:
    """What a client raises for the gRPC status of a control call."""
    match code:
        case grpc.StatusCode.NOT_FOUND if segment is not None:
            return errors.SegmentNotFound(segment, _without_prefix(details, segment))
        case grpc.StatusCode.ALREADY_EXISTS if segment is not None:
            return errors.SegmentExists(segment, _without_prefix(details, segment))
        case grpc.StatusCode.FAILED_PRECONDITION if segment is not None:
            return errors.EpochGone(segment, _without_prefix(details, segment))
        case grpc.StatusCode.FAILED_PRECONDITION:
            return errors.ProtocolMismatch(address, details)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.UsageError(details)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.NoSpace(f"node {address}: {details}")
        case grpc.StatusCode.PERMISSION_DENIED | grpc.StatusCode.UNAUTHENTICATED:
            return errors.AccessDenied(address, details)
        case grpc.StatusCode.DATA_LOSS if segment is not None:
            return errors.CorruptSegment(segment, _without_prefix(details, segment))
        case grpc.StatusCode.UNIMPLEMENTED if segment is not None and details.startswith(
            "segment "
        ):
            return errors.UnsupportedFormat(segment, _without_prefix(details, segment))
        case grpc.StatusCode.UNAVAILABLE if GOING_AWAY in details:
            return errors.NodeGoingAway(address, "it shuts down; try again when it is back")
        case grpc.StatusCode.UNAVAILABLE:
            return errors.NodeUnavailable(address, details)
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.ProtocolMismatch(
                address, f"it does not offer this call ({details}); is it a dsm node?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(f"node {address} did not answer in time")
        case _:
            return errors.NodeError(address, f"{code.name}: {details}")


def _without_prefix(details: str, segment: str) -> str:
    return details.removeprefix(f"segment {segment!r}: ")
