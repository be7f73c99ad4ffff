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
from random import Random
from typing import Any, Generic, TypeVar

from .config import LinkConfig, Timeline
from .packets import Counters, Delivery, Run
from .trace import TraceServer
from .wire import Wire

__all__ = ["Counters", "Delivery", "Link"]

PIECE_NS = 1_000_000  # of link time served at once: a run's first segment is late by at most this
NS_PER_S = 1_000_000_000
_SERIALIZER = ("rate_bps", "trace", "outage")  # the fields of a config that concern it

T = TypeVar("T")


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
        self._start_ns = start_ns
        self._queue: deque[Run[T]] = deque()
        self._waiting_bytes = 0
        self._serving: Run[T] | None = None
        self._serving_since_ns = start_ns
        self._serving_bytes = 0.0  # what is left of it at `serving_since`
        self._finish_ns: int | None = None  # None while nothing is served, or it is held
        self._free_ns = start_ns
        self._changes: Iterator[tuple[int, Mapping[str, Any]]] = iter(timeline or ())
        self._next_change = next(self._changes, None)
        self._config = config
        self._trace_server: TraceServer | None = None
        self._wire: Wire[T] = Wire(config, random, self.counters, start_ns)
        self._configure_serializer(None, start_ns)

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
        run = Run(packet, 0, segments, segments, segment_bytes, last_bytes, now_ns)
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
        if (due_ns := self._wire.next_due_ns()) is not None:
            wakes.append(due_ns)
        if self._finish_ns is not None:
            wakes.append(self._finish_ns + self._wire.delay_ns)
        if self._next_change is not None and (self._serving is not None or self._queue):
            wakes.append(self._start_ns + self._next_change[0])
        return max(0, min(wakes) - now_ns) if wakes else None

    def release(self, now_ns: int) -> list[Delivery[T]]:
        """What is due, in the order in which it arrives; to be handed on at once."""
        self._advance(now_ns)
        return self._wire.arrived(now_ns)

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
        under_way_packets, under_way_bytes = self._wire.inside()
        return packets + under_way_packets, size_bytes + under_way_bytes

    # -- the queue --

    def _admit(self, now_ns: int, run: Run[T], total_bytes: int) -> int:
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
            self._serving = Run(
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

    def _depart(self) -> None:
        """The piece in the serializer has left it."""
        run, at_ns = self._serving, self._finish_ns
        assert run is not None
        assert at_ns is not None
        self._serving, self._finish_ns, self._free_ns = None, None, at_ns
        self._wire.send(run, at_ns)

    def _configure(self, config: LinkConfig, now_ns: int) -> None:
        before, self._config = self._config, config
        self._wire.configure(config, now_ns)
        if any(getattr(before, name) != getattr(config, name) for name in _SERIALIZER):
            self._configure_serializer(before, now_ns)

    def _configure_serializer(self, before: LinkConfig | None, now_ns: int) -> None:
        config = self._config
        left_bytes = self._serving_left_bytes(now_ns, before.rate_bps if before else None)
        if before is None or before.trace is not config.trace:
            self._trace_server = TraceServer(config.trace, now_ns) if config.trace else None
        rate_bps = config.mean_rate_bps
        self._piece_bytes = int(rate_bps / 8 * PIECE_NS / NS_PER_S) if rate_bps else 1 << 30
        self._free_ns = max(self._free_ns, now_ns)
        if self._serving is not None:
            self._serving_since_ns = now_ns
            self._serving_bytes = left_bytes
            self._finish_ns = None if config.outage == "hold" else self._service_end_ns()
