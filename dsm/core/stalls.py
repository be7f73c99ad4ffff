"""What has to be in flight beyond the path's product, because lanes stall: the spare.

    lane 1  ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒      a lost segment holds up all that was sent after it for a
    lane 2  ▒▒▒▒▒✗······▒▒▒▒▒▒▒▒▒▒▒      round trip; what is asked for meanwhile waits at the node,
    lane 3  ▒▒▒▒▒▒▒▒▒▒▒▒✗······▒▒▒▒      so unless more was asked for, the lane idles after it

With rate × base in flight each loss costs a lane the time of its stall again. More in flight costs
nothing as long as it waits at the node and not in the path, since a demand read has a lane of its
own. A ping tells which of the two: under load it finds the path's queue, and no other.

    pings late  the path is full: less spare. One late ping may be jitter, so it is asked again at
                once; a queue is still there then, and makes LATE_PINGS of them late
    ping prompt though more than the product is in flight (CRUISE_GAIN of `dsm.core.path`): it
                waits elsewhere, so a little more spare; much more where that was so for long

Start-up has doubled the window beyond what it needed, so it hands over what it saw: the smallest
window that brought nearly the best rate.
"""

from __future__ import annotations

from math import inf

SPARE_BASES_MAX = 3.0
"""Of the base: four products in flight, as start-up has. A segment lost twice stalls for two."""

SPARE_BASES_STEP = 0.1
"""At a prompt ping: a demand read waits for no more, where that was one step too many..."""

SMALL_STEPS = 3
"""...but after so many in a row without a late one..."""

SPARE_GROWTH = 1.5
"""...it is far from enough."""

SPARE_LOSS = 0.6
"""What is left of it where pings are late: steps are small and lead back in seconds."""

PROMPT = 0.1
"""Of the base: half of the queue that there must be where the path is full."""

PROMPT_S = 0.001
"""And what an event loop is late by."""

JITTERS = 2
"""Mean differences of one ping from the next (RFC 3550, 6.4.1), as far as a change of the spare
does not explain them, that are no lateness..."""

JITTER_S_MAX = 0.015
"""...up to what radio links have..."""

JITTER_MAX = 0.3
"""...where neither is later than this, of the base: then it is a queue that comes and goes."""

LATE_PINGS = 3
"""In a row: where jitter makes every second one late, three are so by chance in one of eight."""

LATE_PINGS_LONG = 8
"""By then the spare is gone, and what else is too much in flight would have been seen."""

NEARLY = 0.9
"""Of the best rate."""

PING_BASES = 4.0
"""Between pings under load, in round trips: one for every other change of the window..."""

PING_S_MIN = 0.05
"""...but twenty a second are enough for anyone..."""

PING_S_MIN_SOON = 0.01
"""...in start-up one a round trip, a hundred a second at the most: it doubles, so to learn too late
that the path is full is to drop as much as it holds; and where one ping was late..."""

PING_S_MAX = 1.0
"""...and one, where nothing is under way: ten for the minimum of 10 s."""


class Spare:
    """Seconds of the path's rate to have in flight beyond its base."""

    def __init__(self) -> None:
        self.spare_s = 0.0
        self._rounds: list[tuple[int, float]] = []  # of start-up: window bytes, rate
        self._prompt_at = float("-inf")
        self._late_pings = 0
        self._steps = 0
        self._pinged = inf, 0.0  # what it took, with which spare
        self._jitter_s = 0.0

    def startup_round_ended(self, window_bytes: int, rate: float) -> None:
        self._rounds.append((window_bytes, rate))

    def startup_ended(self, rate: float, ahead_s: float, base_s: float, *, free: bool) -> None:
        """`ahead_s`: for which the window is going to be; `free`: the path was not filled."""
        enough = min((w for w, r in self._rounds if r >= NEARLY * rate), default=0)
        self._rounds.clear()
        if free:
            self.spare_s = min(max(0.0, enough / rate - ahead_s), SPARE_BASES_MAX * base_s)

    def pinged(
        self, rtt_s: float, least_s: float, now: float, *, full: bool, startup: bool
    ) -> None:
        """`full`: as much was in flight as the window allows."""
        self._follow_jitter(rtt_s, least_s)
        allowed_s = PROMPT * least_s + PROMPT_S + min(JITTERS * self._jitter_s, JITTER_S_MAX)
        if rtt_s - least_s < allowed_s:
            self._late_pings, self._prompt_at = 0, now
            if full and not startup:
                self._steps += 1
                growth = SPARE_GROWTH if self._steps > SMALL_STEPS else 1.0
                wanted = growth * self.spare_s + SPARE_BASES_STEP * least_s
                self.spare_s = min(wanted, SPARE_BASES_MAX * least_s)
            return
        self._late_pings = max(LATE_PINGS if startup else 0, self._late_pings + 1)
        if self.path_is_full:
            self._prompt_at, self._steps = float("-inf"), 0
            less = SPARE_LOSS * self.spare_s
            self.spare_s = less if less > SPARE_BASES_STEP / 4 * least_s else 0.0

    def _follow_jitter(self, rtt_s: float, least_s: float) -> None:
        before_s, spare_s = self._pinged
        self._pinged = rtt_s, self.spare_s
        if max(rtt_s, before_s) < (1 + JITTER_MAX) * least_s:
            changed_s, ours_s = rtt_s - before_s, self.spare_s - spare_s
            jitter_s = min(abs(changed_s), abs(changed_s - ours_s))
            self._jitter_s += (jitter_s - self._jitter_s) / 8

    @property
    def path_is_full(self) -> bool:
        """The last pings were late."""
        return self._late_pings >= LATE_PINGS

    @property
    def late_for_long(self) -> bool:
        """There was nothing left to give up, and pings are late still: the path may be longer."""
        return self._late_pings >= LATE_PINGS_LONG

    @property
    def is_in_doubt(self) -> bool:
        """The last ping was late, and it was chance, or there is a spare to give up."""
        return self._late_pings > 0 and (not self.path_is_full or self.spare_s > 0)

    def path_is_free(self, base_s: float, now: float) -> bool:
        """The last ping was prompt, and recent: whatever it is that delays, it is no queue."""
        return now - self._prompt_at <= 2 * max(PING_BASES * base_s, PING_S_MIN)


def ping_interval_s(base_s: float, *, loaded: bool, soon: bool) -> float:
    """Until the next ping. `soon`: much depends on it."""
    if soon and base_s:
        return min(max(base_s, PING_S_MIN_SOON), PING_S_MAX)
    return min(max(PING_BASES * base_s, PING_S_MIN), PING_S_MAX) if loaded else PING_S_MAX
