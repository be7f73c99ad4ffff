"""Where the reader of one handle goes next, and what to ask for before it gets there.

              read before       reader                    frontier          next + window
    ──────────────┬───────────────●━━━━━━━━━━━━━━━━━━━━━━━━━━▶╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌┤
                  ╰── run ────────╯  ahead: planned, unread   │   asked for as soon as an eighth
                                                              │   of the window is free, or what is
                                                              │   ahead lasts less than the path's
                                                              ╰── delay at the reader's rate

Two knobs, as in Linux' `readahead.c`: *when* to ask for more (before the reader would wait) and
*how much* to be ahead. How much is `AHEAD_PER_RUN` times what a stream has read in its run, so that
a window opens within a few round trips and a stream that ends at once has cost little; for the
first one also what readers of this session usually come to (`dsm.core.habits`); at the most its
share of the window, divided among the streams by their rates.

Which streams there are, `dsm.core.streams` tells. Whether to trust them, a credit does: it grows by
a twentieth of what is read and half of what was read out of prefetch, and pays for what was
fetched in vain. Without credit only long runs are followed. So reads at random cost at the most
about a twentieth more than they ask for, however much they look like streams now and then.

A seek shows when reads go elsewhere. From the first of them on, what was not sent is held back
(`is_elsewhere`), unless the reader is known to come back; after `PATIENCE` of them for each other
stream, what was ahead of the deserted one is stale. If it is come back to, patience doubles: this
reader takes turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsm.core.extents import ExtentSet
from dsm.core.streams import Stream, StreamTable, Wanted, nearest
from dsm.model import Extent

PatternKind = Literal["sequential", "strided", "backward", "random", "unknown"]
Hint = Literal["sequential", "random", "normal"]

AHEAD_PER_RUN = 4
"""Times the run so far: the window grows fivefold in a round trip, faster than TCP's slow start
beneath it, and Linux begins with the same four (get_init_ra_size)."""

AHEAD_PER_RUN_ON_CREDIT = 16
"""...and more where credit pays for it if it is in vain: TCP's slow start may be over already."""

CREDIT_PER_READ = 0.05
CREDIT_PER_HIT = 0.5
CREDIT_READS = 4
"""To begin with, in reads: of the longest so far, since many begin with a look at a header."""

CREDIT_READS_MAX = 80
"""Of debt: a handle whose pattern has changed is trusted again soon. As much can be saved up, and a
window more, so that a seek after a long run does not ruin the next one."""

PROOF_WITHOUT_CREDIT = 24
"""Eight reads in a row."""

PATIENCE = 2
PATIENCE_MAX = 64

SHARE_MIN = 1 / 4
"""Of an equal share, for a stream that is slow now."""

RANDOM_READS = 8
"""Before reads without a pattern are called random."""

FOLLOWED_MIN = 0.25
"""Of recent reads that continue a stream: below, they are random for the most part."""

RATE_S = 10.0
"""A reader that paused for longer has no rate."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What the reads of a handle look like, in units of its index space."""

    kind: PatternKind = "unknown"
    streams: int = 0
    stride: int = 0
    rate_units_s: float = 0.0
    followed: float = 0.0
    """The share of recent reads that continued a stream."""


class PrefetchPlanner:
    """One per handle; the index space is sequence numbers, pages or bytes.

    After each `accessed`, and when there is room in flight, call `plan` and request what it
    returns; then cancel what `stale` returns, as far as it has not arrived.
    """

    def __init__(self) -> None:
        self._table = StreamTable()
        self._hint: Hint = "normal"
        self._needed = ExtentSet()
        self._stale = ExtentSet()
        self._gap_units = 0
        self._window_units = 0
        self._credit = 0.0  # units
        self._credit_unit = 0.0  # the length of the longest read by itself
        self._patience = PATIENCE
        self._comes_back = False  # the last time that it was elsewhere
        self.is_elsewhere = False
        """The last read left a stream, as it seems for good: what is planned may be in vain."""
        self._followed = 0.0  # the share of recent reads that continued a stream
        self.first: Stream | None = None
        """The first that was worth following."""

    # -- inputs

    def accessed(self, start: int, stop: int, now: float) -> None:
        """The reader read `[start, stop)`; every read of the handle, in order."""
        if start >= stop:
            return
        stream = self._table.accessed(start, stop, now, self._gap_units)
        if stream.kind == "single" or not self._credit_unit:
            self._lend(stop - start)
        self._followed += ((stream.proof > 0) - self._followed) / 16
        if self.first is None and stream.proven:
            self.first = stream
        if self._table.returned:
            self._patience = min(2 * self._patience, PATIENCE_MAX)
        self._earn(CREDIT_PER_READ * (stop - start))
        self._needed.discard(start, stop)
        self._stale.discard(start, stop)
        for other in self._table.streams:
            if other.ahead:
                other.ahead.discard(start, stop)
        self._drop_deserted()
        self._look_elsewhere(stream)

    def hit(self, start: int, stop: int) -> None:
        """The reader used `[start, stop)`, which was prefetched."""
        self._earn(CREDIT_PER_HIT * (stop - start))

    def wasted(self, units: int) -> None:
        """So many units were prefetched and dropped unread; without what `stale` returned."""
        self._earn(-float(units))

    def hint(self, hint: Hint) -> None:
        """Someone knows better: `sequential` opens the window at once, `random` closes it."""
        self._hint = hint
        if hint == "random":
            for stream in self._table.streams:
                self._drop(stream)
        self._credit = CREDIT_READS * self._credit_unit  # what was learned is another reading's

    def will_need(self, extent: Extent) -> None:
        """Someone knows: this is planned first, and whatever the reader does meanwhile."""
        self._needed.add(*extent)

    # -- what follows from them

    def plan(
        self,
        now: float,
        *,
        window_units: int,
        limit: Extent,
        wanted: Wanted,
        gap_units: int = 0,
        usual_units: int = 0,
        delay_s: float = 0.0,
    ) -> list[Extent]:
        """What to request now, in this order; what is returned counts as requested.

        `window_units`  the most to be ahead of the readers, all streams together
        `limit`         what may be asked for; of a live ring its stop may lie beyond the head
        `wanted(a, b)`  what of `[a, b)` is neither present nor requested
        `gap_units`     a gap up to this (bandwidth x RTT) is read through, otherwise jumped over
        `usual_units`   what the first stream of a handle usually comes to
        `delay_s`       of the path, from request to data

        What `will_need` named is no speculation: it does not wait for the reader, only for room,
        and each call returns at the most a window of it.
        """
        self._gap_units, self._window_units = gap_units, window_units
        room = max(0, window_units - self.ahead_units)
        planned = self._plan_needed(room, limit, wanted)
        asked = ExtentSet(planned)

        def still_wanted(start: int, stop: int) -> list[Extent]:
            return [m for extent in wanted(start, stop) for m in asked.missing(*extent)]

        for stream, window in self._windows(window_units, usual_units):
            if asked.total < room and stream.is_due(window, delay_s):
                extents = stream.plan(window, room - asked.total, limit, still_wanted)
                planned += extents
                for extent in extents:
                    asked.add(*extent)
        return planned

    @property
    def ahead_units(self) -> int:
        """Planned ahead of the readers, and not come to yet."""
        return sum(stream.ahead.total for stream in self._table.streams)

    def stale(self) -> list[Extent]:
        """What was planned for streams that were deserted; each is reported once: cancel it."""
        stale = list(self._stale)
        self._stale.clear()
        return stale

    def pattern(self, now: float) -> Pattern:
        streams = self._table.proven()
        known = self._table.reads > RANDOM_READS
        if self._hint == "random" or (known and self._followed < FOLLOWED_MIN):
            return Pattern(kind="random")
        kind = streams[0].kind if streams else "single"
        if kind == "single":
            return Pattern(kind="sequential" if self._hint == "sequential" else "unknown")
        return Pattern(
            kind=kind,
            streams=len(streams),
            stride=streams[0].stride,
            rate_units_s=sum(s.rate_units_s for s in streams if now - s.at < RATE_S),
            followed=self._followed,
        )

    # -- trust

    def _lend(self, units: int) -> None:
        more = units - self._credit_unit
        if more > 0:
            self._credit_unit += more
            self._earn(CREDIT_READS * more)

    def _earn(self, units: float) -> None:
        debt_max = CREDIT_READS_MAX * self._credit_unit
        credit_max = debt_max + self._window_units
        self._credit = min(max(self._credit + units, -debt_max), credit_max)

    def _trusts(self, stream: Stream) -> bool:
        if self._hint == "random" or stream.too_sparse(self._gap_units):
            return False
        if self._credit > 0 or self._hint == "sequential":
            return True
        return stream.proof >= PROOF_WITHOUT_CREDIT

    def _drop_deserted(self) -> None:
        streams = self._table.proven()
        for stream in streams:
            if self._table.missed(stream) >= self._patience * max(1, len(streams) - 1):
                self._drop(stream)
                self._comes_back = False
                self._patience = max(self._patience - 1, PATIENCE)
        for stream in self._table.trim():
            self._drop(stream)

    def _look_elsewhere(self, stream: Stream) -> None:
        self._comes_back |= self.is_elsewhere and stream.proven
        left = any(other.ahead for other in self._table.proven())
        self.is_elsewhere = left and not stream.proven and not self._comes_back

    def _drop(self, stream: Stream) -> None:
        for extent in stream.ahead:
            self._stale.add(*extent)
        self._earn(-float(stream.ahead.total))
        stream.ahead.clear()
        stream.covered_units = 0
        stream.dropped = True

    # -- plans

    def _plan_needed(self, room: int, limit: Extent, wanted: Wanted) -> list[Extent]:
        planned: list[Extent] = []
        for needed in self._needed.intersection(*limit):
            for extent in wanted(*needed):
                taken = nearest(extent, room)
                if taken.length:
                    planned.append(taken)
                    room -= taken.length
                    self._needed.discard(needed.start, taken.stop)
                if taken.length < extent.length:
                    return planned
            self._needed.discard(*needed)
        return planned

    def _windows(self, window_units: int, usual_units: int) -> list[tuple[Stream, int]]:
        """How far each stream may be ahead: its share, and no more than its run is worth."""
        streams = [s for s in self._table.proven() if self._trusts(s)]
        if self._hint == "sequential":
            streams = streams or [s for s in self._table.streams[:1] if not s.dropped]
        if not streams:
            return []
        least = SHARE_MIN * sum(s.rate_units_s for s in streams) / len(streams)
        weights = [max(s.rate_units_s, least) or 1.0 for s in streams]
        shares = [round(window_units * weight / sum(weights)) for weight in weights]
        if self._hint == "sequential":
            return list(zip(streams, shares, strict=True))
        return [
            (stream, min(share, self._worth(stream, usual_units)))
            for stream, share in zip(streams, shares, strict=True)
        ]

    def _worth(self, stream: Stream, usual_units: int) -> int:
        on_credit = min(AHEAD_PER_RUN_ON_CREDIT * stream.run_units, int(self._credit))
        usual = usual_units if stream is self.first else 0
        return max(AHEAD_PER_RUN * stream.run_units, on_credit, usual)
