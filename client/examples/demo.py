"""`make demo`: a live segment read across a WAN, on real input, every figure measured.

A node, an emulated WAN, a client, all on this machine and without privileges: a ring of packets
captured here, and a region that holds a numpy array. Each access method reads them over the link;
then the ring is followed live; then another process on the node's host reads with no bytes on the
wire at all. Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from dsm_client import Session, connect
from dsm_netem import Relay
from packets import SNAP_BYTES, Traffic, is_of_port, live_packets, open_socket, read_capture
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dsm.segment import RingWriter, create_region, create_ring

RATE_BPS = 500e6
RTT_S = 0.080
ARRAY_SHAPE = (8192, 8192)  # float32: 256 MiB, several seconds of the link
READ_BYTES = 64 << 10
HEADER_BYTES = 54  # Ethernet, IPv4 and TCP without options
BLOCKS = 5000
PAYLOAD_SHARE = 0.01
CAPTURE_S_MAX = 3.0
LIVE_BLOCKS = 300

console = Console()


@dataclass(frozen=True)
class Row:
    """One measured transfer."""

    method: str
    what: str
    first_byte_s: float
    total_s: float
    useful_bytes: int
    wire_bytes: int
    round_trips: int
    note: str = ""

    @property
    def rate_bps(self) -> float:
        return self.useful_bytes * 8 / self.total_s


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with contextlib.ExitStack() as stack:
            _run(stack, arguments)
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything is cleaned up")
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def _run(stack: contextlib.ExitStack, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    root, cache = (_directory(stack, kind) for kind in ("root", "cache"))
    ring, array, packets = _segments(stack, root)
    port = stack.enter_context(node_process(root))
    link = stack.enter_context(Relay("127.0.0.1", port, rate_bps=RATE_BPS, rtt_s=RTT_S))
    address = f"127.0.0.1:{link.port}"
    _say_link(address)
    rows = _compare(address, cache, array, packets)
    console.print(_table(rows))
    latency = _follow_live(address, cache, ring)
    local = _read_locally(port, array)
    figures = {
        "link": {"rate_bps": RATE_BPS, "rtt_s": RTT_S},
        "rows": [{**row.__dict__, "rate_bps": row.rate_bps} for row in rows],
        "live": latency,
        "local": local,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))
    console.print(f"done in {time.monotonic() - started:.0f} s")


# ── what is exported ──


def _directory(stack: contextlib.ExitStack, kind: str) -> Path:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix=f"dsm-demo-{kind}-", dir=base))
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    return path


def _segments(stack: contextlib.ExitStack, root: Path) -> tuple[RingWriter, Any, list[bytes]]:
    """The ring with its packets and the region with its array; they stay open for writing."""
    ring = stack.enter_context(
        create_ring(root, "capture/lo", capacity_bytes=64 << 20, header_bytes=HEADER_BYTES)
    )
    packets, origin = capture(BLOCKS)
    ring.append_many(packets)
    console.print(
        f"ring   [bold]capture/lo[/]: {len(packets)} packets, "
        f"{sum(map(len, packets)) / 1e6:.1f} MB, {origin}"
    )
    array = numpy.random.default_rng(1).standard_normal(ARRAY_SHAPE, dtype=numpy.float32)
    region = stack.enter_context(
        create_region(root, "model/weights", dtype="<f4", shape=ARRAY_SHAPE)
    )
    with region.write() as view:
        view[:] = array.data.cast("B")
    console.print(f"region [bold]model/weights[/]: float32 {ARRAY_SHAPE}, {array.nbytes >> 20} MiB")
    return ring, array, packets


def capture(count: int) -> tuple[list[bytes], str]:
    """So many packets of a web server and its client on loopback, and where they are from."""
    sock = open_socket()
    packets: list[bytes] = []
    if sock is None:
        recorded = read_capture()
        packets = [recorded[i % len(recorded)] for i in range(count)]
        return packets, "of a recorded capture (AF_PACKET is not allowed here)"
    stop = threading.Event()
    timer = threading.Timer(CAPTURE_S_MAX, stop.set)
    timer.start()
    with sock, Traffic(per_second=1000) as traffic:
        for packet in live_packets(sock, stop):
            if is_of_port(packet, traffic.port):
                packets.append(packet)
            if len(packets) == count:
                break
    timer.cancel()
    seen = len(packets)
    packets = [packets[i % seen] for i in range(count)]
    more = "" if seen == count else f", the first {seen} repeated"
    return packets, f"captured on lo just now{more}"


@contextlib.contextmanager
def node_process(root: Path) -> Iterator[int]:
    """A node as a process of its own; gives its port."""
    command = [sys.executable, "-m", "dsm_server.daemon", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--root", str(root)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.wait()


def _say_link(address: str) -> None:
    console.print(
        f"link   {RATE_BPS / 1e6:.0f} Mbit/s, {RTT_S * 1e3:.0f} ms round trip, "
        f"BDP {RATE_BPS * RTT_S / 8e6:.1f} MB, no loss:\n"
        f"       a TCP relay on this machine, at {address}\n"
    )


# ── the four methods ──


def _compare(address: str, cache: Path, array: Any, packets: list[bytes]) -> list[Row]:
    truth = array.data.cast("B")
    rows: list[Row] = []
    with Progress(
        TextColumn("{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        for method in ("zero_copy", "copy_once", "prefetch", "auto"):
            size = array.nbytes if method in ("prefetch", "auto") else 16 * READ_BYTES
            with _session(address, cache) as session:
                rows.append(_read_region(progress, session, method, truth, size))
        with _session(address, cache) as session:
            rows.append(_read_whole(progress, session, truth, 64 << 20))
        for method in ("copy_once", "hybrid", "prefetch", "auto"):
            with _session(address, cache) as session:
                rows += _scan_headers(progress, session, method, packets)
    return rows


@contextlib.contextmanager
def _session(address: str, cache: Path) -> Iterator[Session]:
    """A session that never maps, with shadows of its own: a client that has nothing yet."""
    own = Path(tempfile.mkdtemp(dir=cache))
    with connect(f"dsm://{address}", map_local=False, cache=str(own), compress=False) as session:
        yield session
    shutil.rmtree(own)


def _read_region(
    progress: Progress, session: Session, method: str, truth: memoryview, size: int
) -> Row:
    """Sequential reads of 64 KiB, each compared with the original."""
    task = progress.add_task(f"{method}: array in 64 KiB reads", total=size)
    region = session.open("model/weights", access=method)
    before, started, first = session.stats(), time.perf_counter(), 0.0
    for offset in range(0, size, READ_BYTES):
        view = region.read(offset, READ_BYTES)
        first = first or time.perf_counter() - started
        _check(view == truth[offset : offset + READ_BYTES], f"region at {offset}")
        progress.update(task, completed=offset + READ_BYTES)
    total = time.perf_counter() - started
    chosen = region.method if method == "auto" else ""
    return _row(session, before, method, "array in 64 KiB reads", first, total, size, chosen)


def _read_whole(progress: Progress, session: Session, truth: memoryview, size: int) -> Row:
    """One bulk read: what copy_once is for."""
    task = progress.add_task(f"copy_once: array, one read of {size >> 20} MiB", total=None)
    region = session.open("model/weights", access="copy_once")
    before, started = session.stats(), time.perf_counter()
    view = region.read(0, size)
    total = time.perf_counter() - started
    _check(view == truth[:size], "region")
    progress.update(task, total=1, completed=1)
    what = f"{size >> 20} MiB of it at once"
    return _row(session, before, "copy_once", what, total, total, size)


def _scan_headers(
    progress: Progress, session: Session, method: str, packets: list[bytes]
) -> list[Row]:
    """All headers; then the payload of every hundredth packet, one after the other."""
    task = progress.add_task(f"{method}: headers, 1 % of payloads", total=len(packets))
    ring = session.open("capture/lo", access=method)
    before, started, first, size = session.stats(), time.perf_counter(), 0.0, 0
    wanted = []
    for block in ring.blocks(0, len(packets)):
        first = first or time.perf_counter() - started
        _check(block.header == packets[block.seq][:HEADER_BYTES], f"header {block.seq}")
        size += len(block.header)
        if block.seq % int(1 / PAYLOAD_SHARE) == 0:
            wanted.append(block)
        progress.update(task, completed=block.seq + 1)
    total = time.perf_counter() - started
    what = f"{len(packets)} packet headers"
    rows = [_row(session, before, method, what, first, total, size, f"{total / RTT_S:.1f} RTT")]
    before, started, first, size = session.stats(), time.perf_counter(), 0.0, 0
    for block in wanted:
        payload = block.payload
        first = first or time.perf_counter() - started
        _check(payload == packets[block.seq][HEADER_BYTES:], f"payload {block.seq}")
        size += len(payload)
    total = time.perf_counter() - started
    what = f"  then {len(wanted)} payloads"
    return [*rows, _row(session, before, method, what, first, total, size)]


def _row(
    session: Session,
    before: dict[str, int],
    method: str,
    what: str,
    first: float,
    total: float,
    useful: int,
    note: str = "",
) -> Row:
    after = session.stats()
    wire = after["bytes_received"] + after["bytes_sent"]
    wire -= before["bytes_received"] + before["bytes_sent"]
    trips = after["round_trips"] - before["round_trips"]
    return Row(method, what, first, total, useful, wire, trips, note)


def _check(same: bool, where: str) -> None:
    if not same:
        raise SystemExit(f"demo: {where} is not what was written: this is a bug")


def _table(rows: list[Row]) -> Table:
    title = "the four methods over the link; every byte was compared"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for name in ("method", "what is read"):
        table.add_column(name, no_wrap=True)
    for name in ("1st ms", "secs", "Mbit/s", "link", "MB", "waits"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(
            row.method,
            row.what,
            f"{row.first_byte_s * 1e3:.0f}",
            f"{row.total_s:.2f}",
            f"{row.rate_bps / 1e6:.1f}" if row.round_trips else "",
            f"{row.rate_bps / RATE_BPS:.0%}" if row.round_trips else "",
            f"{row.wire_bytes / 1e6:.2f}",
            str(row.round_trips),
            row.note,
        )
    return table


# ── live, and local ──


def _follow_live(address: str, cache: Path, ring: RingWriter) -> dict[str, float]:
    """Packets as they are captured: from the append to the reader's hands, same clock."""
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(ring, stop), daemon=True)
    latencies: list[float] = []
    with _session(address, cache) as session:
        remote = session.open("capture/lo", access="prefetch")
        producer.start()
        try:
            for block in remote.follow(timeout_s=10):
                latencies.append((time.time_ns() - block.timestamp_ns) / 1e6)
                if len(latencies) == LIVE_BLOCKS:
                    break
        finally:
            stop.set()
            producer.join()
    latencies.sort()
    figures = {
        "p50_ms": statistics.median(latencies),
        "p99_ms": latencies[int(len(latencies) * 0.99)],
        "half_rtt_ms": RTT_S * 500,
    }
    console.print(
        f"\nlive: {LIVE_BLOCKS} packets followed, append to reader: "
        f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms "
        f"(the path alone takes {figures['half_rtt_ms']:.0f} ms one way)"
    )
    return figures


def _produce(ring: RingWriter, stop: threading.Event) -> None:
    """Append live packets (or recorded ones, at 150 a second)."""
    sock = open_socket()
    if sock is None:
        recorded = read_capture()
        while not stop.wait(1 / 150):
            ring.append(recorded[ring.head % len(recorded)])
        return
    with sock, Traffic(per_second=15) as traffic:
        for packet in live_packets(sock, stop):
            if is_of_port(packet, traffic.port):
                ring.append(packet)


_LOCAL = """
import sys, time, json, dsm_client
with dsm_client.connect(sys.argv[1]) as session:
    region = session.open("model/weights")
    started = time.perf_counter()
    with region.snapshot() as view:
        total = sum(view[::4096])
    elapsed = time.perf_counter() - started
    ring = session.open("capture/lo")
    headers = sum(len(block.header) for block in ring.blocks())
    stats = session.stats()
    print(json.dumps({"mapped": region.is_mapped and ring.is_mapped, "seconds": elapsed,
                      "array_bytes": region.nbytes, "header_bytes": headers, "checksum": total,
                      "wire_bytes": stats["bytes_received"] + stats["bytes_sent"]}))
"""


def _read_locally(port: int, array: Any) -> dict[str, Any]:
    """Another process on the node's host: it finds out by itself that it is local, and maps."""
    command = [sys.executable, "-c", _LOCAL, f"dsm://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    truth = array.data.cast("B")
    _check(figures["mapped"] and figures["checksum"] == sum(truth[::4096]), "the mapped array")
    console.print(
        f"local: a second process mapped both ({figures['array_bytes'] >> 20} MiB array touched in "
        f"{figures['seconds'] * 1e3:.0f} ms): [bold]{figures['wire_bytes']} bytes on the wire[/]"
    )
    return figures


if __name__ == "__main__":
    assert SNAP_BYTES > HEADER_BYTES
    sys.exit(main())
