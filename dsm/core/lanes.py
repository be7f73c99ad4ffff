"""How many connections a session reads bulk over.

    lanes
      8 ┤              ┌──────────          window grows: a lane for each LANE_BYTES of it
      4 ┤──────────────┘
      1 ┤                         └────     idle for long: down to what the path needs
        └──────────────────────────────▶ time

Under stock Linux limits one TCP connection carries about 3 MB in flight (`tcp_wmem` of 4 MB), so a
long fat path needs its window divided by that. A path whose rate is held down by its lanes shows a
small window at first; each lane that helps raises the measured rate, so the window, so the count,
and a lane that adds nothing raises nothing. Several from the start also cut slow start (each
brings an initial window of its own) and the stalls after a loss.
"""

from __future__ import annotations

from dsm.core.delivery import DeliveryMeter
from dsm.model import PathEstimate

LANE_BYTES = 2_500_000
"""In flight on one connection under stock limits; measured as 1 Gbit/s × 150 ms: 155 Mbit/s."""

LANES_LONG = 8
"""From the start, where slow start is what the first access waits for..."""

LONG_RTT_S = 0.002
"""...which is anything longer than a campus."""

LANES_MAX = 16

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
        self._count = min(LANES_LONG, lanes_max)
        self._needed_until = 0.0

    def wanted(self, path: PathEstimate, now: float) -> int:
        """The number of bulk lanes for this path now."""
        needed = min(self._lanes_max, self._needed(path))
        if needed >= self._count:
            self._count = needed
            self._needed_until = now + IDLE_S
        elif now >= self._needed_until:
            self._count = max(needed, self._count - 1)
            self._needed_until = now + IDLE_S
        return self._count

    def _needed(self, path: PathEstimate) -> int:
        floor = LANES_LONG if not path.rtt_s or path.rtt_s > LONG_RTT_S else 1
        return max(floor, -(-path.window_bytes // LANE_BYTES))


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
