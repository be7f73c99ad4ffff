"""Where everything lies in a segment file, and the superblock that says so.

    0        superblock   _FIXED │ JSON (name, dtype, shape, metadata) │ zeros │ u32 CRC-32C
    4096     control      u64 words; those that are stored often have a cache line each
    8192     tables       ring:   slots × 40 B row │ slots × u32 filled
                          region: per buffer: pages × u64 version │ groups × u64 newest version
                                              │ pages × u32 CRC-32C │ pages × u8 filled
    ...      data         ring:   capacity_bytes
                          region: per buffer: size_bytes, rounded up to 4 KiB

Every section starts on a 4 KiB boundary and everything is little-endian. What a segment file says
is believed only after `unpack` has checked all of it: magic, format, CRC, then every number against
its limits and against the others, because all offsets are computed from them.

What the code relies on: an aligned 8-byte store or load through `memoryview.cast("Q")` is one
instruction, and stores are seen in program order (x86-64 is TSO). On weaker machines the last
line of defence is the CRC, which every private copy is checked against.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from dataclasses import dataclass
from typing import Any

import crc32c

from dsm.errors import CorruptSegment, UnsupportedFormat, UsageError
from dsm.model import METADATA_BYTES_MAX, Kind, SegmentInfo, validate_name

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("segment files are little-endian and so must the host be")

ALIGN = 4096
MAGIC = b"DSM\x00seg\n"
FORMAT = 1

CONTROL_OFFSET = 4096
TABLES_OFFSET = 8192

# Words of the control page.
HEAD = 0
TAIL = 8
PUBLISHED = 16
DELETED = 24
BELL_OFFSET = CONTROL_OFFSET + 32 * 8
TOUCHED = 40
"""One word a buffer: how often a writer has begun to change it."""
CURSORS = 64
CURSORS_MAX = 64
CURSOR_FREE = (1 << 64) - 1

# Bytes that are locked, never read: open-file-description locks die with their holder.
LOCK_WRITER = CONTROL_OFFSET + 2048
LOCK_BUFFER = CONTROL_OFFSET + 2112
LOCK_CURSOR = CONTROL_OFFSET + 2176

ROW = struct.Struct("<QQQIIII")
"""seq, pos, timestamp_ns, length, flags, head_crc, body_crc"""
ROW_HEAD = struct.Struct("<QQQII")
"""The part of a row that `head_crc` covers together with the header."""
ROW_BYTES = ROW.size
SLOTS_DEFAULT_MAX = 1 << 18
BYTES_MAX = 1 << 46
BLOCK_BYTES_MAX = (1 << 31) - 2
"""`filled` keeps 1 + length in 31 bits."""
WHOLE = 1 << 31
"""Bit of `filled`: the block is complete."""

BUFFERS_MAX = 8
PAGE_BYTES_MAX = 1 << 18
"""The smallest frame that two sides may agree on must be able to hold one."""
GROUP_PAGES = 512
"""Pages whose newest version is kept in one word, so that `changed_since` skips what is old."""
PINNABLE = 8
"""Bit of `published`, which is version * 16 + PINNABLE or 0 + buffer."""
VERSION_INVALID = (1 << 64) - 1

ORIGIN, SHADOW = 0, 1
_KINDS = {Kind.RING: 1, Kind.REGION: 2}
_FIXED = struct.Struct("<8sIBBHQQQQIIIII")
_CRC_OFFSET = ALIGN - 4


def round_up(number: int, unit: int = ALIGN) -> int:
    return -(-number // unit) * unit


@dataclass(frozen=True, slots=True)
class RingLayout:
    rows: int
    filled: int
    data: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class RegionLayout:
    table: int
    table_bytes: int
    groups: int
    groups_at: int
    crcs_at: int
    filled_at: int
    data: int
    buffer_bytes: int
    file_bytes: int


def ring_layout(info: SegmentInfo) -> RingLayout:
    filled = TABLES_OFFSET + round_up(info.slots * ROW_BYTES)
    data = filled + round_up(info.slots * 4)
    return RingLayout(TABLES_OFFSET, filled, data, data + info.capacity_bytes)


def region_layout(info: SegmentInfo) -> RegionLayout:
    groups = -(-info.pages // GROUP_PAGES)
    crcs_at = (info.pages + groups) * 8
    filled_at = crcs_at + info.pages * 4
    table_bytes = round_up(filled_at + info.pages)
    data = TABLES_OFFSET + info.buffers * table_bytes
    buffer_bytes = round_up(info.size_bytes)
    return RegionLayout(
        table=TABLES_OFFSET,
        table_bytes=table_bytes,
        groups=groups,
        groups_at=info.pages * 8,
        crcs_at=crcs_at,
        filled_at=filled_at,
        data=data,
        buffer_bytes=buffer_bytes,
        file_bytes=data + info.buffers * buffer_bytes,
    )


def file_bytes(info: SegmentInfo) -> int:
    return (ring_layout(info) if info.kind is Kind.RING else region_layout(info)).file_bytes


def complaint(info: SegmentInfo) -> str | None:
    """What is wrong with this geometry, or None."""
    if info.kind is Kind.RING:
        return _ring_complaint(info)
    return _region_complaint(info)


def _ring_complaint(info: SegmentInfo) -> str | None:
    if not 0 < info.capacity_bytes <= BYTES_MAX or info.capacity_bytes % ALIGN:
        return f"capacity_bytes of {info.capacity_bytes} is not a multiple of 4096 in (0, 2**46]"
    if not 2 <= info.slots <= 1 << 32:
        return f"slots of {info.slots} is not between 2 and 2**32"
    if not 0 <= info.header_bytes <= info.capacity_bytes:
        return f"header_bytes of {info.header_bytes} is not between 0 and the capacity"
    if info.header_bytes > BLOCK_BYTES_MAX:
        return f"header_bytes of {info.header_bytes} is more than {BLOCK_BYTES_MAX}"
    if not 0 <= info.block_deadline_ms < 1 << 32:
        return f"block_deadline_ms of {info.block_deadline_ms} is not between 0 and 2**32"
    return None


def _region_complaint(info: SegmentInfo) -> str | None:
    if not 0 < info.size_bytes <= BYTES_MAX:
        return f"size_bytes of {info.size_bytes} is not in (0, 2**46]"
    page = info.page_bytes
    if not ALIGN <= page <= PAGE_BYTES_MAX or page & (page - 1):
        return f"page_bytes of {page} is not a power of two from 4096 to {PAGE_BYTES_MAX}"
    if not 3 <= info.buffers <= BUFFERS_MAX:
        return f"buffers of {info.buffers} is not between 3 and {BUFFERS_MAX}"
    return None


def pack(info: SegmentInfo, role: int = ORIGIN) -> bytes:
    """The superblock, 4096 bytes; `UsageError` where the geometry or the metadata cannot be."""
    if wrong := complaint(info):
        raise UsageError(f"segment {info.name!r}: {wrong}")
    text = _text(info)
    fixed = _FIXED.pack(
        MAGIC,
        FORMAT,
        _KINDS[info.kind],
        role,
        len(text),
        info.epoch,
        info.created_ns,
        info.capacity_bytes or info.size_bytes,
        info.slots,
        info.header_bytes,
        info.page_bytes,
        info.buffers,
        info.block_deadline_ms,
        0,
    )
    body = (fixed + text).ljust(_CRC_OFFSET, b"\0")
    return body + struct.pack("<I", crc32c.crc32c(body))


def write_start(fd: int, page: bytes) -> None:
    """Superblock and control page of a new file."""
    os.pwrite(fd, page, 0)
    free = CURSOR_FREE.to_bytes(8, "little") * CURSORS_MAX
    os.pwrite(fd, free, CONTROL_OFFSET + CURSORS * 8)


def _text(info: SegmentInfo) -> bytes:
    metadata = {str(key): str(value) for key, value in info.metadata.items()}
    size = len(json.dumps(metadata, ensure_ascii=False).encode())
    if size > METADATA_BYTES_MAX:
        raise UsageError(
            f"segment {info.name!r}: metadata takes {size} bytes; {METADATA_BYTES_MAX} is the most"
        )
    fields = {
        "name": info.name,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "metadata": metadata,
    }
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > _CRC_OFFSET - _FIXED.size:
        raise UsageError(f"segment {info.name!r}: dtype and shape are too long to describe")
    return text


def unpack(page: bytes, name: str, size_bytes: int) -> tuple[SegmentInfo, int]:
    """What the superblock says, and its role; `size_bytes` is the size of the file.

    Raises `CorruptSegment` or `UnsupportedFormat`, and never believes half of it.
    """
    if len(page) < ALIGN or page[:8] != MAGIC:
        raise CorruptSegment(
            name, f"its file ({size_bytes} bytes) does not start as a segment does; delete it"
        )
    fields = _FIXED.unpack_from(page)
    if fields[1] > FORMAT:
        raise UnsupportedFormat(
            name, f"its file has format {fields[1]}, this release reads {FORMAT}; upgrade it"
        )
    if crc32c.crc32c(page[:_CRC_OFFSET]) != int.from_bytes(page[_CRC_OFFSET:ALIGN], "little"):
        raise CorruptSegment(name, "its superblock is damaged; delete and recreate it")
    try:
        info, role = _info(fields, page)
        wrong = complaint(info)
        if info.name != name and role == ORIGIN:
            wrong = f"the file is that of {info.name!r}"
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptSegment(name, f"its superblock makes no sense: {error!r}") from None
    if wrong:
        raise CorruptSegment(name, f"its superblock makes no sense: {wrong}")
    if size_bytes < file_bytes(info):
        raise CorruptSegment(
            name,
            f"its file is truncated: {size_bytes} of {file_bytes(info)} bytes; delete and "
            "recreate it",
        )
    return info, role


def _info(fields: tuple[Any, ...], page: bytes) -> tuple[SegmentInfo, int]:
    _, _, code, role, text_bytes, epoch, created_ns, size, slots, header, *rest = fields
    page_bytes, buffers, deadline_ms, _ = rest
    kind = next(kind for kind, number in _KINDS.items() if number == code)
    if role not in (ORIGIN, SHADOW) or epoch == 0:
        raise ValueError(f"role {role}, epoch {epoch}")
    said = json.loads(page[_FIXED.size : _FIXED.size + text_bytes])
    info = SegmentInfo(
        name=validate_name(said["name"]),
        kind=kind,
        epoch=epoch,
        created_ns=created_ns,
        header_bytes=header,
        capacity_bytes=size if kind is Kind.RING else 0,
        slots=slots,
        size_bytes=size if kind is Kind.REGION else 0,
        page_bytes=page_bytes,
        buffers=buffers,
        block_deadline_ms=deadline_ms,
        dtype=str(said["dtype"]),
        shape=tuple(int(n) for n in said["shape"]),
        metadata={str(key): str(value) for key, value in said["metadata"].items()},
    )
    return info, role
