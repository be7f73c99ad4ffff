"""Extra delay that varies: the same mean in several shapes, per packet or drifting.

Per-packet jitter on an ordered link makes every packet wait for the unluckiest one before it,
which no real path does; a path's delay drifts. So a sample may be drawn every interval, and the
delay between two samples is interpolated.

    extra ▲      ╱╲        one sample every `jitter_interval_s`
          │  ╱╲╱    ╲╱╲    never below 0: the configured delay is the least
          └──────────────▶ time
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .config import JitterShape, LinkConfig

NS_PER_S = 1_000_000_000
PARETO_ALPHA = 3.0  # heavy-tailed, but with a variance; netem's table is of this order
MEANS_MAX = 20.0  # a sample beyond 20 means would be an outage, which is asked for by name

_SHAPES: dict[JitterShape, Callable[[Random], float]] = {  # each of mean 1 and never negative
    "uniform": lambda random: random.uniform(0.0, 2.0),
    "normal": lambda random: max(0.0, random.gauss(1.0, 1 / 3)),
    "exponential": lambda random: random.expovariate(1.0),
    "pareto": lambda random: (random.paretovariate(PARETO_ALPHA) - 1) * (PARETO_ALPHA - 1),
}


class Jitter:
    """The extra delay of one direction from `start_ns` on."""

    def __init__(self, config: LinkConfig, random: Random, start_ns: int) -> None:
        self._mean_ns = config.jitter_s * NS_PER_S
        self._shape = _SHAPES[config.jitter]
        self._interval_ns = round(config.jitter_interval_s * NS_PER_S)
        self._random = random
        if self._mean_ns and self._interval_ns:
            self._base_ns = start_ns
            self._from_ns, self._to_ns = self._sample_ns(), self._sample_ns()

    def extra_ns(self, now_ns: int) -> int:
        """What a packet that leaves now is delayed by; `now_ns` must not go backwards."""
        if not self._mean_ns:
            return 0
        if not self._interval_ns:
            return round(self._sample_ns())
        gone = (now_ns - self._base_ns) // self._interval_ns
        for _ in range(min(gone, 2)):  # after a long pause only the last two samples matter
            self._from_ns, self._to_ns = self._to_ns, self._sample_ns()
        self._base_ns += gone * self._interval_ns
        share = (now_ns - self._base_ns) / self._interval_ns
        return round(self._from_ns + (self._to_ns - self._from_ns) * share)

    def _sample_ns(self) -> float:
        return min(self._shape(self._random), MEANS_MAX) * self._mean_ns
