"""Properties of the link model, against arithmetic that is too simple to be wrong."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from dsm_netem import Change, ConfigError, GilbertElliott, Link, LinkConfig, Timeline, Trace
from hypothesis import given, settings
from hypothesis import strategies as st

STEADY = settings(deadline=None)  # a crowded machine is no failure
NS = 1_000_000_000
PIECE_S = 0.001
HORIZON_NS = 3600 * NS

arrivals = st.lists(
    st.tuples(
        st.integers(0, 20_000_000),  # pause before it, ns
        st.integers(40, 1500),  # bytes of a segment
        st.integers(1, 45),  # segments
    ),
    min_size=1,
    max_size=60,
)
rates = st.floats(1e5, 2e9)
delays = st.floats(0, 0.3)
chances = st.sampled_from([0.0, 0.001, 0.1, 0.5, 1.0])


def carry(link: Link[int], sent: list[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Drives a link as a real shell would, but in virtual time.

    Gives (arrival of the packet, its release, packet number, bytes of one segment x segments).
    """
    now_ns, arrived_ns = 0, []
    seen = []

    def until(end_ns: int) -> None:
        nonlocal now_ns
        while (wait_ns := link.wait_ns(now_ns)) is not None and now_ns + wait_ns <= end_ns:
            now_ns += wait_ns
            for delivery in link.release(now_ns):
                number = delivery.packet
                size_bytes = sent[number][1] * (delivery.end - delivery.first)
                seen.append((arrived_ns[number], delivery.due_ns, number, size_bytes))
                assert delivery.due_ns <= now_ns
        now_ns = end_ns

    for number, (pause_ns, segment_bytes, segments) in enumerate(sent):
        until(now_ns + pause_ns)
        arrived_ns.append(now_ns)
        link.accept(now_ns, number, segment_bytes, segments)
    until(HORIZON_NS)
    return seen


@STEADY
@given(arrivals, rates, delays)
def test_an_unlimited_queue_gives_the_times_of_a_fluid_queue(sent, rate_bps, delay_s):
    link = Link(LinkConfig(rate_bps=rate_bps, delay_s=delay_s), Random(0))
    last_due_ns = {}
    for _, due_ns, number, _ in carry(link, sent):
        last_due_ns[number] = due_ns
    now_s = free_s = 0.0
    for number, (pause_ns, segment_bytes, segments) in enumerate(sent):
        now_s += pause_ns / NS
        free_s = max(free_s, now_s) + segment_bytes * segments * 8 / rate_bps
        assert last_due_ns[number] / NS == pytest.approx(free_s + delay_s, abs=1e-5)


@STEADY
@given(arrivals, rates, st.integers(1_000, 200_000), chances)
def test_never_faster_than_the_rate(sent, rate_bps, queue_bytes, loss):
    link = Link(LinkConfig(rate_bps=rate_bps, queue_bytes=queue_bytes, loss=loss), Random(1))
    seen = sorted((due_ns, size_bytes) for _, due_ns, _, size_bytes in carry(link, sent))
    for first in range(len(seen)):
        total_bytes = 0
        for due_ns, size_bytes in seen[first + 1 :]:
            total_bytes += size_bytes
            piece_bytes = max(rate_bps / 8 * PIECE_S, 1500)
            allowed_bytes = (due_ns - seen[first][0]) / NS * rate_bps / 8 + piece_bytes
            assert total_bytes <= allowed_bytes + 1


@STEADY
@given(arrivals, rates, delays, st.floats(0, 0.05), st.booleans(), st.floats(0, 0.01))
def test_never_before_the_delay_and_in_order(
    sent, rate_bps, delay_s, jitter_s, ordered, interval_s
):
    config = LinkConfig(
        rate_bps=rate_bps,
        delay_s=delay_s,
        jitter_s=jitter_s,
        jitter_interval_s=interval_s,
        jitter="pareto",
        ordered=ordered,
    )
    seen = carry(Link(config, Random(2)), sent)
    assert all(due_ns - arrived_ns >= int(delay_s * NS) for arrived_ns, due_ns, _, _ in seen)
    if ordered:
        assert [number for _, _, number, _ in seen] == sorted(number for _, _, number, _ in seen)
    assert [due_ns for _, due_ns, _, _ in seen] == sorted(due_ns for _, due_ns, _, _ in seen)


impairments = st.fixed_dictionaries(
    {
        "rate_bps": st.one_of(st.none(), rates),
        "delay_s": delays,
        "queue_bytes": st.one_of(st.none(), st.integers(1, 200_000)),
        "overhead_bytes": st.integers(0, 60),
        "jitter_s": st.floats(0, 0.05),
        "loss": chances,
        "duplicate": chances,
        "reorder": chances,
        "reorder_s": st.floats(0, 0.05),
        "corrupt": chances,
        "corrupt_silent": chances,
        "outage": st.sampled_from(["none", "drop", "hold"]),
    }
)


@STEADY
@given(arrivals, impairments, st.lists(impairments, max_size=3), st.integers(0, 400_000_000))
def test_conservation_at_every_moment(sent, before, later, step_ns):
    changes = tuple(Change(0.05 * (n + 1), updates) for n, updates in enumerate(later))
    link = Link(LinkConfig(**before), Random(3), timeline=Timeline(changes))

    def check(now_ns: int) -> None:
        link.release(now_ns)
        counters = link.counters
        inside_packets, inside_bytes = link.inside()
        assert counters.in_packets + counters.copied_packets == (
            counters.out_packets + counters.lost_packets + counters.dropped_packets + inside_packets
        )
        assert counters.in_bytes + counters.copied_bytes == (
            counters.out_bytes + counters.lost_bytes + counters.dropped_bytes + inside_bytes
        )

    now_ns = 0
    for number, (pause_ns, segment_bytes, segments) in enumerate(sent):
        now_ns += pause_ns
        link.accept(now_ns, number, segment_bytes, segments)
        check(now_ns)
    check(now_ns + step_ns)
    check(HORIZON_NS)
    if link.config.outage != "hold":
        assert link.inside() == (0, 0)


@STEADY
@given(arrivals, impairments)
def test_one_seed_gives_one_run(sent, config):
    runs = [carry(Link(LinkConfig(**config), Random(7)), sent) for _ in range(2)]
    assert runs[0] == runs[1]


def flood(config: LinkConfig, packets: int, timeline: Timeline | None = None) -> Link[int]:
    """Packets of 1,250 bytes, one a millisecond: 10 Mbit/s."""
    link: Link[int] = Link(config, Random(11), timeline=timeline)
    for number in range(packets):
        link.accept(number * 1_000_000, number, 1250)
        link.release(number * 1_000_000)
    link.release(HORIZON_NS)
    return link


@pytest.mark.parametrize(
    ("loss", "segments", "packets"),
    [
        (0.2, 1, 20_000),
        (0.02, 1, 100_000),
        (1e-3, 45, 50_000),
        (1e-4, 9000, 1000),
        (1e-5, 90_000, 1000),
    ],
)
def test_loss_is_drawn_per_segment_at_the_rate_asked_for(loss, segments, packets):
    link: Link[int] = Link(LinkConfig(loss=loss), Random(5))
    for number in range(packets):
        link.accept(number, number, 1500, segments)
    counters = link.counters
    assert counters.in_packets == packets * segments
    assert counters.lost_packets / counters.in_packets == pytest.approx(loss, rel=0.1)


def test_bursty_loss_has_the_mean_and_the_burst_length_asked_for():
    link: Link[int] = Link(LinkConfig(bursts=GilbertElliott.of(0.02, 8)), Random(6))
    link.accept(0, 0, 100, 400_000)
    arrived = [(delivery.first, delivery.end) for delivery in link.release(0)]
    gaps = [b[0] - a[1] for a, b in pairwise(arrived) if b[0] > a[1]]
    assert link.counters.lost_packets / 400_000 == pytest.approx(0.02, rel=0.1)
    # Nothing tells two bursts apart that touch; at 2 % that is rare.
    assert sum(gaps) / len(gaps) == pytest.approx(8, rel=0.1)


def test_the_rest_of_a_run_that_does_not_fit_is_dropped_from_its_tail():
    link: Link[str] = Link(LinkConfig(rate_bps=8e6, queue_bytes=10_000), Random(0))
    assert link.accept(0, "all", 1000, 8) == 8
    assert link.accept(0, "some", 1000, 8) == 2
    assert link.accept(0, "none", 1000, 8) == 0
    assert link.accept(5_000_000, "again", 1000, 8) == 5  # five packets have left since
    assert link.counters.dropped_packets == 6 + 8 + 3


def test_a_queue_shorter_than_a_packet_still_passes_one_at_a_time():
    link: Link[str] = Link(LinkConfig(rate_bps=8e6, queue_bytes=10), Random(0))
    assert link.accept(0, "one", 1000) == 1
    assert link.accept(10, "two", 1000) == 0
    assert link.accept(2_000_000, "three", 1000) == 1


def test_a_queue_limit_does_not_count_what_is_under_way():
    """A limit on all packets inside, as a kernel's netem has it, must hold rate x delay too."""
    config = LinkConfig(rate_bps=10e6, delay_s=10.0, queue_bytes=2_000)
    assert flood(config, 5_000).counters.dropped_packets == 0


def test_a_rate_step_applies_to_what_waits():
    link: Link[int] = Link(LinkConfig(rate_bps=8e6), Random(0))
    link.accept(0, 0, 1000)
    link.change(500_000, {"rate_bps": 4e6})  # half of it is left and takes 1 ms now
    assert link.wait_ns(500_000) == pytest.approx(1_000_000, abs=5)


def test_scheduled_changes_happen_on_time_and_repeat():
    blip = Timeline((Change(0.4, {"outage": "drop"}), Change(0.5, {"outage": "none"})), 1.0)
    link = flood(LinkConfig(), 3_000, blip)
    assert link.counters.lost_packets == 300


def test_a_scheduled_change_counts_from_its_time_even_if_nobody_looks():
    step = Timeline((Change(0.0005, {"rate_bps": 4e6}),))
    link: Link[int] = Link(LinkConfig(rate_bps=8e6), Random(0), timeline=step)
    link.accept(0, 0, 1000)  # 1 ms; half of it is left at the change and takes twice as long
    assert [d.due_ns for d in link.release(HORIZON_NS)] == [pytest.approx(1_500_000, abs=5)]


def test_a_held_link_keeps_everything_and_goes_on_where_it_was():
    link: Link[int] = Link(LinkConfig(rate_bps=8e6, delay_s=0.01), Random(0))
    link.accept(0, 0, 1000)
    link.change(250_000, {"outage": "hold"})
    assert link.wait_ns(250_000) is None
    link.change(9 * NS, {"outage": "none"})
    assert link.wait_ns(9 * NS) == pytest.approx(750_000 + 10_000_000, abs=5)


def test_reordered_packets_arrive_later_by_what_was_asked():
    link: Link[int] = Link(LinkConfig(reorder=0.1, reorder_s=0.0055), Random(4))
    for number in range(1000):
        link.accept(number * 1_000_000, number, 100)
    late = [d for d in link.release(HORIZON_NS) if d.due_ns > d.packet * 1_000_000 + 1_000_000]
    assert len(late) == link.counters.reordered_packets == pytest.approx(100, abs=40)
    assert all(d.due_ns - d.packet * 1_000_000 == pytest.approx(5_500_000, abs=5) for d in late)


def test_flaws_and_copies_are_marked():
    link: Link[int] = Link(LinkConfig(duplicate=1, corrupt=1), Random(0))
    link.accept(0, 0, 100, 2)
    deliveries = link.release(10)
    assert [(d.first, d.flaw) for d in deliveries] == [(0, "flip")] * 2 + [(1, "flip")] * 2
    assert link.counters.copied_packets == 2


@pytest.mark.parametrize("shape", ["uniform", "normal", "exponential", "pareto"])
@pytest.mark.parametrize("interval_s", [0.0, 0.002])
def test_jitter_has_the_mean_asked_for(shape, interval_s):
    config = LinkConfig(jitter_s=0.01, jitter=shape, jitter_interval_s=interval_s, ordered=False)
    link: Link[int] = Link(config, Random(8))
    for number in range(50_000):
        link.accept(number * 1_000_000, number, 100)
    extra_ns = [d.due_ns - d.packet * 1_000_000 for d in link.release(HORIZON_NS)]
    assert min(extra_ns) >= 0
    assert sum(extra_ns) / len(extra_ns) == pytest.approx(10_000_000, rel=0.1)


def test_drifting_jitter_has_no_jumps():
    config = LinkConfig(jitter_s=0.01, jitter_interval_s=0.02, ordered=False)
    link: Link[int] = Link(config, Random(9))
    for number in range(2_000):
        link.accept(number * 1_000_000, number, 100)
    arrived = sorted((d.packet, d.due_ns) for d in link.release(HORIZON_NS))
    extra_ns = [due_ns - number * 1_000_000 for number, due_ns in arrived]
    steps_ns = [abs(b - a) for a, b in pairwise(extra_ns)]
    assert max(steps_ns) <= 1_000_002  # from nothing to twice the mean, or back, takes 20 ms
    assert max(extra_ns) - min(extra_ns) > 15_000_000


# -- traces --


def test_a_trace_gives_its_opportunities_and_starts_over():
    link: Link[int] = Link(LinkConfig(trace=Trace.parse("1\n1\n3\n10\n")), Random(0))
    for number in range(6):
        link.accept(0, number, 1504)
    assert [d.due_ns // 1_000_000 for d in link.release(HORIZON_NS)] == [1, 1, 3, 10, 11, 11]


def test_small_packets_share_an_opportunity_and_idle_ones_are_wasted():
    link: Link[str] = Link(LinkConfig(trace=Trace.parse("5\n10\n")), Random(0))
    for name in "abc":
        link.accept(0, name, 752)
    assert [d.due_ns // 1_000_000 for d in link.release(20_000_000)] == [5, 5, 10]
    link.accept(21_000_000, "late", 1504)  # 25 ms is next; 15 and 20 ms found nothing
    assert [d.due_ns // 1_000_000 for d in link.release(HORIZON_NS)] == [25]


@STEADY
@given(arrivals, st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_never_more_than_the_trace_allows(sent, times_ms):
    trace = Trace(tuple(sorted(times_ms)))
    seen = carry(Link(LinkConfig(trace=trace), Random(0)), sent)
    period_ms = trace.times_ms[-1]
    carried_bytes = 0
    for _, due_ns, _, size_bytes in seen:
        carried_bytes += size_bytes
        rounds, rest_ms = divmod(due_ns / 1e6, period_ms)
        passed = rounds * len(trace.times_ms) + sum(t <= rest_ms for t in trace.times_ms)
        assert carried_bytes <= passed * 1504
    assert sum(size_bytes for *_, size_bytes in seen) == sum(b * n for _, b, n in sent)


# -- what cannot be --


@pytest.mark.parametrize(
    "values",
    [
        {"rate_bps": 0},
        {"rate_bps": -5.0},
        {"rate_bps": float("nan")},
        {"delay_s": -0.1},
        {"delay_s": float("inf")},
        {"queue_bytes": 0},
        {"overhead_bytes": -1},
        {"loss": 1.5},
        {"loss": -0.1},
        {"loss": 0.1, "bursts": GilbertElliott.of(0.1, 3)},
        {"jitter": "gaussian"},
        {"outage": "maybe"},
    ],
)
def test_impossible_links_are_refused(values):
    with pytest.raises(ConfigError):
        LinkConfig(**values)


def test_a_refused_change_leaves_the_link_as_it_was():
    link: Link[int] = Link(LinkConfig(rate_bps=8e6), Random(0))
    with pytest.raises(ConfigError, match="no speed"):
        link.change(0, {"speed": 3})
    with pytest.raises(ConfigError):
        link.change(0, {"rate_bps": -1})
    assert link.config == LinkConfig(rate_bps=8e6)


@pytest.mark.parametrize("text", ["", "0\n", "5\n3\n", "a\n", "-1\n5\n"])
def test_impossible_traces_are_refused(text):
    with pytest.raises(ValueError, match=r"trace|line|times"):
        Trace.parse(text)
