"""The fetcher, over a shadow that is a set and a wire that does what it likes."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dsm.core.extents import ExtentSet
from dsm.core.fetcher import ATTEMPTS_MAX, EXTENTS_MAX, PIECES_PER_LANE, Fetcher, batches
from dsm.core.path import PathEstimator
from dsm.core.planner import PrefetchPlanner
from dsm.core.puller import Puller, Send
from dsm.core.reads import Read, ReadBlocks, ReadBytes, ReadPages, Request, Urgency
from dsm.core.sizes import FIRST_BYTES, REQUEST_BYTES_MAX
from dsm.errors import DsmError, Overrun
from dsm.model import Extent, Gap

HEAD = 60
BLOCK = 20_000
HEADER = 50
DEPTHS = st.sampled_from([None, HEADER])


class Shadow:
    """Presence and source of a ring of equal blocks."""

    def __init__(self) -> None:
        self.whole, self.heads = ExtentSet(), ExtentSet()
        self.tail = 0

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        start = max(start, self.tail)
        lacking = self.whole.missing(start, stop) if start < stop else []
        if header_bytes is None:
            return lacking
        return [part for extent in lacking for part in self.heads.missing(*extent)]

    @property
    def limit(self) -> Extent:
        return Extent(self.tail, HEAD)

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        yield ReadBlocks(extents, header_bytes=header_bytes or 0, park=park), extents

    def unit_bytes(self, header_bytes: int | None) -> float:
        return float(BLOCK if header_bytes is None else header_bytes + 40)


class Fetching(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.puller = Puller(PathEstimator())
        self.puller.lane_opened(0, 0.0)
        self.puller.lane_opened(1, 0.0)
        self.shadow = Shadow()
        self.fetcher = Fetcher(
            self.puller, PrefetchPlanner(), self.shadow, self.shadow, "s", 1, owner=self
        )
        self.sent: dict[int, tuple[int, Request]] = {}
        self.todo: dict[int, ExtentSet] = {}  # what of each request was not answered
        self.waiting: dict[int, tuple[list[Extent], int | None]] = {}
        self.next_token = 1

    def _depth(self, request: Request) -> int | None:
        assert isinstance(request.read, ReadBlocks)
        return request.read.header_bytes or None

    # ── readers ──

    @rule(start=st.integers(0, HEAD - 1), length=st.integers(1, 12), depth=DEPTHS)
    def wait(self, start: int, length: int, depth: int | None) -> None:
        stop = min(HEAD, start + length)
        self.waiting[self.next_token] = ([Extent(start, stop)], depth)
        self.fetcher.awaited(self.next_token, start, stop, depth)
        self.next_token += 1
        self._settle()

    @rule(seqs=st.sets(st.integers(0, HEAD - 1), min_size=1, max_size=20), depth=DEPTHS)
    def wait_for_all(self, seqs: set[int], depth: int | None) -> None:
        extents = list(ExtentSet((seq, seq + 1) for seq in sorted(seqs)))
        self.waiting[self.next_token] = (extents, depth)
        self.fetcher.awaited_all(self.next_token, extents, depth)
        self.next_token += 1
        self._settle()

    @rule(start=st.integers(0, HEAD - 1), length=st.integers(1, 30), depth=DEPTHS)
    def want(self, start: int, length: int, depth: int | None) -> None:
        self.fetcher.wanted((Extent(start, min(HEAD, start + length)),), depth)

    @rule(start=st.integers(0, HEAD - 1), depth=DEPTHS)
    def read_ahead(self, start: int, depth: int | None) -> None:
        self.now += 0.01
        self.fetcher.accessed(start, start + 1, self.now)
        self.fetcher.plan_ahead(self.now, depth)

    @rule(start=st.integers(0, HEAD - 1), length=st.integers(1, 30))
    def lose_interest(self, start: int, length: int) -> None:
        self.fetcher.cancel((Extent(start, start + length),), self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[token]
        self.fetcher.given_up(token)

    # ── the wire ──

    @rule()
    def send(self) -> None:
        self.now += 0.01
        for action in self.puller.actions(self.now):
            if isinstance(action, Send):
                read = action.request.read
                assert isinstance(read, ReadBlocks)
                self.sent[action.request.id] = (action.lane, action.request)
                self.todo[action.request.id] = ExtentSet(read.runs)

    def _one(self, data: st.DataObject) -> Request:
        return self.sent[data.draw(st.sampled_from(sorted(self.sent)))][1]

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), count=st.integers(1, 8), good=st.booleans())
    def answer(self, data: st.DataObject, count: int, good: bool) -> None:
        request = self._one(data)
        todo = self.todo[request.id]
        self.now += 0.01
        self.puller.frame_arrived(request.id, BLOCK, self.now)
        live = self.puller.owner(request.id) is not None
        for run in next(batches(list(todo), count)):
            todo.discard(*run)
            if good and live:
                self._fill(*run, self._depth(request))
                self.fetcher.arrived(request.id, *run)
        if not todo.total:
            self._end(request, None)
        self._settle()

    def _fill(self, first: int, stop: int, depth: int | None) -> None:
        lacking = self.shadow.missing(first, stop, depth)
        (self.shadow.whole if depth is None else self.shadow.heads).add(first, stop)
        assert lacking is not None

    def _end(self, request: Request, error: DsmError | None) -> None:
        del self.sent[request.id]
        live = self.puller.owner(request.id) is not None
        self.puller.finished(request.id, self.now)
        if live:
            self.fetcher.ended(request.id, error)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), by=st.integers(1, 20))
    def lap(self, data: st.DataObject, by: int) -> None:
        """The tail moves into a request: those before it are told, those behind it are not."""
        request = self._one(data)
        first, stop = self.todo[request.id].first or 0, self.todo[request.id].last or 0
        self.shadow.tail = min(HEAD, max(self.shadow.tail, first + by))
        last = min(self.shadow.tail, stop + 1) - 1
        if last < first:
            return
        self._end(request, Overrun("s", Gap(first, last)))
        self._settle()

    @rule(lane=st.integers(0, 1))
    def lose_lane(self, lane: int) -> None:
        for id, owner in self.puller.lane_lost(lane, self.now):
            assert owner is self
            self.fetcher.interrupted(id)
        self.sent = {id: sent for id, sent in self.sent.items() if sent[0] != lane}
        self.puller.lane_opened(lane, self.now)
        self._settle()

    # ── what must hold ──

    def _settle(self) -> None:
        for token, error in self.fetcher.woken:
            extents, depth = self.waiting.pop(token)  # exactly once
            if error is None:
                assert not any(self.shadow.missing(*extent, depth) for extent in extents)
            elif isinstance(error, Overrun):
                assert extents[0].start <= error.gap.last < self.shadow.tail
        self.fetcher.woken.clear()

    @invariant()
    def who_waits_is_served(self) -> None:
        """Whatever a reader lacks is under way."""
        for extents, depth in self.waiting.values():
            lacking = ExtentSet(m for e in extents for m in self.shadow.missing(*e, depth))
            for request in self.fetcher._requests.values():
                if request.header_bytes in (depth, None):
                    for extent in request.left:
                        lacking.discard(*extent)
            assert not len(lacking)

    @invariant()
    def nothing_is_requested_twice(self) -> None:
        for depth in (None, HEADER):
            seen = ExtentSet()
            for request in self.fetcher._requests.values():
                if request.header_bytes == depth:
                    for extent in request.left:
                        assert not seen.intersection(*extent)
                        seen.add(*extent)
            assert seen == self.fetcher._requested.get(depth, ExtentSet())


TestFetching = Fetching.TestCase
TestFetching.settings = settings(max_examples=80, stateful_step_count=50, deadline=None)


def _fetcher() -> tuple[Fetcher, Puller, Shadow]:
    puller, shadow = Puller(PathEstimator()), Shadow()
    for lane in (0, 1):
        puller.lane_opened(lane, 0.0)
    puller.path.rtt_sampled(0.001, 0.0)  # so short that requests are not cut small at first
    puller.actions(0.0)
    return Fetcher(puller, PrefetchPlanner(), shadow, shadow, "s", 1), puller, shadow


def _sends(puller: Puller) -> list[Request]:
    return [a.request for a in puller.actions(0.0) if isinstance(a, Send)]


def test_an_interruption_never_fetches_again_what_has_arrived() -> None:
    fetcher, puller, shadow = _fetcher()
    fetcher.awaited(1, 0, 6, None)
    (request,) = _sends(puller)
    shadow.whole.add(0, 4)
    fetcher.arrived(request.id, 0, 4)
    for id, _ in puller.lane_lost(1, 0.0):
        fetcher.interrupted(id)
    puller.lane_opened(1, 0.0)
    (again,) = _sends(puller)
    assert isinstance(again.read, ReadBlocks)
    assert again.read.runs == (Extent(4, 6),)
    assert again.urgency is Urgency.AWAITED


def test_speculation_that_somebody_came_to_wait_for_is_repeated_as_awaited() -> None:
    fetcher, puller, _ = _fetcher()
    fetcher.planner.hint("sequential")
    fetcher.accessed(0, 1, 0.0)
    fetcher.plan_ahead(0.0, None)
    speculative = _sends(puller)
    assert speculative[0].urgency is Urgency.SPECULATIVE
    fetcher.awaited(1, 2, 3, None)
    lost = puller.lane_lost(1, 0.0)
    for id, _ in lost:
        fetcher.interrupted(id)
    puller.lane_opened(1, 0.0)
    assert _sends(puller)[0].urgency is Urgency.AWAITED


def test_no_progress_is_told_after_some_attempts() -> None:
    fetcher, puller, _ = _fetcher()
    fetcher.awaited(1, 0, 1, None)
    attempts = 0
    while not fetcher.woken:
        (request,) = _sends(puller)
        puller.finished(request.id, 0.0)
        fetcher.ended(request.id)
        attempts += 1
    assert attempts == ATTEMPTS_MAX
    ((token, error),) = fetcher.woken
    assert token == 1
    assert isinstance(error, DsmError)


def test_an_overrun_is_told_only_to_those_before_the_tail() -> None:
    fetcher, puller, shadow = _fetcher()
    fetcher.awaited_all(1, (Extent(2, 3), Extent(4, 5), Extent(8, 9)), None)
    fetcher.awaited(2, 10, 11, None)
    fetcher.awaited(3, 8, 9, None)
    listed, _ = _sends(puller)
    shadow.tail = 6
    puller.finished(listed.id, 0.0)
    fetcher.ended(listed.id, Overrun("s", Gap(2, 5)))
    assert [token for token, _ in fetcher.woken] == [1]
    (again,) = _sends(puller)
    assert isinstance(again.read, ReadBlocks)
    assert again.read.runs == (Extent(8, 9),), "what lies behind the gap was not answered"


def test_a_reader_is_woken_once() -> None:
    fetcher, puller, shadow = _fetcher()
    fetcher.awaited(1, 0, 6, None)
    (request,) = _sends(puller)
    shadow.whole.add(0, 6)
    fetcher.arrived(request.id, 0, 6)
    fetcher.arrived(request.id, 0, 6)
    puller.finished(request.id, 0.0)
    fetcher.ended(request.id)
    fetcher.failed(DsmError("over"))
    assert fetcher.woken == [(1, None)]


class Pages(Shadow):
    """Presence and source of a region."""

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        yield ReadPages(1, 1, need=extents), extents


def test_scattered_pages_share_requests_and_their_reader_waits_for_all() -> None:
    fetcher, puller, _ = _fetcher()
    pages = Pages()
    fetcher.presence = fetcher.source = pages
    extents = [Extent(at, at + 1) for at in range(0, HEAD, 3)]
    pages.whole.add(0, 1)
    fetcher.awaited_all(1, extents, None)
    requests = _sends(puller)
    needs = [read.need for request in requests if isinstance(read := request.read, ReadPages)]
    assert len(requests) <= 8
    assert [extent for need in needs for extent in need] == extents[1:]
    for request, need in zip(requests, needs, strict=True):
        for extent in need:
            assert not fetcher.woken
            pages.whole.add(*extent)
            fetcher.arrived(request.id, *extent)
        puller.finished(request.id, 0.0)
        fetcher.ended(request.id)
    assert fetcher.woken == [(1, None)]


def test_what_a_list_shares_with_requests_under_way_is_not_asked_for_again() -> None:
    fetcher, puller, _ = _fetcher()
    pages = Pages()
    fetcher.presence = fetcher.source = pages
    fetcher.wanted((Extent(10, 20),), None)
    before = _sends(puller)
    fetcher.awaited_all(1, [Extent(5, 6), Extent(12, 15), Extent(19, 21)], None)
    (request,) = _sends(puller)
    assert isinstance(request.read, ReadPages)
    assert request.read.need == (Extent(5, 6), Extent(20, 21))
    lost = [id for lane in (0, 1) for id, _ in puller.lane_lost(lane, 0.0)]
    assert len(lost) == len(before) + 1
    for lane in (0, 1):
        puller.lane_opened(lane, 0.0)
    for id in lost:
        fetcher.interrupted(id)
    again = ExtentSet(
        e for r in _sends(puller) if isinstance(r.read, ReadPages) for e in r.read.need
    )
    assert list(again) == [Extent(5, 6), Extent(10, 21)]


def test_of_a_list_whose_lane_is_lost_only_what_did_not_come_is_asked_for_again() -> None:
    fetcher, puller, _ = _fetcher()
    pages = Pages()
    fetcher.presence = fetcher.source = pages
    fetcher.awaited_all(1, [Extent(at, at + 2) for at in range(0, HEAD, 4)], None)
    left = ExtentSet()
    for request in _sends(puller):
        assert isinstance(request.read, ReadPages)
        come, damaged, *rest = [page for run in request.read.need for page in range(*run)]
        pages.whole.add(come, come + 1)
        fetcher.arrived(request.id, come, come + 1)  # one frame: this one, and one that is damaged
        for page in (damaged, *rest):
            left.add(page, page + 1)
    for lane in (0, 1):
        for id, _ in puller.lane_lost(lane, 0.0):
            fetcher.interrupted(id)
        puller.lane_opened(lane, 0.0)
    again = [e for r in _sends(puller) if isinstance(r.read, ReadPages) for e in r.read.need]
    assert again == list(left)
    assert not fetcher.woken


def test_a_list_is_failed_once_by_whichever_part_fails() -> None:
    fetcher, puller, _ = _fetcher()
    fetcher.awaited_all(1, [Extent(0, 1), Extent(5, 6)], None)
    for request in _sends(puller):
        puller.finished(request.id, 0.0)
        fetcher.ended(request.id, DsmError(str(request.id)))
    ((token, error),) = fetcher.woken
    assert token == 1
    assert error is not None


def test_a_list_is_no_evidence_for_the_planner() -> None:
    fetcher, _, _ = _fetcher()
    for start in range(0, HEAD, 4):
        fetcher.used(start, start + 1)
    assert fetcher.planner.pattern(0.0).kind == "unknown"
    fetcher.plan_ahead(0.0, None)
    assert not fetcher._requests


def test_a_large_read_doubles_its_pieces_as_slow_start_does() -> None:
    """One small piece for each lane, then twice as large; and lanes end together."""
    for size, largest in ((400_000, FIRST_BYTES), (20_000_000, REQUEST_BYTES_MAX)):
        puller, shadow = Puller(PathEstimator()), Long(size)
        for lane in range(9):
            puller.lane_opened(lane, 0.0)
        puller.actions(0.0)
        Fetcher(puller, PrefetchPlanner(), shadow, shadow, "s", 1).awaited(1, 0, size, None)
        pieces = [request.read.length for request in _sends(puller)]  # type: ignore[union-attr]
        assert sum(pieces) == size
        assert pieces[:8] == [FIRST_BYTES] * 8
        assert len(pieces) >= 8 * PIECES_PER_LANE * 3 // 4
        assert max(pieces) <= 3 * largest // 2
        if largest > FIRST_BYTES:
            assert pieces[8:16] == [2 * FIRST_BYTES] * 8
            assert pieces[24:32] == [8 * FIRST_BYTES] * 8


class Long(Shadow):
    """Of single bytes, none of which are there."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @property
    def limit(self) -> Extent:
        return Extent(0, self.size)

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        (extent,) = extents
        yield ReadBytes(extent.start, extent.length), extents

    def unit_bytes(self, header_bytes: int | None) -> float:
        return 1.0


@given(
    st.sets(st.integers(0, 400), max_size=120),
    st.integers(1, 50),
    st.integers(1, 100),
    st.integers(1, 200),
)
def test_batches_hold_everything_once_in_order(
    units: set[int], size: int, turn: int, most: int
) -> None:
    extents = list(ExtentSet((unit, unit + 1) for unit in sorted(units)))
    pieces = list(batches(extents, size, turn, max(size, most)))
    told = [unit for batch in pieces for extent in batch for unit in range(*extent)]
    assert told == sorted(units)
    sizes = [sum(extent.length for extent in batch) for batch in pieces]
    assert all(0 < found <= max(size, most) * 3 // 2 for found in sizes)
    assert all(len(batch) <= EXTENTS_MAX for batch in pieces)
    assert all(found >= size for found in sizes[:-1])
