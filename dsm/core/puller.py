"""Which request goes out when, on which lane: the client's side of one path.

Everything that any handle of a session wants from the node is queued here, and leaves in the order
of its urgency as the path takes it:

                     ┌ awaited ─────────────┐  first, as much as the path holds
    submit(...) ───▶ ├ wanted ──────────────┤  while bytes in flight < the path's window,
                     └ speculative ─────────┘  on the bulk lane that will have it first
                              │
    parked reads ─────────────┴─▶ at once: they are answered when data appears, so they fill
                                  nothing until then and do not count as in flight

Which lane will have it first: the one with the least (in flight + this) ÷ its own rate, as in
"earliest completion first" of multipath TCP (ECF, CoNEXT 2017). Whoever reads in order waits for
the slowest lane that was given something, so a lane gets what it can bring and no more. A lane that
is *young* (it came later than the others, and is in slow start still) is given what is needed last.

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
from dataclasses import dataclass, field, replace
from functools import partial
from math import log2

from dsm.core.compression import Codec, Received
from dsm.core.lanes import LANES_MAX, LaneRate
from dsm.core.path import WINDOW_BYTES_INITIAL, PathEstimator
from dsm.core.reads import Read, Request, Urgency
from dsm.core.sizes import FIRST_BYTES, request_bytes

DEMAND_LANE = 0
"""Small demand reads and parked reads have a lane of their own; bulk would stall them."""

SMALL_BYTES = 64 << 10
"""An awaited read up to this may go over the demand lane or any other, wherever it is answered in
the fewest round trips. One above is bulk: it goes over the bulk lanes, and in small pieces over
all."""

NOT_AWAITED = (Urgency.WANTED, Urgency.SPECULATIVE)

EVEN = 0.2
"""Of the difference between lanes is ignored, or else the one that was fast first would be given
most, and so measured as fast, for ever."""

LATE_RTTS = 2.5
"""Round trips as they are under load after which a request is late: one, a second where TCP had to
send a segment again, and it is on its way..."""

LATE_S = 0.05
"""...and what event loops are late by on a short path."""

LATE_LOOK_S = 0.01
"""Between two looks for what is late."""

WANTED_WINDOWS_STARTUP = 2
"""What will surely be read may be as far ahead of slow start: what it costs is nothing if the path
is slower than that, and the headers of ten thousand blocks are asked for at once."""

REQUESTS_MAX = 1024
"""Unanswered requests on one lane, until the node's limit is known."""

SEGMENTS_MAX = 1024
"""Of which it is known how they are compressed; the one that came first is forgotten."""


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
    repeatable: bool = False
    lane: int = -1
    sent_at: float = 0.0
    awaited_bytes: int = 0
    """Under way, awaited, and not late."""
    twin: int = 0
    """The id under which it was sent again."""

    @property
    def is_small(self) -> bool:
        return self.read_bytes <= SMALL_BYTES

    @property
    def may_repeat(self) -> bool:
        return self.repeatable and not self.twin and self.lane >= 0


@dataclass(slots=True)
class _Lane:
    rate: LaneRate
    young: bool
    """Others have delivered before it was there."""
    unanswered: int = 0
    connected: bool = False


@dataclass(slots=True)
class _Awaited:
    """What somebody waits for: of small reads, or of bulk. Neither waits for the other."""

    queue: deque[int] = field(default_factory=deque)
    sent_bytes: int = 0
    """Not answered yet, and not late."""


_Lanes = dict[int, _Lane]


class Puller:
    """Queues, orders and accounts for the requests of one session."""

    def __init__(self, path: PathEstimator, *, requests_max: int = REQUESTS_MAX) -> None:
        self.path = path
        self.requests_max = requests_max
        self.bulk_lanes = 1
        """Lanes that bulk is spread over; at least 1."""
        self.window_bytes = WINDOW_BYTES_INITIAL
        """The path's window when `actions` was last asked for."""
        self._now = 0.0
        self._entries: dict[int, _Entry] = {}
        self._awaited = {small: _Awaited() for small in (True, False)}
        self._queues: dict[Urgency, deque[int]] = {urgency: deque() for urgency in NOT_AWAITED}
        self._held: dict[object, list[int]] = {}
        """Speculation of owners whose reader went elsewhere."""
        self._lanes: dict[int, _Lane] = {}
        self._lanes_used = LANES_MAX
        self._present: _Lanes = {}
        self._present_bulk: _Lanes = {}
        self._present_demand: _Lanes = {}
        self._cancels: list[Cancel] = []
        self._look_at = 0.0
        self._received: dict[str, Received] = {}
        self._next_id = 1

    # ── inputs ──

    def lane_opened(self, lane: int, now: float) -> None:
        """Requests may be put on it: they leave when it is connected."""
        others = any(other.rate.bytes_per_s for other in self._lanes.values())
        self._lanes[lane] = _Lane(LaneRate(), young=others)
        self._lanes_changed()

    def lane_connected(self, lane: int, now: float) -> None:
        """From now on lanes that are not connected get nothing more."""
        if lane in self._lanes:
            self._lanes[lane].connected = True
            for entry in self._entries.values():
                if entry.lane == lane:
                    entry.sent_at = now  # it has left only now
            self._lanes_changed()

    def lane_lost(self, lane: int, now: float) -> list[tuple[int, object]]:
        """Ids that were unanswered on it, with their owners; they are forgotten.

        Whoever owns one submits again what is still missing of it.
        """
        self._lanes.pop(lane, None)
        self._lanes_changed()
        lost = [(id, entry.owner) for id, entry in self._entries.items() if entry.lane == lane]
        for id, _ in lost:
            entry = self._entries.pop(id)
            self._release(entry)
            self.path.request_abandoned(id, now)
            self._cancel_twin(entry, now)
        self._cancels = [cancel for cancel in self._cancels if cancel.lane != lane]
        return lost

    @property
    def lanes_used(self) -> int:
        """Bulk lanes above this number get nothing more."""
        return self._lanes_used

    @lanes_used.setter
    def lanes_used(self, count: int) -> None:
        if count != self._lanes_used:
            self._lanes_used = count
            self._lanes_changed()

    def new_id(self) -> int:
        """One that no request has."""
        self._next_id += 1
        return self._next_id - 1

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
        repeatable: bool = False,
    ) -> int:
        """Queue a read; returns its id. It leaves with a later `actions`.

        `bytes_expected` before compression, which is reckoned with when it leaves; `owner` is
        whatever the caller wants to find again by the id; `read_bytes` the size of the read that
        this is a piece of. `repeatable`: frames of it may come twice, also under an id that only
        `owner` knows; then it is sent again over another lane where the first is late.
        """
        id = self.new_id()
        request = Request(id, segment, epoch, read, urgency)
        read_bytes = max(bytes_expected, read_bytes)
        entry = _Entry(request, bytes_expected, parked, owner, read_bytes, repeatable)
        self._entries[id] = entry
        awaited = urgency is Urgency.AWAITED
        queue = self._awaited[entry.is_small].queue if awaited else self._queues[urgency]
        queue.append(id)
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
        self._awaited[entry.is_small].queue.append(id)

    def hold(self, owner: object, *, held: bool) -> None:
        """Whether what is queued as speculation for this owner is to wait for its next read."""
        queue = self._queues[Urgency.SPECULATIVE]
        if held and owner not in self._held:
            queued = [id for id in queue if id in self._entries]
            self._held[owner] = [id for id in queued if self._entries[id].owner is owner]
            queue.clear()
            queue.extend(id for id in queued if self._entries[id].owner is not owner)
        elif not held and owner in self._held:
            queue.extendleft(reversed(self._held.pop(owner)))

    def cancel(self, id: int, now: float) -> None:
        """Nobody wants it any more; frames of it that still arrive are counted as waste."""
        entry = self._entries.pop(id, None)
        if entry is None:
            return
        self._cancel_twin(entry, now)
        if entry.lane >= 0:
            self._release(entry)
            self.path.request_abandoned(id, now)
            self._cancels.append(Cancel(entry.lane, id))

    def frame_arrived(
        self,
        id: int,
        wire_bytes: int,
        now: float,
        *,
        parked: bool = False,
        decoded_bytes: int = 0,
        codec: Codec = Codec.RAW,
    ) -> None:
        entry = self._entries.get(id)
        if entry is None or entry.lane < 0:
            return
        if decoded_bytes:
            self._segment_received(entry.request.segment).arrived(codec, wire_bytes, decoded_bytes)
        if not entry.parked:
            self._lanes[entry.lane].rate.bytes_arrived(id, wire_bytes, now)
        if not parked:
            self.path.bytes_arrived(id, wire_bytes, now)

    def finished(self, id: int, now: float) -> None:
        entry = self._entries.get(id)
        if entry is not None and entry.lane >= 0:
            del self._entries[id]
            self._release(entry)
            self.path.request_finished(id, now)
            self._cancel_twin(entry, now)

    # ── output ──

    def actions(self, now: float) -> list[Action]:
        """What is to be put on the wire now, in this order."""
        self._now = now
        self.window_bytes = self.path.window_bytes(now)
        actions: list[Action] = list(self._cancels)
        self._cancels.clear()
        if self._lanes:
            done = self._send_awaited(actions, now)
            if done:
                self._send_ahead(actions, now)
            self._see_what_is_late(actions, now, awaited_waits=not done)
        return actions

    @property
    def queued(self) -> int:
        return sum(1 for entry in self._entries.values() if entry.lane < 0)

    def is_idle(self, lane: int) -> bool:
        """Nothing is unanswered on it."""
        return lane not in self._lanes or not self._lanes[lane].unanswered

    def received(self, segment: str) -> Received:
        """How its frames came lately."""
        return self._received.get(segment) or Received()

    @property
    def request_bytes(self) -> int:
        """How large a request to submit now, on the wire."""
        return request_bytes(self.path.estimate(self._now), self.bulk_lanes)

    @property
    def unfinished(self) -> bool:
        """Something is queued or unanswered."""
        return bool(self._entries)

    @property
    def unanswered(self) -> int:
        return sum(lane.unanswered for lane in self._lanes.values())

    def was_submitted(self, id: int) -> bool:
        """It is an id of ours, of today or before."""
        return 0 < id < self._next_id

    def owner(self, id: int) -> object:
        """Who submitted it; None where nobody wants it any more, or it was never sent."""
        entry = self._entries.get(id)
        return None if entry is None or entry.lane < 0 else entry.owner

    # ── inside ──

    def _lanes_changed(self) -> None:
        """What is the same for every choice until a lane opens, connects or closes.

        At first no lane is connected, and any may be the one that is first.
        """
        connected = {n: lane for n, lane in self._lanes.items() if lane.connected}
        present = self._present = connected or dict(self._lanes)
        self._present_bulk = {n: lane for n, lane in present.items() if self._is_bulk(n)}
        self._present_demand = {n: lane for n, lane in present.items() if n == DEMAND_LANE}
        self.bulk_lanes = max(1, sum(map(self._is_bulk, self._lanes)))

    def _is_bulk(self, lane: int) -> bool:
        return DEMAND_LANE < lane <= self._lanes_used

    def _segment_received(self, segment: str) -> Received:
        if segment not in self._received and len(self._received) >= SEGMENTS_MAX:
            del self._received[next(iter(self._received))]
        return self._received.setdefault(segment, Received())

    def _wire_bytes(self, entry: _Entry) -> int:
        """Expected of it."""
        return int(entry.bytes_expected * self.received(entry.request.segment).ratio)

    def _send_awaited(self, actions: list[Action], now: float) -> bool:
        """As much as the path holds; whether that was all."""
        for awaited in self._awaited.values():
            while awaited.queue:
                entry = self._waiting(awaited.queue)
                if entry is None:
                    continue
                sent_bytes = 0 if entry.parked else awaited.sent_bytes
                if sent_bytes and sent_bytes + self._wire_bytes(entry) > self.path.held_bytes:
                    break
                lane = self._lane_for(entry)
                if lane is None:
                    break
                awaited.queue.popleft()
                actions.append(self._sent(entry, lane, now))
        return not any(awaited.queue for awaited in self._awaited.values())

    def _send_ahead(self, actions: list[Action], now: float) -> None:
        for urgency in NOT_AWAITED:
            queue = self._queues[urgency]
            self._send_young(queue, actions, now)
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

    def _send_young(self, queue: deque[int], actions: list[Action], now: float) -> None:
        """What is needed last is good enough for slow start."""
        for number, lane in self._present_bulk.items():
            while queue and self._is_young(lane):
                entry = self._entries.get(queue[-1])
                if entry is None or entry.lane >= 0:
                    queue.pop()
                elif entry.parked or self._window_is_full(entry) or not lane.rate.has_room:
                    break
                else:
                    queue.pop()
                    actions.append(self._sent(entry, number, now))

    def _see_what_is_late(self, actions: list[Action], now: float, *, awaited_waits: bool) -> None:
        """It keeps back nobody any more, and is sent again where it may be."""
        if now < self._look_at or not self._entries:
            return
        path, self._look_at = self.path.estimate(now), now + LATE_LOOK_S
        if path.phase == "startup" or not path.rate_bps:  # slow start takes long by itself
            return
        late_s = max(LATE_RTTS * max(path.rtt_s, path.rtt_loaded_s), LATE_S)
        late_s += 8 * self.path.in_flight_bytes / path.rate_bps  # what is under way takes its time
        late = [e for e in self._entries.values() if e.lane >= 0 and now - e.sent_at > late_s]
        for entry in late:
            self._awaited_no_more(entry)
        if awaited_waits or not any(self._is_waiting(queue) for queue in self._queues.values()):
            self._send_again([entry for entry in late if entry.may_repeat], actions, now)

    def _send_again(self, late: list[_Entry], actions: list[Action], now: float) -> None:
        """What is late on its lane goes over another as well, while there is nothing else to send
        and room for it: a lane whose TCP has timed out begins anew, and whoever reads in order
        waits for all that it was given. (Opportunistic retransmission of multipath TCP: Raiciu et
        al., NSDI 2012.)"""
        for entry in late:
            if entry.owner in self._held and entry.request.urgency is Urgency.SPECULATIVE:
                continue  # maybe nobody comes to it
            lane = self._lane_for(entry)
            if self._window_is_full(entry) or lane is None:
                return
            if lane == entry.lane:
                continue
            again = self.new_id()
            twin = replace(entry, request=replace(entry.request, id=again), repeatable=False)
            self._entries[again] = twin
            entry.twin = again
            actions.append(self._sent(twin, lane, now))

    def _is_waiting(self, queue: deque[int]) -> bool:
        while queue:
            if self._waiting(queue) is not None:
                return True
        return False

    def _cancel_twin(self, entry: _Entry, now: float) -> None:
        if entry.twin:
            self.cancel(entry.twin, now)

    def _waiting(self, queue: deque[int]) -> _Entry | None:
        """The entry at the front; one that was cancelled, sent or promoted is dropped."""
        entry = self._entries.get(queue[0])
        if entry is not None and entry.lane < 0:
            return entry
        queue.popleft()
        return None

    def _window_is_full(self, entry: _Entry) -> bool:
        in_flight, window = self.path.in_flight_bytes, self.window_bytes
        if entry.request.urgency is Urgency.WANTED and self.path.in_startup:
            window *= WANTED_WINDOWS_STARTUP
        return in_flight > 0 and in_flight + self._wire_bytes(entry) > window

    def _lane_for(self, entry: _Entry) -> int | None:
        wire_bytes = self._wire_bytes(entry)
        small = entry.is_small or entry.bytes_expected <= FIRST_BYTES
        if entry.parked:
            usable = self._usable(self._present_demand)
        elif small and entry.request.urgency is Urgency.AWAITED:
            usable = self._usable(self._present_demand | self._present_bulk)
            rtt_s = self.path.estimate(self._now).rtt_s
            return min(usable, key=partial(self._round_trips, wire_bytes, rtt_s), default=None)
        else:
            usable = self._usable(self._present_bulk)
        typical = self._typical_rate()

        def done_in(lane: int) -> float:
            rate = self._lanes[lane].rate
            own = rate.bytes_per_s or typical
            return (rate.in_flight_bytes + wire_bytes) / (own + EVEN * (typical - own))

        return min(usable, key=done_in, default=None)

    def _round_trips(self, wire_bytes: int, rtt_s: float, lane: int) -> tuple[float, int]:
        """Until it is answered, and what is before it.

        The demand lane has been idle for the most part, so TCP is in slow start there.
        """
        rate = self._lanes[lane].rate
        window = rate.bytes_per_s * rtt_s
        windows = (rate.in_flight_bytes + wire_bytes) / max(window, FIRST_BYTES)
        slow_start = lane == DEMAND_LANE or window < FIRST_BYTES
        return max(1.0, log2(1 + windows) if slow_start else windows), rate.in_flight_bytes

    def _usable(self, lanes: _Lanes) -> list[int]:
        """Those of them that take one more. Where none of them is there, or only young ones: any
        other, and a young one where there is no other."""
        found = self._grown(lanes) or self._grown(self._present) or self._present
        return [n for n in found if self._present[n].unanswered < self.requests_max]

    def _grown(self, lanes: _Lanes) -> list[int]:
        return [n for n, lane in lanes.items() if not self._is_young(lane)]

    def _typical_rate(self) -> float:
        """Also of a lane that has not delivered anything yet: all have begun together."""
        rates = [lane.rate.bytes_per_s for lane in self._present_bulk.values()]
        known = [rate for rate in rates if rate]
        return sum(known) / len(known) if known else 1.0

    def _is_young(self, lane: _Lane) -> bool:
        return lane.young and lane.rate.delivered_bytes < self.window_bytes // self.bulk_lanes

    def _sent(self, entry: _Entry, lane: int, now: float) -> Send:
        # Application-limited (draft-cheng-iccrg-delivery-rate-estimation): nothing else waits to
        # be sent, so what arrives says little about what the path could carry.
        limited = entry.parked or not any(self._queues.values())
        entry.lane, entry.sent_at = lane, now
        state = self._lanes[lane]
        state.unanswered += 1
        if not entry.parked:
            share, wire_bytes = self.window_bytes // self.bulk_lanes, self._wire_bytes(entry)
            state.rate.request_sent(entry.request.id, wire_bytes, now, share)
            self.path.request_sent(entry.request.id, wire_bytes, now, app_limited=limited)
            if entry.request.urgency is Urgency.AWAITED:
                entry.awaited_bytes = wire_bytes
                self._awaited[entry.is_small].sent_bytes += wire_bytes
        return Send(lane, entry.request)

    def _release(self, entry: _Entry) -> None:
        self._awaited_no_more(entry)
        lane = self._lanes.get(entry.lane)
        if lane is not None:
            lane.unanswered -= 1
            lane.rate.forget(entry.request.id)

    def _awaited_no_more(self, entry: _Entry) -> None:
        self._awaited[entry.is_small].sent_bytes -= entry.awaited_bytes
        entry.awaited_bytes = 0
