"""The access methods over real TCP between network namespaces, with loss: counts on the wire.

What is counted does not depend on timing, so nothing here is repeated; the one figure that does has
a generous bound.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dsm_netem import LinkConfig
from dsm_netem.topology import Path as LinkPath
from dsm_netem.wan import Wan

from dsm.segment import create_region, create_ring
from tests.wan.reader import BLOCKS, READ_BYTES, content

ROOT = Path(__file__).resolve().parents[2]
RTT_S = 0.04
PORT = 7400


@pytest.fixture
def read(wan: Callable[..., Wan], root: Path) -> Any:
    """Reads with one method from a node on the far host; what it took."""
    link = LinkConfig(rate_bps=100e6, delay_s=RTT_S / 2, loss=1e-3)
    emulated = wan(LinkPath(link, link))
    near, far = emulated.hosts.values()

    def reading(method: str, region_bytes: int) -> dict[str, Any]:
        with create_ring(root, "ring", capacity_bytes=8 << 20, header_bytes=54) as ring:
            ring.append_many([content(seq) for seq in range(BLOCKS)])
        size = max(region_bytes, READ_BYTES)
        with create_region(root, "region", size_bytes=size) as region, region.write() as view:
            for offset in range(0, region_bytes, READ_BYTES):
                view[offset] = offset // READ_BYTES % 251
        serve = [sys.executable, "-m", "dsm_server.daemon", "--insecure", "--root", str(root)]
        listen = f"{far.ipv4}:{PORT}"
        with far.popen(
            [*serve, "--listen", listen], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as node:
            assert node.stdout is not None
            assert listen in node.stdout.readline()
            command = [sys.executable, "-m", "tests.wan.reader", listen, method, str(region_bytes)]
            try:
                said = near.run(
                    command, stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout_s=60
                ).stdout
            finally:
                node.terminate()
        result: dict[str, Any] = json.loads(said)
        return result

    return reading


def test_hybrid_moves_headers_and_what_is_touched(read: Any) -> None:
    took = read("hybrid", 0)["ring"]
    whole = BLOCKS * len(content(0))
    assert took["bytes_received"] < 0.08 * whole
    assert took["round_trips"] <= BLOCKS // 100 + 12


def test_copy_once_moves_everything_once(read: Any) -> None:
    took = read("copy_once", 0)["ring"]
    whole = BLOCKS * len(content(0))
    assert whole <= took["bytes_received"] < 1.05 * whole


def test_zero_copy_is_one_round_trip_each_and_exact(read: Any) -> None:
    reads = 8
    result = read("zero_copy", reads * READ_BYTES)
    assert result["region"]["round_trips"] == reads
    assert result["region"]["bytes_received"] < reads * READ_BYTES * 1.01
    assert result["seconds"] >= reads * RTT_S


def test_prefetch_fills_a_lossy_link(read: Any) -> None:
    size = 16 << 20
    result = read("prefetch", size)
    on_demand_s = size / READ_BYTES * RTT_S
    assert result["seconds"] < on_demand_s / 2
    assert result["region"]["reconnects"] == 0
