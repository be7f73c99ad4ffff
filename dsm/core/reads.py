"""What a client asks of a node, as plain values: the pure side of `PullRequest`.

Both state machines speak in these (the client's `Puller` and the node's `Exporter`), so that they
can be put together without a wire between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from dsm.model import Extent


class Part(Enum):
    """Which bytes of a block: all, its header only, or what follows the header."""

    WHOLE = "whole"
    HEADER = "header"
    PAYLOAD = "payload"


class Urgency(IntEnum):
    """Order in which reads go out; a lower one never waits behind a higher one."""

    AWAITED = 0
    """A reader is blocked on it."""
    WANTED = 1
    """It will surely be read."""
    SPECULATIVE = 2


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Runs of blocks of a ring; `park`: answer what is beyond the head when it appears."""

    runs: tuple[Extent, ...]
    part: Part = Part.WHOLE
    header_bytes: int = 0
    park: bool = False


@dataclass(frozen=True, slots=True)
class ReadPages:
    """Pages of one `version` (0: the newest): all of `need`, and what changed of `refresh`.

    `hold`: more of this version will be asked for.
    """

    version: int
    since: int
    need: tuple[Extent, ...] = ()
    refresh: tuple[Extent, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class ReadBytes:
    """Exactly these bytes of a region's newest version."""

    offset: int
    length: int


Read = ReadBlocks | ReadPages | ReadBytes


def by_lacking(
    extents: Iterable[Extent], has_headers: Callable[[Extent], bool]
) -> Iterator[tuple[Part, tuple[Extent, ...]]]:
    """What to ask for so that blocks are whole: of those whose headers are here the payloads."""
    parts: dict[Part, list[Extent]] = {}
    for extent in extents:
        part = Part.PAYLOAD if has_headers(extent) else Part.WHOLE
        parts.setdefault(part, []).append(extent)
    return ((part, tuple(some)) for part, some in parts.items())


@dataclass(frozen=True, slots=True)
class Request:
    """One read on its way: of which life of which segment, and how urgent."""

    id: int
    segment: str
    epoch: int
    read: Read
    urgency: Urgency = Urgency.AWAITED
