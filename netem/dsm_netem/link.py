"""One direction of a WAN link, as a pure model: no clock, no I/O, no threads, no global chance.

    accept ─▶ ▒▒▒▒▒ queue ─▶ serializer ─▶ loss, flips, copies ─▶ ~~~ delay line ~~~ ─▶ release
              drop-tail      rate, trace   per segment            propagation, jitter

Time is an argument, in nanoseconds of any monotonic clock, and must never go backwards; so the
same link runs in virtual time and for real. Whoever drives it does four things (the verbs
are Mahimahi's): `accept` what arrives, sleep for `wait_ns`, `release` what is due, and carry it on.

What arrives is a *run*: a packet of one or more wire packets (segments), since a TSO super-packet
carries up to 45 of them. A run is served in pieces of at most `PIECE_NS` of link time, is cut
where the queue is full, and every segment has its own chance of being lost; so a `Delivery`
names which segments of the packet it brings: [first, end).

Invariants, held by property tests against a naive model:
- never faster than the rate: what is released in any interval is at most rate x interval + a piece
- never before the delay
- in order, unless reordering or unordered jitter was asked for
- conservation: accepted + copies = released + lost + dropped + still inside, in packets and bytes
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any, Generic, Literal, TypeVar

from .chance import Bursty, Rare
from .config import LinkConfig, Timeline
from .jitter import Jitter
from .trace import TraceServer

PIECE_NS = 1_000_000  # of link time served at once: a run's first segment is late by at most this
NS_PER_S = 1_000_000_000

T = TypeVar("T")
Flaw = Literal["", "flip", "silent"]


@dataclass(slots=True)
class Counters:
    """What a link has done, in wire packets and wire bytes (overhead included)."""

    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0
    lost_packets: int = 0
    lost_bytes: int = 0
    dropped_packets: int = 0
    dropped_bytes: int = 0
    copied_packets: int = 0
    copied_bytes: int = 0
    corrupted_packets: int = 0
    reordered_packets: int = 0
    queue_peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """Segments [first, end) of an accepted packet, to be handed on at `due_ns`."""

    packet: T
    first: int
    end: int
    due_ns: int
    flaw: Flaw = ""


@dataclass(slots=True)
class _Run(Generic[T]):
    """Segments [first, end) of a packet on their way; all are `segment_bytes` but the last."""

    packet: T
    first: int
    end: int
    segments: int
    segment_bytes: int
    last_bytes: int
    arrived_ns: int

    def size_bytes(self, first: int, end: int) -> int:
        size = (end - first) * self.segment_bytes
        return size - self.segment_bytes + self.last_bytes if end == self.segments else size


class Link(Generic[T]):
    """A link that starts, empty, at `start_ns`."""

    def __init__(
        self,
        config: LinkConfig,
        random: Random,
        *,
        timeline: Timeline | None = None,
        start_ns: int = 0,
    ) -> None:
        self.counters = Counters()
        self._random = random
        self._start_ns = start_ns
        self._queue: deque[_Run[T]] = deque()
        self._waiting_bytes = 0
        self._serving: _Run[T] | None = None
        self._serving_since_ns = start_ns
        self._serving_bytes = 0.0  # what is left of it at `serving_since`
        self._finish_ns: int | None = None  # None while nothing is served, or it is held
        self._free_ns = start_ns
        self._line: list[tuple[int, int, Delivery[T], int]] = []  # due, tie-break, what, bytes
        self._line_count = 0
        self._last_due_ns = start_ns
        self._changes: Iterator[tuple[int, Mapping[str, Any]]] = iter(timeline or ())
        self._next_change = next(self._changes, None)
        self._config = LinkConfig()
        self._trace_server: TraceServer | None = None
        self._configure(config, start_ns, afresh=True)

    @property
    def config(self) -> LinkConfig:
        """What is in force, as of the last call."""
        return self._config

    def accept(
        self,
        now_ns: int,
        packet: T,
        segment_bytes: int,
        segments: int = 1,
        last_bytes: int | None = None,
    ) -> int:
        """Takes a packet of equal segments (the last may differ); returns how many were kept.

        The rest did not fit into the queue: they are dropped, from the tail.
        """
        self._advance(now_ns)
        segment_bytes += self._config.overhead_bytes
        last_bytes = (
            segment_bytes if last_bytes is None else last_bytes + self._config.overhead_bytes
        )
        run = _Run(packet, 0, segments, segments, segment_bytes, last_bytes, now_ns)
        total_bytes = run.size_bytes(0, segments)
        self.counters.in_packets += segments
        self.counters.in_bytes += total_bytes
        if self._config.outage == "drop":
            self.counters.lost_packets += segments
            self.counters.lost_bytes += total_bytes
            return 0
        kept = self._admit(now_ns, run, total_bytes)
        if kept:
            run.end = kept
            self._queue.append(run)
            self._waiting_bytes += run.size_bytes(0, kept)
            self._advance(now_ns)
        return kept

    def wait_ns(self, now_ns: int) -> int | None:
        """How long until something may be due: 0 if it is, `None` if nothing is under way.

        The wait may turn out to be too short (jitter is drawn late), never too long.
        """
        self._advance(now_ns)
        wakes = []
        if self._line:
            wakes.append(self._line[0][0])
        if self._finish_ns is not None:
            wakes.append(self._finish_ns + self._delay_ns)
        if self._next_change is not None and (self._serving is not None or self._queue):
            wakes.append(self._start_ns + self._next_change[0])
        return max(0, min(wakes) - now_ns) if wakes else None

    def release(self, now_ns: int) -> list[Delivery[T]]:
        """What is due, in the order in which it arrives; to be handed on at once."""
        self._advance(now_ns)
        due = []
        while self._line and self._line[0][0] <= now_ns:
            _, _, delivery, size_bytes = heappop(self._line)
            self.counters.out_packets += delivery.end - delivery.first
            self.counters.out_bytes += size_bytes
            due.append(delivery)
        return due

    def change(self, now_ns: int, updates: Mapping[str, Any]) -> None:
        """From now on the link is as `updates` say. Raises `ConfigError` and leaves it as it was.

        What waits sees the new rate, what is under way keeps the delay that it started with.
        """
        self._advance(now_ns)
        self._configure(self._config.changed(updates), now_ns)

    def queued_bytes(self, now_ns: int) -> int:
        """What waits for the serializer, counting what is left of the packet in it."""
        self._advance(now_ns)
        return self._backlog_bytes(now_ns)

    def departure_ns(self, now_ns: int) -> int | None:
        """When the serializer will have made room next; `None` if it is idle or held."""
        self._advance(now_ns)
        return self._finish_ns

    def inside(self) -> tuple[int, int]:
        """(packets, bytes) that were accepted and not yet released, as of the last call."""
        runs = [*self._queue, *([self._serving] if self._serving else [])]
        packets = sum(run.end - run.first for run in runs)
        size_bytes = sum(run.size_bytes(run.first, run.end) for run in runs)
        packets += sum(delivery.end - delivery.first for _, _, delivery, _ in self._line)
        return packets, size_bytes + sum(entry[3] for entry in self._line)

    # -- the queue --

    def _admit(self, now_ns: int, run: _Run[T], total_bytes: int) -> int:
        """How many of the run's segments fit; an idle link takes at least one."""
        counters = self.counters
        backlog_bytes = self._backlog_bytes(now_ns)
        limit_bytes = self._config.queue_bytes
        kept = run.segments
        if limit_bytes is not None and backlog_bytes + total_bytes > limit_bytes:
            room_bytes = max(0, limit_bytes - backlog_bytes)
            kept = min(room_bytes // run.segment_bytes, run.segments - 1)
            if kept == 0 and backlog_bytes == 0:
                kept = 1
            counters.dropped_packets += run.segments - kept
            counters.dropped_bytes += total_bytes - run.size_bytes(0, kept)
        peak_bytes = backlog_bytes + run.size_bytes(0, kept)
        counters.queue_peak_bytes = max(counters.queue_peak_bytes, peak_bytes)
        return kept

    # -- the serializer --

    def _advance(self, now_ns: int) -> None:
        """Brings everything up to date, in order: services that ended, changes that are due."""
        while self._next_change is not None:
            at_ns = self._start_ns + self._next_change[0]
            if at_ns > now_ns:
                break
            self._serve(at_ns)
            self._configure(self._config.changed(self._next_change[1]), at_ns)
            self._next_change = next(self._changes, None)
        self._serve(now_ns)

    def _serve(self, now_ns: int) -> None:
        while True:
            if self._serving is None:
                if not self._queue or self._config.outage == "hold":
                    return
                self._begin()
            if self._finish_ns is None or self._finish_ns > now_ns:
                return
            self._depart()

    def _begin(self) -> None:
        """Takes the next piece from the queue into the serializer."""
        run = self._queue[0]
        end = run.end
        if end - run.first > 1:
            end = min(end, run.first + max(1, self._piece_bytes // run.segment_bytes))
        size_bytes = run.size_bytes(run.first, end)
        self._waiting_bytes -= size_bytes
        self._serving_since_ns = max(self._free_ns, run.arrived_ns)
        self._serving_bytes = size_bytes
        if end == run.end:
            self._serving = self._queue.popleft()
        else:
            self._serving = _Run(
                run.packet,
                run.first,
                end,
                run.segments,
                run.segment_bytes,
                run.last_bytes,
                run.arrived_ns,
            )
            run.first = end
        self._finish_ns = self._service_end_ns()

    def _service_end_ns(self) -> int:
        if self._trace_server is not None:
            return self._trace_server.finish_ns(self._serving_since_ns, round(self._serving_bytes))
        if self._config.rate_bps is None:
            return self._serving_since_ns
        duration_ns = self._serving_bytes * 8 * NS_PER_S / self._config.rate_bps
        return self._serving_since_ns + int(duration_ns) + 1

    def _backlog_bytes(self, now_ns: int) -> int:
        left_bytes = self._serving_left_bytes(now_ns, self._config.rate_bps)
        return self._waiting_bytes + round(left_bytes)

    def _serving_left_bytes(self, now_ns: int, rate_bps: float | None) -> float:
        """A trace's packet counts whole until it has left: service comes in lumps there."""
        if self._serving is None:
            return 0.0
        if self._finish_ns is None or self._trace_server is not None or rate_bps is None:
            return self._serving_bytes
        served_bytes = (now_ns - self._serving_since_ns) * rate_bps / 8 / NS_PER_S
        return max(0.0, self._serving_bytes - max(0.0, served_bytes))

    def _configure(self, config: LinkConfig, now_ns: int, *, afresh: bool = False) -> None:
        """Puts a config in force; what it does not change keeps its state and its draws."""
        before, self._config = self._config, config

        def touched(*names: str) -> bool:
            return afresh or any(getattr(before, name) != getattr(config, name) for name in names)

        self._delay_ns = round(config.delay_s * NS_PER_S)
        if touched("jitter_s", "jitter", "jitter_interval_s"):
            self._jitter = Jitter(config, self._random, now_ns)
        if touched("loss", "bursts", "duplicate", "reorder", "corrupt", "corrupt_silent"):
            self._draw_chances(config)
        if touched("rate_bps", "trace", "outage"):
            self._configure_serializer(before, now_ns)

    def _configure_serializer(self, before: LinkConfig, now_ns: int) -> None:
        config = self._config
        left_bytes = self._serving_left_bytes(now_ns, before.rate_bps)
        if before.trace is not config.trace:
            self._trace_server = TraceServer(config.trace, now_ns) if config.trace else None
        rate_bps = config.mean_rate_bps
        self._piece_bytes = int(rate_bps / 8 * PIECE_NS / NS_PER_S) if rate_bps else 1 << 30
        self._free_ns = max(self._free_ns, now_ns)
        if self._serving is not None:
            self._serving_since_ns = now_ns
            self._serving_bytes = left_bytes
            self._finish_ns = None if config.outage == "hold" else self._service_end_ns()

    # -- the wire --

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

    def _depart(self) -> None:
        """The piece in the serializer has left it: decides what becomes of each segment."""
        run, at_ns = self._serving, self._finish_ns
        assert run is not None
        assert at_ns is not None
        self._serving, self._finish_ns, self._free_ns = None, None, at_ns
        due_ns = at_ns + self._delay_ns + self._jitter.extra_ns(at_ns)
        if self._config.ordered:
            due_ns = max(due_ns, self._last_due_ns)
        self._last_due_ns = due_ns
        count = run.end - run.first
        fates = [(hit, "lost") for hit in self._loss.draw(count)]
        for what, chance in self._chances:
            fates += [(hit, what) for hit in chance.draw(count)]
        if not fates:
            self._send(run, run.first, run.end, due_ns)
        else:
            self._send_cut(run, due_ns, fates)

    def _send_cut(self, run: _Run[T], due_ns: int, fates: list[tuple[int, str]]) -> None:
        """Sends the run in parts: every segment that something happens to is a part of its own."""
        hits: dict[int, set[str]] = {}
        for offset, what in fates:
            hits.setdefault(run.first + offset, set()).add(what)
        intact = run.first
        for index in sorted(hits):
            if intact < index:
                self._send(run, intact, index, due_ns)
            self._send_hit(run, index, due_ns, hits[index])
            intact = index + 1
        if intact < run.end:
            self._send(run, intact, run.end, due_ns)

    def _send_hit(self, run: _Run[T], index: int, due_ns: int, what: set[str]) -> None:
        counters = self.counters
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
            self._send(run, index, index + 1, due_ns, flaw)
        if "late" in what:
            counters.reordered_packets += 1
            due_ns += round(self._config.reorder_s * NS_PER_S)
        self._send(run, index, index + 1, due_ns, flaw)

    def _send(self, run: _Run[T], first: int, end: int, due_ns: int, flaw: Flaw = "") -> None:
        delivery = Delivery(run.packet, first, end, due_ns, flaw)
        heappush(self._line, (due_ns, self._line_count, delivery, run.size_bytes(first, end)))
        self._line_count += 1
