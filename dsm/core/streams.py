"""Telling apart what one handle's reads are: streams that go on, and single reads.

A stream is a position that moves in a way which can be continued:

    sequential   ├──┤├──┤├──┤···▶           each read begins where the one before ended
       (skips)   ├──┤  ├──┤├──┤ ├──┤···▶    or a little later
    backward     ◀···├──┤├──┤├──┤
    strided      ├┤      ├┤      ├┤···▶      equal distances between the starts, of either sign

Every read either continues a stream or founds one; the sixteen used last are kept, which is all the
history there is. A strided one is found as four reads at equal distances among those that founded
something, whatever came between them; or it was one that skips, always as much. (Leap, ATC '20,
takes the majority of recent distances, which fails where two streams are interleaved: then no
distance has the majority.)

What makes a stream worth following is its *proof*: PROOF_CONTIGUOUS for a read that continues it
exactly, 1 for one that skips a little. Skips prove less, since among random reads of a small
segment some fall a little behind each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from dsm.core.extents import ExtentSet
from dsm.model import Extent

Wanted = Callable[[int, int], list[Extent]]
StreamKind = Literal["single", "sequential", "backward", "strided"]

STREAMS_MAX = 16
"""Interleaved streams per handle: columns of a table, channels of a capture. Each costs a look at
every read that continues none."""

PROOF_CONTIGUOUS = 3
PROOF_WANTED = 3
"""One exact continuation, or three skips in a row."""

PROOF_MAX = 64

SKIP_LENGTHS = 8
"""A skip is at the most this many times the read's length, until the stream is proven."""

STRIDES_FOUND = 3
"""Equal distances make a stride..."""

STRIDES_SURE = 6
STEP_SURE = 32
"""...and so many, if they are below this: of records that differ by ten pages, three are of one
length in every hundredth place."""

SPARSE_LENGTHS = 7
"""Reading through gaps is given up where so many times what is read is skipped."""

SKIPS_WEIGHED = 16
"""Reads that the mean skip remembers: one of many does not make a stream sparse."""

STRIDES_MISSED = 3
"""Steps of a stride that may be left out and it is the same stream."""

FREE_PART = 8
"""A window is filled up when this part of it is free. Not half, as in Linux: the window is barely
more than the path holds, and half of it would let the path run dry."""

PIECES = 8
"""Backward, what lies ahead is asked for in so many pieces, the nearest first."""

RATE_WEIGHT = 0.25
"""Of the newest read in the consumption rate: follows in four reads, ignores one that stalled."""


@dataclass(slots=True, eq=False)
class Stream:
    """One position that moves: the last read of it, and what was planned ahead of it."""

    start: int
    stop: int
    at: float
    kind: StreamKind = "single"
    stride: int = 0
    proof: int = 0
    run_units: int = 0
    """Read since it began: how far it may be trusted."""
    rate_units_s: float = 0.0
    ahead: ExtentSet = field(default_factory=ExtentSet)
    """Planned, and not read yet."""
    covered_units: int = 0
    """So far ahead nothing is left to plan: it is planned, or was there."""
    step: int = 0
    """From the start of the read before its last one to that of the last..."""
    steps: int = 0
    """...as so often before."""
    read_number: int = 0
    """Of its last read, among all of the handle."""
    skipped: float = 0.0
    """Units that it lately left out before each read."""
    dropped: bool = False
    """Given up: what was ahead of it is stale."""

    @property
    def proven(self) -> bool:
        return self.proof >= PROOF_WANTED

    def too_sparse(self, gap_units: int) -> bool:
        """To read on through what it skips would cost more than to ask for each read: the path is
        busy for longer than a round trip, or little else than waste crosses it."""
        length = self.stop - self.start
        return self.skipped > min(max(gap_units, length), SPARSE_LENGTHS * length)

    @property
    def backward(self) -> bool:
        """It moves towards lower indices."""
        return self.kind == "backward" or self.stride < 0

    def repeats(self, start: int, stop: int) -> bool:
        return self.start <= start and stop <= self.stop

    def proof_of(self, start: int, stop: int, gap_units: int) -> int:
        """How much a read of `[start, stop)` would prove; 0: it is none of this stream."""
        if self.kind == "strided":
            steps, rest = divmod(start - self.start, self.stride)
            if not rest and 1 <= steps <= STRIDES_MISSED + 1:
                return PROOF_CONTIGUOUS
            near = self.stop <= start <= self.stop + SKIP_LENGTHS * (stop - start)
            return int(near and self.stride > 0)
        if self.kind != "backward" and self.start <= start <= self.stop < stop:
            return PROOF_CONTIGUOUS
        if self.kind != "sequential" and start < self.start <= stop <= self.stop:
            return PROOF_CONTIGUOUS
        if self.kind == "backward" or start < self.stop:
            return 0
        return 1 if start - self.stop <= self._skip_max(stop - start, gap_units) else 0

    def _skip_max(self, length: int, gap_units: int) -> int:
        """Whether it is read through is another question. What is covered was fetched anyway: to go
        on from anywhere in it is a skip, once it is known that it is gone on at all."""
        near = SKIP_LENGTHS * length
        return max(near, gap_units, self.covered_units - 1) if self.proof > PROOF_WANTED else near

    def continued(self, start: int, stop: int, now: float, proof: int) -> None:
        if self.kind == "single":
            self.kind = "backward" if start < self.start else "sequential"
        if self.kind == "strided" and proof < PROOF_CONTIGUOUS:  # not any more
            self.kind, self.stride, self.covered_units = "sequential", 0, 0
        if self.kind == "strided":
            passed = (start - self.start) // self.stride * self._stride_length
        else:
            passed = self.units_to(start if self.kind == "backward" else stop)
        fresh = min(passed, stop - start)
        self._follow_rate(fresh, now)
        self._count_step(start - self.start)
        self.start, self.stop, self.at = start, stop, now
        self.run_units += fresh
        weight = max(1 / SKIPS_WEIGHED, fresh / self.run_units)  # a plain mean at first
        self.skipped += (passed - fresh - self.skipped) * weight
        self.covered_units = max(0, self.covered_units - passed)
        self.proof = min(self.proof + proof, PROOF_MAX)
        self._forget_passed()
        if self.kind == "sequential" and self._is_regular:
            self.kind, self.stride, self.covered_units, self.skipped = "strided", self.step, 0, 0.0

    def _count_step(self, step: int) -> None:
        self.steps = self.steps + 1 if step == self.step else 1
        self.step = step

    @property
    def _is_regular(self) -> bool:
        """It skips, always as much, and no less than it reads."""
        sure = STRIDES_SURE if self.step < STEP_SURE else STRIDES_FOUND
        return self.steps >= sure and self.step >= 2 * (self.stop - self.start)

    def units_to(self, index: int) -> int:
        """How many units it reads on its way to `index`, which is passed then."""
        if self.kind == "strided":
            way = (
                self.start - index if self.stride < 0 else index - self.start - self._stride_length
            )
            return way // abs(self.stride) * self._stride_length
        return self.start - index if self.kind == "backward" else index - self.stop

    @property
    def _stride_length(self) -> int:
        return min(self.stop - self.start, abs(self.stride))

    def _follow_rate(self, units: int, now: float) -> None:
        if now > self.at:
            rate = units / (now - self.at)
            known = self.rate_units_s
            self.rate_units_s = known + RATE_WEIGHT * (rate - known) if known else rate

    def _forget_passed(self) -> None:
        """What lies behind is read, or was skipped."""
        first, last = self.ahead.first, self.ahead.last
        if first is None or last is None:
            return
        if self.backward:
            self.ahead.discard(self.start, last + 1)
        else:
            self.ahead.discard(first, self.stop)

    def wishes(self, from_units: int, to_units: int) -> Iterator[Extent]:
        """What it will read, as far as is known, so many units ahead; the first first."""
        if self.kind == "strided":
            length = self._stride_length
            for step in range(from_units // length + 1, to_units // length + 1):
                start = self.start + step * self.stride
                yield Extent(start, start + length)
        elif self.kind == "backward":
            piece = max(self.stop - self.start, to_units // PIECES)
            low = self.start - to_units
            for stop in range(self.start - from_units, low, -piece):
                yield Extent(max(stop - piece, low), stop)
        elif from_units < to_units:
            yield Extent(self.stop + from_units, self.stop + to_units)

    def is_due(self, window: int, delay_s: float) -> bool:
        """Enough of its window is free, or it would come to the end of what is covered."""
        free = window - self.covered_units
        late = self.covered_units < self.rate_units_s * delay_s
        return free > 0 and (late or free * FREE_PART >= window)

    def plan(self, window: int, room: int, limit: Extent, wanted: Wanted) -> list[Extent]:
        """What of its window is not covered yet, the nearest first, as far as there is room."""
        planned: list[Extent] = []
        for wish in self.wishes(self.covered_units, window):
            start, stop = max(wish.start, limit.start), min(wish.stop, limit.stop)
            asked = wanted(start, stop) if start < stop else []
            for extent in reversed(asked) if self.backward else asked:
                taken = nearest(extent, room, backward=self.backward)
                if taken.length:
                    planned.append(taken)
                    self.ahead.add(*taken)
                    room -= taken.length
                if taken.length < extent.length:
                    self._covered_to(taken.start if self.backward else taken.stop, window)
                    return planned
        self._covered_to(limit.start if self.backward else limit.stop, window)
        return planned

    def _covered_to(self, index: int, window: int) -> None:
        self.covered_units = max(self.covered_units, min(self.units_to(index), window))


def nearest(extent: Extent, units: int, *, backward: bool = False) -> Extent:
    """The first `units` of it in the direction of reading."""
    if extent.length <= units:
        return extent
    if backward:
        return Extent(extent.stop - units, extent.stop)
    return Extent(extent.start, extent.start + units)


class StreamTable:
    """The streams of one handle, the one that was read last first."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.reads = 0
        self.returned = False
        """The last read continued a stream that had been dropped."""

    def accessed(self, start: int, stop: int, now: float, gap_units: int) -> Stream:
        """The stream that this read continues, or founds. A repetition changes nothing."""
        self.reads += 1
        self.returned = False
        stream, proof = self._best(start, stop, gap_units)
        if stream is None:
            stream = self._founded(start, stop, now)
        else:
            self.streams.remove(stream)
            if proof:
                self.returned, stream.dropped = stream.dropped, False
                stream.continued(start, stop, now, proof)
        self.streams.insert(0, stream)
        stream.read_number = self.reads
        return stream

    def _best(self, start: int, stop: int, gap_units: int) -> tuple[Stream | None, int]:
        best, best_proof = None, 0
        for stream in self.streams:
            if stream.repeats(start, stop):
                return stream, 0
            proof = stream.proof_of(start, stop, gap_units)
            if proof == PROOF_CONTIGUOUS and stream.proven:
                return stream, proof
            if proof > best_proof:
                best, best_proof = stream, proof
        return best, best_proof

    def _founded(self, start: int, stop: int, now: float) -> Stream:
        stride = self._stride_to(start)
        stream = Stream(start, stop, now, run_units=stop - start)
        if stride:
            stream.kind, stream.stride, stream.proof = "strided", stride, PROOF_WANTED
            stream.run_units *= 4  # of this stride
        elif not start:  # from the beginning: as in Linux, that is where one begins to read on
            stream.kind, stream.proof = "sequential", PROOF_WANTED
        return stream

    def _stride_to(self, start: int) -> int:
        """The distance at which three single reads lie before this one; 0 if there is none."""
        singles = {s.start for s in self.streams if s.kind == "single"}
        for near in singles:
            stride = start - near
            if stride and all(near - n * stride in singles for n in range(1, STRIDES_FOUND)):
                return stride
        return 0

    def missed(self, stream: Stream) -> int:
        """Reads of others since its last one."""
        return self.reads - stream.read_number

    def trim(self) -> list[Stream]:
        """Forget, and return, what is beyond the sixteen used last."""
        forgotten = self.streams[STREAMS_MAX:]
        del self.streams[STREAMS_MAX:]
        return forgotten

    def proven(self) -> list[Stream]:
        return [s for s in self.streams if s.proven and not s.dropped]
