"""Everything that can go wrong, as one tree.

    DsmError
    ├── UsageError                 the call cannot be right, whatever the world is like
    │   ├── InvalidName
    │   ├── OutOfRange             an extent beyond the segment
    │   └── BlockTooLarge          a block that the ring can never hold
    ├── SegmentError               about one segment; carries its name
    │   ├── SegmentNotFound
    │   ├── SegmentExists
    │   ├── WrongKind              a ring opened as a region, or the reverse
    │   ├── WriterBusy             somebody else writes it
    │   ├── EpochGone              it was recreated: this is another life of it
    │   ├── VersionGone            the region moved on and the version is not held any more
    │   ├── NotFilled              a shadow was asked for what it does not hold yet
    │   ├── Overrun                blocks were overwritten before they were read; carries the Gap
    │   ├── CorruptSegment         the file is truncated or its superblock is damaged
    │   ├── UnsupportedFormat      the file is of a later format
    │   └── ChecksumMismatch       bytes differ from what the producer wrote, even after a re-fetch
    ├── CapacityError              a stated limit was reached; names the limit
    │   ├── NoSpace                the file system that holds the segments is full
    │   └── BudgetExceeded         a budget of ours is full
    ├── NodeError                  about one node; carries its address
    │   ├── NodeUnavailable        it could not be reached, for how long it was tried
    │   ├── NodeGoingAway          it shuts down: come back
    │   ├── ProtocolMismatch       no protocol version in common
    │   ├── MalformedMessage       what it sent cannot be understood
    │   └── AccessDenied
    ├── DeadlineExceeded           also a TimeoutError
    └── Closed                     the handle, session or node was closed

Every message says what happened, to which segment or node, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsm.model import Gap


class DsmError(Exception):
    """Root of all errors that this project raises on purpose."""


class UsageError(DsmError, ValueError):
    """The call cannot be right, whatever the world is like."""


class InvalidName(UsageError):
    """A segment name that breaks the rules in `dsm.model.validate_name`."""


class OutOfRange(UsageError, IndexError):
    """An extent that lies outside of the segment."""


class BlockTooLarge(UsageError):
    """A block that the ring cannot hold even when it is empty."""


class SegmentError(DsmError):
    """Something about one segment."""

    def __init__(self, segment: str, message: str) -> None:
        super().__init__(f"segment {segment!r}: {message}")
        self.segment = segment
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.segment, self.message))


class SegmentNotFound(SegmentError, KeyError):
    """No segment has this name."""

    __str__ = Exception.__str__  # KeyError would show the repr


class SegmentExists(SegmentError):
    """A segment of this name is there already."""


class WrongKind(SegmentError):
    """A ring was opened as a region, or the reverse."""


class WriterBusy(SegmentError):
    """Another process or handle holds the write lock."""


class EpochGone(SegmentError):
    """The segment was recreated: the epoch that was asked for is over."""


class VersionGone(SegmentError):
    """The region moved on, and nobody holds the version that was asked for."""


class Overrun(SegmentError):
    """Blocks were overwritten before they were read: `gap` says which."""

    def __init__(self, segment: str, gap: Gap) -> None:
        super().__init__(
            segment,
            f"blocks {gap.first} to {gap.last} were overwritten before they were read; "
            "read faster, create the ring larger, or follow with on_lag='skip'",
        )
        self.gap = gap

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.segment, self.gap))


class NotFilled(SegmentError):
    """A shadow was asked for bytes that were not pulled yet."""


class CorruptSegment(SegmentError):
    """The file is truncated, or its superblock is damaged."""


class UnsupportedFormat(SegmentError):
    """The file is of a later format than this release reads."""


class ChecksumMismatch(SegmentError):
    """Bytes differ from what the producer wrote, also after they were fetched again."""


class CapacityError(DsmError):
    """A stated limit was reached; the message names it."""


class NoSpace(CapacityError, OSError):
    """The file system that holds the segments cannot take this one."""


class BudgetExceeded(CapacityError):
    """A budget of ours (shadows, staging, requests) is full."""


class NodeError(DsmError):
    """Something about one node."""

    def __init__(self, address: str, message: str) -> None:
        super().__init__(f"node {address}: {message}")
        self.address = address
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.address, self.message))


class NodeUnavailable(NodeError, ConnectionError):
    """The node could not be reached within the time that was allowed."""


class NodeGoingAway(NodeUnavailable):
    """The node shuts down and says so: come back."""


class ProtocolMismatch(NodeError):
    """Client and node share no protocol version."""


class MalformedMessage(NodeError):
    """A message that breaks the protocol."""


class AccessDenied(NodeError):
    """The credentials do not allow this."""


class DeadlineExceeded(DsmError, TimeoutError):
    """It was not done in the time that the caller allowed."""


class Closed(DsmError):
    """The handle, session or node was closed before or during the call."""
