"""How long a path takes when nothing of ours stands in the way: its base latency.

    request ──▶ path ──▶ turnaround ──▶ ▒▒▒ what was asked for before ▒▒▒ ──▶ path ──▶ first bytes
            ╰───────── base ─────────╯                                    ╰─ base ─╯

A ping knows the path, not the server's turnaround, and pings under load know our queue as well. So
the base is taken from requests: those that find the path *clear*, which happens by itself while the
application asks for little, and otherwise when the estimator drains the path for it (as BBR's
ProbeRTT does for its min RTT). The least of a round, since a lane that repairs a loss makes late
what found the path clear (what varies, the spare covers: `dsm.core.stalls`); and by halves, since a
round may have had one answer only.

The first bytes come with the whole first message: its own time on the wire is subtracted as soon
as the rate is known, but never to below a ping.
"""

from __future__ import annotations

LEAST_S = 1e-4
"""No path is shorter, once a message's time has been subtracted from what it took."""

FAR_BELOW = 0.8
"""Of the base: the path has become shorter, and it was cleared by the measure of the longer one; so
it was not clear, and is worth another look at once."""


class BaseLatency:
    """Fed with every first answer; one round after the other."""

    def __init__(self) -> None:
        self.base_s = 0.0  # 0: unknown
        self.measured_at = 0.0
        self.loaded_s = 0.0
        """What the last request took to its first bytes, queue and all."""
        self._least_s = LEAST_S
        self._first_message_bytes = 0  # of the sample, while the rate is unknown
        self._clear_bytes = 0
        self._clear_from = float("inf")
        self._clear = _Least()
        self._any = _Least()

    def pinged(self, least_s: float, now: float) -> None:
        """No request is faster than the fastest ping; and it may come before any of them."""
        self._least_s = least_s
        if not self.base_s:
            self.base_s, self.measured_at = least_s, now

    def first_answered(self, first_byte_s: float, wire_bytes: int, now: float) -> None:
        """While the rate is unknown: the smallest that was seen."""
        self.loaded_s = first_byte_s
        if not self.base_s or first_byte_s < self.base_s:
            self.base_s, self.measured_at = first_byte_s, now
            self._first_message_bytes = wire_bytes

    def rate_known(self, rate: float) -> None:
        """Bytes per second; from here on `answered`."""
        self.base_s -= min(self._first_message_bytes / rate, self.base_s / 2)
        self._first_message_bytes = 0

    def answered(
        self, first_byte_s: float, message_s: float, *, ahead_bytes: int, sent_at: float
    ) -> None:
        self.loaded_s = first_byte_s
        latency_s = max(first_byte_s - message_s, min(self._least_s, first_byte_s))
        self._any.add(latency_s)
        found_clear = sent_at >= self._clear_from and ahead_bytes <= self._clear_bytes
        if found_clear or ahead_bytes == 0:
            self._clear_from = float("inf")
            self._clear.add(latency_s)

    def expect_clear(self, ahead_bytes: int, since: float) -> None:
        """The path is drained: a request behind at most `ahead_bytes` finds it so."""
        self._clear_bytes, self._clear_from = ahead_bytes, since
        self.measured_at = since  # in a round trip; asking again meanwhile would not help

    @property
    def clear_s(self) -> float:
        """What a request took in this round that found the path clear; 0: none did."""
        return self._clear.value

    def replaced(self, now: float) -> None:
        """The path is another one: what is clear now is all that counts."""
        self.base_s, self.measured_at = self._clear.value, now

    def round_ended(self, now: float) -> None:
        told_s = self._clear.value or self._any.value
        if self._clear.value or 0 < told_s < self.base_s:
            far = told_s < FAR_BELOW * self.base_s
            self.measured_at = float("-inf") if far else now
            self.base_s += (told_s - self.base_s) / 2
        self.forget_round()

    def forget_round(self) -> None:
        self._clear, self._any = _Least(), _Least()


class _Least:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0
        """0: none."""

    def add(self, value: float) -> None:
        self.value = min(self.value or value, value)
