"""Virtual time: events in order of time, and of their making where times are equal."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

NS_PER_S = 1_000_000_000

Event = Callable[[], None]


class Clock:
    """`now_ns` jumps from event to event; equal runs are equal."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._events: list[tuple[int, int, Event]] = []
        self._count = 0

    @property
    def now(self) -> float:
        """Seconds, as the machines of `dsm.core` take them."""
        return self.now_ns / NS_PER_S

    def at(self, when_ns: int, event: Event) -> None:
        self._count += 1
        heappush(self._events, (max(when_ns, self.now_ns), self._count, event))

    def after(self, delay_ns: int, event: Event) -> None:
        self.at(self.now_ns + delay_ns, event)

    def run(self, until: Callable[[], bool], *, deadline_s: float = float("inf")) -> None:
        """Until that is so, nothing is left to happen, or the time is over."""
        deadline_ns = deadline_s * NS_PER_S
        while self._events and not until() and self._events[0][0] <= deadline_ns:
            self.now_ns, _, event = heappop(self._events)
            event()
