"""How many lanes, and how fast one is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from dsm.core.lanes import (
    IDLE_S,
    LANE_BYTES,
    LANES_LEAST,
    LANES_LONG,
    LANES_MAX,
    LANES_START,
    TRIAL_PAUSE_S,
    TRIAL_PAUSE_S_MAX,
    LaneCount,
    LaneRate,
)
from dsm.model import PathEstimate

RTT_S = 0.08


def _path(rate_bps: float = 100e6, window_bytes: int = 1_000_000, **more: object) -> PathEstimate:
    known = {"phase": "cruise", "rtt_s": RTT_S, **more}
    return PathEstimate(rate_bps=rate_bps, window_bytes=window_bytes, **known)  # type: ignore[arg-type]


def _over(
    count: LaneCount, seconds: float, rate_bps: Callable[[int], float], *, full: bool = True
) -> list[int]:
    """The number used at every tenth of a second; `rate_bps` of so many lanes."""
    used = []
    for tick in range(int(seconds * 10)):
        assert count.wanted(_path(rate_bps(count.used)), tick / 10, full=full) >= count.used
        used.append(count.used)
    return used


def test_from_the_start() -> None:
    count = LaneCount()
    assert count.wanted(PathEstimate(), 0.0) == count.used == LANES_START
    assert count.wanted(_path(), 0.1) == LANES_START
    assert count.used == LANES_LONG, "the rate is known"
    assert LaneCount(3).wanted(PathEstimate(), 0.0) == 3
    overshoot = _path(window_bytes=12 * LANE_BYTES, phase="startup")
    assert LaneCount().wanted(overshoot, 0.0) == LANES_START


def test_a_path_that_holds_little_has_few() -> None:
    count = LaneCount()
    count.wanted(_path(phase="startup"), 0.0)
    count.wanted(_path(5e6, rtt_s=0.02), 0.1)
    assert count.used == LANES_LEAST
    count.wanted(_path(20e6, rtt_s=0.02), 0.2)
    assert count.used == 7
    count.wanted(_path(), 0.3)
    assert count.used == LANES_LONG


def test_a_window_takes_as_many_as_carry_it() -> None:
    count = LaneCount()
    count.wanted(_path(window_bytes=12 * LANE_BYTES - 1), 0.0)
    assert count.used == 12
    count.wanted(_path(window_bytes=1 << 30), 0.0)
    assert count.used == LANES_MAX


def test_what_is_not_needed_is_closed_one_after_the_other() -> None:
    count = LaneCount()
    short = _path(rtt_s=0.0005)
    wanted = [count.wanted(short, n * IDLE_S) for n in range(30)]
    assert wanted[:3] == [LANES_START, LANES_START - 1, LANES_START - 2]
    assert wanted[-1] == 1


def test_lanes_that_add_are_kept() -> None:
    wanted = _over(LaneCount(), 60, lambda lanes: lanes * 10e6)
    assert wanted[0] <= 10
    assert wanted[-1] > 12


def test_lanes_that_add_nothing_are_given_up_and_tried_more_and_more_rarely() -> None:
    wanted = _over(LaneCount(), 600, lambda lanes: 100e6)
    begun = [n / 10 for n in range(1, len(wanted)) if wanted[n] > wanted[n - 1]]
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    assert wanted[-1] == LANES_LONG
    assert pauses[0] > 2 * TRIAL_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] >= TRIAL_PAUSE_S_MAX
    assert wanted.count(LANES_LONG) > 0.9 * len(wanted)


@pytest.mark.parametrize(("before_s", "kept"), [(2 * RTT_S, True), (RTT_S / 2, False)])
def test_lanes_that_fill_a_path_that_was_far_from_full_are_kept(
    before_s: float, kept: bool
) -> None:
    """Though the rate is hardly higher: it was a good moment of those that there were."""
    count = LaneCount()
    for tick in range(200):
        spare_s = before_s if count.used == LANES_LONG else 0.0
        count.wanted(_path(spare_s=spare_s), tick / 10, full=True)
    assert (count.used > LANES_LONG) is kept


def test_nothing_is_tried_while_the_application_limits() -> None:
    assert set(_over(LaneCount(), 60, lambda lanes: lanes * 10e6, full=False)) == {LANES_LONG}


def test_never_more_than_allowed() -> None:
    assert max(_over(LaneCount(9), 60, lambda lanes: lanes * 10e6)) <= 9


def test_a_lane_in_slow_start_is_followed_and_a_slow_round_soon_forgotten() -> None:
    lane = LaneRate()

    def round_of(id: int, size: int, now: float) -> float:
        lane.request_sent(id, size, now, size)
        lane.bytes_arrived(id, size, now + 1)
        lane.forget(id)
        return lane.bytes_per_s

    assert round_of(1, 1000, 0.0) == 1000
    assert round_of(2, 2000, 1.0) == 1500
    assert round_of(3, 1500, 2.0) == 1500
    assert 1400 < round_of(4, 750, 3.0) < 1500
    assert lane.in_flight_bytes == 0
