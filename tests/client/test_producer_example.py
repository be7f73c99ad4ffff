"""The producer of compose.yaml: it needs no node, and goes on where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dsm.segment import open_region, open_ring

EXAMPLE = Path(__file__).parents[2] / "client/examples/producer.py"


def test_it_appends_readings_and_goes_on_where_it_was(tmp_path: Path) -> None:
    for head in (100, 200):
        subprocess.run([sys.executable, EXAMPLE, tmp_path, "100"], check=True, timeout=30)
        with open_ring(tmp_path, "weather/readings") as ring:
            assert (ring.tail, ring.head) == (0, head)
            assert len(ring.block(head - 1).header) == 12
            assert len(ring.block(head - 1).payload) == 1024
        with open_region(tmp_path, "weather/summary") as region:
            assert region.version == head // 100
