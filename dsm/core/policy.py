"""Which access method `auto` uses, by what a read costs under each, and why.

A read costs round trips that somebody waits for, and bytes over the measured rate. With r the round
trip and B the rate, and of the reads seen so far: S the mean length of a block, T what is touched
of it, H the header as learned, p the share that goes beyond the header, q the share that could be
predicted (so that its round trip is over before it is waited for):

    zero_copy       r           + T / B          an exact range each time, nothing is kept
    copy_once       r           + S / B          less what is read again
    hybrid      (1 - q) r + p r + (H + p (S - H)) / B
    prefetch    (1 - q) r       + (1 + waste (1 - q)) S / B

The header is learned: the length that covers nearly all reads that stopped short of half of their
block. A method is given up only for one that has been a fifth cheaper for several reads, or just
cheaper for many: each change costs what the other has prepared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from dsm.core.planner import Pattern
from dsm.model import Access, PathEstimate

MEMORY_READS = 64
"""Of the moving averages: long enough that one read in a hundred does not change the method."""

HEADER_READS = 64
HEADER_QUANTILE = 0.95
HEADER_STEP_BYTES = 16
"""Learned lengths are rounded up: neighbours are worth more than the odd byte, and it settles."""

BETTER = 0.8
BETTER_READS = 8
BETTER_READS_SLIGHTLY = 128
"""Even a little is worth having, once it is sure."""

REREAD = 0.05
"""Of reads, that come again: what is copied is worth a little more than what is not."""

WASTE = 0.1
"""Of reads that were not predicted: the most that the planner spends in vain on them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A method, and why it."""

    method: Access
    header_bytes: int = 0
    """How much of a block comes at once under `hybrid`."""
    reason: str = ""
    costs: Mapping[Access, float] = field(default_factory=dict)
    """Seconds per read that each method is expected to cost; empty before anything is known."""


class AccessPolicy:
    """Chooses for one handle under `access="auto"`."""

    def __init__(self, *, header_bytes: int = 0, has_headers: bool = True) -> None:
        """`header_bytes`: the segment's own; what is learned is never below it.

        `has_headers`: of a region, no: it has no `hybrid`.
        """
        self._header_bytes_min = header_bytes
        self._has_headers = has_headers
        self._method = Access.PREFETCH
        self._reads = 0
        self._is_known = False  # what each method costs
        self._better: Access | None = None
        self._better_from = 0
        self._block_bytes = 0.0
        self._touched_bytes = 0.0
        self._whole = 0.0  # the share of reads that went beyond the header
        self._sequential = 0.0
        self._interval_s = 0.0
        self._read_at = 0.0
        self._short_bytes: deque[int] = deque(maxlen=HEADER_READS)

    def accessed(
        self,
        *,
        header_only: bool,
        bytes_touched: int,
        block_bytes: int,
        sequential: bool,
        now: float,
    ) -> None:
        """A block (or a read of a region) is done with: how much of it was touched."""
        short = header_only or 2 * bytes_touched < block_bytes
        if short:
            self._short_bytes.append(bytes_touched)
        if self._reads:
            self._interval_s += (now - self._read_at - self._interval_s) * self._weight
        self._read_at = now
        self._reads += 1
        self._block_bytes += (block_bytes - self._block_bytes) * self._weight
        self._touched_bytes += (bytes_touched - self._touched_bytes) * self._weight
        self._whole += ((not short) - self._whole) * self._weight
        self._sequential += (sequential - self._sequential) * self._weight

    def choose(self, path: PathEstimate, now: float, *, pattern: Pattern | None = None) -> Choice:
        """The method to use now; call it as often as is convenient, it changes with reads only."""
        if not self._reads or not _rate_bps(path):
            lacking = "the path was not measured yet" if self._reads else "no read is over yet"
            reason = f"{lacking}: reads in order are pulled ahead, others fetch what they ask for"
            return Choice(self._method, self.header_bytes, reason)
        pattern = pattern or Pattern()
        costs = self._costs(path, pattern)
        self._is_known = True
        self._settle(costs)
        return Choice(self._method, self.header_bytes, self._reason(path, costs, pattern), costs)

    @property
    def is_settled(self) -> bool:
        """It has seen enough, and nothing has become better lately."""
        return self._reads >= BETTER_READS and self._better is None and self._is_known

    @property
    def header_bytes(self) -> int:
        """As much of a block as nearly every read touches that does not want the rest."""
        if not self._short_bytes:
            return self._header_bytes_min
        lengths = sorted(self._short_bytes)
        learned = lengths[min(int(HEADER_QUANTILE * len(lengths)), len(lengths) - 1)]
        rounded = -(-learned // HEADER_STEP_BYTES) * HEADER_STEP_BYTES
        return max(self._header_bytes_min, rounded)

    def explain(self, path: PathEstimate, now: float, *, pattern: Pattern | None = None) -> str:
        """The choice and the figures behind it, in words, several lines."""
        choice = self.choose(path, now, pattern=pattern)
        lines = [f"{choice.method.value}: {choice.reason}"]
        for method, cost_s in sorted(choice.costs.items(), key=lambda item: item[1]):
            chosen = "  <- used" if method is choice.method else ""
            lines.append(f"  {method.value:<10} {_seconds(cost_s):>8} a read{chosen}")
        if self._better is not None:
            lines.append(f"  {self._better.value} has become cheaper, and is used if it stays so")
        return "\n".join(lines)

    @property
    def _weight(self) -> float:
        """A plain mean at first, then one that forgets."""
        return 1 / min(max(self._reads, 1), MEMORY_READS)

    def _costs(self, path: PathEstimate, pattern: Pattern) -> dict[Access, float]:
        rate, trip_s = _rate_bps(path) / 8, path.rtt_s
        block_s, touched_s = self._block_bytes / rate, self._touched_bytes / rate
        header_s = min(self.header_bytes / rate, block_s)
        unforeseen = 1 - self._predicted(pattern)
        waited_s = unforeseen * trip_s
        costs = {
            Access.ZERO_COPY: trip_s + touched_s,
            Access.COPY_ONCE: (1 - REREAD) * (trip_s + block_s),
            Access.PREFETCH: waited_s + (1 + WASTE * unforeseen) * block_s,
        }
        if self._has_headers:
            beyond_s = trip_s + block_s - header_s
            costs[Access.HYBRID] = waited_s + header_s + self._whole * beyond_s
        return costs

    def _predicted(self, pattern: Pattern) -> float:
        """The share of reads whose place was known before; those that skip a little are, too."""
        if pattern.kind in ("unknown", "sequential"):
            return max(self._sequential, pattern.followed)
        return 0.0 if pattern.kind == "random" else 1.0

    def _settle(self, costs: Mapping[Access, float]) -> None:
        """Change to the cheapest, once it has been that for long enough."""
        best = min(costs, key=lambda method: costs[method])
        if best is self._method:
            self._better = None
        elif best is not self._better:
            self._better, self._better_from = best, self._reads
        far = costs[best] <= BETTER * costs[self._method]
        reads = BETTER_READS if far else BETTER_READS_SLIGHTLY
        if self._better is not None and self._reads - self._better_from >= reads:
            self._method, self._better = self._better, None

    # -- words

    def _reason(self, path: PathEstimate, costs: Mapping[Access, float], pattern: Pattern) -> str:
        cost, trip = _seconds(costs[self._method]), _seconds(path.rtt_s)
        block, touched = _bytes(self._block_bytes), _bytes(self._touched_bytes)
        predicted = self._predicted(pattern)
        kind = "sequential" if pattern.kind == "unknown" else pattern.kind
        if self._method is Access.HYBRID:
            return (
                f"{1 - self._whole:.0%} of payloads were not touched: headers first "
                f"({self.header_bytes} bytes of {block}) saves {self._saved()}"
            )
        if self._method is Access.PREFETCH:
            return (
                f"{predicted:.0%} of reads are predicted ({kind}): pulled ahead, "
                f"one costs {cost} instead of the round trip of {trip}"
            )
        if self._method is Access.ZERO_COPY:
            return (
                f"reads are scattered and touch {touched} of {block}: exact ranges, one round "
                f"trip of {trip} each, cost least"
            )
        return (
            f"reads cannot be predicted ({predicted:.0%} are) but take {touched} of {block}: "
            f"whole blocks are copied, once"
        )

    def _saved(self) -> str:
        left_bytes = (self._block_bytes - self.header_bytes) * (1 - self._whole)
        if not self._interval_s:
            return f"{_bytes(left_bytes)} a read"
        return f"{_bytes(left_bytes / self._interval_s)}/s"


def _rate_bps(path: PathEstimate) -> float:
    """As measured; before that, a window in each round trip. 0: neither is known."""
    if path.rate_bps or not path.rtt_s:
        return path.rate_bps
    return path.window_bytes * 8 / path.rtt_s


def _seconds(value_s: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value_s >= size:
            return f"{value_s / size:.3g} {unit}"
    return f"{value_s / 1e-6:.3g} µs"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} bytes"
