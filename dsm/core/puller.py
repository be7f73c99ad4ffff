"""Which request goes out when, on which lane: the client's side of one path.

Everything that any handle of a session wants from the node is queued here, and leaves in the order
of its urgency as the path takes it:

                     ┌ awaited ─────────────┐  at once, on the demand lane, window or not
    submit(...) ───▶ ├ wanted ──────────────┤  while bytes in flight < the path's window,
                     └ speculative ─────────┘  on the bulk lane with the least in flight
                              │
    parked reads ─────────────┴─▶ at once: they are answered when data appears, so they fill
                                  nothing until then and do not count as in flight

Driving it (all times in seconds on one monotonic clock):

    puller.lane_opened(lane, now)
    request = puller.submit("capture/eth0", epoch, read, bytes_expected=65536, ...)
    for action in puller.actions(now): ...          # after every call: send what is returned
    puller.frame_arrived(request, wire_bytes, now)  # any number of times
    puller.finished(request, now)                   # its last frame
    for id, owner in puller.lane_lost(lane, now): ...  # unanswered: whoever owns it submits again

Invariants: an id is queued, or sent on one open lane, or forgotten; awaited requests never stand
behind others; no lane has more than `requests_max` unanswered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from dsm.core.path import PathEstimator
from dsm.core.reads import Read, Request, Urgency
from dsm.core.sizes import FIRST_BYTES, request_bytes

DEMAND_LANE = 0
"""Demand reads and parked reads have a lane of their own; bulk would stall them."""

SMALL_BYTES = 64 << 10
"""An awaited read above this is bulk: it goes over the bulk lanes, and in small pieces over all."""

WINDOW_BYTES_UNKNOWN = 512 << 10
"""Before the path was ever asked."""

REQUESTS_MAX = 1024
"""Unanswered requests on one lane, until the node's limit is known."""


@dataclass(frozen=True, slots=True)
class Send:
    """Put this request on that lane now."""

    lane: int
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell the node on that lane that nobody wants this any more."""

    lane: int
    id: int


Action = Send | Cancel


@dataclass(slots=True)
class _Entry:
    request: Request
    bytes_expected: int
    parked: bool
    owner: object
    read_bytes: int
    lane: int = -1
    arrived: int = 0


@dataclass(slots=True)
class _Lane:
    unanswered: int = 0
    in_flight_bytes: int = 0


class Puller:
    """Queues, orders and accounts for the requests of one session."""

    def __init__(self, path: PathEstimator, *, requests_max: int = REQUESTS_MAX) -> None:
        self.path = path
        self.requests_max = requests_max
        self.window_bytes = WINDOW_BYTES_UNKNOWN
        """The path's window when `actions` was last asked for."""
        self._now = 0.0
        self._entries: dict[int, _Entry] = {}
        self._queues: dict[Urgency, deque[int]] = {urgency: deque() for urgency in Urgency}
        self._lanes: dict[int, _Lane] = {}
        self._cancels: list[Cancel] = []
        self._next_id = 1

    # ── inputs ──

    def lane_opened(self, lane: int, now: float) -> None:
        self._lanes[lane] = _Lane()

    def lane_lost(self, lane: int, now: float) -> list[tuple[int, object]]:
        """Ids that were unanswered on it, with their owners; they are forgotten.

        Whoever owns one submits again what is still missing of it.
        """
        self._lanes.pop(lane, None)
        lost = [(id, entry.owner) for id, entry in self._entries.items() if entry.lane == lane]
        for id, _ in lost:
            del self._entries[id]
            self.path.request_abandoned(id, now)
        self._cancels = [cancel for cancel in self._cancels if cancel.lane != lane]
        return lost

    def submit(
        self,
        segment: str,
        epoch: int,
        read: Read,
        *,
        bytes_expected: int,
        urgency: Urgency,
        parked: bool = False,
        owner: object = None,
        read_bytes: int = 0,
    ) -> int:
        """Queue a read; returns its id. It leaves with a later `actions`.

        `owner` is whatever the caller wants to find again by the id; `read_bytes` the size of the
        read that this is a piece of.
        """
        id = self._next_id
        self._next_id += 1
        request = Request(id, segment, epoch, read, urgency)
        read_bytes = max(bytes_expected, read_bytes)
        self._entries[id] = _Entry(request, bytes_expected, parked, owner, read_bytes)
        self._queues[urgency].append(id)
        return id

    def promote(self, id: int) -> None:
        """Somebody now waits for it: it goes out before all that nobody waits for."""
        entry = self._entries.get(id)
        if entry is None or entry.lane >= 0 or entry.request.urgency is Urgency.AWAITED:
            return
        request = entry.request
        entry.request = Request(
            request.id, request.segment, request.epoch, request.read, Urgency.AWAITED
        )
        self._queues[Urgency.AWAITED].append(id)

    def cancel(self, id: int, now: float) -> None:
        """Nobody wants it any more; frames of it that still arrive are counted as waste."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        if entry.lane >= 0:
            self._release(entry)
            self.path.request_abandoned(id, now)
            self._cancels.append(Cancel(entry.lane, id))

    def frame_arrived(self, id: int, wire_bytes: int, now: float, *, parked: bool = False) -> None:
        entry = self._entries.get(id)
        if entry is None or entry.lane < 0:
            return
        if not entry.parked:
            left = max(0, entry.bytes_expected - entry.arrived)
            self._lanes[entry.lane].in_flight_bytes -= min(wire_bytes, left)
        entry.arrived += wire_bytes
        if not parked:
            self.path.bytes_arrived(id, wire_bytes, now)

    def finished(self, id: int, now: float) -> None:
        entry = self._entries.get(id)
        if entry is not None and entry.lane >= 0:
            del self._entries[id]
            self._release(entry)
            self.path.request_finished(id, now)

    # ── output ──

    def actions(self, now: float) -> list[Action]:
        """What is to be put on the wire now, in this order."""
        self._now = now
        self.window_bytes = self.path.window_bytes(now)
        actions: list[Action] = list(self._cancels)
        self._cancels.clear()
        if self._lanes:
            self._send_awaited(actions, now)
            self._send_ahead(actions, now)
        return actions

    @property
    def queued(self) -> int:
        return sum(1 for entry in self._entries.values() if entry.lane < 0)

    def is_idle(self, lane: int) -> bool:
        """Nothing is unanswered on it."""
        return lane not in self._lanes or not self._lanes[lane].unanswered

    @property
    def request_bytes(self) -> int:
        """How large a request to submit now."""
        return request_bytes(self.path.estimate(self._now), self.bulk_lanes)

    @property
    def bulk_lanes(self) -> int:
        """Open lanes apart from the demand lane; at least 1."""
        return max(1, len(self._lanes) - (DEMAND_LANE in self._lanes))

    @property
    def unfinished(self) -> bool:
        """Something is queued or unanswered."""
        return bool(self._entries)

    @property
    def unanswered(self) -> int:
        return sum(lane.unanswered for lane in self._lanes.values())

    def was_submitted(self, id: int) -> bool:
        """It is the id of a request, of today or before."""
        return 0 < id < self._next_id

    def owner(self, id: int) -> object:
        """Who submitted it; None where nobody wants it any more, or it was never sent."""
        entry = self._entries.get(id)
        return None if entry is None or entry.lane < 0 else entry.owner

    # ── inside ──

    def _send_awaited(self, actions: list[Action], now: float) -> None:
        queue = self._queues[Urgency.AWAITED]
        while queue:
            entry = self._waiting(queue)
            if entry is None:
                continue
            lane = self._lane_for(entry)
            if lane is None:
                return
            queue.popleft()
            actions.append(self._sent(entry, lane, now))

    def _send_ahead(self, actions: list[Action], now: float) -> None:
        for urgency in (Urgency.WANTED, Urgency.SPECULATIVE):
            queue = self._queues[urgency]
            while queue:
                entry = self._waiting(queue)
                if entry is None:
                    continue
                if not entry.parked and self._window_is_full(entry):
                    return
                lane = self._lane_for(entry)
                if lane is None:
                    return
                queue.popleft()
                actions.append(self._sent(entry, lane, now))

    def _waiting(self, queue: deque[int]) -> _Entry | None:
        """The entry at the front; one that was cancelled, sent or promoted is dropped."""
        entry = self._entries.get(queue[0])
        if entry is not None and entry.lane < 0:
            return entry
        queue.popleft()
        return None

    def _window_is_full(self, entry: _Entry) -> bool:
        in_flight = self.path.in_flight_bytes
        return in_flight > 0 and in_flight + entry.bytes_expected > self.window_bytes

    def _lane_for(self, entry: _Entry) -> int | None:
        awaited = entry.request.urgency is Urgency.AWAITED
        bulk = [lane for lane in self._lanes if lane != DEMAND_LANE]
        if awaited and entry.bytes_expected <= FIRST_BYTES:
            bulk.append(DEMAND_LANE)
        small = awaited and entry.read_bytes <= SMALL_BYTES
        candidates = [DEMAND_LANE] if (small or entry.parked) else bulk
        usable = [
            lane
            for lane in (candidates if any(c in self._lanes for c in candidates) else self._lanes)
            if lane in self._lanes and self._lanes[lane].unanswered < self.requests_max
        ]
        return min(usable, key=lambda lane: self._lanes[lane].in_flight_bytes, default=None)

    def _sent(self, entry: _Entry, lane: int, now: float) -> Send:
        # Application-limited (draft-cheng-iccrg-delivery-rate-estimation): nothing else waits to
        # be sent, so what arrives says little about what the path could carry.
        limited = entry.parked or not any(
            queue for urgency, queue in self._queues.items() if urgency is not Urgency.AWAITED
        )
        entry.lane = lane
        state = self._lanes[lane]
        state.unanswered += 1
        if not entry.parked:
            state.in_flight_bytes += entry.bytes_expected
            self.path.request_sent(entry.request.id, entry.bytes_expected, now, app_limited=limited)
        return Send(lane, entry.request)

    def _release(self, entry: _Entry) -> None:
        lane = self._lanes.get(entry.lane)
        if lane is None:
            return
        lane.unanswered -= 1
        if not entry.parked:
            lane.in_flight_bytes -= max(0, entry.bytes_expected - entry.arrived)
