"""A link that changes while it is read, and how soon a reader is as fast as it then allows.

    goodput ────┐                    ┌─·──·──·──·   0.9 of what the new state carries
                │              ·   ·
                └─ state ──·───┘←─ recovered_s ─→├─ window ─┤
                           changed

A reader that hands bytes over in order does so in bursts; so the rate is that of a window, and
the time counts until the first window that is fast enough begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Sample = tuple[float, int]
"""seconds, bytes handed over by then"""

SHARE = 0.9
WINDOW_S = 1.0
WINDOW_RTTS = 3.0


@dataclass(frozen=True)
class State:
    """Shares of the profile's rate and round-trip time; the queue keeps its size in BDPs."""

    rate: float = 1.0
    rtt: float = 1.0
    outage: bool = False

    def updates(self, profile: Any) -> dict[str, Any]:
        """Fields of the link's configuration."""
        asked = {"rate_bps": profile.rate_bps * self.rate, "rtt_s": profile.rtt_s * self.rtt}
        direction = profile.changed(asked).path().there
        names = ("rate_bps", "delay_s", "queue_bytes")
        found = {name: getattr(direction, name) for name in names}
        return {**found, "outage": "drop" if self.outage else "none"}


@dataclass(frozen=True)
class Change:
    """The link is in each state from so many seconds after the start of a read; the last stays."""

    states: tuple[tuple[float, State], ...]

    @property
    def first(self) -> State:
        return self.states[0][1]

    @property
    def last(self) -> State:
        return self.states[-1][1]


def window_s(rtt_s: float) -> float:
    return max(WINDOW_S, WINDOW_RTTS * rtt_s)


def recovered_s(
    samples: Sequence[Sample], changed_s: float, goodput_bps: float, rtt_s: float
) -> float | None:
    """From the change until the first window with `SHARE` of the goodput; `None` if none has it."""
    times = [at for at, _ in samples]
    span_s = window_s(rtt_s)
    enough = SHARE * goodput_bps / 8 * span_s

    def bytes_by(at: float) -> int:
        place = bisect_right(times, at)
        return samples[place - 1][1] if place else 0

    for start in _starts(times, changed_s):
        if not times or start + span_s > times[-1]:
            return None
        if bytes_by(start + span_s) - bytes_by(start) >= enough:
            return start - changed_s
    return None


def _starts(times: Iterable[float], changed_s: float) -> Iterable[float]:
    yield changed_s
    yield from (at for at in times if at > changed_s)
