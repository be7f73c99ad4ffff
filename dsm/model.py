"""The nouns that every layer shares: names, kinds, extents, what a segment is, what an event says.

Standard library only, and immutable: these values cross threads, processes and the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from dsm.errors import InvalidName, UsageError

NAME_BYTES_MAX = 160
"""A name becomes a file name with `/` written as `%2F`; file systems allow 255 bytes."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

METADATA_BYTES_MAX = 2048
"""Free-form metadata lives in the superblock, which is one page."""

OnLag = Literal["raise", "skip", "block"]


def validate_name(name: str) -> str:
    """Return `name`, or raise `InvalidName` saying which rule it breaks."""
    if not isinstance(name, str) or not name:
        raise InvalidName("segment name is empty; give one such as 'capture/eth0'")
    if len(name) > NAME_BYTES_MAX:
        raise InvalidName(
            f"segment name of {len(name)} characters is too long; {NAME_BYTES_MAX} is the most"
        )
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"segment name {name!r} is not valid: parts of letters, digits, '_', '-' and '.', "
            "separated by single '/', no part starting with '.' or '-'"
        )
    return name


class Kind(Enum):
    RING = "ring"
    REGION = "region"


class Access(Enum):
    """How a client reaches bytes; `AUTO` chooses among the other four."""

    ZERO_COPY = "zero_copy"
    COPY_ONCE = "copy_once"
    HYBRID = "hybrid"
    PREFETCH = "prefetch"
    AUTO = "auto"

    @classmethod
    def parse(cls, text: str | Access) -> Access:
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(a.value for a in cls)
            raise UsageError(f"access method {text!r} is unknown; choose one of {names}") from None


class Extent(NamedTuple):
    """Half-open range `[start, stop)` of bytes, pages or sequence numbers."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Gap(NamedTuple):
    """Blocks `first` to `last`, both included, that a reader did not get."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


class BlockDescriptor(NamedTuple):
    """One row of a ring's slot table; see `dsm.segment.layout` for its 40 bytes.

    `head_crc` is the CRC-32C of (seq, pos, timestamp_ns, length, flags) and the first
    `header_bytes` bytes, so that headers can be checked without their payloads; `body_crc` that of
    the rest.
    """

    seq: int
    pos: int
    timestamp_ns: int
    length: int
    flags: int
    head_crc: int
    body_crc: int


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What a segment is, for as long as its epoch lasts.

    A ring has `capacity_bytes` and `slots` (the most blocks it holds at a time); a region has
    `size_bytes`, `page_bytes` and `buffers`. What does not apply is 0.
    """

    name: str
    kind: Kind
    epoch: int = 0
    created_ns: int = 0
    header_bytes: int = 0
    capacity_bytes: int = 0
    slots: int = 0
    size_bytes: int = 0
    page_bytes: int = 0
    buffers: int = 0
    block_deadline_ms: int = 0
    """Ring whose producer waits for registered readers, at the most this long; 0: overwrite."""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        return -(-self.size_bytes // self.page_bytes) if self.page_bytes else 0


@dataclass(frozen=True, slots=True)
class Position:
    """How far a segment has come: `[tail, head)` of a ring, `version` of a region."""

    head: int = 0
    tail: int = 0
    version: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A segment has new data.

    `changed` holds sequence numbers of a ring, bytes of a region: everything that changed after
    `since` (a head or a version) up to `position`. Where exact extents would be too many, it holds
    fewer that cover more.
    """

    segment: str
    epoch: int
    kind: Kind
    since: int
    position: Position
    changed: tuple[Extent, ...]
    published_ns: int = 0
    gone: bool = False
    """The segment was deleted or recreated; a reader opens it anew."""


@dataclass(frozen=True, slots=True)
class PathEstimate:
    """What is known of the path between one client and one node. Unknown figures are 0."""

    rate_bps: float = 0.0
    rtt_s: float = 0.0
    rtt_loaded_s: float = 0.0
    window_bytes: int = 0
    phase: str = "startup"
    spare_s: float = 0.0
    """For so long at this rate more is kept in flight than fills the path: lanes stall."""

    @property
    def bdp_bytes(self) -> int:
        """Bandwidth-delay product."""
        return int(self.rate_bps / 8 * self.rtt_s)
