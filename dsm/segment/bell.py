"""The doorbell, from the side of those who listen.

A producer writes one byte with `pwrite(2)` after publishing; inotify tells every watcher of the
file. Nobody is registered with the producer, nothing is left to clean up. A ring may be missed or
may be one for many: the counters in the file are the truth, so look at them *after* adding the
watch and after every `read`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from dsm.segment.native import libc

_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO = 0x02, 0x04, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF = 0x100, 0x200, 0x400
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_OF_FILE = _MODIFY | _ATTRIB | _DELETE_SELF
_OF_DIRECTORY = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65_536


_READS_MAX = 16


class Bell:
    """Any number of segment files, and directories of them, on one descriptor."""

    def __init__(self) -> None:
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _failed("inotify_init1; raise fs.inotify.max_user_instances")
        self._wds: set[int] = set()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def fileno(self) -> int:
        return self._fd

    def add(self, path: Path | str) -> int:
        """Watch a segment file for its doorbell, or a directory for files that come and go.

        Returns the watch descriptor that `read` reports; the same for the same file.
        """
        mask = _OF_DIRECTORY if Path(path).is_dir() else _OF_FILE
        wd: int = libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if wd < 0:
            raise _failed(f"inotify_add_watch on {path}; see fs.inotify.max_user_watches")
        self._wds.add(wd)
        return wd

    def remove(self, wd: int) -> None:
        """Stop watching; unknown descriptors (the file is gone) are ignored."""
        self._wds.discard(wd)
        libc.inotify_rm_watch(self._fd, wd)

    def read(self) -> set[int]:
        """Which have rung since the last call. Never blocks."""
        rang: set[int] = set()
        for _ in range(_READS_MAX):  # a producer at full speed rings faster than this reads
            if not (events := self._drain()):
                break
            at = 0
            while at < len(events):
                wd, mask, _, name_bytes = _EVENT.unpack_from(events, at)
                at += _EVENT.size + name_bytes
                if mask & _OVERFLOW:
                    rang |= self._wds
                elif wd in self._wds:
                    rang.add(wd)
                if mask & _IGNORED:
                    self._wds.discard(wd)
        return rang

    def _drain(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return b""

    def wait(self, timeout_s: float | None) -> bool:
        """Block until one has rung, at most `timeout_s`; the ring stays to be `read`."""
        return bool(self._poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    if number == errno.ENOENT:
        return FileNotFoundError(number, os.strerror(number), what)
    return OSError(number, os.strerror(number), what)
