"""The segments under one root, as a node sees them: opened when first asked for, watched while
somebody listens.

The files are the truth and a node keeps nothing else, so that any number of node processes may
export one root, and a node that was killed finds everything again.

    producer ─ pwrite ─▶ file ─ inotify ─▶ Bell ─▶ Exports._rang ─▶ Exported.moved ─▶ listeners
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from dsm.core.extents import merge
from dsm.errors import DsmError, EpochGone, SegmentNotFound, WrongKind
from dsm.model import Extent, Kind, Position, validate_name
from dsm.segment import Bell, RegionReader, RingReader, list_names, open_segment

log = logging.getLogger(__name__)

OPEN_MAX = 4096
"""Mapped segments that nobody listens to; the least recently used one is closed first."""

BELL_PAUSE_S = 0.0005
"""After the bell was heard it is left alone for so long: a producer at full speed rings 100,000
times a second, and listeners are told how far it came, not how often it rang."""

CHANGED_EXTENTS_MAX = 256

Listener = Callable[["Exported", tuple[Extent, ...]], None]
"""Told that the segment moved (or is gone) and what changed: sequence numbers, or pages."""


class Exported:
    """One open segment and who listens to it."""

    def __init__(self, reader: RingReader | RegionReader) -> None:
        self.reader = reader
        self.info = reader.info
        self.listeners: set[Listener] = set()
        self.gone = False
        self.moved_ns = time.time_ns()
        self._seen = reader.position

    @property
    def ring(self) -> RingReader:
        if not isinstance(self.reader, RingReader):
            raise WrongKind(self.info.name, "it is a region; read pages or bytes of it")
        return self.reader

    @property
    def region(self) -> RegionReader:
        if not isinstance(self.reader, RegionReader):
            raise WrongKind(self.info.name, "it is a ring; read blocks of it")
        return self.reader

    @property
    def position(self) -> Position:
        return self.reader.position

    def check_epoch(self, epoch: int) -> None:
        """Raise `EpochGone` if `epoch` (0: any) is not this life of the segment."""
        if epoch not in (0, self.info.epoch):
            raise EpochGone(
                self.info.name,
                f"epoch {epoch:016x} is over, it is now {self.info.epoch:016x}; open it again",
            )

    @property
    def is_stale(self) -> bool:
        """The file was deleted, here or by hand."""
        return self.reader.deleted or os.fstat(self.reader.fileno()).st_nlink == 0

    def moved(self) -> None:
        """Tell the listeners, if there is anything new."""
        before, now = self._seen, self.position
        self.gone = self.gone or self.is_stale
        if now == before and not self.gone:
            return
        self.moved_ns = time.time_ns()
        self._seen = now
        changed = self._changed(before, now)
        for listener in tuple(self.listeners):
            listener(self, changed)

    def _changed(self, before: Position, now: Position) -> tuple[Extent, ...]:
        if self.info.kind is Kind.RING:
            return (Extent(before.head, now.head),) if now.head > before.head else ()
        if now.version == before.version or not self.listeners:
            return ()
        return merge(self.region.changed_since(before.version), CHANGED_EXTENTS_MAX)


class Exports:
    """All segments under `root`; lives in one event loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: OrderedDict[str, Exported] = OrderedDict()
        self._bell = Bell()
        self._watched: dict[int, Exported] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._bell.fileno(), self._rang)
        self._pause: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._bell.fileno())
        self._bell.close()
        for exported in self._open.values():
            exported.reader.close()
        self._open.clear()

    def names(self) -> list[str]:
        return sorted(list_names(self.root))

    def get(self, name: str, epoch: int = 0) -> Exported:
        """The open segment. Raises `SegmentNotFound`, `EpochGone`, or what opening it raises."""
        validate_name(name)
        exported = self._open.get(name)
        if exported is not None and exported.is_stale:
            self._retire(exported)
            exported = None
        if exported is None:
            exported = Exported(self._opened(name, epoch))
            self._open[name] = exported
            self._close_unused()
        self._open.move_to_end(name)
        exported.check_epoch(epoch)
        return exported

    def _opened(self, name: str, epoch: int) -> RingReader | RegionReader:
        try:
            return open_segment(self.root, name)
        except SegmentNotFound:
            if not epoch:
                raise
            raise EpochGone(name, f"it was deleted, epoch {epoch:016x} is over") from None

    def describe_all(self, names: list[str]) -> Iterator[Exported]:
        """Those of `names` that can be opened."""
        for name in names:
            try:
                yield self.get(name)
            except SegmentNotFound:
                continue
            except DsmError as error:
                log.warning("not listed: %s", error)

    def listen(self, exported: Exported, listener: Listener) -> None:
        if not exported.listeners:
            self._watched[self._bell.add(exported.reader.path)] = exported
            exported.moved()  # what happened while nobody listened is no news
        exported.listeners.add(listener)

    def unlisten(self, exported: Exported, listener: Listener) -> None:
        exported.listeners.discard(listener)
        if not exported.listeners:
            for watch in [w for w, e in self._watched.items() if e is exported]:
                del self._watched[watch]
                self._bell.remove(watch)

    def _rang(self) -> None:
        for watch in self._bell.read():
            if (exported := self._watched.get(watch)) is not None:
                exported.moved()
                if exported.gone:
                    self._retire(exported)
        self._loop.remove_reader(self._bell.fileno())
        self._pause = self._loop.call_later(BELL_PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._bell.fileno(), self._rang)

    def _retire(self, exported: Exported) -> None:
        """The file is gone: forget it, tell who listened. Reads under way keep the mapping."""
        if self._open.get(exported.info.name) is exported:
            del self._open[exported.info.name]
        exported.gone = True
        for listener in tuple(exported.listeners):
            listener(exported, ())
            self.unlisten(exported, listener)

    def _close_unused(self) -> None:
        if len(self._open) <= OPEN_MAX:
            return
        for name, exported in list(self._open.items()):
            if not exported.listeners and len(self._open) > OPEN_MAX:
                del self._open[name]
                exported.reader.close()
