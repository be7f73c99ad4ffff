"""A path in virtual time for the estimator: requests out, a server, one FIFO link, messages back.

    client ──rtt/2──▶ server ──turnaround──▶ [ tcp window ] ──▶ ▒▒▒ FIFO ──rate──▶ ──rtt/2──▶ client

`rate` (bytes/s) and `rtt` (s) are functions of time. The queue is unbounded: what the estimator
asks for too much stands in it, and `queue_s` shows it. With `initial_cwnd_bytes` the sender
slow-starts: it may have so much unacknowledged, and each acknowledged byte adds one.
Deterministic: equal runs are equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from dsm.core.path import PathEstimator

Figure = Callable[[float], float]
SEGMENT_BYTES = 16 << 10


def steady(value: float) -> Figure:
    return lambda _: value


def step(before: float, after: float, at_s: float) -> Figure:
    return lambda t: before if t < at_s else after


@dataclass
class Message:
    request_id: int
    size: int
    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.size


@dataclass
class Link:
    """The server's side and the link: `asked` says what it is to send, `run` calls `arrived`."""

    rate: Figure
    rtt: Figure
    turnaround: Figure = lambda _: 0.0
    initial_cwnd_bytes: int = 0
    free_at: float = 0.0
    arrived_at: float = 0.0
    cwnd: float = 0.0
    unacked: int = 0
    backlog: deque[Message] = field(default_factory=deque)
    events: list[tuple[float, int, Callable[[float], None]]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.cwnd = self.initial_cwnd_bytes or float("inf")

    def at(self, when: float, do: Callable[[float], None]) -> None:
        self.count += 1
        heappush(self.events, (when, self.count, do))

    def asked(
        self, messages: list[Message], now: float, arrived: Callable[[Message, float], None]
    ) -> None:
        def serve(now: float) -> None:
            self.backlog.extend(messages)
            self.send(now, arrived)

        self.at(now + self.rtt(now) / 2 + self.turnaround(now), serve)

    def send(self, now: float, arrived: Callable[[Message, float], None]) -> None:
        while self.backlog and self.unacked < self.cwnd:
            message = self.backlog[0]
            size = message.left if self.cwnd == float("inf") else min(message.left, SEGMENT_BYTES)
            message.left -= size
            if not message.left:
                self.backlog.popleft()
            self.free_at = max(self.free_at, now)
            self.free_at += size / self.rate(self.free_at)
            arrives_at = self.free_at + self.rtt(self.free_at) / 2
            self.arrived_at = arrives_at = max(arrives_at, self.arrived_at)  # in order
            if not message.left:
                self.at(arrives_at, lambda now, m=message: arrived(m, now))  # type: ignore[misc]
            if self.cwnd != float("inf"):
                self.unacked += size
                acked_at = arrives_at + self.rtt(arrives_at) / 2
                self.at(acked_at, lambda now, n=size: self.acked(n, now, arrived))  # type: ignore[misc]

    def acked(self, size: int, now: float, arrived: Callable[[Message, float], None]) -> None:
        self.unacked -= size
        self.cwnd += size
        self.send(now, arrived)

    def queue_s(self, now: float) -> float:
        return max(0.0, self.free_at - now)


@dataclass
class Reader:
    """Keeps the window full, as a puller does; `may_ask(now, bytes_asked)` limits it."""

    link: Link
    path: PathEstimator = field(default_factory=PathEstimator)
    message_bytes: int = 64 << 10
    messages_per_request: int = 1
    may_ask: Callable[[float, int], bool] = lambda _now, _asked: True
    delay: Figure = lambda _: 0.0  # from arrival to the next request: a busy event loop
    on_demand: bool = False  # nothing more is to be read
    asked_bytes: int = 0
    log: list[tuple[float, int, float, int]] = field(default_factory=list)
    """(time, delivered bytes, queue, window) at every arrival."""
    delivered: int = 0
    requests: int = 0
    pings: int = 0
    left: dict[int, int] = field(default_factory=dict)

    def run(self, until: float) -> Reader:
        if not self.log:
            self.log.append((0.0, 0, 0.0, self.path.window_bytes(0.0)))
            self.ask(0.0)
            self.ping(0.0)
        events = self.link.events
        while events and events[0][0] <= until:
            now, _, do = heappop(events)
            do(now)
        return self

    def ask(self, now: float) -> None:
        size = self.message_bytes * self.messages_per_request
        while self.path.in_flight_bytes < self.path.window_bytes(now) and self.may_ask(
            now, self.asked_bytes
        ):
            self.requests += 1
            self.asked_bytes += size
            request_id, self.left[self.requests] = self.requests, size
            self.path.request_sent(request_id, size, now, app_limited=self.on_demand)
            if self.path.take_ping_due():
                self.ping(now)
            parts = [
                Message(request_id, self.message_bytes) for _ in range(self.messages_per_request)
            ]
            self.link.asked(parts, now, self.arrived)

    def ping(self, sent_at: float) -> None:
        rtt_s = self.link.rtt(sent_at) + self.link.queue_s(sent_at) + self.delay(sent_at)

        def answered(now: float) -> None:
            self.pings += 1
            number = self.pings
            self.path.rtt_sampled(rtt_s, now)
            self.link.at(
                now + self.path.ping_interval_s(now),
                lambda now: self.ping(now) if number == self.pings else None,
            )

        self.link.at(sent_at + rtt_s, answered)

    def arrived(self, message: Message, now: float) -> None:
        self.delivered += message.size
        self.path.bytes_arrived(message.request_id, message.size, now)
        self.left[message.request_id] -= message.size
        if not self.left[message.request_id]:
            del self.left[message.request_id]
            self.path.request_finished(message.request_id, now)
        self.log.append((now, self.delivered, self.link.queue_s(now), self.path.window_bytes(now)))
        delay_s = self.delay(now)
        if delay_s:
            self.link.at(now + delay_s, self.ask)
        else:
            self.ask(now)

    # -- what came of it

    def delivered_by(self, when: float) -> int:
        from bisect import bisect_right

        return self.log[bisect_right(self.log, when, key=lambda row: row[0]) - 1][1]

    def rate(self, start: float, stop: float) -> float:
        """Mean goodput over `[start, stop]`, in bytes per second."""
        return (self.delivered_by(stop) - self.delivered_by(start)) / (stop - start)

    def queues_s(self, start: float, stop: float) -> list[float]:
        return sorted(row[2] for row in self.log if start <= row[0] <= stop)

    def reaches(self, rate: float, *, since: float, over: float) -> float:
        """When goodput over the interval `over` first is `rate`, seconds after `since`."""
        when = since
        while when < self.log[-1][0]:
            if self.rate(when, when + over) >= rate:
                return when - since
            when += over / 8
        return float("inf")
