"""Congestion control by what a connection carries: BBR for bulk, nothing that paces for the rest.

Most systems default to CUBIC, which takes every loss for congestion: at 100 Mbit/s, 100 ms and
0.1 % loss it carries 6 Mbit/s where BBR carries 72 (measured over emulated links). But BBR paces,
also before it knows the path: two segments at a time, so that ten of them take a third of a round
trip. A small answer is faster without.

    listening socket ── CUBIC where the system's default would pace ──▶ inherited: control, demand
    bulk lane opens  ── BBR on its own socket

gRPC does not hand out its sockets; they are found among the process's own descriptors (in less than
a millisecond, since the first answer waits for it).
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

Address = tuple[str, int]
IP = (socket.AF_INET, socket.AF_INET6)

BULK = "bbr"
PACING = ("bbr",)
UNPACED = ("cubic", "reno")
"""The first that is allowed: without CAP_NET_ADMIN, Linux allows what an administrator has."""


class Congestion:
    """Of the connections that a node accepts."""

    def __init__(self) -> None:
        self.in_force = "system default"
        """In words, for `explain`."""
        self._refused = ""
        self._descriptors: dict[Address, int] = {}

    def listening(self, port: int) -> None:
        """Choose for what is accepted at `port`, and see whether bulk may have BBR."""
        bulk = self._probe()
        small = "system default"
        for _, sock in _tcp_sockets():
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and sock.getsockname()[1] == port:
                small = _unpaced(sock)
        if self._refused:
            self.in_force = f"{bulk} ({BULK} refused: {self._refused})"
        else:
            self.in_force = f"{bulk}, demand {small}"

    def bulk(self, peer: str) -> None:
        """The connection from this gRPC `peer` is a bulk lane."""
        address = _parsed(peer)
        if self._refused or address is None:
            return

        with suppress(OSError):  # it is gone already, or not to be found
            if address not in self._descriptors:
                peers = ((_peer(sock), fd) for fd, sock in _tcp_sockets())
                self._descriptors = {peer: fd for peer, fd in peers if peer}
            with _duplicate(self._descriptors.pop(address, -1)) as sock:
                if _peer(sock) == address:
                    _set(sock, BULK)

    def _probe(self) -> str:
        with socket.socket() as sock:
            try:
                return _set(sock, BULK)
            except OSError as error:
                self._refused = error.strerror or str(error)
                return _get(sock)


def _unpaced(sock: socket.socket) -> str:
    """Have it not pace, where that is allowed; returns what is in force."""
    for name in UNPACED:
        if _get(sock) in PACING:
            with suppress(OSError):
                _set(sock, name)
    return _get(sock)


def _tcp_sockets() -> Iterator[tuple[int, socket.socket]]:
    """This process's descriptors of TCP sockets, each with a duplicate to work with."""
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile, or what kind it is cannot be asked
            fd = int(path.name)
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with _duplicate(fd) as sock:
                if sock.family in IP and sock.type == socket.SOCK_STREAM:
                    yield fd, sock


def _peer(sock: socket.socket) -> Address | None:
    try:
        host, port, *_ = sock.getpeername()
    except OSError:  # not connected
        return None
    return _address(host, port)


def _duplicate(fd: int) -> socket.socket:
    """A socket on a duplicate of gRPC's descriptor, to be closed; `OSError` where there is none."""
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:  # it has become something else
        os.close(copy)
        raise


def _parsed(peer: str) -> Address | None:
    """Of gRPC's `ipv4:10.0.0.1:4711` or `ipv6:%5B::1%5D:4711`."""
    _, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    return _address(host.strip("[]"), int(port)) if port.isdigit() else None


def _address(host: str, port: int) -> Address:
    """The same for a connection over IPv4, whatever its socket's family."""
    ip = ipaddress.ip_address(host)
    return str(getattr(ip, "ipv4_mapped", None) or ip), port


def _set(sock: socket.socket, name: str) -> str:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    return _get(sock)


def _get(sock: socket.socket) -> str:
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()
