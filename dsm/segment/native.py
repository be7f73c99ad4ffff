"""The few calls of libc and of CPython that the standard library does not offer."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from functools import lru_cache
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)

memcmp = libc.memcmp
memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
memcmp.restype = ctypes.c_int

_fallocate = libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_PUNCH_HOLE_KEEP_SIZE = 0x03


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give the memory of these bytes back; False where the file system cannot."""
    if _fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), "fallocate(FALLOC_FL_PUNCH_HOLE)")


def map_file(fd: int, length: int, prot: int, offset: int = 0) -> mmap.mmap:
    """Map through an open file description of its own.

    `mmap` keeps a duplicate of its descriptor as long as any view lives, in forked children too,
    and with it would live every lock that was taken on `fd`.
    """
    flags = os.O_RDWR if prot & mmap.PROT_WRITE else os.O_RDONLY
    own = os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)
    try:
        return mmap.mmap(own, length, flags=mmap.MAP_SHARED, prot=prot, offset=offset)
    finally:
        os.close(own)


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_Buffer),)
_release_buffer.restype = None


def address_of(memory: memoryview) -> int:
    """Where it lies; also of read-only memory, for which ctypes has no way of its own."""
    buffer = _Buffer()
    _get_buffer(memory, ctypes.byref(buffer), 0)
    address = int(buffer.buf)
    _release_buffer(ctypes.byref(buffer))
    return address


@lru_cache(maxsize=64)
def _loan_type(length: int) -> Any:
    return type("Loan", (ctypes.c_char * length,), {})


def loan_of(memory: memoryview) -> Any:
    """An exporter of `memory` that lives as long as any view derived of it, and can be weakly
    referenced: that is how a lender learns whether anything is still held."""
    loan = _loan_type(len(memory)).from_address(address_of(memory))
    loan.owner = memory[:]  # of its own: the lender may release his
    return loan
