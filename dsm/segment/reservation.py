"""Memory for a sparse file: reserved before it is touched, given back when it is not wanted."""

from __future__ import annotations

from pathlib import Path

from dsm.model import Extent
from dsm.segment.files import reserve, write_at
from dsm.segment.layout import ALIGN
from dsm.segment.native import punch_hole
from dsm.segment.pages import zeros


class Reservation:
    """Which steps of a file are known to have memory."""

    def __init__(self, fd: int, path: Path, file_bytes: int, step_bytes: int) -> None:
        self._fd = fd
        self._path = path
        self._file_bytes = file_bytes
        self._step_bytes = step_bytes
        self._known = bytearray(-(-file_bytes // step_bytes))

    def need(self, offset: int, length: int) -> None:
        """Have memory for these bytes; raises `NoSpace` and then nothing may be written there."""
        if not length:
            return
        first, stop = offset // self._step_bytes, -(-(offset + length) // self._step_bytes)
        if self._known.find(0, first, stop) < 0:
            return
        for extent in zeros(bytes(self._known[first:stop]), first):
            start = extent.start * self._step_bytes
            end = min(extent.stop * self._step_bytes, self._file_bytes)
            reserve(self._fd, self._path, start, end - start)
            self._known[extent.start : extent.stop] = b"\1" * extent.length

    def write(self, offset: int, data: memoryview) -> None:
        """Store `data` at `offset`; raises `NoSpace`. Half of what it costs to reserve memory (the
        kernel clears it) and touch it (a fault for each page) before it is overwritten."""
        while data:
            written = write_at(self._fd, self._path, offset, data)
            offset, data = offset + written, data[written:]

    def give_back(self, extent: Extent) -> int:
        """Punch the whole 4 KiB pages within these bytes of the file; returns how many bytes."""
        start = -(-extent.start // ALIGN) * ALIGN
        stop = min(extent.stop, self._file_bytes) // ALIGN * ALIGN
        if extent.stop >= self._file_bytes:
            stop = -(-self._file_bytes // ALIGN) * ALIGN
        if start >= stop or not punch_hole(self._fd, start, stop - start):
            return 0
        first, last = start // self._step_bytes, -(-stop // self._step_bytes)
        self._known[first:last] = bytes(min(last, len(self._known)) - first)
        return stop - start
