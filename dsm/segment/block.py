"""One block of a ring, as readers see it, and runs of blocks, as they travel.

    row (40 B)    seq │ pos │ timestamp_ns │ length │ flags │ head_crc │ body_crc
                  └────────────── head_crc ─────────────┘ + header        body_crc: payload
    data          header (header_bytes) │ payload

A `Block` of a mapped ring is a view of memory that the producer will reuse: `intact` says whether
that has happened yet, and `bytes(block)` copies first and then looks. A `Block` over private bytes
or over a shadow has no such source and is always intact.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import crc32c

from dsm.errors import ChecksumMismatch, Overrun
from dsm.model import BlockDescriptor, Gap
from dsm.segment.layout import ROW_HEAD


class Source(Protocol):
    """The ring that a block is a view of."""

    @property
    def name(self) -> str: ...
    @property
    def tail(self) -> int: ...


class BlockRun(NamedTuple):
    """Consecutive blocks, copied out of one ring.

    `rows` are their raw 40-byte rows. `data` is one contiguous copy of the data area from the
    first block's first byte to the last one's last (`copy_blocks`), or the concatenation of heads
    or bodies (`copy_heads`, `copy_bodies`).
    """

    first: int
    count: int  # type: ignore[assignment]
    rows: bytes
    data: bytes | memoryview

    @property
    def stop(self) -> int:
        return self.first + self.count


class Block:
    """A block: `seq`, `timestamp_ns`, `flags`, and read-only views `header`, `payload`, `data`.

    Give `row` (the raw row, or its fields) to make `verify` possible, and `source` where the
    bytes may be reused under the block.
    """

    __slots__ = ("_fields", "_source", "data", "header_bytes", "seq", "timestamp_ns")

    def __init__(
        self,
        seq: int,
        timestamp_ns: int,
        data: memoryview,
        header_bytes: int = 0,
        source: Source | None = None,
        fields: tuple[int, ...] | None = None,
    ) -> None:
        self.seq = seq
        self.timestamp_ns = timestamp_ns
        self.data = data
        self.header_bytes = header_bytes
        self._source = source
        self._fields = fields

    @property
    def header(self) -> memoryview:
        return self.data[: self.header_bytes]

    @property
    def payload(self) -> memoryview:
        return self.data[self.header_bytes :]

    @property
    def intact(self) -> bool:
        """The producer has not begun to reuse these bytes."""
        return self._source is None or self.seq >= self._source.tail

    @property
    def descriptor(self) -> BlockDescriptor | None:
        return None if self._fields is None else BlockDescriptor(*self._fields)

    @property
    def flags(self) -> int:
        return 0 if self._fields is None else self._fields[4]

    def verify(self) -> None:
        """Check header and payload against what the producer wrote.

        Raises `Overrun` where they were lapped, else `ChecksumMismatch`.
        """
        good = self._fields is None or matches(self._fields, self.data, self.header_bytes)
        self._check_intact()
        if not good:
            name = "?" if self._source is None else self._source.name
            raise ChecksumMismatch(name, f"block {self.seq} is not what was appended")

    def _check_intact(self) -> None:
        if self._source is not None and self.seq < (tail := self._source.tail):
            raise Overrun(self._source.name, Gap(self.seq, tail - 1))

    def __bytes__(self) -> bytes:
        """A private copy, checked after copying; raises `Overrun` if it was lapped."""
        copy = bytes(self.data)
        self._check_intact()
        return copy

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.seq}: {self.header_bytes} + "
            f"{max(0, len(self) - self.header_bytes)} bytes>"
        )


def head_matches(fields: tuple[int, ...], data: memoryview, header_bytes: int) -> bool:
    """Does the header carry the checksum of this row? `data` may end with it."""
    seq, pos, timestamp_ns, length, flags, head_crc, _ = fields
    seed = crc32c.crc32c(ROW_HEAD.pack(seq, pos, timestamp_ns, length, flags))
    return crc32c.crc32c(data[:header_bytes], seed) == head_crc


def matches(fields: tuple[int, ...], data: memoryview, header_bytes: int) -> bool:
    """Do these bytes carry the checksums of this row?"""
    seq, pos, timestamp_ns, length, flags, head_crc, body_crc = fields
    seed = crc32c.crc32c(ROW_HEAD.pack(seq, pos, timestamp_ns, length, flags))
    return (
        length == len(data)
        and crc32c.crc32c(data[:header_bytes], seed) == head_crc
        and crc32c.crc32c(data[header_bytes:]) == body_crc
    )
