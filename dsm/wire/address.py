"""Addresses: `dsm://host:7400`, `host:7400`, `[::1]:7400`."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from dsm.errors import UsageError

PORT = 7400


def split_host_port(address: str) -> tuple[str, int]:
    """Host and port of `host[:port]`. Raises `UsageError` for what is no address."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"address {address!r} is not host:port ({error})") from None
    if not host or parts.path or parts.query or parts.username:
        raise UsageError(f"address {address!r} is not host:port")
    return host, PORT if port is None else port


def parse_url(url: str) -> tuple[str, str]:
    """`(host:port, segment)` of `dsm://host[:port][/segment]`; the scheme may be left out."""
    rest = url.removeprefix("dsm://")
    if "://" in rest:
        raise UsageError(f"url {url!r}: the scheme is dsm://, as in dsm://host:7400")
    address, _, segment = rest.partition("/")
    host, port = split_host_port(address)
    return join_host_port(host, port), segment


def join_host_port(host: str, port: int) -> str:
    """What `split_host_port` takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
