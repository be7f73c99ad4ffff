"""Pins: what keeps a region's writer away from the buffer that a snapshot shows.

A pin is a shared lock on the buffer's lock byte. It lives on an open file description of its own
(a writer's own snapshots must exclude the writer too) and so ends with its process, however that
ends. It is held for as long as any view of the buffer is alive, not only as long as the snapshot.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress

from dsm.segment.layout import LOCK_BUFFER
from dsm.segment.locks import lock_shared, unlock


class Pins:
    """The pins of one handle, counted by buffer."""

    def __init__(self, file_fd: int) -> None:
        # Through /proc, because the file may have been deleted or replaced since it was opened.
        flags = os.O_RDONLY | os.O_CLOEXEC
        self._fd = os.open(f"/proc/self/fd/{file_fd}", flags)
        self._held: Counter[int] = Counter()
        self._closing = False
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a view may die, and unpin, while a pin is being taken

    def take(self, buffer: int) -> bool:
        with self._lock:
            self._held[buffer] += 1
            if self._held[buffer] > 1 or lock_shared(self._fd, LOCK_BUFFER + buffer):
                return True
            self._held[buffer] -= 1
            return False

    def drop(self, buffer: int) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: the pin is the parent's
        with self._lock:
            self._held[buffer] -= 1
            if not self._held[buffer]:
                unlock(self._fd, LOCK_BUFFER + buffer)
            self._close_if_idle()

    def close(self) -> None:
        """When the last pin is dropped."""
        self._closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not any(self._held.values()):
            self.abandon()

    def abandon(self) -> None:
        """In a forked child: or its life would prolong the parent's pins."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.abandon()
