"""The spare: it grows until pings are late, and jitter does not take it away."""

from __future__ import annotations

from random import Random

import pytest

from dsm.core.stalls import (
    LATE_PINGS,
    LATE_PINGS_LONG,
    SPARE_BASES_MAX,
    SPARE_BASES_STEP,
    SPARE_LOSS,
    Spare,
)

BASE_S = 0.05


class Pinged:
    """Pings of a path whose queue holds what of the spare is more than `stalls_s` takes."""

    def __init__(self, *, stalls_s: float, jitter_s: float = 0.0) -> None:
        self.spare, self.random = Spare(), Random(1)
        self.stalls_s, self.jitter_s = stalls_s, jitter_s
        self.now = 0.0
        self.least_s = BASE_S
        self.queues_s: list[float] = []

    def ping(self, *, full: bool = True, startup: bool = False, later_s: float = 0.0) -> None:
        self.now += BASE_S
        queue_s = max(0.0, self.spare.spare_s - self.stalls_s) + later_s
        self.queues_s.append(queue_s)
        rtt_s = BASE_S + queue_s + self.random.random() * self.jitter_s
        self.spare.pinged(rtt_s, self.least_s, self.now, full=full, startup=startup)


@pytest.mark.parametrize("stalls_bases", [0.0, 0.25, 0.5, 1.0])
def test_it_grows_to_what_lanes_stall_for_and_little_beyond(stalls_bases: float) -> None:
    path = Pinged(stalls_s=stalls_bases * BASE_S)
    spares = []
    for _ in range(200):
        path.ping()
        spares.append(path.spare.spare_s / BASE_S)
    assert max(spares) <= 1.5 * stalls_bases + 3 * SPARE_BASES_STEP
    queues = sorted(path.queues_s[20:])
    assert queues[len(queues) // 2] <= 0.25 * BASE_S
    assert max(spares[20:]) >= stalls_bases


def test_where_pings_are_always_prompt_it_has_a_bound() -> None:
    path = Pinged(stalls_s=100.0)
    for _ in range(50):
        path.ping()
    assert path.spare.spare_s == pytest.approx(SPARE_BASES_MAX * BASE_S)
    assert path.spare.path_is_free(BASE_S, path.now)


def test_without_a_full_window_a_prompt_ping_proves_nothing() -> None:
    path = Pinged(stalls_s=100.0)
    for _ in range(50):
        path.ping(full=False)
    assert path.spare.spare_s == 0.0


@pytest.mark.parametrize("jitter_s", [0.01, 0.02])
def test_jitter_is_not_taken_for_a_queue(jitter_s: float) -> None:
    path = Pinged(stalls_s=BASE_S, jitter_s=jitter_s)
    spares = []
    for _ in range(400):
        path.ping()
        spares.append(path.spare.spare_s)
    assert sorted(spares[50:])[len(spares[50:]) // 2] >= 0.5 * BASE_S


def test_one_late_ping_is_asked_again_and_then_it_counts() -> None:
    path = Pinged(stalls_s=10.0)
    for _ in range(5):
        path.ping()
    before = path.spare.spare_s
    for _ in range(LATE_PINGS - 1):
        path.ping(later_s=BASE_S)
        assert path.spare.is_in_doubt
        assert not path.spare.path_is_full
    assert path.spare.spare_s == before
    path.ping(later_s=BASE_S)
    assert path.spare.path_is_full
    assert path.spare.spare_s == pytest.approx(SPARE_LOSS * before)
    for _ in range(LATE_PINGS_LONG):
        path.ping(later_s=BASE_S)
    assert path.spare.spare_s == 0.0
    assert path.spare.late_for_long
    assert not path.spare.is_in_doubt, "there is nothing left to give up"
    path.ping()
    assert not path.spare.path_is_full


def test_in_start_up_the_first_late_ping_counts() -> None:
    path = Pinged(stalls_s=10.0)
    path.ping(startup=True)
    assert path.spare.spare_s == 0.0, "start-up doubles by itself"
    path.ping(startup=True, later_s=BASE_S)
    assert path.spare.path_is_full
