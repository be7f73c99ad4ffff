"""How fast and how long one path is, and so how many bytes to keep in flight on it.

Too few bytes in flight and the path idles; too many and they queue in front of whoever is waiting:

    rate ▲          ╭──────────────────     latency ▲                ╱
         │        ╱ :                               │              ╱ :
         │      ╱   :                               │            ╱   :
         │    ╱     :    we are here ──▶●           │──────────╯     ●
         └──────────┴───────────────────▶           └──────────┴─────────▶ bytes in flight
                   BDP = rate × base                          BDP

The target is a little to the right of the knee: `rate × (CRUISE_GAIN × base + spare)`, and a little
for ourselves. `rate` is the largest of ten rounds (`dsm.core.delivery`), each taken with the two
before it, since lanes that were held up deliver all at once; `base` is the time from a request to
its first bytes with nothing of ours before it (`dsm.core.latency`): the path and the server's
turnaround; the spare is what may be in flight beyond that without a queue in the path, as pings
tell (`dsm.core.stalls`). Rate and base follow BBR (CACM 60(2), 2017;
draft-cardwell-iccrg-bbr-congestion-control); where BBR probes, the spare grows. TCP below us
controls congestion; this decides how much is asked for, and so how much is queued where TCP waits.

    startup ─rate grew < 25 % in 3 rounds─▶ cruise               (1, where a ping was late)
      ▲ ▲                                    │  │ ▲
      │ ╰─ the rate grew twice in a row ─────╯  │ │ a request found the path clear
      │                                         ▼ │
      ╰─ the path is slower ─────────────── drain ◀─ base is 10 s old, or the rate fell

startup  the window doubles every round, within STARTUP_GAIN × what was delivered. Who reads on
         demand never fills it: there pings beside what is read tell whether it fills the path.
drain    less than the BDP, so that a request finds nothing of ours before it and its answer is a
         clear `base`. When the rate fell, less than half of it, until that answer is there: with
         the window fixed, a slower path and a longer one look alike (rate × latency = window,
         Little's law); with little in flight, only a longer path still answers late. So this says
         which of the two figures to replace. A slower path starts up from the rate that was left:
         it may have been a few bad rounds.
cruise   the target as above: a little more than the BDP, so it finds new room by itself. Where
         pings stay late although there is no spare, the base is old after a second.

Rounds that the application did not fill change nothing: they are no evidence of a smaller path.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Literal

from dsm.core.delivery import FULL, Arrival, DeliveryMeter, Trend, WindowedMax
from dsm.core.latency import BaseLatency
from dsm.core.stalls import Spare, ping_interval_s
from dsm.model import PathEstimate

Phase = Literal["startup", "drain", "cruise"]

WINDOW_BYTES_MIN = 64 << 10
"""One request worth its overhead: below it messages cost more than bytes."""

WINDOW_BYTES_INITIAL = 512 << 10
"""Sixteen lanes deliver 16 × 14 KB in their first round trip and twice that in the second: from the
start it is TCP's slow start that limits, not this."""

WINDOW_BYTES_MAX = 256 << 20
"""Default budget of what is in flight: 10 Gbit/s × 200 ms."""

SMOOTH_ROUNDS = 3
"""A lane that was held up delivers all at once when it goes on: their mean has both."""

RATE_ROUNDS = 10
"""Of the max filter, as in BBR."""

BASE_S = 10.0
"""A base is measured again when it is older, as BBR's min RTT: it costs a quarter of a round."""

BASE_DOUBTED_S = 1.0
"""...or older than this, where pings tell another."""

STARTUP_GAIN = 5.0
"""2 doubles every round, but TCP's slow start beneath is two doublings further on by the time that
a rate was seen: with 3 (BBR: 2.89) it waited for us for two rounds, with 4 for one."""

CRUISE_GAIN = 1.2
"""A demand read waits behind 0.2 RTT of queue; 1.0 would never find new room."""

DRAIN_GAIN = 0.75
"""Of the BDP: 1 would leave a queue wherever the rate is a little overestimated."""

FALL_DRAIN_GAIN = 0.5
"""The rate to go by is what one bad round showed."""

JITTER_S = 0.002
"""From arrival to next request, in an event loop that has other things to do."""

GROWTH = 1.25
"""Of the rate in a round, expected in startup; 2.0 would be perfect."""

BURST_BYTES = WINDOW_BYTES_MIN // 2
"""Of who reads on demand and never fills the window: where so much makes a ping late by half a base
(a queue may hold no more than one), it has filled the path..."""

HELD_UP_S = 0.01
"""...unless a busy process held up the ping for so long..."""

BURSTS = 2
"""...or a lost segment: two in a row, then."""

QUEUE_GAIN = 2
"""Of the BDP, with a queue of one; and a rate that short bursts told is too small by as much."""

PLATEAU_ROUNDS = 3
"""Without such growth, and startup is over (BBR): one may have been late, one limited by TCP. One
that brought a queue instead is enough (HyStart)."""


class PathEstimator:
    """One per client-node path, all lanes together; bytes are wire bytes.

    Ask for more while `in_flight_bytes < window_bytes(now)`; demand reads while they are below
    `held_bytes`. Keep messages (what arrives at a time) below a tenth of the window: one is added
    to it.
    """

    def __init__(self, *, window_bytes_max: int = WINDOW_BYTES_MAX) -> None:
        assert window_bytes_max >= WINDOW_BYTES_MIN
        self._window_bytes_max = window_bytes_max
        self._meter = DeliveryMeter()
        self._latency = BaseLatency()
        self._spare = Spare()
        self._rate = WindowedMax(RATE_ROUNDS)  # bytes per second
        self._message = WindowedMax(RATE_ROUNDS)  # bytes
        self._rtt = WindowedMax(BASE_S)  # of negated samples: a minimum
        self._phase: Phase = "startup"
        self._phase_rounds = 0
        self._phase_bytes = min(WINDOW_BYTES_INITIAL, window_bytes_max)  # startup, drain
        self._phase_rate = 0.0  # that the phase set out from
        self._plateau_rounds = 0
        self._round = 0.0
        self._round_rate = 0.0
        self._last_rounds: deque[float] = deque(maxlen=SMOOTH_ROUNDS)
        self._trend = Trend()
        self._drain_until = 0.0
        self._fell = False  # the drain is there because the rate fell
        self._drain_unpinged = False
        self._ping_due = False
        self._burst_at = float("-inf")
        self._burst_queued = False
        self._queued_bursts = 0

    def request_sent(
        self, request_id: int, bytes_expected: int, now: float, *, app_limited: bool = False
    ) -> None:
        """`app_limited`: parked, or nothing more to ask for: no evidence of a small path.

        For data that does not exist yet expect 0 bytes: it is not in flight. For compressed data
        expect what it was compressed to lately.
        """
        window_bytes = self.window_bytes(now)
        before_bytes = self._meter.in_flight_bytes
        clear = before_bytes <= window_bytes
        self._meter.request_sent(
            request_id, bytes_expected, now, parked=app_limited, window_bytes=window_bytes
        )
        if self._in_burst:
            self._burst_at = now
            if before_bytes < BURST_BYTES:
                self._burst_began()
        if self._phase == "drain" and clear:
            self._ping_due |= self._drain_unpinged
            self._drain_unpinged = False
            if not self._fell and not app_limited:
                self._enter("cruise")  # its answer will tell; those behind it need not wait

    def bytes_arrived(self, request_id: int, wire_bytes: int, now: float) -> None:
        """Some of the answer; may be called many times for a request."""
        arrival = self._meter.bytes_arrived(request_id, wire_bytes, now)
        if arrival is None:
            return
        self._message.sampled(self._round, wire_bytes)
        self._rate_sampled(arrival)
        if arrival.first_byte_s is not None and not arrival.parked:
            self._first_byte_arrived(arrival, arrival.first_byte_s, wire_bytes, now)
        if arrival.round_ended:
            self._round_ended(arrival.round_part, now)

    def request_finished(self, request_id: int, now: float) -> None:
        self._meter.forget(request_id)

    def request_abandoned(self, request_id: int, now: float) -> None:
        """Cancelled or lost; what still arrives of it counts as delivered."""
        self._meter.forget(request_id)

    def rtt_sampled(self, rtt_s: float, now: float) -> None:
        """From pings, and from the first byte of small demand reads."""
        self._rtt.sampled(now, -rtt_s)
        least_s = -self._rtt.value
        self._latency.pinged(least_s, now)
        if self._phase != "drain":
            startup = self._phase == "startup"
            self._spare.pinged(rtt_s, least_s, now, full=self._is_full(now), startup=startup)
            if startup and rtt_s - least_s > max(least_s / 2, HELD_UP_S):
                self._burst_pinged(now - rtt_s)

    def ping_interval_s(self, now: float) -> float:
        """When to send the next ping, from now: more often where a window is in flight."""
        soon = self._in_burst or self._spare.is_in_doubt
        return ping_interval_s(self._latency.base_s, loaded=self._is_full(now), soon=soon)

    def _is_full(self, now: float) -> bool:
        return self._meter.in_flight_bytes >= FULL * self.window_bytes(now)

    @property
    def _in_burst(self) -> bool:
        return self._phase == "startup" and self._meter.in_flight_bytes >= BURST_BYTES

    def take_ping_due(self) -> bool:
        """Whether to ping now: the path is drained. True once each time; ask after sending."""
        due, self._ping_due = self._ping_due, False
        return due

    def is_filled(self, now: float) -> bool:
        """The application had enough to ask for, in the last two round trips."""
        return now - self._meter.full_at <= 2 * self._latency.loaded_s

    @property
    def in_startup(self) -> bool:
        """Its rate is not known yet, or not any more: slow start is under way."""
        return self._phase == "startup"

    @property
    def in_flight_bytes(self) -> int:
        """Expected and not arrived yet, over all requests."""
        return self._meter.in_flight_bytes

    def window_bytes(self, now: float) -> int:
        """How many bytes to have in flight."""
        if self._phase == "drain" and now > self._drain_until:
            self._enter("cruise")  # nobody asks for anything: the next request finds it clear
        if self._phase == "drain":
            return self._phase_bytes
        wanted = self._phase_bytes if self._phase == "startup" else self._target_bytes()
        return min(max(wanted, WINDOW_BYTES_MIN), self._window_bytes_max)

    @property
    def held_bytes(self) -> float:
        """What the path and its queue hold, as far as is known: of more than this at once TCP loses
        the end, which costs two round trips."""
        if self._phase == "startup":
            return inf
        product = self._rate.value * self._latency.base_s
        return max(BURST_BYTES, QUEUE_GAIN * product, self._target_bytes())

    def estimate(self, now: float) -> PathEstimate:
        known = [s for s in (-self._rtt.value, self._latency.base_s) if s > 0]
        return PathEstimate(
            rate_bps=self._rate.value * 8,
            rtt_s=min(known, default=0.0),
            rtt_loaded_s=self._latency.loaded_s,
            window_bytes=self.window_bytes(now),
            phase=self._phase,
            spare_s=self._spare.spare_s,
        )

    def _target_bytes(self) -> int:
        ahead_s = CRUISE_GAIN * self._latency.base_s + JITTER_S + self._spare.spare_s
        return int(self._rate.value * ahead_s + self._message.value)

    def _rate_sampled(self, arrival: Arrival) -> None:
        evidence = not arrival.limited and self._phase != "drain"
        if evidence:
            self._round_rate = max(self._round_rate, arrival.rate)
        if arrival.round_ended:
            self._last_rounds.append(arrival.round_rate)
        if self._phase == "startup":
            rate = arrival.rate
        elif arrival.round_ended:
            rate = sum(self._last_rounds) / len(self._last_rounds)
        else:
            return
        if evidence or rate > self._rate.value:
            self._rate.sampled(self._round, rate)

    def _first_byte_arrived(
        self, arrival: Arrival, first_byte_s: float, wire_bytes: int, now: float
    ) -> None:
        if self._phase == "startup":
            self._latency.first_answered(first_byte_s, wire_bytes, now)
            return
        ahead_bytes, sent_at = arrival.ahead_bytes, arrival.sent_at
        message_s = wire_bytes / self._rate.value
        self._latency.answered(first_byte_s, message_s, ahead_bytes=ahead_bytes, sent_at=sent_at)

    def _round_ended(self, part: float, now: float) -> None:
        if self._phase == "startup":
            self._startup_round_ended(now)
        elif self._phase == "drain" and self._fell:
            self._drain_round_ended(now)
        else:
            self._latency.round_ended(now)
            self._steady_round_ended(part, now)
        if self._round_rate:
            self._round += part
        self._round_rate = 0.0

    def _startup_round_ended(self, now: float) -> None:
        if not self._round_rate:
            return
        self._spare.startup_round_ended(self._phase_bytes, self._round_rate)
        bound = max(STARTUP_GAIN * self._rate.value * self._latency.base_s, WINDOW_BYTES_INITIAL)
        doubled = min(2 * self._phase_bytes, int(bound), self._window_bytes_max)
        self._phase_bytes = max(self._phase_bytes, doubled)
        if self._rate.value >= GROWTH * self._phase_rate:
            self._phase_rate, self._plateau_rounds = self._rate.value, 0
            return
        self._plateau_rounds += 1
        free = self._spare.path_is_free(self._latency.base_s, now)
        queued = self._spare.path_is_full or (
            self._latency.loaded_s > 2 * self._latency.base_s and not free
        )
        if queued or self._plateau_rounds >= PLATEAU_ROUNDS * (1 + free):
            self._startup_ended(free=free)

    def _burst_began(self) -> None:
        self._ping_due = True
        if not self._burst_queued:  # the one before this was not
            self._queued_bursts = 0
        self._burst_queued = False

    def _burst_pinged(self, sent_at: float) -> None:
        """It met a queue. Did a burst fill the path, although it did not fill the window?"""
        if self._burst_at < sent_at - self._latency.base_s or self._meter.full_at > self._burst_at:
            return
        self._queued_bursts += not self._burst_queued
        self._burst_queued = True
        if self._queued_bursts >= BURSTS and self._rate.value:
            self._startup_ended(free=False)

    def _startup_ended(self, *, free: bool) -> None:
        base_s = self._latency.base_s
        ahead_s = CRUISE_GAIN * base_s + JITTER_S
        self._spare.startup_ended(self._rate.value, ahead_s, base_s, free=free)
        self._latency.rate_known(self._rate.value)
        self._enter("cruise")

    def _steady_round_ended(self, part: float, now: float) -> None:
        if not self._round_rate:  # the application did not fill the window: what was settled is not
            self._phase_rounds = 0
            return
        self._phase_rounds += 1
        settled = self._phase_rounds > 2  # before, the samples reach back into the phase before
        trend = settled and self._trend.round_ended(self._round_rate, self._rate.value, part)
        if trend == "fell" and not self._spare.path_is_free(self._latency.base_s, now):
            self._drain(now, gain=FALL_DRAIN_GAIN, fell=True)
        elif trend == "grew":
            self._start_again(2 * self.window_bytes(now))
        elif self._phase == "cruise" and self._base_is_old(now):
            self._drain(now, gain=DRAIN_GAIN, fell=False)

    def _base_is_old(self, now: float) -> bool:
        age_s = now - self._latency.measured_at
        return age_s > (BASE_DOUBTED_S if self._spare.late_for_long else BASE_S)

    def _drain(self, now: float, *, gain: float, fell: bool) -> None:
        self._fell, self._drain_unpinged = fell, True
        self._enter("drain")
        self._phase_rate = self._round_rate
        self._phase_bytes = max(1, int(gain * self._round_rate * self._latency.base_s))
        self._drain_until = now + 4 * self._latency.loaded_s + 0.1  # to empty it, and a margin
        self._latency.expect_clear(self._phase_bytes, since=now)

    def _drain_round_ended(self, now: float) -> None:
        """The rate fell, and now a request found the path clear: is the path slower, or longer?"""
        before_s = self._latency.base_s
        if self._latency.clear_s:
            self._latency.replaced(now)
            if self._latency.base_s <= GROWTH * before_s:
                self._rate.reset(self._round, self._phase_rate)
                self._start_again(self._target_bytes())
            else:
                self._rtt.reset(now, -self._latency.base_s)  # pings of before are another path's
                self._enter("cruise")
        self._latency.forget_round()

    def _start_again(self, window_bytes: int) -> None:
        self._phase_bytes = window_bytes
        self._phase_rate, self._plateau_rounds = self._rate.value, 0
        self._enter("startup")

    def _enter(self, phase: Phase) -> None:
        self._phase, self._phase_rounds = phase, 0
        self._trend = Trend()
