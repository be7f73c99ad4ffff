"""Sets of integers kept as extents: coverage of a shadow, what was requested, what changed.

    add(3, 7), add(9, 12)        ├───┤  ├──┤            (3,7) (9,12)
    add(7, 9)                    ├─────────┤            (3,12)      neighbours melt together
    discard(5, 6)                ├─┤├──────┤            (3,5) (6,12)

An `ExtentSet` is two sorted lists, of starts and of stops, always disjoint and never touching:

    starts[0] < stops[0] < starts[1] < stops[1] < ...

so every question is a bisection (O(log n)) and then a walk over the k extents that it is about.
(A change also moves the tails of two lists, which is a memmove: 10 µs with 100,000 extents.)
Empty extents, `start >= stop`, are legal everywhere and mean nothing.

`merge` is for what must stay small on the wire: it gives up exactness, never coverage.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from itertools import pairwise

from dsm.model import Extent


class ExtentSet:
    """A set of integers, for sets that are mostly long runs."""

    __slots__ = ("_starts", "_stops", "_total")

    def __init__(self, extents: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for start, stop in extents:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> int:
        """Put `[start, stop)` in, and return how many units were not in before."""
        if start >= stop:
            return 0
        first = bisect_left(self._stops, start)  # the first one that reaches as far as `start`
        last = bisect_right(self._starts, stop)  # the first one that begins beyond `stop`
        before = 0
        if first == last:
            self._starts.insert(first, start)
            self._stops.insert(first, stop)
        else:
            before = self._units(first, last)
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
            self._starts[first:last] = [start]
            self._stops[first:last] = [stop]
        added = stop - start - before
        self._total += added
        return added

    def discard(self, start: int, stop: int) -> int:
        """Take `[start, stop)` out, and return how many units were in before."""
        first, last = self._overlapping(start, stop)
        if first >= last:
            return 0
        removed = self._units(first, last)
        left, right = self._starts[first], self._stops[last - 1]
        del self._starts[first:last], self._stops[first:last]
        for a, b in ((stop, right), (left, start)):
            if a < b:  # this remains
                self._starts.insert(first, a)
                self._stops.insert(first, b)
                removed -= b - a
        self._total -= removed
        return removed

    def clear(self) -> None:
        self._starts.clear()
        self._stops.clear()
        self._total = 0

    def covers(self, start: int, stop: int) -> bool:
        """Is all of `[start, stop)` in? (Of an empty extent, everything is.)"""
        if start >= stop:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    def missing(self, start: int, stop: int) -> list[Extent]:
        """What of `[start, stop)` is not in, in order."""
        gaps: list[Extent] = []
        for held in self.intersection(start, stop):
            if start < held.start:
                gaps.append(Extent(start, held.start))
            start = held.stop
        if start < stop:
            gaps.append(Extent(start, stop))
        return gaps

    def intersection(self, start: int, stop: int) -> list[Extent]:
        """What of `[start, stop)` is in, in order."""
        first, last = self._overlapping(start, stop)
        return [
            Extent(max(start, self._starts[i]), min(stop, self._stops[i]))
            for i in range(first, last)
        ]

    @property
    def total(self) -> int:
        """How many units are in."""
        return self._total

    @property
    def first(self) -> int | None:
        """The lowest unit that is in."""
        return self._starts[0] if self._starts else None

    @property
    def last(self) -> int | None:
        """The highest unit that is in."""
        return self._stops[-1] - 1 if self._stops else None

    def __contains__(self, unit: int) -> bool:
        at = bisect_right(self._starts, unit) - 1
        return at >= 0 and unit < self._stops[at]

    def __iter__(self) -> Iterator[Extent]:
        return map(Extent, self._starts, self._stops)

    def __len__(self) -> int:
        """How many extents there are; `total` counts their units."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    def __repr__(self) -> str:
        shown = ", ".join(f"{a}..{b}" for a, b in zip(self._starts[:8], self._stops, strict=False))
        more = f", and {len(self) - 8} more" if len(self) > 8 else ""
        return f"<ExtentSet {shown or 'empty'}{more}>"

    def _overlapping(self, start: int, stop: int) -> tuple[int, int]:
        """The slice of extents that share at least one unit with `[start, stop)`."""
        if start >= stop or not self._starts:
            return 0, 0
        return bisect_right(self._stops, start), bisect_left(self._starts, stop)

    def _units(self, first: int, last: int) -> int:
        if last - first == 1:
            return self._stops[first] - self._starts[first]
        return sum(self._stops[first:last]) - sum(self._starts[first:last])


def merge(extents: Iterable[tuple[int, int]], extents_max: int) -> tuple[Extent, ...]:
    """Sorted, disjoint extents that cover `extents`: at the most `extents_max` of them.

    Where there would be more, those with the smallest gaps between them become one: of all ways
    to cover with so few, this one covers the least.
    """
    assert extents_max >= 1
    held = ExtentSet()
    for start, stop in sorted(extents):
        held.add(start, stop)
    exact = list(held)
    gaps = nsmallest(
        max(0, len(exact) - extents_max),
        ((b.start - a.stop, a.stop, b.start) for a, b in pairwise(exact)),
    )
    for _, start, stop in gaps:
        held.add(start, stop)
    return tuple(held)
