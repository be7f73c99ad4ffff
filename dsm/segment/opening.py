"""Creating and opening segments: the way from a name to a reader or a writer."""

from __future__ import annotations

import math
import os
import secrets
import struct
import time
from array import array
from collections.abc import Mapping as StrMapping
from pathlib import Path

from crc32c import crc32c

from dsm.errors import UsageError, WrongKind
from dsm.model import Kind, SegmentInfo
from dsm.segment import layout
from dsm.segment.files import new_file, path_of, reserve
from dsm.segment.locks import lock_exclusive
from dsm.segment.mapping import Mapping
from dsm.segment.region import RegionReader
from dsm.segment.region_writer import RegionWriter
from dsm.segment.ring import RingReader
from dsm.segment.ring_writer import RingWriter
from dsm.segment.shadowing import shadow_of

_NOTHING: StrMapping[str, str] = {}


def create_ring(
    root: str | Path,
    name: str,
    *,
    capacity_bytes: int,
    header_bytes: int = 0,
    slots: int | None = None,
    block_deadline_ms: int = 0,
    metadata: StrMapping[str, str] = _NOTHING,
    dtype: str = "",
    shape: tuple[int, ...] = (),
) -> RingWriter:
    """Create a ring and open it to write.

    `capacity_bytes` is rounded up to 4 KiB. `slots` is the most blocks it holds at a time; unless
    given, as many as there are if blocks have 256 bytes, at the most 2**18. Raises
    `SegmentExists`, `NoSpace`, `InvalidName`, `UsageError`.
    """
    capacity = layout.round_up(capacity_bytes)
    if slots is None:
        slots = max(64, min(capacity // 256, layout.SLOTS_DEFAULT_MAX))
    info = SegmentInfo(
        name=name,
        kind=Kind.RING,
        epoch=_new_epoch(),
        created_ns=time.time_ns(),
        header_bytes=header_bytes,
        capacity_bytes=capacity,
        slots=slots,
        block_deadline_ms=block_deadline_ms,
        dtype=dtype,
        shape=tuple(shape),
        metadata=dict(metadata),
    )
    return RingWriter(_create(path_of(Path(root), name), info))


def create_region(
    root: str | Path,
    name: str,
    *,
    size_bytes: int | None = None,
    page_bytes: int = 4096,
    buffers: int = 3,
    dtype: str = "",
    shape: tuple[int, ...] = (),
    metadata: StrMapping[str, str] = _NOTHING,
) -> RegionWriter:
    """Create a region of zeros, version 0, and open it to write.

    `size_bytes` may be left out where `dtype` and `shape` say it. It takes `buffers` times the
    memory. Raises `SegmentExists`, `NoSpace`, `InvalidName`, `UsageError`.
    """
    info = SegmentInfo(
        name=name,
        kind=Kind.REGION,
        epoch=_new_epoch(),
        created_ns=time.time_ns(),
        size_bytes=_size(size_bytes, dtype, shape),
        page_bytes=page_bytes,
        buffers=buffers,
        dtype=dtype,
        shape=tuple(shape),
        metadata=dict(metadata),
    )
    return RegionWriter(_create(path_of(Path(root), name), info))


def _size(size_bytes: int | None, dtype: str, shape: tuple[int, ...]) -> int:
    described = math.prod(shape) * _item_bytes(dtype) if dtype and shape else None
    if size_bytes is None and described is None:
        raise UsageError("a region needs size_bytes, or dtype and shape")
    if size_bytes is not None and described is not None and size_bytes != described:
        raise UsageError(
            f"size_bytes is {size_bytes}, but shape {shape} of {dtype!r} takes {described}"
        )
    return size_bytes or described or 0


def _item_bytes(dtype: str) -> int:
    """Of a numpy type string such as '<f4', '|u1' or 'float32'-less '<U8' (4 bytes a character)."""
    digits = dtype.lstrip("<>=|")
    try:
        count = int(digits[1:].partition("[")[0])
        return count * 4 if digits[0] == "U" else count
    except (ValueError, IndexError):
        raise UsageError(f"dtype {dtype!r} is not a type string such as '<f4'") from None


def open_segment(
    root: str | Path, name: str, *, write: bool = False
) -> RingReader | RegionReader | RingWriter | RegionWriter:
    """Open what is there, to read or (with `write`) to be its one writer.

    A shadow opens as one. Raises `SegmentNotFound`, `WriterBusy`, `CorruptSegment`,
    `UnsupportedFormat`.
    """
    mapping = Mapping.open(path_of(Path(root), name), write=write)
    try:
        if write:
            mapping.lock_writer()
        return _handle_of(mapping, write)
    except BaseException:
        mapping.close(())
        raise


def _handle_of(
    mapping: Mapping, write: bool
) -> RingReader | RegionReader | RingWriter | RegionWriter:
    if mapping.role == layout.SHADOW:
        return shadow_of(mapping, write=write)
    if mapping.info.kind is Kind.RING:
        return RingWriter(mapping) if write else RingReader(mapping)
    return RegionWriter(mapping) if write else RegionReader(mapping)


def open_ring(root: str | Path, name: str) -> RingReader:
    """As `open_segment`, to read; raises `WrongKind` where it is a region."""
    found = open_segment(root, name)
    if isinstance(found, RingReader):
        return found
    found.close()
    raise WrongKind(name, "it is a region; open it as one")


def open_region(root: str | Path, name: str) -> RegionReader:
    """As `open_segment`, to read; raises `WrongKind` where it is a ring."""
    found = open_segment(root, name)
    if isinstance(found, RegionReader):
        return found
    found.close()
    raise WrongKind(name, "it is a ring; open it as one")


def _new_epoch() -> int:
    return secrets.randbits(64) or 1


def _create(path: Path, info: SegmentInfo) -> Mapping:
    page = layout.pack(info)
    with new_file(path) as fd:
        size = layout.file_bytes(info)
        os.ftruncate(fd, size)
        reserve(fd, path, 0, size)
        layout.write_start(fd, page)
        if info.kind is Kind.REGION:
            _write_zero_crcs(fd, info)
        lock_exclusive(fd, layout.LOCK_WRITER)
    return Mapping(path, fd, write=True)


def _write_zero_crcs(fd: int, info: SegmentInfo) -> None:
    """Version 0 is zeros, and so every buffer carries the CRCs of zeros."""
    place = layout.region_layout(info)
    last = info.size_bytes - (info.pages - 1) * info.page_bytes
    crcs = array("I", [crc32c(bytes(info.page_bytes))]) * (info.pages - 1)
    table = crcs.tobytes() + struct.pack("<I", crc32c(bytes(last)))
    for index in range(info.buffers):
        os.pwrite(fd, table, place.table + index * place.table_bytes + place.crcs_at)
