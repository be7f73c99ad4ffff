"""Readers that a producer waits for, where the ring was created to allow that.

    control page   cursor[64]   the next block that a reader wants, or CURSOR_FREE
    lock bytes     one each     held by the reader; dies with it

A producer that is about to drop blocks looks at the least cursor. Where that is in the way it
waits, at most `block_deadline_ms`, for it to move, to be closed, or to turn out to be a dead
reader's (nobody holds its lock). After the deadline it passes the cursor by, and does not wait for
it again until it moves: a stuck reader costs one deadline, not one for each block.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dsm.errors import BudgetExceeded, Closed, EpochGone
from dsm.segment.files import name_of
from dsm.segment.layout import (
    ALIGN,
    CONTROL_OFFSET,
    CURSOR_FREE,
    CURSORS,
    CURSORS_MAX,
    LOCK_CURSOR,
    TAIL,
    unpack,
)
from dsm.segment.locks import close_in_child, is_locked, lock_exclusive, unlock_all
from dsm.segment.native import map_file

_POLL_S_MIN, _POLL_S_MAX = 50e-6, 2e-3
"""A waiting producer polls, from often to seldom: readers ring no bell, they only store."""


class RingCursor:
    """A registered reader. Call `advance(seq)` when everything below `seq` is done with."""

    def __init__(self, path: Path, epoch: int, start: int) -> None:
        self._index = -1
        self._name = name_of(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            info, _ = unpack(os.pread(self._fd, ALIGN, 0), self._name, os.fstat(self._fd).st_size)
            if info.epoch != epoch:
                raise EpochGone(self._name, "it was recreated; open it again")
            both = mmap.PROT_READ | mmap.PROT_WRITE
            self._words = memoryview(map_file(self._fd, ALIGN, both, CONTROL_OFFSET)).cast("Q")
            self._index = self._take()
            self._words[CURSORS + self._index] = max(start, self._words[TAIL])
        except BaseException:
            self.close()
            raise
        close_in_child(self)

    def _take(self) -> int:
        for index in range(CURSORS_MAX):
            if lock_exclusive(self._fd, LOCK_CURSOR + index):
                return index
        raise BudgetExceeded(
            f"segment {self._name!r}: {CURSORS_MAX} readers are registered, which is the most; "
            "close one, or follow without blocking the producer"
        )

    @property
    def position(self) -> int:
        return self._live()[CURSORS + self._index]

    def advance(self, seq: int) -> None:
        """The producer may drop what is below `seq`."""
        self._live()[CURSORS + self._index] = seq

    def _live(self) -> memoryview[int]:
        if self._fd < 0:
            raise Closed(f"segment {self._name!r}: this cursor was closed; register again")
        return self._words

    def close(self) -> None:
        if self._fd < 0:
            return
        if self._index >= 0:
            self._words[CURSORS + self._index] = CURSOR_FREE
            unlock_all(self._fd)
        self.abandon()

    def abandon(self) -> None:
        """In a forked child: the cursor is the parent's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self.close()


class CursorTable:
    """The producer's side."""

    def __init__(self, fd: int, control: memoryview[int], deadline_ms: int) -> None:
        self._fd = fd
        self._cursors = control[CURSORS : CURSORS + CURSORS_MAX]
        self._deadline_s = deadline_ms / 1000
        self._passed: dict[int, int] = {}

    @property
    def passed(self) -> int:
        """How many readers are being passed by at present."""
        return len(self._passed)

    def wait_until(self, seq: int) -> None:
        """Return when no live reader wants anything below `seq`, or at the deadline."""
        if min(self._cursors) >= seq:
            return
        deadline_s = time.monotonic() + self._deadline_s
        pause_s = _POLL_S_MIN
        while in_the_way := self._in_the_way(seq):
            if time.monotonic() >= deadline_s:
                self._passed.update(in_the_way)
                return
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _POLL_S_MAX)

    def _in_the_way(self, seq: int) -> dict[int, int]:
        found = {}
        for index, wanted in enumerate(self._cursors.tolist()):
            if self._passed.get(index) not in (None, wanted):
                del self._passed[index]
            if wanted >= seq or index in self._passed:
                continue
            if is_locked(self._fd, LOCK_CURSOR + index):
                found[index] = wanted
            else:
                self._cursors[index] = CURSOR_FREE
        return found

    def release(self) -> None:
        self._cursors.release()
