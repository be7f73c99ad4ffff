"""Rare events, drawn for runs of packets at once.

A TSO super-packet is some 45 wire packets, and each must have its own chance. Instead of one
draw per packet, the distance to the next hit is drawn (it is geometric), so that a run in
which nothing happens costs one comparison.
"""

from __future__ import annotations

import math
from random import Random

from .config import GilbertElliott

NEVER = 1 << 62


class Rare:
    """Hits each packet independently with one probability."""

    def __init__(self, probability: float, random: Random) -> None:
        self._probability = probability
        self._random = random
        self._ahead = self.gap()

    def draw(self, count: int) -> list[int]:
        """Which of the next `count` packets are hit."""
        if self._ahead >= count:
            self._ahead -= count
            return []
        hits = []
        while self._ahead < count:
            hits.append(self._ahead)
            self._ahead += 1 + self.gap()
        self._ahead -= count
        return hits

    def gap(self) -> int:
        """How many packets pass before the next hit."""
        if self._probability < 1e-15:
            return NEVER
        if self._probability >= 1:
            return 0
        return int(math.log(1 - self._random.random()) / math.log1p(-self._probability))


class Bursty:
    """Hits in bursts: the Gilbert-Elliott model, starting in its good state."""

    def __init__(self, model: GilbertElliott, random: Random) -> None:
        self._hits = (Rare(model.loss_good, random), Rare(model.loss_bad, random))
        self._changes = (Rare(model.to_bad, random), Rare(model.to_good, random))
        self._bad = False
        self._stay = self._sojourn()

    def draw(self, count: int) -> list[int]:
        """Which of the next `count` packets are hit."""
        hits = []
        done = 0
        while done < count:
            step = min(count - done, self._stay)
            hits += [done + hit for hit in self._hits[self._bad].draw(step)]
            done += step
            self._stay -= step
            if self._stay == 0:
                self._bad = not self._bad
                self._stay = self._sojourn()
        return hits

    def _sojourn(self) -> int:
        return 1 + self._changes[self._bad].gap()
