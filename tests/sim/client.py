"""The client's side: the real puller, path estimator, fetchers and planners, driven as by the
event loop of `dsm_client`, over simulated lanes; and readers on top of it.

    Reader ──read──▶ Handle ──▶ Fetcher ─▶ Puller ══ requests, rtt/2 ══▶ node.Lane
               ▲        │           ▲                                       │
               ╰─ woken ┴─ Presence ┴═══════════ frames, over tcp.py ═══════╯

As there: a demand read goes out before the planner is asked; reads that the shadow answers are told
to the planner 32 at a time; the puller is asked once per turn; pings come as the estimator has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from dsm_netem.config import LinkConfig

from dsm.core.extents import ExtentSet
from dsm.core.fetcher import Fetcher
from dsm.core.lanes import LANES_MAX, LaneCount
from dsm.core.path import PathEstimator
from dsm.core.planner import PrefetchPlanner
from dsm.core.policy import AccessPolicy
from dsm.core.puller import Cancel, Puller, Send
from dsm.core.reads import Part, Read, ReadBlocks, ReadPages, by_lacking
from dsm.model import Access, Extent
from tests.sim.clock import NS_PER_S, Clock
from tests.sim.node import ROW_BYTES, Frame, Lane, Pushed, Segment
from tests.sim.tcp import Connection, Control, Downlink

ACCESSES_NOTED = 32
BUDGET_BYTES = 1 << 30
"""In flight: 10 Gbit/s x 300 ms and half as much again."""


@dataclass(frozen=True, slots=True)
class Path:
    """One cell of the grid."""

    rtt_s: float
    rate_bps: float
    loss: float = 0.0
    control: Control = "cubic"
    lanes: int = 9
    seed: int = 1

    @property
    def bdp_bytes(self) -> float:
        return self.rate_bps / 8 * self.rtt_s

    @property
    def config(self) -> LinkConfig:
        """The bottleneck's queue holds one BDP, or 10 ms of what is shorter, or 64 KB."""
        queue = max(self.bdp_bytes, self.rate_bps / 8 * 0.01, 64_000)
        return LinkConfig(
            rate_bps=self.rate_bps,
            delay_s=self.rtt_s / 2,
            queue_bytes=int(queue),
            overhead_bytes=52,
            loss=self.loss,
        )

    def __str__(self) -> str:
        rate = f"{self.rate_bps / 1e6:g}"
        return f"{self.rtt_s * 1e3:g} ms x {rate} Mbit/s, loss {self.loss:g}, {self.control}"


class Session:
    """One client and one node, with their lanes."""

    def __init__(
        self, path: Path, segments: Iterable[Segment], *, fixed_lanes: bool = True
    ) -> None:
        self.clock = Clock()
        self.path = path
        self.downlink = Downlink(self.clock, path.config, path.seed)
        self.estimator = PathEstimator(window_bytes_max=BUDGET_BYTES)
        self.puller = Puller(self.estimator)
        self.segments = {segment.name: segment for segment in segments}
        self.lanes = [
            Lane(self.downlink, path.control, self.segments, self._frame_arrived)
            for _ in range(path.lanes)
        ]
        self.bytes_received = 0
        self._pump_due = False
        self._pings: list[Pushed] = []
        self._pinged = 0
        self._control = Connection(
            self.downlink, path.control, lambda: self._pings.pop() if self._pings else None
        )
        self.lane_count = LaneCount(path.lanes - 1 if fixed_lanes else LANES_MAX)
        for lane in range(path.lanes):
            self.puller.lane_opened(lane, 0.0)
            self.puller.lane_connected(lane, 0.0)
        self._ping()

    def pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self.clock.after(0, self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        for action in self.puller.actions(self.clock.now):
            match action:
                case Send(lane, request):
                    self._up(lambda lane=lane, it=request: self.lanes[lane].requested(it))  # type: ignore[misc]
                case Cancel(lane, id):
                    self._up(lambda lane=lane, it=id: self.lanes[lane].cancelled(it))  # type: ignore[misc]
        if self.estimator.take_ping_due():
            self._ping()

    def _up(self, event: Callable[[], None]) -> None:
        self.clock.after(self.downlink.delay_ns, event)

    def _frame_arrived(self, frame: Frame) -> None:
        now = self.clock.now
        self.bytes_received += frame.wire_bytes
        owner = self.puller.owner(frame.id)
        self.puller.frame_arrived(
            frame.id,
            frame.wire_bytes,
            now,
            parked=frame.parked,
            decoded_bytes=frame.decoded_bytes,
        )
        if frame.last:
            self.puller.finished(frame.id, now)
            self._adjust_lanes()
        if isinstance(owner, Handle):
            owner.frame(frame)
        self.pump_soon()

    def _adjust_lanes(self) -> None:
        """As the transport does; a lane that is no longer wanted stays, unused."""
        now, opened = self.clock.now, len(self.lanes)
        wanted = self.lane_count.wanted(
            self.estimator.estimate(now), now, full=self.estimator.is_filled(now)
        )
        self.puller.lanes_used = self.lane_count.used
        for lane in range(opened, wanted + 1):
            self.lanes.append(
                Lane(self.downlink, self.path.control, self.segments, self._frame_arrived)
            )
            self.puller.lane_opened(lane, now)
            self.clock.after(4 * self.downlink.delay_ns, partial(self._connected, lane))

    def _connected(self, lane: int) -> None:
        self.puller.lane_connected(lane, self.clock.now)
        self.pump_soon()

    def _ping(self) -> None:
        """The next follows a while after the answer, as in the transport."""
        sent = self.clock.now

        def answered() -> None:
            now = self.clock.now
            self.estimator.rtt_sampled(now - sent, now)
            self._pinged += 1
            number = self._pinged
            wait_ns = round(self.estimator.ping_interval_s(now) * NS_PER_S)
            self.clock.after(wait_ns, lambda: self._ping() if number == self._pinged else None)

        def asked() -> None:
            self._pings.append(Pushed(100, answered))
            self._control.pump()

        self._up(asked)

    def appended(self, segment: Segment, blocks: int = 1) -> None:
        """The producer has published so many."""
        segment.units += blocks
        for lane in self.lanes:
            lane.moved(segment.name)


class Handle:
    """A remote segment as one handle sees it: presence, fetcher, and who waits."""

    def __init__(
        self, session: Session, segment: Segment, *, prefetch: bool = True, depth: int | None = None
    ) -> None:
        self.session = session
        self.segment = segment
        self.prefetch = prefetch
        self.policy = AccessPolicy(has_headers=False)
        self.depth = depth  # `header_bytes` under `hybrid`
        self.head = segment.units
        self.park_units = 0
        self.present = ExtentSet()
        self.headers = ExtentSet()
        self.planner = PrefetchPlanner()
        self.fetcher = Fetcher(
            session.puller, self.planner, self, self, segment.name, 1, owner=self
        )
        self.arrived_units = 0
        self._noted: list[tuple[int, int]] = []
        self._last = 0
        self._waiting: dict[int, Callable[[], None]] = {}
        self._tokens = 0

    # ── Presence, Source ──

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        missing = self.present.missing(start, stop)
        if header_bytes is None:
            return missing
        return [e for m in missing for e in self.headers.missing(m.start, m.stop)]

    @property
    def limit(self) -> Extent:
        return Extent(0, self.head)

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        if self.segment.kind == "region":
            yield ReadPages(1, 1, need=extents, hold=True), extents
            return
        if header_bytes is not None:
            yield ReadBlocks(extents, Part.HEADER, self.depth or 0, park), extents
            return
        for part, some in by_lacking(extents, self._has_headers):
            yield ReadBlocks(some, part, self.depth or 0, park), some

    def _has_headers(self, extent: Extent) -> bool:
        return bool(self.depth) and self.headers.covers(*extent)

    def unit_bytes(self, header_bytes: int | None) -> float:
        size = self.segment.unit_bytes if header_bytes is None else header_bytes
        return size + ROW_BYTES[self.segment.kind]

    # ── readers ──

    def hit(self, start: int, stop: int, header_bytes: int | None) -> bool:
        """Is it here? Then the reader goes on at once, and the planner hears of it later."""
        if self.missing(start, stop, header_bytes):
            return False
        self._observe(start, stop)
        self._noted.append((start, stop))
        if len(self._noted) >= ACCESSES_NOTED:
            self._tell_noted()
            self._read_ahead()
        return True

    def need(
        self, start: int, stop: int, header_bytes: int | None, then: Callable[[], None]
    ) -> None:
        """Have it fetched; `then` is called when it is here."""
        self._tell_noted()
        self._observe(start, stop)
        self.fetcher.accessed(start, stop, self.session.clock.now)
        self._tokens += 1
        self._waiting[self._tokens] = then
        park = stop > self.head
        if park:
            self.planner.hint("sequential")
        self.session.clock.after(0, self._read_ahead)  # the demand goes first
        self.fetcher.awaited(self._tokens, start, stop, header_bytes, park=park)
        self._settle()

    def _tell_noted(self) -> None:
        now = self.session.clock.now
        for extent in self._noted:
            self.fetcher.accessed(*extent, now)
        self._noted.clear()

    def _observe(self, start: int, stop: int) -> None:
        size = (stop - start) * self.segment.unit_bytes
        self.policy.accessed(
            header_only=False,
            bytes_touched=size,
            block_bytes=size,
            sequential=start == self._last,
            now=self.session.clock.now,
        )
        self._last = stop

    def _reads_ahead(self) -> bool:
        """Of a region as `auto` decides."""
        if not self.prefetch or self.segment.kind == "ring":
            return self.prefetch
        now = self.session.clock.now
        path, pattern = self.session.estimator.estimate(now), self.planner.pattern(now)
        return self.policy.choose(path, now, pattern=pattern).method is Access.PREFETCH

    def _read_ahead(self) -> None:
        if self._reads_ahead():
            self.fetcher.plan_ahead(self.session.clock.now, self.depth, park_units=self.park_units)
        self._settle()

    def _settle(self) -> None:
        woken, self.fetcher.woken = self.fetcher.woken, []
        for token, error in woken:
            assert error is None, error
            self._waiting.pop(token)()
        self.session.pump_soon()

    # ── the wire ──

    def frame(self, frame: Frame) -> None:
        self.head = max(self.head, frame.head)
        held = self.headers if frame.part is Part.HEADER else self.present
        for run in frame.runs:
            self.arrived_units += run.length
            held.add(*run)
            self.fetcher.arrived(frame.id, *run)
        if frame.last:
            self.fetcher.ended(frame.id)
        self._settle()

    def announced(self, head: int) -> None:
        """An event: the ring has grown."""
        self.head = max(self.head, head)
        self._settle()


@dataclass(frozen=True, slots=True)
class Op:
    """One read: units [start, stop), so deep, and what the reader does with it before the next."""

    start: int
    stop: int
    header_bytes: int | None = None
    think_s: float = 0.0


@dataclass
class Reader:
    """Reads one after the other, and writes down when each was there."""

    clock: Clock
    handle: Handle
    ops: Iterator[Op]
    done_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    finished: bool = False
    read: ExtentSet = field(default_factory=ExtentSet)

    def start(self) -> Reader:
        self.clock.after(0, self._next)
        return self

    def _next(self) -> None:
        for op in self.ops:
            if not self.handle.hit(op.start, op.stop, op.header_bytes):
                asked = self.clock.now
                self.handle.need(
                    op.start,
                    op.stop,
                    op.header_bytes,
                    partial(self._came, op, asked),
                )
                return
            if self._done(op, 0.0):
                return
        self.finished = True

    def _came(self, op: Op, asked: float) -> None:
        if not self._done(op, self.clock.now - asked):
            self.clock.after(0, self._next)

    def _done(self, op: Op, waited_s: float) -> bool:
        """True if the reader thinks now, and goes on later."""
        self.done_s.append(self.clock.now)
        self.waited_s.append(waited_s)
        self.read.add(op.start, op.stop)
        if op.think_s:
            self.clock.after(round(op.think_s * NS_PER_S), self._next)
        return bool(op.think_s)
