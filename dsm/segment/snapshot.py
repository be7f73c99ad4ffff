"""One version of a region, whole and unchanging.

Pinned, it is the memory of the buffer itself, and the writer goes round it. Where no more pins may
be taken it is a private copy. Either way its tables (page versions, CRCs) are of the same version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import TracebackType

from dsm.errors import ChecksumMismatch, Closed, OutOfRange
from dsm.model import Extent, SegmentInfo
from dsm.segment.pages import EXTENTS_MAX, Buffer, PageRuns, changed, crcs_of, page_span


class RegionSnapshot:
    """`with region.snapshot() as view:` gives the read-only memoryview; `version` says of what.

    Slices of the view may outlive the block: they stay what they are, and as long as they live
    the pin is held.
    """

    def __init__(self, info: SegmentInfo, version: int, buffer: Buffer, *, pinned: bool) -> None:
        self.info = info
        self.version = version
        self.pinned = pinned
        self._buffer = buffer
        self._closed = False

    @property
    def view(self) -> memoryview:
        """The whole region, read-only."""
        return self._live().data

    @property
    def nbytes(self) -> int:
        return self.info.size_bytes

    def changed_since(self, version: int, extents_max: int = EXTENTS_MAX) -> tuple[Extent, ...]:
        """Pages that changed after `version`; nearest extents are merged to `extents_max`."""
        live = self._live()
        return changed(live.versions, live.groups, version, extents_max)

    def page_crcs(self, first: int = 0, stop: int | None = None) -> bytes:
        """u32 CRC-32C of each of these pages."""
        extent = self._pages(first, stop)
        return bytes(self._live().crcs[extent.start : extent.stop])

    def copy_pages(self, extents: Iterable[Extent]) -> PageRuns:
        """These pages (ascending, disjoint), verified; `OutOfRange` or `ChecksumMismatch`."""
        runs = tuple(self._pages(*extent) for extent in extents)
        live = self._live()
        data = b"".join([live.data[page_span(self.info, *run)] for run in runs])
        crcs = b"".join([live.crcs[first:stop] for first, stop in runs])
        versions = b"".join([live.versions[first:stop] for first, stop in runs])
        self._check(runs, data, crcs)
        return PageRuns(self.version, runs, versions, crcs, data)

    def verify(self) -> None:
        """Check every page; raises `ChecksumMismatch`."""
        live = self._live()
        self._check((self._pages(0, None),), live.data, bytes(live.crcs))

    def _check(self, runs: Iterable[Extent], data: bytes | memoryview, crcs: bytes) -> None:
        found = crcs_of(data, self.info.page_bytes).tobytes()
        if found != crcs:
            at = next(i for i in range(0, len(crcs), 4) if found[i : i + 4] != crcs[i : i + 4])
            page = [page for run in runs for page in range(*run)][at // 4]
            raise ChecksumMismatch(
                self.info.name,
                f"page {page} of version {self.version} is not what was committed",
            )

    def _pages(self, first: int, stop: int | None) -> Extent:
        stop = self.info.pages if stop is None else stop
        if not 0 <= first <= stop <= self.info.pages:
            raise OutOfRange(
                f"segment {self.info.name!r}: pages [{first}, {stop}) are not within "
                f"[0, {self.info.pages})"
            )
        return Extent(first, stop)

    def _live(self) -> Buffer:
        if self._closed:
            raise Closed(f"segment {self.info.name!r}: this snapshot was left; take another")
        return self._buffer

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for view in self._buffer:
            with contextlib.suppress(BufferError):  # a numpy array over it: it keeps the pin
                view.release()
        del self._buffer

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        how = "pinned" if self.pinned else "copied"
        return f"<RegionSnapshot {self.info.name!r} version {self.version}, {how}>"
