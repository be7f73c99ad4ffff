"""How a workload is driven: which of a reader's methods is called, in which order, beside what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .data import Extent, Sizes
from .peers.interface import Buffer, Reader, let_go
from .workloads import READ_BYTES, Workload, pieces

Read = tuple[Buffer, float]
"""What came, and its seconds (0 where reads overlap)."""

FILL_S = 1.0
"""For so long the stream runs alone, before somebody asks for something beside it."""

DEMAND_LEAST = 10
SETTLE_S = 1.0
"""What is under way when a reader turns elsewhere still comes, and counts as waste."""


class Drive:
    """One workload over one reader. `notes` go into the result."""

    def __init__(
        self, reader: Reader, workload: Workload, extents: list[Extent], sizes: Sizes
    ) -> None:
        self._reader = reader
        self._workload = workload
        self._extents = extents
        self._sizes = sizes
        self.notes: dict[str, Any] = {}

    def complete(self, reads: int) -> bool:
        """Whether so many are all; beside a stream it ends when that does."""
        if self._workload.kind == "demand":
            return reads >= DEMAND_LEAST
        return reads == len(self._extents)

    def reads(self) -> Iterator[Read]:
        """The workload's reads, in order."""
        reader, extents = self._reader, self._extents
        match self._workload.kind:
            case "sequential":
                yield from _untimed(reader.sequential("bulk", extents))
            case "random":
                yield from reader.scattered("bulk", extents, self._workload.depth)
            case "strided" | "first" | "cold":
                yield from reader.scattered("bulk", extents, 1)
            case "headers":
                yield from _untimed(reader.headers(len(extents)))
            case "payloads":
                yield from self._payloads()
            case "demand":
                yield from self._demand()
            case "seek":
                yield from self._seek()

    def _payloads(self) -> Iterator[Read]:
        wanted = sum(1 for _, length in self._extents if length != self._extents[0][1])
        count = len(self._extents) - wanted
        yield from _untimed(self._reader.headers(count))
        every = count // wanted
        yield from _untimed(self._reader.payloads([number * every for number in range(wanted)]))

    def _demand(self) -> Iterator[Read]:
        stream = _Stream(self._reader, pieces(0, self._sizes.of("bulk"), READ_BYTES))
        time.sleep(FILL_S)
        bytes_before, began = stream.bytes, time.perf_counter()
        for read in self._reader.scattered("spots", self._extents, 1):
            if stream.ended.is_set():
                break
            yield read
            lasted_s = time.perf_counter() - began
            self.notes["beside_bps"] = (stream.bytes - bytes_before) * 8 / lasted_s
        stream.stop()

    def _seek(self) -> Iterator[Read]:
        """The stream is asked for the whole array, and left before its end."""
        after = [extent for extent in self._extents if extent[0] >= self._sizes.of("bulk") // 2]
        count = len(self._extents) - len(after)
        stream = self._reader.sequential("bulk", pieces(0, self._sizes.of("bulk"), READ_BYTES))
        yield from _untimed(islice(stream, count))
        let_go(stream)
        yield from self._reader.scattered("bulk", after, 1)
        time.sleep(SETTLE_S)


def _untimed(buffers: Iterator[Buffer]) -> Iterator[Read]:
    return ((buffer, 0.0) for buffer in buffers)


class _Stream:
    """Somebody else reads in order, through the same reader, until it is stopped or at the end."""

    def __init__(self, reader: Reader, extents: list[Extent]) -> None:
        self._stopped = False
        self.ended = threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._run, args=(reader, extents), daemon=True)
        self._thread.start()

    def _run(self, reader: Reader, extents: list[Extent]) -> None:
        try:
            reads = reader.sequential("bulk", extents)
            for buffer in reads:
                self.bytes += len(buffer)
                if self._stopped:
                    break
            let_go(reads)
        finally:
            self.ended.set()

    def stop(self) -> None:
        self._stopped = True
