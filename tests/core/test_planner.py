"""Whole readings through the planner: what it asks for, how much of it in vain, and when it stops.

`Reading` plays the puller: it reads, plans, fetches at once, and keeps the books.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsm.core.extents import ExtentSet
from dsm.core.planner import PrefetchPlanner
from dsm.model import Extent

SIZE = 100_000


class Reading:
    def __init__(self, *, window: int = 256, gap: int = 0, limit: Extent | None = None) -> None:
        self.planner = PrefetchPlanner()
        self.window, self.gap = window, gap
        self.limit = limit or Extent(0, SIZE)
        self.present = ExtentSet()  # or requested
        self.prefetched = ExtentSet()
        self.unread = ExtentSet()  # of what was prefetched
        self.fetched_units = self.late_units = self.read_units = 0
        self.now = 0.0

    def read(self, start: int, stop: int, *, after: float = 0.001) -> list[Extent]:
        self.now += after
        missing = self.present.missing(start, stop)
        self.late_units += sum(e.length for e in missing)
        self.read_units += stop - start
        self.present.add(start, stop)
        for used in self.unread.intersection(start, stop):
            self.planner.hit(*used)
        self.unread.discard(start, stop)
        self.planner.accessed(start, stop, self.now)
        return self.plan()

    def plan(self) -> list[Extent]:
        planned = self.planner.plan(
            self.now,
            window_units=self.window,
            limit=self.limit,
            wanted=self.present.missing,
            gap_units=self.gap,
            delay_s=0.05,
        )
        assert sum(e.length for e in planned) <= self.window
        for extent in planned:
            assert self.limit.start <= extent.start < extent.stop <= self.limit.stop
            assert self.present.missing(*extent) == [extent], "asked for twice"
            self.present.add(*extent)
            self.prefetched.add(*extent)
            self.unread.add(*extent)
            self.fetched_units += extent.length
        return planned

    @property
    def wasted(self) -> float:
        """Of what was read: what was fetched and not read."""
        return self.unread.total / self.read_units


def test_the_first_read_plans_nothing_and_the_second_opens_the_window() -> None:
    reading = Reading()
    assert reading.read(1000, 1004) == []
    assert reading.read(1004, 1008) == [Extent(1008, 1040)]  # four times the run
    assert reading.read(1008, 1012) == [Extent(1040, 1060)]


def test_sequential_is_covered_exactly_once_and_soon_in_time() -> None:
    reading = Reading(window=256)
    for at in range(0, 20_000, 4):
        reading.read(at, at + 4)
        assert reading.unread.total <= 256
    assert reading.late_units == 4  # the first read: it is at the beginning, so it goes on
    assert reading.fetched_units == reading.prefetched.total
    assert reading.unread.total >= 256 * 7 / 8


def test_a_reader_that_begins_at_the_beginning_is_expected_to_read_on() -> None:
    reading = Reading(window=1_000)
    assert reading.read(0, 4) == [Extent(4, 20)]
    assert reading.read(500, 504) == []
    reading.read(900, 904)
    assert reading.planner.stale() == [Extent(4, 20)]


def test_credit_opens_the_window_faster() -> None:
    reading = Reading(window=400)
    for at in range(0, 2_000, 4):
        reading.read(at, at + 4)
    for at in (20_000, 20_004, 20_008):  # now it is clear that the first place is deserted
        reading.read(at, at + 4)
    ahead = sum(e.length for e in reading.prefetched.intersection(20_012, SIZE))
    assert ahead > 4 * 12, "more than a handle has that has earned nothing"


def test_the_window_is_filled_up_an_eighth_at_a_time() -> None:
    reading = Reading(window=800)
    sizes = [sum(e.length for e in reading.read(at, at + 1)) for at in range(10_000)]
    assert set(sizes[2_000:]) <= {0, 100}


def test_a_fast_reader_on_a_long_path_is_asked_for_at_every_read() -> None:
    reading = Reading(window=800)
    sizes = [len(reading.read(at, at + 1, after=1e-6)) for at in range(2_000)]
    assert all(sizes[1_000:])  # what is ahead lasts less than the path's delay


def test_it_stops_at_the_end_and_goes_on_when_the_ring_does() -> None:
    reading = Reading(window=64, limit=Extent(0, 100))
    for at in range(50):
        reading.read(at, at + 1)
    assert reading.prefetched.last == 99
    assert reading.plan() == []
    reading.limit = Extent(0, 103)
    assert reading.plan() == [Extent(100, 103)]


def test_what_is_there_already_is_not_asked_for() -> None:
    reading = Reading(window=64)
    reading.present.add(0, 40)
    for at in range(10):
        reading.read(at, at + 1)
    assert reading.prefetched.first == 40


@pytest.mark.parametrize("stride", [7, 64, -7, 1000])
def test_strides_are_followed_without_what_lies_between(stride: int) -> None:
    reading = Reading(window=64)
    start = 50_000
    for at in range(start, start + 40 * stride, stride):
        reading.read(at, at + 2)
    assert reading.late_units == (14 if stride == 7 else 8)  # four reads show it, of short ones 7
    assert reading.unread.total <= 64
    assert all(e.length == 2 for e in reading.prefetched)
    pattern = reading.planner.pattern(reading.now)
    assert (pattern.kind, pattern.stride, pattern.streams) == ("strided", stride, 1)


def test_a_stride_is_found_among_other_reads() -> None:
    reading, random = Reading(window=64), Random(5)
    for step in range(60):
        reading.read(10_000 + 50 * step, 10_001 + 50 * step)
        if step % 2:
            at = random.randrange(50_000, SIZE)
            reading.read(at, at + 1)
    assert reading.late_units <= 4 + 30
    assert reading.wasted < 0.8


def test_backwards() -> None:
    reading = Reading(window=64)
    for at in range(5_000, 4_000, -4):
        planned = reading.read(at - 4, at)
        assert planned == sorted(planned, reverse=True)
    assert reading.late_units == 8
    assert reading.planner.pattern(reading.now).kind == "backward"


def test_two_streams_share_the_window_by_their_rates() -> None:
    reading = Reading(window=400)
    for step in range(4_000):
        reading.read(step, step + 1)
        if step % 4 == 0:
            at = 50_000 + step // 4
            reading.read(at, at + 1)
    assert reading.late_units == 3  # of the second stream two: it is not at the beginning
    ahead = [sum(e.length for e in reading.unread.intersection(*half)) for half in HALVES]
    assert ahead[0] > 2 * ahead[1] > 0
    assert sum(ahead) <= 400
    assert reading.planner.pattern(reading.now).streams == 2


HALVES = ((0, 50_000), (50_000, SIZE))


def test_sixteen_streams_at_a_time() -> None:
    reading = Reading(window=1_600)
    for step in range(200):
        for stream in range(16):
            at = stream * stream * 350 + step
            reading.read(at, at + 1)
    assert reading.late_units == 31


def test_gaps_are_read_through_when_they_are_smaller_than_the_path() -> None:
    random = Random(1)
    through, at = Reading(window=512, gap=64), 0
    for _ in range(500):
        through.read(at, at + 4)
        at += 4 + random.randrange(0, 5)
    assert through.late_units <= 0.05 * through.read_units


def test_equal_skips_are_a_stride_and_its_gaps_are_not_read_through() -> None:
    reading = Reading(gap=100)
    for at in range(0, 40_000, 8):
        reading.read(at, at + 2)
    assert reading.planner.pattern(reading.now).kind == "strided"
    assert reading.late_units <= 4
    assert reading.wasted < 0.1


def test_a_stride_that_ends_in_skips_goes_on_as_those() -> None:
    reading, random = Reading(gap=100), Random(3)
    for at in range(0, 400, 8):
        reading.read(at, at + 2)
    assert reading.planner.pattern(reading.now).kind == "strided"
    late, at = reading.late_units, 400
    for _ in range(200):
        reading.read(at, at + 2)
        at += random.randint(3, 12)
    assert reading.planner.pattern(reading.now).kind == "sequential"
    assert reading.late_units - late <= 16
    assert not reading.planner.stale()


@pytest.mark.parametrize("gap", [20, 200, 2000])
def test_records_of_any_length_are_read_through(gap: int) -> None:
    reading, random, at = Reading(gap=gap), Random(gap), 0
    for _ in range(2000):
        reading.read(at, at + 2)
        at += random.randint(3, 12)
    assert reading.late_units <= 4
    pattern = reading.planner.pattern(reading.now)
    assert (pattern.kind, pattern.followed > 0.99) == ("sequential", True)


def test_a_look_at_the_header_first_does_not_spoil_what_follows() -> None:
    """Its length is no measure of what reads are worth."""
    reading = Reading()
    reading.read(0, 1)
    for at in range(0, 16_384, 256):
        reading.read(at, at + 16)
    assert reading.late_units <= 6 * 16


def test_where_hardly_anything_is_read_gaps_are_not_read_through() -> None:
    random = Random(1)
    reading = Reading(window=512, gap=64)
    for at in range(2_000):
        reading.read(at, at + 1)
    before, at = reading.fetched_units, 2_000
    for _ in range(500):
        at += random.randrange(30, 60)
        reading.read(at, at + 1)
    assert reading.fetched_units - before <= 0.1 * (at - 2_000)


def test_a_jump_beyond_the_gap_is_a_seek_and_makes_the_old_stream_stale() -> None:
    reading = Reading(window=256, gap=16)
    for at in range(0, 400, 4):
        reading.read(at, at + 4)
    ahead = list(reading.unread)
    reading.read(50_000, 50_004)
    assert reading.planner.stale() == []  # it may have been a look at something else
    reading.read(50_004, 50_008)
    assert reading.planner.stale() == ahead
    assert reading.planner.stale() == []


def test_who_goes_elsewhere_is_believed_to_stay_there_until_he_comes_back() -> None:
    reading, at = Reading(window=256), 0

    def read_on() -> None:
        nonlocal at
        for _ in range(20):
            reading.read(at, at + 4)
            at += 4
            assert not reading.planner.is_elsewhere

    read_on()
    reading.read(50_000, 50_004)
    assert reading.planner.is_elsewhere, "what is planned there may be in vain"
    read_on()
    reading.read(60_000, 60_004)
    assert not reading.planner.is_elsewhere, "he came back the last time"
    read_on()
    at += 20_000
    read_on()
    reading.read(50_000, 50_004)
    assert reading.planner.is_elsewhere, "the last time he stayed"


def test_a_read_or_two_elsewhere_is_no_seek_for_one_who_takes_turns() -> None:
    reading, at = Reading(window=256), 0
    reported = 0
    for turn in range(30):
        for _ in range(20):
            reading.read(at, at + 4)
            at += 4
        for elsewhere in range(5):
            place = 50_000 + 977 * turn + 113 * elsewhere * elsewhere
            reading.read(place, place + 1)
        reported += bool(reading.planner.stale())
    assert reported <= 3  # patience grew


def test_a_skip_into_what_is_fetched_already_goes_on() -> None:
    reading = Reading(window=256, gap=0)
    for at in range(0, 400, 4):
        reading.read(at, at + 4)
    reading.read(500, 504)
    reading.read(504, 508)
    assert reading.planner.stale() == []
    assert reading.planner.pattern(reading.now).streams == 1


@pytest.mark.parametrize("size", [300, 1_000, 10_000, 1_000_000])
@pytest.mark.parametrize("gap", [0, 50])
def test_random_reads_waste_at_the_most_a_tenth(size: int, gap: int) -> None:
    for seed in range(5):
        reading, random = Reading(window=256, gap=gap, limit=Extent(0, size)), Random(seed)
        for _ in range(600):
            at = random.randrange(0, size - 4)
            reading.read(at, at + 4)
        assert reading.wasted <= 0.10, f"seed {seed}"


def test_a_seek_after_a_long_run_does_not_ruin_the_next() -> None:
    reading = Reading(window=2_000)
    for start in (0, 20_000, 40_000, 60_000):
        for at in range(start, start + 8_000, 4):
            reading.read(at, at + 4)
    assert reading.late_units == 4 + 3 * 8


def test_short_runs_waste_little() -> None:
    reading, random = Reading(window=256), Random(3)
    for _ in range(300):
        start = random.randrange(0, SIZE - 20)
        for at in range(start, start + 9, 3):
            reading.read(at, at + 3)
    assert reading.wasted <= 0.15


def test_after_random_reads_a_long_run_is_followed_again() -> None:
    reading, random = Reading(window=256), Random(3)
    for _ in range(300):
        at = random.randrange(50_000, SIZE)
        reading.read(at, at + 4)
    late = reading.late_units
    for at in range(0, 4_000, 4):
        reading.read(at, at + 4)
    assert reading.late_units - late <= 40


def test_random_is_called_random() -> None:
    reading, random = Reading(), Random(3)
    assert reading.planner.pattern(0.0).kind == "unknown"
    for _ in range(50):
        at = random.randrange(0, SIZE)
        reading.read(at, at + 4)
    assert reading.planner.pattern(reading.now).kind == "random"


def test_the_same_again_is_not_a_stream() -> None:
    reading = Reading()
    for _ in range(50):
        assert reading.read(7, 8) == []


def test_small_reads_within_a_page_go_on_to_the_next() -> None:
    reading = Reading()
    for page in range(100):
        for _ in range(5):
            reading.read(page, page + 1)
        reading.read(page, page + 2)  # across the border
    assert reading.late_units <= 3


def test_hints() -> None:
    reading = Reading(window=256)
    reading.planner.hint("sequential")
    assert reading.read(0, 4) == [Extent(4, 260)]
    reading.planner.hint("random")
    assert reading.planner.stale() == [Extent(4, 260)]
    for at in range(1_000, 1_100, 4):
        assert reading.read(at, at + 4) == []
    reading.planner.hint("normal")
    assert any(reading.read(at, at + 4) for at in range(2_000, 2_040, 4))


def test_what_will_be_needed_comes_first_and_does_not_wait_for_the_reader() -> None:
    reading = Reading(window=100)
    reading.planner.will_need(Extent(5_000, 5_250))
    assert reading.plan() == [Extent(5_000, 5_100)]
    reading.read(0, 4)
    assert reading.prefetched.total == 200
    assert reading.read(4, 8)[0] == Extent(5_200, 5_250)
    assert reading.plan() == []


def test_pattern_tells_the_rate() -> None:
    reading = Reading()
    for at in range(0, 400, 4):
        reading.read(at, at + 4, after=0.01)
    pattern = reading.planner.pattern(reading.now)
    assert pattern.kind == "sequential"
    assert pattern.rate_units_s == pytest.approx(400, rel=0.01)
    assert reading.planner.pattern(reading.now + 60).rate_units_s == 0


moves = st.one_of(
    st.tuples(st.just("on"), st.integers(1, 20)),
    st.tuples(st.just("back"), st.integers(1, 20)),
    st.tuples(st.just("skip"), st.integers(1, 40)),
    st.tuples(st.just("seek"), st.integers(0, 999)),
    st.tuples(st.just("window"), st.integers(0, 300)),
    st.tuples(st.just("head"), st.integers(1, 100)),
    st.tuples(st.just("need"), st.integers(0, 999)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(moves, max_size=80), st.integers(0, 60))
def test_never_outside_never_twice_never_more_than_the_window(
    plan: list[tuple[str, int]], gap: int
) -> None:
    reading, at = Reading(window=100, gap=gap, limit=Extent(0, 1_000)), 500
    for move, value in plan:
        if move == "window":
            reading.window = value
        elif move == "head":
            reading.limit = Extent(reading.limit.start + value // 2, reading.limit.stop + value)
        elif move == "need":
            reading.planner.will_need(Extent(value, value + 30))
        else:
            length = value if move in ("on", "back") else 3
            at = {"on": at, "back": at - 2 * value, "skip": at + value, "seek": value}[move]
            at = min(max(at, reading.limit.start), reading.limit.stop - length)
            if at < reading.limit.start:
                continue
            before = reading.planner.ahead_units
            reading.read(at, at + length)
            at += length
            assert reading.planner.ahead_units <= max(before, reading.window)
        for stale in reading.planner.stale():
            for extent in reading.unread.intersection(*stale):
                reading.unread.discard(*extent)
                reading.present.discard(*extent)
