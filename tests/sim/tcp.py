"""A simple TCP, from node to client, over the pure link model of `dsm_netem`, in virtual time.

    application ─ next_message ─▶ send buffer ─▶ [ congestion window ] ─▶ ▒▒▒ Link ─▶ client
                                                        ▲                              │
                                                        ╰──── acks, rtt/2 later ◀──────╯

What it has, since reads over long paths stand or fall by it:

- an initial window of 10 segments (RFC 6928), and slow start that ends where acks come late
  (HyStart) or at a loss
- `cubic` (RFC 9438), without fast convergence; `bbr`: the rate as the maximum of ten rounds,
  paced by the eight gains, window twice the BDP, blind to loss (BBRv1, without PROBE_RTT), but
  start-up ends where a fiftieth of a round is lost (BBRv3)
- every segment has its own chance of loss, and what overflows the link's queue is lost; what is
  lost arrives one round trip later, and until then all that was sent after it waits
  (head-of-line blocking). At the end of a burst a loss is noticed by a probe, two round trips
  later (RFC 8985)
- a window grows only where it was the limit (RFC 7661)
- a send buffer of one more congestion window, as Linux tunes it: what the node has written there
  nothing can overtake any more

What it has not: handshakes (a session that was opened before), limits of the socket, restart
after idle, delayed acks, and losses on the way to the node. A chunk of a sixteenth of the window is
one event, not a packet, so that 10 Gbit/s can be afforded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol

from dsm_netem.config import LinkConfig
from dsm_netem.link import Delivery, Link

from tests.sim.clock import NS_PER_S, Clock

Control = Literal["cubic", "bbr"]

MSS = 1448
OVERHEAD_BYTES = 52
INITIAL_WINDOW_BYTES = 10 * MSS
CHUNKS_PER_WINDOW = 16

CUBIC_BETA = 0.7
CUBIC_C = 0.4  # segments per s³
HYSTART_ACKS = 4
BBR_STARTUP_GAIN = 2.885
BBR_GAINS = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
BBR_ROUNDS = 10
BBR_LOSS = 0.02


class Message(Protocol):
    """What the application sends: it has a size and is told when all of it is there."""

    @property
    def wire_bytes(self) -> int: ...

    def arrived(self) -> None: ...


@dataclass(slots=True, eq=False)
class Packet:
    """Bytes [start, stop) of a connection's stream, cut into segments."""

    sender: Connection
    start: int
    stop: int
    sent_ns: int
    delivered: int
    delivered_ns: int
    limited: bool
    number: int
    at: int  # so far its segments have arrived, or are known to be lost


class Downlink:
    """The bottleneck that all connections of one session share."""

    def __init__(self, clock: Clock, config: LinkConfig, seed: int) -> None:
        self.clock = clock
        self.link: Link[Packet] = Link(config, Random(seed))
        self.delay_ns = round(config.delay_s * NS_PER_S)
        """Also of the way back, which is never full."""
        self._wake_ns = 1 << 62

    def change(self, **updates: float) -> None:
        self.link.change(self.clock.now_ns, updates)
        self.delay_ns = round(self.link.config.delay_s * NS_PER_S)
        self._schedule()

    def send(self, packet: Packet) -> None:
        size = packet.stop - packet.start
        segments = -(-size // MSS)
        self.link.accept(
            self.clock.now_ns, packet, MSS, segments, last_bytes=size - (segments - 1) * MSS
        )
        self._schedule()

    def _schedule(self) -> None:
        wait_ns = self.link.wait_ns(self.clock.now_ns)
        if wait_ns is None:
            return
        wake_ns = self.clock.now_ns + wait_ns
        if wake_ns < self._wake_ns:
            self._wake_ns = wake_ns
            self.clock.at(wake_ns, self._wake)

    def _wake(self) -> None:
        if self.clock.now_ns < self._wake_ns:
            return
        self._wake_ns = 1 << 62
        for delivery in self.link.release(self.clock.now_ns):
            delivery.packet.sender.delivery(delivery)
        self._schedule()

    def queue_s(self) -> float:
        """How long what waits for the link will take."""
        rate = self.link.config.rate_bps
        return self.link.queued_bytes(self.clock.now_ns) * 8 / rate if rate else 0.0


class Connection:
    """One lane's TCP connection in the direction that has the data."""

    def __init__(
        self,
        downlink: Downlink,
        control: Control,
        next_message: Callable[[], Message | None],
    ) -> None:
        self._downlink = downlink
        self._clock = downlink.clock
        self._next_message = next_message
        self._control = Cubic() if control == "cubic" else Bbr()
        # the sender
        self._written = 0
        self._sent = 0
        self._limited_until = 0
        self._again: deque[tuple[int, int]] = deque()
        self._pipe = 0
        self._packets = 0
        self._recovered_at = 0
        self._delivered = 0
        self._delivered_ns = 0
        self._srtt_s = 2 * downlink.delay_ns / NS_PER_S  # of the handshake
        self._progress_ns = 0
        self._timer = False
        self._paced = False
        self._next_ns = 0
        # the receiver
        self._frames: deque[tuple[int, Message]] = deque()
        self._transit: deque[Packet] = deque()
        self._frontier = 0
        self._early: list[tuple[int, int]] = []

    @property
    def window_bytes(self) -> float:
        return self._control.window_bytes

    # ── sender ──

    def pump(self) -> None:
        """Send what there is to send, as far as the window goes."""
        while True:
            self._fill()
            if not self._again and self._sent == self._written:
                return
            window = self._control.window_bytes
            if self._pipe >= window:
                self._control.was_limit = True
                return
            if self._clock.now_ns < self._next_ns:
                self._pace()
                return
            chunk = max(2 * MSS, int(window / CHUNKS_PER_WINDOW) // MSS * MSS)
            self._send_chunk(min(chunk, max(1, -(-int(window - self._pipe) // MSS)) * MSS))

    def _fill(self) -> None:
        """As `tcp_rate_check_app_limited` of Linux: what is sent from now on, until what is under
        way has arrived, was limited by the application, if that had nothing more to send."""
        idle = self._sent == self._written and not self._again
        if idle and self._pipe < self._control.window_bytes:
            self._limited_until = self._delivered + self._pipe + 1
        while self._written - self._sent < self._control.window_bytes:
            message = self._next_message()
            if message is None:
                return
            self._written += message.wire_bytes
            self._frames.append((self._written, message))

    def _send_chunk(self, size: int) -> None:
        if self._again:
            start, stop = self._again.popleft()
            if stop - start > size:
                self._again.appendleft((start + size, stop))
                stop = start + size
        else:
            start, stop = self._sent, min(self._sent + size, self._written)
            self._sent = stop
        now_ns = self._clock.now_ns
        if not self._pipe:
            self._delivered_ns = now_ns
        limited = self._delivered < self._limited_until
        packet = Packet(
            self, start, stop, now_ns, self._delivered, self._delivered_ns, limited,
            self._packets, start,
        )  # fmt: skip
        self._packets += 1
        self._pipe += stop - start
        self._transit.append(packet)
        self._progress_ns = now_ns
        pacing = self._control.pacing_rate
        if pacing:
            self._next_ns = max(self._next_ns, now_ns) + int((stop - start) / pacing * NS_PER_S)
        self._downlink.send(packet)
        self._watch()

    def _pace(self) -> None:
        if not self._paced:
            self._paced = True
            self._clock.at(self._next_ns, self._paced_out)

    def _paced_out(self) -> None:
        self._paced = False
        self.pump()

    def _acked(self, packet: Packet, size: int, lost: list[tuple[int, int]], epoch: int) -> None:
        now_ns = self._clock.now_ns
        self._pipe -= size
        self._delivered += size
        self._delivered_ns = self._progress_ns = now_ns
        rtt_s = (now_ns - packet.sent_ns) / NS_PER_S
        self._srtt_s += (rtt_s - self._srtt_s) / 8
        if lost:
            self._lose(lost)
            if epoch >= self._recovered_at:
                self._recovered_at = self._packets
                self._control.lost(now_ns / NS_PER_S)
            self._control.bytes_lost += sum(stop - start for start, stop in lost)
        else:
            span_s = (now_ns - packet.delivered_ns) / NS_PER_S
            rate = (self._delivered - packet.delivered) / span_s if span_s else 0.0
            round_ended = self._control.acked(
                size, rtt_s, rate, packet, self._delivered, self._pipe, now_ns / NS_PER_S
            )
            if round_ended:
                self._control.was_limit = False
        self.pump()

    def _lose(self, lost: list[tuple[int, int]]) -> None:
        for start, stop in lost:
            self._pipe -= stop - start
            self._again.append((start, stop))

    def _watch(self) -> None:
        if not self._timer:
            self._timer = True
            self._clock.after(self._patience_ns(), self._timed_out)

    def _patience_ns(self) -> int:
        return int((2 * self._srtt_s + 0.01 + self._downlink.queue_s()) * NS_PER_S)

    def _timed_out(self) -> None:
        """Two round trips without an ack: what should have arrived has not."""
        self._timer = False
        if not self._pipe:
            return
        due_ns = self._progress_ns + self._patience_ns()
        if self._clock.now_ns >= due_ns:
            self._progress_ns = self._clock.now_ns
            lost = [(p.at, p.stop) for p in self._transit if p.at < p.stop]
            self._transit.clear()
            self._lose(lost)
            self.pump()
        if not self._timer and self._pipe:
            self._timer = True
            self._clock.at(max(due_ns, self._progress_ns + self._patience_ns()), self._timed_out)

    # ── receiver ──

    def delivery(self, delivery: Delivery[Packet]) -> None:
        packet = delivery.packet
        start = packet.start + delivery.first * MSS
        stop = min(packet.start + delivery.end * MSS, packet.stop)
        self._received(start, stop)
        if not self._transit or packet.number < self._transit[0].number:
            return  # the sender has given it up, and it comes after all
        lost, epoch = self._found_lost(packet, start, stop)
        self._clock.after(
            self._downlink.delay_ns, lambda: self._acked(packet, stop - start, lost, epoch)
        )

    def _found_lost(
        self, packet: Packet, start: int, stop: int
    ) -> tuple[list[tuple[int, int]], int]:
        """The link keeps order: what was sent before this and has not come will not come."""
        lost: list[tuple[int, int]] = []
        epoch = -1
        transit = self._transit
        while transit[0] is not packet:
            gone = transit.popleft()
            if gone.at < gone.stop:
                lost.append((gone.at, gone.stop))
                epoch = gone.number
        if packet.at < start:
            lost.append((packet.at, start))
            epoch = packet.number
        packet.at = stop
        if stop == packet.stop:
            transit.popleft()
        return lost, epoch

    def _received(self, start: int, stop: int) -> None:
        if start > self._frontier:
            self._early.append((start, stop))
            return
        self._frontier = max(self._frontier, stop)
        if self._early:
            self._early.sort()
            while self._early and self._early[0][0] <= self._frontier:
                self._frontier = max(self._frontier, self._early.pop(0)[1])
        frames = self._frames
        while frames and frames[0][0] <= self._frontier:
            frames.popleft()[1].arrived()


class Cubic:
    """RFC 9438, with HyStart's delay signal (Ha and Rhee, 2011) to end slow start."""

    pacing_rate = 0.0

    def __init__(self) -> None:
        self.window_bytes: float = INITIAL_WINDOW_BYTES
        self.was_limit = False
        self.bytes_lost = 0
        self._threshold = float("inf")
        self._top = 0.0  # segments
        self._epoch = 0.0
        self._acked_at = 0.0
        self._least_s = float("inf")
        self._round_least_s = float("inf")
        self._round_from = 0
        self._round_acks = 0

    def acked(
        self,
        size: int,
        rtt_s: float,
        rate: float,
        packet: Packet,
        delivered: int,
        pipe: int,
        now: float,
    ) -> bool:
        self._least_s = min(self._least_s, rtt_s)
        round_ended = packet.delivered >= self._round_from
        self._round_least_s = min(self._round_least_s, rtt_s)
        self._round_acks += 1
        if not self.was_limit:
            self._epoch += now - self._acked_at
        elif self.window_bytes < self._threshold:
            self.window_bytes += size
            late_s = self._least_s + min(max(self._least_s / 8, 0.004), 0.016)
            if self._round_acks == HYSTART_ACKS and self._round_least_s > late_s:
                self._threshold = self.window_bytes
                self._begin(self.window_bytes / MSS, now)
        else:
            self._avoid(now, rtt_s)
        self._acked_at = now
        if round_ended:
            self._round_from, self._round_acks = delivered, 0
            self._round_least_s = float("inf")
        return round_ended

    def lost(self, now: float) -> None:
        self._begin(self.window_bytes / MSS, now)
        self.window_bytes = self._threshold = max(self.window_bytes * CUBIC_BETA, 2 * MSS)

    def _begin(self, top: float, now: float) -> None:
        self._top, self._epoch = top, now

    def _avoid(self, now: float, rtt_s: float) -> None:
        low = self._threshold / MSS
        k = (max(0.0, self._top - low) / CUBIC_C) ** (1 / 3)
        since = now - self._epoch
        cubic = self._top + CUBIC_C * (since + rtt_s - k) ** 3
        reno = low + 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA) * since / rtt_s
        wanted = max(cubic, reno) * MSS
        self.window_bytes = max(self.window_bytes, min(wanted, 1.5 * self.window_bytes))


class Bbr:
    """BBRv1 without PROBE_RTT: the largest rate of ten rounds, and the smallest round trip."""

    def __init__(self) -> None:
        self.window_bytes: float = INITIAL_WINDOW_BYTES
        self.pacing_rate = 0.0
        self.was_limit = False
        self.bytes_lost = 0
        self._rates: deque[tuple[int, float]] = deque()
        self._least_s = float("inf")
        self._round = 0
        self._round_from = 0
        self._full = False
        self._draining = False
        self._plateau = (0.0, 0)
        self._cycle_at = 0.0
        self._cycle = 0

    def acked(
        self,
        size: int,
        rtt_s: float,
        rate: float,
        packet: Packet,
        delivered: int,
        pipe: int,
        now: float,
    ) -> bool:
        self._least_s = min(self._least_s, rtt_s)
        round_ended = packet.delivered >= self._round_from
        if round_ended:
            overflowed = self.bytes_lost > BBR_LOSS * (delivered - self._round_from)
            if overflowed and not self._full:
                self._full = self._draining = True
            self._round_from, self.bytes_lost = delivered, 0
            self._round += 1
        if not packet.limited or rate > self._rate:
            self._sampled(rate)
        if round_ended and not self._full and not packet.limited:
            self._check_full()
        self._decide(size, pipe, now)
        return round_ended

    def lost(self, now: float) -> None:
        """What random loss there is, is no sign of congestion."""

    @property
    def _rate(self) -> float:
        return self._rates[0][1] if self._rates else 0.0

    def _sampled(self, rate: float) -> None:
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((self._round, rate))
        while self._rates[0][0] <= self._round - BBR_ROUNDS:
            self._rates.popleft()

    def _check_full(self) -> None:
        rate, rounds = self._plateau
        if self._rate >= 1.25 * rate:
            self._plateau = (self._rate, 0)
            return
        self._plateau = (rate, rounds + 1)
        self._full = rounds + 1 >= 3
        self._draining = self._full

    def _decide(self, size: int, pipe: int, now: float) -> None:
        bdp = self._rate * self._least_s
        self._draining = self._draining and pipe > bdp
        if not self._full:
            first = INITIAL_WINDOW_BYTES / self._least_s  # Linux: not below this in startup
            self.pacing_rate = BBR_STARTUP_GAIN * max(self._rate, first)
            self.window_bytes = max(
                min(self.window_bytes + size, BBR_STARTUP_GAIN * bdp + 3 * MSS), self.window_bytes
            )
            return
        self.window_bytes = max(2 * bdp, 4 * MSS)
        if self._draining:
            self.pacing_rate = self._rate / BBR_STARTUP_GAIN
            return
        if now - self._cycle_at > self._least_s:
            self._cycle_at, self._cycle = now, (self._cycle + 1) % len(BBR_GAINS)
        self.pacing_rate = BBR_GAINS[self._cycle] * self._rate
