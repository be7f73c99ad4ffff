"""A ring in a file: the blocks that `dsm pull` copied, each with its sequence number and time.

    file     "DSMBLK1\\n" │ record ...
    record   u64 seq │ u64 timestamp_ns │ u32 length │ u32 crc │ length bytes
    first    seq 2^64-2: JSON   {"name", "epoch", "header_bytes", "dtype", "shape", "metadata"}
    last     seq 2^64-1: JSON   {"blocks": how many, "gaps": [[first, last], ...]}

Little-endian. `crc` is the CRC-32C of the 20 bytes before it and the bytes after it. All records
between the first and the last are blocks, header and payload together, in ascending order. A file
without its last record is not whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from crc32c import crc32c

from dsm.errors import CorruptSegment
from dsm.model import Gap, SegmentInfo

MAGIC = b"DSMBLK1\n"
FIRST = 2**64 - 2
LAST = 2**64 - 1

_HEAD = struct.Struct("<QQI")
_CRC = struct.Struct("<I")


class Record(NamedTuple):
    """One block of a file."""

    seq: int
    timestamp_ns: int
    data: bytes


class BlockFileWriter:
    """Writes such a file; call `finish` when all blocks are in it."""

    def __init__(self, file: BinaryIO, info: SegmentInfo) -> None:
        self._file = file
        self._blocks = 0
        file.write(MAGIC)
        about = {
            "name": info.name,
            "epoch": f"{info.epoch:016x}",
            "header_bytes": info.header_bytes,
            "dtype": info.dtype,
            "shape": list(info.shape),
            "metadata": dict(info.metadata),
        }
        self._put(FIRST, 0, json.dumps(about).encode())

    def write(self, seq: int, timestamp_ns: int, data: bytes) -> None:
        self._put(seq, timestamp_ns, data)
        self._blocks += 1

    def finish(self, gaps: list[Gap]) -> None:
        """`gaps`: what was overwritten before it could be copied."""
        end = {"blocks": self._blocks, "gaps": [list(gap) for gap in gaps]}
        self._put(LAST, 0, json.dumps(end).encode())

    def _put(self, seq: int, timestamp_ns: int, data: bytes) -> None:
        head = _HEAD.pack(seq, timestamp_ns, len(data))
        self._file.write(head + _CRC.pack(crc32c(data, crc32c(head))))
        self._file.write(data)


class BlockFile:
    """Reads such a file: iterate for its blocks.

    `about` says what the ring was, and `gaps`, once all were read, which blocks are missing. Raises
    `CorruptSegment` for what is no such file, damaged or not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.gaps: list[Gap] = []
        with self._path.open("rb") as file:
            self.about: dict[str, Any] = json.loads(self._first(file).data)

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            self._first(file)
            while (record := self._record(file)).seq != LAST:
                yield record
            self.gaps = [Gap(*gap) for gap in json.loads(record.data)["gaps"]]

    def _first(self, file: BinaryIO) -> Record:
        if file.read(len(MAGIC)) != MAGIC:
            raise CorruptSegment(str(self._path), "this is no file of blocks")
        return self._record(file)

    def _record(self, file: BinaryIO) -> Record:
        head = file.read(_HEAD.size)
        crc = file.read(_CRC.size)
        if len(crc) < _CRC.size:
            raise CorruptSegment(str(self._path), "the file ends in the middle; pull it again")
        seq, timestamp_ns, length = _HEAD.unpack(head)
        data = file.read(length)
        if len(data) < length or crc32c(data, crc32c(head)) != _CRC.unpack(crc)[0]:
            raise CorruptSegment(str(self._path), "a record is damaged; pull it again")
        return Record(seq, timestamp_ns, data)
