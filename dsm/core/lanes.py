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

from dsm.model import PathEstimate

LANE_BYTES = 2_500_000
"""In flight on one connection under stock limits; measured as 1 Gbit/s × 150 ms: 155 Mbit/s."""

LANES_LONG = 4
"""From the start, where slow start is what the first access waits for..."""

LONG_RTT_S = 0.002
"""...which is anything longer than a campus."""

LANES_MAX = 16

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
