"""One direction of the relay: a link that all connections share, fed by backpressure.

A packet link drops what does not fit. A byte stream must not lose anything, so this shell
stops reading instead: sources whose bytes wait take turns, and one is read only when the
link's queue has room for a chunk. A sender then sees what it would see of a WAN pipe, a bounded
number of bytes under way, and fair shares with the other connections.

    source ─▶ turns ─▶ Link (queue, rate, delay) ─▶ deliver(bytes)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Protocol

from .config import LinkConfig
from .link import Link
from .precision import Alarm, Lateness

SEGMENT_BYTES = 1448  # a chunk is cut like this, so that a slow link delivers packet by packet
CHUNK_BYTES_MAX = 64 * 1024  # one read; larger ones gain nothing and delay the others
CHUNK_S = 0.001  # at most this much of the link's time in one read: turns stay fair
QUEUE_S = 0.02  # default queue: rides out a scheduling stall of 20 ms without going idle
QUEUE_BYTES_MIN = 256 * 1024
LINE_BYTES_MAX = 256 << 20  # what may be under way on a link without a rate

Parcel = tuple[Callable[[memoryview], None], bytes]
Mark = Callable[[], None]


class Source(Protocol):
    """What a connection shows to the link that carries its bytes."""

    def read(self, size_bytes: int) -> bytes | None:
        """Up to so many bytes for `send`; `None` if it has no more now and was told to wait."""

    def deliver(self, chunk: memoryview, /) -> None:
        """Takes what has crossed the link."""


class SharedLink:
    """Carries chunks and marks in order; runs on the event loop that creates it."""

    def __init__(self, config: LinkConfig, random: Random, queue_bytes: int | None) -> None:
        self.lateness = Lateness()
        self._link: Link[Parcel | Mark] = Link(config, random, start_ns=time.monotonic_ns())
        self._queue_bytes = queue_bytes
        self._turns: deque[Source] = deque()
        self._pumping = False
        self._alarm = Alarm()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._alarm.fd, self._rang)
        self._size()

    def close(self) -> None:
        self._loop.remove_reader(self._alarm.fd)
        self._alarm.close()

    def change(self, updates: Mapping[str, Any]) -> None:
        """Raises `ConfigError`."""
        self._link.change(time.monotonic_ns(), updates)
        self._size()
        self._pump()

    def offer(self, source: Source) -> None:
        """The source has bytes; it will be read when it is its turn and there is room."""
        if source not in self._turns:
            self._turns.append(source)
        self._pump()

    def withdraw(self, source: Source) -> None:
        """The source is not to be read any more."""
        if source in self._turns:
            self._turns.remove(source)

    def mark(self, mark: Mark) -> None:
        """Has `mark` called at the far end, after everything that was sent before."""
        self._link.accept(time.monotonic_ns(), mark, 0)
        self._pump()

    def statistics(self) -> dict[str, Any]:
        counters = self._link.counters
        return {
            "bytes_in": counters.in_bytes,
            "bytes_out": counters.out_bytes,
            "queued_bytes": self._link.queued_bytes(time.monotonic_ns()),
            "queue_peak_bytes": counters.queue_peak_bytes,
            "lateness": self.lateness.summary(),
            "config": self._link.config.brief(),
        }

    def _size(self) -> None:
        rate_bps = self._link.config.mean_rate_bps
        chunk_bytes = int(rate_bps / 8 * CHUNK_S) if rate_bps else CHUNK_BYTES_MAX
        self._chunk_bytes = min(max(chunk_bytes, SEGMENT_BYTES), CHUNK_BYTES_MAX)
        fitting_bytes = int(rate_bps / 8 * QUEUE_S) if rate_bps else 0
        self._limit_bytes = self._queue_bytes or max(fitting_bytes, QUEUE_BYTES_MIN)
        self._limit_bytes = max(self._limit_bytes, self._chunk_bytes)

    def _rang(self) -> None:
        self._alarm.acknowledge()
        self._pump()

    def _pump(self) -> None:
        """Hands on what is due, reads what there is room for, and sets the alarm.

        What is handed on may lead back here; the outer call then does the work, in order.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            now_ns = time.monotonic_ns()
            self._hand_on(now_ns)
            self._read(now_ns)
            self._alarm.set(self._wake_ns(now_ns), now_ns)
        finally:
            self._pumping = False

    def _hand_on(self, now_ns: int) -> None:
        for delivery in self._link.release(now_ns):
            self.lateness.record(time.monotonic_ns() - delivery.due_ns)
            if callable(delivery.packet):
                delivery.packet()
            else:
                deliver, chunk = delivery.packet
                first, end = delivery.first * SEGMENT_BYTES, delivery.end * SEGMENT_BYTES
                deliver(memoryview(chunk)[first:end])

    def _wake_ns(self, now_ns: int) -> int | None:
        wait_ns = self._link.wait_ns(now_ns)
        wakes = [] if wait_ns is None else [now_ns + wait_ns]
        if self._turns:
            room_ns = self._link.departure_ns(now_ns)
            wakes += [] if room_ns is None else [room_ns]
        return min(wakes, default=None)

    def _read(self, now_ns: int) -> None:
        turns = self._turns
        while turns and self._room_bytes(now_ns) >= self._chunk_bytes:
            source = turns.popleft()
            chunk = source.read(self._chunk_bytes)
            if chunk is None:
                continue
            self._send(now_ns, source, chunk)
            turns.append(source)

    def _room_bytes(self, now_ns: int) -> int:
        counters = self._link.counters
        line_bytes = LINE_BYTES_MAX - (counters.in_bytes - counters.out_bytes)
        return min(self._limit_bytes - self._link.queued_bytes(now_ns), line_bytes)

    def _send(self, now_ns: int, source: Source, chunk: bytes) -> None:
        segments = -(-len(chunk) // SEGMENT_BYTES)
        last_bytes = len(chunk) - (segments - 1) * SEGMENT_BYTES
        parcel = (source.deliver, chunk)
        self._link.accept(now_ns, parcel, SEGMENT_BYTES, segments, last_bytes)
