"""What of one segment is fetched, for whom, and when a waiting reader may go on.

One per open handle. The index space is sequence numbers (ring) or pages (region). A fetcher keeps
three things apart: what is **present** (the shadow knows), what is **requested** (under way through
the `Puller`), and what is **awaited** (readers blocked on an extent).

    awaited(token, extents)    ──▶ missing − requested ──▶ Puller.submit, cut into requests
    accessed(a, b)             ──▶ planner ──▶ the same, speculative
                                                 │
    arrived(id, a, b) ◀── shadow was filled ◀── frames
         └──▶ woken: readers whose extent is now present
    ended(id) / interrupted(id) ──▶ what is still missing of it is requested again

`header_bytes` tells how much of each unit is meant: a number for the leading bytes of blocks,
`None` for all of it (always `None` for pages). Scattered extents share requests.

Invariants: a unit is never requested twice at the same depth at the same time; a request that ends
without progress is repeated at the most `ATTEMPTS_MAX` times; every waiter is woken exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from dsm.core.ahead import Ahead
from dsm.core.extents import ExtentSet
from dsm.core.habits import Habits, Run
from dsm.core.planner import PrefetchPlanner
from dsm.core.puller import Puller
from dsm.core.reads import Read, ReadPages, Urgency
from dsm.core.sizes import REQUEST_BYTES_MAX
from dsm.errors import DsmError, Overrun
from dsm.model import Extent

ATTEMPTS_MAX = 3
"""Answers without progress (a checksum that failed, nothing sent) before a reader is told."""

AHEAD = 4
"""Windows of the path that may lie ahead of the reader: one in flight, one for what arrived while a
lane that lost a segment holds up the rest, and as much again where it loses the next at once."""

EXTENTS_MAX = 1024
"""In one request: 10 KB of it, and a quarter of what one message may hold (`RUNS_MAX`)."""

PIECES_PER_LANE = 4
"""At least, of what is requested at a time, so that lanes end together. No more for a list: who
reads one waits for all of it, so larger ones keep nobody waiting, and a list of a thousand pages is
some tens of messages on any path."""

PARKED_REQUESTS = 4
"""Requests that cover what is asked for beyond the head of a live ring."""


class Presence(Protocol):
    """The shadow, as far as a fetcher needs to know it."""

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]: ...


class Source(Protocol):
    """How reads of one kind of segment are worded, and what they weigh."""

    @property
    def limit(self) -> Extent:
        """What exists and may be asked for."""

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterable[tuple[Read, tuple[Extent, ...]]]:
        """What asks for these, and for which of them: one read, or one for each kind."""

    def unit_bytes(self, header_bytes: int | None) -> float:
        """Expected bytes of one unit, before compression."""


@dataclass(slots=True)
class _Request:
    extents: tuple[Extent, ...]
    header_bytes: int | None
    urgency: Urgency
    park: bool
    attempt: int
    left: ExtentSet
    """What of it has not arrived: what has may be requested again meanwhile."""
    progressed: bool = False

    @property
    def start(self) -> int:
        return self.extents[0].start

    @property
    def stop(self) -> int:
        return self.extents[-1].stop


@dataclass(slots=True)
class _Waiter:
    extents: tuple[Extent, ...]
    header_bytes: int | None
    left: ExtentSet
    """What it waits for."""


class Fetcher:
    """Demand, speculation and waiting readers of one handle."""

    def __init__(
        self,
        puller: Puller,
        planner: PrefetchPlanner,
        presence: Presence,
        source: Source,
        segment: str,
        epoch: int,
        owner: object = None,
        habits: Habits | None = None,
    ) -> None:
        self.puller = puller
        self.owner = owner
        self.planner = planner
        self.presence = presence
        self.source = source
        self.segment = segment
        self.epoch = epoch
        self.ahead_bytes_max = 1 << 62
        """What may lie ahead of the reader: the shadow must hold it until it is read."""
        self.woken: list[tuple[int, DsmError | None]] = []
        """Tokens of readers that go on, with the error if there was one; the shell empties it."""
        self._requests: dict[int, _Request] = {}
        self._requested: dict[int | None, ExtentSet] = {}
        self._waiters: dict[int, _Waiter] = {}
        self._speculated = ExtentSet()
        self.ahead = Ahead()
        self._habits = habits or Habits()
        self.usual_bytes = 0.0
        """What the habits of the session let expect of this handle, once it is read in order."""
        self._run: Run | None = None

    # ── readers ──

    def awaited(
        self, token: int, start: int, stop: int, header_bytes: int | None, *, park: bool = False
    ) -> None:
        """A reader is blocked until `[start, stop)` is present; it will be in `woken`."""
        self.awaited_all(token, (Extent(start, stop),), header_bytes, park=park)

    def awaited_all(
        self,
        token: int,
        extents: Sequence[Extent],
        header_bytes: int | None,
        *,
        park: bool = False,
    ) -> None:
        """A reader is blocked until all of these are present; disjoint, in order."""
        left = ExtentSet(m for extent in extents for m in self._missing(extent, header_bytes))
        if not left.total:
            self.woken.append((token, None))
            return
        self._waiters[token] = _Waiter(tuple(extents), header_bytes, left)
        self._promote(left, header_bytes)
        self._request(left, header_bytes, Urgency.AWAITED, park=park)

    def given_up(self, token: int) -> None:
        """The reader went away (deadline, close): its reads are left to arrive."""
        self._waiters.pop(token, None)

    def wanted(self, extents: Iterable[Extent], header_bytes: int | None) -> None:
        """It will surely be read: request what is missing, in order, as the window allows."""
        self._request(extents, header_bytes, Urgency.WANTED, park=False)

    def accessed(self, start: int, stop: int, now: float) -> None:
        """A reader read this; feeds the planner."""
        self.used(start, stop)
        self.planner.accessed(start, stop, now)
        self.puller.hold(self.owner, held=self.planner.is_elsewhere)

    def used(self, start: int, stop: int) -> None:
        """Read as one of a list, which says nothing of what is read next: what had been read ahead
        was worth it."""
        self.ahead.read(start, stop)
        for hit in self._speculated.intersection(start, stop):
            self.planner.hit(hit.start, hit.stop)
            self._speculated.discard(hit.start, hit.stop)

    def plan_ahead(self, now: float, header_bytes: int | None, *, park_units: int = 0) -> None:
        """Ask the planner what to read ahead, and request it; cancel what became stale.

        `park_units`: how far beyond the head of a live ring it may reach.
        """
        self.cancel(self.planner.stale(), now)
        path = self.puller.path.estimate(now)
        unit = self.source.unit_bytes(header_bytes)
        limit = self.source.limit
        ahead = limit.stop + park_units
        if park_units > PARKED_REQUESTS:  # one request for several blocks, not one for each
            ahead -= ahead % (park_units // PARKED_REQUESTS)
        self._follow_habits(limit, unit)
        wire = unit * self.puller.received(self.segment).ratio
        in_flight = AHEAD * self.puller.path.window_bytes(now) / wire
        window = max(1, int(min(in_flight, self.ahead_bytes_max / unit)))
        plan = self.planner.plan(
            now,
            window_units=window,
            limit=Extent(limit.start, ahead),
            wanted=lambda a, b: self._lacking(a, b, header_bytes),
            gap_units=int(path.bdp_bytes / wire),
            usual_units=int(min(window, self.usual_bytes / unit)),
            delay_s=path.rtt_s,
        )
        for extents in _ascending(plan):
            for extent in extents:
                self._speculated.add(*extent)
            self._request(extents, header_bytes, Urgency.SPECULATIVE, park=park_units > 0)

    def _follow_habits(self, limit: Extent, unit_bytes: float) -> None:
        first = self.planner.first
        if first is None:
            return
        if self._run is None:
            self.usual_bytes, self._run = self._habits.usual_bytes, self._habits.began()
        left = first.start - limit.start if first.backward else limit.stop - first.stop
        self._run.bytes = first.run_units * unit_bytes if left > 0 else inf

    def cancel(self, stale: Sequence[Extent], now: float) -> None:
        """Drop speculative requests of which nothing else than this is still to come."""
        if not stale:
            return
        units = ExtentSet(stale)
        for id, request in list(self._requests.items()):
            inside = all(units.covers(*extent) for extent in request.left)
            if inside and request.urgency is Urgency.SPECULATIVE and not self._is_awaited(request):
                self._forget(id)
                self.puller.cancel(id, now)
        for extent in stale:
            self._speculated.discard(*extent)  # charged by whom found it stale
            self.ahead.deserted(*extent)

    def dropped(self, extent: Extent) -> None:
        """The shadow had no room for this any more; what of it was never read was wasted."""
        self.planner.wasted(self._speculated.discard(extent.start, extent.stop))
        self.outdated(extent)

    def outdated(self, extent: Extent) -> None:
        """The origin went on, and this of the shadow was lost."""
        self.ahead.dropped(extent.start, extent.stop)

    # ── the wire ──

    def arrived(self, id: int, start: int, stop: int) -> None:
        """Frames of `id` brought `[start, stop)`, and what was good of it is in the shadow."""
        request = self._requests.get(id)
        if request is not None:
            request.progressed = True
            left = request.left.intersection(start, stop)
            for extent in left:
                request.left.discard(*extent)
                if request.urgency is not Urgency.AWAITED:
                    self.ahead.arrived(*extent)
                self._requested_at(request.header_bytes).discard(*extent)
        self._wake(start, stop)

    def ended(self, id: int, error: DsmError | None = None) -> None:
        """The last frame of `id` came. With an `error`, who waits for any of it is told."""
        request = self._forget(id)
        if request is None:
            return
        start, stop = request.start, request.stop
        if isinstance(error, Overrun) and start <= error.gap.last < stop - 1:
            # What lies behind the gap is still there, and was not answered.
            gone = error.gap.last + 1
            self._fail((Extent(start, gone),), error)
            request.extents = tuple(ExtentSet(request.extents).intersection(gone, stop))
            self._repeat(request, request.attempt)
            return
        if error is not None:
            self._fail(request.extents, error)
            return
        attempt = 0 if request.progressed else request.attempt + 1
        if attempt >= ATTEMPTS_MAX:
            self._fail(request.extents, DsmError(f"{self.segment}: no progress"))
            return
        self._repeat(request, attempt)

    def interrupted(self, id: int) -> None:
        """The connection that carried `id` is gone: request what is missing of it again."""
        request = self._forget(id)
        if request is not None:
            self._repeat(request, request.attempt)

    def failed(self, error: DsmError) -> None:
        """Nothing more will come: every waiter is told."""
        for token in self._waiters:
            self.woken.append((token, error))
        self._waiters.clear()

    def forget_requests(self, now: float) -> list[Extent]:
        """What is under way is of no use any more (another version, a closed handle).

        Returns what was wanted of it, which somebody said will be read.
        """
        wanted: list[Extent] = []
        self.puller.hold(self.owner, held=False)
        for id, request in list(self._requests.items()):
            if request.urgency is Urgency.WANTED:
                wanted += request.left
            self._forget(id)
            self.puller.cancel(id, now)
        return wanted

    def reconsider(self) -> None:
        """The shadow changed otherwise (it moved to another version): wake or request again."""
        for token, waiter in list(self._waiters.items()):
            self._waiters.pop(token)
            self.awaited_all(token, waiter.extents, waiter.header_bytes)

    def is_ahead(self, id: int) -> bool:
        """Nobody waited for it when it was requested."""
        request = self._requests.get(id)
        return request is not None and request.urgency is not Urgency.AWAITED

    def awaited_from(self) -> Iterator[int]:
        """The first unit that each waiting reader waits for."""
        return (waiter.extents[0].start for waiter in self._waiters.values())

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiters)

    # ── inside ──

    def _request(
        self,
        extents: Iterable[Extent],
        header_bytes: int | None,
        urgency: Urgency,
        *,
        park: bool,
        attempt: int = 0,
    ) -> None:
        pieces = [
            piece
            for extent in extents
            for lacking in self._lacking(extent.start, extent.stop, header_bytes)
            for piece in self._split_at_head(lacking, park)
        ]
        for parked in (False, True):
            lacking = [extent for extent, is_parked in pieces if is_parked is parked]
            if lacking:
                self._submit(lacking, header_bytes, urgency, parked, attempt)

    def _split_at_head(self, extent: Extent, park: bool) -> list[tuple[Extent, bool]]:
        head = self.source.limit.stop
        pieces = []
        if extent.start < head:
            pieces.append((Extent(extent.start, min(extent.stop, head)), False))
        if park and extent.stop > head:
            pieces.append((Extent(max(extent.start, head), extent.stop), True))
        return pieces

    def _submit(
        self,
        extents: Sequence[Extent],
        header_bytes: int | None,
        urgency: Urgency,
        park: bool,
        attempt: int,
    ) -> None:
        """Cut into requests, and hand them to the puller."""
        unit, total = self.source.unit_bytes(header_bytes), sum(e.length for e in extents)
        wire = unit * self.puller.received(self.segment).ratio
        most, request = int(REQUEST_BYTES_MAX / unit), self.puller.request_bytes
        units = total if park else max(1, min(int(request / wire), most))
        pieces = PIECES_PER_LANE * self.puller.bulk_lanes
        turn_bytes = self.puller.window_bytes
        if self.puller.path.in_startup and urgency is not Urgency.SPECULATIVE:
            turn_bytes = request * self.puller.bulk_lanes
        if len(extents) > 1 and urgency is Urgency.AWAITED:
            units = max(units, min(most, -(-total // pieces)))
        share = min(most, total // pieces)
        for batch in batches(extents, units, max(1, int(turn_bytes / wire)), share):
            for read, asked in self.source.reads(batch, header_bytes, park=park):
                id = self.puller.submit(
                    self.segment,
                    self.epoch,
                    read,
                    bytes_expected=max(1, int(sum(e.length for e in asked) * unit)),
                    urgency=urgency,
                    parked=park,
                    owner=self.owner,
                    read_bytes=int(total * unit),
                    repeatable=isinstance(read, ReadPages),
                )
                left = ExtentSet(asked)
                self._requests[id] = _Request(asked, header_bytes, urgency, park, attempt, left)
                for extent in asked:
                    self._requested_at(header_bytes).add(*extent)

    def _missing(self, extent: Extent, header_bytes: int | None) -> list[Extent]:
        return self.presence.missing(extent.start, extent.stop, header_bytes)

    def _lacking(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        """What is neither present nor requested at this depth or deeper."""
        lacking = self.presence.missing(start, stop, header_bytes)
        for depth in {header_bytes, None}:
            requested = self._requested.get(depth)
            if requested is not None and len(requested):
                lacking = [part for e in lacking for part in requested.missing(e.start, e.stop)]
        return lacking

    def _promote(self, left: ExtentSet, header_bytes: int | None) -> None:
        late, first, last = False, left.first or 0, left.last or 0
        for id, request in self._requests.items():
            if request.start > last or request.stop <= first:
                continue
            if request.header_bytes in (header_bytes, None) and _overlap(left, request.extents):
                self.puller.promote(id)
                late = late or not (request.park or request.urgency is Urgency.AWAITED)
        self.ahead.late += late

    def _repeat(self, request: _Request, attempt: int) -> None:
        urgency = Urgency.AWAITED if self._is_awaited(request) else request.urgency
        self._request(
            request.extents, request.header_bytes, urgency, park=request.park, attempt=attempt
        )

    def _forget(self, id: int) -> _Request | None:
        request = self._requests.pop(id, None)
        if request is not None:
            for extent in request.left:
                self._requested_at(request.header_bytes).discard(*extent)
        return request

    def _requested_at(self, header_bytes: int | None) -> ExtentSet:
        return self._requested.setdefault(header_bytes, ExtentSet())

    def _is_awaited(self, request: _Request) -> bool:
        return any(_overlap(waiter.left, request.extents) for waiter in self._waiters.values())

    def _wake(self, start: int, stop: int) -> None:
        for token, waiter in list(self._waiters.items()):
            for part in waiter.left.intersection(start, stop):
                waiter.left.discard(*part)
                self.ahead.read(*part)
                for lacking in self._missing(part, waiter.header_bytes):
                    waiter.left.add(*lacking)
            if not waiter.left.total:
                del self._waiters[token]
                self.woken.append((token, None))

    def _fail(self, extents: Sequence[Extent], error: DsmError) -> None:
        for token, waiter in list(self._waiters.items()):
            if _overlap(ExtentSet(waiter.extents), extents):
                del self._waiters[token]
                self.woken.append((token, error))


def _overlap(units: ExtentSet, extents: Iterable[Extent]) -> bool:
    return any(units.intersection(start, stop) for start, stop in extents)


def _ascending(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """As few lists as keep the order: one for whoever goes forward, one for each piece backward."""
    run: list[Extent] = []
    for extent in extents:
        if run and extent.start < run[-1].stop:
            yield run
            run = []
        run.append(extent)
    if run:
        yield run


def batches(
    extents: Iterable[Extent], units: int, turn_units: int = 1, units_max: int = 0
) -> Iterator[tuple[Extent, ...]]:
    """Cut into pieces of `units`; a remainder of less than half of that stays with the last.

    Twice as large after each turn, up to `units_max`: by then start-up has doubled what there is to
    divide. A turn is a window; in start-up, of what somebody waits for, one piece for each lane.
    (Speculation comes in parts of a window: doubled by turns of those, lanes would be uneven under
    loss.)
    """
    units_max = max(units, units_max)
    batch: list[Extent] = []
    room, passed, grown = units, 0, turn_units
    for start, end in extents:
        while start < end:
            stop = end if end - start < room + units // 2 else start + room
            batch.append(Extent(start, stop))
            room -= stop - start
            passed += stop - start
            start = stop
            if room > 0 and len(batch) < EXTENTS_MAX:
                continue
            yield tuple(batch)
            batch.clear()
            if passed >= grown:
                turn_units *= 2
                units, grown = min(2 * units, units_max), grown + turn_units
            room = units
    if batch:
        yield tuple(batch)
