"""Pages of a region: the tables of one buffer, and arithmetic over many pages at C speed.

versions   u64 a page      which commit last changed it
groups     u64 a 512 pages the newest of their versions: what is older is skipped unread
crcs       u32 a page      CRC-32C of its bytes (the last page may be short)
filled     u8 a page       shadows: the page is here
data       size_bytes
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from crc32c import crc32c

from dsm.model import Extent, SegmentInfo
from dsm.segment.layout import GROUP_PAGES, RegionLayout, region_layout
from dsm.segment.native import address_of, memcmp

EXTENTS_MAX = 64
"""Extents that a question about changes answers with unless told; nearest ones are merged."""
_COMPARE_BYTES = 1 << 20
"""Compared at a time: memcmp runs at memory speed in large pieces, and small ones come down to
what a call costs."""
_ZEROS = re.compile(rb"\0+")


class PageRuns(NamedTuple):
    """Pages of one version, in ascending and disjoint runs: of all pages in their order the
    versions (u64), then the CRCs (u32), then the bytes."""

    version: int
    runs: tuple[Extent, ...]
    versions: bytes
    crcs: bytes
    data: bytes | memoryview


class Buffer(NamedTuple):
    """One full copy of a region, and its tables."""

    versions: memoryview[int]
    groups: memoryview[int]
    crcs: memoryview[int]
    filled: memoryview[int]
    data: memoryview[int]


def buffers_of(info: SegmentInfo, memory: memoryview) -> list[Buffer]:
    layout = region_layout(info)
    return [_buffer(info, layout, memory, index) for index in range(info.buffers)]


def _buffer(info: SegmentInfo, layout: RegionLayout, memory: memoryview, index: int) -> Buffer:
    table = memory[layout.table + index * layout.table_bytes :][: layout.table_bytes]
    start = layout.data + index * layout.buffer_bytes
    return Buffer(
        versions=table[: layout.groups_at].cast("Q"),
        groups=table[layout.groups_at : layout.crcs_at].cast("Q"),
        crcs=table[layout.crcs_at : layout.filled_at].cast("I"),
        filled=table[layout.filled_at : layout.filled_at + info.pages],
        data=memory[start : start + info.size_bytes],
    )


def page_span(info: SegmentInfo, first: int, stop: int) -> slice:
    """Bytes of these pages."""
    return slice(first * info.page_bytes, min(info.size_bytes, stop * info.page_bytes))


def pages_of(info: SegmentInfo, offset: int, length: int) -> Extent:
    """Pages that these bytes touch."""
    first = offset // info.page_bytes
    return Extent(first, -(-(offset + length) // info.page_bytes) if length else first)


def crcs_of(data: memoryview | bytes, page_bytes: int) -> array[int]:
    """CRC-32C of each page of `data`, which starts on a page."""
    view = memoryview(data)
    return array(
        "I", [crc32c(view[at : at + page_bytes]) for at in range(0, len(view), page_bytes)]
    )


def runs(numbers: Iterable[int]) -> list[Extent]:
    """Extents of consecutive numbers; `numbers` ascend."""
    found: list[Extent] = []
    start = stop = -1
    for number in numbers:
        if number != stop:
            if stop >= 0:
                found.append(Extent(start, stop))
            start = number
        stop = number + 1
    if stop >= 0:
        found.append(Extent(start, stop))
    return found


def zeros(flags: bytes, base: int) -> list[Extent]:
    """Extents of zero bytes, counted from `base`."""
    return [Extent(base + at.start(), base + at.end()) for at in _ZEROS.finditer(flags)]


def merge(extents: Sequence[Extent], extents_max: int) -> tuple[Extent, ...]:
    """At most `extents_max` that cover all of `extents`, adding as little as can be."""
    if len(extents) <= extents_max:
        return tuple(extents)
    gaps = [later.start - earlier.stop for earlier, later in pairwise(extents)]
    widest = sorted(range(len(gaps)), key=gaps.__getitem__, reverse=True)[: max(1, extents_max) - 1]
    cuts = [0, *(index + 1 for index in sorted(widest)), len(extents)]
    return tuple(Extent(extents[a].start, extents[b - 1].stop) for a, b in pairwise(cuts))


def changed(
    versions: memoryview[int], groups: memoryview[int], since: int, extents_max: int
) -> tuple[Extent, ...]:
    """Pages whose version is newer than `since`."""
    return merge(runs(_newer(versions, groups, since)), extents_max)


def _newer(versions: memoryview[int], groups: memoryview[int], since: int) -> Iterator[int]:
    for group, newest in enumerate(groups.tolist()):
        if newest > since:
            first = group * GROUP_PAGES
            ages = versions[first : first + GROUP_PAGES].tolist()
            yield from [first + at for at, version in enumerate(ages) if version > since]


def mark(buffer: Buffer, pages: Extent, version: int) -> None:
    """Say that these pages were changed by `version`."""
    buffer.versions[pages.start : pages.stop] = array("Q", [version]) * pages.length
    first, stop = pages.start // GROUP_PAGES, -(-pages.stop // GROUP_PAGES)
    buffer.groups[first:stop] = array("Q", [version]) * (stop - first)


def outdated(ours: Buffer, theirs: Buffer) -> list[Extent]:
    """Pages whose versions differ between two buffers."""
    pages = len(ours.versions)
    found: list[int] = []
    a_at, b_at = address_of(ours.versions), address_of(theirs.versions)
    for first in range(0, pages, GROUP_PAGES):
        length = min(GROUP_PAGES, pages - first) * 8
        if not memcmp(a_at + first * 8, b_at + first * 8, length):
            continue
        a = ours.versions[first : first + GROUP_PAGES].tolist()
        b = theirs.versions[first : first + GROUP_PAGES].tolist()
        found += [first + at for at, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    return runs(found)


def differing(a: int, b: int, span: slice, page_bytes: int) -> list[Extent]:
    """Pages in which the memory at addresses `a` and `b` differs within `span`, which starts on a
    page. By comparing, never by checksum alone."""
    found: list[int] = []
    for at in range(span.start, span.stop, max(_COMPARE_BYTES, page_bytes)):
        end = min(span.stop, at + max(_COMPARE_BYTES, page_bytes))
        if memcmp(a + at, b + at, end - at):
            found += [
                start // page_bytes
                for start in range(at, end, page_bytes)
                if memcmp(a + start, b + start, min(page_bytes, end - start))
            ]
    return runs(found)
