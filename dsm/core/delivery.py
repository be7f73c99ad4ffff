"""How fast bytes arrive: delivery-rate samples of a path, from nothing but sends and arrivals.

                 request P                        first bytes of P          more of P
    sent    ─────────●──────────────────────────────────┬──────────────────────┬────▶
                     │ remembers how much had been      │                      │
                     │ delivered, and when              │                      │
    arrived ──▮──▮──▮┴──▮──▮──▮──▮──▮──▮──▮──▮──▮──▮──▮─▼──▮──▮──▮──▮──▮──▮──▮─▼────▶
                    ╰──────── delivered since then ─────╯
                          ÷ the longer of the send and the arrival interval = one sample

This is the sampling of draft-cheng-iccrg-delivery-rate-estimation with requests in the place of
packets: what each arrival tells is the rate over about one round trip, all lanes and requests
together. The longer interval is taken because bytes that were held up and then arrive at once
(a lost segment, a sleeping receiver) would otherwise look fast. A sample is *limited* when the
window was not filled after its request was sent: then it says how much was asked for, and nothing
against the path. A *round* ends when something arrives that was requested after the round before
had ended (BBR's packet-timed round trips).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

FULL = 0.75
"""Of the window in flight: from here on it is the window that limits. Not 1, since requests are
whole blocks or pages, and the asker may wait for room for a whole one."""

FALL = 0.7
"""Two rounds this far below the known rate are no noise, and neither is one below FALL_FAR."""

FALL_FAR = 0.5

ROUND_S = 0.05
"""A round that is shorter counts as a part of one, where rounds tell of a fall or are remembered:
on a short path two may be over before a busy machine lets a process that it held up go on."""

RISE = 1.1
"""Two rounds that each brought so much more: there is room beyond the window."""


@dataclass(slots=True)
class _Request:
    sent_at: float
    left_bytes: int
    ahead_bytes: int
    limited: bool
    delivered_before: int
    delivered_before_at: float
    window_sent_at: float  # when the request was sent that had arrived last as this one was sent
    started: bool = False


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one arrival of bytes tells."""

    rate: float  # bytes per second, 0: no sample
    limited: bool
    round_ended: bool
    round_rate: float  # of all of the round that ended, bytes per second
    round_part: float  # of a round that counts, 0 to 1
    sent_at: float
    ahead_bytes: int  # in flight when its request was sent
    first_byte_s: float | None  # from request to first bytes, if these are the first
    parked: bool  # the request waited for data or for the application, not for the path


class DeliveryMeter:
    """Counts what is in flight and delivered, and takes a rate sample from every arrival."""

    def __init__(self) -> None:
        self.in_flight_bytes = 0
        self._requests: dict[int, _Request] = {}
        self._delivered = 0
        self._delivered_at = 0.0
        self._window_sent_at = 0.0
        self.full_at = float("-inf")
        """When the window was last filled."""
        self._round_from = 0
        self._round_at = 0.0

    def request_sent(
        self, request_id: int, expected_bytes: int, now: float, *, parked: bool, window_bytes: int
    ) -> None:
        assert request_id not in self._requests, f"request {request_id} was sent already"
        if not self._requests:
            # What was idle is not slow.
            self._delivered_at = self._window_sent_at = self._round_at = now
            self._round_from = self._delivered
        self._requests[request_id] = _Request(
            sent_at=now,
            left_bytes=expected_bytes,
            ahead_bytes=self.in_flight_bytes,
            limited=parked,
            delivered_before=self._delivered,
            delivered_before_at=self._delivered_at,
            window_sent_at=self._window_sent_at,
        )
        self.in_flight_bytes += expected_bytes
        if self.in_flight_bytes >= FULL * window_bytes:
            self.full_at = now

    def bytes_arrived(self, request_id: int, wire_bytes: int, now: float) -> Arrival | None:
        """None when the request is not known (any more): its bytes still count as delivered."""
        self._delivered += wire_bytes
        self._delivered_at = now
        request = self._requests.get(request_id)
        if request is None:
            return None
        taken = min(wire_bytes, request.left_bytes)
        request.left_bytes -= taken
        self.in_flight_bytes -= taken
        self._window_sent_at = max(self._window_sent_at, request.sent_at)
        return self._sample(request, now)

    def forget(self, request_id: int) -> None:
        """It is over, complete or not: nothing more of it is in flight."""
        request = self._requests.pop(request_id, None)
        if request is not None:
            self.in_flight_bytes -= request.left_bytes

    def _sample(self, request: _Request, now: float) -> Arrival:
        interval_s = max(
            request.sent_at - request.window_sent_at, now - request.delivered_before_at
        )
        round_ended = request.delivered_before >= self._round_from
        round_rate = round_part = 0.0
        if round_ended:
            if now > self._round_at:
                round_rate = (self._delivered - self._round_from) / (now - self._round_at)
                round_part = min(1.0, (now - self._round_at) / ROUND_S)
            self._round_from, self._round_at = self._delivered, now
        first = not request.started
        request.started = True
        return Arrival(
            rate=(self._delivered - request.delivered_before) / interval_s if interval_s else 0.0,
            limited=request.limited or self.full_at < request.sent_at,
            round_ended=round_ended,
            round_rate=round_rate,
            round_part=round_part,
            sent_at=request.sent_at,
            ahead_bytes=request.ahead_bytes,
            first_byte_s=now - request.sent_at if first else None,
            parked=request.limited,
        )


class WindowedMax:
    """The largest sample of the last `length` ticks; old ones go only when a new one comes.

    A monotonic queue: behind a sample stand only later and smaller ones.
    """

    def __init__(self, length: float) -> None:
        self._length = length
        self._samples: deque[tuple[float, float]] = deque()

    @property
    def value(self) -> float:
        return self._samples[0][1] if self._samples else 0.0

    def sampled(self, tick: float, value: float) -> None:
        samples = self._samples
        while samples and samples[-1][1] <= value:
            samples.pop()
        samples.append((tick, value))
        while samples[0][0] <= tick - self._length:
            samples.popleft()

    def reset(self, tick: float, value: float) -> None:
        """Forget everything else."""
        self._samples.clear()
        self._samples.append((tick, value))


class Trend:
    """Whether the rate of rounds has left what was known, judged by more than one of them."""

    def __init__(self) -> None:
        self._fallen = 0.0
        self._grown = 0
        self._last_rate = float("inf")

    def round_ended(
        self, round_rate: float, known_rate: float, part: float = 1.0
    ) -> Literal["fell", "level", "grew"]:
        """`known_rate` is the largest of the rounds that are remembered, this one included."""
        left = round_rate / known_rate
        self._fallen += 2 * part if left < FALL_FAR else part
        if left >= FALL:
            self._fallen = 0.0
        grown = left >= 1.0 and round_rate > RISE * self._last_rate
        self._grown = self._grown + 1 if grown else 0
        self._last_rate = round_rate
        return "fell" if self._fallen >= 2 else "grew" if self._grown >= 2 else "level"
