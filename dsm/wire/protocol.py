"""Versions, limits and method names of the wire protocol, and how two sides agree on them."""

from __future__ import annotations

from dataclasses import dataclass

from dsm.wire.v1 import wire_pb2 as pb

VERSION_MIN = 1
VERSION_MAX = 1

HELLO = "/dsm.wire.v1.Control/Hello"
PULL = "/dsm.wire.v1.Data/Pull"
DATA_SERVICE = "dsm.wire.v1.Data"

LANE, BULK_LANE = "dsm-lane", "bulk"
"""Metadata of a Pull stream whose connection carries bulk: the node chooses its congestion control
by it."""

GOING_AWAY = "going away"
"""Detail of the UNAVAILABLE status with which a node that shuts down ends its streams."""

MESSAGE_OVERHEAD_BYTES = 1 << 20
"""Room for a frame's header in gRPC's message limit: it lists changed runs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side can take; in a session the stricter of both holds."""

    frame_bytes_max: int = 1 << 20
    """Payload of one frame. Rates grow up to about 1 MiB a message (measured on loopback)."""
    requests_max: int = 1024
    subscriptions_max: int = 4096

    def agree(self, other: Limits) -> Limits:
        return Limits(
            min(self.frame_bytes_max, other.frame_bytes_max),
            min(self.requests_max, other.requests_max),
            min(self.subscriptions_max, other.subscriptions_max),
        )

    def to_pb(self) -> pb.Limits:
        return pb.Limits(
            frame_bytes_max=self.frame_bytes_max,
            requests_max=self.requests_max,
            subscriptions_max=self.subscriptions_max,
        )

    @classmethod
    def from_pb(cls, message: pb.Limits) -> Limits:
        """The other side's limits; what it did not state is ours. Raises `ValueError` if absurd."""
        ours = cls()
        limits = cls(
            message.frame_bytes_max or ours.frame_bytes_max,
            message.requests_max or ours.requests_max,
            message.subscriptions_max or ours.subscriptions_max,
        )
        if limits.frame_bytes_max < FRAME_BYTES_MIN:
            raise ValueError(
                f"frames of {limits.frame_bytes_max} bytes; at least {FRAME_BYTES_MIN} are needed"
            )
        return limits


FRAME_BYTES_MIN = 512 << 10
"""A frame must be able to hold a page, and pages are up to 256 KiB."""


def agree_version(version_min: int, version_max: int) -> int | None:
    """The highest version that we and the other side speak, `None` where there is none."""
    version = min(version_max, VERSION_MAX)
    return version if version >= max(version_min, VERSION_MIN) else None
