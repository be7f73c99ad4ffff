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
    """Units [first, stop) of one request's answer."""

    to: Callable[[Frame], None]
    id: int
    first: int
    stop: int
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
            case ReadBlocks(first=first, stop=stop, part=part, park=park):
                answer = _Answer(segment, [Extent(first, stop)], part, park)
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
        segment, extent = answer.segment, answer.todo[0]
        stop = min(extent.stop, segment.units)
        if extent.start >= stop and answer.park:
            self.exporter.parked(id)
            return None
        each = segment.wire_bytes(answer.part)
        stop = min(stop, extent.start + max(1, FRAME_BYTES_MAX // each))
        answer.todo[0] = Extent(stop, extent.stop)
        if stop == extent.stop:
            del answer.todo[0]
        decoded_bytes = (stop - extent.start) * each
        last = not answer.todo
        if last:
            self.exporter.ended(id)
            del self._answers[id]
        else:
            self.exporter.served(id)
        return Frame(
            self.deliver,
            id,
            extent.start,
            stop,
            answer.part,
            int(decoded_bytes * segment.wire_ratio) + FRAME_HEADER_BYTES,
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
