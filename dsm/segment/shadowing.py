"""Creating and opening shadows: sparse files of the origin's geometry and epoch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dsm.errors import WrongKind
from dsm.model import Kind, SegmentInfo
from dsm.segment import layout
from dsm.segment.files import new_file, reserve
from dsm.segment.locks import lock_exclusive
from dsm.segment.mapping import Mapping
from dsm.segment.region_shadow import SHADOW_BUFFERS, RegionShadow
from dsm.segment.ring_shadow import RingShadow


def create_ring_shadow(path: str | Path, info: SegmentInfo) -> RingShadow:
    """An empty shadow of the ring that `info` describes; raises `SegmentExists`, `NoSpace`."""
    return RingShadow(_create(Path(path), info, Kind.RING), write=True)


def create_region_shadow(path: str | Path, info: SegmentInfo) -> RegionShadow:
    """An empty shadow of the region that `info` describes; raises `SegmentExists`, `NoSpace`.

    It has 4 buffers, whatever the origin has: those that are not in use take no memory.
    """
    info = replace(info, buffers=SHADOW_BUFFERS)
    return RegionShadow(_create(Path(path), info, Kind.REGION), write=True)


def open_shadow(path: str | Path, *, write: bool = True) -> RingShadow | RegionShadow:
    """Open a shadow that was left by an earlier session, with everything that is in it.

    Its epoch (`info.epoch`) may be over: compare. Raises `SegmentNotFound`, `WriterBusy` (another
    process fills it), `CorruptSegment`.
    """
    mapping = Mapping.open(Path(path), write=write)
    try:
        if mapping.role != layout.SHADOW:
            raise WrongKind(mapping.name, "it is an original, not a shadow; open_segment opens it")
        if write:
            mapping.lock_writer()
        return shadow_of(mapping, write=write)
    except BaseException:
        mapping.close(())
        raise


def shadow_of(mapping: Mapping, *, write: bool) -> RingShadow | RegionShadow:
    if mapping.info.kind is Kind.RING:
        return RingShadow(mapping, write=write)
    return RegionShadow(mapping, write=write)


def _create(path: Path, info: SegmentInfo, kind: Kind) -> Mapping:
    if info.kind is not kind:
        raise WrongKind(info.name, f"it is a {info.kind.value}, not a {kind.value}")
    page = layout.pack(info, layout.SHADOW)
    with new_file(path) as fd:
        os.ftruncate(fd, layout.file_bytes(info))
        reserve(fd, path, 0, layout.TABLES_OFFSET)
        layout.write_start(fd, page)
        lock_exclusive(fd, layout.LOCK_WRITER)
    return Mapping(path, fd, write=True)
