"""`ExtentSet` against a plain set of integers, and `merge` against all ways to merge."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsm.core.extents import ExtentSet, merge
from dsm.model import Extent

units = st.integers(0, 60)
pairs = st.tuples(units, units)


def runs(members: set[int]) -> list[Extent]:
    """The naive model: the maximal runs of a set of integers."""
    starts = sorted(u for u in members if u - 1 not in members)
    stops = sorted(u + 1 for u in members if u + 1 not in members)
    return [Extent(a, b) for a, b in zip(starts, stops, strict=True)]


class AgainstSet(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.real = ExtentSet()
        self.model: set[int] = set()

    @rule(pair=pairs)
    def add(self, pair: tuple[int, int]) -> None:
        added = set(range(*pair)) - self.model
        assert self.real.add(*pair) == len(added)
        self.model |= added

    @rule(pair=pairs)
    def discard(self, pair: tuple[int, int]) -> None:
        removed = set(range(*pair)) & self.model
        assert self.real.discard(*pair) == len(removed)
        self.model -= removed

    @rule(pair=pairs)
    def ask(self, pair: tuple[int, int]) -> None:
        asked = set(range(*pair))
        assert self.real.covers(*pair) == (asked <= self.model)
        assert self.real.missing(*pair) == runs(asked - self.model)
        assert self.real.intersection(*pair) == runs(asked & self.model)

    @rule()
    def clear(self) -> None:
        self.real.clear()
        self.model.clear()

    @invariant()
    def same(self) -> None:
        assert list(self.real) == runs(self.model)
        assert len(self.real) == len(runs(self.model))
        assert self.real.total == len(self.model)
        assert self.real.first == min(self.model, default=None)
        assert self.real.last == max(self.model, default=None)
        assert all((u in self.real) == (u in self.model) for u in range(-1, 62))


TestAgainstSet = AgainstSet.TestCase
TestAgainstSet.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_reads_like_what_it_is() -> None:
    held = ExtentSet([(9, 12), (3, 7)])
    assert repr(held) == "<ExtentSet 3..7, 9..12>"
    assert held == ExtentSet([(3, 5), (5, 7), (9, 12)])
    assert held != ExtentSet([(3, 12)])
    assert not ExtentSet()
    assert repr(ExtentSet()) == "<ExtentSet empty>"


@given(st.lists(pairs, max_size=7), st.integers(1, 6))
def test_merge_covers_with_the_least(extents: list[tuple[int, int]], extents_max: int) -> None:
    merged = merge(extents, extents_max)
    exact = runs({u for pair in extents for u in range(*pair)})
    covered = {u for e in merged for u in range(*e)}
    assert len(merged) <= extents_max
    assert covered >= {u for e in exact for u in range(*e)}
    assert all(a.stop < b.start for a, b in pairwise(merged))
    gaps = [b.start - a.stop for a, b in pairwise(exact)]
    joins = max(0, len(exact) - extents_max)
    least = min(sum(chosen) for chosen in combinations(gaps, joins))
    assert len(covered) == sum(e.length for e in exact) + least


def test_merge_needs_room() -> None:
    with pytest.raises(AssertionError):
        merge([(1, 2)], 0)
