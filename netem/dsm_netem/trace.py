"""Packet-delivery traces in the Mahimahi format (Netravali et al., USENIX ATC 2015).

One integer per line: the millisecond at which one packet of 1,504 bytes may leave. Equal lines
are several packets in that millisecond. After the last line the trace starts over, with the last
time stamp as its period. An opportunity that finds no packet is wasted; one that finds a smaller
packet serves the next with what is left.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

OPPORTUNITY_BYTES = 1504  # Mahimahi's PACKET_SIZE: an MTU and the TUN header of its time
NS_PER_MS = 1_000_000


class TraceError(ValueError):
    """The text is no delivery trace: says in which line and why."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Delivery opportunities in milliseconds, ascending; the last one is the period."""

    times_ms: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.times_ms or self.times_ms[-1] <= 0:
            raise TraceError("a trace needs at least one opportunity after 0 ms")
        if self.times_ms[0] < 0 or any(
            b < a for a, b in zip(self.times_ms, self.times_ms[1:], strict=False)
        ):
            raise TraceError("the times of a trace must be in order and not negative")

    @classmethod
    def parse(cls, text: str) -> Trace:
        """Raises `TraceError`."""
        times = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                times.append(int(line))
            except ValueError as error:
                raise TraceError(f"line {number}: {line!r} is not a whole millisecond") from error
            if len(times) > 1 and times[-1] < times[-2]:
                raise TraceError(f"line {number}: {times[-1]} ms comes after {times[-2]} ms")
        return cls(tuple(times))

    @classmethod
    def load(cls, path: Path) -> Trace:
        """Raises `OSError` or `TraceError`."""
        try:
            return cls.parse(path.read_text(encoding="ascii"))
        except UnicodeDecodeError as error:
            raise TraceError(f"{path.name} is not a text of numbers") from error

    @property
    def mean_rate_bps(self) -> float:
        return len(self.times_ms) * OPPORTUNITY_BYTES * 8 / (self.times_ms[-1] / 1e3)


class TraceServer:
    """Serves packets at a trace's opportunities, in the order in which it is asked."""

    def __init__(self, trace: Trace, start_ns: int) -> None:
        self._times_ms = trace.times_ms
        self._period_ms = trace.times_ms[-1]
        self._start_ns = start_ns
        self._position = 0  # the opportunity at hand, counted through all repetitions
        self._left_bytes = OPPORTUNITY_BYTES

    def finish_ns(self, since_ns: int, size_bytes: int) -> int:
        """When the last byte of a packet that waits since then has left."""
        self._skip_wasted(since_ns)
        while size_bytes > self._left_bytes:
            size_bytes -= self._left_bytes
            self._take(self._position + 1)
        self._left_bytes -= size_bytes
        return self._time_ns(self._position)

    def _skip_wasted(self, now_ns: int) -> None:
        if self._time_ns(self._position) >= now_ns:
            return
        elapsed_ms = -(-(now_ns - self._start_ns) // NS_PER_MS)  # rounded up
        rounds, within_ms = divmod(elapsed_ms, self._period_ms)
        if within_ms == 0 and rounds > 0:  # the period's end is its last opportunity
            rounds, within_ms = rounds - 1, self._period_ms
        self._take(rounds * len(self._times_ms) + bisect_left(self._times_ms, within_ms))

    def _take(self, position: int) -> None:
        self._position = position
        self._left_bytes = OPPORTUNITY_BYTES

    def _time_ns(self, position: int) -> int:
        rounds, index = divmod(position, len(self._times_ms))
        return self._start_ns + (rounds * self._period_ms + self._times_ms[index]) * NS_PER_MS
