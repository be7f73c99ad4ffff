"""How many connections a session reads bulk over, and how fast each of them is.

    lanes
     16 ┤──┐           ┌───┐             a trial that adds little is taken back,
     10 ┤  │       ┌───┘   └──────       the next one comes later
      8 ┤  └───────┘
      1 ┤  ╰ the rate is known    └────  idle for long: down to what the path needs
        └──────────────────────────────▶ time

Under stock Linux limits one TCP connection carries about 3 MB in flight (`tcp_wmem` of 4 MB), so a
long fat path needs its window divided by that. Several from the start also cut slow start (each
brings an initial window of its own) and the stalls after a loss. Where loss holds the lanes down
rather than the path, each further one adds its share: that is found out by trying, while the window
is full, and lasts as long as it pays: the rate grows, or the path is full that was far from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsm.core.delivery import DeliveryMeter
from dsm.core.path import QUEUE_GAIN
from dsm.core.sizes import FIRST_BYTES
from dsm.model import PathEstimate

LANE_BYTES = 2_500_000
"""In flight on one connection under stock limits; measured as 1 Gbit/s × 150 ms: 155 Mbit/s."""

LANES_LONG = 8
"""Where a round trip is anything longer than a campus: the best iperf3 has as many."""

LANES_LEAST = 2
"""...unless the path and its queue hold less than an initial window for each: they may all come at
once, and what is too much is lost. Two, since one that repairs a loss stands still."""

LANES_MAX = 16

LANES_START = LANES_MAX
"""Until the path's rate is known, since slow start is what a first access waits for: a megabyte
(headers of ten thousand blocks) is three round trips with these and four with eight. The third is
a quarter shorter than with twelve."""

LONG_RTT_S = 0.002
"""Longer than a campus."""

TRIAL_PART = 4
"""A quarter more lanes: a quarter more rate if it is the lanes that limit."""

TRIAL_GAIN = 0.5
"""Of that has to come, for them to be kept."""

FAR_RTTS = 1.0
"""Of spare: with a whole product more in flight than the path holds no ping met a queue, so it is
far from full..."""

NEAR_RTTS = 0.25
"""...and with so little more they do. Lanes that lead from the one to the other have filled it."""

TRIAL_RTTS = 20.0
TRIAL_S = 1.0
"""Both together: slow start, and twice the rounds that the rate filter holds."""

TRIAL_PAUSE_S = 4.0
TRIAL_PAUSE_S_MAX = 120.0
"""Until the next one; twice as long after each that brought nothing."""

RISE = 0.5
"""Of what a sample is above the rate: in slow start it doubles within a round trip..."""

FALL = 0.125
"""...and of what it is below: a lane that lost a segment is not slow for long."""

IDLE_S = 30.0
"""A lane that is more than is needed for so long is closed."""


class LaneCount:
    """Bulk lanes wanted. Ask `wanted` after the estimate may have changed."""

    def __init__(self, lanes_max: int = LANES_MAX) -> None:
        assert lanes_max >= 1
        self._lanes_max = lanes_max
        self._count = _Reluctant(min(LANES_LONG, lanes_max))
        self.used = min(LANES_START, lanes_max)
        """Bulk goes over so many of those that are open; the others are closed after a while."""
        self._open = _Reluctant(self.used)
        self._is_known = False
        self._earned = 0
        """What trials have shown to be worth having."""
        self._trial: _Trial | None = None
        self._pause_s = TRIAL_PAUSE_S
        self._next_trial_at = 0.0

    def wanted(self, path: PathEstimate, now: float, *, full: bool = False) -> int:
        """How many are to be open for this path now; `full`: the window is in flight."""
        self._try(path, now, full=full)
        needed = min(self._lanes_max, max(self._needed(path), self._earned))
        if path.phase != "startup" and not self._is_known:
            self._is_known, self._count = True, _Reluctant(self._held(path))
        self._count.follow(needed, now)
        self.used = self._count.number + (self._trial.lanes if self._trial else 0)
        if path.phase == "startup" and self._is_long(path):
            self.used = max(self.used, LANES_START)
        self.used = min(self._lanes_max, self.used)
        self._open.follow(self.used, now)
        return self._open.number

    def _needed(self, path: PathEstimate) -> int:
        floor = LANES_LONG if self._is_long(path) else 1
        if path.phase == "startup":  # its window is beyond what the path holds
            return floor
        return max(min(floor, self._held(path)), -(-path.window_bytes // LANE_BYTES))

    def _held(self, path: PathEstimate) -> int:
        """As many as the path and its queue hold initial windows of."""
        held = QUEUE_GAIN * path.bdp_bytes // FIRST_BYTES
        return min(LANES_LONG, self._lanes_max, max(LANES_LEAST, held))

    @staticmethod
    def _is_long(path: PathEstimate) -> bool:
        return not path.rtt_s or path.rtt_s > LONG_RTT_S

    def _try(self, path: PathEstimate, now: float, *, full: bool) -> None:
        trial, count = self._trial, self._count.number
        if path.phase == "startup" or not full:
            self._trial = None  # what was measured is no evidence
            self._next_trial_at = max(self._next_trial_at, now + TRIAL_S)
        elif trial is None:
            lanes = max(1, count // TRIAL_PART)
            if now >= self._next_trial_at and count + lanes <= self._lanes_max:
                ends_at = now + TRIAL_RTTS * path.rtt_s + TRIAL_S
                self._trial = _Trial(
                    lanes, path.rate_bps, path.spare_s > FAR_RTTS * path.rtt_s, ends_at
                )
        elif now >= trial.ends_at:
            self._trial = None
            grew = path.rate_bps >= trial.rate_bps * (1 + TRIAL_GAIN * trial.lanes / count)
            if grew or (trial.was_free and path.spare_s < NEAR_RTTS * path.rtt_s):
                self._count.number = self._earned = count + trial.lanes
                self._pause_s = TRIAL_PAUSE_S
            else:
                self._pause_s = min(2 * self._pause_s, TRIAL_PAUSE_S_MAX)
            self._next_trial_at = now + self._pause_s


class _Reluctant:
    """Follows upwards at once, and downwards by one after each `IDLE_S`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._until: float | None = None

    def follow(self, wanted: int, now: float) -> None:
        if wanted >= self.number or self._until is None:
            self.number = max(wanted, self.number)
        elif now >= self._until:
            self.number -= 1
        else:
            return
        self._until = now + IDLE_S


@dataclass(frozen=True, slots=True)
class _Trial:
    lanes: int
    rate_bps: float
    """Without them."""
    was_free: bool
    """Without them the path was far from full (`FAR_RTTS`)."""
    ends_at: float


class LaneRate:
    """How fast one lane delivers, from its own arrivals; bytes are wire bytes."""

    def __init__(self) -> None:
        self.bytes_per_s = 0.0
        """0: unknown."""
        self.delivered_bytes = 0
        self._meter = DeliveryMeter()

    @property
    def in_flight_bytes(self) -> int:
        return self._meter.in_flight_bytes

    @property
    def has_room(self) -> bool:
        """For a lane in slow start: it takes what it has brought so far once more."""
        return self.in_flight_bytes <= self.delivered_bytes // 2

    def request_sent(self, id: int, bytes_expected: int, now: float, share_bytes: int) -> None:
        """`share_bytes`: with so much in flight its rate is not limited by us."""
        self._meter.request_sent(id, bytes_expected, now, parked=False, window_bytes=share_bytes)

    def bytes_arrived(self, id: int, wire_bytes: int, now: float) -> None:
        self.delivered_bytes += wire_bytes
        sample = self._meter.bytes_arrived(id, wire_bytes, now)
        if sample is None:
            return
        gain = sample.rate - self.bytes_per_s
        if gain > 0:
            self.bytes_per_s += gain * (RISE if self.bytes_per_s else 1.0)
        elif not sample.limited:
            self.bytes_per_s += gain * FALL

    def forget(self, id: int) -> None:
        """It was answered, cancelled or lost."""
        self._meter.forget(id)
