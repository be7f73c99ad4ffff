"""Real packets for the examples: from an AF_PACKET socket where that is allowed, else from a file.

A capture file is read as classic pcap (24 bytes of header, then 16 bytes and the packet, each).
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CAPTURE_FILE = Path(__file__).resolve().parents[2] / "tests" / "data" / "loopback.pcap"

SNAP_BYTES = 1514
"""Loopback packets are up to 64 KiB; what a wire would carry is kept."""

CAPTURE_S_MAX = 3.0

_PCAP = struct.Struct("<IHHiIII")
_PACKET = struct.Struct("<IIII")
_MAGIC = 0xA1B2C3D4


def open_socket(interface: str = "lo") -> socket.socket | None:
    """A socket that receives every packet of an interface; `None` where that is not allowed."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    except (PermissionError, AttributeError):
        return None
    sock.bind((interface, 0))
    sock.settimeout(0.2)
    return sock


def live_packets(sock: socket.socket, stop: threading.Event) -> Iterator[bytes]:
    """Packets as they come, until `stop`."""
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            yield sock.recv(65535)[:SNAP_BYTES]


def capture(count: int) -> tuple[list[bytes], str]:
    """So many packets of a web server and its client on loopback, and where they are from."""
    sock = open_socket()
    if sock is None:
        recorded = read_capture()
        packets = [recorded[i % len(recorded)] for i in range(count)]
        return packets, "of a recorded capture (AF_PACKET is not allowed here)"
    stop, packets = threading.Event(), []
    timer = threading.Timer(CAPTURE_S_MAX, stop.set)
    timer.daemon = True
    timer.start()
    with sock, Traffic(per_second=1000) as made:
        for packet in live_packets(sock, stop):
            if is_of_port(packet, made.port):
                packets.append(packet)
            if len(packets) == count:
                break
    timer.cancel()
    seen = len(packets)
    packets = [packets[i % seen] for i in range(count)]
    more = "" if seen == count else f", the first {seen} repeated"
    return packets, f"captured on lo just now{more}"


def traffic(stop: threading.Event) -> Iterator[bytes]:
    """Live packets of the same kind, or recorded ones at 150 a second, until `stop`."""
    sock = open_socket()
    if sock is None:
        for packet in itertools.cycle(read_capture()):
            if stop.wait(1 / 150):
                return
            yield packet
        return
    with sock, Traffic(per_second=15) as made:
        for packet in live_packets(sock, stop):
            if is_of_port(packet, made.port):
                yield packet


def read_capture(path: Path = CAPTURE_FILE) -> list[bytes]:
    """The packets of a capture file. Raises `ValueError` if it is none."""
    data = path.read_bytes()
    if len(data) < _PCAP.size or _PCAP.unpack_from(data)[0] != _MAGIC:
        raise ValueError(f"{path} is not a little-endian pcap file")
    packets, at = [], _PCAP.size
    while at + _PACKET.size <= len(data):
        length = _PACKET.unpack_from(data, at)[2]
        at += _PACKET.size
        packets.append(data[at : at + length])
        at += length
    return packets


def write_capture(path: Path, packets: list[bytes]) -> None:
    """Write packets as a pcap file (Ethernet), with the present time."""
    now = time.time()
    with path.open("wb") as file:
        file.write(_PCAP.pack(_MAGIC, 2, 4, 0, 0, SNAP_BYTES, 1))
        for packet in packets:
            seconds, micros = int(now), int(now % 1 * 1e6)
            file.write(_PACKET.pack(seconds, micros, len(packet), len(packet)))
            file.write(packet)


class Traffic:
    """Something to capture: a web server on loopback, and a client that keeps asking it."""

    def __init__(self, per_second: float) -> None:
        handler = functools.partial(_Quiet, directory=str(Path(__file__).parent))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._stop = threading.Event()
        self._pause_s = 1 / per_second
        self._threads = [
            threading.Thread(target=self._server.serve_forever, daemon=True),
            threading.Thread(target=self._ask, daemon=True),
        ]

    def _ask(self) -> None:
        url = f"http://127.0.0.1:{self._server.server_port}/{Path(__file__).name}"
        while not self._stop.wait(self._pause_s):
            with contextlib.suppress(OSError), urllib.request.urlopen(url) as reply:
                reply.read()

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def is_of_port(packet: bytes, port: int) -> bool:
    """An IPv4 TCP packet from or to this port."""
    if len(packet) < 38 or packet[12:14] != b"\x08\x00" or packet[23] != 6:
        return False
    at = 14 + (packet[14] & 15) * 4
    return port in struct.unpack_from("!HH", packet, at)
