"""Run on one host of a WAN: reads over it with one access method and prints what it took."""

from __future__ import annotations

import json
import sys
import tempfile
import time

from dsm_client import connect

BLOCKS = 1000
HEADER_BYTES, PAYLOAD_BYTES = 54, 1400
READ_BYTES = 64 << 10


def content(seq: int) -> bytes:
    return seq.to_bytes(HEADER_BYTES, "big") + bytes([seq % 251]) * PAYLOAD_BYTES


def main(address: str, method: str, region_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as cache:
        options = {"insecure": True, "map_local": False, "cache": cache, "compress": False}
        with connect(f"dsm://{address}", **options) as session:
            ring = session.open("ring", access=method)
            region = session.open("region", access=method)
            before = session.stats()
            wanted = []
            few = method == "zero_copy"  # a round trip for each
            for block in ring.blocks(0, 10 if few else BLOCKS):
                assert block.header == content(block.seq)[:HEADER_BYTES]
                if block.seq % 100 == 0:
                    wanted.append(block)
            for block in wanted:
                assert block.payload == content(block.seq)[HEADER_BYTES:]
            of_ring = {name: value - before[name] for name, value in session.stats().items()}
            before, started = session.stats(), time.perf_counter()
            for offset in range(0, region_bytes, READ_BYTES):
                view = region.read(offset, READ_BYTES)
                assert view[0] == offset // READ_BYTES % 251
            seconds = time.perf_counter() - started
            of_region = {name: value - before[name] for name, value in session.stats().items()}
            print(json.dumps({"ring": of_ring, "region": of_region, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
