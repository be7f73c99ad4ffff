"""The node's side: the real exporter, one for each lane, over the simulated connections.

A lane asks for its next frame when there is room in its send buffer; a frame is up to 1 MiB, and
within one nothing overtakes. Reading the segment takes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dsm.core.exporter import Exporter, Serve
from dsm.core.reads import Part, ReadBlocks, ReadPages, Request
from dsm.model import Extent
from tests.sim.tcp import Connection, Control, Downlink

FRAME_BYTES_MAX = 1 << 20
FRAME_HEADER_BYTES = 48
RUN_BYTES = 10
ROW_BYTES = {"ring": 40, "region": 12}
REQUESTS_MAX = 1024


@dataclass(slots=True)
class Segment:
    """What a node exports, without its bytes."""

    name: str
    kind: str  # ring or region
    units: int
    unit_bytes: int
    header_bytes: int = 0
    wire_ratio: float = 1.0
    """What the node's codec leaves of a byte."""

    def wire_bytes(self, part: Part) -> int:
        """Of one unit, with its row, before compression."""
        match part:
            case Part.WHOLE:
                size = self.unit_bytes
            case Part.HEADER:
                size = self.header_bytes
            case Part.PAYLOAD:
                size = self.unit_bytes - self.header_bytes
        return size + ROW_BYTES[self.kind]


@dataclass(slots=True)
class Frame:
    """Units of one request's answer."""

    to: Callable[[Frame], None]
    id: int
    runs: list[Extent]
    part: Part
    wire_bytes: int
    decoded_bytes: int
    last: bool
    parked: bool
    head: int

    def arrived(self) -> None:
        self.to(self)


@dataclass(slots=True)
class _Answer:
    segment: Segment
    todo: list[Extent]
    part: Part
    park: bool

    def take(self, units: int) -> list[Extent]:
        """What is there of the next `units`."""
        runs = []
        while self.todo and units:
            start, end = self.todo[0]
            stop = min(end, self.segment.units, start + units)
            if start >= stop:
                break
            runs.append(Extent(start, stop))
            units -= stop - start
            self.todo[0] = Extent(stop, end)
            if stop == end:
                del self.todo[0]
        return runs


@dataclass
class Lane:
    """One Pull stream at the node."""

    downlink: Downlink
    control: Control
    segments: dict[str, Segment]
    deliver: Callable[[Frame], None]
    exporter: Exporter = field(default_factory=lambda: Exporter(REQUESTS_MAX))

    def __post_init__(self) -> None:
        self.connection = Connection(self.downlink, self.control, self._next_frame)
        self._answers: dict[int, _Answer] = {}

    def requested(self, request: Request) -> None:
        self.exporter.requested(request)
        segment = self.segments[request.segment]
        match request.read:
            case ReadPages(need=need):
                answer = _Answer(segment, list(need), Part.WHOLE, False)
            case ReadBlocks(runs=runs, part=part, park=park):
                answer = _Answer(segment, list(runs), part, park)
            case other:
                raise AssertionError(other)
        self._answers[request.id] = answer
        self.connection.pump()

    def cancelled(self, id: int) -> None:
        if self.exporter.ended(id) is not None:
            del self._answers[id]

    def moved(self, segment: str) -> None:
        if self.exporter.moved(segment):
            self.connection.pump()

    def _next_frame(self) -> Frame | None:
        while (serve := self.exporter.next_serve()) is not None:
            frame = self._frame(serve)
            if frame is not None:
                return frame
        return None

    def _frame(self, serve: Serve) -> Frame | None:
        id = serve.request.id
        answer = self._answers[id]
        segment = answer.segment
        each = segment.wire_bytes(answer.part)
        runs = answer.take(max(1, FRAME_BYTES_MAX // each))
        if not runs and answer.park:
            self.exporter.parked(id)
            return None
        decoded_bytes = sum(run.length for run in runs) * each
        last = not answer.todo
        if last:
            self.exporter.ended(id)
            del self._answers[id]
        else:
            self.exporter.served(id)
        return Frame(
            self.deliver,
            id,
            runs,
            answer.part,
            int(decoded_bytes * segment.wire_ratio) + FRAME_HEADER_BYTES + RUN_BYTES * len(runs),
            decoded_bytes,
            last,
            serve.was_parked,
            segment.units,
        )


@dataclass(slots=True)
class Pushed:
    """A message of the oracle's, and of pings: it only has a size."""

    wire_bytes: int
    then: Callable[[], None]

    def arrived(self) -> None:
        self.then()
