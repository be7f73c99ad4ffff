"""Hosts made of network namespaces without names.

A named namespace outlives a killed program; somebody has to find and remove it. One that is
held only by a file descriptor vanishes, with its devices, when its holder and everything in it
have ended. So nothing that is made here has a name that could collide with somebody's, and
nothing is left to remove. It is entered through `/proc/<holder>/fd/<number>`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .config import ConfigError
from .topology import IPV4_NETWORK, IPV6_NETWORK

DEVICE = "wan0"
DEVICE_QUEUE_PACKETS = 10_000  # before the link, where nothing may be lost: it would not count
_CLONE_NEWNET = 0x40000000
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_libc = ctypes.CDLL(None, use_errno=True)
_SYSCTL = Path("/proc/sys/net/ipv4")  # of the namespace that the reader is in


class NotPermitted(RuntimeError):
    """The machine or the user's rights do not allow it: says what is missing, and what would do."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How TCP behaves on a host; `None` leaves what the machine has.

    The buffers are (least, initial, largest) bytes, as in `tcp_wmem` and `tcp_rmem`.
    """

    congestion: str | None = None
    wmem_bytes: tuple[int, int, int] | None = (4096, 16384, 4194304)  # Linux as it comes
    rmem_bytes: tuple[int, int, int] | None = (4096, 131072, 6291456)
    offloads: bool = True
    mtu: int = 1500


def new_namespace() -> int:
    """Moves the calling thread into a new network namespace; returns a descriptor of it."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        if number == errno.EPERM:
            raise NotPermitted(
                "making a network namespace needs CAP_SYS_ADMIN: "
                "run as root, or use the relay backend"
            )
        raise NotPermitted(f"making a network namespace: {os.strerror(number)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """Moves the calling thread into a namespace."""
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns into a network namespace")


@contextlib.contextmanager
def inside(namespace: int) -> Iterator[None]:
    """The calling thread is in a namespace meanwhile."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        yield
    finally:
        enter(home)
        os.close(home)


def open_tun(offloads: bool) -> int:
    """A TUN device in the calling thread's namespace, as a non-blocking descriptor."""
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NotPermitted(
            f"opening /dev/net/tun: {error.strerror}; the relay backend needs no device"
        ) from error
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), flags))
    except OSError as error:
        os.close(tun)
        raise NotPermitted(
            f"making a TUN device needs CAP_NET_ADMIN ({error.strerror}): "
            "run as root, or use the relay backend"
        ) from error
    if offloads:
        offered = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
        fcntl.ioctl(tun, _TUNSETOFFLOAD, offered)
    return tun


def configure(ipv4: str, ipv6: str, config: HostConfig) -> None:
    """Gives the device of the calling thread's namespace its addresses, and TCP its settings."""
    from pyroute2 import IPRoute, NetlinkError  # takes 0.2 s, and whoever only enters needs none

    _set_tcp(config)
    congestion = config.congestion or default_congestion()
    # A route's choice is the one that the sysctl cannot refuse; but unlike a default, it overrules
    # what a program sets on its listening socket.
    metrics = {} if congestion == default_congestion() else {"cc_algo": congestion}
    with IPRoute() as netlink:
        (loopback,) = netlink.link_lookup(ifname="lo")
        (device,) = netlink.link_lookup(ifname=DEVICE)
        netlink.link("set", index=loopback, state="up")
        netlink.link("set", index=device, state="up", mtu=config.mtu, txqlen=DEVICE_QUEUE_PACKETS)
        netlink.addr("add", index=device, address=ipv4, prefixlen=32)
        netlink.addr("add", index=device, address=ipv6, prefixlen=128, flags=_IFA_F_NODAD)
        for network in (IPV4_NETWORK, IPV6_NETWORK):
            try:
                netlink.route("add", dst=str(network), oif=device, metrics=metrics)
            except NetlinkError as error:
                raise ConfigError(
                    f"congestion control {congestion!r}: {error.args[-1]}; "
                    f"available: {available_congestion()}"
                ) from error


def default_congestion() -> str:
    return (_SYSCTL / "tcp_congestion_control").read_text().strip()


def available_congestion() -> str:
    return (_SYSCTL / "tcp_available_congestion_control").read_text().strip().replace(" ", ", ")


def _set_tcp(config: HostConfig) -> None:
    # What one connection learned must not speed up the next: runs are to be comparable.
    (_SYSCTL / "tcp_no_metrics_save").write_text("1")
    if config.wmem_bytes:
        (_SYSCTL / "tcp_wmem").write_text(" ".join(map(str, config.wmem_bytes)))
    if config.rmem_bytes:
        (_SYSCTL / "tcp_rmem").write_text(" ".join(map(str, config.rmem_bytes)))


def in_force(peer_ipv4: str) -> dict[str, object]:
    """What TCP in the calling thread's namespace really does, asked of a socket towards a peer.

    The sysctl is no witness: in a namespace it refuses what is not allowed without an error.
    """
    with socket.socket() as probe:
        probe.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            probe.connect((peer_ipv4, 9))
        name = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return {
        "congestion": name.rstrip(b"\0").decode(),
        "wmem_bytes": [int(word) for word in (_SYSCTL / "tcp_wmem").read_text().split()],
        "rmem_bytes": [int(word) for word in (_SYSCTL / "tcp_rmem").read_text().split()],
    }


def device_drops() -> int:
    """Packets that the device in the calling thread's namespace has dropped, both ways."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == DEVICE:
            fields = counters.split()
            return int(fields[3]) + int(fields[11])
    return 0
