"""What all peers serve: the same random bytes, under four names, and what they must add up to.

    bulk     one array                     read in pieces of 64 KiB, at random, in strides
    other    another                       read by a session beforehand, which then is worked in
    spots    a third, small                read at random while `bulk` is read in order
    blocks   BLOCKS x (header, payload)    fixed size, so that a byte range finds each part

Random, so that compression helps nobody. The files lie in shared memory: no disk is measured.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import crc32c

HEADER_BYTES = 64
PAYLOAD_BYTES = 16 << 10
BLOCK_BYTES = HEADER_BYTES + PAYLOAD_BYTES
CHUNK_BYTES = 4 << 20
SEED = 1

ARRAYS = {"bulk": 1, "other": 4, "spots": 16}
"""Which part of the bulk each is."""

FILES = (*ARRAYS, "blocks")

Extent = tuple[int, int]
"""offset, length"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is."""

    bulk_bytes: int = 256 << 20
    blocks: int = 10_000

    def of(self, name: str) -> int:
        """Bytes of one of the files."""
        if name == "blocks":
            return self.blocks * BLOCK_BYTES
        return self.bulk_bytes // ARRAYS[name]


class Dataset:
    """The files in `folder`, and their bytes to compare with."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder = folder
        self.sizes = sizes

    @classmethod
    def create(cls, folder: Path, sizes: Sizes) -> Dataset:
        folder.mkdir(parents=True, exist_ok=True)
        rng = random.Random(SEED)
        for name in FILES:
            size = sizes.of(name)
            with (folder / name).open("wb") as file:
                for start in range(0, size, CHUNK_BYTES):
                    file.write(rng.randbytes(min(CHUNK_BYTES, size - start)))
        return cls(folder, sizes)

    def path(self, name: str) -> Path:
        return self.folder / name

    def bytes_of(self, name: str) -> memoryview:
        with self.path(name).open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def checksum(self, name: str, extents: Iterable[Extent]) -> int:
        """Of these extents, one after the other: what a reader's `Checksum` must come to."""
        view = self.bytes_of(name)
        total = Checksum()
        for offset, length in extents:
            total.add(view[offset : offset + length])
        return total.value


class Checksum:
    """CRC-32C of buffers in the order in which they are added."""

    def __init__(self) -> None:
        self.value = 0
        self.bytes = 0

    def add(self, buffer: bytes | bytearray | memoryview) -> None:
        self.value = crc32c.crc32c(buffer, self.value)
        self.bytes += len(buffer)


def block_extent(seq: int) -> Extent:
    return seq * BLOCK_BYTES, BLOCK_BYTES


def header_extent(seq: int) -> Extent:
    return seq * BLOCK_BYTES, HEADER_BYTES


def payload_extent(seq: int) -> Extent:
    return seq * BLOCK_BYTES + HEADER_BYTES, PAYLOAD_BYTES
