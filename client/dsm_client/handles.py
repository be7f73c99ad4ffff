"""`Ring` and `Region`: what `session.open` returns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsm.core.planner import Hint
from dsm.errors import Closed, DeadlineExceeded, OutOfRange, Overrun, UsageError
from dsm.model import Access, Kind, OnLag, Position, SegmentInfo
from dsm.segment import Block, RegionSnapshot
from dsm_client.follow import Follower
from dsm_client.loop import background
from dsm_client.mapped import MappedRegion, MappedRing
from dsm_client.remote import RemoteRegion, RemoteRing
from dsm_client.sources import RegionSource, RingSource

if TYPE_CHECKING:
    from dsm_client.session import SessionCore

WANT_BYTES = 64 << 20
"""Iterating over a range announces so much of it at a time as surely wanted."""

WANT_FIRST = 64
"""Blocks that `auto` announces first, then twice that and so on: it does not know yet whether only
their headers will be read."""


class Handle:
    """What rings and regions have in common: a name at a node, opened again where need be."""

    kind: Kind

    def __init__(
        self, core: SessionCore, name: str, access: Access, header_bytes: int | None, source: Any
    ) -> None:
        self._core = core
        self._name = name
        self._access = access
        self._header_bytes = header_bytes
        self._opened: Any = source
        self._generation = core.generation
        self._closed = False

    @property
    def _source(self) -> Any:
        if self._generation != self._core.generation:
            self._reopen()
        if self._closed:
            raise Closed(f"segment {self._name!r}: this handle is closed; open it again")
        return self._opened

    def opened(self) -> Any:
        """Where the bytes come from now; raises `Closed`."""
        return self._source

    def _reopen(self) -> None:
        """In the child of a fork: the parent's connections are not ours."""
        self._generation = self._core.generation
        work = self._core.source(self._name, self._access, self._header_bytes)
        self._opened = background().run(work)

    @property
    def name(self) -> str:
        return self._name

    @property
    def info(self) -> SegmentInfo:
        """What the segment is."""
        info: SegmentInfo = self._source.info
        return info

    @property
    def position(self) -> Position:
        """How far it has come, as far as is known here: events keep it up to date."""
        position: Position = self._source.position
        return position

    @property
    def is_mapped(self) -> bool:
        """It is this host's own memory: no copy, no network."""
        mapped: bool = self._source.is_mapped
        return mapped

    @property
    def access(self) -> Access:
        return self._access

    @property
    def method(self) -> str:
        """The access method in force now: under `auto`, the one that it chose last."""
        source = self._source
        if isinstance(source, RemoteRing | RemoteRegion):
            return source.replica.method.value
        return "mapped"

    def hint(self, hint: Hint) -> None:
        """Tell what is known of the reads to come: 'sequential', 'random' or 'normal'."""
        self._source.hint(hint)

    def explain(self) -> str:
        """How it is read and why, in words: method, path, window, hits."""
        text: str = self._source.explain()
        return text

    def stats(self) -> dict[str, int]:
        """Reads, hits, waits and bytes of this handle; empty for a mapped one."""
        source = self._source
        if isinstance(source, RemoteRing | RemoteRegion):
            counts = source.replica.counts
            return {name: getattr(counts, name) for name in counts.__slots__}
        return {}

    def close(self) -> None:
        """Let go of it. Views that were handed out stay valid."""
        if not self._closed:
            self._closed = True
            if self._generation == self._core.generation:
                self._opened.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return (reopened, (self._core.url, self._core.options, self._name, *self._arguments))

    @property
    def _arguments(self) -> tuple[str, int | None]:
        return self._access.value, self._header_bytes

    def __repr__(self) -> str:
        state = "closed" if self._closed else ("mapped" if self._opened.is_mapped else "remote")
        return f"<{type(self).__name__} {self._name!r} at {self._core.address}, {state}>"


def reopened(url: str, options: Any, name: str, access: str, header_bytes: int | None) -> Any:
    """Unpickles a handle: connects to the node and opens the segment."""
    from dsm_client import Session

    session = Session.connected(url, options)
    return session.open(name, access=access, header_bytes=header_bytes)


class Ring(Handle):
    """A ring, wherever it is."""

    kind = Kind.RING
    _source: RingSource

    @property
    def head(self) -> int:
        """Sequence number of the next block to be appended."""
        return self.position.head

    @property
    def tail(self) -> int:
        """Sequence number of the oldest block that is still there."""
        return self.position.tail

    def read(self, seq: int) -> Block:
        """Block `seq`; negative: counted from the head, so -1 is the newest.

        Its header is there; under `hybrid` its payload is fetched when it is touched. Raises
        `Overrun`, `OutOfRange`, `ChecksumMismatch`, `NodeUnavailable`, `EpochGone`.
        """
        source = self._source
        seq = self.from_head(seq)
        block = source.present(seq)
        return background().run(source.fetch(seq)) if block is None else block

    __getitem__ = read

    def blocks(self, start: int | None = None, stop: int | None = None) -> Iterator[Block]:
        """Blocks `[start, stop)`; unless given, what is there now. The range is announced, so it
        is fetched ahead of the reader under every method but `zero_copy`."""
        source = self._source
        for seq in self.announced(start, stop):
            block = source.present(seq)
            yield background().run(source.fetch(seq)) if block is None else block

    def announced(self, start: int | None, stop: int | None) -> Iterator[int]:
        """The sequence numbers of a range, each announced to the source before it comes."""
        source = self._source
        position = source.position
        start = position.tail if start is None else start
        stop = position.head if stop is None else stop
        most = max(1, WANT_BYTES * source.info.slots // max(1, source.info.capacity_bytes))
        piece = min(most, WANT_FIRST) if self._access is Access.AUTO else most
        upto = start
        for seq in range(start, stop):
            if upto < stop and seq + piece // 2 >= upto:
                source.want(upto, min(stop, upto + piece))
                upto += piece
                piece = min(most, 2 * piece)
            yield seq

    def from_head(self, seq: int) -> int:
        """A negative `seq` counts from the head; raises `OutOfRange` beyond the tail."""
        if seq >= 0:
            return seq
        position = self._source.position
        if position.head + seq < position.tail:
            raise OutOfRange(
                f"segment {self._name!r} holds {position.head - position.tail} blocks; "
                f"block {seq} from the head was asked for"
            )
        return position.head + seq

    def follow(
        self,
        start: int | None = None,
        on_lag: OnLag = "raise",
        timeout_s: float | None = None,
    ) -> Iterator[Block]:
        """Iterate over live blocks, waiting for the next one; ends with the segment or the handle.

        `start`: a sequence number; negative, so many before the head; `None`, what comes next.
        `on_lag`: what happens when blocks were overwritten before they were read: `raise` an
        `Overrun` that says which, `skip` and count them, or `block` the producer (of a ring that
        was created with a deadline for that). `timeout_s`: raises `DeadlineExceeded` when nothing
        comes for so long.
        """
        source = self._source
        follower = Follower(self._name, start, on_lag, source.position)
        self.follower = follower
        with self.registered(source, follower) as advance:
            while True:
                try:
                    block = source.present(follower.next_seq)
                    if block is None:
                        block = self._wait(source, follower.next_seq, timeout_s)
                except Overrun as lag:
                    follower.lagged(lag.gap)
                    continue
                follower.read()
                yield block
                advance(follower.next_seq)

    def _wait(self, source: RingSource, seq: int, timeout_s: float | None) -> Block:
        if isinstance(source, MappedRing):
            block = source.wait_here(seq, timeout_s)
            if block is None:
                raise DeadlineExceeded(
                    f"segment {self._name!r}: nothing was appended for {timeout_s} s"
                )
            return block
        return background().run(source.wait_for(seq), timeout_s)

    @contextmanager
    def registered(self, source: RingSource, follower: Follower) -> Iterator[Any]:
        """A producer waits for this follower, if that was asked for."""
        if follower.on_lag != "block":
            yield lambda seq: None
            return
        if not source.info.block_deadline_ms:
            raise UsageError(
                f"segment {self._name!r} was not created to let its producer wait; "
                "create the ring with block_deadline_ms, or follow with 'raise' or 'skip'"
            )
        if isinstance(source, MappedRing):
            with source.reader.register(follower.next_seq) as cursor:
                yield cursor.advance
            return
        assert isinstance(source, RemoteRing)
        with remote_cursor(source, follower.next_seq) as advance:
            yield advance


@contextmanager
def remote_cursor(source: RemoteRing, seq: int) -> Iterator[Any]:
    """A cursor at the node, moved on now and then."""
    replica = source.replica
    state = {"told_at": 0.0}

    def advance(seq: int, *, at_once: bool = False) -> None:
        now = time.monotonic()
        replica.cursor = seq  # told at the latest when the reader waits
        if at_once or now - state["told_at"] >= CURSOR_S:
            state["told_at"] = now
            background().call(replica.move_cursor, seq)

    advance(seq, at_once=True)
    try:
        yield advance
    finally:
        background().call(replica.move_cursor, None)


CURSOR_S = 0.005
"""A producer that waits learns of a remote reader's progress so often."""


class Region(Handle):
    """A region, wherever it is."""

    kind = Kind.REGION
    _source: RegionSource

    @property
    def version(self) -> int:
        """The newest version that was announced."""
        return self.position.version

    @property
    def nbytes(self) -> int:
        return self.info.size_bytes

    def read(self, offset: int = 0, length: int | None = None) -> memoryview:
        """These bytes, read-only, all of one version: the newest that was announced.

        A view of the shadow, which stays as it is while it is held; of a mapped region, a checked
        copy (`snapshot` is without a copy). Raises `OutOfRange`, `ChecksumMismatch`,
        `NodeUnavailable`, `EpochGone`.
        """
        source = self._source
        length = self.check_extent(offset, length)
        view = source.present(offset, length)
        return background().run(source.fetch(offset, length)) if view is None else view

    def check_extent(self, offset: int, length: int | None) -> int:
        """The length that is meant; raises `OutOfRange`."""
        size = self._source.info.size_bytes
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise OutOfRange(
                f"segment {self._name!r} has {size} bytes; {length} at {offset} were asked for"
            )
        return length

    @contextmanager
    def snapshot(self) -> Iterator[memoryview]:
        """The whole region at one version, unchanged until the block is left."""
        source = self._source
        if isinstance(source, MappedRegion):
            snapshot: RegionSnapshot = source.reader.snapshot()
            with snapshot as view:
                yield view
            return
        yield self.read()

    def array(self) -> Any:
        """The whole region as a read-only numpy array of its dtype and shape (needs numpy)."""
        return self.as_array(self.read())

    def as_array(self, view: memoryview) -> Any:
        """These bytes, the whole region's, as an array of its dtype and shape."""
        import numpy

        info = self.info
        array = numpy.frombuffer(view, dtype=numpy.dtype(info.dtype or "u1"))
        return array.reshape(info.shape) if info.shape else array
