"""Blocks for the `dsm` command: copied out of the ring, with every gap told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsm.errors import Overrun
from dsm.model import Gap, OnLag
from dsm.segment import Block
from dsm_client import Ring
from dsm_client.command import complain

OnGap = Callable[[Gap], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """A block, or only its header, in memory of its own."""

    seq: int
    timestamp_ns: int
    length: int
    header_bytes: int
    data: bytes

    @property
    def header(self) -> bytes:
        return self.data[: self.header_bytes]

    @property
    def payload(self) -> bytes:
        return self.data[self.header_bytes :]


def held(
    ring: Ring, start: int, stop: int, *, whole: bool, on_lag: OnLag, on_gap: OnGap
) -> Iterator[Copied]:
    """What the ring holds of `[start, stop)`, going on behind what is overwritten meanwhile."""
    while start < stop:
        try:
            for block in ring.blocks(start, stop):
                yield _copied(ring, block, whole=whole)
                start = block.seq + 1
        except Overrun as lag:
            if on_lag == "raise":
                raise
            missed = Gap(start, min(lag.gap.last, stop - 1))
            on_gap(missed)
            start = missed.last + 1


def followed(
    ring: Ring, start: int, *, whole: bool, on_lag: OnLag, on_gap: OnGap
) -> Iterator[Copied]:
    """Blocks from `start` on, for ever; a jump in the sequence numbers is a gap."""
    for block in ring.follow(start=start, on_lag=on_lag):
        if block.seq > start:
            on_gap(Gap(start, block.seq - 1))
        start = block.seq + 1
        try:
            yield _copied(ring, block, whole=whole)
        except Overrun:
            if on_lag == "raise":
                raise
            on_gap(Gap(block.seq, block.seq))


def _copied(ring: Ring, block: Block, *, whole: bool) -> Copied:
    """Copy, then see that it was not lapped meanwhile. Raises `Overrun`."""
    data = bytes(block.data) if whole else bytes(block.header)
    if not block.intact:
        raise Overrun(ring.name, Gap(block.seq, block.seq))
    return Copied(block.seq, block.timestamp_ns, len(block), block.header_bytes, data)


def say(gap: Gap) -> None:
    if gap.length == 1:
        complain(f"block {gap.first} was overwritten before it was read")
    else:
        complain(
            f"blocks {gap.first} to {gap.last} ({gap.length:,}) were overwritten before they "
            "were read"
        )
