"""One open segment file: descriptor, mapping, control words, and an end that keeps views alive.

    fd ──▶ mmap of the whole file ──▶ memory (a memoryview; read-only unless opened for writing)
                                        └── control: 512 u64 words

`close` never pulls memory from under a view: a mapping with live views stays until the last of
them is gone, then the kernel unmaps it. A handle that was closed answers `Closed`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from dsm.errors import Closed, CorruptSegment, SegmentNotFound, WriterBusy
from dsm.model import SegmentInfo
from dsm.segment import layout
from dsm.segment.files import name_of
from dsm.segment.locks import close_in_child, lock_exclusive, unlock_all
from dsm.segment.native import map_file


class Mapping:
    """A mapped segment file; `RingReader`, `RegionReader` and what grows from them hold one."""

    def __init__(self, path: Path, fd: int, *, write: bool) -> None:
        self.path = path
        self.fd = -1  # ours to close only when all of this has worked
        self._pid = os.getpid()
        self.name = name_of(path)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptSegment(self.name, f"{path} is not a regular file")
        page = os.pread(fd, layout.ALIGN, 0)
        self.info, self.role = layout.unpack(page, self.name, status.st_size)
        self.name = self.info.name
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        size = layout.file_bytes(self.info)
        self._mmap = map_file(fd, size, prot)
        self.memory = memoryview(self._mmap)
        start, stop = layout.CONTROL_OFFSET, layout.TABLES_OFFSET
        self.control = self.memory[start:stop].cast("Q")
        self.fd = fd

    @classmethod
    def open(cls, path: Path, *, write: bool) -> Mapping:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            raise SegmentNotFound(
                name_of(path), f"there is none under {path.parent}; list what is there, or create"
            ) from None
        try:
            return cls(path, fd, write=write)
        except BaseException:
            os.close(fd)
            raise

    def lock_writer(self) -> None:
        """Take the write lock, which dies with this handle, or raise `WriterBusy`."""
        if not lock_exclusive(self.fd, layout.LOCK_WRITER):
            raise WriterBusy(
                self.name, "another process or handle writes it; close that one, or open to read"
            )

    def ring_bell(self) -> None:
        os.pwrite(self.fd, b"\1", layout.BELL_OFFSET)

    def find_zero(self, start: int, stop: int) -> int:
        """File offset of the first zero byte in the range, or -1."""
        return self._mmap.find(b"\0", start, stop)

    def close(self, views: Sequence[memoryview]) -> None:
        for view in (*views, self.control, self.memory):
            # A slice that somebody holds does not keep us from releasing what it was cut from;
            # something that exported it (numpy) does, and then lives on with it.
            with contextlib.suppress(BufferError):
                view.release()
        with contextlib.suppress(BufferError):
            self._mmap.close()
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if os.getpid() == self._pid:
                unlock_all(fd)
            os.close(fd)

    def __del__(self) -> None:
        """A handle that was dropped without being closed must not keep its locks."""
        with contextlib.suppress(AttributeError):
            self._close_fd()


class ClosedWords:
    """Takes the place of the control words of a closed handle, so that every use says so."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, index: object) -> NoReturn:
        raise Closed(f"segment {self._name!r}: this handle was closed; open it again")

    def __setitem__(self, index: object, value: object) -> None:
        self[index]


class Handle:
    """What readers and writers of both kinds share: a mapping, and its end."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._info = mapping.info
        self._control: memoryview[int] = mapping.control
        self._closed = False
        close_in_child(self)

    @property
    def info(self) -> SegmentInfo:
        return self._info

    @property
    def path(self) -> Path:
        return self._mapping.path

    @property
    def is_shadow(self) -> bool:
        return self._mapping.role == layout.SHADOW

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def deleted(self) -> bool:
        """The segment was deleted; what is mapped stays readable."""
        return self._control[layout.DELETED] != 0

    def fileno(self) -> int:
        return self._mapping.fd

    def close(self) -> None:
        """Let go of the file. Views that were handed out stay valid. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._control = ClosedWords(self._info.name)  # type: ignore[assignment]
        self._mapping.close(self._views())

    def _views(self) -> list[memoryview]:
        """Views of the mapping that this handle keeps for itself."""
        return []

    def abandon(self) -> None:
        """In a forked child: what this handle locks is the parent's. Readers go on reading."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
