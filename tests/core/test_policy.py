"""`auto` against kinds of readers whose best method is known, and against its own words."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsm.core.planner import Pattern
from dsm.core.policy import AccessPolicy, Choice
from dsm.model import Access, PathEstimate

LONG = PathEstimate(rate_bps=500e6, rtt_s=0.08)
THIN = PathEstimate(rate_bps=5e6, rtt_s=0.08)


class Reader:
    def __init__(self, *, path: PathEstimate = LONG, header_bytes: int = 64) -> None:
        self.policy = AccessPolicy(header_bytes=header_bytes)
        self.path = path
        self.now = 0.0
        self.choices: list[Choice] = []

    def reads(
        self, count: int, *, touched: int, block: int = 16_384, sequential: bool = True
    ) -> Choice:
        for _ in range(count):
            self.now += 0.01
            self.policy.accessed(
                header_only=touched <= 64,
                bytes_touched=touched,
                block_bytes=block,
                sequential=sequential,
                now=self.now,
            )
            self.choices.append(self.policy.choose(self.path, self.now))
        return self.choices[-1]


def test_before_anything_is_known() -> None:
    choice = AccessPolicy(header_bytes=54).choose(PathEstimate(), 0.0)
    assert choice.method is Access.PREFETCH
    assert choice.header_bytes == 54
    assert not choice.costs
    assert "no read is over yet" in choice.reason


def test_it_is_settled_when_nothing_is_about_to_change() -> None:
    reader = Reader()
    for touched, settled in ((54, False), (16_384, True)):
        reader.reads(7, touched=touched)
        assert not reader.policy.is_settled
        reader.reads(2, touched=touched)
        assert reader.policy.is_settled
        assert reader.choices[-1].method is (Access.PREFETCH if settled else Access.HYBRID)
    unknown = Reader(path=PathEstimate())
    unknown.reads(50, touched=54)
    assert not unknown.policy.is_settled


def test_what_is_lacking_is_said() -> None:
    """It used to say that nothing was measured, beside a measured rate."""
    assert "path" not in AccessPolicy().choose(LONG, 0.0).reason
    guess = Reader(path=PathEstimate(rtt_s=0.08, window_bytes=512 << 10)).reads(50, touched=54)
    assert guess.method is Access.HYBRID
    reader = Reader(path=PathEstimate(rtt_s=0.08))
    assert "the path was not measured yet" in reader.reads(5, touched=54).reason
    assert "no read" not in reader.choices[-1].reason


def test_a_region_has_no_headers_to_fetch_first() -> None:
    policy = AccessPolicy(has_headers=False)
    for number in range(200):
        policy.accessed(
            header_only=False,
            bytes_touched=4096,
            block_bytes=4096,
            sequential=False,
            now=float(number),
        )
        choice = policy.choose(LONG, float(number), pattern=Pattern(kind="random"))
    assert Access.HYBRID not in choice.costs
    assert choice.method is Access.COPY_ONCE


def test_whole_blocks_in_order_are_pulled_ahead() -> None:
    choice = Reader().reads(50, touched=16_384)
    assert choice.method is Access.PREFETCH
    assert choice.costs[Access.PREFETCH] == pytest.approx(16_384 * 8 / 500e6)
    assert choice.reason == (
        "100% of reads are predicted (sequential): pulled ahead, one costs 262 µs instead of the "
        "round trip of 80 ms"
    )


def test_headers_only_is_hybrid() -> None:
    choice = Reader().reads(50, touched=54)
    assert choice.method is Access.HYBRID
    assert choice.header_bytes == 64
    assert choice.costs[Access.HYBRID] == pytest.approx(64 * 8 / 500e6)
    assert choice.reason == (
        "100% of payloads were not touched: headers first (64 bytes of 16.4 kB) saves 1.63 MB/s"
    )


def test_payloads_touched_now_and_then_pay_a_round_trip_each() -> None:
    """On a thin path bytes cost more than that, on a fat one less."""
    methods = {}
    for path in (THIN, LONG):
        reader = Reader(path=path)
        for _ in range(20):
            reader.reads(19, touched=54)
            reader.reads(1, touched=16_384)
        methods[path] = reader.choices[-2].method
    assert methods == {THIN: Access.HYBRID, LONG: Access.PREFETCH}


def test_small_scattered_reads_are_made_in_place() -> None:
    choice = Reader(path=THIN).reads(50, touched=200, block=65_536, sequential=False)
    assert choice.method in (Access.ZERO_COPY, Access.HYBRID)
    reader = Reader(path=THIN, header_bytes=0)
    random = Random(1)
    for _ in range(100):
        touched = random.choice([100, 30_000])
        choice = reader.reads(1, touched=touched, block=65_536, sequential=False)
    assert choice.method is Access.ZERO_COPY
    assert "scattered" in choice.reason


def test_whole_blocks_out_of_order_are_copied_once() -> None:
    reader = Reader()
    assert reader.reads(50, touched=54).method is Access.HYBRID
    choice = reader.reads(500, touched=500_000, block=500_000, sequential=False)
    assert choice.method is Access.COPY_ONCE
    assert "cannot be predicted" in choice.reason
    assert "whole blocks are copied, once" in choice.reason


def test_what_is_hardly_better_is_not_worth_a_change() -> None:
    choice = Reader(path=THIN).reads(50, touched=1_000_000, block=1_000_000, sequential=False)
    assert choice.costs[Access.COPY_ONCE] == min(choice.costs.values())
    assert choice.method is Access.PREFETCH


def test_a_stride_is_predicted_though_it_is_not_sequential() -> None:
    reader = Reader()
    reader.reads(50, touched=16_384, sequential=False)
    pattern = Pattern(kind="strided", streams=1, stride=10)
    costs = reader.policy.choose(LONG, reader.now, pattern=pattern).costs
    assert costs[Access.PREFETCH] == min(costs.values())
    random = reader.policy.choose(LONG, reader.now, pattern=Pattern(kind="random")).costs
    assert random[Access.PREFETCH] > 0.08


def test_reads_that_skip_a_little_are_predicted() -> None:
    reader = Reader()
    choice = reader.reads(50, touched=16_384, sequential=False)
    assert choice.costs[Access.PREFETCH] > 0.08
    pattern = Pattern(kind="sequential", streams=1, followed=0.97)
    choice = reader.policy.choose(LONG, reader.now, pattern=pattern)
    assert choice.costs[Access.PREFETCH] == min(choice.costs.values()) < 0.01


def test_it_changes_its_mind_and_says_so_before() -> None:
    reader = Reader()
    reader.reads(50, touched=54)
    reader.reads(200, touched=16_384)
    assert reader.choices[-1].method is Access.PREFETCH
    methods = [choice.method for choice in reader.choices]
    changes = sum(a is not b for a, b in pairwise(methods))
    assert changes == 2
    again = Reader()
    again.reads(3, touched=54)
    assert "hybrid has become cheaper" in again.policy.explain(LONG, again.now)


def test_a_toss_up_does_not_flap() -> None:
    reader, random = Reader(path=PathEstimate(rate_bps=20e6, rtt_s=0.08)), Random(7)
    for _ in range(2_000):
        reader.reads(1, touched=54 if random.random() > 0.08 else 16_384)
    methods = [choice.method for choice in reader.choices]
    assert sum(a is not b for a, b in pairwise(methods)) <= 40


def test_one_read_is_no_reason() -> None:
    reader = Reader()
    reader.reads(100, touched=16_384)
    assert reader.reads(1, touched=54).method is Access.PREFETCH


@pytest.mark.parametrize(("touched", "learned"), [(0, 60), (54, 64), (100, 112), (112, 112)])
def test_the_header_is_learned_from_what_is_touched(touched: int, learned: int) -> None:
    assert Reader(header_bytes=60).reads(30, touched=touched).header_bytes == learned


def test_one_long_read_in_fifty_is_no_header() -> None:
    reader = Reader()
    reader.reads(63, touched=100)
    assert reader.reads(1, touched=5_000).header_bytes == 112


def test_explain_is_for_people() -> None:
    reader = Reader()
    reader.reads(50, touched=54)
    assert reader.policy.explain(LONG, reader.now).splitlines() == [
        "hybrid: 100% of payloads were not touched: headers first (64 bytes of 16.4 kB) "
        "saves 1.63 MB/s",
        "  hybrid      1.02 µs a read  <- used",
        "  prefetch     262 µs a read",
        "  copy_once   76.2 ms a read",
        "  zero_copy     80 ms a read",
    ]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.booleans()), min_size=1, max_size=60),
    st.floats(1e4, 1e11),
    st.floats(0, 1),
    st.integers(0, 500),
)
def test_any_reader_on_any_path_gets_an_answer(
    reads: list[tuple[int, bool]], rate_bps: float, rtt_s: float, header_bytes: int
) -> None:
    policy, path = AccessPolicy(header_bytes=header_bytes), PathEstimate(rate_bps, rtt_s)
    for number, (touched, sequential) in enumerate(reads):
        policy.accessed(
            header_only=touched <= header_bytes,
            bytes_touched=touched,
            block_bytes=5_000,
            sequential=sequential,
            now=float(number),
        )
    choice = policy.choose(path, float(len(reads)))
    assert choice.method is not Access.AUTO
    assert set(choice.costs) == set(Access) - {Access.AUTO}
    assert all(cost >= 0 for cost in choice.costs.values())
    assert choice.header_bytes >= header_bytes
    assert choice.reason
