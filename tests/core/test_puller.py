"""The puller against its invariants, whatever comes in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dsm.core.path import PathEstimator
from dsm.core.puller import (
    DEMAND_LANE,
    LATE_S,
    SMALL_BYTES,
    WANTED_WINDOWS_STARTUP,
    Cancel,
    Puller,
    Send,
)
from dsm.core.reads import ReadBytes, Urgency

REQUESTS_MAX = 6
SIZES = st.sampled_from([1, 1000, SMALL_BYTES, SMALL_BYTES + 1, 300_000])


class Pulling(RuleBasedStateMachine):
    """`queued`, `sent` and `over` are what the model knows of each id."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.path = PathEstimator()
        self.puller = Puller(self.path, requests_max=REQUESTS_MAX)
        self.queued: dict[int, Urgency] = {}
        self.sent: dict[int, int] = {}
        self.parked: set[int] = set()
        self.held: set[int] = set()
        self.holding = False
        self.over: set[int] = set()
        self.lanes: set[int] = set()
        self.connected: set[int] = set()

    def _later(self) -> float:
        self.now += 0.001
        return self.now

    @initialize()
    def opened(self) -> None:
        self.open_lane(DEMAND_LANE)
        self.open_lane(1)

    @rule(lane=st.integers(0, 3))
    def open_lane(self, lane: int) -> None:
        if lane not in self.lanes:
            self.puller.lane_opened(lane, self._later())
            self.lanes.add(lane)

    @rule(lane=st.integers(0, 3))
    def connect_lane(self, lane: int) -> None:
        self.puller.lane_connected(lane, self._later())
        self.connected |= {lane} & self.lanes

    @rule(count=st.integers(1, 3))
    def use_lanes(self, count: int) -> None:
        self.puller.lanes_used = count

    @rule(lane=st.integers(0, 3))
    def lose_lane(self, lane: int) -> None:
        lost = {id for id, owner in self.puller.lane_lost(lane, self._later())}
        assert lost == {id for id, at in self.sent.items() if at == lane}
        for id in lost:
            del self.sent[id]
        self.over |= lost
        self.lanes.discard(lane)
        self.connected.discard(lane)

    @rule(urgency=st.sampled_from(Urgency), size=SIZES, parked=st.booleans())
    def submit(self, urgency: Urgency, size: int, parked: bool) -> None:
        id = self.puller.submit(
            "s", 1, ReadBytes(0, size), bytes_expected=size, urgency=urgency, parked=parked, owner=7
        )
        assert id not in self.queued.keys() | self.sent.keys() | self.over
        self.queued[id] = urgency
        if parked:
            self.parked.add(id)

    def _any(self, data: st.DataObject) -> int:
        return data.draw(st.integers(1, 1 + len(self.queued) + len(self.sent) + len(self.over)))

    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        id = self._any(data)
        self.puller.promote(id)
        if id in self.queued:
            self.queued[id] = Urgency.AWAITED

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        self.puller.hold(7, held=held)
        if not held:
            self.held.clear()
        elif not self.holding:
            self.held = {id for id, how in self.queued.items() if how is Urgency.SPECULATIVE}
        self.holding = held

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = self._any(data)
        self.puller.cancel(id, self._later())
        if self.queued.pop(id, None) is not None or self.sent.pop(id, None) is not None:
            self.over.add(id)

    @rule(data=st.data(), size=SIZES)
    def frame(self, data: st.DataObject, size: int) -> None:
        self.puller.frame_arrived(self._any(data), size, self._later())

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        id = self._any(data)
        self.puller.finished(id, self._later())
        if self.sent.pop(id, None) is not None:
            self.over.add(id)

    @rule()
    def act(self) -> None:
        in_flight = self.path.in_flight_bytes
        sent: list[Urgency] = []
        for action in self.puller.actions(self._later()):
            match action:
                case Cancel(lane, id):
                    assert lane in self.lanes
                    assert id in self.over
                case Send(lane, request):
                    assert lane in (self.connected or self.lanes) or self.puller._lanes[lane].young
                    urgency = self.queued.pop(request.id)
                    assert request.urgency is urgency
                    assert urgency is not Urgency.SPECULATIVE or request.id not in self.held
                    self.sent[request.id] = lane
                    sent.append(urgency)
                    if urgency is not Urgency.AWAITED and request.id not in self.parked:
                        ahead = urgency is Urgency.WANTED and self.path.in_startup
                        windows = WANTED_WINDOWS_STARTUP if ahead else 1
                        fits = self.path.in_flight_bytes <= windows * self.puller.window_bytes
                        assert fits or in_flight == 0 or len(sent) == 1
        assert sent == sorted(sent), "the urgent first"
        if Urgency.AWAITED in self.queued.values() and self.lanes:
            assert any(self._unanswered(lane) == REQUESTS_MAX for lane in self.lanes)

    def _unanswered(self, lane: int) -> int:
        return sum(at == lane for at in self.sent.values())

    @invariant()
    def lanes_hold_what_was_agreed(self) -> None:
        assert all(self._unanswered(lane) <= REQUESTS_MAX for lane in self.lanes)
        assert self.puller.unanswered == len(self.sent)
        assert self.puller.queued == len(self.queued)
        assert self.puller.unfinished == bool(self.sent or self.queued)

    @invariant()
    def what_is_awaited_is_counted(self) -> None:
        for small, awaited in self.puller._awaited.items():
            entries = [e for e in self.puller._entries.values() if e.is_small is small]
            assert awaited.sent_bytes == sum(e.awaited_bytes for e in entries)

    @invariant()
    def bulk_lanes_are_counted(self) -> None:
        used = [lane for lane in self.lanes if DEMAND_LANE < lane <= self.puller.lanes_used]
        assert self.puller.bulk_lanes == max(1, len(used))

    @invariant()
    def owners_are_known(self) -> None:
        assert all(self.puller.owner(id) == 7 for id in self.sent)
        assert not any(self.puller.owner(id) for id in self.queued.keys() | self.over)

    @precondition(lambda self: not self.sent)
    @invariant()
    def nothing_unanswered_is_nothing_in_flight(self) -> None:
        assert self.path.in_flight_bytes == 0
        assert all(state.rate.in_flight_bytes == 0 for state in self.puller._lanes.values())


TestPulling = Pulling.TestCase
TestPulling.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def _puller() -> Puller:
    puller = Puller(PathEstimator())
    for lane in range(3):
        puller.lane_opened(lane, 0.0)
    return puller


def _known_puller() -> Puller:
    """Connected, and it knows its path."""
    puller = _puller()
    puller.path.rtt_sampled(LATE_S / 3, 0.0)
    puller.path._rate.sampled(0, 1e9)
    puller.path._phase = "cruise"
    for lane in range(3):
        puller.lane_connected(lane, 0.0)
    return puller


def _submit(puller: Puller, size: int, urgency: Urgency, *, parked: bool = False) -> int:
    return puller.submit(
        "s", 1, ReadBytes(0, size), bytes_expected=size, urgency=urgency, parked=parked
    )


def _sent(puller: Puller, now: float = 0.0) -> list[tuple[int, int]]:
    return [(a.request.id, a.lane) for a in puller.actions(now) if isinstance(a, Send)]


def test_the_window_holds_back_what_nobody_waits_for() -> None:
    puller = _puller()
    ahead = [_submit(puller, 100_000, Urgency.SPECULATIVE) for _ in range(50)]
    first = _sent(puller)
    assert 0 < len(first) < 10
    demand = _submit(puller, 100, Urgency.AWAITED)
    assert _sent(puller) == [(demand, DEMAND_LANE)], "window or not, and not behind bulk"
    puller.promote(ahead[-1])
    ((promoted, lane),) = _sent(puller)
    assert promoted == ahead[-1]
    assert lane != DEMAND_LANE, "it is bulk, and would delay the next small one"


def test_of_what_is_awaited_no_more_leaves_than_the_path_holds() -> None:
    puller = _known_puller()
    puller.path._latency.replaced(0.0)
    puller.path._rate.reset(0, 1e6)
    holds = puller.path.held_bytes
    assert 30_000 < holds < 40_000
    piece = {"bytes_expected": 10_000, "urgency": Urgency.AWAITED, "read_bytes": 200_000}
    bulk = [puller.submit("s", 1, ReadBytes(0, 9), **piece) for _ in range(20)]  # type: ignore[arg-type]
    speculative = _submit(puller, 1_000, Urgency.SPECULATIVE)
    assert [id for id, _ in _sent(puller)] == bulk[:3]
    small = _submit(puller, 4_000, Urgency.AWAITED)
    assert [id for id, _ in _sent(puller)] == [small], "it does not wait for bulk"
    for id in bulk[:16]:
        puller.finished(id, 0.1)
        assert speculative not in dict(_sent(puller)), "others wait"
    puller.finished(bulk[16], 0.1)
    assert speculative in dict(_sent(puller))
    large = _submit(puller, 10_000_000, Urgency.AWAITED)
    for id in bulk[17:]:
        puller.finished(id, 0.1)
    assert [id for id, _ in _sent(puller)] == [large], "one that is alone is never too large"


def test_what_is_late_holds_up_nobody() -> None:
    """A lane may stand still for long."""
    puller = _known_puller()
    puller.path._latency.replaced(0.0)
    puller.path._rate.reset(0, 1e6)
    ids = [_submit(puller, 20_000, Urgency.AWAITED) for _ in range(2)]
    assert [id for id, _ in _sent(puller)] == ids[:1]
    assert _sent(puller, LATE_S) == []
    assert _sent(puller, 1.0) == [], "now it is known to be late"
    assert [id for id, _ in _sent(puller, 1.1)] == ids[1:]


def test_what_will_surely_be_read_is_further_ahead_of_slow_start() -> None:
    sent = {}
    for phase in ("startup", "cruise"):
        for urgency in (Urgency.WANTED, Urgency.SPECULATIVE):
            puller = _puller()
            puller.path._phase = phase  # type: ignore[assignment]
            puller.path._rate.sampled(0, 1e6)
            puller.path._latency.replaced(0.0)
            for _ in range(2000):
                _submit(puller, 1_000, urgency)
            sent[phase, urgency] = len(_sent(puller))
    assert sent["startup", Urgency.WANTED] == 2 * sent["startup", Urgency.SPECULATIVE]
    assert sent["cruise", Urgency.WANTED] == sent["cruise", Urgency.SPECULATIVE]


def test_what_is_late_goes_over_another_lane_as_well_where_nothing_else_is_to_be_sent() -> None:
    puller = _known_puller()
    read = ReadBytes(0, 60_000)

    def submit(*, repeatable: bool) -> int:
        return puller.submit(
            "s", 1, read, bytes_expected=60_000, urgency=Urgency.WANTED, repeatable=repeatable
        )

    submit(repeatable=False)
    late = submit(repeatable=True)
    lanes = dict(_sent(puller))
    assert _sent(puller, LATE_S) == []
    ((twin, lane),) = _sent(puller, 2 * LATE_S)
    assert lane != lanes[late]
    assert puller._entries[twin].request.read == read
    assert _sent(puller, 9 * LATE_S) == [], "once"
    puller.finished(late, 1.0)
    assert puller.actions(1.0) == [Cancel(lane, twin)], "it is there"

    late = submit(repeatable=True)
    ((_, lane),) = _sent(puller, 1.0)
    ((twin, _),) = _sent(puller, 2.0)
    puller.finished(twin, 2.0)
    puller.finished(late, 2.1)
    assert puller.actions(2.1) == [], "nothing to cancel"

    late = submit(repeatable=True)
    ((_, lane),) = _sent(puller, 3.0)
    ((twin, other),) = _sent(puller, 4.0)
    assert [id for id, _ in puller.lane_lost(lane, 4.0) if id in (late, twin)] == [late]
    assert puller.actions(4.0) == [Cancel(other, twin)], "its owner submits it again"

    late = submit(repeatable=True)
    assert len(_sent(puller, 5.0)) == 1
    for _ in range(50):
        submit(repeatable=False)
    _sent(puller, 6.0)
    assert puller._entries[late].twin == 0, "others wait, and the window is full"


def test_what_is_late_is_not_sent_again_for_a_reader_that_has_gone_elsewhere() -> None:
    for urgency, expected in ((Urgency.SPECULATIVE, 0), (Urgency.WANTED, 1)):
        puller = _known_puller()
        puller.submit("s", 1, ReadBytes(0, 9), bytes_expected=9, urgency=urgency, repeatable=True)
        assert len(_sent(puller)) == 1
        puller.hold(None, held=True)
        assert len(_sent(puller, 2 * LATE_S)) == expected
        puller.hold(None, held=False)
        assert len(_sent(puller, 3 * LATE_S)) == 1 - expected


def test_what_is_held_back_leaves_later_and_in_order() -> None:
    puller = _puller()
    ids = [_submit(puller, 10_000, Urgency.SPECULATIVE) for _ in range(3)]
    puller.hold(None, held=True)
    assert _sent(puller) == []
    later = _submit(puller, 10_000, Urgency.SPECULATIVE)
    puller.promote(ids[1])
    assert {id for id, _ in _sent(puller)} == {ids[1], later}, "who waits is not held back"
    puller.cancel(ids[0], 0.0)
    puller.hold(None, held=False)
    assert [id for id, _ in _sent(puller)] == [ids[2]]


def test_parked_reads_do_not_count() -> None:
    puller = _puller()
    for _ in range(100):
        _submit(puller, 100_000, Urgency.AWAITED, parked=True)
    assert len(_sent(puller)) == 100
    assert puller.path.in_flight_bytes == 0
    bulk = _submit(puller, 100_000, Urgency.WANTED)
    assert [id for id, _ in _sent(puller)] == [bulk]


def test_bulk_is_spread_over_its_lanes() -> None:
    puller = _puller()
    for _ in range(4):
        _submit(puller, 60_000, Urgency.SPECULATIVE)
    assert sorted(lane for _, lane in _sent(puller)) == [1, 1, 2, 2]


def test_bulk_lanes_beyond_those_used_get_nothing_more() -> None:
    puller = _puller()
    for used in (1, 2, 1):
        puller.lanes_used = used
        for _ in range(2):
            _submit(puller, 10_000, Urgency.SPECULATIVE)
        sent = _sent(puller)
        assert {lane for _, lane in sent} == set(range(1, used + 1))
        for id, _ in sent:
            puller.finished(id, 0.0)


def test_a_lane_takes_no_more_than_was_agreed() -> None:
    puller = _puller()
    puller.requests_max = 5
    ids = [_submit(puller, 10, Urgency.AWAITED, parked=True) for _ in range(8)]
    assert [id for id, _ in _sent(puller)] == ids[:5]
    puller.finished(ids[0], 0.0)
    assert [id for id, _ in _sent(puller)] == ids[5:6]


def _delivering(puller: Puller, sizes: dict[int, int]) -> None:
    """So many bytes come on each lane within a second; one request of each at a time."""
    for lane, size in sizes.items():
        puller.lane_connected(lane, 0.0)
        puller._lanes[lane].rate.request_sent(-lane, size, 0.0, size)
        puller._lanes[lane].rate.bytes_arrived(-lane, size, 1.0)
        puller._lanes[lane].rate.forget(-lane)


def test_a_lane_gets_what_it_can_bring() -> None:
    puller = _puller()
    _delivering(puller, {1: 9_000_000, 2: 1_000_000})
    for _ in range(8):
        _submit(puller, 60_000, Urgency.SPECULATIVE)
    lanes = [lane for _, lane in _sent(puller)]
    assert lanes.count(1) == 7, "the slow one gets a little more than its tenth"


def test_what_has_not_connected_gets_nothing_once_others_have() -> None:
    puller = _puller()
    puller.lane_connected(2, 0.0)
    for _ in range(4):
        _submit(puller, 60_000, Urgency.SPECULATIVE)
    demand = _submit(puller, 100, Urgency.AWAITED)
    sent = dict(_sent(puller))
    assert set(sent.values()) == {2}
    assert demand in sent, "also what would go over the demand lane"


def test_who_waits_is_served_by_a_young_lane_where_there_is_no_other() -> None:
    puller = _puller()
    _delivering(puller, {1: 1_000_000})
    puller.lane_lost(DEMAND_LANE, 1.0)
    puller.lane_opened(DEMAND_LANE, 1.0)
    puller.lane_connected(DEMAND_LANE, 1.0)
    for lane in (1, 2):
        puller.lane_lost(lane, 1.0)
    ids = [_submit(puller, size, Urgency.AWAITED) for size in (100, 300_000)]
    assert _sent(puller, 1.0) == [(id, DEMAND_LANE) for id in ids]


def test_a_lane_that_came_later_is_given_what_is_needed_last() -> None:
    puller = _puller()
    _delivering(puller, {1: 1_000_000, 2: 1_000_000})
    puller.lane_opened(3, 0.0)
    puller.lane_connected(3, 0.0)
    ids = [_submit(puller, 60_000, Urgency.SPECULATIVE) for _ in range(6)]
    sent = dict(_sent(puller))
    assert [id for id in ids if sent[id] == 3] == ids[-1:]
    puller.frame_arrived(ids[-1], 400_000, 1.0)
    puller.finished(ids[-1], 1.0)
    later = [_submit(puller, 30_000, Urgency.SPECULATIVE) for _ in range(6)]
    sent = dict(_sent(puller, 1.0))
    assert sent.get(later[0]) == 3, "it has brought its share: it is one of them now"
