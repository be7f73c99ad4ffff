"""Open-file-description locks on single bytes: advisory, and gone when their holder is.

They belong to the open file description, not to the process (as POSIX locks do), so two handles
in one process exclude each other too. A forked child shares the description and so would keep
its parent's locks alive: `close_in_child` closes what must not.
"""

from __future__ import annotations

import fcntl
import os
import struct
import weakref
from typing import Protocol

_FLOCK = struct.Struct("hhqqi4x")


def _set(fd: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def lock_exclusive(fd: int, byte: int) -> bool:
    return _set(fd, fcntl.F_WRLCK, byte)


def lock_shared(fd: int, byte: int) -> bool:
    return _set(fd, fcntl.F_RDLCK, byte)


def unlock(fd: int, byte: int) -> None:
    _set(fd, fcntl.F_UNLCK, byte)


def unlock_all(fd: int) -> None:
    """Also where a forked child still shares the description, so that closing would not do."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))


def is_locked(fd: int, byte: int) -> bool:
    """Somebody else holds a lock on it, of whichever kind."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


class Inherited(Protocol):
    def abandon(self) -> None: ...


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def close_in_child(holder: Inherited) -> None:
    """After `fork`, call `holder.abandon()` in the child."""
    _inherited.add(holder)


def _after_fork_in_child() -> None:
    for holder in list(_inherited):
        holder.abandon()
    _inherited.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
