"""A producer: a ring of readings, one every 10 ms, and a region that sums them up once a second.

    python client/examples/producer.py /dev/shm/dsm

It writes to memory and needs no node: one that exports the directory finds the segments whenever it
comes, and `dsm tail -f localhost:7400/weather/readings` follows them from anywhere. Started again,
it goes on where it was.
"""

from __future__ import annotations

import math
import random
import struct
import sys
import time
from contextlib import suppress

from dsm.errors import SegmentExists
from dsm.segment import RegionWriter, RingWriter, create_region, create_ring, open_segment

RING = "weather/readings"
REGION = "weather/summary"
PERIOD_S = 0.01

HEADER = struct.Struct("<HHd")
"""Station, sensor, value; the payload is the raw trace that the value was taken from."""

TRACE = struct.Struct("<256f")
STATIONS = 8


def ring_of(root: str) -> RingWriter:
    try:
        return create_ring(root, RING, capacity_bytes=8 << 20, header_bytes=HEADER.size)
    except SegmentExists:
        writer = open_segment(root, RING, write=True)
        assert isinstance(writer, RingWriter)
        return writer


def region_of(root: str) -> RegionWriter:
    try:
        return create_region(root, REGION, dtype="<f8", shape=(STATIONS,))
    except SegmentExists:
        writer = open_segment(root, REGION, write=True)
        assert isinstance(writer, RegionWriter)
        return writer


def produce(root: str, count: int = sys.maxsize) -> None:
    """Append `count` readings."""
    sums = [0.0] * STATIONS
    with ring_of(root) as ring, region_of(root) as region:
        for number in range(count):
            station, moment = number % STATIONS, time.time()
            trace = [math.sin(moment + n / 40) + random.gauss(0, 0.1) for n in range(256)]
            value = sum(trace) / len(trace)
            ring.append(HEADER.pack(station, 1, value), TRACE.pack(*trace))
            sums[station] += value
            if number % 100 == 99:
                with region.write() as view:
                    view[:] = struct.pack(f"<{STATIONS}d", *sums)
            time.sleep(PERIOD_S)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        produce(sys.argv[1] if len(sys.argv) > 1 else "/dev/shm/dsm", *map(int, sys.argv[2:]))
