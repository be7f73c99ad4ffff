"""From frames to runs of blocks: what a node may have cut into pieces is put together again."""

from __future__ import annotations

from dataclasses import dataclass, field

from dsm.core.reads import Part
from dsm.model import Extent
from dsm.segment import BlockRun
from dsm.segment.layout import ROW, ROW_BYTES
from dsm.wire.convert import PARTS_BACK, block_runs_from_pb
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

    def add(self, header: pb.FrameHeader, payload: memoryview) -> list[Arrived]:
        """The runs that this frame completes. Raises `ValueError` for a lying frame."""
        if not header.runs:
            return []
        part = PARTS_BACK.get(header.part)
        if part is None:
            raise ValueError(f"unknown part {header.part}")
        runs = block_runs_from_pb(header.runs)
        rows, data = bytes(payload[: header.rows_bytes]), payload[header.rows_bytes :]
        pieces = self._pieces.get(header.id)
        if pieces is None:
            count = sum(run.length for run in runs)
            if len(rows) != count * ROW_BYTES:
                raise ValueError(f"{count} blocks with {len(rows)} bytes of rows")
            length = (
                _part_bytes(ROW.unpack(rows)[3], part, header.header_bytes) if count == 1 else 0
            )
            if len(data) >= length:
                return _arrived(header, part, runs, rows, data)
            if length > self._block_bytes_max:
                raise ValueError(f"a block of {length} bytes in a smaller ring")
            pieces = self._pieces[header.id] = _Pieces(rows, length)
        return self._add_piece(header, part, runs, pieces, data)

    def forget(self, id: int) -> None:
        """The request has ended."""
        self._pieces.pop(id, None)

    def _add_piece(
        self,
        header: pb.FrameHeader,
        part: Part,
        runs: tuple[Extent, ...],
        pieces: _Pieces,
        data: memoryview,
    ) -> list[Arrived]:
        if header.offset != len(pieces.data) or header.offset + len(data) > pieces.length:
            raise ValueError(f"a piece at {header.offset} of a block of {pieces.length} bytes")
        pieces.data += data
        if len(pieces.data) < pieces.length:
            return []
        del self._pieces[header.id]
        return _arrived(header, part, runs, pieces.rows, memoryview(bytes(pieces.data)))


def _arrived(
    header: pb.FrameHeader, part: Part, runs: tuple[Extent, ...], rows: bytes, data: memoryview
) -> list[Arrived]:
    """Each run with its rows and its data; whether those fit together is for the shadow to say."""
    found = []
    for run in runs:
        own, rows = rows[: run.length * ROW_BYTES], rows[run.length * ROW_BYTES :]
        fields = list(ROW.iter_unpack(own))
        size = _run_bytes(fields, part, header.header_bytes) if rows else len(data)
        if size < 0:
            raise ValueError(f"blocks [{run.start}, {run.stop}) of {size} bytes")
        blocks, data = BlockRun(run.start, run.length, own, data[:size]), data[size:]
        lengths = tuple(row[3] for row in fields)
        found.append(Arrived(blocks, part, header.header_bytes, lengths))
    return found


def _run_bytes(fields: list[tuple[int, ...]], part: Part, header_bytes: int) -> int:
    if part is Part.WHOLE:
        return fields[-1][1] + fields[-1][3] - fields[0][1]
    return sum(_part_bytes(row[3], part, header_bytes) for row in fields)


def _part_bytes(length: int, part: Part, header_bytes: int) -> int:
    match part:
        case Part.WHOLE:
            return length
        case Part.HEADER:
            return min(length, header_bytes)
        case Part.PAYLOAD:
            return max(0, length - header_bytes)
