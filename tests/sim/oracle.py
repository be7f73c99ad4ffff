"""The reference: a node that knows the link and what will be read, over the same lanes.

It is asked once. Half a round trip later it begins to push exactly the bytes that the reader will
read, in that order, each lane taking the next piece as its window goes; nothing is asked for,
nothing is pushed in vain. It starts up as TCP does, and suffers the same losses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from dsm.core.extents import ExtentSet
from dsm.core.reads import Part
from tests.sim.client import Op, Path
from tests.sim.clock import NS_PER_S, Clock
from tests.sim.node import FRAME_HEADER_BYTES, Pushed, Segment
from tests.sim.tcp import Connection, Downlink


class Oracle:
    """Pushes what `ops` read of one segment; `done_s` are the times at which each was there."""

    def __init__(self, path: Path, segment: Segment, ops: Iterable[Op]) -> None:
        self.clock = Clock()
        self.done_s: list[float] = []
        self.downlink = Downlink(self.clock, path.config, path.seed)
        self._ops = list(ops)
        self._left: list[int] = []
        self._reader_at = 0
        self._thinking = False
        self._pieces = deque(self._cut(segment, piece_bytes(path)))
        lanes = [Connection(self.downlink, path.control, self._next) for _ in range(path.lanes - 1)]
        for lane in lanes:
            self.clock.at(self.downlink.delay_ns, lane.pump)

    def run(self) -> Oracle:
        self.clock.after(0, self._read)
        self.clock.run(lambda: self._reader_at == len(self._ops))
        return self

    def _cut(self, segment: Segment, piece: int) -> Iterator[Pushed]:
        whole, headers = ExtentSet(), ExtentSet()
        for number, op in enumerate(self._ops):
            units = sum(e.length for e in whole.missing(op.start, op.stop))
            had = sum(e.length for e in headers.intersection(op.start, op.stop))
            if op.header_bytes is None:
                part = Part.PAYLOAD if had else Part.WHOLE
                whole.add(op.start, op.stop)
            else:
                units -= had
                part = Part.HEADER
                headers.add(op.start, op.stop)
            left = units * segment.wire_bytes(part)
            self._left.append(0)
            while left:
                size = min(left, piece)
                left -= size
                self._left[number] += 1
                yield Pushed(size + FRAME_HEADER_BYTES, lambda number=number: self._came(number))  # type: ignore[misc]

    def _next(self) -> Pushed | None:
        return self._pieces.popleft() if self._pieces else None

    def _came(self, number: int) -> None:
        self._left[number] -= 1
        if number == self._reader_at and not self._thinking:
            self._read()

    def _read(self) -> None:
        self._thinking = False
        while self._reader_at < len(self._ops) and not self._left[self._reader_at]:
            op = self._ops[self._reader_at]
            self._reader_at += 1
            self.done_s.append(self.clock.now)
            if op.think_s:
                self._thinking = True
                self.clock.after(round(op.think_s * NS_PER_S), self._read)
                return


def piece_bytes(path: Path) -> int:
    """Small, so that lanes that are unequally fast do not wait for each other."""
    return int(min(max(path.bdp_bytes / 64, 16 << 10), 256 << 10))
