"""The exporter against its invariants."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsm.core.exporter import DuplicateRequest, Exporter, TooManyRequests
from dsm.core.reads import ReadBlocks, Request, Urgency
from dsm.model import Extent

REQUESTS_MAX = 5
SEGMENTS = st.sampled_from("ab")


def request(id: int, segment: str = "a", urgency: Urgency = Urgency.AWAITED) -> Request:
    return Request(id, segment, 1, ReadBlocks((Extent(0, 10),), park=True), urgency)


class Exporting(RuleBasedStateMachine):
    """Ids are runnable, parked or forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.exporter = Exporter(REQUESTS_MAX)
        self.runnable: dict[int, Request] = {}
        self.parked: dict[int, Request] = {}
        self.next_id = 1

    @rule(segment=SEGMENTS, urgency=st.sampled_from([Urgency.AWAITED, Urgency.SPECULATIVE]))
    def ask(self, segment: str, urgency: Urgency) -> None:
        asked = request(self.next_id, segment, urgency)
        self.next_id += 1
        if len(self.runnable) + len(self.parked) == REQUESTS_MAX:
            with pytest.raises(TooManyRequests):
                self.exporter.requested(asked)
            return
        self.exporter.requested(asked)
        self.runnable[asked.id] = asked
        with pytest.raises(DuplicateRequest):
            self.exporter.requested(asked)

    @rule(then=st.sampled_from(["served", "parked", "ended"]))
    def serve(self, then: str) -> None:
        serve = self.exporter.next_serve()
        if serve is None:
            assert not self.runnable
            return
        id = serve.request.id
        assert serve.request == self.runnable[id]
        assert serve.request.urgency == min(r.urgency for r in self.runnable.values())
        getattr(self.exporter, then)(id)
        if then != "served":
            asked = self.runnable.pop(id)
            if then == "parked":
                self.parked[id] = asked

    @rule(segment=SEGMENTS)
    def move(self, segment: str) -> None:
        woken = {id: r for id, r in self.parked.items() if r.segment == segment}
        assert self.exporter.moved(segment) == bool(woken)
        for id in woken:
            self.runnable[id] = self.parked.pop(id)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.integers(1, self.next_id))
        known = id in self.runnable or id in self.parked
        assert (self.exporter.ended(id) is not None) == known
        self.runnable.pop(id, None)
        self.parked.pop(id, None)

    @invariant()
    def it_knows_what_we_know(self) -> None:
        assert len(self.exporter) == len(self.runnable) + len(self.parked)
        assert self.exporter.parked_segments == {r.segment for r in self.parked.values()}


TestExporting = Exporting.TestCase
TestExporting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_turns_are_taken_and_demand_goes_first() -> None:
    exporter = Exporter(10)
    for id in (1, 2):
        exporter.requested(request(id, urgency=Urgency.SPECULATIVE))
    order = []
    for turn in range(6):
        serve = exporter.next_serve()
        assert serve is not None
        order.append(serve.request.id)
        if serve.request.id == 3:
            exporter.ended(3)
        else:
            exporter.served(serve.request.id)
        if turn == 2:
            exporter.requested(request(3))
    assert order == [1, 2, 1, 3, 2, 1]


def test_what_was_parked_says_so_once() -> None:
    exporter = Exporter(10)
    exporter.requested(request(1))
    serve = exporter.next_serve()
    assert serve is not None
    assert not serve.was_parked
    exporter.parked(1)
    assert exporter.next_serve() is None
    assert exporter.moved("a")
    serve = exporter.next_serve()
    assert serve is not None
    assert serve.was_parked
    exporter.served(1)
    serve = exporter.next_serve()
    assert serve is not None
    assert not serve.was_parked
