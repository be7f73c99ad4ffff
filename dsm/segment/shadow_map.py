"""What of a ring is in its shadow: the `filled` words, and the bounds of what they say.

    word of a slot    0: nothing   1 + n: row and first n bytes   bit 31: that is all of it

Only slots of `[tail, head)` are ever set: whatever falls below `tail` is wiped, after `tail` was
stored, so a set word is always that of the block that the slot stands for now.
"""

from __future__ import annotations

from array import array

from dsm.model import Extent, SegmentInfo
from dsm.segment.layout import HEAD, ROW, ROW_BYTES, TAIL, WHOLE
from dsm.segment.pages import zeros

_IS_WHOLE = bytes(128) + b"\1" * 128
"""Translates the top byte of a word: is bit 31 set?"""


class ShadowMap:
    """`low` and `high` bound the blocks of which there is anything; `end` is where they end."""

    def __init__(
        self,
        info: SegmentInfo,
        control: memoryview[int],
        rows: memoryview,
        filled: memoryview,
    ) -> None:
        self._slots = info.slots
        self._control = control
        self._rows = rows
        self._bytes = filled
        self.words = filled.cast("I")
        self._low = self._high = self._end = 0

    def views(self) -> list[memoryview]:
        return [self.words, self._bytes]

    def recover(self) -> None:
        """After opening: believe only words of blocks that can be there."""
        tail, head = self._control[TAIL], self._control[HEAD]
        seqs = []
        for slot, word in enumerate(self.words.tolist()):
            if word:
                seq, pos, _, length, *_ = ROW.unpack_from(self._rows, slot * ROW_BYTES)
                if not (tail <= seq < head and seq % self._slots == slot):
                    self.words[slot] = 0
                    continue
                seqs.append(seq)
                self._end = max(self._end, pos + length)
        if seqs:
            self._low, self._high = min(seqs), max(seqs) + 1

    def set(self, first: int, words: array[int]) -> None:
        slot = first % self._slots
        fits = min(len(words), self._slots - slot)
        self.words[slot : slot + fits] = words[:fits]
        if fits < len(words):
            self.words[: len(words) - fits] = words[fits:]

    def reached(self, first: int, stop: int, end: int) -> None:
        """Blocks `[first, stop)`, ending at position `end`, are about to be set."""
        empty = self._low >= self._high
        self._low = first if empty else min(self._low, first)
        self._high = stop if empty else max(self._high, stop)
        self._end = end if empty else max(self._end, end)

    def advance(self, head: int, tail: int) -> None:
        """Store what the origin said, and wipe what it does not hold any more."""
        head = max(head, tail, self._control[HEAD])
        tail = max(tail, self._control[TAIL], head - self._slots)
        if tail > self._control[TAIL]:
            self._control[TAIL] = tail
        self._control[HEAD] = head
        self.wipe(tail)

    def wipe(self, stop: int) -> None:
        """Nothing below `stop` is here any more."""
        stop = min(stop, self._high)
        if self._low < stop:
            self.set(self._low, array("I", bytes(4 * min(stop - self._low, self._slots))))
            self._low = stop

    def drop_before(self, pos: int) -> None:
        """What starts before `pos` is about to be overwritten: it leaves `[tail, head)` first."""
        while self._low < self._high:
            if self.words[self._low % self._slots]:
                row = ROW.unpack_from(self._rows, self._low % self._slots * ROW_BYTES)
                if row[1] >= pos:
                    return
                self._control[TAIL] = max(self._control[TAIL], self._low + 1)
                self.words[self._low % self._slots] = 0
            self._low += 1

    def forget(self, below: int) -> Extent:
        """Wipe what is below; returns the positions of what is left."""
        self.wipe(below)
        self.drop_before(0)  # moves on to a block that is here
        if self._low >= self._high:
            return Extent(self._end, self._end)
        row = ROW.unpack_from(self._rows, self._low % self._slots * ROW_BYTES)
        return Extent(row[1], self._end)

    def missing(self, first: int, stop: int, header_bytes: int | None) -> list[Extent]:
        slot, count = first % self._slots, stop - first
        fits = min(count, self._slots - slot)
        parts = [(slot, slot + fits)] + ([(0, count - fits)] if fits < count else [])
        if header_bytes is None:
            tops = b"".join([bytes(self._bytes[4 * a + 3 : 4 * b : 4]) for a, b in parts])
            return zeros(tops.translate(_IS_WHOLE), first)
        words = [word for a, b in parts for word in self.words[a:b].tolist()]
        if min(words) > header_bytes:
            return []
        return zeros(bytes([word > header_bytes for word in words]), first)


assert WHOLE == 1 << 31, "`_IS_WHOLE` looks at the top bit"
