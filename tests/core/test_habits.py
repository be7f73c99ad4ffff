"""Handle after handle of one session: what the first read of each makes it fetch."""

from __future__ import annotations

from collections.abc import Iterator

from dsm.core.fetcher import AHEAD, Fetcher
from dsm.core.habits import REMEMBERED, Habits
from dsm.core.path import PathEstimator
from dsm.core.planner import AHEAD_PER_RUN, PrefetchPlanner
from dsm.core.puller import Puller
from dsm.core.reads import Read, ReadPages
from dsm.model import Extent

PAGE = 4096
FIRST_WINDOW = 4  # pages ahead of a reader of one, of whom nothing is known


class Pages:
    """A segment of so many pages, none of which arrives."""

    def __init__(self, count: int) -> None:
        self.limit = Extent(0, count)

    def missing(self, start: int, stop: int, header_bytes: int | None) -> list[Extent]:
        return [Extent(start, stop)] if start < stop else []

    def reads(
        self, extents: tuple[Extent, ...], header_bytes: int | None, *, park: bool
    ) -> Iterator[tuple[Read, tuple[Extent, ...]]]:
        yield ReadPages(1, 1, extents), extents

    def unit_bytes(self, header_bytes: int | None) -> float:
        return float(PAGE)


class Handle:
    def __init__(self, habits: Habits, pages: int = 10_000) -> None:
        self.puller, self.pages = Puller(PathEstimator()), Pages(pages)
        self.fetcher = Fetcher(
            self.puller, PrefetchPlanner(), self.pages, self.pages, "s", 1, habits=habits
        )
        self.at = 0

    def read(self, pages: int = 1, *, skip: int = 0) -> int:
        """Read on, a page at a time; returns how many pages are planned ahead of the reader."""
        self.at += skip
        for page in range(self.at, self.at + pages):
            self.fetcher.accessed(page, page + 1, 0.0)
            self.fetcher.plan_ahead(0.0, None)
        self.at += pages
        return self.fetcher.planner.ahead_units

    @property
    def window(self) -> int:
        return AHEAD * self.puller.path.window_bytes(0.0) // PAGE


def test_after_a_long_run_the_next_handle_has_its_window_at_the_first_read() -> None:
    habits = Habits()
    first = Handle(habits)
    assert first.read() == FIRST_WINDOW
    first.read(2_000)
    second = Handle(habits)
    assert second.read() == second.window


def test_a_run_is_worth_what_it_came_to() -> None:
    habits = Habits()
    Handle(habits).read(100)
    assert Handle(habits).read() == 100


def test_the_shortest_of_the_last_runs_counts() -> None:
    habits = Habits()
    Handle(habits).read(2_000)
    Handle(habits).read()  # one page, for which a window was fetched
    for _ in range(REMEMBERED):
        handle = Handle(habits)
        assert handle.read() == FIRST_WINDOW
        handle.read(2_000)
    handle = Handle(habits)
    assert handle.read() == handle.window, "the short one is forgotten"


def test_a_run_that_came_to_the_end_was_not_short() -> None:
    habits = Habits()
    for _ in range(10):
        Handle(habits, pages=5).read(5)
    handle = Handle(habits)
    assert handle.read() == handle.window


def test_who_reads_at_random_has_no_runs() -> None:
    habits = Habits()
    Handle(habits).read(2_000)
    handle = Handle(habits)
    for place in (700, 13, 4_000, 912, 2_222, 77, 5_150, 1_999):
        assert handle.read(skip=place - handle.at) == 0
    handle = Handle(habits)
    assert handle.read() == handle.window, "the habit of others stays"


def test_a_seek_ends_what_a_habit_was_good_for() -> None:
    habits = Habits()
    Handle(habits).read(2_000)
    handle = Handle(habits)
    handle.read()
    for place in (700, 4_000, 912, 2_222, 77, 5_150, 1_999):
        handle.read(skip=place - handle.at)
    assert handle.fetcher.planner.ahead_units == 0
    assert 0 < handle.read(10, skip=1) <= 11 * AHEAD_PER_RUN


def test_how_many_handles_there_were_does_not_matter() -> None:
    habits = Habits()
    for _ in range(100):
        Handle(habits).read(2)
    assert len(habits._runs) == REMEMBERED
