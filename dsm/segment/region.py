"""Reading a region.

    published = version * 16 + flag + buffer        one store, one load

    buffer 0  ░░░░ free            the writer prepares the next version in a buffer that is
    buffer 1  ████ current         neither current nor pinned, so what readers look at never
    buffer 2  ▒▒▒▒ pinned, old     changes under them

A snapshot pins the current buffer (`pins`), then looks whether it still is the current one. The
flag says whether it may be pinned: not when the writer would be left without a buffer to go to,
for no reader ever makes a writer wait. A snapshot is then a copy, and like every copy it is
checked: a writer counts `touched[buffer]` up before it changes a buffer that was once published.
"""

from __future__ import annotations

import time
import weakref
from array import array
from collections.abc import Callable
from typing import TypeVar

from dsm.errors import CorruptSegment, OutOfRange, VersionGone
from dsm.model import Extent, Position
from dsm.segment.layout import PINNABLE, PUBLISHED, TOUCHED
from dsm.segment.mapping import Handle, Mapping
from dsm.segment.native import loan_of
from dsm.segment.pages import EXTENTS_MAX, Buffer, buffers_of
from dsm.segment.pins import Pins
from dsm.segment.snapshot import RegionSnapshot

_T = TypeVar("_T")

_COPY_S_MAX = 5.0
"""How long a copy is tried again when commits overtake it. B - 1 commits have to fall into the
time of one copy for an attempt to fail."""
_PIN_ATTEMPTS = 4
_PIN_PAUSE_S = 50e-6
"""Just after a commit the flag is off for some microseconds."""
_PIN_BYTES = 1 << 18
"""A read of this size or more pins first: three system calls are cheaper than a second copy."""


class RegionReader(Handle):
    """A mapped region. Holds no lock outside of snapshots, and never slows its writer."""

    def __init__(self, mapping: Mapping) -> None:
        super().__init__(mapping)
        self.name = self._info.name
        self._size = self._info.size_bytes
        self._buffers = buffers_of(self._info, mapping.memory.toreadonly())
        if self._control[PUBLISHED] & 7 >= self._info.buffers:
            raise CorruptSegment(self.name, "its control page makes no sense; recreate it")
        self._pins: Pins | None = None

    def _views(self) -> list[memoryview]:
        if self._pins is not None:
            self._pins.close()
        return [view for buffer in self._buffers for view in buffer]

    def abandon(self) -> None:
        if self._pins is not None:
            self._pins.abandon()
            self._pins = None

    @property
    def version(self) -> int:
        """The newest that was committed; 0 is the zeros it was created with."""
        return self._control[PUBLISHED] >> 4

    @property
    def position(self) -> Position:
        return Position(version=self.version)

    def read(self, offset: int = 0, length: int | None = None) -> memoryview:
        """A private copy of these bytes, all of one version. Raises `OutOfRange`."""
        return self.read_versioned(offset, length)[1]

    def read_versioned(self, offset: int = 0, length: int | None = None) -> tuple[int, memoryview]:
        """As `read`, and of which version it is."""
        extent = self._extent(offset, length)
        if extent.length >= _PIN_BYTES:
            snapshot = self.snapshot()
            with snapshot as view:
                return snapshot.version, memoryview(bytes(view[extent.start : extent.stop]))
        version, data = self._checked(lambda buffer: bytes(buffer.data[extent.start : extent.stop]))
        return version, memoryview(data)

    def snapshot(self) -> RegionSnapshot:
        """The current version, whole: `with region.snapshot() as view:`. Leave it to unpin."""
        return self._pinned() or self._copied()

    def changed_since(self, version: int, extents_max: int = EXTENTS_MAX) -> tuple[Extent, ...]:
        """Pages that changed after `version`; nearest extents are merged to `extents_max`."""
        if version >= self.version:
            return ()
        with self._tables() as tables:
            return tables.changed_since(version, extents_max)

    def page_crcs(self, first: int = 0, stop: int | None = None) -> bytes:
        """u32 CRC-32C of each of these pages."""
        with self._tables() as tables:
            return tables.page_crcs(first, stop)

    def verify(self) -> None:
        """Check every page of the current version; raises `ChecksumMismatch`."""
        snapshot = self.snapshot()
        with snapshot:
            snapshot.verify()

    def _extent(self, offset: int, length: int | None) -> Extent:
        stop = self._size if length is None else offset + length
        if not 0 <= offset <= stop <= self._size:
            raise OutOfRange(
                f"segment {self.name!r}: bytes [{offset}, {stop}) are not within [0, {self._size})"
            )
        return Extent(offset, stop)

    # -- snapshots --------------------------------------------------------------------------

    def _pinned(self) -> RegionSnapshot | None:
        for attempt in range(_PIN_ATTEMPTS):
            word = self._control[PUBLISHED]
            if word & PINNABLE and (found := self._pin(word)):
                return found
            time.sleep(_PIN_PAUSE_S * attempt)
        return None

    def _pin(self, word: int) -> RegionSnapshot | None:
        if self._pins is None:
            self._pins = Pins(self._mapping.fd)
        index = word & 7
        if not self._pins.take(index):
            return None
        if self._control[PUBLISHED] != word:
            self._pins.drop(index)
            return None
        buffer = self._buffers[index]
        loan = loan_of(buffer.data)
        weakref.finalize(loan, self._pins.drop, index).atexit = False
        view = memoryview(loan).cast("B").toreadonly()
        lent = Buffer(*[table[:] for table in buffer])._replace(data=view)
        return RegionSnapshot(self._info, word >> 4, lent, pinned=True)

    def _copied(self) -> RegionSnapshot:
        version, buffer = self._checked(lambda buffer: Buffer(*map(_copy, buffer)))
        return RegionSnapshot(self._info, version, buffer, pinned=False)

    def _tables(self) -> _Tables:
        """A snapshot of the tables alone."""
        nothing = memoryview(b"")
        version, tables = self._checked(
            lambda buffer: Buffer(*map(_copy, buffer._replace(data=nothing)))
        )
        return _Tables(self._info, version, tables, pinned=False)

    def _checked(self, take: Callable[[Buffer], _T]) -> tuple[int, _T]:
        """What `take` copies out of the current buffer, and of which version it is."""
        deadline_s = time.monotonic() + _COPY_S_MAX
        while True:
            word = self._control[PUBLISHED]
            index = word & 7
            touched = self._control[TOUCHED + index]
            if self._control[PUBLISHED] >> 4 == word >> 4:
                taken = take(self._buffers[index])
                if self._control[TOUCHED + index] == touched:
                    return word >> 4, taken
            if time.monotonic() > deadline_s:
                raise VersionGone(
                    self.name,
                    f"commits overtook every attempt to copy it for {_COPY_S_MAX:.0f} s; "
                    "create it with more buffers, so that snapshots can be pinned",
                )

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"version {self.version}"
        return (
            f"<{type(self).__name__} {self.name!r} {state}, {self._size} bytes in "
            f"{self._info.pages} pages, epoch {self._info.epoch:016x}>"
        )


class _Tables(RegionSnapshot):
    def __enter__(self) -> _Tables:  # type: ignore[override]
        return self


def _copy(view: memoryview) -> memoryview:
    return memoryview(array(view.format, bytes(view))).toreadonly()
