"""What is on a link: runs of wire packets, what becomes of them, and how that is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Flaw = Literal["", "flip", "silent"]


@dataclass(slots=True)
class Counters:
    """What a link has done, in wire packets and wire bytes (overhead included)."""

    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0
    lost_packets: int = 0
    lost_bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0
    copied_packets: int = 0
    copied_bytes: int = 0
    corrupted_packets: int = 0
    reordered_packets: int = 0
    queue_peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """Segments [first, end) of an accepted packet, to be handed on at `due_ns`."""

    packet: T
    first: int
    end: int
    due_ns: int
    flaw: Flaw = ""


@dataclass(slots=True)
class Run(Generic[T]):
    """Segments [first, end) of a packet on their way; all are `segment_bytes` but the last."""

    packet: T
    first: int
    end: int
    segments: int
    segment_bytes: int
    last_bytes: int
    arrived_ns: int

    def size_bytes(self, first: int, end: int) -> int:
        size = (end - first) * self.segment_bytes
        return size - self.segment_bytes + self.last_bytes if end == self.segments else size
