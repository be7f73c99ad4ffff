"""What of a shadow is held by readers, so that filling never changes it under them.

Of a ring by groups of positions, of a region by buffers:

    data area   │ group │ group │ group │ ...        one loan a group of positions
                    ▲ views of blocks that start there, however they were sliced since

A loan is a buffer exporter: every view derived of it keeps it alive, and a weak reference tells
whether there is any. The group in use is also kept by us, so that handing out a view costs one
slice; `held` lets go of it before it looks. Who lends must look at `tail` after he has the view,
and who fills must move `tail` before he asks: then one of the two sees the other.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from dsm.model import Extent
from dsm.segment.native import loan_of

_GROUPS = 256
"""Groups in one lap: what lies between two held blocks of a group counts as held."""


class _Bounds:
    """Logical positions that the views of a group reach over."""

    __slots__ = ("loan", "start", "stop")

    def __init__(self, loan: Callable[[], Any], start: int) -> None:
        self.loan = loan
        self.start = self.stop = start


class RingLeases:
    """Loans of a ring's data area, by logical position."""

    def __init__(self, area: memoryview) -> None:
        self._area = area
        self._capacity = len(area)
        self._group_bytes = max(4096, self._capacity // _GROUPS)
        self._groups: dict[int, _Bounds] = {}
        self._none = (-1, area, _Bounds(_nobody, 0))
        self._current = self._none
        self._lock = threading.Lock()

    def view(self, pos: int, length: int) -> memoryview:
        group, view, bounds = self._current
        if group != pos // self._group_bytes:
            group, view, bounds = self._switch(pos)
        if pos < bounds.start:
            bounds.start = pos
        if pos + length > bounds.stop:
            bounds.stop = pos + length
        offset = pos % self._capacity
        return view[offset : offset + length]

    def _switch(self, pos: int) -> tuple[int, memoryview, _Bounds]:
        group = pos // self._group_bytes
        with self._lock:
            bounds = self._groups.get(group)
            loan = None if bounds is None else bounds.loan()
            if bounds is None or loan is None:
                loan = loan_of(self._area)
                bounds = self._groups[group] = _Bounds(weakref.ref(loan), pos)
            view = memoryview(loan).cast("B").toreadonly()
            self._current = (group, view, bounds)
            return self._current

    def held(self) -> list[Extent]:
        """Logical positions of which views may be alive."""
        with self._lock:
            self._current = self._none
            self._groups = {g: b for g, b in self._groups.items() if b.loan() is not None}
            return [Extent(b.start, b.stop) for b in self._groups.values()]

    def in_the_way(self, start: int, stop: int) -> bool:
        """Would writing these positions change what an earlier lap's holder sees?

        In the same lap no two blocks share a byte, and a block is lent only after it was filled.
        """
        for extent in self.held():
            laps = max(
                1, (start - extent.stop) // self._capacity + 1
            )  # so that it ends after start
            if extent.start + laps * self._capacity < stop:
                return True
        return False

    def release(self) -> None:
        self._area = memoryview(b"")
        self._current = self._none = (-1, self._area, self._none[2])


def _nobody() -> None:
    return None


class BufferLeases:
    """Loans of a region's buffers, each as a whole."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self._buffers = buffers
        self._loans: dict[int, weakref.ref[Any]] = {}
        self._current: tuple[int, memoryview] = (-1, memoryview(b""))
        self._lock = threading.Lock()

    def view(self, index: int) -> memoryview:
        """The whole buffer, read-only; slice it, do not keep it."""
        known, view = self._current
        return view if known == index else self._switch(index)

    def _switch(self, index: int) -> memoryview:
        with self._lock:
            known = self._loans.get(index)
            loan = None if known is None else known()
            if loan is None:
                loan = loan_of(self._buffers[index])
                self._loans[index] = weakref.ref(loan)
            view = memoryview(loan).cast("B").toreadonly()
            self._current = (index, view)
            return view

    def held(self, index: int) -> bool:
        """Some view of this buffer is alive, beside the one that is kept for handing out more."""
        with self._lock:
            self._current = (-1, memoryview(b""))
            loan = self._loans.get(index)
            return loan is not None and loan() is not None

    def release(self) -> None:
        self._current = (-1, memoryview(b""))
        self._buffers = []
