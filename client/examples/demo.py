"""`make demo`: a live segment read across a WAN, on real input, every figure measured.

A ring of packets captured here and a region that holds a numpy array are exported by a node on one
host of an emulated WAN, and read on the other: by each access method, then live. At last another
process on the node's host reads them, with no bytes on the wire at all.

    this process ──append──▶ segments ◀── node  ◀══ WAN ══▶  demo_reader.py
                                 ▲        host b             host a
                                 └─mapped─ demo_reader.py

Where it is permitted the hosts are network namespaces and the WAN carries packets; elsewhere both
are this machine, and the WAN is a TCP relay. Ctrl-C leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import psutil
from demo_reader import REGION, RING, Row
from dsm_netem import ConfigError, Host, NotPermitted, Wan
from packets import SNAP_BYTES, capture, traffic
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dsm.segment import RingWriter, create_region, create_ring

RATE_BPS, RTT_S = 500e6, 0.080  # the transatlantic profile's
ARRAY_SHAPE, ARRAY_SHAPE_QUICK = (8192, 8192), (4096, 2048)  # float32: 256 MiB, or 32
BLOCKS, BLOCKS_QUICK = 5000, 500
LIVE_BLOCKS, LIVE_BLOCKS_QUICK = 300, 50
HEADER_BYTES = 54  # Ethernet, IPv4 and TCP without options
READER = str(Path(__file__).with_name("demo_reader.py"))
SPEAKING: dict[str, Any] = {  # Ctrl-C is for this process, which ends the others
    "stdout": subprocess.PIPE,
    "text": True,
    "start_new_session": True,
}

console = Console(highlight=False)


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        with contextlib.ExitStack() as stack:
            _run(stack, _arguments())
    except (ConfigError, NotPermitted) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except _Stopped as stopped:
        console.print("\ninterrupted; everything is cleaned up")
        return 128 + stopped.number
    return 0


_asked = 0
"""The signal that came. Where it met code that lets no exception out, the next step ends it."""


class _Stopped(BaseException):
    """A signal asks to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, _frame: object) -> None:
    global _asked
    _asked = number
    for each in (signal.SIGINT, signal.SIGTERM):  # the cleaning up is not to be interrupted, too
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--backend", default="auto", help="of the WAN: auto, tun, tc or relay")
    parser.add_argument("--quick", action="store_true", help="less of everything: 10 s")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def _run(stack: contextlib.ExitStack, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    stack.callback(_end_children)
    root, cache = (_directory(stack, kind) for kind in ("root", "cache"))
    ring, array = _segments(stack, root, arguments.quick)
    wan = Wan("transatlantic", backend=arguments.backend, loss=0.0, jitter_s=0.0)
    near, far = stack.enter_context(wan).hosts.values()
    node = stack.enter_context(_node(far, root))
    address = "{}:{}".format(*wan.address(far.name, int(node.rpartition(":")[2])))
    link_bps = _say_link(wan)

    wan.reset()
    rows = [Row(**said["row"]) for said in _measure(near, "compare", address, root, cache)]
    console.print(_table(rows, link_bps))
    _say_prefetch(rows, link_bps)
    verdict = wan.verdict()
    console.print(f"       the run is {verdict}", style="" if verdict.valid else "yellow")
    with _producing(ring):
        count = LIVE_BLOCKS_QUICK if arguments.quick else LIVE_BLOCKS
        (said,) = _measure(near, "follow", address, root, cache, count)
    live = _say_live(said["live"])
    (said,) = _measure(far, "local", node, cache)
    local = _say_local(said["local"], array)
    if arguments.json:
        link = {"backend": wan.backend, "rate_bps": RATE_BPS, "rtt_s": RTT_S, "most_bps": link_bps}
        figures = {
            "link": {**link, "valid": verdict.valid},
            "rows": [{**asdict(row), "rate_bps": row.rate_bps} for row in rows],
            "live": live,
            "local": local,
        }
        arguments.json.write_text(json.dumps(figures, indent=2))
    console.print(f"done in {time.monotonic() - started:.0f} s")


def _end_children() -> None:
    """Whatever a signal has let slip between its start and who would have ended it."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


# ── what is exported ──


def _directory(stack: contextlib.ExitStack, kind: str) -> Path:
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    path = Path(base, f"dsm-demo-{os.getpid()}-{kind}")
    stack.callback(shutil.rmtree, path, ignore_errors=True)
    path.mkdir(mode=0o700)
    return path


def _segments(stack: contextlib.ExitStack, root: Path, quick: bool) -> tuple[RingWriter, Any]:
    """The ring with its packets and the region with its array; they stay open for writing."""
    ring = stack.enter_context(
        create_ring(root, RING, capacity_bytes=64 << 20, header_bytes=HEADER_BYTES)
    )
    packets, origin = capture(BLOCKS_QUICK if quick else BLOCKS)
    ring.append_many(packets)
    size = f"{sum(map(len, packets)) / 1e6:.1f} MB"
    console.print(f"ring   [bold]{RING}[/]: {len(packets)} packets, {size}, {origin}")
    shape = ARRAY_SHAPE_QUICK if quick else ARRAY_SHAPE
    array = numpy.random.default_rng(1).standard_normal(shape, dtype=numpy.float32)
    region = stack.enter_context(create_region(root, REGION, dtype="<f4", shape=shape))
    with region.write() as view:
        view[:] = array.data.cast("B")
    console.print(f"region [bold]{REGION}[/]: float32 {shape}, {array.nbytes >> 20} MiB")
    return ring, array


@contextlib.contextmanager
def _producing(ring: RingWriter) -> Iterator[None]:
    """Packets go on being appended meanwhile."""
    stop = threading.Event()
    producer = threading.Thread(target=_produce, args=(ring, stop), daemon=True)
    producer.start()
    try:
        yield
    finally:
        stop.set()
        producer.join()


def _produce(ring: RingWriter, stop: threading.Event) -> None:
    for packet in traffic(stop):
        ring.append(packet)


# ── who serves and who reads ──


@contextlib.contextmanager
def _node(host: Host, root: Path) -> Iterator[str]:
    """A node on a host; gives its address there."""
    command = [sys.executable, "-m", "dsm_server.daemon", "--insecure", "--root", str(root)]
    command += ["--listen", f"{host.ipv4}:0"]
    with host.running(command, **SPEAKING) as process:
        assert process.stdout is not None
        if not (line := process.stdout.readline()):
            raise SystemExit("demo: the node did not start")
        yield line.split()[-1]


def _measure(host: Host, *words: object) -> list[dict[str, Any]]:
    """Runs the reader on a host, shows how far it is, and gives what it found."""
    if _asked:
        raise _Stopped(_asked)
    found = []
    command = [sys.executable, READER, *map(str, words)]
    with _progress() as progress, host.running(command, **SPEAKING) as process:
        assert process.stdout is not None
        task = progress.add_task("connecting")
        for line in process.stdout:
            said = json.loads(line)
            if "doing" in said:
                progress.update(task, description=said["doing"], completed=said["share"] * 100)
            else:
                found.append(said)
        if code := process.wait():
            raise SystemExit(code)
    return found


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<44}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


# ── what is said ──


def _say_link(wan: Wan) -> float:
    """Says what the link is; gives the most that it can carry, in bits per second."""
    link_bps = wan.goodput_bps("b", "a")
    assert link_bps is not None
    kinds = {"relay": "a TCP relay on this machine", "tc": "packets through the kernel's netem"}
    kind = kinds.get(wan.backend, "packets between network namespaces")
    console.print(
        f"link   {RATE_BPS / 1e6:.0f} Mbit/s, {RTT_S * 1e3:.0f} ms round trip, no loss: "
        f"BDP {RATE_BPS * RTT_S / 8e6:.1f} MB, payload {link_bps / 1e6:.1f} Mbit/s\n"
        f"       {wan.backend}: {kind}"
    )
    for lack in wan.cannot:
        console.print(f"       without {lack}", style="dim")
    for reason in wan.passed_over:
        console.print(f"       not {reason}", style="dim")
    console.print()
    return link_bps


def _table(rows: list[Row], link_bps: float) -> Table:
    title = "the four methods over the link; every byte was compared"
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for name in ("method", "what is read"):
        table.add_column(name, no_wrap=True)
    for name in ("1st ms", "secs", "Mbit/s", "link", "MB", "waits"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        round_trips = f"{row.total_s / RTT_S:.1f} RTT" if "headers" in row.what else ""
        table.add_row(
            row.method,
            row.what,
            f"{row.first_byte_s * 1e3:.0f}",
            f"{row.total_s:.2f}",
            f"{row.rate_bps / 1e6:.1f}" if row.round_trips else "",
            f"{row.rate_bps / link_bps:.0%}" if row.round_trips else "",
            f"{row.wire_bytes / 1e6:.2f}",
            str(row.round_trips),
            row.note or round_trips,
        )
    return table


def _say_prefetch(rows: list[Row], link_bps: float) -> None:
    row = next(row for row in rows if row.method == "prefetch")
    console.print(
        f"\nprefetch: {row.useful_bytes >> 20} MiB from a new session at "
        f"[bold]{row.rate_bps / link_bps:.0%}[/] of what the link can carry,\n"
        f"       start included; the second half of it at "
        f"[bold]{row.second_half_bps / link_bps:.1%}[/]"
    )


def _say_live(live: dict[str, Any]) -> dict[str, Any]:
    console.print(
        f"live:  {live['blocks']} packets, from append to reader p50 {live['p50_ms']:.1f} ms, "
        f"p99 {live['p99_ms']:.1f} ms\n"
        f"       (the path alone takes {RTT_S * 500:.0f} ms one way)"
    )
    return live


def _say_local(local: dict[str, Any], array: Any) -> dict[str, Any]:
    if not local["mapped"] or local["checksum"] != sum(array.data.cast("B")[::4096]):
        raise SystemExit("demo: the mapped array is not what was written: this is a bug")
    console.print(
        f"local: another process, on the node's host, mapped both: "
        f"[bold]{local['wire_bytes']} bytes on the wire[/]\n"
        f"       ({local['array_bytes'] >> 20} MiB array touched in "
        f"{local['seconds'] * 1e3:.0f} ms)"
    )
    return local


if __name__ == "__main__":
    assert SNAP_BYTES > HEADER_BYTES
    sys.exit(main())
