"""Where shadows live, and how much memory they may take.

    <root>/<host:port>/<name>~<epoch>.dsm        one shadow; its write lock says that it is in use
    <root>/<host:port>/<name>~<epoch>~2.dsm      another handle's, while the first is in use

A shadow outlives its process: whoever opens the segment next goes on with what is there. Shadows of
epochs that are over are removed when their segment is opened again. One budget covers all shadows
of a cache; a replica that needs more room drops what it filled first, and a new session removes
what earlier ones left beyond it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from dsm.errors import BudgetExceeded, DsmError, SegmentExists, WriterBusy
from dsm.model import Kind, SegmentInfo
from dsm.segment import (
    RegionShadow,
    RingShadow,
    create_region_shadow,
    create_ring_shadow,
    open_shadow,
)

BUDGET_BYTES = 4 << 30

SHADOWS_PER_SEGMENT_MAX = 64
"""Handles that have the same segment open at a time, in all processes of one cache."""

STORE_BYTES = 2 << 20
"""What one store takes beyond its bytes, at the most: memory is reserved in steps of 256 KiB, at
both ends of rows and data, which both may wrap."""

Shadow = TypeVar("Shadow", RingShadow, RegionShadow)


def default_root() -> Path:
    """A directory of this user's in shared memory, or the temporary directory without that."""
    shared = Path("/dev/shm")
    base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"dsm-shadows-{os.getuid()}"


class ShadowCache:
    """The shadows of one session."""

    def __init__(self, root: Path, budget_bytes: int, address: str) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self._directory = root / quote(address, safe=":")
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shadows: set[RingShadow | RegionShadow] = set()
        self._room = 0

    def sweep(self) -> None:
        """Remove shadows of earlier sessions, those used last, last, until all fit the budget."""
        found = []
        for file in self.root.glob("*/*.dsm"):
            with suppress(FileNotFoundError):  # another session is sweeping
                stat = file.stat()
                found.append((stat.st_mtime_ns, stat.st_blocks * 512, file))
        left = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if left > self.budget_bytes and _remove_unused(file):
                left -= size

    def has(self, name: str) -> bool:
        """There is a shadow of it, maybe of an earlier life, and maybe in use."""
        return bool(self._files(name))

    def ring(self, info: SegmentInfo) -> RingShadow:
        return self._added(self._open(info, RingShadow, create_ring_shadow))

    def region(self, info: SegmentInfo) -> RegionShadow:
        return self._added(self._open(info, RegionShadow, create_region_shadow))

    def _added(self, shadow: Shadow) -> Shadow:
        self._shadows.add(shadow)
        self.measure_again()  # there may be something in it
        return shadow

    def measure_again(self) -> None:
        """A shadow may have taken memory otherwise than by a store."""
        self._room = 0

    def close(self, shadow: RingShadow | RegionShadow) -> None:
        """Done with it; the file stays for the next one."""
        self._shadows.discard(shadow)
        shadow.close()

    @property
    def resident_bytes(self) -> int:
        return sum(shadow.resident_bytes for shadow in self._shadows)

    def overdraft(self, stored_bytes: int) -> int:
        """Bytes by which the budget is exceeded, if it is; the caller drops as many of its own.

        `stored_bytes`: what was stored since. It is measured only where the budget may have been
        reached: that takes a look at every shadow.
        """
        self._room -= stored_bytes + STORE_BYTES
        if self._room <= 0:
            self._room = self.budget_bytes - self.resident_bytes
        return -self._room

    def check_room(self, info: SegmentInfo, length: int) -> None:
        """Raise `BudgetExceeded` for a read that no amount of dropping makes room for."""
        if length > self.budget_bytes:
            raise BudgetExceeded(
                f"segment {info.name!r}: {length} bytes at once do not fit into the shadow budget "
                f"of {self.budget_bytes} bytes; read less at a time, or connect with a larger one"
            )

    def _open(
        self,
        info: SegmentInfo,
        kind: type[Shadow],
        create: Callable[[Path, SegmentInfo], Shadow],
    ) -> Shadow:
        stem = f"{_stem(info.name)}{info.epoch:016x}"
        self._remove_others(info.name, stem)
        for number in range(1, SHADOWS_PER_SEGMENT_MAX + 1):
            path = self._directory / (f"{stem}.dsm" if number == 1 else f"{stem}~{number}.dsm")
            shadow = self._try(path, info, kind, create)
            if shadow is not None:
                return shadow
        raise BudgetExceeded(
            f"segment {info.name!r} is open {SHADOWS_PER_SEGMENT_MAX} times under {self.root}"
        )

    def _try(
        self,
        path: Path,
        info: SegmentInfo,
        kind: type[Shadow],
        create: Callable[[Path, SegmentInfo], Shadow],
    ) -> Shadow | None:
        """The shadow at `path`, made if need be; `None` while somebody else uses it."""
        if path.exists():
            try:
                shadow = open_shadow(path)
            except WriterBusy:
                return None
            except DsmError:  # of an earlier format, or damaged: it is only a copy
                path.unlink(missing_ok=True)
            else:
                if isinstance(shadow, kind) and _same(shadow.info, info):
                    return shadow
                shadow.close()
                path.unlink(missing_ok=True)
        try:
            return create(path, info)
        except (WriterBusy, SegmentExists):  # another process was faster
            return None

    def _remove_others(self, segment: str, stem: str) -> None:
        """Its shadows of other epochs than this one."""
        for name in self._files(segment):
            if not name.startswith(stem):
                (self._directory / name).unlink(missing_ok=True)

    def _files(self, segment: str) -> list[str]:
        """Names of its shadows, of all epochs."""
        stem = _stem(segment)
        with os.scandir(self._directory) as files:
            names = (file.name for file in files)
            return [name for name in names if name.startswith(stem) and name.endswith(".dsm")]


def _stem(segment: str) -> str:
    return quote(segment, safe="") + "~"


def _remove_unused(file: Path) -> bool:
    try:
        open_shadow(file).close()
    except WriterBusy:
        return False
    except DsmError:
        pass  # damaged, or gone by now
    file.unlink(missing_ok=True)
    return True


def _same(one: SegmentInfo, other: SegmentInfo) -> bool:
    geometry = (one.epoch, one.kind, one.capacity_bytes, one.slots, one.size_bytes, one.page_bytes)
    return one.kind in Kind and geometry == (
        other.epoch,
        other.kind,
        other.capacity_bytes,
        other.slots,
        other.size_bytes,
        other.page_bytes,
    )
