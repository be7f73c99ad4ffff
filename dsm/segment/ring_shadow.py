"""A local replica of a ring, of the same geometry, filled with what was pulled.

         tail (theirs)                      head (theirs)
    ───────┬──────────────────────────────────┬──────▶ seq
      gone │ ░░░██████░░░░▓▓▓▓▓░░░░░░░░░░██░░░ │ not yet     █ whole   ▓ header only   ░ missing

`head` and `tail` are what the origin said last; `filled` says what is here. Bytes lie where they
lie at the origin, so a run of blocks is stored as one copy. A stored block was verified. What a
reader holds a view of is never overwritten: `fill_*` raises `BudgetExceeded` instead, and who
fills delivers that run as private bytes (`split_run`). The file is sparse: memory is reserved
ahead of a store (`NoSpace`, never SIGBUS) and given back by `evict`; of blocks whose headers alone
are here, the pages that hold them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence

from dsm.errors import BudgetExceeded, NotFilled, UsageError
from dsm.model import Extent
from dsm.segment.block import Block, BlockRun, head_matches, matches
from dsm.segment.layout import HEAD, ROW, ROW_BYTES, TAIL, WHOLE
from dsm.segment.lease import RingLeases
from dsm.segment.mapping import Mapping
from dsm.segment.reservation import Reservation
from dsm.segment.ring import RingReader
from dsm.segment.run_check import Fields, bad_blocks, contiguous, rows_of
from dsm.segment.shadow_map import ShadowMap

_unpack_row = ROW.unpack_from
_STEP_BYTES = 1 << 18
"""Memory is reserved this much at a time; a ring is mostly filled in sequence."""

SCATTERED_BYTES = 8192
"""From header to header: above, most pages would be reserved for nothing."""


class RingShadow(RingReader):
    """A replica of a ring. One handle fills it; its blocks stay what they are while held."""

    def __init__(self, mapping: Mapping, *, write: bool) -> None:
        super().__init__(mapping)
        place, memory = self._layout, mapping.memory
        self._writable = write
        self._rows_out = memory[place.rows : place.rows + len(self._rows)]
        self._data_out = memory[place.data : place.data + self._capacity]
        filled = memory[place.filled : place.filled + self._slots * 4]
        self._map = ShadowMap(self._info, self._control, self._rows, filled)
        self._leases = RingLeases(self._data)
        self._memory = Reservation(mapping.fd, mapping.path, place.file_bytes, _STEP_BYTES)
        if write:
            # Reading a hole of a full tmpfs is SIGBUS too, and the map is read at every turn.
            self._memory.need(place.filled, self._slots * 4)
            self._map.recover()

    def _views(self) -> list[memoryview]:
        self._leases.release()
        return [*super()._views(), self._rows_out, self._data_out, *self._map.views()]

    def abandon(self) -> None:
        self._writable = False

    # -- reading ----------------------------------------------------------------------------

    def block(self, seq: int) -> Block:
        """View of what is here of one block: all of it, or (`filled`) its first bytes.

        Its bytes do not change as long as any view of them is alive. Raises `NotFilled`,
        `Overrun`, `OutOfRange`.
        """
        if seq >= self._control[HEAD] or seq < 0:
            raise self._not_yet(seq)
        slot = seq % self._slots
        have = self._map.words[slot]
        fields = _unpack_row(self._rows, slot * ROW_BYTES)
        length = fields[3] if have & WHOLE else have - 1
        if have:
            data = self._leases.view(fields[1], length)
        if seq < self._control[TAIL]:
            raise self._too_late(seq)
        if not have:
            raise NotFilled(self.name, f"block {seq} was not pulled yet")
        return Block(seq, fields[2], data, self._header_bytes, None, fields)

    def filled(self, seq: int) -> int:
        """0: nothing of it is here; 1 + n: its row and its first n bytes are."""
        if not self._control[TAIL] <= seq < self._control[HEAD]:
            return 0
        return self._map.words[seq % self._slots] & ~WHOLE

    def missing(self, first: int, stop: int, header_bytes: int | None = None) -> list[Extent]:
        """Blocks of `[first, stop)` that are not here whole, or not with their first
        `header_bytes`. What the origin does not have (any more) is not counted."""
        first, stop = max(first, self._control[TAIL]), min(stop, self._control[HEAD])
        return self._map.missing(first, stop, header_bytes) if first < stop else []

    def _readable(self, first: int, stop: int, header_bytes: int | None) -> int:
        gaps = self.missing(first, stop, header_bytes)
        if gaps and gaps[0].start == first:
            raise NotFilled(self.name, f"block {first} was not pulled yet")
        return gaps[0].start if gaps else stop

    # -- the origin's word ------------------------------------------------------------------

    def advance(self, head: int, tail: int) -> None:
        """The origin holds `[tail, head)` now. Never goes back; what is below `tail` is gone."""
        self._check_writable()
        self._map.advance(head, tail)
        self._mapping.ring_bell()

    # -- filling ----------------------------------------------------------------------------

    def can_fill(self, run: BlockRun) -> bool:
        """No reader holds a view of what lies where this run goes."""
        rows = rows_of(run, self._info)
        return not rows or not self._in_the_way(rows)

    def fill_blocks(self, run: BlockRun) -> list[int]:
        """Store a run of `copy_blocks`; returns what was not stored because its checksum failed.

        Raises `BudgetExceeded` where a reader holds what lies there, or `NoSpace`; then nothing
        was stored.
        """
        rows = rows_of(run, self._info)
        if rows is None or not contiguous(run, rows, self._capacity):
            return list(range(run.first, run.stop))
        bad = bad_blocks(run, rows, self._header_bytes)
        stretches = _between(rows, bad, self._control[TAIL])
        if stretches:
            self._make_room([*stretches[0], *stretches[-1]], data=False)
        for good in stretches:
            start, end = good[0][1], good[-1][1] + good[-1][3]
            at = start - rows[0][1]
            data = memoryview(run.data)[at : at + end - start]
            self._memory.write(self._layout.data + start % self._capacity, data)
            self._store_rows(good, run)
            self._map.set(good[0][0], array("I", [WHOLE | (1 + row[3]) for row in good]))
        return bad

    def fill_heads(self, run: BlockRun, header_bytes: int) -> list[int]:
        """Store a run of `copy_heads`; as `fill_blocks`.

        A head shorter than the ring's own `header_bytes` cannot be verified until the rest comes.
        """
        rows = rows_of(run, self._info)
        lengths = [] if rows is None else [min(row[3], header_bytes) for row in rows]
        if rows is None or sum(lengths) != len(run.data):
            return list(range(run.first, run.stop))
        wanted = [row for row in rows if row[0] >= self._control[TAIL]]
        if not wanted:
            return []
        scattered = wanted[-1][1] - wanted[0][1] > SCATTERED_BYTES * len(wanted)
        self._make_room(wanted, data=not scattered)
        bad, deeper, at, data, tail = [], [], 0, memoryview(run.data), self._control[TAIL]
        for row, length in zip(rows, lengths, strict=True):
            head, at = data[at : at + length], at + length
            offset = row[1] % self._capacity
            if not self._good_head(row, head):
                bad.append(row[0])
            elif self.filled(row[0]) > length:
                deeper.append(row[0])  # more of it is here
            elif row[0] >= tail and scattered:
                self._memory.write(self._layout.data + offset, head)
            elif row[0] >= tail:
                self._data_out[offset : offset + length] = head
        for good in _between(rows, bad + deeper, tail):
            self._store_rows(good, run)
            self._map.set(good[0][0], array("I", [_head_word(row, header_bytes) for row in good]))
        return bad

    def fill_bodies(self, run: BlockRun, header_bytes: int) -> list[int]:
        """Store a run of `copy_bodies`, which makes blocks whole whose heads are here.

        Returns also those whose heads are not here, or are not of these rows.
        """
        rows = rows_of(run, self._info)
        lengths = [] if rows is None else [max(0, row[3] - header_bytes) for row in rows]
        if rows is None or sum(lengths) != len(run.data):
            return list(range(run.first, run.stop))
        bad, at, data = [], 0, memoryview(run.data)
        for row, length in zip(rows, lengths, strict=True):
            body, at = data[at : at + length], at + length
            if row[0] >= self._control[TAIL] and not self._complete(row, body, header_bytes):
                bad.append(row[0])
        return bad

    def _good_head(self, row: Fields, head: memoryview) -> bool:
        if len(head) == row[3]:
            return matches(row, head, self._header_bytes)
        if len(head) < self._header_bytes:
            return True
        return head_matches(row, head, self._header_bytes)

    def _complete(self, row: Fields, body: memoryview, header_bytes: int) -> bool:
        slot = row[0] % self._slots
        have, kept = self._map.words[slot], _unpack_row(self._rows, slot * ROW_BYTES)
        if not have or kept != row or (have & ~WHOLE) - 1 < min(header_bytes, row[3]):
            return False
        if have & WHOLE:
            return True
        self._make_room([row])
        offset = row[1] % self._capacity
        start = offset + min(header_bytes, row[3])
        # In place before it is verified: nobody looks at bytes that are not marked as filled. What
        # is filled beyond `header_bytes` is left as it is, somebody may hold it.
        known = max(0, have - 1 - min(header_bytes, row[3]))
        self._data_out[start + known : start + len(body)] = body[known:]
        if not matches(row, self._data[offset : offset + row[3]], self._header_bytes):
            return False
        self._map.set(row[0], array("I", [WHOLE | (1 + row[3])]))
        return True

    def _make_room(self, rows: Sequence[Fields], *, data: bool = True) -> None:
        """Drop what lies where these blocks go, and have memory for their rows and `data`."""
        self._check_writable()
        start, end = rows[0][1], rows[-1][1] + rows[-1][3]
        self._map.advance(rows[-1][0] + 1, 0)
        self._map.drop_before(end - self._capacity)
        if self._in_the_way(rows):
            raise BudgetExceeded(
                f"segment {self.name!r}: readers hold blocks that lie where {rows[0][0]} to "
                f"{rows[-1][0]} go; let go of them, or take these as private bytes"
            )
        self._reserve(rows[0][0], rows[-1][0] + 1 - rows[0][0], start, end if data else start)
        self._map.reached(rows[0][0], rows[-1][0] + 1, end)

    def _in_the_way(self, rows: Sequence[Fields]) -> bool:
        return self._leases.in_the_way(rows[0][1], rows[-1][1] + rows[-1][3])

    def _reserve(self, seq: int, count: int, start: int, end: int) -> None:
        place = self._layout
        for at, length in _pieces(start, end - start, self._capacity):
            self._memory.need(place.data + at, length)
        for slot, number in _pieces(seq, count, self._slots):
            self._memory.need(place.rows + slot * ROW_BYTES, number * ROW_BYTES)

    def _store_rows(self, rows: Sequence[Fields], run: BlockRun) -> None:
        at = (rows[0][0] - run.first) * ROW_BYTES
        for slot, count in _pieces(rows[0][0], len(rows), self._slots):
            size = count * ROW_BYTES
            self._rows_out[slot * ROW_BYTES : slot * ROW_BYTES + size] = run.rows[at : at + size]
            at += size

    def _check_writable(self) -> None:
        if not self._writable:
            raise UsageError(f"segment {self.name!r}: this shadow was opened to read")

    # -- memory -----------------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """Memory that the file takes, tables included."""
        return os.fstat(self._mapping.fd).st_blocks * 512

    def evict(self, below_seq: int) -> None:
        """Forget blocks below `below_seq` and give back all memory that holds no block, except
        what readers hold."""
        self._check_writable()
        live = self._map.forget(below_seq)
        held = self._leases.held()
        for at, length in _pieces(
            live.stop, live.start + self._capacity - live.stop, self._capacity
        ):
            for extent in _without(Extent(at, at + length), held, self._capacity):
                base = self._layout.data
                self._memory.give_back(Extent(base + extent.start, base + extent.stop))


def _head_word(row: Fields, header_bytes: int) -> int:
    return WHOLE | (1 + row[3]) if row[3] <= header_bytes else 1 + header_bytes


def _between(rows: list[Fields], bad: list[int], tail: int) -> list[list[Fields]]:
    """Stretches of rows without the bad ones and those below `tail`."""
    out: list[list[Fields]] = [[]]
    unwanted = set(bad)
    for row in rows:
        if row[0] in unwanted or row[0] < tail:
            out.append([])
        else:
            out[-1].append(row)
    return [rows for rows in out if rows]


def _pieces(start: int, length: int, lap: int) -> list[tuple[int, int]]:
    """(offset, length) of a logical range in an area that wraps."""
    length = min(length, lap)
    offset = start % lap
    first = min(length, lap - offset)
    return [(offset, first), (0, length - first)] if length > first else [(offset, first)]


def _without(extent: Extent, held: list[Extent], lap: int) -> list[Extent]:
    left = [extent]
    for start, stop in held:
        for at, length in _pieces(start, stop - start, lap):
            left = [
                piece
                for a, b in left
                for piece in (Extent(a, min(b, at)), Extent(max(a, at + length), b))
                if piece.length > 0
            ]
    return left
