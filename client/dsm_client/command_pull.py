"""`dsm pull`: a segment into a file.

A region becomes its bytes, all of one version. A ring becomes its blocks (`dsm_client.block_file`),
or with `payloads` their payloads one after the other. The file appears when it is complete; what an
interrupted pull has got stays in its shadow, and the next one goes on there.
"""

from __future__ import annotations

import secrets
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dsm.errors import UsageError
from dsm.model import Gap, OnLag
from dsm_client import Region, Ring, Session
from dsm_client import command_text as text
from dsm_client.block_file import BlockFileWriter
from dsm_client.cache import BUDGET_BYTES
from dsm_client.command import complain
from dsm_client.command_blocks import held, say
from dsm_client.command_reach import Reach, resumable
from dsm_client.loop import background
from dsm_client.mapped import MappedRegion
from dsm_client.session import Described

REDRAW_S = 0.1
WRITE_BYTES = 4 << 20
STDOUT = "-"


@dataclass(slots=True)
class Pulled:
    """What came of it."""

    bytes: int = 0
    blocks: int = 0
    version: int | None = None
    wire_bytes: int = 0
    elapsed_s: float = 0.0
    gaps: list[Gap] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of a segment."""

    access: str = "auto"
    payloads: bool = False
    last: int | None = None
    on_lag: OnLag = "skip"


def pull(reach: Reach, name: str, file: str, wish: Wish, *, json: bool) -> None:
    if json and file == STDOUT:
        raise UsageError("the bytes go to stdout, so a summary as JSON cannot")
    target = _destination(file, name)
    with resumable(reach.address, name) as shadows:
        try:
            pulled = _pull(reach, name, target, wish, shadows)
        except KeyboardInterrupt:
            if any(shadows.rglob("*.dsm")):
                complain("stopped; the same command goes on from here")
            raise
    if json:
        _write_json(name, target, pulled)
    else:
        complain(_in_words(name, target, pulled))


def _pull(reach: Reach, name: str, target: Path | None, wish: Wish, shadows: Path) -> Pulled:
    started = time.monotonic()
    try:
        pulled = _attempt(reach, name, target, wish, shadows, BUDGET_BYTES)
    except _Larger as larger:
        pulled = _attempt(reach, name, target, wish, shadows, larger.budget_bytes)
    pulled.elapsed_s = time.monotonic() - started
    return pulled


class _Larger(Exception):
    """The shadow of this region needs a larger budget."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes


def _attempt(
    reach: Reach, name: str, target: Path | None, wish: Wish, shadows: Path, budget_bytes: int
) -> Pulled:
    with reach.session(shadows, budget_bytes=budget_bytes) as session:
        described = session.describe(name)
        if described.info.size_bytes > budget_bytes:
            raise _Larger(2 * described.info.size_bytes)
        access = "copy_once" if wish.access == "auto" else wish.access  # surely all of it
        with session.open(name, access=access) as handle, _file(target) as file:
            if isinstance(handle, Region):
                pulled = _pull_region(handle, file, wish)
            else:
                pulled = _pull_ring(handle, described, file, wish)
        pulled.wire_bytes = _received(session)
        return pulled


def _received(session: Session) -> int:
    return session.stats()["bytes_received"]


# ── region ──


def _pull_region(region: Region, file: BinaryIO, wish: Wish) -> Pulled:
    if wish.payloads or wish.last is not None:
        raise UsageError(f"segment {region.name!r} is a region; --payloads and -n are for rings")
    with _progress(region.name, region.nbytes) as progress:
        with _whole(region, progress) as (view, version):
            for offset in range(0, len(view), WRITE_BYTES):
                file.write(view[offset : offset + WRITE_BYTES])
        progress.reached(region.nbytes)
        return Pulled(bytes=region.nbytes, version=version)


@contextmanager
def _whole(region: Region, progress: _Bar) -> Iterator[tuple[memoryview, int]]:
    """All of it, at one version, and which."""
    source = region.opened()
    if isinstance(source, MappedRegion):
        snapshot = source.reader.snapshot()
        with snapshot as view:
            yield view, snapshot.version
        return
    info = region.info
    missing = source.replica.missing(0, info.pages, None)
    here = info.size_bytes - sum(extent.length for extent in missing) * info.page_bytes
    future: Future[memoryview] = background().submit(source.fetch(0, info.size_bytes))
    try:
        while not _done_within(future, REDRAW_S):
            progress.reached(max(0, here) + region.stats()["bytes_received"])
        yield future.result(), source.replica.shadow.version
    finally:
        future.cancel()


def _done_within(future: Future[memoryview], timeout_s: float) -> bool:
    try:
        future.result(timeout_s)
    except TimeoutError:
        return future.done()
    return True


# ── ring ──


def _pull_ring(ring: Ring, described: Described, file: BinaryIO, wish: Wish) -> Pulled:
    head, tail = ring.head, ring.tail
    start = tail if wish.last is None else max(tail, head - wish.last)
    pulled = Pulled()
    writer = None if wish.payloads else BlockFileWriter(file, ring.info)

    def on_gap(gap: Gap) -> None:
        pulled.gaps.append(gap)
        say(gap)

    expected = described.held_bytes * (head - start) // max(1, head - tail)
    with _progress(ring.name, expected) as progress:
        for block in held(ring, start, head, whole=True, on_lag=wish.on_lag, on_gap=on_gap):
            if writer is None:
                file.write(block.payload)
            else:
                writer.write(block.seq, block.timestamp_ns, block.data)
            pulled.blocks += 1
            pulled.bytes += len(block.payload) if writer is None else block.length
            progress.reached(pulled.bytes)
        progress.reached(expected)
    if writer is not None:
        writer.finish(pulled.gaps)
    return pulled


# ── files ──


def _destination(file: str, name: str) -> Path | None:
    """Where it goes: `None` for stdout; into a directory under the segment's last name."""
    if file == STDOUT:
        return None
    path = Path(file).resolve()
    return path / name.rpartition("/")[2] if path.is_dir() else path


@contextmanager
def _file(path: Path | None) -> Iterator[BinaryIO]:
    """To write to; a regular file appears, complete, when the block is left without an error."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as device:
            yield device
        return
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


# ── progress ──


class _RateColumn(ProgressColumn):
    """In bits a second, as everywhere here."""

    def render(self, task: Task) -> Text:
        return Text(text.rate(task.speed * 8) if task.speed else "")


class _Bar:
    """A progress bar that is told positions as often as one likes."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total)
        self._total = total
        self._drawn_at = 0.0

    def reached(self, position: int) -> None:
        now = time.monotonic()
        if position >= self._total or now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._progress.update(self._task, completed=min(position, self._total))


@contextmanager
def _progress(name: str, total: int) -> Iterator[_Bar]:
    """On stderr, if that is a terminal, and gone when it is done."""
    out = text.console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        _RateColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(
        *columns, console=out, transient=True, disable=not out.is_terminal, expand=True
    ) as progress:
        yield _Bar(progress, name, total)


# ── what came of it ──


def _in_words(name: str, target: Path | None, pulled: Pulled) -> str:
    what = text.size(pulled.bytes)
    if pulled.version is None:
        what = f"{text.count(pulled.blocks, 'block')}, {what}"
    else:
        what = f"version {pulled.version}, {what}"
    where = "stdout" if target is None else target.name
    return (
        f"{name} to {where}: {what} in {text.duration(pulled.elapsed_s)}, "
        f"{text.size(pulled.wire_bytes)} on the wire"
    )


def _write_json(name: str, target: Path | None, pulled: Pulled) -> None:
    text.write_json(
        {
            "segment": name,
            "file": str(target),
            "bytes": pulled.bytes,
            "blocks": pulled.blocks if pulled.version is None else None,
            "version": pulled.version,
            "gaps": [list(gap) for gap in pulled.gaps],
            "wire_bytes": pulled.wire_bytes,
            "elapsed_s": pulled.elapsed_s,
        }
    )
