"""Events merged for one subscriber, against a log of everything that was published."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsm.core.coalesce import EventCoalescer
from dsm.model import Event, Extent, Kind, Position

MS = 0.001


def ring(since: int = 0) -> EventCoalescer:
    return EventCoalescer("r", 7, Kind.RING, since=Position(head=since))


def region(extents_max: int = 64) -> EventCoalescer:
    return EventCoalescer("g", 7, Kind.REGION, since=Position(), extents_max=extents_max)


def appended(events: EventCoalescer, head: int, now: float) -> None:
    events.published(Position(head=head), (Extent(head - 1, head),), now)


def test_first_after_quiet_goes_at_once() -> None:
    events = ring(10)
    assert events.ready_at(5.0) is None
    assert events.take(5.0) is None
    appended(events, 11, 5.0)
    assert events.ready_at(5.0) == 5.0
    event = events.take(5.0)
    assert event == Event("r", 7, Kind.RING, 10, Position(head=11), (Extent(10, 11),))
    assert events.ready_at(5.0) is None
    appended(events, 12, 6.0)
    assert events.ready_at(6.0) == 6.0


def test_later_ones_wait_an_interval_and_merge() -> None:
    events = ring()
    appended(events, 1, 0.0)
    assert events.take(0.0) is not None
    for head in (2, 3, 4):
        appended(events, head, 0.1 * MS * head)
    assert events.ready_at(0.5 * MS) == 1 * MS
    assert events.take(0.9 * MS) is None
    event = events.take(1 * MS)
    assert event is not None
    assert (event.since, event.changed) == (1, (Extent(1, 4),))


def test_a_slow_subscriber_is_told_less_often_and_recovers() -> None:
    events = ring()
    now, head = 0.0, 0
    for _ in range(20):
        head += 1
        appended(events, head, now)
        assert events.take(now + 1.0) is not None  # a second late, every time
        now += 1.0
    appended(events, head + 1, now)
    assert events.ready_at(now) == pytest.approx(now + 0.25)
    for _ in range(10):  # prompt again
        ready_at = events.ready_at(now)
        assert ready_at is not None
        assert events.take(ready_at) is not None
        now, head = ready_at, head + 1
        appended(events, head + 1, now)
    assert events.ready_at(now) == pytest.approx(now + 1 * MS)


def test_what_is_not_new_is_no_news() -> None:
    events = ring(5)
    events.published(Position(head=5), (), 1.0)
    events.published(Position(head=4), (Extent(3, 4),), 1.0)
    assert events.ready_at(1.0) is None


def test_an_event_carries_the_oldest_publication_in_it() -> None:
    events = ring()
    for head in (1, 2):
        events.published(Position(head=head), (), 0.0, published_ns=100 * head)
    event = events.take(0.0)
    assert event is not None
    assert event.published_ns == 100


def test_the_tail_tells_what_is_lost_already() -> None:
    events = ring()
    events.published(Position(head=100, tail=60), (Extent(0, 100),), 0.0)
    event = events.take(0.0)
    assert event is not None
    assert event.position.tail == 60
    assert event.changed == (Extent(0, 100),)


def test_vanished_is_said_at_once_and_last() -> None:
    events = ring()
    appended(events, 1, 0.0)
    assert events.take(0.0) is not None
    appended(events, 2, 0.1 * MS)
    events.vanished(0.2 * MS)
    assert events.ready_at(0.2 * MS) == 0.2 * MS
    event = events.take(0.2 * MS)
    assert event is not None
    assert event.gone
    assert event.changed == (Extent(1, 2),)
    appended(events, 3, 1.0)
    events.vanished(1.0)
    assert events.ready_at(1.0) is None


extents = st.tuples(st.integers(0, 100), st.integers(1, 20)).map(
    lambda pair: Extent(pair[0], pair[0] + pair[1])
)
steps = st.lists(
    st.tuples(
        st.floats(0, 0.01),
        st.one_of(st.none(), st.lists(extents, max_size=4).map(tuple)),  # None: take
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps, st.integers(1, 5))
def test_region_events_cover_all_that_changed(
    plan: list[tuple[float, tuple[Extent, ...] | None]], extents_max: int
) -> None:
    events, now, version = region(extents_max), 0.0, 0
    untold: set[int] = set()
    told_version, taken_at = 0, float("-inf")
    for wait_s, changed in plan:
        now += wait_s
        if changed is not None:
            version += 1
            untold |= {u for e in changed for u in range(*e)}
            events.published(Position(version=version), changed, now)
            continue
        ready_at = events.ready_at(now)
        event = events.take(now)
        assert (event is not None) == (ready_at == now)
        assert event is not None or version == told_version or now < taken_at + 0.25
        if event is not None:
            assert now >= taken_at + MS
            assert event.since == told_version
            assert event.position.version == version > told_version
            assert len(event.changed) <= extents_max
            assert {u for e in event.changed for u in range(*e)} >= untold
            untold, told_version, taken_at = set(), version, now


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.01), st.integers(0, 5)), max_size=60))
def test_ring_events_follow_each_other_without_a_gap(plan: list[tuple[float, int]]) -> None:
    events, now, head, told = ring(), 0.0, 0, 0
    for wait_s, count in plan:
        now += wait_s
        head += count
        events.published(Position(head=head), (Extent(head - count, head),), now)
        event = events.take(now)
        if event is not None:
            assert event.changed == (Extent(told, head),)
            assert event.since == told
            told = head
    assert told == head or events.ready_at(now) is not None
