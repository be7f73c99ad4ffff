"""The estimator on a bottleneck in virtual time: how soon it is fast, how fast, how long its queue.

Bounds are for the whole grid; the worst cell is printed (`pytest -s`).
"""

from __future__ import annotations

from math import log2
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsm.core.path import (
    BURST_BYTES,
    JITTER_S,
    WINDOW_BYTES_INITIAL,
    WINDOW_BYTES_MIN,
    PathEstimator,
)

from .bottleneck import Link, Reader, steady, step

MBIT = 1e6 / 8
RTTS_S = (0.001, 0.005, 0.02, 0.08, 0.15, 0.3)
RATES = (10 * MBIT, 100 * MBIT, 1_000 * MBIT, 10_000 * MBIT)
GRID = [(rtt, rate) for rtt in RTTS_S for rate in RATES]


def message_bytes(rate: float) -> int:
    """10 ms of the path, within what the wire's messages may be."""
    return int(min(256 << 10, max(8 << 10, rate * 0.01)))


def reader(rate: float, rtt: float, **link: object) -> Reader:
    path = PathEstimator(window_bytes_max=1 << 30)
    return Reader(
        Link(steady(rate), steady(rtt), **link),  # type: ignore[arg-type]
        path,
        message_bytes=message_bytes(rate),
    )


def rounds_to_fill(rate: float, rtt: float, first_bytes: int = WINDOW_BYTES_INITIAL) -> float:
    """Doubling from the first window; then one round to see it."""
    return max(0.0, log2(rate * rtt / first_bytes)) + 1


def test_the_grid() -> None:
    worst = {"start-up": (0.0, ""), "idle": (0.0, ""), "queue": (0.0, "")}

    def note(what: str, value: float, rtt: float, rate: float) -> None:
        cell = f"{value:.3f} at {rtt * 1e3:.0f} ms, {rate / MBIT:.0f} Mbit/s"
        worst[what] = max(worst[what], (value, cell))

    for rtt, rate in GRID:
        begun = (rounds_to_fill(rate, rtt) + 12) * rtt + 1.5
        until = begun + 10 * rtt + 0.5
        run = reader(rate, rtt).run(until)
        over = max(rtt, 0.02)
        rounds = run.reaches(0.9 * rate, since=0.0, over=over) / rtt
        note("start-up", rounds - rounds_to_fill(rate, rtt), rtt, rate)
        note("idle", 1 - run.rate(begun, until) / rate, rtt, rate)
        queues = run.queues_s(begun, until)
        least_s = WINDOW_BYTES_MIN / rate  # the smallest window is more than small paths hold
        allowed_s = 0.5 * rtt + 5 * JITTER_S + 2 * run.message_bytes / rate + least_s
        note("queue", queues[int(0.99 * len(queues))] / allowed_s, rtt, rate)
    print("\nworst:", {what: cell for what, (_, cell) in worst.items()})
    assert worst["start-up"][0] <= 3.0  # rounds more than doubling takes
    assert worst["idle"][0] <= 0.05
    assert worst["queue"][0] <= 1.0


@pytest.mark.parametrize("rtt", [0.02, 0.3])
def test_measuring_the_base_again_costs_little(rtt: float) -> None:
    rate = 100 * MBIT
    run = reader(rate, rtt).run(34)
    assert run.rate(5, 34) >= 0.98 * rate
    estimate = run.path.estimate(34)
    assert estimate.rate_bps == pytest.approx(rate * 8, rel=0.02)
    assert estimate.rtt_s == pytest.approx(rtt, rel=0.05)
    assert estimate.bdp_bytes <= estimate.window_bytes <= 2 * estimate.bdp_bytes


class Insatiable(PathEstimator):
    """The control: asks for everything at once, and leaves it to TCP."""

    def window_bytes(self, now: float) -> int:
        return 1 << 28


@pytest.mark.parametrize("rtt", [0.02, 0.08, 0.3])
@pytest.mark.parametrize("mbit", [100, 500, 1_000])
def test_with_slow_start_beneath_it_is_hardly_slower_than_that(rtt: float, mbit: int) -> None:
    rate = mbit * MBIT

    def rounds(path: PathEstimator) -> float:
        link = Link(steady(rate), steady(rtt), initial_cwnd_bytes=4 * 14_000)
        run = Reader(link, path, message_bytes=16 << 10).run(25 * rtt + 0.5)
        assert run.rate(18 * rtt, 25 * rtt) >= 0.95 * rate
        return run.reaches(0.9 * rate, since=0.0, over=rtt) / rtt

    assert rounds(PathEstimator()) <= rounds(Insatiable()) + 1.05


STEPS = [(rtt, mbit) for rtt in (0.005, 0.05, 0.2) for mbit in (10, 100, 1_000)]


def stepped(rate: tuple[float, float], rtt: tuple[float, float]) -> tuple[Reader, float]:
    """It has the time that is promised, ten of the new round trips and a second; then 30 more."""
    at = 3 + 15 * rtt[0]
    settled = at + 10 * rtt[1] + 1
    link = Link(step(*rate, at), step(*rtt, at))
    path = PathEstimator(window_bytes_max=1 << 30)
    run = Reader(link, path, message_bytes=message_bytes(min(rate)))
    return run.run(settled + 30 * rtt[1] + 1), settled


@pytest.mark.parametrize("rate_times", [4, 1 / 4])
def test_rate_steps_are_followed(rate_times: float) -> None:
    for rtt, mbit in STEPS:
        rate = mbit * MBIT
        run, settled = stepped((rate, rate * rate_times), (rtt, rtt))
        end = run.log[-1][0]
        cell = f"{rtt * 1e3:.0f} ms, {mbit} Mbit/s"
        assert run.rate(settled, end) >= 0.9 * rate * rate_times, cell
        queues = run.queues_s(end - 5 * rtt, end)
        allowed_s = (
            rtt + 5 * JITTER_S + 3 * (run.message_bytes + WINDOW_BYTES_MIN) / rate / rate_times
        )
        assert queues[len(queues) // 2] <= allowed_s, cell


@pytest.mark.parametrize("rtt_times", [3, 1 / 3])
def test_rtt_steps_are_followed(rtt_times: float) -> None:
    for rtt, mbit in STEPS:
        rate = mbit * MBIT
        run, settled = stepped((rate, rate), (rtt, rtt * rtt_times))
        assert run.rate(settled, run.log[-1][0]) >= 0.9 * rate, f"{rtt * 1e3:.0f} ms, {mbit} Mbit/s"


def test_a_longer_path_is_told_from_a_slower_one() -> None:
    """The rate is not learned anew: as soon as the new base is known, the window is there."""
    rate, rtt = 500 * MBIT, 0.1
    run, settled = stepped((rate, rate), (rtt, 3 * rtt))
    at = settled - 10 * 3 * rtt - 1
    assert run.reaches(0.9 * rate, since=at + 3 * rtt, over=3 * rtt) <= 5 * 3 * rtt


def test_a_shorter_path_has_its_queue_back_when_the_base_is_measured_again() -> None:
    link = Link(steady(100 * MBIT), step(0.15, 0.05, 5.0))
    run = Reader(link, message_bytes=64 << 10).run(60)
    queues = run.queues_s(50, 60)
    assert queues[len(queues) // 2] <= 0.035
    assert run.path.estimate(60).rtt_s == pytest.approx(0.05, rel=0.12)


def test_a_reader_with_little_appetite_proves_nothing() -> None:
    rate, rtt = 500 * MBIT, 0.08
    run = reader(rate, rtt).run(5)
    before, asked = run.path.estimate(5), run.asked_bytes
    run.may_ask = lambda now, total: now > 30 or total - asked < 0.1 * rate * (now - 5)
    for tick in range(2_600):
        run.link.at(5 + tick * 0.01, run.ask)
    run.run(29.9)
    idle = run.path.estimate(29.9)
    assert run.rate(10, 29) == pytest.approx(0.1 * rate, rel=0.02)
    assert idle.rate_bps == pytest.approx(before.rate_bps)
    assert idle.window_bytes == pytest.approx(before.window_bytes, rel=0.1)
    run.run(36)
    assert run.rate(30.3, 36) >= 0.95 * rate


@pytest.mark.parametrize(("mbit", "fills"), [(10, True), (1_000, False)])
def test_who_reads_on_demand_learns_of_a_path_that_a_read_fills(mbit: int, fills: bool) -> None:
    burst, rate = 64 << 10, mbit * MBIT
    run = reader(rate, 0.02)
    run.message_bytes, run.on_demand = 4 << 10, True
    run.may_ask = lambda _, asked: asked // burst == run.delivered // burst
    run.run(2)
    estimate = run.path.estimate(2)
    assert estimate.phase == ("cruise" if fills else "startup")
    if fills:
        assert 0.6 * rate <= estimate.rate_bps / 8 <= 1.1 * rate


def test_one_ping_that_was_held_up_ends_no_startup() -> None:
    path = PathEstimator()
    path.rtt_sampled(0.02, 0.5)
    for now, ping_s in enumerate((0.06, 0.02, 0.06, 0.06), 1):
        assert path.estimate(now).phase == "startup"
        path.request_sent(now, BURST_BYTES, now)
        path.rtt_sampled(ping_s, now + ping_s)
        path.bytes_arrived(now, BURST_BYTES, now + 0.1)
        path.request_finished(now, now + 0.1)
    assert path.estimate(5).phase == "cruise"


def test_pings_are_rare_while_nothing_is_read() -> None:
    run = reader(500 * MBIT, 0.01)
    run.may_ask = lambda _, asked: asked < 100_000
    run.run(1)
    assert run.path.estimate(1).phase == "startup"
    before = run.pings
    run.run(61)
    assert 50 <= run.pings - before <= 61


def test_a_process_that_is_held_up_is_no_slower_path() -> None:
    """Thirty milliseconds every half second, on a path of five."""
    rate = 1_000 * MBIT
    run = reader(rate, 0.005)
    phases = set()

    def delay(now: float) -> float:
        phases.add(run.path.estimate(now).phase)
        return 0.03 if now > 1 and now % 0.5 < 0.005 else 0.0

    run.run(1)
    run.delay = delay
    run.run(4)
    assert "startup" not in phases


def test_idle_for_a_minute_and_off_again() -> None:
    rate, rtt = 500 * MBIT, 0.08
    run = reader(rate, rtt).run(5)
    run.may_ask = lambda now, _: now >= 65
    run.link.at(65, run.ask)
    run.run(70)
    assert run.rate(65 + 2 * rtt, 70) >= 0.95 * rate


def test_a_server_slower_than_the_path_is_not_swamped() -> None:
    """Its queue looks like the path's: what is asked for stays near rate x latency."""
    run = reader(50 * MBIT, 0.03, turnaround=steady(0.02)).run(30)
    assert run.rate(5, 30) >= 0.95 * 50 * MBIT
    queues = run.queues_s(5, 30)
    assert queues[int(0.99 * len(queues))] <= 0.06


@pytest.mark.parametrize("late", ["server", "client"])
def test_latency_that_varies_does_not_close_the_window(late: str) -> None:
    random = Random(1)
    run = reader(500 * MBIT, 0.02)
    varying = lambda _: random.random() * 0.02  # noqa: E731
    if late == "server":
        run.link.turnaround = varying
    else:
        run.delay = varying
    run.run(20)
    assert run.rate(2, 20) >= 0.9 * 500 * MBIT


def test_one_late_answer_changes_nothing() -> None:
    late = {"left": 1}

    def turnaround(now: float) -> float:
        if now > 5 and late["left"]:
            late["left"] -= 1
            return 1.0
        return 0.0

    rate = 100 * MBIT
    run = reader(rate, 0.05, turnaround=turnaround).run(8)
    assert run.rate(5.2, 8) >= 0.95 * rate
    assert run.path.estimate(8).rate_bps == pytest.approx(rate * 8, rel=0.02)


def test_after_an_outage_it_is_as_before() -> None:
    rate = 500 * MBIT
    run = reader(rate, 0.08)
    run.link.rate = lambda now: 1e6 if 5 < now < 8 else rate
    run.run(20)
    assert run.rate(9.8, 20) >= 0.95 * rate


# -- what one call does


def test_in_flight_is_what_was_expected_and_has_not_arrived() -> None:
    path = PathEstimator()
    path.request_sent(1, 1_000, 0.0)
    path.request_sent(2, 500, 0.0)
    assert path.in_flight_bytes == 1_500
    path.bytes_arrived(1, 400, 0.1)
    assert path.in_flight_bytes == 1_100
    path.bytes_arrived(1, 900, 0.1)  # more than was expected
    assert path.in_flight_bytes == 500
    path.request_finished(1, 0.1)
    path.request_abandoned(2, 0.1)
    assert path.in_flight_bytes == 0
    path.bytes_arrived(2, 500, 0.2)  # it comes all the same
    assert path.in_flight_bytes == 0


def test_nothing_is_known_at_first() -> None:
    estimate = PathEstimator().estimate(0.0)
    assert (estimate.rate_bps, estimate.rtt_s, estimate.phase) == (0.0, 0.0, "startup")
    assert estimate.window_bytes == WINDOW_BYTES_INITIAL
    small = PathEstimator(window_bytes_max=WINDOW_BYTES_MIN)
    assert small.window_bytes(0.0) == WINDOW_BYTES_MIN


def test_a_ping_is_enough_for_a_round_trip_time() -> None:
    path = PathEstimator()
    for now, rtt_s in ((0.0, 0.09), (1.0, 0.08), (2.0, 0.1)):
        path.rtt_sampled(rtt_s, now)
    assert path.estimate(2.0).rtt_s == 0.08
    path.rtt_sampled(0.1, 11.5)
    assert path.estimate(11.5).rtt_s <= 0.1


def test_a_parked_read_says_nothing_of_the_path() -> None:
    rate, rtt = 100 * MBIT, 0.05
    run = reader(rate, rtt).run(4)
    run.may_ask = lambda now, asked: False
    run.run(5)  # nothing is in flight any more
    before = run.path.estimate(5.0)
    for number in range(50):
        sent = 5.0 + number
        run.path.request_sent(-number - 1, 0, sent, app_limited=True)
        run.path.bytes_arrived(-number - 1, 2_000, sent + 0.9)
        run.path.request_finished(-number - 1, sent + 0.9)
    after = run.path.estimate(60.0)
    assert after.rate_bps == before.rate_bps
    assert after.rtt_s == before.rtt_s
    assert after.window_bytes == before.window_bytes


def test_the_budget_is_never_exceeded() -> None:
    run = reader(10_000 * MBIT, 0.1)
    run.path = PathEstimator(window_bytes_max=1 << 20)
    run.run(5)
    assert max(window for _, _, _, window in run.log) == 1 << 20


calls = st.lists(
    st.tuples(
        st.sampled_from(["send", "park", "arrive", "finish", "abandon", "ping"]),
        st.integers(0, 9),
        st.integers(0, 1 << 20),
        st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 20.0]),
    ),
    max_size=120,
)


@settings(deadline=None)
@given(calls)
def test_whatever_happens_the_books_are_right(
    plan: list[tuple[str, int, int, float]],
) -> None:
    path, now, left = PathEstimator(window_bytes_max=1 << 24), 0.0, {}
    for call, request, size, wait_s in plan:
        now += wait_s
        if call in ("send", "park") and request not in left:
            path.request_sent(request, size, now, app_limited=call == "park")
            left[request] = size
        elif call == "arrive":
            path.bytes_arrived(request, size, now)
            if request in left:
                left[request] = max(0, left[request] - size)
        elif call == "finish":
            path.request_finished(request, now)
            left.pop(request, None)
        elif call == "abandon":
            path.request_abandoned(request, now)
            left.pop(request, None)
        elif call == "ping":
            path.rtt_sampled(max(wait_s, 1e-6), now)
        assert path.in_flight_bytes == sum(left.values())
        assert 1 <= path.window_bytes(now) <= 1 << 24
        estimate = path.estimate(now)
        assert estimate.rate_bps >= 0
        assert estimate.rtt_s >= 0
