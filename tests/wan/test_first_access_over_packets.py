"""First access in a cold session over real TCP: round trips until 1 KiB is in the reader's hands.

    plaintext   TCP │ HTTP/2 settings │ the call
    TLS 1.3     TCP │ hellos and certificate │ finished, HTTP/2 settings │ the call

The node can send its settings as soon as a plaintext connection stands; with TLS not before it has
the client's "finished". What comes on top is processor time, small beside this round trip.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dsm_netem import LinkConfig
from dsm_netem.topology import Path as LinkPath
from dsm_netem.wan import Wan

from dsm.segment import create_region
from tests.certificates import Authority, tls

ROOT = Path(__file__).resolve().parents[2]
RTT_S = 0.2
PORT = 7400
ON_TOP_RTT = 0.6


@pytest.fixture
def round_trips(wan: Callable[..., Wan], root: Path, tmp_path: Path) -> Callable[[bool], float]:
    """Of a first access to a node on the far host, with TLS or without."""
    link = LinkConfig(rate_bps=100e6, delay_s=RTT_S / 2)
    near, far = wan(LinkPath(link, link)).hosts.values()
    authority = Authority(tmp_path)
    with create_region(root, "region", size_bytes=1 << 20) as region, region.write() as view:
        view[:1024] = bytes(range(256)) * 4

    def measured(secured: bool) -> float:
        how: Any = tls(authority.issue(far.ipv4)) if secured else ("--insecure",)
        listen = f"{far.ipv4}:{PORT}"
        serve = [sys.executable, "-m", "dsm_server.daemon", "--root", str(root), *how]
        read = [sys.executable, "-m", "tests.wan.first_reader", listen]
        options: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        with far.running([*serve, "--listen", listen], **options) as node:
            assert node.stdout is not None
            assert listen in node.stdout.readline()
            command = [*read, str(authority.ca) if secured else ""]
            return float(near.run(command, timeout_s=30, **options).stdout) / RTT_S

    return measured


@pytest.mark.parametrize(("secured", "expected"), [(False, 3), (True, 4)])
def test_a_first_access(round_trips: Callable[[bool], float], secured: bool, expected: int) -> None:
    took = round_trips(secured)
    print(f"{took:.2f} round trips")
    assert expected <= took < expected + ON_TOP_RTT
