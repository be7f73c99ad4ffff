"""Segment files as files: their names, and how they come and go.

A file appears complete or not at all: it is written without a name (`O_TMPFILE`; where a file
system has none, under a name that is nobody's segment), its memory is reserved, and `link(2)`,
which never overwrites, gives it its name. A creator that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from dsm.errors import (
    CorruptSegment,
    NoSpace,
    SegmentExists,
    SegmentNotFound,
    UnsupportedFormat,
)
from dsm.model import validate_name
from dsm.segment import layout

SUFFIX = ".dsm"
_MODE = 0o660
"""Group-readable, and then less the umask."""


def path_of(root: Path, name: str) -> Path:
    """The file of a segment; raises `InvalidName`."""
    return Path(root) / (validate_name(name).replace("/", "%2F") + SUFFIX)


def name_of(path: Path) -> str:
    """The segment that lives in this file."""
    return path.name.removesuffix(SUFFIX).replace("%2F", "/")


def list_names(root: Path) -> list[str]:
    """Names of all segments under `root`, sorted; none where there is no such directory."""
    try:
        files = [path for path in Path(root).iterdir() if path.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
    return sorted(name_of(path) for path in files if not path.name.startswith("."))


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[int]:
    """A descriptor to fill; leaving the block names the file `path`, an error leaves nothing.

    The descriptor stays open on success and belongs to the caller. Raises `SegmentExists`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise _exists(path)
    fd, source = _nameless(path.parent)
    try:
        yield fd
        _give_name(fd, source, path)
    except BaseException:
        os.close(fd)
        raise
    finally:
        if source is not None:
            source.unlink(missing_ok=True)


def _nameless(directory: Path) -> tuple[int, Path | None]:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(directory, flags | os.O_TMPFILE, _MODE), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    source = directory / f".{secrets.token_hex(8)}.new"
    return os.open(source, flags | os.O_CREAT | os.O_EXCL, _MODE), source


def _give_name(fd: int, source: Path | None, path: Path) -> None:
    try:
        if source is not None:
            os.link(source, path)
        else:
            # linkat(2) with AT_SYMLINK_FOLLOW, which Python passes only with a directory given
            here = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=here, follow_symlinks=True)
            finally:
                os.close(here)
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> SegmentExists:
    return SegmentExists(
        name_of(path), f"there is one already ({path}); open it, or delete it first"
    )


def reserve(fd: int, path: Path, offset: int, length: int) -> None:
    """Have the memory of these bytes, or raise `NoSpace`; touching a page of a full tmpfs that
    was not reserved would kill the process with SIGBUS."""
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        raise _explained(error, path, length) from None


def write_at(fd: int, path: Path, offset: int, data: memoryview) -> int:
    """`pwrite(2)`, which takes memory as it needs it; returns how many bytes. Raises `NoSpace`."""
    try:
        return os.pwrite(fd, data, offset)
    except OSError as error:
        raise _explained(error, path, len(data)) from None


def _explained(error: OSError, path: Path, length: int) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return error
    return NoSpace(_no_space(path, length, error))


def _no_space(path: Path, length: int, error: OSError) -> str:
    space = os.statvfs(path.parent)
    return (
        f"segment {name_of(path)!r}: the file system that holds {path.parent} cannot take "
        f"{length} bytes more ({error.strerror}): {space.f_bavail * space.f_frsize} of "
        f"{space.f_blocks * space.f_frsize} bytes are free; delete segments, make it larger, "
        "or use another root"
    )


def delete_segment(root: str | Path, name: str) -> None:
    """Delete it. Who has it mapped keeps a valid mapping, sees `deleted`, and is woken.

    A damaged file is deleted too. Raises `SegmentNotFound`.
    """
    path = path_of(Path(root), name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise SegmentNotFound(name, f"there is none under {root}; nothing was deleted") from None
    try:
        with contextlib.suppress(CorruptSegment, UnsupportedFormat):
            layout.unpack(os.pread(fd, layout.ALIGN, 0), name, os.fstat(fd).st_size)
            mark = (1).to_bytes(8, "little")
            os.pwrite(fd, mark, layout.CONTROL_OFFSET + layout.DELETED * 8)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.pwrite(fd, b"\1", layout.BELL_OFFSET)
    finally:
        os.close(fd)
