"""The grid: the real client and exporter machines over simulated links, against an oracle.

    paths     1, 10, 80, 300 ms  x  10 Mbit/s to 10 Gbit/s  x  loss 0, 1e-4, 1e-2  x  cubic or BBR
    patterns  `tests.sim.patterns`;  the TCP beneath: `tests.sim.tcp`

What is compared, of the same reads over the same lanes:

    whole       oracle's time / ours, from the first request to the last read; both start up cold
    steady      the same from the 40th to the 90th percent of the reads
    lag         ours - oracle's time to the last read
    on demand   plain reading's time / ours, over the first reads: one request a read, one read at
                a time
    waste       bytes that arrived / bytes that were read, less one

The oracle (`tests.sim.oracle`) knows what will be read and pushes it unasked, over the bulk lanes
only: the demand lane stays free by design. It starts up like us, so no warm-up is taken off
`whole`. For `random`, `records` and `header, some payload` it is no aim: nobody can know those
reads (records are read through at best, which is 0.27 of what knows them).

Targets: sequential reads are at 0.9 of the oracle, whole or steady; nothing is ever slower than on
demand (0.95: the draws of loss differ, and where the path is as fast as the link neither is
better); random reads waste at most a tenth. Below that are, of all cells, reads that skip on 1 ms x
10 Mbit/s, where a path holds less than a page and to read through a gap is dearer than to skip it:
records at 0.92, skip-forward at 0.91.

Where sequential reads fall short, and what of: `falls_short` (16 of 96 cells, most of them at
1e-2, the worst at 0.45; one without loss, 0.88 of 300 ms x 10 Gbit/s). With a loss in nearly
every window of a lane the lanes stall one after the other, and start-up doubles once per stalled
round (3 to 8 round trips) instead of once per round trip, since what waits behind a hole has not
arrived for us, while TCP below already counts it. Once there it is at the rate (`steady` grows
with the length of the run). Cubic at 1e-4 on fat paths is the same: the oracle runs on what slow
start reached before the first loss, for as long as the run lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dsm.core.extents import ExtentSet
from tests.sim.client import Handle, Path, Reader, Session
from tests.sim.node import FRAME_HEADER_BYTES
from tests.sim.oracle import Oracle
from tests.sim.patterns import Load, goodput
from tests.sim.tcp import MSS, Control

RTTS_S = (0.001, 0.01, 0.08, 0.3)
RATES_BPS = (10e6, 100e6, 1e9, 10e9)
LOSSES = (0.0, 1e-4, 1e-2)

ON_DEMAND_READS = 128

TARGET = 0.9
ON_DEMAND = 0.95
WASTE_RANDOM = 0.1

LOSSES_PER_WINDOW = 0.08
"""Of a lane: above, stalls follow each other."""


def paths(
    controls: tuple[Control, ...] = ("cubic",),
    *,
    rtts_s: tuple[float, ...] = RTTS_S,
    rates_bps: tuple[float, ...] = RATES_BPS,
    losses: tuple[float, ...] = LOSSES,
) -> Iterator[Path]:
    for control in controls:
        for loss in losses:
            for rtt_s in rtts_s:
                for rate_bps in rates_bps:
                    yield Path(rtt_s, rate_bps, loss, control)


def falls_short(path: Path) -> bool:
    """Known not to reach the target; see above."""
    window = path.bdp_bytes / (path.lanes - 1) / MSS
    return path.loss * window > LOSSES_PER_WINDOW


@dataclass(frozen=True)
class Result:
    """What came of one cell."""

    pattern: str
    path: Path
    whole: float
    steady: float
    lag_s: float
    on_demand: float
    waste: float

    @property
    def of_oracle(self) -> float:
        return max(self.whole, self.steady)

    def __str__(self) -> str:
        return (
            f"{self.pattern:<21} {self.path!s:<45} oracle: {self.whole:4.2f} whole, "
            f"{self.steady:4.2f} steady, {self.lag_s / self.path.rtt_s:6.1f} rtt behind; "
            f"{self.on_demand:5.2f} x on demand; waste {self.waste:5.1%}"
        )


results: list[Result] = []
"""Of this run, for the summary at its end."""


def worst() -> Iterator[str]:
    """The worst cell of each pattern; of the sequential one, within and outside the target."""
    for name in dict.fromkeys(result.pattern for result in results):
        cells = [r for r in results if r.pattern == name]
        if name == "sequential":
            reached = [r for r in cells if not falls_short(r.path)]
            yield f"worst     {min(reached, key=lambda r: r.of_oracle)}"
            short = [r for r in cells if falls_short(r.path)]
            if short:
                yield f"shortfall {min(short, key=lambda r: r.of_oracle)}"
        else:
            yield f"worst     {min(cells, key=lambda r: r.on_demand)}"


def read(path: Path, load: Load, *, prefetch: bool = True) -> tuple[Session, Handle, Reader]:
    """One reader on a session of its own, to the end."""
    session = Session(path, [load.segment])
    handle = Handle(session, load.segment, prefetch=prefetch, depth=load.depth)
    reader = Reader(session.clock, handle, iter(load.ops)).start()
    session.clock.run(lambda: reader.finished, deadline_s=_patience_s(path, load))
    assert reader.finished, f"{load.name} on {path}: it came to a standstill"
    return session, handle, reader


def _patience_s(path: Path, load: Load) -> float:
    size = sum(op.stop - op.start for op in load.ops) * load.segment.unit_bytes
    thought_s = sum(op.think_s for op in load.ops)
    return 60 + 20 * (size / goodput(path) + len(load.ops) * path.rtt_s) + 2 * thought_s


def run(path: Path, pattern: Callable[[Path], Load]) -> Result:
    load = pattern(path)
    session, handle, reader = read(path, load)
    oracle = Oracle(path, load.segment, load.ops).run().done_s
    fewer = replace(load, ops=load.ops[:ON_DEMAND_READS])
    plain = read(path, fewer, prefetch=False)[2]
    first, last = len(load.ops) * 4 // 10, len(load.ops) * 9 // 10
    ours = reader.done_s
    result = Result(
        pattern=load.name,
        path=path,
        whole=oracle[-1] / ours[-1],
        steady=(oracle[last] - oracle[first]) / max(ours[last] - ours[first], 1e-9),
        lag_s=ours[-1] - oracle[-1],
        on_demand=plain.done_s[-1] / ours[len(plain.done_s) - 1],
        waste=_waste(session, handle, load),
    )
    results.append(result)
    return result


def _waste(session: Session, handle: Handle, load: Load) -> float:
    if load.depth is not None:
        return 0.0  # of blocks only what is read is fetched, unless they are never come to
    read = ExtentSet((op.start, op.stop) for op in load.ops)
    asked = read.total * handle.unit_bytes(None) + FRAME_HEADER_BYTES
    return max(0.0, session.bytes_received / asked - 1)
