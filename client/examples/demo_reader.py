"""The measuring part of `make demo`: a process on one of the emulated hosts.

    demo_reader.py compare ADDRESS ROOT CACHE     every access method, each in a new session
    demo_reader.py follow ADDRESS ROOT CACHE N    N blocks as they are appended
    demo_reader.py local ADDRESS CACHE            on the node's host: mapped

It says what it measures as JSON, an object a line: `{"doing": ..., "share": ...}` on the way,
`{"row": ...}` for a transfer, `{"live": ...}`, `{"local": ...}`. What arrives is compared with the
originals under ROOT, which both hosts of an emulated WAN can see; nothing else is read there.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dsm_client import Session, connect

from dsm.segment import open_region, open_ring

RING, REGION = "capture/lo", "model/weights"
READ_BYTES = 64 << 10
ON_DEMAND_READS = 8  # a round trip for each
BULK_BYTES_MAX = 64 << 20
PAYLOAD_EVERY = 100


@dataclass
class Row:
    """One measured transfer."""

    method: str
    what: str
    useful_bytes: int = 0
    first_byte_s: float = 0.0
    half_s: float = 0.0  # when half of the bytes were there
    total_s: float = 0.0
    wire_bytes: int = 0
    round_trips: int = 0
    note: str = ""

    @property
    def rate_bps(self) -> float:
        return self.useful_bytes * 8 / self.total_s

    @property
    def second_half_bps(self) -> float:
        """Of a transfer in many reads."""
        return self.useful_bytes * 4 / (self.total_s - self.half_s)


@contextlib.contextmanager
def _measured(session: Session, row: Row, whole_bytes: int) -> Iterator[Any]:
    """Times a transfer; gives what is to be told how many bytes came each time."""
    told, before, started = 0.0, session.stats(), time.perf_counter()

    def came(size: int) -> None:
        nonlocal told
        row.useful_bytes += size
        row.total_s = time.perf_counter() - started
        row.first_byte_s = row.first_byte_s or row.total_s
        share = row.useful_bytes / whole_bytes
        if share >= 0.5:
            row.half_s = row.half_s or row.total_s
        if share >= told + 0.01:
            told = share
            _say(doing=f"{row.method}: {row.what.strip()}", share=share)

    yield came
    moved = {name: value - before[name] for name, value in session.stats().items()}
    row.wire_bytes = moved["bytes_received"] + moved["bytes_sent"]
    row.round_trips = moved["round_trips"]


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


@contextlib.contextmanager
def _session(address: str, cache: str) -> Iterator[Session]:
    """A session that never maps, with shadows of its own: a client that has nothing yet."""
    own = tempfile.mkdtemp(dir=cache)
    options = {"insecure": True, "map_local": False, "compress": False}
    with connect(f"dsm://{address}", cache=own, **options) as session:
        yield session
    shutil.rmtree(own)


def _check(same: bool, where: str) -> None:
    if not same:
        raise SystemExit(f"demo: {where} is not what was written: this is a bug")


# ── the access methods ──


def compare(address: str, root: str, cache: str) -> None:
    with (
        open_ring(root, RING) as ring,
        open_region(root, REGION) as region,
        region.snapshot() as truth,
    ):
        packets = [bytes(block.data) for block in ring.blocks(ring.tail, ring.head)]
        few = ON_DEMAND_READS * READ_BYTES
        sizes = {"zero_copy": few, "copy_once": few, "prefetch": len(truth), "auto": len(truth)}
        for method, size in sizes.items():
            with _session(address, cache) as session:
                _read_region(session, method, truth[:size], READ_BYTES)
        with _session(address, cache) as session:
            _read_region(session, "copy_once", truth[:BULK_BYTES_MAX], BULK_BYTES_MAX)
        for method in ("copy_once", "hybrid", "prefetch", "auto"):
            with _session(address, cache) as session:
                _scan_headers(session, method, packets)


def _read_region(session: Session, method: str, truth: memoryview, read_bytes: int) -> None:
    """Reads of one size, one after the other, each compared with the original."""
    size = len(truth)
    what = "array in 64 KiB reads" if size > read_bytes else f"{size >> 20} MiB of it at once"
    row = Row(method, what)
    region = session.open(REGION, access=method)
    with _measured(session, row, size) as came:
        for offset in range(0, size, read_bytes):
            view = region.read(offset, min(read_bytes, size - offset))
            _check(view == truth[offset : offset + read_bytes], f"region at {offset}")
            came(len(view))
    if method == "auto":
        row.note = str(region.method)
    _say(row=asdict(row))


def _scan_headers(session: Session, method: str, packets: list[bytes]) -> None:
    """All headers; then the payload of every hundredth packet, all of them together."""
    ring = session.open(RING, access=method)
    wanted, row = [], Row(method, f"{len(packets)} packet headers")
    header_bytes = ring.info.header_bytes
    with _measured(session, row, len(packets) * header_bytes) as came:
        for block in ring.blocks(0, len(packets)):
            _check(block.header == packets[block.seq][:header_bytes], f"header {block.seq}")
            if block.seq % PAYLOAD_EVERY == 0:
                wanted.append(block.seq)
            came(len(block.header))
    _say(row=asdict(row))
    row = Row(method, f"  then {len(wanted)} payloads")
    wanted_bytes = sum(len(packets[seq]) - header_bytes for seq in wanted)
    with _measured(session, row, wanted_bytes) as came:
        for block in ring.read_many(wanted, whole=True):
            payload = block.payload
            _check(payload == packets[block.seq][header_bytes:], f"payload {block.seq}")
            came(len(payload))
    _say(row=asdict(row))


# ── live, and local ──


def follow(address: str, root: str, cache: str, count: str) -> None:
    """Packets as they are captured: from the append to the reader's hands, same clock."""
    latencies_ms: list[float] = []
    with _session(address, cache) as session, open_ring(root, RING) as original:
        for block in session.open(RING, access="prefetch").follow(timeout_s=10):
            latencies_ms.append((time.time_ns() - block.timestamp_ns) / 1e6)
            _check(block.data == original.block(block.seq).data, f"block {block.seq}")
            if len(latencies_ms) == int(count):
                break
    latencies_ms.sort()
    figures = {
        "blocks": len(latencies_ms),
        "p50_ms": statistics.median(latencies_ms),
        "p99_ms": latencies_ms[int(len(latencies_ms) * 0.99)],
    }
    _say(live=figures)


def local(address: str, cache: str) -> None:
    """On the node's host: the client finds out by itself that it is local, and maps."""
    with connect(f"dsm://{address}", insecure=True, cache=cache) as session:
        region, ring = session.open(REGION), session.open(RING)
        started = time.perf_counter()
        with region.snapshot() as view:
            checksum = sum(view[::4096])
        seconds = time.perf_counter() - started
        headers = sum(len(block.header) for block in ring.blocks())
        stats = session.stats()
        figures = {
            "mapped": region.is_mapped and ring.is_mapped,
            "seconds": seconds,
            "array_bytes": region.nbytes,
            "header_bytes": headers,
            "checksum": checksum,
            "wire_bytes": stats["bytes_received"] + stats["bytes_sent"],
        }
    _say(local=figures)


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {"compare": compare, "follow": follow, "local": local}
    verbs[sys.argv[1]](*sys.argv[2:])
