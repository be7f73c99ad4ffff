"""Committing to a region.

    choose a free buffer ─▶ touched += 1 ─▶ bring it up to date ─▶ invalidate the written pages
        ─▶ the caller writes ─▶ compare with current ─▶ page versions, CRCs ─▶ publish ─▶ bell

At rest the writer holds an exclusive lock on every buffer that is free, so that no late reader can
pin one. After publishing it takes the buffer that was current; where a reader has it pinned it
counts as pinned, and only while two others are free may the new current buffer be pinned in turn.
So the writer always has somewhere to go.

What a killed writer left in a buffer that it did not publish is harmless: a page whose version
differs from the current buffer's is copied again before the buffer is used; pages being written
have a version that equals no other; versions beyond the published one are wiped by the next writer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from array import array
from collections.abc import Iterator
from typing import Any

from dsm.errors import BudgetExceeded, UsageError
from dsm.model import Extent
from dsm.segment.layout import (
    BELL_OFFSET,
    LOCK_BUFFER,
    PINNABLE,
    PUBLISHED,
    TOUCHED,
    VERSION_INVALID,
)
from dsm.segment.locks import lock_exclusive, unlock
from dsm.segment.mapping import Mapping
from dsm.segment.native import address_of, loan_of
from dsm.segment.pages import (
    Buffer,
    buffers_of,
    crcs_of,
    differing,
    mark,
    outdated,
    page_span,
    pages_of,
)
from dsm.segment.region import RegionReader

_FREE_S_MAX = 1.0
"""How long `write` waits for a buffer. Readers do not make it wait; see the header."""


class RegionWriter(RegionReader):
    """The one producer of a region; also a reader of it."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        self._out = buffers_of(self._info, mapping.memory)
        self._addresses = [address_of(buffer.data) for buffer in self._out]
        self._writing = threading.Lock()
        self._free: set[int] = set()
        self._unwiped = set(range(self._info.buffers))
        self._found_version = self.version
        self._held: dict[int, weakref.ref[Any]] = {}
        self._turn = self._current
        self._take_free()
        self._publish(self.version, self._current)

    @property
    def _current(self) -> int:
        return self._control[PUBLISHED] & 7

    def _views(self) -> list[memoryview]:
        return super()._views() + [view for buffer in self._out for view in buffer]

    def abandon(self) -> None:
        self.close()

    @contextlib.contextmanager
    def write(self, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """A writable view of `[offset, offset + length)` of the next version, holding the current
        content. Leaving the block commits one version, if anything changed; an exception in it
        discards what was written.

        Nothing made from the view (a slice, a numpy array) may outlive the block: that raises
        `UsageError` and nothing is published. Raises `OutOfRange`.
        """
        extent = self._extent(offset, length)
        if not self._writing.acquire(blocking=False):
            raise UsageError(f"segment {self.name!r}: a write is open; leave it first")
        try:
            index = self._prepare(extent)
            loan = loan_of(self._out[index].data[extent.start : extent.stop])
            view = memoryview(loan).cast("B")
            self._held[index] = weakref.ref(loan)
            del loan
            try:
                yield view
            finally:
                kept = self._still_held(index, view)
            if kept:
                raise UsageError(
                    f"segment {self.name!r}: a slice or an array made from the write view is "
                    "still alive; delete it before leaving the block; nothing was published"
                )
            self._commit(index, pages_of(self._info, extent.start, extent.length))
        finally:
            self._writing.release()

    def _still_held(self, index: int, view: memoryview) -> bool:
        with contextlib.suppress(BufferError):
            view.release()
        return self._is_held(index)

    def _is_held(self, index: int) -> bool:
        loan = self._held.get(index)
        return loan is not None and loan() is not None

    # -- before -----------------------------------------------------------------------------

    def _prepare(self, extent: Extent) -> int:
        """A free buffer with the current content, its pages to be written marked invalid."""
        index = self._choose()
        self._control[TOUCHED + index] += 1
        ours, current = self._out[index], self._buffers[self._current]
        for pages in outdated(ours, current):
            span = page_span(self._info, *pages)
            ours.data[span] = current.data[span]
        ours.crcs[:] = current.crcs
        ours.groups[:] = current.groups
        ours.versions[:] = current.versions
        pages = pages_of(self._info, extent.start, extent.length)
        ours.versions[pages.start : pages.stop] = array("Q", [VERSION_INVALID]) * pages.length
        return index

    def _choose(self) -> int:
        """The free buffer that was current longest ago: copies that still read it end well."""
        deadline_s = time.monotonic() + _FREE_S_MAX
        while True:
            self._take_free()
            count = self._info.buffers
            for index in ((self._turn + step) % count for step in range(1, count + 1)):
                if index in self._free and not self._is_held(index):
                    self._turn = index
                    return index
            if time.monotonic() > deadline_s:
                raise BudgetExceeded(
                    f"segment {self.name!r}: all {count} buffers are held; delete arrays made "
                    "from earlier write views, or create it with more buffers"
                )
            time.sleep(1e-3)

    def _take_free(self) -> None:
        for index in range(self._info.buffers):
            if index == self._current or index in self._free:
                continue
            if lock_exclusive(self._mapping.fd, LOCK_BUFFER + index):
                self._free.add(index)
                if index in self._unwiped:
                    self._wipe(index)

    def _wipe(self, index: int) -> None:
        """Make invalid what an earlier writer marked with a version that it never published."""
        buffer, version = self._out[index], self._found_version
        for page, found in enumerate(buffer.versions.tolist()):
            if found > version:
                buffer.versions[page] = VERSION_INVALID
        self._unwiped.discard(index)

    # -- after ------------------------------------------------------------------------------

    def _commit(self, index: int, pages: Extent) -> None:
        ours, current = self._out[index], self._buffers[self._current]
        a, b = self._addresses[index], self._addresses[self._current]
        changed = differing(a, b, page_span(self._info, *pages), self._info.page_bytes)
        ours.versions[pages.start : pages.stop] = current.versions[pages.start : pages.stop]
        if not changed:
            return
        version = self.version + 1
        for extent in changed:
            self._stamp(ours, extent, version)
        self._free.discard(index)
        self._unwiped.discard(index)
        unlock(self._mapping.fd, LOCK_BUFFER + index)
        self._publish(version, index)
        os.pwrite(self._mapping.fd, b"\1", BELL_OFFSET)

    def _stamp(self, buffer: Buffer, pages: Extent, version: int) -> None:
        crcs = crcs_of(buffer.data[page_span(self._info, *pages)], self._info.page_bytes)
        buffer.crcs[pages.start : pages.stop] = crcs
        mark(buffer, pages, version)

    def _publish(self, version: int, index: int) -> None:
        """First not to be pinned, because it takes a look at who holds the last one to know."""
        self._control[PUBLISHED] = version << 4 | index
        self._take_free()
        if len(self._free) >= 2:
            self._control[PUBLISHED] = version << 4 | PINNABLE | index
