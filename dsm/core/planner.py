"""Where the reader of one handle goes next, and what to ask for before it gets there. (Skeleton.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dsm.model import Extent

PatternKind = Literal["sequential", "strided", "backward", "random", "unknown"]
Hint = Literal["sequential", "random", "normal"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the reads of a handle look like, in units of its index space."""

    kind: PatternKind = "unknown"
    streams: int = 0
    stride: int = 0
    rate_units_s: float = 0.0


class PrefetchPlanner:
    """One per handle; the index space is sequence numbers, pages or bytes."""

    def accessed(self, start: int, stop: int, now: float) -> None:
        """The reader read `[start, stop)`; every read of the handle, in order."""
        raise NotImplementedError

    def plan(
        self,
        now: float,
        *,
        window_units: int,
        limit: Extent,
        wanted: Callable[[int, int], list[Extent]],
        gap_units: int = 0,
        delay_s: float = 0.0,
    ) -> list[Extent]:
        """What to request now, in this order; what is returned counts as requested.

        `window_units`  the most to be ahead of the readers, all streams together
        `limit`         what may be asked for; of a live ring its stop may lie beyond the head
        `wanted(a, b)`  what of `[a, b)` is neither present nor requested
        `gap_units`     a gap up to this (bandwidth x RTT) is read through, otherwise jumped over
        `delay_s`       of the path, from request to data
        """
        raise NotImplementedError

    def stale(self) -> list[Extent]:
        """What was planned for streams that are gone; each is reported once: cancel it."""
        raise NotImplementedError

    def hit(self, start: int, stop: int) -> None:
        """The reader used `[start, stop)`, which was prefetched."""
        raise NotImplementedError

    def wasted(self, units: int) -> None:
        """So many units were prefetched and dropped without having been read."""
        raise NotImplementedError

    def hint(self, hint: Hint) -> None:
        """Someone knows better: `sequential` opens the window at once, `random` closes it."""
        raise NotImplementedError

    def will_need(self, extent: Extent) -> None:
        """Someone knows: plan this first."""
        raise NotImplementedError

    def pattern(self, now: float) -> Pattern:
        raise NotImplementedError
