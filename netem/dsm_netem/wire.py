"""What happens to packets behind the serializer: chance, and the delay line.

Every segment of a run has its own fate. Where something happens to one, the run is cut around it,
and what remains travels on as it was.
"""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import Generic, TypeVar

from .chance import Bursty, Rare
from .config import LinkConfig
from .jitter import Jitter
from .packets import Counters, Delivery, Flaw, Run

NS_PER_S = 1_000_000_000
_CHANCES = ("loss", "bursts", "duplicate", "reorder", "corrupt", "corrupt_silent")
_JITTER = ("jitter_s", "jitter", "jitter_interval_s")

T = TypeVar("T")


class Wire(Generic[T]):
    """Takes what the serializer has sent, gives back what has arrived."""

    def __init__(
        self, config: LinkConfig, random: Random, counters: Counters, start_ns: int
    ) -> None:
        self.delay_ns = 0
        self._random = random
        self._counters = counters
        self._line: list[tuple[int, int, Delivery[T], int]] = []  # due, tie-break, what, bytes
        self._sent = 0
        self._last_due_ns = start_ns
        self._config = config
        self._draw_chances(config)
        self._jitter = Jitter(config, random, start_ns)
        self.configure(config, start_ns)

    def configure(self, config: LinkConfig, now_ns: int) -> None:
        """From now on. What is not changed goes on with its draws; what is under way, as it was."""
        before, self._config = self._config, config
        self.delay_ns = round(config.delay_s * NS_PER_S)
        if _differ(before, config, _JITTER):
            self._jitter = Jitter(config, self._random, now_ns)
        if _differ(before, config, _CHANCES):
            self._draw_chances(config)

    def send(self, run: Run[T], at_ns: int) -> None:
        """A run has left the serializer: decides what becomes of each of its segments."""
        due_ns = at_ns + self.delay_ns + self._jitter.extra_ns(at_ns)
        if self._config.ordered:
            due_ns = max(due_ns, self._last_due_ns)
        self._last_due_ns = due_ns
        count = run.end - run.first
        fates = [(hit, "lost") for hit in self._loss.draw(count)]
        for what, chance in self._chances:
            fates += [(hit, what) for hit in chance.draw(count)]
        if not fates:
            self._add(run, run.first, run.end, due_ns)
        else:
            self._send_cut(run, due_ns, fates)

    def next_due_ns(self) -> int | None:
        return self._line[0][0] if self._line else None

    def arrived(self, now_ns: int) -> list[Delivery[T]]:
        """What is due, in order."""
        due = []
        while self._line and self._line[0][0] <= now_ns:
            _, _, delivery, size_bytes = heappop(self._line)
            self._counters.out_packets += delivery.end - delivery.first
            self._counters.out_bytes += size_bytes
            due.append(delivery)
        return due

    def inside(self) -> tuple[int, int]:
        """(packets, bytes) under way."""
        packets = sum(delivery.end - delivery.first for _, _, delivery, _ in self._line)
        return packets, sum(entry[3] for entry in self._line)

    def _draw_chances(self, config: LinkConfig) -> None:
        random = self._random
        self._loss = Bursty(config.bursts, random) if config.bursts else Rare(config.loss, random)
        self._chances: tuple[tuple[str, Rare], ...] = tuple(
            (what, Rare(probability, random))
            for what, probability in (
                ("copy", config.duplicate),
                ("late", config.reorder),
                ("flip", config.corrupt),
                ("silent", config.corrupt_silent),
            )
            if probability > 0
        )

    def _send_cut(self, run: Run[T], due_ns: int, fates: list[tuple[int, str]]) -> None:
        """Sends the run in parts: every segment that something happens to is a part of its own."""
        hits: dict[int, set[str]] = {}
        for offset, what in fates:
            hits.setdefault(run.first + offset, set()).add(what)
        intact = run.first
        for index in sorted(hits):
            if intact < index:
                self._add(run, intact, index, due_ns)
            self._send_hit(run, index, due_ns, hits[index])
            intact = index + 1
        if intact < run.end:
            self._add(run, intact, run.end, due_ns)

    def _send_hit(self, run: Run[T], index: int, due_ns: int, what: set[str]) -> None:
        counters = self._counters
        size_bytes = run.size_bytes(index, index + 1)
        if "lost" in what:
            counters.lost_packets += 1
            counters.lost_bytes += size_bytes
            return
        flaw: Flaw = "flip" if "flip" in what else "silent" if "silent" in what else ""
        counters.corrupted_packets += flaw != ""
        if "copy" in what:
            counters.copied_packets += 1
            counters.copied_bytes += size_bytes
            self._add(run, index, index + 1, due_ns, flaw)
        if "late" in what:
            counters.reordered_packets += 1
            due_ns += round(self._config.reorder_s * NS_PER_S)
        self._add(run, index, index + 1, due_ns, flaw)

    def _add(self, run: Run[T], first: int, end: int, due_ns: int, flaw: Flaw = "") -> None:
        delivery = Delivery(run.packet, first, end, due_ns, flaw)
        heappush(self._line, (due_ns, self._sent, delivery, run.size_bytes(first, end)))
        self._sent += 1


def _differ(before: LinkConfig, after: LinkConfig, names: tuple[str, ...]) -> bool:
    return any(getattr(before, name) != getattr(after, name) for name in names)
