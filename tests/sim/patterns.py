"""What is read: each pattern as a segment and a list of reads, sized for a path.

sequential    ├──┤├──┤├──┤├──┤···▶              as fast as it comes
slow          the same, with a pause after each: half of the path's rate
strided       ├──┤      ├──┤      ├──┤···▶      one in four
skips         ├──┤├──┤├──┤··├──┤├──┤····├──┤    now and then forward over some
records       ├┤    ├┤  ├┤     ├┤  ├┤   ···▶    8 KiB of each, which are of 12 to 48 KiB
two streams   ├──┤        ├──┤                  by turns, at two places
                  ├──┤        ├──┤
headers       |   |   |├──|   |├──|             64 B of 16 KiB blocks, of one in ten the rest
random        ├──┤ anywhere
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.sim.client import Op, Path
from tests.sim.node import Segment

PAGE_BYTES = 4096


@dataclass(frozen=True)
class Load:
    """A segment, what is read of it, and how deep the prefetch goes."""

    name: str
    segment: Segment
    ops: list[Op]
    depth: int | None = None


def read_bytes(path: Path) -> int:
    """64 KiB; more on paths that take so many of them that the simulation would take minutes."""
    return 64 << 10 if path.bdp_bytes < 8e6 else 256 << 10


def goodput(path: Path) -> float:
    """Bytes per second, roughly, that all lanes together can have."""
    if path.control == "bbr" or not path.loss:
        return path.rate_bps / 8
    mathis = 1.22 * 1448 / (path.rtt_s * path.loss**0.5) * path.lanes
    return min(path.rate_bps / 8, mathis)


def reads(path: Path, *, rounds: float = 30, least: int = 128) -> int:
    rounds *= 3 if path.loss and path.control == "cubic" else 1
    return max(least, int(rounds * goodput(path) * path.rtt_s / read_bytes(path)))


def _region(name: str, pages: int) -> Segment:
    return Segment(name, "region", pages, PAGE_BYTES)


def sequential(path: Path, *, think_s: float = 0.0, count: int = 0) -> Load:
    n, pages = count or reads(path), read_bytes(path) // PAGE_BYTES
    ops = [Op(i * pages, (i + 1) * pages, think_s=think_s) for i in range(n)]
    return Load("sequential", _region("sequential", n * pages), ops)


def slow(path: Path) -> Load:
    """Long enough that it is not start-up that is measured."""
    think_s = 2 * read_bytes(path) / goodput(path)
    load = sequential(path, think_s=think_s, count=reads(path, rounds=10))
    return Load("slow consumer", load.segment, load.ops)


def strided(path: Path) -> Load:
    n, pages = reads(path), read_bytes(path) // PAGE_BYTES
    ops = [Op(4 * i * pages, (4 * i + 1) * pages) for i in range(n)]
    return Load("strided", _region("strided", 4 * n * pages), ops)


def skips(path: Path) -> Load:
    """Runs of 8 to 64 reads, then a skip of 1 to 16."""
    random, pages, n = Random(path.seed), read_bytes(path) // PAGE_BYTES, reads(path)
    at, ops = 0, []
    while len(ops) < n:
        for _ in range(random.randint(8, 64)):
            ops.append(Op(at, at + pages))
            at += pages
        at += random.randint(1, 16) * pages
    return Load("skip-forward", _region("skips", at), ops)


def records(path: Path) -> Load:
    """The beginning of each record; where the next one lies, nobody can compute."""
    random, n = Random(path.seed), min(20_000, 4 * reads(path))
    at, ops = 0, []
    for _ in range(n):
        ops.append(Op(at, at + 2))
        at += random.randint(3, 12)
    return Load("records", _region("records", at), ops)


def two_streams(path: Path) -> Load:
    n, pages = reads(path), read_bytes(path) // PAGE_BYTES
    far = n * pages
    ops = [Op(at, at + pages) for i in range(n // 2) for at in (i * pages, far + i * pages)]
    return Load("two streams", _region("two", 2 * far), ops)


def headers(path: Path) -> Load:
    random = Random(path.seed)
    n = min(4_000, max(1_000, int(10 * goodput(path) * path.rtt_s / 1_800)))
    ops = []
    for seq in range(n):
        ops.append(Op(seq, seq + 1, header_bytes=64))
        if random.random() < 0.1:
            ops.append(Op(seq, seq + 1))
    return Load("header, some payload", Segment("blocks", "ring", n, 16 << 10, 64), ops, depth=64)


def random_reads(path: Path, *, size: int = 64 << 10, count: int = 200) -> Load:
    random, pages = Random(path.seed), size // PAGE_BYTES
    total = 1 << 18  # 1 GiB
    ops = [Op(at, at + pages) for at in (random.randrange(total - pages) for _ in range(count))]
    return Load("random", _region("random", total), ops)


PATTERNS: dict[str, Callable[[Path], Load]] = {
    "sequential": sequential,
    "strided": strided,
    "skip-forward": skips,
    "records": records,
    "header, some payload": headers,
    "random": random_reads,
    "two streams": two_streams,
    "slow consumer": slow,
}
