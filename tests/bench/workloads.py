"""What is read, and in which order. A workload is a name, its figures and the extents it asks for.

The extents are the same for every peer and every repetition of one seed; a reader may fetch them
as it likes, as long as it hands them over in this order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from .data import Extent, Sizes, header_extent, payload_extent
from .link_states import Change, State

READ_BYTES = 64 << 10
OBJECT_BYTES = 10_000_000
SMALL_BYTES = 1 << 10
STRIDE_BYTES = 1 << 20
PAYLOAD_EVERY = 10
TAIL_BYTES = 1 << 10
SEEK_BYTES = 64 << 20
"""Read in order, before the reader turns elsewhere."""

DEMAND_MAX = 400
SEED = 2

Warmth = Literal["cold", "touched", "worked"]
"""Nothing but the address is known; 1 KiB was read over the connection; another array was."""


@dataclass(frozen=True)
class Workload:
    """`kind` says how it is driven (see `client`), the rest with which figures.

    `unit` is what is compared: `Mbit/s` (useful bytes by time; more is better), `ms` (median
    time of one read, of the whole thing, or until a changed link is filled again), or `MB` (that
    crossed the link and nobody asked for); of these less is better.
    """

    name: str
    kind: str
    title: str
    unit: str
    length: int = 0
    depth: int = 1
    count: int = 0
    warmth: Warmth = "touched"
    rate_hz: float = 0.0
    change: Change | None = None
    """What happens to the link meanwhile."""

    def extents(self, sizes: Sizes, round_number: int) -> list[Extent]:
        match self.kind:
            case "sequential":
                size = min(sizes.bulk_bytes, self.count or sizes.bulk_bytes)
                return pieces(0, size, READ_BYTES)
            case "random" | "demand":
                return self._random(sizes, round_number)
            case "seek":
                before = pieces(0, min(SEEK_BYTES, sizes.bulk_bytes // 4), READ_BYTES)
                rng = random.Random(f"{SEED} {round_number}")
                slots = rng.sample(range(sizes.bulk_bytes // 2, sizes.bulk_bytes, READ_BYTES), 4)
                return [*before, *((slot, READ_BYTES) for slot in slots)]
            case "strided":
                starts = range(0, sizes.bulk_bytes - READ_BYTES + 1, STRIDE_BYTES)
                return [(start, READ_BYTES) for start in starts][: self.count]
            case "headers":
                return [header_extent(seq) for seq in range(sizes.blocks)]
            case "payloads":
                wanted = range(0, sizes.blocks, PAYLOAD_EVERY)
                return [
                    *(header_extent(seq) for seq in range(sizes.blocks)),
                    *(payload_extent(seq) for seq in wanted),
                ]
            case "first" | "cold":
                size = min(self.length, sizes.bulk_bytes)
                at = (sizes.bulk_bytes - size) // 2 // READ_BYTES * READ_BYTES
                return [(at, size)]
        return []

    def _random(self, sizes: Sizes, round_number: int) -> list[Extent]:
        rng = random.Random(f"{SEED} {self.name} {round_number}")
        slots = sizes.of(self.source) // self.length
        chosen = rng.sample(range(slots), min(self.count, slots))
        return [(slot * self.length, self.length) for slot in chosen]

    @property
    def source(self) -> str:
        """Which of the dataset's files."""
        if self.kind == "demand":
            return "spots"
        return "blocks" if self.kind in ("headers", "payloads") else "bulk"


def pieces(start: int, stop: int, length: int) -> list[Extent]:
    """A range cut into reads."""
    return [(at, min(length, stop - at)) for at in range(start, stop, length)]


def _tail(rate_hz: int) -> Workload:
    title = f"live tail, 1 KiB blocks, {rate_hz}/s: publish to usable"
    count = max(20, 4 * rate_hz)
    return Workload(f"tail-{rate_hz}", "tail", title, "ms", rate_hz=rate_hz, count=count)


def _random(kib: int, depth: int) -> Workload:
    title = f"random {kib} KiB reads, {depth} at a time"
    count = 24 if depth == 1 else 256
    unit = "ms" if depth == 1 else "Mbit/s"
    return Workload(
        f"random-{kib}k-{depth}", "random", title, unit, length=kib << 10, depth=depth, count=count
    )


def _changing(name: str, title: str, *states: State, at_s: float = 2.0) -> Workload:
    """Read in order meanwhile, and by a session that knows the link as it was."""
    times = [0.0, *(at_s * number for number in range(1, len(states)))]
    change = Change(tuple(zip(times, states, strict=True)))
    title = f"{title}, in mid-read: until 90 % of the rate again"
    return Workload(name, "sequential", title, "ms", warmth="worked", change=change)


ALL = (
    Workload("bulk", "sequential", "256 MB in 64 KiB reads, warm", "Mbit/s", warmth="worked"),
    Workload("bulk-cold", "sequential", "connect, 256 MB in 64 KiB reads", "Mbit/s", warmth="cold"),
    Workload("headers", "headers", "headers of 10,000 blocks (64 B of 16 KiB)", "ms"),
    Workload("payloads", "payloads", "the headers, then every tenth payload", "ms"),
    _random(4, 1),
    _random(64, 1),
    _random(4, 16),
    _random(64, 16),
    Workload("strided", "strided", "64 KiB of every MiB, one by one", "Mbit/s", count=64),
    _tail(10),
    _tail(100),
    _tail(1000),
    Workload(
        "first-cold", "cold", "connect and read 1 KiB", "ms", length=SMALL_BYTES, warmth="cold"
    ),
    Workload("first-warm", "first", "open and read 1 KiB, warm", "ms", length=SMALL_BYTES),
    Workload(
        "object-cold", "cold", "connect and read 10 MB", "ms", length=OBJECT_BYTES, warmth="cold"
    ),
    Workload(
        "demand",
        "demand",
        "random 4 KiB, while 256 MB are read in order beside them",
        "ms",
        length=4 << 10,
        count=DEMAND_MAX,
        warmth="worked",
    ),
    Workload("seek", "seek", "64 MB in order, then 4 reads elsewhere: waste", "MB"),
    _changing("step-up", "rate x 4", State(rate=0.25), State(), at_s=3.0),
    _changing("step-down", "rate / 4", State(), State(rate=0.25)),
    _changing("rtt-up", "round trip x 3", State(), State(rtt=3.0)),
    _changing("outage", "after 2 s of nothing", State(), State(outage=True), State()),
)
BY_NAME = {workload.name: workload for workload in ALL}
