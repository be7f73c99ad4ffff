"""`Ring`: what `session.open` returns for a ring."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from operator import index
from typing import Any

from dsm.errors import DeadlineExceeded, OutOfRange, Overrun, UsageError
from dsm.model import Kind, OnLag
from dsm.segment import Block
from dsm_client.follow import Follower
from dsm_client.handle import Handle
from dsm_client.loop import background
from dsm_client.mapped import MappedRing
from dsm_client.remote import RemoteRing
from dsm_client.selection import Selection, Where
from dsm_client.sources import RingSource
from dsm_client.transport import Cursor


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

    def read_many(self, seqs: Iterable[int], *, whole: bool = False) -> list[Block]:
        """These blocks, in the order given, as `read` has them: all that is missing is fetched
        together, in one round trip as far as the path's window reaches.

        `whole`: with their payloads, also where `hybrid` (or `auto`) would fetch each when it is
        touched. Raises as `read`; then none is returned. `BudgetExceeded` for more than the shadows
        may take.
        """
        source = self._source
        given = self.from_head_all(seqs)
        blocks = source.present_all(given, whole=whole)
        return background().run(source.fetch_all(given, whole=whole)) if blocks is None else blocks

    def blocks(
        self, start: int | None = None, stop: int | None = None, where: Where | None = None
    ) -> Iterator[Block]:
        """Blocks `[start, stop)`; unless given, what is there now. The range is announced, so it
        is fetched ahead of the reader under every method but `zero_copy`.

        `where`: a function of the header; only blocks for which it is true are given. Under
        `hybrid` and `auto` the headers of all come first, and of the others' payloads only those
        that were chosen, fetched ahead of the reader, too.
        """
        if where is not None:
            yield from self._selected(start, stop, where)
            return
        source = self._source
        for seq in self.announced(start, stop):
            block = source.present(seq)
            yield background().run(source.fetch(seq)) if block is None else block

    def _selected(self, start: int | None, stop: int | None, where: Where) -> Iterator[Block]:
        source = self._source
        selection = self.selection(start, stop, where)
        if selection is None:
            yield from (block for block in self.blocks(start, stop) if where(block.header))
            return

        def whole(seq: int) -> Block:
            block = source.whole(seq)
            return background().run(source.fetch_whole(seq)) if block is None else block

        for seq in selection.seqs():
            head = source.head(seq)
            selection.saw(background().run(source.fetch_head(seq)) if head is None else head)
            while (found := selection.due()) is not None:
                yield whole(found)
        while (found := selection.due(at_last=True)) is not None:
            yield whole(found)

    def selection(self, start: int | None, stop: int | None, where: Where) -> Selection | None:
        """How to choose among a range by headers; `None`: read all of it and look."""
        position = self._source.position
        start = position.tail if start is None else start
        stop = position.head if stop is None else stop
        return self._source.select(start, stop, where)

    def will_need(self, start: int | None = None, stop: int | None = None) -> None:
        """Blocks `[start, stop)` will be read, as far as they are there now: they are fetched
        meanwhile, under `hybrid` their headers. Returns at once.

        Unless given, all that is there. Nothing happens under `zero_copy`, which keeps nothing.
        Raises `UsageError`, and `BudgetExceeded` for more than the shadows may take.
        """
        source = self._source
        position = source.position
        start = position.tail if start is None else start
        stop = position.head if stop is None else stop
        if not 0 <= start <= stop:
            raise UsageError(
                f"segment {self._name!r}: will_need takes blocks [start, stop), not "
                f"[{start}, {stop})"
            )
        source.will_need(start, stop)

    def announced(self, start: int | None, stop: int | None) -> Iterator[int]:
        """The sequence numbers of a range, each announced to the source before it comes."""
        source = self._source
        position = source.position
        start = position.tail if start is None else start
        stop = position.head if stop is None else stop
        announcement = source.announce(start, stop)
        if announcement is None:
            yield from range(start, stop)
            return
        for seq in range(start, stop):
            announcement.seq = seq
            if seq >= announcement.next_at:
                announcement.reached()
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

    def from_head_all(self, seqs: Iterable[int]) -> list[int]:
        """As `from_head`; raises `UsageError` where one is not a number."""
        given = []
        for number, seq in enumerate(seqs):
            try:
                given.append(self.from_head(index(seq)))
            except TypeError:
                raise UsageError(
                    f"segment {self._name!r}: read_many takes sequence numbers, not {seq!r} "
                    f"(at {number} in the list)"
                ) from None
        return given

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
        with self.registered(source, follower) as cursor:
            if isinstance(cursor, RemoteCursor):
                background().run(cursor.register(), timeout_s)
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
                cursor.advance(follower.next_seq)

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
        """A producer waits for this follower, if that was asked for; a `RemoteCursor` is yet to be
        registered."""
        if follower.on_lag != "block":
            yield NoCursor()
            return
        if not source.info.block_deadline_ms:
            raise UsageError(
                f"segment {self._name!r} was not created to let its producer wait; "
                "create the ring with block_deadline_ms, or follow with 'raise' or 'skip'"
            )
        if isinstance(source, MappedRing):
            with source.reader.register(follower.next_seq) as cursor:
                yield cursor
            return
        assert isinstance(source, RemoteRing)
        with closing(RemoteCursor(source, follower.next_seq)) as remote:
            yield remote


class RemoteCursor:
    """A reader that the producer waits for, as the node knows it."""

    def __init__(self, source: RemoteRing, seq: int) -> None:
        self._transport, self._info = source.replica.transport, source.replica.info
        self._seq = seq
        self._told_at = 0.0
        self._cursor: Cursor | None = None

    async def register(self) -> None:
        """From when this returns on, what is not read is not overwritten."""
        self._cursor = self._transport.register(self._info.name, self._info.epoch, self._seq)
        while not await self._cursor.answer.ended():
            pass  # it is sent again by itself

    def advance(self, seq: int) -> None:
        """Told now and then, and at the latest when the reader waits."""
        now = time.monotonic()
        if self._cursor is not None:
            self._cursor.seq = seq
            if now - self._told_at >= CURSOR_S:
                self._told_at = now
                background().call(self._transport.tell_cursors)

    def close(self) -> None:
        if self._cursor is not None:
            background().call(self._transport.unregister, self._cursor)


class NoCursor:
    """The producer waits for nobody."""

    def advance(self, seq: int) -> None:
        pass


CURSOR_S = 0.005
"""A producer that waits learns of a remote reader's progress so often."""
