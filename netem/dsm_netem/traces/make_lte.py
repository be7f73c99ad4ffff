"""Writes lte-down.trace and lte-up.trace, always the same: `python make_lte.py` in this folder.

Capacity is a random walk of its logarithm around a mean, redrawn every 20 ms, within a tenth and
three times of it; every few seconds it stalls for 50 to 250 ms. Packets leave in
millisecond slots, as an LTE scheduler grants them.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

PACKET_BITS = 1504 * 8
STEP_MS = 20
LENGTH_MS = 15_000
PULL, SPREAD = 0.05, 0.25  # of the walk, per step
STALLS_PER_STEP = STEP_MS / 4000
STALL_MS = (50, 250)


def opportunities_ms(mean_bps: float, random: Random) -> list[int]:
    times = []
    walk, credit, stalled_until = 0.0, 0.0, 0
    for now in range(1, LENGTH_MS + 1):
        if now % STEP_MS == 0:
            walk += random.gauss(0.0, SPREAD) - PULL * walk
            walk = min(max(walk, math.log(0.1)), math.log(3.0))
            if random.random() < STALLS_PER_STEP:
                stalled_until = now + random.randint(*STALL_MS)
        if now >= stalled_until:
            credit += mean_bps * math.exp(walk) / 1000 / PACKET_BITS
        packets = int(credit)
        credit -= packets
        times += [now] * packets
    if times[-1] != LENGTH_MS:
        times.append(LENGTH_MS)  # so that the period is exact
    return times


def main() -> None:
    for name, mean_bps, seed in (("lte-down", 16e6, 4), ("lte-up", 5e6, 5)):
        times = opportunities_ms(mean_bps, Random(seed))
        Path(f"{name}.trace").write_text("".join(f"{time}\n" for time in times))


if __name__ == "__main__":
    main()
