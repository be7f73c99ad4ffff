"""From frames to runs of blocks: what a node may have cut into pieces is put together again."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsm.core.reads import Part
from dsm.segment import BlockRun
from dsm.segment.layout import ROW, ROW_BYTES
from dsm.wire.convert import PARTS_BACK
from dsm.wire.v1 import wire_pb2 as pb


@dataclass(frozen=True, slots=True)
class Arrived:
    """Consecutive blocks, and which part of each."""

    run: BlockRun
    part: Part
    header_bytes: int
    lengths: tuple[int, ...]


@dataclass(slots=True)
class _Pieces:
    rows: bytes
    length: int
    data: bytearray = field(default_factory=bytearray)


class Assembler:
    """One for each handle; keeps what is incomplete, by request."""

    def __init__(self, block_bytes_max: int) -> None:
        self._block_bytes_max = block_bytes_max
        self._pieces: dict[int, _Pieces] = {}

    def add(self, header: pb.FrameHeader, payload: memoryview) -> Arrived | None:
        """The run that this frame completes, or `None`. Raises `ValueError` for a lying frame."""
        part = PARTS_BACK.get(header.part)
        if part is None:
            raise ValueError(f"unknown part {header.part}")
        rows, data = bytes(payload[: header.rows_bytes]), payload[header.rows_bytes :]
        pieces = self._pieces.get(header.id)
        if pieces is None:
            if len(rows) != header.count * ROW_BYTES:
                raise ValueError(f"{header.count} blocks with {len(rows)} bytes of rows")
            if header.count != 1:
                return _arrived(header, part, rows, data)
            length = _part_bytes(ROW.unpack(rows)[3], part, header.header_bytes)
            if len(data) >= length:
                return _arrived(header, part, rows, data)
            if length > self._block_bytes_max:
                raise ValueError(f"a block of {length} bytes in a smaller ring")
            pieces = self._pieces[header.id] = _Pieces(rows, length)
        return self._add_piece(header, part, pieces, data)

    def forget(self, id: int) -> None:
        """The request has ended."""
        self._pieces.pop(id, None)

    def _add_piece(
        self, header: pb.FrameHeader, part: Part, pieces: _Pieces, data: memoryview
    ) -> Arrived | None:
        if header.offset != len(pieces.data) or header.offset + len(data) > pieces.length:
            raise ValueError(f"a piece at {header.offset} of a block of {pieces.length} bytes")
        pieces.data += data
        if len(pieces.data) < pieces.length:
            return None
        del self._pieces[header.id]
        return _arrived(header, part, pieces.rows, memoryview(bytes(pieces.data)))


def _arrived(header: pb.FrameHeader, part: Part, rows: bytes, data: memoryview) -> Arrived:
    lengths = tuple(fields[3] for fields in ROW.iter_unpack(rows))
    run = BlockRun(header.first, header.count, rows, data)
    return Arrived(run, part, header.header_bytes, lengths)


def _part_bytes(length: int, part: Part, header_bytes: int) -> int:
    match part:
        case Part.WHOLE:
            return length
        case Part.HEADER:
            return min(length, header_bytes)
        case Part.PAYLOAD:
            return max(0, length - header_bytes)
