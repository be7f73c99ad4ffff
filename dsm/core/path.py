"""How fast and how long one path is, and so how many bytes to keep in flight on it.

Too few bytes in flight and the path idles; too many and they queue in front of whoever is waiting:

    rate ▲          ╭──────────────────     latency ▲                ╱
         │        ╱ :                               │              ╱ :
         │      ╱   :                               │            ╱   :
         │    ╱     :    we are here ──▶●           │──────────╯     ●
         └──────────┴───────────────────▶           └──────────┴─────────▶ bytes in flight
                   BDP = rate × base                          BDP

The target is a little to the right of the knee: `rate × (CRUISE_GAIN × base + margin)` and one
message. `rate` is the largest delivery rate of the last ten rounds (`dsm.core.delivery`); `base` is
the time from a request to its first bytes when nothing of ours stands before it, so it holds the
server's turnaround as well as the path. Both follow BBR ("BBR: Congestion-Based Congestion
Control", CACM 60(2), 2017; draft-cardwell-iccrg-bbr-congestion-control); TCP below us controls the
congestion, this decides only how much is asked for, and so how much is queued where TCP waits.

    startup ──rate grew < 25 % in 3 rounds──▶ drain ──clean base──▶ cruise ⇄ probe
       ▲                                        ▲                     │ │
       │                                        ╰── base is 10 s old, ╯ │
       │                                            or the rate fell    │
       ╰───────────────────── the rate grew twice in a row ─────────────╯

startup  the window doubles every round, within STARTUP_GAIN × what was delivered.
drain    less than half of the BDP for one round. With the window fixed, a slower path and a longer
         one look alike (rate × latency = window, Little's law). With little in flight they do
         not: a longer path still answers late. So this measures `base`, and after a fall of the
         rate it says which of the two it was, and so which of the two figures to replace.
cruise   the target as above: a little more than the BDP, so it finds new room by itself.
probe    every eighth round a fifth more for two rounds. If the rate follows the window, then no
         queue was there, and window ÷ rate is what a round really takes (Little's law again):
         what it exceeds the base by is the margin. It holds what no clean request shows: an event
         loop that is late, a server that is sometimes busy, jitter. Probes that bring nothing
         wear it down again. Without it the window collapses where latency varies: less in flight,
         a lower rate, so less in flight.

Rounds that the application did not fill change nothing: they are no evidence of a smaller path.
"""

from __future__ import annotations

from typing import Literal

from dsm.core.delivery import Arrival, DeliveryMeter, WindowedMax
from dsm.model import PathEstimate

Phase = Literal["startup", "drain", "cruise", "probe"]

WINDOW_BYTES_MIN = 64 << 10
"""One request worth its overhead: below it messages cost more than bytes."""

WINDOW_BYTES_INITIAL = 256 << 10
"""Four lanes deliver 4 × 14 KB in their first round trip and twice that in the second: from the
start it is TCP's slow start that limits, not this."""

WINDOW_BYTES_MAX = 256 << 20
"""Default memory budget of what is in flight: 10 Gbit/s × 200 ms."""

RATE_ROUNDS = 10
"""Of the max filter, as in BBR: longer than a probe cycle, so that its best round is remembered."""

BASE_S = 10.0
"""A base is measured again when it is older, as BBR's min RTT: it costs half a round."""

STARTUP_GAIN = 3.0
"""2 doubles every round; with 3 one late round does not end the doubling (BBR: 2.89)."""

CRUISE_GAIN = 1.2
"""A demand read waits behind 0.2 RTT of queue; 1.0 would never find new room."""

PROBE_GAIN = 1.2
"""With the cruise gain 1.44: a demand read never waits more than half a round trip."""

DRAIN_GAIN = 0.5

JITTER_S = 0.002
"""The least margin: from arrival to next request in an event loop that has other things to do."""

MARGIN_DECAY = 0.9
"""A probe without profit: in ten of them (100 rounds) two thirds of the margin are gone."""

GROWTH = 1.25
"""Of the rate in a round, expected in startup; 2.0 would be perfect."""

PROBE_GROWTH = 1.1
"""Half of PROBE_GAIN: the rate followed the window."""

FALL = 0.7
"""Two rounds this far below the rate are no noise, and neither is one below FALL_FAR."""

FALL_FAR = 0.5


class PathEstimator:
    """One per client-node path, all lanes together; bytes are wire bytes.

    Ask for more while `in_flight_bytes < window_bytes(now)`; a demand read need not ask. Messages
    (what arrives at a time) are best kept below a tenth of the window: one is added to it, since
    the bytes of a message arrive when its last one does.
    """

    def __init__(self, *, window_bytes_max: int = WINDOW_BYTES_MAX) -> None:
        assert window_bytes_max >= WINDOW_BYTES_MIN
        self._window_bytes_max = window_bytes_max
        self._meter = DeliveryMeter()
        self._rate = WindowedMax(RATE_ROUNDS)  # bytes per second
        self._message = WindowedMax(RATE_ROUNDS)
        self._rtt = WindowedMax(BASE_S)  # of negated samples: a minimum
        self._base_s = 0.0  # 0: unknown
        self._base_at = 0.0
        self._margin_s = JITTER_S
        self._loaded_s = 0.0
        self._phase: Phase = "startup"
        self._phase_at = 0.0
        self._phase_rounds = 0
        self._startup_bytes = min(WINDOW_BYTES_INITIAL, window_bytes_max)
        self._plateau_rate = 0.0  # before the window grew (startup, probe)
        self._plateau_rounds = 0
        self._round = 0
        self._round_rate = 0.0
        self._round_latency = _Mean()
        self._clean_latency = _Mean()
        self._probe_bytes = 0
        self._last_rate = 0.0  # of the round before
        self._fallen_rounds = 0
        self._grown_rounds = 0
        self._fell = False  # the drain was entered since the rate fell

    # -- inputs

    def request_sent(
        self, request_id: int, bytes_expected: int, now: float, *, app_limited: bool = False
    ) -> None:
        """`app_limited`: parked, or nothing more to ask for: no evidence of a small path.

        For data that does not exist yet expect 0 bytes: it is not in flight. For compressed data
        expect what it was compressed to lately.
        """
        self._meter.request_sent(
            request_id,
            bytes_expected,
            now,
            parked=app_limited,
            window_bytes=self.window_bytes(now),
        )

    def bytes_arrived(self, request_id: int, wire_bytes: int, now: float) -> None:
        """Some of the answer; may be called many times for a request."""
        arrival = self._meter.bytes_arrived(request_id, wire_bytes, now)
        if arrival is None:
            return
        self._message.sampled(self._round, wire_bytes)
        self._rate_sampled(arrival)
        if arrival.first_byte_s is not None and not arrival.parked:
            self._latency_sampled(arrival, arrival.first_byte_s, wire_bytes, now)
        if arrival.round_ended:
            self._round_ended(now)

    def request_finished(self, request_id: int, now: float) -> None:
        self._meter.forget(request_id)

    def request_abandoned(self, request_id: int, now: float) -> None:
        """Cancelled or lost; bytes of it that still arrive count as delivered."""
        self._meter.forget(request_id)

    def rtt_sampled(self, rtt_s: float, now: float) -> None:
        """From pings, and from the first byte of small demand reads."""
        self._rtt.sampled(now, -rtt_s)
        if not self._base_s:
            self._base_s, self._base_at = rtt_s, now

    # -- what follows from them

    @property
    def in_flight_bytes(self) -> int:
        """Expected and not arrived yet, over all requests."""
        return self._meter.in_flight_bytes

    def window_bytes(self, now: float) -> int:
        """How many bytes to have in flight."""
        self._leave_overdue_drain(now)
        floor = WINDOW_BYTES_MIN
        if self._phase == "startup":
            wanted = float(self._startup_bytes)
        elif self._phase == "drain":
            wanted, floor = DRAIN_GAIN * self._last_rate * self._base_s, 1
        else:
            gain = PROBE_GAIN if self._phase == "probe" else 1.0
            wanted = gain * self._target_bytes()
        return min(max(int(wanted), floor), self._window_bytes_max)

    def estimate(self, now: float) -> PathEstimate:
        known = [s for s in (-self._rtt.value, self._base_s) if s > 0]
        return PathEstimate(
            rate_bps=self._rate.value * 8,
            rtt_s=min(known, default=0.0),
            rtt_loaded_s=self._loaded_s,
            window_bytes=self.window_bytes(now),
            phase=self._phase,
        )

    def _target_bytes(self) -> float:
        ahead_s = CRUISE_GAIN * self._base_s + self._margin_s
        return self._rate.value * ahead_s + self._message.value

    # -- samples

    def _rate_sampled(self, arrival: Arrival) -> None:
        evidence = not arrival.limited and self._phase != "drain"
        if evidence:
            self._round_rate = max(self._round_rate, arrival.rate)
        if evidence or arrival.rate > self._rate.value:
            self._rate.sampled(self._round, arrival.rate)

    def _latency_sampled(
        self, arrival: Arrival, first_byte_s: float, wire_bytes: int, now: float
    ) -> None:
        """`first_byte_s` ends with the whole first message: its own time on the wire is no base."""
        self._loaded_s = first_byte_s
        if self._phase == "startup":  # the rate is not known yet
            if not self._base_s or first_byte_s < self._base_s:
                self._base_s, self._base_at = first_byte_s, now
            return
        least_s = min(first_byte_s, -self._rtt.value or 1e-4)
        latency_s = max(first_byte_s - wire_bytes / self._rate.value, least_s)
        self._round_latency.add(latency_s)
        drained = self._phase == "drain" and arrival.sent_at >= self._phase_at
        if arrival.ahead_bytes == 0 or (drained and arrival.ahead_bytes <= self.window_bytes(now)):
            self._clean_latency.add(latency_s)

    # -- rounds

    def _round_ended(self, now: float) -> None:
        if self._phase == "drain":
            if self._clean_latency.count:
                self._drained(now)
        elif self._round_rate:  # the window was filled
            self._round += 1
            self._phase_rounds += 1
            if self._phase == "startup":
                self._startup_round(now)
            else:
                self._steady_round(now)
            self._last_rate = self._round_rate or self._last_rate
        self._round_rate = 0.0
        self._round_latency = _Mean()
        self._clean_latency = _Mean()

    def _startup_round(self, now: float) -> None:
        bound = max(STARTUP_GAIN * self._rate.value * self._base_s, WINDOW_BYTES_INITIAL)
        doubled = min(2 * self._startup_bytes, int(bound), self._window_bytes_max)
        self._startup_bytes = max(self._startup_bytes, doubled)
        if self._rate.value >= GROWTH * self._plateau_rate:
            self._plateau_rate, self._plateau_rounds = self._rate.value, 0
            return
        self._plateau_rounds += 1
        if self._plateau_rounds >= 3:
            self._drain(now, fell=False)

    def _steady_round(self, now: float) -> None:
        self._base_followed(now)
        settled = self._phase_rounds > 2  # before, samples reach back into the phase before
        self._fallen_rounds = self._fallen_rounds + self._fallen_by() if settled else 0
        grown = self._round_rate > 1.1 * self._last_rate and self._round_rate >= self._rate.value
        self._grown_rounds = self._grown_rounds + 1 if grown and settled else 0
        if self._fallen_rounds >= 2 or now - self._base_at > BASE_S:
            self._drain(now, fell=self._fallen_rounds >= 2)
        elif self._grown_rounds >= 2:
            self._start_again(now)
        elif self._phase == "probe" and self._phase_rounds >= 2:
            self._probed(now)
        elif self._phase == "cruise" and self._phase_rounds >= 8:
            self._probe(now)

    def _fallen_by(self) -> int:
        left = self._round_rate / self._rate.value
        return 2 if left < FALL_FAR else 1 if left < FALL else -self._fallen_rounds

    def _base_followed(self, now: float) -> None:
        """Requests that found nothing before them, or a round below the base, need no drain."""
        if self._clean_latency.count:
            self._base_s += (self._clean_latency.value - self._base_s) / 2
            self._base_at = now
        elif self._round_latency.count and self._round_latency.value < self._base_s:
            self._base_s, self._base_at = self._round_latency.value, now

    def _probe(self, now: float) -> None:
        self._plateau_rate = self._round_rate
        self._enter("probe", now)
        self._probe_bytes = self.window_bytes(now)

    def _probed(self, now: float) -> None:
        if self._round_rate < PROBE_GROWTH * self._plateau_rate:
            self._margin_s = max(MARGIN_DECAY * self._margin_s, JITTER_S)
            self._enter("cruise", now)
            return
        round_s = (self._probe_bytes - self._message.value) / self._round_rate
        self._margin_s = max(self._margin_s, round_s - self._base_s)
        self._probe(now)

    def _drain(self, now: float, *, fell: bool) -> None:
        self._fell = fell
        self._last_rate = self._round_rate
        self._enter("drain", now)

    def _drained(self, now: float) -> None:
        """The path was empty for a moment: what is true now?"""
        before_s, self._base_s = self._base_s, self._clean_latency.value
        self._base_at = now
        if self._fell:
            longer = self._base_s > GROWTH * before_s
            self._rate.reset(self._round, self._rate.value if longer else self._last_rate)
        self._enter("cruise", now)

    def _start_again(self, now: float) -> None:
        self._startup_bytes = 2 * self.window_bytes(now)
        self._plateau_rate, self._plateau_rounds = self._rate.value, 0
        self._enter("startup", now)

    def _enter(self, phase: Phase, now: float) -> None:
        self._phase, self._phase_at, self._phase_rounds = phase, now, 0
        self._fallen_rounds = self._grown_rounds = 0

    def _leave_overdue_drain(self, now: float) -> None:
        """Nobody asks for anything: leave it to the next requests, which find the path empty."""
        if self._phase == "drain" and now - self._phase_at > 4 * self._loaded_s + 0.1:
            self._base_at = now
            self._enter("cruise", now)


class _Mean:
    """Of latencies in one round."""

    __slots__ = ("_sum", "count")

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self._sum += value

    @property
    def value(self) -> float:
        return self._sum / self.count
