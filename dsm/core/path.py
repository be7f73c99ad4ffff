"""How fast and how long one path is, and so how many bytes to keep in flight on it.

Too few bytes in flight and the path idles; too many and they queue in front of whoever is waiting:

    rate ▲          ╭──────────────────     latency ▲                ╱
         │        ╱ :                               │              ╱ :
         │      ╱   :                               │            ╱   :
         │    ╱     :    we are here ──▶●           │──────────╯     ●
         └──────────┴───────────────────▶           └──────────┴─────────▶ bytes in flight
                   BDP = rate × base                          BDP

The target is a little to the right of the knee: `rate × (CRUISE_GAIN × base + margin + spare)`, and
one message. `rate` is the largest of ten rounds (`dsm.core.delivery`), each taken with the one
before it, since lanes that were held up deliver all at once; `base` is the time from a request to
its first bytes with nothing of ours before it (`dsm.core.latency`): the path and the server's
turnaround; the spare is there where lanes stall (`dsm.core.stalls`). Both figures follow BBR (CACM
60(2), 2017; draft-cardwell-iccrg-bbr-congestion-control). TCP below us controls congestion; this
decides how much is asked for, and so how much is queued where TCP waits.

    startup ─rate grew < 25 % in 3 rounds─▶ cruise ⇄ probe       (1, where a ping was late)
       ▲                                       │ │ ▲
       ╰─── the rate grew twice in a row ──────╯ │ │ a request found the path clear
                                                 ▼ │
                     base is 10 s old ─────────▶ drain
                     or the rate fell

startup  the window doubles every round, within STARTUP_GAIN × what was delivered.
drain    less than the BDP, so that a request finds nothing of ours before it and its answer is a
         clear `base`. When the rate fell, less than half of it, until that answer is there: with
         the window fixed, a slower path and a longer one look alike (rate × latency = window,
         Little's law); with little in flight, only a longer path still answers late. So this says
         which of the two figures to replace.
cruise   the target as above: a little more than the BDP, so it finds new room by itself.
probe    every eighth round, where pings are prompt, a fifth more for two rounds. If the rate
         follows the window, then no queue was there, and window ÷ rate is what a round really
         takes: what it exceeds the base by is the margin. It holds what no clear request shows: an
         event loop that is late, jitter. Probes that bring nothing wear it down, and a late ping
         halves it: what is too much stands in the path's queue. Without a margin the window
         collapses where latency varies: less in flight, a lower rate, so less in flight.

Rounds that the application did not fill change nothing: they are no evidence of a smaller path.
"""

from __future__ import annotations

from typing import Literal

from dsm.core.delivery import FULL, Arrival, DeliveryMeter, Trend, WindowedMax
from dsm.core.latency import BaseLatency
from dsm.core.stalls import Spare, ping_interval_s
from dsm.model import PathEstimate

Phase = Literal["startup", "drain", "cruise", "probe"]

WINDOW_BYTES_MIN = 64 << 10
"""One request worth its overhead: below it messages cost more than bytes."""

WINDOW_BYTES_INITIAL = 512 << 10
"""Four lanes deliver 4 × 14 KB in their first round trip and twice that in the second: from the
start it is TCP's slow start that limits, not this. And the headers of some thousand blocks fit."""

WINDOW_BYTES_MAX = 256 << 20
"""Default budget of what is in flight: 10 Gbit/s × 200 ms."""

RATE_ROUNDS = 10
"""Of the max filter, as in BBR: longer than a probe cycle, so that its best round is remembered."""

BASE_S = 10.0
"""A base is measured again when it is older, as BBR's min RTT: it costs a quarter of a round."""

STARTUP_GAIN = 5.0
"""2 doubles every round, but TCP's slow start beneath is two doublings further on by the time that
a rate was seen: with 3 (BBR: 2.89) it waited for us for two rounds, with 4 for one."""

CRUISE_GAIN = 1.2
"""A demand read waits behind 0.2 RTT of queue; 1.0 would never find new room."""

PROBE_GAIN = 1.2
"""With the cruise gain 1.44: a demand read never waits more than half a round trip."""

DRAIN_GAIN = 0.75
"""Of the BDP: 1 would leave a queue wherever the rate is a little overestimated."""

FALL_DRAIN_GAIN = 0.5
"""The rate to go by is what one bad round showed."""

JITTER_S = 0.002
"""The least margin: from arrival to next request in an event loop that has other things to do."""

MARGIN_BASES_MAX = 3.0
"""Of the base: beyond that it is not latency which varies."""

MARGIN_DECAY = 0.9
"""A probe without profit: in ten of them (100 rounds) two thirds of the margin are gone."""

GROWTH = 1.25
"""Of the rate in a round, expected in startup; 2.0 would be perfect."""

PLATEAU_ROUNDS = 3
"""Without such growth, and startup is over (BBR): one may have been late, one limited by TCP. One
that brought a queue instead is enough (HyStart)."""

PROBE_ROUNDS = 8
"""Between probes, as in BBR: the rate filter remembers the last one."""

PROBE_GROWTH = 1.1
"""Half of PROBE_GAIN: the rate followed the window."""


class PathEstimator:
    """One per client-node path, all lanes together; bytes are wire bytes.

    Ask for more while `in_flight_bytes < window_bytes(now)`; a demand read need not ask. Keep
    messages (what arrives at a time) below a tenth of the window: one is added to it.
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
        self._margin_s = JITTER_S
        self._phase: Phase = "startup"
        self._phase_rounds = 0
        self._phase_bytes = min(WINDOW_BYTES_INITIAL, window_bytes_max)  # startup, drain, probe
        self._phase_rate = 0.0  # that the phase set out from
        self._plateau_rounds = 0
        self._round = 0
        self._round_rate = 0.0
        self._last_round_rate = 0.0
        self._trend = Trend()
        self._drain_until = 0.0
        self._fell = False  # the drain is there because the rate fell

    def request_sent(
        self, request_id: int, bytes_expected: int, now: float, *, app_limited: bool = False
    ) -> None:
        """`app_limited`: parked, or nothing more to ask for: no evidence of a small path.

        For data that does not exist yet expect 0 bytes: it is not in flight. For compressed data
        expect what it was compressed to lately.
        """
        window_bytes = self.window_bytes(now)
        clear = self._meter.in_flight_bytes <= window_bytes
        self._meter.request_sent(
            request_id, bytes_expected, now, parked=app_limited, window_bytes=window_bytes
        )
        if self._phase == "drain" and not self._fell and clear and not app_limited:
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
            self._round_ended(now)

    def request_finished(self, request_id: int, now: float) -> None:
        self._meter.forget(request_id)

    def request_abandoned(self, request_id: int, now: float) -> None:
        """Cancelled or lost; what still arrives of it counts as delivered."""
        self._meter.forget(request_id)

    def rtt_sampled(self, rtt_s: float, now: float) -> None:
        """From pings, and from the first byte of small demand reads."""
        self._rtt.sampled(now, -rtt_s)
        self._latency.pinged(-self._rtt.value, now)
        if self._phase != "drain":
            full = self._meter.in_flight_bytes >= FULL * self.window_bytes(now)
            spare = full and self._phase != "startup"
            prompt = self._spare.pinged(rtt_s, -self._rtt.value, now, full=spare)
            if full and not prompt:  # what is in flight beyond the product is in its queue
                self._margin_s = max(self._margin_s / 2, JITTER_S)

    def ping_interval_s(self, now: float) -> float:
        """When to send the next ping, from now: more often where a window is in flight."""
        loaded = self._meter.in_flight_bytes >= FULL * self.window_bytes(now)
        startup = self._phase == "startup"
        return ping_interval_s(self._latency.base_s, loaded=loaded, startup=startup)

    def is_filled(self, now: float) -> bool:
        """The application had enough to ask for, in the last two round trips."""
        return now - self._meter.full_at <= 2 * self._latency.loaded_s

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

    def estimate(self, now: float) -> PathEstimate:
        known = [s for s in (-self._rtt.value, self._latency.base_s) if s > 0]
        return PathEstimate(
            rate_bps=self._rate.value * 8,
            rtt_s=min(known, default=0.0),
            rtt_loaded_s=self._latency.loaded_s,
            window_bytes=self.window_bytes(now),
            phase=self._phase,
        )

    def _target_bytes(self) -> int:
        ahead_s = CRUISE_GAIN * self._latency.base_s + self._margin_s + self._spare.spare_s
        gain = PROBE_GAIN if self._phase == "probe" else 1.0
        return int(gain * (self._rate.value * ahead_s + self._message.value))

    def _rate_sampled(self, arrival: Arrival) -> None:
        evidence = not arrival.limited and self._phase != "drain"
        if evidence:
            self._round_rate = max(self._round_rate, arrival.rate)
        if self._phase == "startup":
            rate = arrival.rate
        elif arrival.round_ended:  # lanes that were held up deliver all at once: look at two rounds
            rate = (arrival.round_rate + (self._last_round_rate or arrival.round_rate)) / 2
            self._last_round_rate = arrival.round_rate
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

    def _round_ended(self, now: float) -> None:
        if self._phase == "startup":
            self._startup_round_ended(now)
        elif self._phase == "drain" and self._fell:
            self._drain_round_ended(now)
        else:
            self._latency.round_ended(now)
            self._steady_round_ended(now)
        self._round += bool(self._round_rate)
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
            if free:
                ahead_s = CRUISE_GAIN * self._latency.base_s + self._margin_s
                self._spare.startup_ended(self._rate.value, ahead_s, self._latency.base_s)
            self._latency.rate_known(self._rate.value)
            self._enter("cruise")

    def _steady_round_ended(self, now: float) -> None:
        if not self._round_rate:  # the application did not fill the window: what was settled is not
            self._phase_rounds = 0
            return
        self._phase_rounds += 1
        settled = self._phase_rounds > 2  # before, the samples reach back into the phase before
        trend = settled and self._trend.round_ended(self._round_rate, self._rate.value)
        if trend == "fell" and not self._spare.path_is_free(self._latency.base_s, now):
            self._drain(now, gain=FALL_DRAIN_GAIN, fell=True)
        elif trend == "grew":
            self._start_again(now)
        elif self._phase == "cruise" and now - self._latency.measured_at > BASE_S:
            self._drain(now, gain=DRAIN_GAIN, fell=False)
        elif self._phase == "probe" and self._phase_rounds >= 2:
            self._probed(now)
        elif self._phase_rounds >= PROBE_ROUNDS and not self._spare.path_is_full:
            self._probe(now)

    def _probe(self, now: float) -> None:
        self._phase_rate = self._round_rate
        self._enter("probe")
        self._phase_bytes = self.window_bytes(now)

    def _probed(self, now: float) -> None:
        free = self._spare.path_is_free(self._latency.base_s, now)
        if self._round_rate < PROBE_GROWTH * self._phase_rate or not free:
            self._margin_s = max(MARGIN_DECAY * self._margin_s, JITTER_S)
            self._enter("cruise")
            return
        round_s = (self._phase_bytes - self._message.value) / self._round_rate
        margin_s = min(round_s - self._latency.base_s, MARGIN_BASES_MAX * self._latency.base_s)
        self._margin_s = max(self._margin_s, margin_s)
        self._probe(now)

    def _drain(self, now: float, *, gain: float, fell: bool) -> None:
        self._fell = fell
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
            self._enter("cruise")
        self._latency.forget_round()

    def _start_again(self, now: float) -> None:
        self._phase_bytes = 2 * self.window_bytes(now)
        self._phase_rate, self._plateau_rounds = self._rate.value, 0
        self._enter("startup")

    def _enter(self, phase: Phase) -> None:
        self._phase, self._phase_rounds = phase, 0
        self._trend = Trend()
