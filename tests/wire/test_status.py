"""Errors cross the wire as what they are."""

from __future__ import annotations

import grpc
import pytest

from dsm import errors
from dsm.model import Gap
from dsm.wire.protocol import GOING_AWAY
from dsm.wire.status import error_from_frame, error_from_rpc, frame_status, grpc_code
from dsm.wire.v1 import wire_pb2 as pb

NODE = "host:7400"


@pytest.mark.parametrize(
    "error",
    [
        errors.SegmentNotFound("s", "there is none"),
        errors.EpochGone("s", "recreated"),
        errors.VersionGone("s", "at 9 now"),
        errors.Overrun("s", Gap(3, 8)),
        errors.CorruptSegment("s", "its superblock is damaged"),
        errors.UnsupportedFormat("s", "format 9"),
        errors.BudgetExceeded("64 copies"),
        errors.AccessDenied(NODE, "not for you"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_in_a_frame(error: errors.DsmError) -> None:
    status = pb.Status.FromString(frame_status(error).SerializeToString())
    back = error_from_frame(status, "s", NODE)
    assert type(back) is type(error)
    if isinstance(error, errors.SegmentError):
        assert str(back) == str(error)
    else:
        assert getattr(error, "message", str(error)) in str(back)
    if isinstance(error, errors.Overrun):
        assert isinstance(back, errors.Overrun)
        assert back.gap == error.gap


@pytest.mark.parametrize(
    "error",
    [
        errors.SegmentNotFound("s", "there is none"),
        errors.SegmentExists("s", "of another shape"),
        errors.EpochGone("s", "recreated"),
        errors.CorruptSegment("s", "its superblock is damaged"),
        errors.UnsupportedFormat("s", "format 9"),
        errors.NoSpace("no space for 5 bytes in /dev/shm"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_of_a_control_call(error: errors.DsmError) -> None:
    back = error_from_rpc(grpc_code(error), str(error), address=NODE, segment="s")
    assert type(back) is type(error)
    assert str(error) in str(back)


def _leaves(kind: type[errors.DsmError]) -> list[type[errors.DsmError]]:
    return [leaf for sub in kind.__subclasses__() for leaf in [sub, *_leaves(sub)]]


def test_every_error_has_a_row() -> None:
    made = [kind.__new__(kind) for kind in _leaves(errors.DsmError)]
    assert len(made) > 20
    for error in made:
        assert grpc_code(error) is not grpc.StatusCode.UNKNOWN


def test_a_node_that_shuts_down_is_no_dead_node() -> None:
    away = error_from_rpc(grpc.StatusCode.UNAVAILABLE, GOING_AWAY, address=NODE)
    dead = error_from_rpc(grpc.StatusCode.UNAVAILABLE, "refused", address=NODE)
    assert type(away) is errors.NodeGoingAway
    assert type(dead) is errors.NodeUnavailable


@pytest.mark.parametrize("code", list(grpc.StatusCode))
@pytest.mark.parametrize("segment", [None, "s"])
def test_every_status_becomes_an_error_of_ours(code: grpc.StatusCode, segment: str | None) -> None:
    error = error_from_rpc(code, "details", address=NODE, segment=segment)
    assert isinstance(error, errors.DsmError)
    assert str(error)


@pytest.mark.parametrize("code", [*pb.Code.values(), 99])
def test_every_code_becomes_an_error_of_ours(code: int) -> None:
    status = pb.Status(code=code)  # type: ignore[arg-type]
    assert isinstance(error_from_frame(status, "s", NODE), errors.DsmError)
