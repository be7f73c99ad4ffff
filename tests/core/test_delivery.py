"""Rate samples by hand: what each arrival may, and may not, be taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsm.core.delivery import ROUND_S, Arrival, DeliveryMeter, Trend, WindowedMax


def send(meter: DeliveryMeter, request: int, now: float, *, window: int = 100) -> None:
    meter.request_sent(request, 100, now, parked=False, window_bytes=window)


def arrive(meter: DeliveryMeter, request: int, now: float) -> Arrival:
    arrival = meter.bytes_arrived(request, 100, now)
    meter.forget(request)
    assert arrival is not None
    return arrival


def test_a_lone_request_is_measured_from_its_sending() -> None:
    meter = DeliveryMeter()
    send(meter, 1, 10.0)
    assert arrive(meter, 1, 10.5).rate == 200
    send(meter, 2, 60.0)  # it was idle: that is not slowness
    assert arrive(meter, 2, 60.5).rate == 200


def test_pipelined_requests_show_the_rate_of_the_path() -> None:
    """100 bytes every 0.1 s, a round trip of 1 s: ten in flight."""
    meter = DeliveryMeter()
    rates = []
    for tick in range(100):
        send(meter, tick, tick * 0.1)
        if tick >= 10:
            rates.append(arrive(meter, tick - 10, tick * 0.1).rate)
    assert rates[20:] == pytest.approx([1_000] * len(rates[20:]), rel=0.11)


def test_what_was_held_up_and_comes_at_once_is_not_fast() -> None:
    """The receiver slept for two seconds; what it then finds was sent over two seconds."""
    meter = DeliveryMeter()
    for tick in range(30):
        send(meter, tick, tick * 0.1)
        if tick >= 10:
            arrive(meter, tick - 10, tick * 0.1)
    for request in range(20, 30):
        send(meter, request + 10, 5.0)
        arrive(meter, request, 5.0)
    rates = [arrive(meter, request, 6.0).rate for request in range(30, 40)]
    assert max(rates) <= 1_000


def test_a_round_after_a_pause_counts_from_there() -> None:
    """What came of the round before, which had no end, is not its delivery."""
    meter = DeliveryMeter()
    send(meter, 1, 0.0)
    arrive(meter, 1, 1.0)
    for request in range(2, 12):
        send(meter, request, 1.0)
    for request in range(2, 12):
        arrive(meter, request, 2.0 + request / 100)
    send(meter, 20, 10.0)
    after = arrive(meter, 20, 11.0)
    assert after.round_ended
    assert after.round_rate == 100


def test_limited_is_what_the_window_did_not_limit() -> None:
    meter = DeliveryMeter()
    send(meter, 1, 0.0, window=1_000)
    assert arrive(meter, 1, 1.0).limited
    for request in range(2, 10):
        send(meter, request, 2.0, window=1_000)
    assert not arrive(meter, 2, 3.0).limited


def test_first_bytes_rounds_and_strangers() -> None:
    meter = DeliveryMeter()
    send(meter, 1, 0.0)
    send(meter, 2, 0.0)
    first = meter.bytes_arrived(1, 50, 1.0)
    more = meter.bytes_arrived(1, 50, 1.1)
    second = meter.bytes_arrived(2, 100, 1.2)
    assert first is not None
    assert more is not None
    assert second is not None
    assert (first.first_byte_s, more.first_byte_s) == (1.0, None)
    assert (first.ahead_bytes, second.ahead_bytes) == (0, 100)
    assert (first.round_ended, more.round_ended, second.round_ended) == (True, False, False)
    send(meter, 3, 1.2)
    assert arrive(meter, 3, 2.0).round_ended
    assert meter.bytes_arrived(77, 100, 3.0) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 100)), max_size=50), st.integers(1, 8))
def test_windowed_max_is_the_maximum_of_a_window(
    steps: list[tuple[int, float]], length: int
) -> None:
    best, seen, tick = WindowedMax(length), [], 0
    for wait, value in steps:
        tick += wait
        seen.append((tick, value))
        best.sampled(tick, value)
        assert best.value == max(v for t, v in seen if t > tick - length)


@pytest.mark.parametrize(
    ("rates", "verdict"),
    [
        ((100, 65, 100, 65), "level"),
        ((100, 65, 65), "fell"),
        ((100, 45), "fell"),
        ((100, 115, 100), "level"),
        ((100, 115, 130), "grew"),
        ((100, 105, 110), "level"),
    ],
)
def test_trend_wants_more_than_one_round(rates: tuple[int, ...], verdict: str) -> None:
    trend = Trend()
    told = [trend.round_ended(rate, max(rates[: at + 1])) for at, rate in enumerate(rates)]
    assert told[-1] == verdict
    assert set(told[:-1]) == {"level"}


def test_short_rounds_are_no_fall_until_they_are_as_long_as_one() -> None:
    trend = Trend()
    assert trend.round_ended(100, 100, 0.25) == "level"
    assert [trend.round_ended(20, 100, 0.25) for _ in range(4)] == ["level"] * 3 + ["fell"]


def test_what_part_of_a_round_a_short_one_is() -> None:
    meter, parts = DeliveryMeter(), []
    for request, (sent, arrived) in enumerate([(0.0, ROUND_S / 4), (1.0, 1.0 + 2 * ROUND_S)]):
        send(meter, request, sent)
        parts.append(arrive(meter, request, arrived).round_part)
    assert parts == pytest.approx([0.25, 1.0])
