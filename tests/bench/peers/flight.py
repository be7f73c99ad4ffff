"""Arrow Flight: one stream, as in its examples, or eight endpoints, each over its own connection.

The server understands three tickets: a byte range, a column of the table of blocks (so headers
travel without payloads), and a list of rows.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..data import BLOCK_BYTES, FILES, HEADER_BYTES, Dataset, Extent, Sizes
from .interface import Buffer, Peer, Reader, Running, register, serves

BATCH_BYTES = 1 << 20
PIECE_BYTES = 4 << 20
"""What an endpoint is asked for at a time."""

ENDPOINTS = 8


@serves(name="flight")
def flight(running: Running) -> Iterator[None]:
    here = f"{__package__}.flight"
    sizes = running.data.sizes
    where = [str(running.data.folder), str(sizes.bulk_bytes), str(sizes.blocks)]
    address = f"grpc://{running.host.ipv4}:{running.port}"
    command = [sys.executable, "-m", here, address, *where]
    with running.program(command):
        yield


class FlightReader(Reader):
    def __init__(self, host: str, port: int, *, endpoints: int) -> None:
        from pyarrow import flight as arrow

        self._ticket = arrow.Ticket
        address = f"grpc://{host}:{port}"
        self._clients = [arrow.FlightClient(address) for _ in range(endpoints)]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def _get(self, client: Any, **wanted: Any) -> Iterator[Any]:
        """The columns of the stream's batches, as buffers of their bytes."""
        for chunk in client.do_get(self._ticket(json.dumps(wanted))):
            yield chunk.data.column(0)

    def read(self, name: str, offset: int, length: int) -> Buffer:
        return self._range(self._clients[0], name, (offset, length))

    def _range(self, client: Any, name: str, extent: Extent) -> Buffer:
        offset, length = extent
        parts = [
            memoryview(column.buffers()[1])[:length]
            for column in self._get(client, name=name, offset=offset, length=length)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def sequential(self, name: str, extents: Sequence[Extent]) -> Iterator[Buffer]:
        start, stop = extents[0][0], sum(extents[-1])
        length = extents[0][1]
        if len(self._clients) == 1:
            stream = (
                memoryview(column.buffers()[1])[: len(column)]
                for column in self._get(
                    self._clients[0], name=name, offset=start, length=stop - start
                )
            )
            yield from cut(stream, length)
            return
        pieces = [(at, min(PIECE_BYTES, stop - at)) for at in range(start, stop, PIECE_BYTES)]

        def piece(number: int) -> memoryview:
            client = self._clients[number % len(self._clients)]
            return memoryview(self._range(client, name, pieces[number]))

        with ThreadPoolExecutor(2 * len(self._clients)) as pool:
            yield from cut(pool.map(piece, range(len(pieces))), length)

    def headers(self, count: int) -> Iterator[Buffer]:
        for column in self._get(self._clients[0], column="header", stop=count):
            yield from fixed(column, HEADER_BYTES)

    def payloads(self, seqs: Sequence[int]) -> Iterator[Buffer]:
        for column in self._get(self._clients[0], column="payload", rows=list(seqs)):
            yield from fixed(column, BLOCK_BYTES - HEADER_BYTES)


def cut(stream: Any, length: int) -> Iterator[memoryview]:
    """Buffers whose sizes are multiples of `length`, but for the last, in pieces of it."""
    for view in stream:
        for at in range(0, len(view), length):
            yield view[at : at + length]


def fixed(column: Any, width: int) -> Iterator[memoryview]:
    """The values of a column of fixed-size binaries."""
    view = memoryview(column.buffers()[1])[column.offset * width :]
    for row in range(len(column)):
        yield view[row * width : (row + 1) * width]


KINDS = frozenset(
    {"sequential", "random", "strided", "headers", "payloads", "first", "cold", "demand", "seek"}
)
MODULES = ("pyarrow.flight", "numpy")
for count, name in ((1, "flight"), (ENDPOINTS, f"flight-{ENDPOINTS}")):
    register(
        Peer(
            name,
            "flight",
            "Arrow Flight" + (f", {count} endpoints" if count > 1 else ""),
            functools.partial(FlightReader, endpoints=count),
            KINDS if count == 1 else frozenset({"sequential", "random", "demand", "seek"}),
            MODULES,
            connections=count,
            in_order=count == 1,
        )
    )


def serve(address: str, folder: str, bulk_bytes: str, blocks: str) -> None:
    """The server's process."""
    import numpy
    import pyarrow as arrow
    from pyarrow import flight as service

    data = Dataset(Path(folder), Sizes(int(bulk_bytes), int(blocks)))
    files = {name: arrow.py_buffer(data.bytes_of(name)) for name in FILES}
    rows = numpy.frombuffer(data.bytes_of("blocks"), "u1").reshape(-1, BLOCK_BYTES)

    def fixed_column(part: Any) -> Any:
        width = part.shape[1]
        buffer = arrow.py_buffer(numpy.ascontiguousarray(part))
        kind = arrow.binary(width)
        return arrow.FixedSizeBinaryArray.from_buffers(kind, len(part), [None, buffer])

    table = arrow.table(
        {
            "header": fixed_column(rows[:, :HEADER_BYTES]),
            "payload": fixed_column(rows[:, HEADER_BYTES:]),
        }
    )

    class Server(service.FlightServerBase):  # type: ignore[misc]
        def do_get(self, _context: Any, ticket: Any) -> Any:
            wanted = json.loads(ticket.ticket)
            if "column" in wanted:
                return service.RecordBatchStream(self._of_table(wanted))
            offset, length = wanted["offset"], wanted["length"]
            buffer = files[wanted["name"]].slice(offset, length)
            values = arrow.UInt8Array.from_buffers(arrow.uint8(), length, [None, buffer])
            whole = arrow.table({"bytes": values})
            batches = whole.to_batches(max_chunksize=BATCH_BYTES)
            return service.GeneratorStream(whole.schema, iter(batches))

        def _of_table(self, wanted: dict[str, Any]) -> Any:
            chosen = table.select([wanted["column"]])
            if "rows" in wanted:
                return chosen.take(wanted["rows"])
            return chosen.slice(0, wanted["stop"])

    Server(address).serve()


if __name__ == "__main__":
    serve(*sys.argv[1:])
