"""Which congestion control a node's connections have, read back from the kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from dsm_client import connect
from dsm_server.congestion import BULK, Congestion, _parsed
from dsm_server.node import Node

from tests.certificates import Authority


def _allowed(name: str) -> bool:
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError:
            return False
    return True


def _accepted(port: int) -> list[str]:
    """Of the connections that were accepted at `port`, in the kernel's words."""
    found = []
    for connection in psutil.Process().net_connections("tcp"):
        if connection.laddr.port == port and connection.raddr:
            sock = socket.socket(fileno=os.dup(connection.fd))
            with sock:
                name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            found.append(name.rstrip(b"\0").decode())
    return found


@pytest.mark.parametrize(
    ("host", "secured"), [("127.0.0.1", False), ("[::]", False), ("[::]", True)]
)
@pytest.mark.skipif(not _allowed(BULK), reason="this host does not allow BBR")
def test_bulk_lanes_have_bbr_and_the_others_do_not(
    tmp_path: Path, cache: Path, host: str, secured: bool
) -> None:
    ours: dict[str, Any] = {"insecure": True}
    theirs: dict[str, Any] = {}
    if secured:
        authority = Authority(tmp_path)
        ours = dict(zip(("tls_cert", "tls_key"), authority.issue("127.0.0.1"), strict=True))
        theirs = {"ca": authority.ca}
    with Node(f"{host}:0", tmp_path, **ours) as node:
        node.create_region("r", size_bytes=4096).close()
        port = int(node.address.rpartition(":")[2])
        url = f"dsm://127.0.0.1:{port}"
        with connect(url, map_local=False, lanes=3, cache=str(cache), **theirs) as session:
            session.open("r", access="prefetch").read()
            over_s = time.monotonic() + 5.0  # what was read may be there before the last lane is
            expected = [BULK] * 3 + ["cubic"] * 2
            while sorted(_accepted(port)) != expected and time.monotonic() < over_s:
                time.sleep(0.01)
            assert sorted(_accepted(port)) == expected, "control and lane 0"
            assert session.open("r").explain().count("bbr") == 1


def test_what_is_refused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsm_server.congestion.BULK", "newvegas")
    congestion = Congestion()
    congestion.listening(1)
    assert "newvegas refused: No such file or directory" in congestion.in_force
    congestion.bulk("ipv4:127.0.0.1:1")  # quietly nothing


def test_peers_are_understood() -> None:
    assert _parsed("ipv4:10.0.0.1:4711") == ("10.0.0.1", 4711)
    assert _parsed("ipv6:%5B::ffff:10.0.0.1%5D:4711") == ("10.0.0.1", 4711)
    assert _parsed("ipv6:%5B::1%5D:80") == ("::1", 80)
    assert _parsed("unix:/tmp/x") is None
    Congestion().bulk("ipv4:127.0.0.1:1")  # nobody is there


def test_a_node_without_privileges_takes_what_is_allowed(tmp_path: Path) -> None:
    """Nothing that is refused keeps it from serving."""
    code = (
        "from dsm_server.congestion import Congestion; import socket;"
        "server = socket.create_server(('127.0.0.1', 0)); it = Congestion();"
        "it.listening(server.getsockname()[1]); print(it.in_force)"
    )
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*unprivileged, sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
