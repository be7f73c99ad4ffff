"""A local replica of a region, filled page by page.

    current   ███░░░██░░░░░   pages that are here are those of `version`; filled in place
    held      ████████░░░░░   an older version, kept because a reader holds views of it
    spare     (no memory)

A view is handed out only of pages that are here, and does not change while it is held, sliced or
not. Moving to a newer version happens in place where nobody holds anything, which costs nothing;
otherwise in a spare buffer, to which the pages that stay are copied. Only then does a shadow take
more than one copy's memory, and when every buffer is held `advance` raises `BudgetExceeded`.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from dsm.errors import BudgetExceeded, NotFilled, UsageError
from dsm.model import Extent
from dsm.segment.layout import PUBLISHED, TOUCHED, region_layout
from dsm.segment.lease import BufferLeases
from dsm.segment.mapping import Mapping
from dsm.segment.pages import (
    Buffer,
    PageRuns,
    buffers_of,
    crcs_of,
    mark,
    page_span,
    runs,
    zeros,
)
from dsm.segment.region import RegionReader
from dsm.segment.reservation import Reservation
from dsm.segment.snapshot import RegionSnapshot

SHADOW_BUFFERS = 4
"""The current one and three that readers may hold on to; unused ones cost nothing."""
_STEP_BYTES = 1 << 14
"""Memory is reserved this much at a time; scattered pages would waste more with more."""


class RegionShadow(RegionReader):
    """A replica of a region. One handle fills it; what it hands out stays what it is."""

    def __init__(self, mapping: Mapping, *, write: bool) -> None:
        super().__init__(mapping)
        self._writable = write
        self._layout = region_layout(self._info)
        self._filled_at = self._layout.table + self._layout.filled_at
        self._out = buffers_of(self._info, mapping.memory)
        self._memory = Reservation(
            mapping.fd,
            mapping.path,
            self._layout.file_bytes,
            max(_STEP_BYTES, self._info.page_bytes),
        )
        self._leases = BufferLeases([buffer.data for buffer in self._buffers])
        self._lock = threading.Lock()
        self._stale: set[int] = set()
        if write:
            self._stale = set(range(self._info.buffers)) - {self._current}
            self._need_table(self._current)  # reading a hole of a full tmpfs is SIGBUS too

    @property
    def _current(self) -> int:
        return self._control[PUBLISHED] & 7

    def _views(self) -> list[memoryview]:
        self._leases.release()
        return super()._views() + [view for buffer in self._out for view in buffer]

    def abandon(self) -> None:
        super().abandon()
        self._writable = False

    # -- reading ----------------------------------------------------------------------------

    def view(self, offset: int, length: int) -> memoryview:
        """Read-only view of these bytes, which stay what they are while it is held.

        Raises `NotFilled` where pages are missing, `OutOfRange` beyond the end.
        """
        if offset < 0 or length < 0 or offset + length > self._size:
            self._extent(offset, length)
        # Looked at after the view exists, while who takes pages away does that first and then asks
        # what is held: so one of the two sees the other.
        index = -1
        while index != self._current:
            index = self._current
            view = self._leases.view(index)[offset : offset + length]
        if not self._covered(index, offset, length):
            raise NotFilled(
                self.name, f"bytes [{offset}, {offset + length}) were not all pulled yet"
            )
        return view

    def covered(self, offset: int, length: int) -> bool:
        """All pages that these bytes touch are here."""
        return self._covered(self._current, offset, length)

    def _covered(self, index: int, offset: int, length: int) -> bool:
        if length <= 0:
            return True
        page_bytes = self._info.page_bytes
        base = self._filled_at + index * self._layout.table_bytes
        start, stop = offset // page_bytes, -(-(offset + length) // page_bytes)
        return self._mapping.find_zero(base + start, base + stop) < 0

    def missing(self, first_page: int = 0, stop_page: int | None = None) -> list[Extent]:
        """Pages that are not here."""
        stop_page = self._info.pages if stop_page is None else stop_page
        return zeros(bytes(self._buffers[self._current].filled[first_page:stop_page]), first_page)

    def read(self, offset: int = 0, length: int | None = None) -> memoryview:
        """A private copy; raises `NotFilled` where pages are missing."""
        extent = self._extent(offset, length)
        return memoryview(bytes(self.view(extent.start, extent.length)))

    def snapshot(self) -> RegionSnapshot:
        """The current version, whole; raises `NotFilled` where pages are missing."""
        return self._snapshot((Extent(0, self._info.pages),))

    def copy_pages(self, extents: Sequence[Extent]) -> PageRuns:
        """Pages that are here, verified: what a relay exports. Raises `NotFilled`."""
        return self._snapshot(extents).copy_pages(extents)

    def _snapshot(self, needed: Iterable[Extent]) -> RegionSnapshot:
        """The current version, of which these pages must be here."""
        with self._lock:
            version, index = self.version, self._current
            for first, stop in needed:
                span = page_span(self._info, first, stop)
                if not self._covered(index, span.start, span.stop - span.start):
                    raise NotFilled(
                        self.name, f"pages [{first}, {stop}) of version {version} were not pulled"
                    )
            view = self._leases.view(index)[:]
            tables = Buffer(*[table[:] for table in self._buffers[index]])
        return RegionSnapshot(self._info, version, tables._replace(data=view), pinned=True)

    # -- filling ----------------------------------------------------------------------------

    def fill_pages(self, found: PageRuns) -> list[int]:
        """Store pages that belong to `version`, whatever version they were fetched at.

        Returns those whose checksum failed. Pages of another version, and pages that are here
        already, are passed over; `missing` says what is still to be had. Raises `NoSpace`, and
        `ValueError` for what contradicts itself or the region's size.
        """
        self._check_writable()
        self._check_form(found)
        pages = [page for run in found.runs for page in range(*run)]
        crcs, ours = array("I", found.crcs), crcs_of(found.data, self._info.page_bytes)
        bad = set()
        if crcs != ours:
            bad = {page for page, a, b in zip(pages, crcs, ours, strict=True) if a != b}
        data, page_bytes = memoryview(found.data), self._info.page_bytes
        with self._lock:
            self._need_table(self._current)
            for first, stop in runs(self._wanted(found, pages, bad)):
                at = bisect_left(pages, first)
                self._store(first, stop, crcs[at : at + stop - first], data[at * page_bytes :])
        return sorted(bad)

    def _check_form(self, found: PageRuns) -> None:
        end = count = size = 0
        for first, stop in found.runs:
            if not end <= first < stop <= self._info.pages:
                raise ValueError(f"pages [{first}, {stop}) after {end} of {self._info.pages}")
            span = page_span(self._info, first, stop)
            end, count, size = stop, count + stop - first, size + span.stop - span.start
        sizes = len(found.versions), len(found.crcs), len(found.data)
        if sizes != (8 * count, 4 * count, size):
            raise ValueError(f"{count} pages with {sizes} bytes of versions, checksums and data")

    def _wanted(self, found: PageRuns, pages: list[int], bad: set[int]) -> list[int]:
        """Which pages to store: those that did not change between their version and ours.

        A page that is said to be older than our version is ours, unless we know of a change after
        it was taken.
        """
        ours, version = self._out[self._current], self.version
        filled, known = ours.filled, ours.versions
        return [
            page
            for page, theirs in zip(pages, array("Q", found.versions), strict=True)
            if not filled[page]
            and theirs <= version
            and known[page] <= found.version
            and page not in bad
        ]

    def _store(self, first: int, stop: int, crcs: array[int], data: memoryview) -> None:
        """`data` begins with these pages."""
        ours, span = self._out[self._current], page_span(self._info, first, stop)
        start = self._layout.data + self._current * self._layout.buffer_bytes
        self._memory.write(start + span.start, data[: span.stop - span.start])
        ours.crcs[first:stop] = crcs
        ours.filled[first:stop] = b"\1" * (stop - first)

    def _need_table(self, index: int) -> None:
        place = self._layout
        self._memory.need(place.table + index * place.table_bytes, place.table_bytes)

    def _check_writable(self) -> None:
        if not self._writable:
            raise UsageError(f"segment {self.name!r}: this shadow was opened to read")

    # -- versions ---------------------------------------------------------------------------

    def advance(self, version: int, changed: Iterable[Extent]) -> None:
        """Move to `version`; `changed` are all pages that changed since ours. They are missing
        then. Older versions are ignored. Raises `BudgetExceeded` where every buffer is held."""
        self._check_writable()
        with self._lock:
            if version <= self.version:
                return
            index = self._current
            self._need_table(index)
            pages = [Extent(max(0, a), min(b, self._info.pages)) for a, b in changed]
            pages = [extent for extent in pages if extent.length > 0]
            taken = self._take_away(index, pages)
            if self._leases.held(index):
                try:
                    index = self._go_round(index)
                except BaseException:
                    self._put_back(index, taken)
                    raise
            else:
                self._control[TOUCHED + index] += 1
            for extent in pages:
                mark(self._out[index], extent, version)
            self._control[PUBLISHED] = version << 4 | index
            self._reclaim()
        self._mapping.ring_bell()

    def _take_away(self, index: int, pages: list[Extent]) -> list[tuple[slice, bytes]]:
        """These pages are missing from now on; only then is asked who holds views (see `view`).

        Returns what `_put_back` takes, where somebody does.
        """
        filled = self._out[index].filled
        taken = [(slice(*extent), bytes(filled[slice(*extent)])) for extent in pages]
        for place, flags in taken:
            filled[place] = bytes(len(flags))
        return taken

    def _put_back(self, index: int, taken: list[tuple[slice, bytes]]) -> None:
        for place, flags in taken:
            self._out[index].filled[place] = flags

    def _go_round(self, index: int) -> int:
        """Make a spare buffer a copy of what is here; returns it."""
        spare = self._spare(index)
        self._control[TOUCHED + spare] += 1
        self._need_table(spare)
        theirs, ours = self._out[index], self._out[spare]
        keep = bytes(theirs.filled)
        self._stale.add(spare)  # until it is current: what is copied may have to be given back
        start = self._layout.data + spare * self._layout.buffer_bytes
        for extent in _set(keep):
            span = page_span(self._info, *extent)
            self._memory.need(start + span.start, span.stop - span.start)
            ours.data[span] = theirs.data[span]
        ours.versions[:] = theirs.versions
        ours.groups[:] = theirs.groups
        ours.crcs[:] = theirs.crcs
        ours.filled[:] = keep
        self._stale.discard(spare)
        self._stale.add(index)
        return spare

    def _spare(self, current: int) -> int:
        for index in range(self._info.buffers):
            if index != current and not self._leases.held(index):
                return index
        raise BudgetExceeded(
            f"segment {self.name!r}: readers hold views of {self._info.buffers} versions of its "
            "shadow, which is the most; let go of older ones"
        )

    # -- memory -----------------------------------------------------------------------------

    @property
    def resident_bytes(self) -> int:
        """Memory that the file takes, tables included."""
        with self._lock:
            self._reclaim()
        return os.fstat(self._mapping.fd).st_blocks * 512

    def drop(self, pages: Extent) -> int:
        """Forget these pages and give their memory back; returns how many bytes. Nothing where a
        reader holds a view."""
        self._check_writable()
        with self._lock:
            index = self._current
            self._need_table(index)
            pages = Extent(max(0, pages.start), min(pages.stop, self._info.pages))
            taken = self._take_away(index, [pages])
            if self._leases.held(index):
                self._put_back(index, taken)
                return 0
            self._control[TOUCHED + index] += 1
            return self._give_back(index, page_span(self._info, *pages))

    def _give_back(self, index: int, span: slice) -> int:
        start = self._layout.data + index * self._layout.buffer_bytes
        stop = span.stop if span.stop < self._info.size_bytes else self._layout.buffer_bytes
        return self._memory.give_back(Extent(start + span.start, start + stop))

    def _reclaim(self) -> None:
        """Give back what only holders kept."""
        for index in [index for index in self._stale if not self._leases.held(index)]:
            self._give_back(index, slice(0, self._info.size_bytes))
            self._stale.discard(index)


def _set(flags: bytes) -> list[Extent]:
    """Extents of bytes that are set."""
    return zeros(flags.translate(_INVERT), 0)


_INVERT = b"\1" + bytes(255)
